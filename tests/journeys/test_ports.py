"""`underlay ports` beside ss, in namespaces of the tests' own: ten thousand sockets, row for row, and a person's ways.

The oracle is stock `ss`, whose output is read here and nowhere in the product.
"""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

import pytest
from benchmarks.ports import HOLDERS, PASSED, crowd, descriptors_needed
from tests.tools.ports._place import LIMIT_S, Place, needs_root, place, port_of

from underlay.tools.ports import Owner, Socket, State, list_sockets

from .._kernel import needs_program

SOCKETS = 10_000


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as found:
        yield found


# As ss(8) abbreviates them.
SS_STATES = {
    "ESTAB": State.ESTABLISHED,
    "LISTEN": State.LISTEN,
    "TIME-WAIT": State.TIME_WAIT,
    "CLOSE-WAIT": State.CLOSE_WAIT,
    "FIN-WAIT-1": State.FIN_WAIT_1,
    "FIN-WAIT-2": State.FIN_WAIT_2,
    "SYN-SENT": State.SYN_SENT,
    "SYN-RECV": State.SYN_RECEIVED,
    "LAST-ACK": State.LAST_ACK,
    "CLOSING": State.CLOSING,
    "UNCONN": State.UNCONNECTED,
}

Row = tuple[str, int, int, str, str, tuple[tuple[str, int, int], ...]]


def rows_of_ss(output: str) -> Counter[Row]:
    rows: Counter[Row] = Counter()
    for line in output.splitlines()[1:]:
        state, receive, send, local, peer, *rest = line.split(None, 5)
        users = re.findall(r'\("([^"]*)",pid=(\d+),fd=(\d+)\)', rest[0] if rest else "")
        owners = tuple(sorted((name, int(pid), int(fd)) for name, pid, fd in users))
        rows[SS_STATES[state].value, int(receive), int(send), local, peer, owners] += 1
    return rows


def row(sock: Socket) -> Row:
    peer = sock.peer
    if peer == "*":
        peer = "0.0.0.0:*" if sock.family == 4 else "[::]:*" if sock.v6_only or sock.local[0] == "[" else "*:*"
    owners = tuple(sorted((owner.name, owner.pid, owner.descriptor) for owner in sock.owners))
    return sock.state.value, sock.receive_queue, sock.send_queue, sock.local, peer, owners


Done = subprocess.CompletedProcess[str]


def look(where: Place, ss: str) -> tuple[list[Socket], str, Done, Done]:
    """Ask the library, ss, the command and its count, one after another."""

    def both() -> tuple[list[Socket], str]:
        ours = list_sockets("proto:tcp")
        done = subprocess.run([ss, "-tanp"], capture_output=True, text=True, timeout=LIMIT_S, check=True)
        return ours, done.stdout

    return *where.do(both), where.command("proto:tcp"), where.command("--count", "--json", "proto:tcp")


def test_ten_thousand_sockets_are_row_for_row_those_of_ss(here: Place) -> None:
    ss = needs_program("ss")
    needed, hard = descriptors_needed(SOCKETS), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"a process may open {hard} files only; remedy: ulimit -Hn {needed}")
    with crowd(here.namespace, SOCKETS):
        here.settled("proto:tcp")
        ours, output, done, counted = look(here, ss)

    theirs = rows_of_ss(output)
    # Of sockets that are only bound ss tells when asked by another option.
    mine = Counter(row(sock) for sock in ours if sock.state is not State.BOUND)
    assert mine == theirs
    assert len(ours) >= SOCKETS
    told = Counter(sock.state for sock in ours)
    assert told[State.LISTEN] == 2 * HOLDERS
    assert told[State.TIME_WAIT] == PASSED * HOLDERS
    assert told[State.CLOSE_WAIT] == told[State.FIN_WAIT_2] > 0
    assert {sock.family for sock in ours} == {4, 6}
    assert max(sock.receive_queue for sock in ours) > 0
    assert len({owner.pid for sock in ours for owner in sock.owners}) == HOLDERS

    # And the command's own rows, of the same sockets.
    assert done.returncode == 0
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["proto", "state", "recv-q", "send-q", "local", "peer", "owner"]
    assert Counter(tuple(line.split(None, 6)[1:6]) for line in lines) == Counter(
        (sock.state.value.upper(), str(sock.receive_queue), str(sock.send_queue), sock.local, sock.peer)
        for sock in ours
    )
    assert sum(each["count"] for each in json.loads(counted.stdout)["counts"]) == len(ours)


