"""The list tells what there is: each kind of socket, each state and each owner, made for real."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from underlay.errors import UnderlayError
from underlay.tools.ports import Socket, State
from underlay.tools.ports import _list as list_module
from underlay.tools.ports._owners import find_owners

from ._place import Place, port_of


def by_port(found: list[Socket], port: int) -> Socket:
    [sock] = [each for each in found if each.local_port == port]
    return sock


def test_a_listener_tells_its_queue_and_its_backlog(place: Place) -> None:
    with place.server() as server, ExitStack() as stack:
        server.listen(7)
        for _ in range(2):
            client = stack.enter_context(place.do(socket.socket))
            client.connect(server.getsockname())
        [found] = place.sockets(str(port_of(server)), "state:listen")
    assert (found.state, found.receive_queue, found.send_queue) == (State.LISTEN, 2, 7)
    assert (found.protocol, found.family, found.local, found.peer) == (
        "tcp",
        4,
        f"127.0.0.1:{found.local_port}",
        "*",
    )


def test_a_connection_that_waits_to_be_accepted_has_no_owner_yet(place: Place) -> None:
    with place.server() as server, place.do(socket.socket) as client:
        client.connect(server.getsockname())
        [waiting] = place.sockets(f"local:{port_of(server)}", "state:established")
    assert (waiting.inode, waiting.uid, waiting.owners, waiting.is_orphan) == (0, None, (), False)


def test_queues_tell_bytes_that_were_not_read_or_not_acknowledged(place: Place) -> None:
    with place.server() as server:
        client, accepted = place.connect(server)
        with client, accepted:
            client.sendall(b"12345")
            found = place.sockets(str(port_of(server)), "state:established")
            assert by_port(found, port_of(server)).receive_queue == 5
            assert by_port(found, port_of(client)).peer == f"127.0.0.1:{port_of(server)}"


def test_each_state_that_two_ends_can_be_in_is_told(place: Place) -> None:
    with place.server() as server:
        client, accepted = place.connect(server)
        accepted.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        found = place.settled(str(port_of(server)))
        assert by_port(found, port_of(client)).state is State.CLOSE_WAIT
        [ours] = [sock for sock in found if sock.local_port == port_of(server) and sock.peer_port]
        assert ours.state is State.FIN_WAIT_2
        assert not ours.is_orphan  # its process still has it
        accepted.close()
        [orphan] = place.settled(f"local:{port_of(server)}", "state:fin-wait-2")
        assert orphan.is_orphan and orphan.inode == 0 and orphan.owners == ()
        client.close()
        [rest] = place.settled(f"local:{port_of(server)}", "state:time-wait")
        assert rest.timer == "time-wait"
        assert 0 < rest.timer_ms <= 60_000  # TCP_TIMEWAIT_LEN of include/net/tcp.h
        assert rest.uid is None


def test_a_socket_that_is_bound_and_does_not_listen_is_told(place: Place) -> None:
    def bind() -> socket.socket:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        return sock

    with place.do(bind) as sock:
        found = place.sockets(str(port_of(sock)))
        if not found:
            pytest.skip("this kernel does not tell of them; remedy: Linux 6.8")
        assert found[0].state is State.BOUND
        assert found[0].owners[0].descriptor == sock.fileno()


@pytest.mark.parametrize("v6_only", [False, True])
def test_an_ipv6_socket_tells_whether_it_hears_ipv4(place: Place, v6_only: bool) -> None:
    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_INET6)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
        sock.bind(("::", 0))
        sock.listen()
        return sock

    with place.do(listen) as server:
        [found] = place.sockets(str(port_of(server)))
        assert (found.family, found.v6_only) == (6, v6_only)
        assert found.local == f"{'[::]' if v6_only else '*'}:{port_of(server)}"
        # With --info the attributes are read as well, and more of them.
        assert place.sockets(str(port_of(server)), info=True)[0].v6_only == v6_only


def test_an_ipv4_client_of_an_ipv6_socket_is_in_its_ipv4_network(place: Place) -> None:
    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_INET6)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, False)
        sock.bind(("::", 0))
        sock.listen()
        return sock

    with place.do(listen) as server, place.do(socket.socket) as client:
        client.connect(("127.0.0.1", port_of(server)))
        [found] = place.sockets(f"local:{port_of(server)}", "peer:127.0.0.0/8")
        assert found.peer == f"[::ffff:127.0.0.1]:{port_of(client)}"


def test_a_socket_of_one_interface_names_it(place: Place) -> None:
    def listen() -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        return sock

    with place.do(listen) as server:
        [found] = place.sockets(str(port_of(server)))
        assert place.do(lambda: found.local) == f"127.0.0.1%lo:{port_of(server)}"


def test_udp_sockets_are_told_with_and_without_a_peer(place: Place) -> None:
    def make() -> tuple[socket.socket, socket.socket]:
        one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        one.bind(("::1", 0))
        two = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        two.connect(one.getsockname())
        return one, two

    one, two = place.do(make)
    with one, two:
        found = place.sockets("proto:udp")
        assert {sock.kind for sock in found} == {"datagram"}
        assert by_port(found, port_of(one)).state is State.UNCONNECTED
        connected = by_port(found, port_of(two))
        assert (connected.state, connected.peer) == (State.ESTABLISHED, f"[::1]:{port_of(one)}")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_unix_sockets_are_told_by_path_by_name_and_by_their_peers(place: Place, tmp_path: Path, kind: int) -> None:
    names = ["@underlay\udcffports", os.path.relpath(tmp_path / "s")]

    def make(name: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.bind(os.fsencode("\0" + name[1:] if name.startswith("@") else name))
        if kind != socket.SOCK_DGRAM:
            sock.listen()
        return sock

    for name in names:
        with place.do(lambda name=name: make(name)) as server:  # type: ignore[misc]
            client = place.do(lambda: socket.socket(socket.AF_UNIX, kind))
            with client:
                client.connect(server.getsockname())
                found = place.sockets(f"unix:{name}")
                [listener] = [sock for sock in found if sock.inode == os.fstat(server.fileno()).st_ino]
                assert listener.local == name
                assert listener.kind == {1: "stream", 2: "datagram", 5: "seqpacket"}[int(kind)]
                assert listener.owners[0].descriptor == server.fileno()
                if kind != socket.SOCK_DGRAM:
                    assert listener.state is State.LISTEN
                    accepted, _ = server.accept()
                    with accepted:
                        inode = os.fstat(client.fileno()).st_ino
                        [ours] = [sock for sock in place.sockets("proto:unix") if sock.inode == inode]
                        assert ours.peer_inode == os.fstat(accepted.fileno()).st_ino
                        assert (ours.state, ours.peer) == (State.ESTABLISHED, name)


def test_a_pair_of_unix_sockets_has_no_name_and_each_other(place: Place) -> None:
    one, two = place.do(socket.socketpair)
    with one, two:
        found = {sock.inode: sock for sock in place.sockets("proto:unix")}
        inodes = [os.fstat(sock.fileno()).st_ino for sock in (one, two)]
        assert [found[inode].peer_inode for inode in inodes] == inodes[::-1]
        assert {found[inode].local for inode in inodes} == {""}


def test_every_process_and_every_descriptor_that_holds_a_socket_is_told(place: Place) -> None:
    with place.server() as server, socket.socket(fileno=os.dup(server.fileno())) as copy:
        waits = "import sys; sys.stdin.read()"
        command = [sys.executable, "-c", waits, "a b", "c"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[server.fileno()]) as child:
            [found] = place.sockets(str(port_of(server)))
            child.communicate()
        assert {(owner.pid, owner.descriptor) for owner in found.owners} == {
            (os.getpid(), server.fileno()),
            (os.getpid(), copy.fileno()),
            (child.pid, server.fileno()),
        }
        [theirs] = [owner for owner in found.owners if owner.pid == child.pid]
        assert theirs.command == " ".join(command)
        assert theirs.uid == os.geteuid()
        assert place.sockets(f"pid:{child.pid}") == []  # it has ended


def test_owners_are_left_out_where_nobody_asks_for_them(place: Place) -> None:
    with place.server() as server:
        port = str(port_of(server))
        assert place.sockets(port, owners=False)[0].owners == ()
        # But a filter that needs them gets them.
        assert place.sockets(port, f"pid:{os.getpid()}", owners=False) != []


def test_sockets_of_another_namespace_are_not_told(place: Place) -> None:
    with place.server() as server, socket.create_server(("127.0.0.1", 0)) as outside:
        ports = {sock.local_port for sock in place.sockets("state:listen", "proto:tcp")}
        assert port_of(server) in ports
        assert port_of(outside) not in ports or port_of(outside) == port_of(server)


def test_a_kernel_without_sock_diag_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_module, "SOCK_DIAG", 31)  # the last number that netlink has room for, and nobody's yet
    with pytest.raises(UnderlayError, match="does not tell of its sockets by sock_diag; a Linux with"):
        list_module.list_sockets()


@pytest.mark.parametrize("listing", [FileNotFoundError, None])
def test_a_machine_without_proc_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch, listing: type | None) -> None:
    def listdir(path: str) -> list[str]:
        if listing is not None:
            raise FileNotFoundError(path)
        return ["self", "net"]

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(UnderlayError, match="/proc is not mounted; --no-owners lists"):
        list_module.list_sockets()
    list_module.list_sockets(owners=False)


def test_descriptors_that_run_out_are_no_process_that_ended(place: Place) -> None:
    # Three are open, and netlink's is the fourth: the folder of the first process would be the fifth.
    code = (
        "import resource; import underlay.tools.ports._cli, underlay.tools.ports._list, underlay.tools.ports._table\n"
    )
    code += "import sys; from underlay.cli import entry\n"
    code += "resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4)); entry()"
    words = [sys.executable, "-c", code, "ports"]
    done = place.do(lambda: subprocess.run(words, capture_output=True, text=True, timeout=60))
    assert (done.returncode, done.stdout) == (1, "")
    assert "raise the limit of open files (`ulimit -n`)" in done.stderr and done.stderr.count("\n") == 1


def test_a_process_that_ends_while_it_is_looked_at_is_passed_over() -> None:
    # A zombie has a folder of descriptors that cannot be listed, or none.
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with socket.socket() as sock:
        held = find_owners().by_inode[os.fstat(sock.fileno()).st_ino]
    child.wait()
    assert [owner.pid for owner in held] == [os.getpid()]
