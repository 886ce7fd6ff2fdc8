"""Names: who may have one, what is in the way, and what a stranger at the door can do."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import multiprocessing
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from underlay import ipc
from underlay.errors import UnderlayError, UsageError
from underlay.ipc import _folder, _mqueue, _pipe

PATIENCE_S = 20.0
pytestmark = [
    pytest.mark.usefixtures("names_folder"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "a b", "-x", "x\0y", "ümlaut", "x\n"])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    for call in (lambda: ipc.create("pipe", name), lambda: ipc.open(name), lambda: ipc.remove(name)):
        with pytest.raises(UsageError, match=r"cannot be the name of a channel; take letters"):
            call()


def test_a_name_is_as_long_as_the_path_of_a_unix_socket_lets_it_be(names_folder: Path) -> None:
    longest = 107 - len(str(names_folder)) - 1
    with ipc.create("pipe", "x" * longest), ipc.open("x" * longest):
        pass
    with pytest.raises(
        UsageError, match="108 bytes with its folder, of 107 in a Unix socket; take one that is 1 short"
    ):
        ipc.create("pipe", "x" * (longest + 1))


def test_a_name_that_a_living_process_has_is_taken() -> None:
    with ipc.create("pipe", "orders"):
        who = f"process {os.getpid()} has a channel 'orders' already"
        for replace in (False, True):
            with pytest.raises(ipc.NameTaken, match=who):
                ipc.create("unix", "orders", replace=replace)
        with pytest.raises(ipc.NameTaken, match=f"process {os.getpid()}, which has the channel 'orders', lives"):
            ipc.remove("orders")
        assert ipc.names() == [ipc.KnownName("orders", os.getpid(), True)]
    assert ipc.names() == []
    with ipc.create("unix", "orders"):
        pass


def test_a_name_is_free_when_both_are_there() -> None:
    with ipc.create("pipe", "orders") as first, ipc.open("orders") as sender:
        assert ipc.names() == []
        with ipc.create("pipe", "orders") as second, ipc.open("orders") as other:
            other.send(b"second")
            sender.send(b"first")
            assert (first.receive(), second.receive()) == (b"first", b"second")


def test_a_name_that_nobody_made_is_waited_for_and_then_not_there(names_folder: Path) -> None:
    with pytest.raises(ipc.NoSuchName, match=f"nobody has made a channel 'orders' in {names_folder} within 0.01 s"):
        ipc.open("orders", timeout_s=0.01)
    with pytest.raises(FileNotFoundError, match=r"there is no channel 'orders' in .*see ipc.names"):
        ipc.remove("orders")


def test_who_lives_and_does_not_answer_is_waited_for_no_longer_than_asked() -> None:
    mine = ipc.create("pipe", "orders")
    with mine:
        outcome: list[BaseException] = []

        def visit() -> None:
            try:
                ipc.open("orders", timeout_s=0.05)
            except TimeoutError as error:
                outcome.append(error)

        visitor = threading.Thread(target=visit)
        visitor.start()
        visitor.join()
        assert "did not answer within 0.05 s: it does so while it sends or receives" in str(outcome[0])
        # That visitor has gone, and the next one gets the end.
        with ipc.open("orders") as sender:
            sender.send(b"on")
            assert mine.receive() == b"on"


def _creates_and_dies(ready: object) -> None:
    ipc.create("pipe", "orders")
    os._exit(1)


@pytest.fixture
def stale() -> int:
    """A name that a dead process left behind; its number."""
    left = multiprocessing.get_context("fork").Process(target=_creates_and_dies, args=(None,))
    left.start()
    left.join()
    assert left.pid is not None
    return left.pid


def test_a_stale_name_can_be_removed(stale: int) -> None:
    with pytest.raises(ipc.StaleName, match=f"process {stale}, which is dead, left a channel 'orders' behind"):
        ipc.create("pipe", "orders")
    ipc.remove("orders")
    assert ipc.names() == []
    with ipc.create("pipe", "orders"):
        pass


def test_a_child_that_has_the_socket_does_not_keep_a_dead_process_s_name_alive() -> None:
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    stay, leave = context.Pipe(duplex=False)

    def create_fork_and_die() -> None:
        ipc.create("pipe", "orders")
        child = os.fork()
        if child == 0:
            leave.close()
            stay.poll(PATIENCE_S)
            os._exit(0)
        writer.send(child)
        os._exit(1)

    maker = context.Process(target=create_fork_and_die)
    maker.start()
    reader.recv()
    maker.join()
    with pytest.raises(ipc.StaleName, match=f"process {maker.pid}, which is dead"):
        ipc.open("orders", timeout_s=0)
    with ipc.create("pipe", "orders", replace=True):
        assert ipc.names()[0].lives
    for end in (reader, writer, stay, leave):
        end.close()


def test_what_is_no_socket_is_left_alone(names_folder: Path) -> None:
    _folder.folder()
    (names_folder / "orders").write_text("mine")
    with pytest.raises(ipc.NameTaken, match="orders is nothing of ours"):
        ipc.create("pipe", "orders", replace=True)
    assert (names_folder / "orders").read_text() == "mine"
    assert ipc.names() == []


def test_what_a_killed_process_left_in_the_making_goes_with_the_next_name(names_folder: Path) -> None:
    _folder.folder()
    (names_folder / ".12345").touch()
    with ipc.create("pipe", "orders"):
        assert os.listdir(names_folder) == ["orders"]
        assert (names_folder / "orders").stat().st_mode & 0o777 == 0o600


# --- the folder ---


def test_a_folder_that_is_open_to_others_is_not_used(names_folder: Path) -> None:
    _folder.folder()
    names_folder.chmod(0o750)
    with pytest.raises(ipc.WrongOwner, match=f"is open to others: its mode is 750; chmod 700 {names_folder}"):
        ipc.create("pipe", "orders")


def test_a_folder_that_is_a_link_is_not_used(names_folder: Path, tmp_path: Path) -> None:
    names_folder.parent.mkdir(mode=0o700)
    names_folder.symlink_to(tmp_path)
    with pytest.raises(ipc.WrongOwner, match="is no folder"):
        ipc.names()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_not_used(names_folder: Path) -> None:
    os.chown(names_folder.parent.parent, 12345, -1)
    with pytest.raises(PermissionError, match="belongs to user 12345, and this is user 0"):
        ipc.open("orders")


def test_a_folder_that_cannot_be_had_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere/at/all")
    with pytest.raises(UnderlayError, match="/nowhere/at/all, cannot be had: No such file"):
        ipc.open("orders")


def test_without_a_runtime_folder_there_is_one_in_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert _folder.folder() == f"/tmp/underlay-{os.geteuid()}/ipc"


# --- the door ---


@contextlib.contextmanager
def knocks(folder: Path, data: bytes) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(folder / "orders"))
        stranger.sendall(data)
        yield stranger


@pytest.mark.parametrize("face", ["sync", "aio"])
@pytest.mark.parametrize(
    "data",
    [b"", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\4null", b"\0\0\0\1{", b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0"],
)
def test_a_stranger_gets_nothing_and_does_not_keep_others_out(names_folder: Path, data: bytes, face: str) -> None:
    def receive(mailbox: ipc.Channel) -> bytes:
        if face == "sync":
            return mailbox.receive(timeout_s=PATIENCE_S)
        return asyncio.run(mailbox.aio.receive())

    with ipc.create("pipe", "orders") as mailbox, knocks(names_folder, data) as stranger:
        came: list[ipc.Channel] = []

        def visit() -> None:
            came.append(ipc.open("orders", timeout_s=PATIENCE_S))
            came[0].send(b"on")

        visitor = threading.Thread(target=visit)
        visitor.start()
        assert receive(mailbox) == b"on"
        visitor.join()
        came[0].close()
        stranger.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""


def test_many_who_say_nothing_do_not_pile_up(names_folder: Path) -> None:
    with ipc.create("pipe", "orders") as mailbox, contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(knocks(names_folder, b"\0"))
            with pytest.raises(TimeoutError):
                mailbox.receive(timeout_s=0)
        assert len(mailbox._life.waits()) < 25
        with ipc.open("orders") as sender:
            sender.send(b"on")
            assert mailbox.receive() == b"on"


def test_a_visitor_of_another_version_is_told_so(names_folder: Path) -> None:
    word = b'{"version":99}'
    with (
        ipc.create("pipe", "orders") as mailbox,
        knocks(names_folder, len(word).to_bytes(4, "big") + word) as stranger,
    ):
        with pytest.raises(TimeoutError):
            mailbox.receive(timeout_s=0)
        assert b'"refused": "it speaks version 1 of the handshake"' in stranger.recv(1000)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"SSH-2.0-x\r\n", "answered b'SSH-', which begins no handshake"),
        (b"\0\0\0\4null", "b'null' is no word of the handshake"),
        (b'\0\0\0\x0d{"version":7}', "does not speak version 1 of the handshake, but 7"),
        (b'\0\0\0\x16{"version":1,"end":{}}', "handed over what is no end of a channel"),
    ],
)
def test_who_answers_otherwise_is_not_believed(names_folder: Path, answer: bytes, says: str) -> None:
    path = Path(_folder.folder()) / "orders"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            visitor, _ = listening.accept()
            with visitor:
                visitor.recv(100)
                visitor.sendall(answer)
                with contextlib.suppress(ConnectionResetError):
                    visitor.recv(1)

        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(ipc.HandshakeFailed, match=says):
            ipc.open("orders", timeout_s=PATIENCE_S)
        server.join()


def test_an_end_that_awaits_somebody_cannot_go_to_another_process() -> None:
    with (
        ipc.create("pipe", "orders") as mailbox,
        pytest.raises(UsageError, match="nobody has come for the other end of the pipe channel 'orders'"),
    ):
        mailbox.argument()


def test_a_kind_of_role_that_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no role 'reciever'; did you mean 'receiver'"):
        ipc.create("pipe", "orders", role="reciever")  # type: ignore[arg-type]


def test_nothing_is_left_of_a_channel_whose_name_could_not_be_had() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with ipc.create("pipe", "orders"):
        during = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ipc.NameTaken):
            ipc.create("pipe", "orders")
        assert len(os.listdir("/proc/self/fd")) == during
    assert set(os.listdir("/proc/self/fd")) == before


# --- many senders ---


def test_a_receiver_of_many_keeps_its_name_and_outlives_its_senders(monkeypatch: pytest.MonkeyPatch) -> None:
    # Short messages go into a pipe whole, so it can have many senders; the kind only does not say so.
    monkeypatch.setattr(_pipe, "KIND", dataclasses.replace(_pipe.KIND, many_senders=True))
    with ipc.create("pipe", "orders") as mailbox:
        with ipc.open("orders") as first, ipc.open("orders") as second:
            for sender in (first, second):
                sender.send(b"hello")
                assert mailbox.receive(timeout_s=PATIENCE_S) == b"hello"
        with pytest.raises(TimeoutError):
            mailbox.receive(timeout_s=0.01)
        with ipc.open("orders") as third:
            third.send(b"late")
            assert mailbox.receive(timeout_s=PATIENCE_S) == b"late"
            mailbox.close()
            with pytest.raises(ipc.PeerGone):
                while True:
                    third.send(b"more", timeout_s=PATIENCE_S)
    assert ipc.names() == []


# --- persistent ---


def _persistent_name() -> str:
    return f"test-{os.getpid()}"


@pytest.fixture
def persistent() -> Iterator[str]:
    """The name of a persistent queue, which is gone afterwards."""
    name = _persistent_name()
    yield name
    with contextlib.suppress(ipc.NoSuchName):
        ipc.remove(name)


def test_what_is_in_a_persistent_channel_outlives_its_processes(persistent: str) -> None:
    def send() -> None:
        with ipc.create("mqueue", persistent, role="sender", persistent=True) as sender:
            sender.send(b"later", priority=1)
            sender.send(b"first", priority=2)
        os._exit(1)

    sender = multiprocessing.get_context("fork").Process(target=send)
    sender.start()
    sender.join()
    assert ipc.names() == [ipc.KnownName(persistent, 0, True)]
    with ipc.open(persistent) as receiver:
        assert (receiver.receive(), receiver.receive()) == (b"first", b"later")
        with pytest.raises(TimeoutError):
            receiver.receive(timeout_s=0.01)
        with ipc.open(persistent, role="sender") as other:
            other.send(b"more")
        assert asyncio.run(receiver.aio.receive()) == b"more"
    ipc.remove(persistent)
    assert ipc.names() == []
    with pytest.raises(ipc.NoSuchName):
        ipc.open(persistent, timeout_s=0)


def test_a_persistent_name_is_taken_until_it_is_removed(persistent: str) -> None:
    ipc.create("mqueue", persistent, persistent=True).close()
    for kind, stays in (("mqueue", True), ("pipe", False)):
        with pytest.raises(ipc.NameTaken, match=rf"there is a channel '{persistent}' already; .*ipc\.remove"):
            ipc.create(kind, persistent, persistent=stays, replace=True)


def test_a_persistent_name_whose_queue_is_gone_can_still_be_removed(persistent: str) -> None:
    ipc.create("mqueue", persistent, persistent=True).close()
    _mqueue.remove_persistent(persistent)
    with pytest.raises(ipc.NoSuchName, match="there is no message queue"):
        ipc.open(persistent, timeout_s=0)
    ipc.remove(persistent)
    assert ipc.names() == []


def test_a_kind_that_cannot_be_persistent_says_so() -> None:
    with pytest.raises(UsageError, match="the kind pipe cannot be persistent; mqueue and sysv can"):
        ipc.create("pipe", "orders", persistent=True)
    with pytest.raises(UsageError, match="a persistent channel has one way"):
        ipc.create("mqueue", "orders", role="both", persistent=True)
    assert ipc.names() == []


def test_who_wants_another_role_than_there_is_is_told(names_folder: Path) -> None:
    with (
        ipc.create("pipe", "orders"),
        pytest.raises(UsageError, match="the end of the pipe channel 'orders' that is handed out is a sender"),
    ):
        ipc.open("orders", role="receiver")
