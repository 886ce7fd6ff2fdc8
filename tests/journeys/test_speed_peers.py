"""A server whose clients do not all mean well: busy, killed, silent, lying. One sentence, and nothing is left.

Patience is made short here, so that a test which waits for the end of it is short too; no time is asserted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from underlay.tools.speed import PeerError, Result, Server, Settings, Watcher, _run, _server, _session, measure
from underlay.tools.speed._streams import Stream, TcpReceiver

from ._iperf3 import PATIENCE_S, Ours, Witness, descriptors, our_server, start_stock_client, stock_client, stock_server
from ._speed_peers import be_impatient, framed, steps

COOKIE = b"c" * 36 + b"\0"
SHORT = Settings(size_bytes=100_000)


def serves(ours: Ours) -> None:
    """See that the server still does what it is for: for ours and for a stock client."""
    assert measure("127.0.0.1", SHORT, port=ours.port).totals[0].received_bytes == 100_000
    assert ours.result().is_complete
    stock_client(ours.port, "-n", "100K")
    assert ours.result().is_complete


def read(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer where there comes an end."""
    data = b""
    while len(data) < size and (part := sock.recv(size - len(data))):
        data += part
    return data


class Raw:
    """A client of bytes."""

    def __init__(self, port: int, cookie: bytes = COOKIE) -> None:
        self.port = port
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self.streams: list[socket.socket] = []
        self.sock.sendall(cookie)

    def hear(self, size: int = 1) -> bytes:
        return read(self.sock, size)

    def hear_states(self, *states: int) -> None:
        assert self.hear(len(states)) == bytes(states)

    def ask(self, **parameters: object) -> None:
        self.hear_states(9)
        self.sock.sendall(framed({"tcp": True, "time": 10, "parallel": 1, "len": 1000, **parameters}))

    def begin(self, **parameters: object) -> None:
        """Come as far as TEST_RUNNING."""
        self.ask(**parameters)
        self.hear_states(10)
        for _ in range(2 if parameters.get("bidirectional") else 1):
            self.streams.append(self.stream(udp=bool(parameters.get("udp"))))
        self.hear_states(1, 2)

    def stream(self, *, udp: bool = False, cookie: bytes = COOKIE) -> socket.socket:
        if not udp:
            sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
            sock.sendall(cookie)
            return sock
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(PATIENCE_S)
        sock.connect(("127.0.0.1", self.port))
        sock.send(struct.pack("<I", 0x36373839))
        assert sock.recv(100) in (b"6789", b"9876")
        return sock

    def close(self) -> None:
        for sock in (*self.streams, self.sock):
            sock.close()


@contextlib.contextmanager
def raw(ours: Ours, cookie: bytes = COOKIE) -> Iterator[Raw]:
    client = Raw(ours.port, cookie)
    try:
        yield client
    finally:
        client.close()


# -- busy


def test_a_second_stock_client_is_refused_as_iperf3_refuses_it_and_the_first_is_not_disturbed() -> None:
    with our_server() as ours, raw(ours) as first:
        first.begin()
        told = stock_client(ours.port, "-t", "1", fails=True)
        first.streams[0].sendall(bytes(5000))
        first.sock.sendall(b"\x04")
        first.hear_states(13)
        assert len(ours.witness.sent_away) == 1
    with stock_server() as (port, _):
        busy = Raw(port)
        busy.begin()
        assert told["error"] == stock_client(port, "-t", "1", fails=True)["error"]
        busy.close()


def test_a_second_client_of_ours_is_refused_by_either_server() -> None:
    sentence = "the server at 127.0.0.1:{} is busy running a test; try again later"
    with our_server() as ours, raw(ours) as first:
        first.begin()
        with pytest.raises(PeerError) as caught:
            measure("127.0.0.1", SHORT, port=ours.port)
        assert str(caught.value) == sentence.format(ours.port)
    with stock_server() as (port, _):
        busy = Raw(port)
        busy.begin()
        with pytest.raises(PeerError) as caught:
            measure("127.0.0.1", SHORT, port=port)
        busy.close()
        assert str(caught.value) == sentence.format(port)


def test_who_comes_with_another_cookie_while_streams_are_made_is_refused_and_does_not_count() -> None:
    with our_server() as ours, raw(ours) as first:
        first.ask(parallel=2)
        first.hear_states(10)
        stranger = first.stream(cookie=b"s" * 37)
        assert stranger.recv(1) == b"\xff"
        stranger.close()
        first.streams = [first.stream(), first.stream()]
        first.hear_states(1, 2)


def test_clients_one_after_the_other_are_never_told_that_the_last_is_still_there() -> None:
    with our_server() as ours:
        for _ in range(20):
            measure("127.0.0.1", Settings(size_bytes=1000), port=ours.port)
        assert ours.witness.sent_away == []


