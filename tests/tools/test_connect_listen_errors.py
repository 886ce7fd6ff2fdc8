"""What goes wrong with `connect` and `listen` is one sentence: 2 for wrong use, 1 for the network's failure.

The sentences name what was tried and what mends it. That the commands work when
nothing goes wrong stands in test_connect_listen.py.
"""

from __future__ import annotations

import errno
import resource
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from underlay.errors import UsageError
from underlay.tools._address import Place, UnixPath, parse, parse_source, written
from underlay.tools._complaints import cannot_connect, cannot_listen

LIMIT_S = 60  # a child that runs longer hangs

Done = subprocess.CompletedProcess[str]


def run(where: Path, *words: object, text: str = "") -> Done:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "underlay", *map(str, words)],
        cwd=where,
        input=text,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def sentence(done: Done, status: int) -> str:
    """The one sentence on stderr, with the status checked."""
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("underlay: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("underlay: ").removesuffix("\n")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(LIMIT_S)
        yield listening


def port(sock: socket.socket) -> int:
    number: int = sock.getsockname()[1]
    return number


@contextmanager
def listening(*words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A listener on a port that the kernel chose, and that port; its stdin stays open."""
    listener = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "underlay", "listen", *words, "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert listener.stderr is not None
        yield listener, int(listener.stderr.readline().rpartition(":")[2])
    finally:
        listener.kill()
        listener.communicate()


@pytest.fixture
def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return port(sock)


# --- wrong use ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["connect", "localhost"], "'localhost' has no port; write it like localhost:8888"),
        (["connect", ":80"], "':80' has no host; write it like"),
        (["connect", "localhost:0"], "0 is no port; a port is between 1 and 65535"),
        (["connect", "localhost:99999"], "99999 is no port; a port is between 1 and 65535"),
        (["connect", "localhost:nosuch"], "'nosuch' is no port and no service that /etc/services knows"),
        (["connect", "::1:80"], "'::1:80' leaves open where the address ends and the port begins; put an IPv6"),
        (["connect", "[::1:80"], "'[::1:80' is no IPv6 address in brackets"),
        (["connect", "[nosuch]:80"], "'[nosuch]:80' is no IPv6 address in brackets"),
        (["connect", "a", "1", "2"], "more than one address; `underlay connect --help`"),
        (["connect", "a..b:80"], "'a..b' is no name of a host; between dots it has 1 to 63 letters"),
        (["connect", "x" * 64, "80"], f"'{'x' * 64}' is no name of a host"),
        (["connect", "--source", "a..b", "localhost:80"], "'a..b' is no name of a host"),
        (["connect", "unix:"], "a Unix socket needs a path"),
        (["connect", "unix:" + "x" * 108], "the path of a Unix socket has at most 107 bytes, and this one has 108"),
        (["connect", "--udp", "unix:a"], "--udp and a Unix socket exclude each other; leave one out"),
        (["connect", "-4", "unix:a"], "-4 and -6 are about IP, and a Unix socket has none"),
        (["connect", "-4", "-6", "a:1"], "connect: argument -6: not allowed with argument -4"),
        (["connect", "--source", "127.0.0.1", "unix:a"], "--source is about IP, and a Unix socket has none"),
        (["connect", "--udp", "--keepalive", "a:1"], "--keepalive is an option of TCP, and --udp is not"),
        (["connect", "--tls", "--udp", "a:1"], "--tls needs a stream, and --udp has none"),
        (["connect", "--insecure", "a:1"], "--insecure is an option of TLS; add --tls"),
        (["connect", "--alpn", "h2", "a:1"], "--alpn is an option of TLS; add --tls"),
        (
            ["connect", "--tls", "--insecure", "--ca", "x", "a:1"],
            "--ca says whom to trust, --insecure to trust anybody",
        ),
        (["connect", "--tls", "--ca", "nosuch.pem", "a:1"], "--ca nosuch.pem: cannot read it (no such file or"),
        (["connect", "--tls", "--ca", "empty.pem", "a:1"], "--ca empty.pem: the file holds no certificate, as PEM"),
        (["connect", "--tls", "--cert", "empty.pem", "a:1"], "--cert empty.pem: the file holds no certificate and its"),
        (["connect", "--tls", "--key", "empty.pem", "a:1"], "--key needs the certificate that it belongs to"),
        (["connect", "--timeout", "0", "a:1"], "connect: argument --timeout: invalid number of seconds value: '0'"),
        (["connect", "--io", "epol", "a:1"], "there is no I/O model 'epol'; did you mean 'epoll'?"),
        (["listen", "--tls", "0"], "a TLS listener needs a certificate; --cert FILE names one; `openssl req -x509"),
        (["listen", "--max-connections", "0", "0"], "--max-connections must be at least 1"),
        (["listen", "--unix", "empty.pem"], "empty.pem exists and is no socket; choose another path"),
        (["listen"], "listen: the following arguments are required: ADDRESS"),
    ],
)
def test_wrong_use_is_told_with_its_remedy_and_status_2(tmp_path: Path, words: list[str], wanted: str) -> None:
    (tmp_path / "empty.pem").touch()
    assert sentence(run(tmp_path, *words), 2).startswith(wanted)


# --- nobody there, or somebody in the way --------------------------------------------------------------------


def test_a_refused_connection_is_told(tmp_path: Path, closed_port: int) -> None:
    told = sentence(run(tmp_path, "connect", f"127.0.0.1:{closed_port}"), 1)
    assert told == (
        f"cannot connect to 127.0.0.1:{closed_port}: connection refused; is the server running, and on this port?"
    )


def test_a_refused_datagram_is_told(tmp_path: Path, closed_port: int) -> None:
    told = sentence(run(tmp_path, "connect", "--udp", f"127.0.0.1:{closed_port}", text="x"), 1)
    assert told.startswith(f"nothing listens on UDP 127.0.0.1:{closed_port}: its machine answered by ICMP")


def test_a_name_that_nobody_knows_is_told(tmp_path: Path) -> None:
    told = sentence(run(tmp_path, "connect", "no.such.host.invalid:80"), 1)
    assert told.startswith("nobody knows the address of no.such.host.invalid (")
    assert told.endswith("); check its spelling")


def test_a_unix_socket_that_is_not_there_or_dead_is_told(tmp_path: Path) -> None:
    assert sentence(run(tmp_path, "connect", "unix:a"), 1) == "there is no Unix socket unix:a; is the server running?"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "a"))
    told = sentence(run(tmp_path, "connect", "unix:a"), 1)
    assert told.endswith("connection refused; is the program that made the socket still running?")


def test_a_source_that_is_not_ours_is_told(tmp_path: Path, server: socket.socket) -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737): nobody has it.
    told = sentence(run(tmp_path, "connect", "--source", "192.0.2.1", f"127.0.0.1:{port(server)}"), 1)
    assert told.endswith("cannot assign requested address; --source must be a free address of this machine")


def test_the_process_that_holds_the_port_is_named(tmp_path: Path, server: socket.socket) -> None:
    import os

    told = sentence(run(tmp_path, "listen", f"127.0.0.1:{port(server)}"), 2)
    assert f"(pid {os.getpid()})" in told and "choose another port, or start both with --reuse-port" in told
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        told = sentence(run(tmp_path, "listen", "--udp", f"127.0.0.1:{port(datagrams)}"), 2)
        assert f"(pid {os.getpid()})" in told


def test_a_connection_that_has_the_port_is_named_with_its_process(tmp_path: Path, server: socket.socket) -> None:
    import os

    with socket.create_connection(server.getsockname()) as client:
        told = sentence(run(tmp_path, "listen", f"127.0.0.1:{port(client)}"), 2)
    assert f"(pid {os.getpid()}) has the port for its connection with 127.0.0.1:{port(server)}" in told
    assert told.endswith("; end that, or choose another port")


def leave_in_time_wait(*, reuse_address: int) -> int:
    """Serve one client, hang up first, and return the port: it stays in TIME_WAIT for a minute."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse_address)
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname()) as client:
            connection, _ = server.accept()
            connection.close()
            assert client.recv(1) == b""
        return port(server)


def test_old_connections_hold_a_port_that_reuse_address_frees(tmp_path: Path) -> None:
    number = leave_in_time_wait(reuse_address=1)
    told = sentence(run(tmp_path, "listen", "--no-reuse-address", f"127.0.0.1:{number}"), 2)
    assert told.endswith(
        "earlier connections of that port are not over yet; "
        "--reuse-address takes the port if whoever had it did so too; else wait a minute"
    )
    listener = subprocess.Popen(
        [sys.executable, "-m", "underlay", "listen", "-v", f"127.0.0.1:{number}"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert listener.stderr is not None
        assert "listening on" in listener.stderr.readline()
    finally:
        listener.kill()
        listener.communicate()


def test_reuse_address_does_not_help_where_the_earlier_listener_had_it_not(tmp_path: Path) -> None:
    number = leave_in_time_wait(reuse_address=0)
    told = sentence(run(tmp_path, "listen", "--reuse-address", f"127.0.0.1:{number}"), 2)
    assert told.endswith("are not over yet; whoever had it did so without SO_REUSEADDR, so wait a minute")


def test_an_address_of_another_machine_cannot_be_listened_on(tmp_path: Path) -> None:
    told = sentence(run(tmp_path, "listen", "192.0.2.1:0"), 1)
    assert told.endswith("it is no address of this machine; `ip address` lists them")


def test_a_unix_path_with_a_listener_behind_it_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(tmp_path / "a"))
        alive.listen()
        told = sentence(run(tmp_path, "listen", "unix:a"), 2)
        assert told.endswith("another process listens there; end it or choose another path")
        assert (tmp_path / "a").exists()


# --- time-outs, and connections that break ----------------------------------------------------------------------


def test_a_time_out_is_an_error_on_a_connection_that_is_still_up(tmp_path: Path, server: socket.socket) -> None:
    told: list[Done] = []
    address = f"127.0.0.1:{port(server)}"
    # Its stdin stays open, as a terminal's would.
    with subprocess.Popen(["sleep", "infinity"], stdout=subprocess.PIPE) as keyboard:
        command = [sys.executable, "-m", "underlay", "connect", "--timeout", "0.3", address]
        thread = threading.Thread(
            target=lambda: told.append(
                subprocess.run(
                    command, stdin=keyboard.stdout, capture_output=True, text=True, timeout=LIMIT_S, check=False
                )
            )
        )
        thread.start()
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1) == b""  # closed in good order, after the time-out
            thread.join()
        keyboard.kill()
    assert sentence(told[0], 1) == (
        f"time-out: no byte moved between {address} and us for 0.3 s; the connection was still up, and we closed it"
    )


def test_a_server_that_does_not_accept_in_time_is_told(tmp_path: Path) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # One in the queue; the kernel drops the SYNs of others: listen(2).
        with socket.create_connection(full.getsockname()), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(full.getsockname())
            told = sentence(run(tmp_path, "connect", "--timeout", "0.3", f"127.0.0.1:{port(full)}"), 1)
    assert told.startswith(f"time-out: 127.0.0.1:{port_of(told)} did not answer within 0.3 s; a packet filter")


def port_of(told: str) -> str:
    return told.partition("127.0.0.1:")[2].split()[0]


def test_a_reset_is_told(server: socket.socket) -> None:
    address = f"127.0.0.1:{port(server)}"
    client = subprocess.Popen(
        [sys.executable, "-m", "underlay", "connect", "-v", address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        connection, _ = server.accept()
        assert client.stderr is not None
        assert "connected to" in client.stderr.readline()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        assert client.wait(LIMIT_S) == 1
        assert client.stderr.read().splitlines()[-1] == (
            f"underlay: the connection to {address} broke: connection reset by peer"
        )
    finally:
        client.kill()
        client.communicate()


@pytest.mark.parametrize("words", [["--keep-open"], ["--udp"]], ids=" ".join)
def test_a_listener_ends_when_nobody_reads_its_stdout(words: list[str]) -> None:
    with listening("-4", *words) as (listener, number):
        assert listener.stdout is not None
        listener.stdout.close()
        listener.stdout = None
        kind = socket.SOCK_DGRAM if "--udp" in words else socket.SOCK_STREAM
        with socket.socket(socket.AF_INET, kind) as peer:
            peer.connect(("127.0.0.1", number))
            peer.sendall(b"x")
            assert listener.wait(LIMIT_S) == 141  # as SIGPIPE would end it
        assert listener.stderr is not None and listener.stderr.read() == ""


def test_a_listener_out_of_descriptors_waits_without_spinning_and_serves_on() -> None:
    with listening("-4", "--keep-open", "--echo", "-v") as (listener, number):
        resource.prlimit(listener.pid, resource.RLIMIT_NOFILE, (16, 16))
        clients = [socket.create_connection(("127.0.0.1", number)) for _ in range(16)]
        try:
            assert listener.stderr is not None
            complaints = (line for line in listener.stderr if "connected" not in line)
            assert next(complaints) == "underlay: cannot accept: too many open files\n"
            ticks = processor_ticks(listener.pid)
            assert "too many open files" in next(complaints)  # it tried again, a second later
            # A spin would have taken some 100 of them, each 10 ms: times(2).
            assert processor_ticks(listener.pid) - ticks < 50
            for client in clients[:-1]:
                client.close()
            clients[-1].settimeout(LIMIT_S)
            clients[-1].sendall(b"still there?")
            assert clients[-1].recv(100) == b"still there?"
        finally:
            for client in clients:
                client.close()


def test_an_address_of_the_other_family_is_told(tmp_path: Path) -> None:
    told = sentence(run(tmp_path, "listen", "-6", "127.0.0.1:0"), 1)
    assert told == "127.0.0.1 is no address of the family that -4 or -6 names; leave that out"


def test_a_name_without_an_address_of_the_family_is_told_so(tmp_path: Path) -> None:
    for words in (["connect", "-6", "no.such.host.invalid:80"], ["speed", "-6", "no.such.host.invalid"]):
        told = sentence(run(tmp_path, *words), 1)
        assert told.startswith("nobody knows an IPv6 address of no.such.host.invalid (")
        assert told.endswith("); leave -6 out, or check its spelling")


def test_a_source_that_nobody_knows_is_not_blamed_on_the_address(tmp_path: Path, server: socket.socket) -> None:
    told = sentence(run(tmp_path, "connect", "--source", "no.such.host.invalid", f"127.0.0.1:{port(server)}"), 1)
    assert told.endswith("--source must be a free address of this machine")


def processor_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # utime and stime: proc(5)


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        (errno.EACCES, "cannot listen on *:80: permission denied; ports below 1024 are for root; choose a higher one"),
        (errno.ENOENT, "cannot listen on *:80: no such file or directory; make the directory first"),
        (errno.EAFNOSUPPORT, "cannot listen on *:80: address family not supported by protocol"),
    ],
)
def test_what_the_kernel_refuses_a_listener_is_told(number: int, wanted: str) -> None:
    assert str(cannot_listen(Place("", 80), OSError(number, ""))) == wanted


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        (errno.ENETUNREACH, "network is unreachable; `ip route get` shows where the way ends"),
        (errno.EHOSTUNREACH, "no route to host; `ip route get` shows where the way ends"),
        (errno.ETIMEDOUT, "connection timed out"),
        (errno.EACCES, "permission denied; this user may not; try as another"),
    ],
)
def test_what_the_kernel_refuses_a_client_is_told(number: int, wanted: str) -> None:
    told = str(cannot_connect(Place("example.org", 80), OSError(number, "")))
    assert told == f"cannot connect to example.org:80: {wanted}"


