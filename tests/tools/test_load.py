"""The load generator against small servers of the standard library, well-behaved and otherwise.

The engine is driven in this process where a test needs to see inside, and in its own process, as compare
uses it, where that is the point. No test asserts how long anything took.
"""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from underlay.tools import _load_engine, _load_exchange
from underlay.tools._load import Histogram, Load, LoadError, Target
from underlay.tools._load_dialogue import TcpEcho, UdpEcho, make_payload
from underlay.tools._load_engine import Engine
from underlay.tools._load_http import HttpGet, response_length
from underlay.tools._load_process import spawn, uninterrupted

Handle = Callable[[socket.socket], None]


@contextmanager
def tcp_server(handle: Handle) -> Iterator[tuple[str, int]]:
    """Serve each connection by `handle` in a thread of its own."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # the peer may leave at any time
                handle(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            host, port = server.server_address[:2]
            yield str(host), port
        finally:
            server.shutdown()
            thread.join()


def echo(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


@contextmanager
def engine_on(address: tuple[str, int], size_bytes: int = 100) -> Iterator[Engine]:
    engine = Engine(TcpEcho(address, size_bytes))
    try:
        yield engine
    finally:
        engine.close()


def test_every_request_of_a_window_is_answered_and_timed() -> None:
    with tcp_server(echo) as (host, port), Load(Target("tcp-echo", host, port, 100)) as load:
        load.connect(60)  # more than one batch
        window = load.run(0.2)
        load.check()
    assert window.requests >= 60
    assert window.errors == {}
    assert window.alive == 60
    assert window.latency.total == window.requests
    assert window.latency.percentile_us(50) <= window.latency.percentile_us(99.9)
    assert 0 < window.busy <= 1.1  # of one core; the clocks differ by a little


def test_no_latency_is_shorter_than_the_servers_delay() -> None:
    def slow(sock: socket.socket) -> None:
        while data := sock.recv(65536):
            time.sleep(0.03)
            sock.sendall(data)

    with tcp_server(slow) as address, engine_on(address) as engine:
        engine.connect(2)
        window = engine.run(0.1)
    latency = Histogram(window.fine, window.coarse)
    assert latency.total == window.requests >= 2
    assert min(latency.buckets) >= 0.03e9


def test_requests_larger_than_any_buffer_come_back_whole() -> None:
    with tcp_server(echo) as (host, port), Load(Target("tcp-echo", host, port, 1 << 20)) as load:
        load.connect(3)
        window = load.run(0.1)
        load.check()
    assert window.requests >= 3
    assert window.errors == {}


@pytest.mark.parametrize("size", [1, 2, 8, 9, 10, 1000])
def test_a_payload_has_its_size_and_ends_a_line(size: int) -> None:
    assert len(make_payload(size, 3)) == size
    assert make_payload(size, 3).endswith(b"\n")
    assert make_payload(size).count(b"\n") == 1


def test_a_reply_that_is_no_echo_is_refused_at_its_first_wrong_byte() -> None:
    def shout(sock: socket.socket) -> None:
        while data := sock.recv(65536):
            sock.sendall(data[:5] + data[5:].upper())

    with (
        tcp_server(shout) as address,
        engine_on(address) as engine,
        pytest.raises(LoadError, match=r"no echo: byte 9 differs"),
    ):
        engine.connect(1)


def test_a_reply_that_goes_on_after_the_echo_is_told_with_both_sizes() -> None:
    def twice(sock: socket.socket) -> None:
        while data := sock.recv(65536):
            sock.sendall(data + data)

    with (
        tcp_server(twice) as address,
        engine_on(address) as engine,
        pytest.raises(LoadError, match=r"no echo: \d+ bytes came for \d+ that were sent"),
    ):
        engine.connect(1)


def test_a_reply_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_load_exchange, "MAX_REPLY_BYTES", 1 << 20)

    def pour(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sock.sendall(bytes(65536))

    with tcp_server(pour) as address:
        engine = Engine(HttpGet(address, "/", "localhost"))
        with pytest.raises(LoadError, match="the reply has no end: 1 MiB came for one request"):
            engine.connect(1)
        engine.close()


def test_replies_that_go_to_the_wrong_connection_are_noticed() -> None:
    waiting: list[socket.socket] = []
    lock = threading.Lock()

    def swap(sock: socket.socket) -> None:
        data = sock.recv(65536)
        with lock:
            waiting.append(sock)
            if len(waiting) == 2:
                waiting[0].sendall(data)  # the second one's bytes to the first
        sock.recv(1)

    with (
        tcp_server(swap) as address,
        engine_on(address) as engine,
        pytest.raises(LoadError, match=r"differs|no reply"),
    ):
        engine.connect(2, timeout_s=0.5)


def test_a_silent_server_is_given_up() -> None:
    def silence(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.recv(65536)

    with (
        tcp_server(silence) as address,
        engine_on(address) as engine,
        pytest.raises(LoadError, match="no reply in time"),
    ):
        engine.connect(1, timeout_s=0.1)


def test_a_server_that_leaves_in_the_middle_of_a_reply_is_told_with_both_sizes() -> None:
    def half(sock: socket.socket) -> None:
        data = sock.recv(65536)
        sock.sendall(data[:40])

    with (
        tcp_server(half) as address,
        engine_on(address) as engine,
        pytest.raises(LoadError, match="closed after 40 of 100 bytes"),
    ):
        engine.connect(1)


def test_connections_that_break_under_load_are_counted_by_reason() -> None:
    def few(sock: socket.socket) -> None:
        for _ in range(5):
            sock.sendall(sock.recv(65536))

    with tcp_server(few) as address, engine_on(address) as engine:
        engine.connect(4)
        window = engine.run(5.0)  # ends as soon as no connection is left
        assert len(engine) == 0
        assert sum(window.errors.values()) == 4
        assert window.requests == 4 * 4  # one of the five was the proof
        with pytest.raises(LoadError, match="no connection is left"):
            engine.run(0.1)


def test_more_bytes_than_were_asked_for_are_an_error() -> None:
    def chatter(sock: socket.socket) -> None:
        first = sock.recv(65536)
        sock.sendall(first)
        sock.recv(65536)
        sock.sendall(b"x" * 150)
        sock.recv(1)

    with tcp_server(chatter) as address, engine_on(address) as engine:
        engine.connect(1)
        window = engine.run(5.0)
        assert window.requests == 0
        assert sum(window.errors.values()) == 1


def test_a_stalled_connection_ends_the_window_as_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_load_engine, "STALL_S", 0.2)

    def once(sock: socket.socket) -> None:
        sock.sendall(sock.recv(65536))
        sock.recv(65536)
        sock.recv(1)

    with tcp_server(once) as address, engine_on(address) as engine:
        engine.connect(2)
        window = engine.run(0.1)
        assert list(window.errors.values()) == [2]
        assert "no reply within" in next(iter(window.errors))


def test_a_lost_datagram_is_counted_and_its_connection_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_load_engine, "LOST_S", 0.05)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.5)
        stop = threading.Event()

        def serve() -> None:
            count = 0
            while not stop.is_set():
                try:
                    data, peer = server.recvfrom(65536)
                except TimeoutError:
                    continue
                count += 1
                if count != 50:
                    server.sendto(data, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        engine = Engine(UdpEcho(server.getsockname(), 64))
        try:
            engine.connect(3)
            window = engine.run(0.5)
            engine.check()
            assert len(engine) == 3
        finally:
            engine.close()
            stop.set()
            thread.join()
    assert window.errors["datagram lost"] >= 1
    assert window.requests > 50


@pytest.mark.parametrize(("count", "size"), [(300, 1024), (8, 65507)])
def test_a_proof_of_many_datagrams_overflows_no_receive_buffer(count: int, size: int) -> None:
    """The server answers late, so that all that is sent at once has to wait in its buffer at once."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)

        def answer() -> None:
            answered = 0
            while answered < count:
                first = server.recvfrom(65536)
                time.sleep(0.01)  # the others of the burst have come by then
                server.settimeout(0)
                burst = [first]
                with suppress(BlockingIOError):
                    while True:
                        burst.append(server.recvfrom(65536))
                server.settimeout(30)
                for data, peer in burst:
                    server.sendto(data, peer)
                answered += len(burst)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        dialogue = UdpEcho(server.getsockname(), size)
        socks = [dialogue.open() for _ in range(count)]
        try:
            dialogue.check(socks, 5.0)
        finally:
            for sock in socks:
                sock.close()
        thread.join()