def test_silent_connections_keep_nobody_out_however_many_they_are() -> None:
    with our_server() as ours:
        silent = [socket.create_connection(("127.0.0.1", ours.port)) for _ in range(300)]
        serves(ours)
        for sock in silent:
            sock.close()


# -- tests that bytes end


@pytest.mark.parametrize("blocks", [{"num": 2500}, {"num": 100}, {"blockcount": 3}], ids=str)
def test_the_last_block_that_a_client_asks_for_is_a_whole_one(blocks: dict[str, int]) -> None:
    # As iperf3 sends it; its client since 3.16 reads whole blocks, counts no part of one, and would wait for the rest.
    whole = -(-blocks.get("num", 3000) // 1000) * 1000
    with our_server() as ours, raw(ours) as client:
        client.begin(reverse=True, time=0, len=1000, **blocks)
        stream = client.streams[0]
        assert len(read(stream, whole)) == whole
        client.sock.sendall(b"\x04")
        assert stream.recv(1) == b""
        client.hear_states(13)


def test_a_client_that_has_sent_its_bytes_may_think_about_it_for_longer_than_ours_would_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A stock client since 3.16 says that it is done when its next interval ends, of up to a minute.
    monkeypatch.setattr(_run, "_STALL_S", 0.0)
    with our_server() as ours, raw(ours) as client:
        client.begin(time=0, num=2000)
        client.streams[0].sendall(bytes(2000))
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.hear()
        client.sock.settimeout(PATIENCE_S)
        client.sock.sendall(b"\x04")
        client.hear_states(13)


# -- killed


KILLED: dict[str, Callable[[Raw], None]] = {
    "after its cookie": lambda client: None,
    "after what it asks for": lambda client: client.ask(),
    "with some streams": steps(
        lambda client: client.ask(parallel=3), lambda client: client.streams.append(client.stream())
    ),
    "while it sends": lambda client: client.begin(),
    "while it receives": lambda client: client.begin(reverse=True),
    "while it does both": lambda client: client.begin(bidirectional=True),
    "while it sends datagrams": lambda client: client.begin(udp=True, tcp=False),
}


@pytest.mark.parametrize("when", list(KILLED))
def test_a_client_that_goes_away_leaves_the_server_usable(when: str) -> None:
    with our_server() as ours:
        client = Raw(ours.port)
        KILLED[when](client)
        client.close()
        measure("127.0.0.1", SHORT, port=ours.port)  # at once: nobody is told of one who has gone
        assert ours.witness.sent_away == []
        assert ours.failure()
        assert ours.result().is_complete
        serves(ours)


def test_a_client_whose_bytes_are_read_one_by_one_keeps_nobody_out_when_it_goes() -> None:
    with our_server() as ours:
        client = Raw(ours.port)
        client.ask(parallel=32, len=1)
        client.hear_states(10)
        client.streams += [client.stream() for _ in range(32)]
        client.hear_states(1, 2)
        for stream in client.streams:
            stream.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    stream.send(bytes(1 << 20))
        client.close()
        measure("127.0.0.1", SHORT, port=ours.port)
        assert ours.witness.sent_away == []


def test_a_client_hears_that_the_server_has_no_memory_for_its_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    def stepper(_: Stream) -> None:
        raise MemoryError

    monkeypatch.setattr(TcpReceiver, "stepper", stepper)
    with our_server() as ours:
        told = stock_client(ours.port, "-t", "5", fails=True)
        assert "unable to create a new stream: Cannot allocate memory" in told["error"]
        assert "broke: cannot allocate memory; `ulimit -v` may be too low" in ours.failure()


def test_a_test_that_finds_no_memory_costs_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_stream(*_: object, **__: object) -> None:
        raise MemoryError

    with our_server() as ours:
        with monkeypatch.context() as patched:
            patched.setattr(_session, "make_stream", make_stream)
            told = stock_client(ours.port, "-n", "1K", fails=True)
            assert "unable to create a new stream" in told["error"]
            assert "no memory for the test of the client at 127.0.0.1:" in ours.failure()
        serves(ours)


def test_who_waited_in_vain_for_the_end_of_a_test_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_server, "_COOKIE_PATIENCE_S", 0.3)
    goes_on = threading.Event()

    class Slow(Witness):
        def finished(self, result: Result) -> None:
            goes_on.wait(PATIENCE_S)
            super().finished(result)

    witness = Slow()
    with Server("127.0.0.1", 0, watcher=witness) as server, server.in_thread():
        try:
            measure("127.0.0.1", SHORT, port=server.port)
            second = Raw(server.port)
            assert second.hear() == b"\xff"
            second.close()
        finally:
            goes_on.set()
        assert witness.results.get(timeout=PATIENCE_S).is_complete
        measure("127.0.0.1", SHORT, port=server.port)


@pytest.mark.parametrize(
    "words", [(), ("-R",), ("--bidir",), ("-P", "3"), ("-u", "-b", "1M"), ("-u", "-R", "-b", "1M")]
)
def test_a_stock_client_that_is_killed_leaves_the_server_usable(words: tuple[str, ...]) -> None:
    with our_server() as ours:
        client = start_stock_client(ours.port, "-t", "30", *words)
        ours.witness.began.get(timeout=PATIENCE_S)
        client.kill()
        client.communicate()
        assert "the client at 127.0.0.1:" in ours.failure()
        serves(ours)


@pytest.mark.parametrize("words", [(), ("-R",), ("-u",)])
def test_a_client_of_ours_that_is_killed_leaves_a_stock_server_and_ours_usable(words: tuple[str, ...]) -> None:
    with our_server() as ours:
        command = [sys.executable, "-m", "underlay", "speed", f"127.0.0.1:{ours.port}", "-t", "30", *words]
        client = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        ours.witness.began.get(timeout=PATIENCE_S)
        client.kill()
        client.wait(PATIENCE_S)
        assert ours.failure()
        serves(ours)


def test_a_stock_client_that_is_interrupted_says_so_and_what_it_sent_is_shown() -> None:
    with our_server() as ours:
        client = start_stock_client(ours.port, "-t", "30", "-b", "10M")
        ours.witness.began.get(timeout=PATIENCE_S)
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=PATIENCE_S)
        error, result = ours.witness.failures.get(timeout=PATIENCE_S)
        assert str(error).endswith("broke its test off")
        assert result is not None
        assert not result.is_complete
        serves(ours)


def test_a_stock_server_that_is_killed_is_one_sentence() -> None:
    with stock_server() as (port, child):

        class Killer(Watcher):
            def started(self, peer: str, settings: Settings) -> None:
                child.kill()

        before = descriptors()
        with pytest.raises(PeerError) as caught:
            measure("127.0.0.1", Settings(time_s=30), port=port, watcher=Killer())
        assert f"the server at 127.0.0.1:{port}" in str(caught.value)
        assert {each for each in descriptors() if "socket" in each} == {each for each in before if "socket" in each}


def test_a_server_of_ours_that_stops_tells_its_client() -> None:
    with our_server() as ours:
        client = start_stock_client(ours.port, "-t", "30", "-b", "1M")
        ours.witness.began.get(timeout=PATIENCE_S)
        ours.server.stop()
        output, _ = client.communicate(timeout=PATIENCE_S)
        assert "iperf3: error - the server has terminated" in output


# -- lying


def flood(client: Raw) -> None:
    """Go on to send after the end, and never stop by itself."""
    client.begin()
    client.sock.sendall(b"\x04")
    with contextlib.suppress(OSError):
        while True:
            client.streams[0].sendall(bytes(1 << 20))
    client.hear_states(13)
    client.sock.sendall(framed({}))


def a_byte_now_and_then(client: Raw) -> None:
    client.begin(time=0, num=10**9)
    with contextlib.suppress(OSError):
        while not select.select([client.sock], [], [], 0.1)[0]:
            client.streams[0].sendall(b"x")


def never_read(client: Raw) -> None:
    client.begin(reverse=True, len=1 << 20)
    client.sock.sendall(b"\x04")
    client.hear_states(13)
    client.sock.sendall(framed({}))


def strange_datagrams(client: Raw) -> None:
    client.begin(udp=True, tcp=False)
    for datagram in (b"", b"x", bytes(11), b"\xff" * 12, b"\xff" * 2000):
        client.streams[0].send(datagram)
    client.sock.sendall(b"\x04")
    client.hear_states(13)
    client.sock.sendall(framed({}))


def say(*parts: bytes) -> Callable[[Raw], None]:
    def lie(client: Raw) -> None:
        client.begin()
        for part in parts:
            client.sock.sendall(part)

    return lie