# --- TLS ------------------------------------------------------------------------------------------------


def answer_once(server: socket.socket, context: ssl.SSLContext) -> threading.Thread:
    """Serve one TLS client, or fail to, in a thread."""

    def serve() -> None:
        connection, _ = server.accept()
        try:
            with context.wrap_socket(connection, server_side=True) as secure:
                secure.sendall(b"secret")
                secure.unwrap()  # else the client waits for more
        except OSError:
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_certificate_that_does_not_hold_is_refused_unless_insecure(tmp_path: Path, server: socket.socket) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("example.org").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    address = f"127.0.0.1:{port(server)}"
    for words, wanted in (
        ([], "unable to get local issuer certificate"),
        (["--ca", "ca.pem"], "IP address mismatch, certificate is not valid for '127.0.0.1'."),
    ):
        thread = answer_once(server, context)
        told = sentence(run(tmp_path, "connect", "--tls", *words, address), 1)
        thread.join()
        assert told.startswith(f"{address} shows a certificate that does not hold: {wanted}; --ca FILE names")
    thread = answer_once(server, context)
    done = run(tmp_path, "connect", "--tls", "--insecure", "--wait", "5", address)
    thread.join()
    assert (done.stdout, done.stderr, done.returncode) == ("secret", "", 0)


def test_a_server_without_tls_is_told(tmp_path: Path, server: socket.socket) -> None:
    def speak_plainly() -> None:
        connection, _ = server.accept()
        connection.sendall(b"220 mail.example.org ESMTP\r\n")
        connection.recv(65_536)
        connection.close()

    thread = threading.Thread(target=speak_plainly)
    thread.start()
    told = sentence(run(tmp_path, "connect", "--tls", f"127.0.0.1:{port(server)}"), 1)
    thread.join()
    assert told.endswith("and we could not agree on TLS (WRONG_VERSION_NUMBER); does it speak TLS?")