def test_a_closed_udp_port_is_told_as_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        address = unused.getsockname()
    with pytest.raises(LoadError, match="refused"):
        Engine(UdpEcho(address, 64)).connect(1)


@pytest.fixture(scope="module")
def tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context


@pytest.mark.parametrize("size", [100, 65536])
def test_tls_is_loaded_record_by_record(tls_context: ssl.SSLContext, size: int) -> None:
    def tls_echo(sock: socket.socket) -> None:
        with tls_context.wrap_socket(sock, server_side=True) as wrapped:
            echo(wrapped)

    with tcp_server(tls_echo) as (host, port), Load(Target("tls-echo", host, port, size)) as load:
        load.connect(3)
        window = load.run(0.2)
        load.check()
    assert window.requests >= 3
    assert window.errors == {}


def test_a_tls_server_under_a_plain_load_is_recognised(tls_context: ssl.SSLContext) -> None:
    def tls_echo(sock: socket.socket) -> None:
        with tls_context.wrap_socket(sock, server_side=True) as wrapped:
            echo(wrapped)

    with (
        tcp_server(tls_echo) as address,
        engine_on(address) as engine,
        pytest.raises(LoadError, match="TLS"),
    ):
        engine.connect(1)


def http(*replies: bytes) -> Handle:
    """Answer each request by the replies in turn."""

    def serve(sock: socket.socket) -> None:
        turn = 0
        while data := sock.recv(65536):
            assert data.endswith(b"\r\n\r\n")
            sock.sendall(replies[turn % len(replies)])
            turn += 1

    return serve


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\r\n"


