"""A process that was stopped while it had the folder of names locked holds up the others for a bounded time."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from underlay import ipc
from underlay.ipc import _folder, _folder_lock

PATIENCE_S = 20.0
pytestmark = [
    pytest.mark.usefixtures("names_folder"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def _locks_and_stops(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Lock the folder by a process that stops with it; says which."""
    monkeypatch.setattr(_folder_lock, "PATIENCE_S", 0.05)
    started = []

    def stop() -> int:
        other = multiprocessing.get_context("fork").Process(target=_locks_and_stops, args=(_folder.folder(),))
        other.start()
        assert other.pid is not None
        started.append(other)
        os.waitpid(other.pid, os.WUNTRACED)
        return other.pid

    yield stop
    for other in started:
        other.kill()
        other.join()


def _makes(call: Callable[[], object], names_folder: Path) -> str:
    before, files = len(os.listdir("/proc/self/fd")), sorted(os.listdir(names_folder))
    with pytest.raises(ipc.FolderLocked) as met:
        call()
    assert len(os.listdir("/proc/self/fd")) == before
    assert sorted(os.listdir(names_folder)) == files
    return str(met.value)


def test_who_waits_for_a_stopped_process_is_told_which_it_is(stop: Callable[[], int], names_folder: Path) -> None:
    other = stop()
    says = (
        f"process {other}, which is stopped, has kept {names_folder}, a folder of channels, locked for more than "
        f"0.05 s; let it go on (kill -CONT {other}), or end it"
    )
    assert _makes(lambda: ipc.create("pipe", "orders"), names_folder) == says
    assert _makes(lambda: ipc.listen("unix", "orders"), names_folder) == says
    assert _makes(lambda: ipc.create("mqueue", "orders", persistent=True), names_folder) == says
    assert _makes(lambda: ipc.remove("orders"), names_folder) == says
    assert _makes(lambda: ipc.pair("fifo"), names_folder) == says


def test_a_name_can_be_made_when_the_stopped_process_was_killed(stop: Callable[[], int], names_folder: Path) -> None:
    other = stop()
    _makes(lambda: ipc.create("pipe", "orders"), names_folder)
    os.kill(other, signal.SIGKILL)
    with ipc.create("pipe", "orders"):
        assert os.listdir(names_folder) == ["orders"]


def test_a_channel_whose_folder_is_locked_closes_and_leaves_no_name(
    stop: Callable[[], int], names_folder: Path
) -> None:
    with ipc.create("pipe", "orders"), ipc.listen("unix", "service"):
        stop()
    assert os.listdir(names_folder) == []


def test_who_receives_waits_no_longer_and_the_visitor_is_told_who_is_in_the_way(
    stop: Callable[[], int], names_folder: Path
) -> None:
    came: list[ipc.Channel | Exception] = []

    def visit(timeout_s: float) -> None:
        try:
            came.append(ipc.open("orders", timeout_s=timeout_s))
        except TimeoutError as error:
            came.append(error)

    with ipc.create("pipe", "orders") as mailbox:
        other = stop()
        visitor = threading.Thread(target=visit, args=(0.2,))
        visitor.start()
        while visitor.is_alive():
            with pytest.raises(TimeoutError, match="brought no message within"):
                mailbox.receive(timeout_s=0.01)
        assert str(came[0]).startswith(
            f"process {os.getpid()}, which has the channel 'orders', cannot let anybody in: "
            f"process {other}, which is stopped, has kept {names_folder}"
        )
        # It is let in, once the folder is free.
        visitor = threading.Thread(target=visit, args=(PATIENCE_S,))
        visitor.start()
        with pytest.raises(TimeoutError):
            mailbox.receive(timeout_s=0.1)
        os.kill(other, signal.SIGKILL)
        while visitor.is_alive():
            with pytest.raises(TimeoutError):
                mailbox.receive(timeout_s=0.01)
        sender = came[1]
        assert isinstance(sender, ipc.Channel)
        with sender:
            sender.send(b"on")
            assert mailbox.receive(timeout_s=PATIENCE_S) == b"on"


def test_a_child_that_keeps_what_a_killed_process_had_is_told_of(
    names_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_folder_lock, "PATIENCE_S", 0.01)
    where = _folder.folder()
    stay, leave = os.pipe()
    other = os.fork()
    if not other:
        with _folder_lock.locked(where):
            if os.fork():
                os.kill(os.getpid(), signal.SIGKILL)
            os.close(leave)
            os.read(stay, 1)
            os._exit(0)
    os.close(stay)
    os.waitpid(other, 0)
    says = _makes(lambda: ipc.create("pipe", "orders"), names_folder)
    # In a container, whose processes have numbers of their own, the kernel has none for one that is dead.
    child = f"a child of process {other}, which is dead, has kept {names_folder}", "; end that child"
    nobody = f"another process has kept {names_folder}", "; try again; as root, lslocks shows it"
    assert any(says.startswith(begins) and says.endswith(ends) for begins, ends in (child, nobody))
    os.close(leave)
    monkeypatch.undo()


def test_a_lock_that_nobody_is_known_to_have_is_said_so(names_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = _folder.folder()
    monkeypatch.setattr(_folder_lock, "PATIENCE_S", 0.01)
    monkeypatch.setattr(_folder_lock, "_LOCKS", "/proc/nowhere")
    with _folder_lock.locked(where), pytest.raises(ipc.FolderLocked, match=r"^another process has kept .*; try again"):
        ipc.create("pipe", "orders")
    monkeypatch.undo()


def test_a_lock_whose_process_runs_is_named_without_a_word_of_stopping(
    names_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = _folder.folder()
    monkeypatch.setattr(_folder_lock, "PATIENCE_S", 0.01)
    with (
        _folder_lock.locked(where),
        pytest.raises(ipc.FolderLocked, match=f"^process {os.getpid()} has kept .*; end it, or try again"),
    ):
        ipc.create("pipe", "orders")
