"""`underlay connect` and `underlay listen` carry any bytes, both ways, and end when and how they should.

Each test starts the real commands and talks to them by plain sockets, by each
other, or by nc and openssl where these are installed. What goes wrong, and with
which sentence and status, stands in test_connect_listen_errors.py.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from underlay.loop import MODELS, models
from underlay.tools import _netcat

LIMIT_S = 60  # a child that runs longer hangs
MEBIBYTE = 2**20

Process = subprocess.Popen[bytes]
Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `underlay` with pipes; what is left of it at the end is killed."""
    started: list[Process] = []

    def begin(*words: object, **pipes: object) -> Process:
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
        process: Process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "underlay", *map(str, words)],
            cwd=tmp_path,
            **streams,  # type: ignore[call-overload]
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def port_of(listener: Process) -> int:
    """The port that a listener on port 0 was given, as it says on stderr."""
    assert listener.stderr is not None
    line = listener.stderr.readline().decode()
    assert "listening on" in line, line + listener.stderr.read().decode()
    return int(line.rpartition(":")[2])


def finish(process: Process, data: bytes = b"") -> tuple[bytes, str, int]:
    """Give it the rest of its input and return its output, its words and its status."""
    out, err = process.communicate(data, timeout=LIMIT_S)
    return out, err.decode(), process.returncode


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(LIMIT_S)
        yield listening


def port(sock: socket.socket) -> int:
    number: int = sock.getsockname()[1]
    return number


def accepted(server: socket.socket) -> socket.socket:
    connection, _ = server.accept()
    connection.settimeout(LIMIT_S)
    return connection


def dialled(number: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", number), timeout=LIMIT_S)


def all_of(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65_536), b""))


# --- both ways, and the end ------------------------------------------------------------------------------


def test_the_end_of_stdin_half_closes_and_the_answer_still_comes(start: Start, server: socket.socket) -> None:
    client = start("connect", f"127.0.0.1:{port(server)}")
    assert client.stdin is not None
    client.stdin.write(b"question\0\xff")
    client.stdin.close()
    with accepted(server) as connection:
        assert all_of(connection) == b"question\0\xff"  # so the end came through
        connection.sendall(b"answer")
    client.stdin = None
    assert finish(client) == (b"answer", "", 0)


def test_the_end_of_the_peer_does_not_cut_off_what_we_still_send(start: Start, server: socket.socket) -> None:
    data = random.Random(1).randbytes(8 * MEBIBYTE)
    client = start("connect", "--wait", LIMIT_S, f"127.0.0.1:{port(server)}")
    with accepted(server) as connection:
        connection.sendall(b"that is all")
        connection.shutdown(socket.SHUT_WR)
        assert client.stdout is not None and client.stdin is not None
        assert client.stdout.read(11) == b"that is all"
        feeder = threading.Thread(target=client.communicate, args=(data,))
        feeder.start()
        assert all_of(connection) == data
        feeder.join()
    assert client.returncode == 0


def test_a_peer_that_closes_ends_us_although_stdin_stays_open(start: Start, server: socket.socket) -> None:
    client = start("connect", f"127.0.0.1:{port(server)}")
    accepted(server).close()
    assert client.wait(LIMIT_S) == 0


def test_a_listener_joins_its_first_client_and_refuses_the_next(start: Start) -> None:
    listener = start("listen", "--wait", LIMIT_S, 0)
    number = port_of(listener)
    with dialled(number) as connection:
        connection.sendall(b"hello")
        assert listener.stdout is not None
        assert listener.stdout.read(5) == b"hello"
        with pytest.raises(ConnectionRefusedError):
            dialled(number)
        connection.shutdown(socket.SHUT_WR)
        out, err, status = finish(listener, b"bye")
        assert (out, err, status) == (b"", "", 0)
        assert all_of(connection) == b"bye"


@pytest.mark.parametrize("model", ["asyncio", "auto", *MODELS])
def test_connect_and_listen_run_on_each_model(start: Start, model: str) -> None:
    for row in models():
        if row.name == model and not row.available:
            pytest.skip(f"{row.reason}; {row.remedy}")
    listener = start("listen", "--io", model, "--echo", 0)
    data = random.Random(2).randbytes(3 * MEBIBYTE)
    client = start("connect", "--io", model, f"127.0.0.1:{port_of(listener)}")
    assert finish(client, data) == (data, "", 0)
    assert finish(listener) == (b"", "", 0)