def test_udp_sockets_are_row_for_row_those_of_ss(here: Place) -> None:
    ss = needs_program("ss")

    def make() -> list[socket.socket]:
        made = []
        for address in ("127.0.0.1", "0.0.0.0", "::1", "::"):
            bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            bound.bind((address, 0))
            peer = socket.socket(bound.family, socket.SOCK_DGRAM)
            peer.connect(({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address), port_of(bound)))
            peer.send(b"datagram")
            made += [bound, peer]
        return made

    def look() -> tuple[list[Socket], str]:
        done = subprocess.run([ss, "-uanp"], capture_output=True, text=True, timeout=LIMIT_S, check=True)
        return list_sockets("proto:udp"), done.stdout

    with ExitStack() as stack:
        for sock in here.do(make):
            stack.enter_context(sock)
        ours, output = here.do(look)
    assert len(ours) == 8
    assert Counter(map(row, ours)) == rows_of_ss(output)
    assert sum(sock.receive_queue > 0 for sock in ours) == 4


def test_unix_sockets_are_those_of_ss(here: Place, tmp_path: Path) -> None:
    ss = needs_program("ss")

    def make() -> list[socket.socket]:
        made = [*socket.socketpair(), *socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)]
        for name in (b"\0underlay-ports", os.fsencode(os.path.relpath(tmp_path / "s"))):
            server = socket.socket(socket.AF_UNIX)
            server.bind(name)
            server.listen()
            client = socket.socket(socket.AF_UNIX)
            client.connect(name)
            accepted, _ = server.accept()
            client.send(b"bytes")
            made += [server, client, accepted, socket.socket(socket.AF_UNIX)]
        return made

    def look() -> tuple[list[Socket], str]:
        done = subprocess.run([ss, "-xanp"], capture_output=True, text=True, timeout=LIMIT_S, check=True)
        return list_sockets("proto:unix"), done.stdout

    with ExitStack() as stack:
        for sock in here.do(make):
            stack.enter_context(sock)
        ours, output = here.do(look)
    # Kind, state, queues, path and inode, and the peer's, of which ss knows no path.
    pattern = re.compile(r"(u_\w+)\s+(\S+)\s+(\d+)\s+(\d+)\s+(\S+)\s+(\d+)\s+(\S+)\s+(\d+)")
    theirs = [found.groups() for line in output.splitlines()[1:] if (found := pattern.match(line))]
    kinds = {"u_str": "stream", "u_dgr": "datagram", "u_seq": "seqpacket"}
    assert Counter(
        (kinds[kind], SS_STATES[state], int(receive), int(send), path, int(inode), int(peer_inode))
        for kind, state, receive, send, path, inode, _, peer_inode in theirs
    ) == Counter(
        (
            sock.kind,
            sock.state,
            sock.receive_queue,
            sock.send_queue,
            sock.local_address or "*",
            sock.inode,
            sock.peer_inode,
        )
        for sock in ours
    )
    assert len(ours) == 12


# --- close -----------------------------------------------------------------------------------------------------------


def everything(where: Place) -> set[tuple[str, str, str, int]]:
    return {(sock.state.value, sock.local, sock.peer, sock.cookie) for sock in where.sockets(owners=False)}


@needs_root
def test_closing_a_time_wait_lets_a_bind_succeed_and_touches_nothing_else(here: Place) -> None:
    with here.server() as other:
        client, accepted = here.connect(other)
        with client, accepted:
            port = here.leave_in_time_wait(reuse=False)
            here.leave_in_time_wait(reuse=False)  # another, which stays
            assert here.bind(port) == here.bind(port, reuse=True) != 0
            before = everything(here)
            done = here.command("close", "--yes", f"local:127.0.0.1:{port}", "state:time-wait")
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith(f"closed tcp 127.0.0.1:{port} 127.0.0.1:")
            [gone] = before - everything(here)
            assert everything(here) < before
            assert gone[:2] == ("time-wait", f"127.0.0.1:{port}")
            assert here.bind(port) == 0
            client.sendall(b"still here")
            assert accepted.recv(16) == b"still here"


@needs_root
def test_closing_an_orphan_as_why_says_lets_a_bind_succeed(here: Place) -> None:
    with here.server() as server:
        port = port_of(server)
        client, accepted = here.connect(server)
    with client:
        accepted.close()
        assert here.bind(port) != 0
        told = here.command("why", f"127.0.0.1:{port}").stdout
        command = re.search(r"- end it as root: underlay ports (close .*)\n", told)
        assert command is not None
        done = here.command(*command[1].split(), "--yes")
        assert (done.returncode, done.stderr) == (0, "")
        assert here.bind(port) == 0


@needs_root
def test_closing_a_connection_resets_it_at_both_ends(here: Place) -> None:
    with here.server() as server:
        client, accepted = here.connect(server)
        with client, accepted:
            done = here.command("close", "--yes", "--json", f"local:127.0.0.1:{port_of(client)}")
            told = json.loads(done.stdout)
            assert (done.returncode, told["closed"], told["socket"]["local_port"]) == (0, True, port_of(client))
            with pytest.raises(ConnectionAbortedError):
                client.recv(1)
            with pytest.raises(ConnectionResetError):
                accepted.recv(1)
            assert port_of(server) in {sock.local_port for sock in here.sockets("state:listen")}