def test_a_client_without_tls_is_told(tmp_path: Path) -> None:
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    listener = subprocess.Popen(
        [sys.executable, "-m", "underlay", "listen", "--tls", "--cert", "cert.pem", "127.0.0.1:0"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert listener.stderr is not None
        number = int(listener.stderr.readline().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", number)) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            told = listener.communicate(timeout=LIMIT_S)[1]
    finally:
        listener.kill()
        listener.communicate()
    assert listener.returncode == 1
    assert "failed (HTTP_REQUEST); does it speak TLS?" in told and told.count("\n") == 1


# --- addresses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "listening", "wanted"),
    [
        (["localhost:80"], False, Place("localhost", 80)),
        (["localhost", "80"], False, Place("localhost", 80)),
        (["::1", "80"], False, Place("::1", 80)),
        (["[fe80::1%lo]:80"], False, Place("fe80::1%lo", 80)),
        (["localhost:http"], False, Place("localhost", 80)),
        (["8888"], True, Place("", 8888)),
        ([":8888"], True, Place("", 8888)),
        (["*:8888"], True, Place("", 8888)),
        (["0"], True, Place("", 0)),
        (["unix:/run/a b"], False, UnixPath("/run/a b")),
        (["unix:@name"], True, UnixPath("@name")),
    ],
)
def test_an_address_is_read_as_people_write_it(words: list[str], listening: bool, wanted: Place | UnixPath) -> None:
    assert parse(words, listening=listening) == wanted


def test_a_source_may_leave_its_port_out() -> None:
    assert parse_source("127.0.0.1") == Place("127.0.0.1", 0)
    assert parse_source("::1") == parse_source("[::1]") == Place("::1", 0)
    assert parse_source("localhost:99") == Place("localhost", 99)
    assert parse_source("fe80::1%eth0") == parse_source("[fe80::1%eth0]") == Place("fe80::1%eth0", 0)
    assert parse_source("[fe80::1%eth0]:99") == Place("fe80::1%eth0", 99)
    for wrong in ("127.0.0.1:x", "[::1", "[[::1]]", "::1]", "fe80::1%eth0:99", "[fe80::1%eth0"):
        with pytest.raises(UsageError):
            parse_source(wrong)


def test_an_address_is_written_so_that_it_can_be_read_again() -> None:
    for text in ("127.0.0.1:80", "[::1]:80", "unix:/tmp/a", "unix:@a"):
        assert str(parse([text])) == text
    assert written("/tmp/a") == "unix:/tmp/a"
    assert written(b"\0a") == "unix:@a"