@pytest.mark.parametrize("replies", [(OK,), (CHUNKED,), (OK, CHUNKED)], ids=["length", "chunks", "both"])
def test_http_replies_of_every_framing_are_counted(replies: tuple[bytes, ...]) -> None:
    with tcp_server(http(*replies)) as (host, port), Load(Target("http", host, port)) as load:
        load.connect(3)
        window = load.run(0.1)
    assert window.requests >= 3
    assert window.errors == {}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404 Not Found"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "keep-alive"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "keep-alive"),
        (b"220 smtp ready\r\n", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "no length of a body"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -9\r\n\r\n", "no length of a body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no length of a body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-6\r\n", "no length of a body"),
    ],
)
def test_an_http_answer_that_cannot_be_measured_is_refused(reply: bytes, said: str) -> None:
    with tcp_server(http(reply)) as address:
        engine = Engine(HttpGet(address, "/", "localhost"))
        with pytest.raises(LoadError, match=said):
            engine.connect(1)


@given(st.sampled_from([OK, CHUNKED]), st.data())
def test_a_response_is_complete_at_its_last_byte_and_not_before(reply: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(reply) - 1))
    assert response_length(reply[:cut]) is None
    assert response_length(reply) == len(reply)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_a_status_without_body_ends_with_its_head(status: bytes) -> None:
    reply = b"HTTP/1.1 " + status + b"\r\nServer: x\r\n\r\n"
    assert response_length(reply) == len(reply)


def test_a_response_that_only_the_close_ends_is_told_so() -> None:
    assert response_length(b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nbody") == -1


@given(st.lists(st.integers(300, 60_000_000), min_size=1, max_size=200), st.integers(1, 100))
def test_a_percentile_is_right_within_a_bucket(latencies_ns: list[int], percent: int) -> None:
    fine: dict[int, int] = {}
    for latency in latencies_ns:
        fine[latency >> 8] = fine.get(latency >> 8, 0) + 1
    ordered = sorted(latencies_ns)
    rank = -(-len(ordered) * percent // 100)
    exact_ns = ordered[rank - 1]
    assert abs(Histogram(fine, {}).percentile_us(percent) * 1000 - exact_ns) <= 256


def test_an_unknown_kind_of_load_is_an_error_of_the_caller() -> None:
    with pytest.raises(LoadError, match="no such load"):
        Load(Target("gopher", "127.0.0.1", 1)).__enter__()


def test_an_interruption_waits_until_a_child_is_known() -> None:
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)  # to this thread: of a process, any that does not block it would take it
        reached = True
    assert reached


def test_a_child_is_open_to_the_signals_that_were_held_back_from_us() -> None:
    code = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    with uninterrupted(), spawn([sys.executable, "-c", code], environment=os.environ) as child:
        said, _ = child.communicate()
    assert said.strip() == b"[]"


def test_the_generator_dies_with_a_killed_parent(tmp_path: Path) -> None:
    with tcp_server(echo) as (_, port):
        code = (
            "from underlay.tools._load import Load, Target\n"
            f"with Load(Target('tcp-echo', '127.0.0.1', {port})) as load:\n"
            "    load.connect(1)\n"
            "    print(load._process.pid, flush=True)\n"
            "    load.run(60)\n"
        )
        parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert parent.stdout is not None
        generator = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
        deadline = time.monotonic() + 10
        while is_alive(generator) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_alive(generator)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return False
    return state != "Z"