def test_100_megabytes_arrive_whole_with_little_memory_although_the_reader_is_slow(
    start: Start, tmp_path: Path
) -> None:
    size = 100_000_000
    sent = hashlib.sha256()
    listener = start("listen", 0)
    # The listener says nothing from the start; what is fed slowly is not the end.
    client = start("connect", "--wait", LIMIT_S, f"127.0.0.1:{port_of(listener)}")
    assert client.stdin is not None and listener.stdin is not None and listener.stdout is not None
    listener.stdin.close()
    listener.stdin = None
    # Nobody reads yet: so much fits into the buffers on the way, and no more.
    os.set_blocking(client.stdin.fileno(), False)
    block = random.Random(3).randbytes(MEBIBYTE)
    fed, stalls = 0, 0
    while stalls < 3:
        try:
            fed += os.write(client.stdin.fileno(), block[fed % MEBIBYTE :])
            stalls = 0
        except BlockingIOError:
            stalls += 1
            threading.Event().wait(0.3)  # the pipe's reader had every chance to empty it
    assert fed < 50_000_000
    whole = (block * (size // MEBIBYTE + 1))[:size]
    sent.update(whole)
    os.set_blocking(client.stdin.fileno(), True)
    feeder = threading.Thread(target=client.stdin.write, args=(whole[fed:],))
    feeder.start()
    received = hashlib.sha256()
    count = 0
    peak_kib = {}
    while count < size:
        chunk = listener.stdout.read(min(MEBIBYTE, size - count))
        assert chunk
        received.update(chunk)
        count += len(chunk)
        peak_kib = {p.pid: _peak_kib(p.pid) for p in (client, listener)}
    feeder.join()
    assert received.hexdigest() == sent.hexdigest()
    # An interpreter with asyncio and ssl has about 30 MiB; the transfer has 95.
    assert max(peak_kib.values()) < 70 * 1024, peak_kib
    assert finish(client) == (b"", "", 0)
    assert finish(listener) == (b"", "", 0)


def _peak_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def test_a_file_as_stdin_and_as_stdout_serves_as_well(start: Start, tmp_path: Path) -> None:
    data = random.Random(4).randbytes(MEBIBYTE)
    (tmp_path / "in").write_bytes(data)
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as target:
        listener = start("listen", 0, stdin=subprocess.DEVNULL, stdout=target)
        client = start("connect", f"localhost:{port_of(listener)}", stdin=source, stdout=subprocess.DEVNULL)
        assert client.wait(LIMIT_S) == 0
        assert listener.wait(LIMIT_S) == 0
    assert (tmp_path / "out").read_bytes() == data


def test_at_a_terminal_the_end_of_the_peer_is_the_end(start: Start, server: socket.socket) -> None:
    ours, theirs = os.openpty()
    try:
        client = start("connect", f"127.0.0.1:{port(server)}", stdin=theirs)
        accepted(server).close()
        out, err = client.communicate(timeout=LIMIT_S)  # although nobody presses a key
        assert (out, err, client.returncode) == (b"", b"", 0)
    finally:
        os.close(ours)
        os.close(theirs)


def test_when_the_reader_of_stdout_leaves_the_status_is_that_of_sigpipe(start: Start, server: socket.socket) -> None:
    client = start("connect", f"127.0.0.1:{port(server)}")
    with accepted(server) as connection:
        assert client.stdout is not None
        client.stdout.close()
        client.stdout = None
        connection.sendall(b"x")
        assert finish(client)[1:] == ("", 141)


@pytest.mark.parametrize("words", [["connect"], ["listen"], ["listen", "--keep-open"], ["listen", "--udp"]])
def test_ctrl_c_ends_with_130_and_not_a_word(start: Start, server: socket.socket, words: list[str]) -> None:
    if words == ["connect"]:
        process = start(*words, "-v", f"127.0.0.1:{port(server)}")
        assert process.stderr is not None
        assert b"connected to" in process.stderr.readline()
    else:
        process = start(*words, 0)
        port_of(process)
    process.send_signal(signal.SIGINT)
    out, err, status = finish(process)
    assert (out, status) == (b"", 130)
    assert "Traceback" not in err and err.count("\n") <= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("model", ["blocking", "epoll"])
def test_a_signal_that_ends_a_listener_leaves_no_socket_file(
    start: Start, tmp_path: Path, number: signal.Signals, model: str
) -> None:
    path = tmp_path / "socket"
    listener = start("listen", "-v", "--io", model, f"unix:{path}")
    assert listener.stderr is not None
    assert b"listening on" in listener.stderr.readline()
    assert path.exists()
    listener.send_signal(number)
    assert finish(listener) == (b"", "", -number)
    assert not path.exists()


# --- many clients ---------------------------------------------------------------------------------------


def test_keep_open_sends_stdin_to_all_and_what_they_say_to_stdout(start: Start) -> None:
    listener = start("listen", "--keep-open", "-v", 0)
    number = port_of(listener)
    with dialled(number) as first, dialled(number) as second:
        assert listener.stdin is not None and listener.stdout is not None and listener.stderr is not None
        for _ in range(2):
            assert listener.stderr.readline().endswith(b"connected\n")
        listener.stdin.write(b"to all")
        listener.stdin.flush()
        assert first.recv(6) == second.recv(6) == b"to all"
        first.sendall(b"one")
        assert listener.stdout.read(3) == b"one"
        second.sendall(b"two")
        assert listener.stdout.read(3) == b"two"
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()  # by RST
        assert b"broke" in listener.stderr.readline() + listener.stderr.readline()
        with dialled(number) as third:  # the listener does not mind
            assert listener.stderr.readline().endswith(b"connected\n")
            listener.stdin.write(b"still here")
            listener.stdin.flush()
            assert third.recv(10) == second.recv(10) == b"still here"


def test_keep_open_with_echo_serves_clients_until_interrupted(start: Start) -> None:
    listener = start("listen", "--keep-open", "--echo", 0)
    number = port_of(listener)
    for word in (b"one", b"two"):
        with dialled(number) as connection:
            connection.sendall(word)
            connection.shutdown(socket.SHUT_WR)
            assert all_of(connection) == word
    listener.send_signal(signal.SIGINT)
    assert finish(listener) == (b"", "", 130)


def test_max_connections_lets_the_next_wait_until_one_leaves(start: Start) -> None:
    listener = start("listen", "--keep-open", "--echo", "--max-connections", 1, 0)
    number = port_of(listener)
    with dialled(number) as first, dialled(number) as second:
        first.sendall(b"a")
        assert first.recv(1) == b"a"
        second.sendall(b"b")
        second.settimeout(0.3)
        with pytest.raises(TimeoutError):  # a time-out raises; the connection stays
            second.recv(1)
        first.close()
        second.settimeout(LIMIT_S)
        assert second.recv(1) == b"b"


# --- UDP and Unix ---------------------------------------------------------------------------------------


def test_udp_carries_each_read_as_one_datagram_and_the_answer_back(start: Start) -> None:
    listener = start("listen", "--udp", 0)
    number = port_of(listener)
    client = start("connect", "--udp", f"127.0.0.1:{number}")
    assert client.stdin is not None and listener.stdout is not None and listener.stdin is not None
    client.stdin.write(b"a datagram\0")
    client.stdin.flush()
    assert listener.stdout.read(11) == b"a datagram\0"
    listener.stdin.write(b"an answer")
    listener.stdin.flush()
    assert client.stdout is not None
    assert client.stdout.read(9) == b"an answer"
    assert finish(client) == (b"", "", 0)  # a second of silence after the end of stdin


def test_a_datagram_fits_into_one_ethernet_frame(start: Start) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(LIMIT_S)
        client = start("connect", "--udp", "--wait", "0.1", f"127.0.0.1:{port(peer)}")
        out, err, status = finish(client, bytes(4_000))
        assert (out, err, status) == (b"", "", 0)
        assert [len(peer.recv(65_536)) for _ in range(3)] == [1_452, 1_452, 1_096]


def test_a_udp_listener_hears_its_first_peer_alone_and_with_keep_open_all(start: Start) -> None:
    for words, heard in (([], b"one"), (["--keep-open"], b"onetwo")):
        listener = start("listen", "--udp", "-4", "--wait", "0.5", *words, 0)
        number = port_of(listener)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
        ):
            first.settimeout(LIMIT_S)
            first.sendto(b"one", ("127.0.0.1", number))
            assert listener.stdout is not None and listener.stdin is not None
            got = listener.stdout.read(3)
            second.sendto(b"two", ("127.0.0.1", number))
            listener.stdin.write(b"to you")
            listener.stdin.flush()
            assert first.recv(100) == b"to you"
            out, err, status = finish(listener)
            assert (got + out, err, status) == (heard, "", 0)


def test_udp_echo_answers_everybody_with_keep_open(start: Start) -> None:
    listener = start("listen", "--udp", "--echo", "--keep-open", 0)
    number = port_of(listener)
    for _ in range(2):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.settimeout(LIMIT_S)
            peer.sendto(b"x", ("127.0.0.1", number))
            assert peer.recv(10) == b"x"


@pytest.mark.parametrize("address", ["unix:a.sock", "unix:@underlay-test-{pid}"])
def test_a_unix_socket_carries_bytes_and_leaves_no_file(start: Start, tmp_path: Path, address: str) -> None:
    address = address.format(pid=os.getpid())
    listener = start("listen", "-v", "--echo", address)
    assert listener.stderr is not None
    assert b"listening on unix:" in listener.stderr.readline()
    client = start("connect", address)
    assert finish(client, b"data") == (b"data", "", 0)
    assert finish(listener)[2] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_unix_path_left_by_a_killed_listener_is_taken_over(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "a.sock"))
    listener = start("listen", "-v", "--echo", "--unix", "a.sock")
    assert listener.stderr is not None
    assert b"listening on unix:" in listener.stderr.readline()
    assert finish(start("connect", "--unix", "a.sock"), b"data") == (b"data", "", 0)