LIES: dict[str, tuple[Callable[[Raw], None], str]] = {
    "says nothing": (lambda client: client.hear_states(9), "stopped in the middle of what it was saying"),
    "2 GiB of JSON": (lambda client: client.sock.sendall(struct.pack("!I", 1 << 31)), "announces 2147483648 bytes"),
    "no JSON": (lambda client: client.sock.sendall(framed(b"GET / HTTP/1.1")), "sent 14 bytes that are no JSON"),
    "no object": (lambda client: client.sock.sendall(framed([1])), "sent JSON that is no object"),
    "makes no stream": (lambda client: client.ask(parallel=128), "made 0 of its streams"),
    "makes no UDP stream": (lambda client: client.ask(udp=True, parallel=128), "made 0 of its streams"),
    "says no state": (say(b"\x63"), "sent 99, which is no state of iperf3"),
    "says another state": (say(b"\x0e"), "said DISPLAY_RESULTS in the middle of its test"),
    "says that it is busy": (say(b"\xff"), "said ACCESS_DENIED in the middle of its test"),
    "tells no results": (say(b"\x04"), "stopped in the middle"),
    "tells other results": (say(b"\x04", framed({"streams": []})), "sent results that are not those of this test"),
    "ends a stream": (
        steps(lambda client: client.begin(), lambda client: client.streams[0].close()),
        "stream 1 between",
    ),
    "never ends": (lambda client: client.begin(time=1), "did not end its test in time"),
    "sends nothing": (lambda client: client.begin(time=86_400), "no byte moved between"),
    "sends not what it said": (lambda client: client.begin(time=0, num=10**9), "no byte moved between"),
    "sends nothing, slowly": (lambda client: client.begin(time=0, num=10**9, bandwidth=1), "no byte moved between"),
    "sends a byte now and then": (a_byte_now_and_then, "did not end its test in time"),
    "floods": (flood, "sent results that are not those of this test"),
    "never reads": (never_read, "sent results that are not those of this test"),
    "sends strange datagrams": (strange_datagrams, "sent results that are not those of this test"),
}


@pytest.mark.parametrize("lie", list(LIES))
def test_a_client_that_lies_costs_its_own_test_and_no_other(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    do, sentence = LIES[lie]
    with our_server() as ours:
        with monkeypatch.context() as patched:
            be_impatient(patched)
            with raw(ours) as client:
                do(client)
                told = ours.failure()
        assert sentence in told
        assert "\n" not in told
        # Not impatiently: a stock client since 3.16 looks once in an interval whether its bytes are sent, and is silent
        # until then.
        serves(ours)


@pytest.mark.parametrize(
    ("parameters", "number"),
    [({"sctp": True}, 13), ({"parallel": 1000}, 6), ({"len": 1 << 30}, 7), ({"num": "x"}, 114)],
)
def test_a_client_that_asks_for_too_much_hears_iperf3s_number_for_it(
    parameters: dict[str, object], number: int
) -> None:
    with our_server() as ours:
        with raw(ours) as client:
            client.ask(**parameters)
            assert client.hear(9) == b"\xfe" + struct.pack("!ii", number, 0)
            assert "asked for what this server does not do" in ours.failure()
        serves(ours)


def test_a_stock_client_shows_our_refusal_in_its_own_words() -> None:
    with our_server() as ours:
        told = stock_client(ours.port, "--sctp", "-t", "1", fails=True)
        assert told["error"] == "an option you are trying to set is not implemented yet"
        ours.failure()


def test_a_datagram_from_elsewhere_takes_no_clients_stream() -> None:
    with our_server() as ours, raw(ours) as client:
        client.ask(udp=True, tcp=False)
        client.hear_states(10)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.2", 0))
            stranger.sendto(struct.pack("<I", 0x36373839), ("127.0.0.1", ours.port))
            stranger.sendto(b"something else", ("127.0.0.1", ours.port))
            client.streams.append(client.stream(udp=True))
            client.hear_states(1, 2)
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):
                stranger.recv(100)


def test_a_welcome_that_was_lost_comes_again_when_its_client_asks_again() -> None:
    hello = struct.pack("<I", 0x36373839)
    with our_server() as ours, raw(ours) as client:
        client.ask(udp=True, tcp=False, parallel=2)
        client.hear_states(10)
        first = client.stream(udp=True)
        client.streams.append(first)
        for said in (b"?", hello):  # rubbish is passed over
            first.send(said)
        assert first.recv(100) in (b"6789", b"9876")
        client.streams.append(client.stream(udp=True))
        client.hear_states(1, 2)
        client.sock.sendall(b"\x0c")
        assert "broke its test off" in ours.failure()


def test_a_server_without_a_descriptor_for_the_test_says_so_and_serves_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: int) -> int:
        raise OSError(errno.EMFILE, "")

    with our_server() as ours:
        with monkeypatch.context() as patched:
            patched.setattr(os, "eventfd", refuse)
            with raw(ours) as client:
                told = client.hear(9)
        assert struct.unpack("!bii", told) == (-2, 200, errno.EMFILE)
        assert "no streams for 127.0.0.1:" in ours.failure()
        serves(ours)


@pytest.mark.parametrize("name", ["speed test", "speed stream 1"])
def test_a_server_that_may_start_no_thread_says_so_and_serves_the_next(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    with our_server() as ours:
        with monkeypatch.context() as patched:
            # Before the client connects: the server starts its test at once.
            patched.setattr(threading.Thread, "start", refuse)
            with raw(ours) as client:
                if name == "speed stream 1":
                    client.begin()
                told = client.hear(9)
        assert struct.unpack("!bii", told) == (-2, 200, errno.EAGAIN)
        assert ours.failure() == "no further thread could be started; raise the limit: `ulimit -u`, or `ulimit -v`"
        serves(ours)