@needs_root
def test_a_user_without_the_right_is_told_and_nothing_is_closed(here: Place) -> None:
    port = here.leave_in_time_wait(reuse=False)
    before = everything(here)
    done = here.command("close", "--yes", f"local:{port}", nobody=True)
    assert done.returncode == 2
    assert f"127.0.0.1:{port} may not be ended by this user; root may (CAP_NET_ADMIN)" in done.stderr
    assert everything(here) == before


def test_close_ends_one_and_refuses_many_none_and_what_nobody_confirmed(here: Place) -> None:
    with here.server() as server:
        client, accepted = here.connect(server)
        with client, accepted:
            port = port_of(server)
            before = everything(here)
            many = here.command("close", "--yes", str(port))
            assert many.returncode == 2 and "3 sockets match, and close ends one" in many.stderr
            assert many.stdout.count("\n") == 4  # which they are
            none = here.command("close", "--yes", f"peer:{port + 1}")
            assert (none.returncode, none.stderr) == (1, "underlay: no socket matches\n")
            unasked = here.command("close", f"peer:{port}")
            assert unasked.returncode == 2 and "nobody is there to answer; add --yes" in unasked.stderr
            nothing = here.command("close", "--yes")
            assert nothing.returncode == 2 and "needs to know which socket" in nothing.stderr
            assert everything(here) == before


def sharing(where: Place, kind: socket.SocketKind) -> list[socket.socket]:
    """Four sockets on one address, by SO_REUSEPORT."""

    def make() -> list[socket.socket]:
        made: list[socket.socket] = []
        for _ in range(4):
            sock = socket.socket(socket.AF_INET, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
            sock.bind(made[0].getsockname() if made else ("127.0.0.1", 0))
            if kind == socket.SOCK_STREAM:
                sock.listen()
            made.append(sock)
        return made

    return where.do(make)


@needs_root
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_of_sockets_that_share_an_address_close_ends_the_named_one_or_says_that_it_cannot(
    here: Place, kind: socket.SocketKind
) -> None:
    with ExitStack() as stack:
        for sock in sharing(here, kind):
            stack.enter_context(sock)
        inodes = {sock.inode: sock for sock in here.sockets("state:listen,unconnected", owners=False)}
        ended = 0
        for inode in inodes:
            before = everything(here)
            done = here.command("close", "--yes", f"inode:{inode}")
            others = {each for each in before if each[3] != inodes[inode].cookie}
            assert others <= everything(here)
            if done.returncode == 0:
                ended += 1
            else:
                assert done.returncode == 1
                assert "the kernel does not find 127.0.0.1:" in done.stderr
                assert everything(here) == before
        assert ended >= 1


@needs_root
def test_a_process_that_keeps_the_port_of_what_was_ended_is_told(here: Place) -> None:
    with here.server(port=8080):
        done = here.command("close", "--yes", "local:8080", "state:listen")
        assert (done.returncode, done.stdout) == (0, "closed tcp 127.0.0.1:8080 * (listen)\n")
        if here.sockets("local:8080") == []:
            pytest.skip("this kernel does not tell of sockets that are only bound; remedy: Linux 6.8")
        assert done.stderr == "underlay: its process still has the port, until it closes it or ends\n"
        assert here.bind(8080) != 0


def test_close_without_a_stdin_asks_nobody(here: Place) -> None:
    with here.server() as server:
        command = f"{sys.executable} -m underlay ports close local:{port_of(server)} <&-"
        done = here.do(lambda: subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=LIMIT_S))
        assert (done.returncode, "nobody is there to answer; add --yes" in done.stderr) == (2, True)


def test_close_says_what_the_kernel_cannot_end(here: Place) -> None:
    one, two = here.do(socket.socketpair)
    with one, two:
        done = here.command("close", "--yes", f"inode:{os.fstat(one.fileno()).st_ino}")
        assert (done.returncode, "the kernel ends no Unix socket" in done.stderr) == (2, True)


def at_a_terminal(
    where: Place, *words: str, answer: bytes, environment: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, str]:
    """Run the command at a terminal of 80 columns and type an answer when it has asked."""

    def start() -> tuple[int, int]:
        child, terminal = pty.fork()
        if child == 0:
            os.environ.update(environment, TERM="xterm")
            os.environ.pop("COLUMNS", None)
            os.execv(sys.executable, [sys.executable, "-m", "underlay", "ports", *words])
        return child, terminal

    child, terminal = where.do(start)
    said = b""
    deadline = time.monotonic() + LIMIT_S
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 1)[0]:
                continue
            try:
                chunk = os.read(terminal, 65536)
            except OSError:  # EIO: it has ended
                break
            if not chunk:
                break
            if b"[y/N]" in chunk + said[-8:] and b"[y/N]" not in said:
                os.write(terminal, answer)
            said += chunk
    finally:
        os.close(terminal)
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.decode()