# --- TLS ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an authority, a certificate for localhost and 127.0.0.1, and one for a client."""
    where = tmp_path_factory.mktemp("papers")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(where / "ca.pem"))
    for name, identities in (("server", ("localhost", "127.0.0.1")), ("client", ("a.client@example.org",))):
        issued = authority.issue_cert(*identities)
        issued.private_key_and_cert_chain_pem.write_to_path(str(where / f"{name}.pem"))
    return where


def test_tls_encrypts_verifies_and_agrees_on_a_protocol(start: Start, papers: Path) -> None:
    listener = start("listen", "--tls", "--cert", papers / "server.pem", "--alpn", "h2,echo", "--echo", 0)
    number = port_of(listener)
    data = random.Random(5).randbytes(2 * MEBIBYTE)
    words = ["--tls", "--ca", papers / "ca.pem", "--alpn", "echo", "-v"]
    out, err, status = finish(start("connect", *words, f"localhost:{number}"), data)
    assert (out == data, status) == (True, 0)
    assert "by TLSv1.3, TLS_" in err and err.splitlines()[0].endswith(", echo")


def test_tls_demands_a_certificate_of_clients_when_given_an_authority(start: Start, papers: Path) -> None:
    words = ["--tls", "--cert", papers / "server.pem", "--ca", papers / "ca.pem", "--echo", "--keep-open", "-v"]
    listener = start("listen", *words, 0)
    number = port_of(listener)
    trust = ["connect", "--tls", "--ca", papers / "ca.pem", f"127.0.0.1:{number}"]
    with_one = start(*trust, "--cert", papers / "client.pem")
    assert finish(with_one, b"it is me") == (b"it is me", "", 0)
    assert finish(start(*trust), b"guess who")[0] == b""
    listener.send_signal(signal.SIGINT)
    assert "failed (PEER_DID_NOT_RETURN_A_CERTIFICATE); with --ca each client has to show" in finish(listener)[1]


def test_a_listener_whose_certificate_is_distrusted_asks_about_trust(start: Start, papers: Path) -> None:
    listener = start("listen", "--tls", "--cert", papers / "server.pem", "--echo", "--keep-open", "-v", 0)
    number = port_of(listener)
    assert finish(start("connect", "--tls", f"localhost:{number}"))[2] == 1
    listener.send_signal(signal.SIGINT)
    assert "does it speak TLS, and trust our certificate?" in finish(listener)[1]


def test_the_server_name_is_asked_for_and_verified(start: Start, papers: Path) -> None:
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(papers / "server.pem")
    context.sni_callback = lambda _, name, __: asked.append(name)
    with socket.create_server(("127.0.0.2", 0)) as server:
        words = ["--tls", "--ca", papers / "ca.pem", "--server-name", "localhost"]
        client = start("connect", *words, f"127.0.0.2:{port(server)}")
        with context.wrap_socket(server.accept()[0], server_side=True) as connection:
            connection.sendall(b"named")
        out, err, status = finish(client)
    assert (out, err, status, asked) == (b"named", "", 0, ["localhost"])


# --- other programs ---------------------------------------------------------------------------------------


@pytest.fixture
def nc() -> str:
    path = shutil.which("nc") or shutil.which("ncat")
    if path is None:
        pytest.skip("nc is not installed; remedy: apt-get install netcat-openbsd")
    return path


@pytest.fixture
def openssl() -> str:
    path = shutil.which("openssl")
    if path is None:
        pytest.skip("openssl is not installed; remedy: apt-get install openssl")
    return path


def test_nc_talks_to_our_listener(start: Start, nc: str) -> None:
    listener = start("listen", 0, stdin=subprocess.DEVNULL)
    command = [nc, "127.0.0.1", str(port_of(listener))]
    done = subprocess.run(command, input=b"from nc", capture_output=True, timeout=LIMIT_S, check=False)
    assert done.stdout == b""
    assert finish(listener) == (b"from nc", "", 0)


def test_openssl_s_client_talks_to_our_listener(start: Start, openssl: str, papers: Path) -> None:
    listener = start("listen", "--tls", "--cert", papers / "server.pem", 0, stdin=subprocess.DEVNULL)
    command = [openssl, "s_client", "-quiet", "-connect", f"localhost:{port_of(listener)}"]
    command += ["-CAfile", str(papers / "ca.pem"), "-verify_return_error", "-verify_hostname", "localhost"]
    subprocess.run(command, input=b"from openssl", capture_output=True, timeout=LIMIT_S, check=False)
    assert finish(listener) == (b"from openssl", "", 0)


def test_we_talk_to_openssl_s_server(start: Start, openssl: str, papers: Path) -> None:
    server = subprocess.Popen(
        [openssl, "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-cert", str(papers / "server.pem"), "-rev"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        number = next(line for line in server.stdout if line.startswith("ACCEPT")).strip().rpartition(":")[2]
        client = start("connect", "--tls", "--ca", papers / "ca.pem", f"127.0.0.1:{number}")
        assert finish(client, b"abc\n") == (b"cba\n", "", 0)
    finally:
        server.kill()
        server.communicate()


# --- socket options ---------------------------------------------------------------------------------------


def parsed(side: str, *words: str) -> _netcat.Options:
    import argparse

    from underlay.tools import _connect, _listen
    from underlay.tools._address import parse

    module = _connect if side == "connect" else _listen
    parser = argparse.ArgumentParser()
    module.configure(parser)
    args = parser.parse_args([*words, "127.0.0.1:1"])
    return _netcat.options(args, "connect" if side == "connect" else "listen", parse(["127.0.0.1:1"]))


def test_the_reuse_options_set_what_the_kernel_calls_by_these_names() -> None:
    for side, words, address, shared in (
        ("listen", [], 1, 0),  # as every server's
        ("listen", ["--no-reuse-address", "--reuse-port"], 0, 1),
        ("connect", [], 0, 0),
        ("connect", ["--reuse-address"], 1, 0),
    ):
        with _netcat.new_socket(socket.AF_INET, parsed(side, *words)) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == address
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == shared


def test_each_keepalive_option_turns_it_on_and_leaves_the_rest_to_the_kernel() -> None:
    with socket.socket() as plain:
        kernels = [plain.getsockopt(socket.IPPROTO_TCP, option) for option in KEEPALIVE]
    for words, wanted in (
        (["--keepalive"], kernels),
        (["--keepalive-idle", "7"], [7, *kernels[1:]]),
        (["--keepalive-idle", "7", "--keepalive-interval", "3", "--keepalive-count", "2"], [7, 3, 2]),
    ):
        with _netcat.new_socket(socket.AF_INET, parsed("connect", *words)) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in KEEPALIVE] == wanted


KEEPALIVE = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)


def test_a_connection_comes_from_the_source_that_was_asked_for(start: Start, server: socket.socket) -> None:
    start("connect", "--source", "127.0.0.9", f"127.0.0.1:{port(server)}")
    connection, peer = server.accept()
    connection.close()
    assert peer[0] == "127.0.0.9"


def test_an_ipv6_address_stands_in_brackets(start: Start) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    listener = start("listen", "--echo", "[::1]:0")
    assert finish(start("connect", f"[::1]:{port_of(listener)}"), b"six") == (b"six", "", 0)


def test_two_listeners_share_a_port_by_reuse_port(start: Start) -> None:
    first = start("listen", "-4", "--reuse-port", 0)
    number = port_of(first)
    second = start("listen", "-4", "-v", "--reuse-port", number)
    assert port_of(second) == number