@needs_root
def test_close_asks_a_person_and_believes_only_a_yes(here: Place) -> None:
    port = here.leave_in_time_wait(reuse=False)
    status, said = at_a_terminal(here, "close", f"local:{port}", answer=b"\n")
    assert status == 1 and "nothing was closed" in said
    assert "The port is free for a bind at once" in said
    assert [sock.state for sock in here.sockets(f"local:{port}")] == [State.TIME_WAIT]
    status, said = at_a_terminal(here, "close", f"local:{port}", answer=b"y\n")
    assert status == 0 and f"closed tcp 127.0.0.1:{port}" in said
    assert here.sockets(f"local:{port}") == []


# --- list ------------------------------------------------------------------------------------------------------------


def test_a_port_is_exact_and_nothing_is_status_1(here: Place) -> None:
    with here.server(port=8080) as server:
        assert port_of(server) == 8080
        found = here.command("8080")
        assert (found.returncode, found.stdout.count("\n")) == (0, 2)
        assert f"({os.getpid()})" in found.stdout
        for word in ("80", "808", "18080", "08081"):
            none = here.command(word)
            assert (none.returncode, none.stdout) == (1, ""), word
    assert here.command().returncode == 0


def test_json_has_its_schema_first_and_every_key(here: Place) -> None:
    with here.server() as server:
        port = port_of(server)
        done = here.command("--json", "--info", str(port), "state:listen")
    told = json.loads(done.stdout)
    assert next(iter(told)) == "schema"
    assert told["schema"] == "underlay.ports/1"
    [sock] = told["sockets"]
    assert (sock["local_address"], sock["local_port"], sock["state"]) == ("127.0.0.1", port, "listen")
    assert {*Socket._fields, "user"} == set(sock)
    assert {*Owner._fields, "user"} == set(sock["owners"][0])
    assert sock["owners"][0]["pid"] == os.getpid()
    assert sock["tcp_info"]["cwnd_segments"] > 0
    assert json.loads(here.command("--json", "1").stdout)["sockets"] == []


def test_a_pipe_gets_plain_text_and_a_terminal_80_columns(here: Place) -> None:
    with here.server() as server, here.server("::1") as other:
        port = str(port_of(server))
        assert "\x1b" not in here.command().stdout
        status, said = at_a_terminal(here, port, str(port_of(other)), answer=b"")
        plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
        assert status == 0 and "\x1b[1m" in said
        assert all(len(line) <= 80 for line in plain.splitlines())
        assert f"127.0.0.1:{port}" in plain


def test_a_terminal_whose_encoding_lacks_a_letter_is_shown_another(here: Place) -> None:
    with here.server() as server:
        port = str(port_of(server))
        encoding = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
        for words in (("--info", port), ("why", port), (port,)):
            status, said = at_a_terminal(here, *words, answer=b"", environment=encoding)
            assert status == (words[0] == "why") and "Traceback" not in said
            assert said.isascii()
        assert "~\r\n" in said.replace("\x1b[0m", "")  # where the owner was cut


def test_a_reader_that_leaves_is_no_error(here: Place) -> None:
    with here.server():
        pipe = f"{sys.executable} -m underlay ports 2>&1 | true"
        done = here.do(lambda: subprocess.run(["sh", "-c", pipe], capture_output=True, text=True, timeout=LIMIT_S))
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_root
def test_a_user_sees_every_socket_and_the_owners_of_its_own(here: Place) -> None:
    with here.server() as server:
        done = here.command(str(port_of(server)), nobody=True)
        assert done.returncode == 0
        assert done.stdout.splitlines()[1].split()[-2:] == ["user", "root"]
        assert "hidden from this user" in done.stderr and "root sees more" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--yes",), "--yes means nothing in a list"),
        (("--udp", "53"), "--udp means nothing in a list"),
        (("--watch", "--count"), "--count means nothing in a watch"),
        (("--count", "--info"), "--info means nothing in a list"),
        (("--interval", "2"), "--interval means nothing in a list"),
        (("--interval", "nan", "--watch"), "'nan' is no time between 0.01 and 3600 seconds"),
        (("--interval", "1e999"), "is no time between"),
        (("--nonesuch",), "unrecognized arguments: --nonesuch"),
        (("state:nonesuch",), "no state is called 'nonesuch'"),
        (("80", "proto:tcp", "unix:/x"), "a Unix socket has a path and no port"),
        (("a\x1b[2J",), "is no port, no address"),
    ],
)
def test_wrong_use_is_one_sentence_and_status_2(here: Place, words: tuple[str, ...], told: str) -> None:
    done = here.command(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr and done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr
