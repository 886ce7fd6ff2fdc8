"""Locks with names: processes that know nothing of each other have the same one, and a death takes it from nobody."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.synchronisation_work import Counter, use_once

from underlay import ipc
from underlay.errors import UsageError
from underlay.ipc import _folder, _folder_lock, _named

PATIENCE_S = 20.0
pytestmark = [
    pytest.mark.usefixtures("names_folder"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
MAKERS: dict[str, Callable[[str], Any]] = {
    "Mutex": lambda name: ipc.Mutex(name=name),
    "Semaphore": lambda name: ipc.Semaphore(1, name=name),
    "Event": lambda name: ipc.Event(name=name),
    "Condition": lambda name: ipc.Condition(name=name),
    "Barrier": lambda name: ipc.Barrier(1, name=name),
    "ReadWriteLock": lambda name: ipc.ReadWriteLock(name=name),
}


@pytest.fixture
def locks(names_folder: Path) -> Path:
    """The folder of their names."""
    _folder.folder()
    found = names_folder.parent / "locks"
    found.mkdir(mode=0o700)
    return found


@contextlib.contextmanager
def stranger(program: str) -> Iterator[subprocess.Popen[str]]:
    """Another program, which has said one line."""
    command = [sys.executable, "-W", "error", "-c", f"import os, sys, time\nfrom underlay import ipc\n{program}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        try:
            yield other
        finally:
            other.kill()


def killed(program: str) -> int:
    """A program that is killed when it has said that it is ready; its number."""
    with stranger(f"{program}\nprint('ready', flush=True)\ntime.sleep(60)") as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        return other.pid


@pytest.mark.parametrize("kind", MAKERS)
def test_a_program_that_knows_the_name_has_the_same_one(kind: str, locks: Path) -> None:
    with contextlib.closing(MAKERS[kind]("orders")) as mine:
        assert mine.name == "orders"
        assert str(mine) == f"the {kind} 'orders'"
        assert [each.name for each in locks.iterdir()] == ["orders"]
        assert (locks / "orders").stat().st_mode & 0o777 == 0o600
        with contextlib.closing(MAKERS[kind]("orders")) as too:
            assert use_once(too, timeout_s=0.01)
        assert use_once(mine, timeout_s=0.01)
    assert list(locks.iterdir()) == []


def test_strangers_wait_for_each_other() -> None:
    program = """
asked, answered = ipc.Semaphore(0, name="asked"), ipc.Semaphore(0, name="answered")
print("ready", flush=True)
for _ in range(100):
    asked.acquire()
    answered.release()
"""
    with stranger(program) as other:
        asked, answered = ipc.Semaphore(0, name="asked"), ipc.Semaphore(0, name="answered")
        for _ in range(100):
            asked.release()
            assert answered.acquire(timeout_s=PATIENCE_S)
        assert other.wait(PATIENCE_S) == 0
        asked.close()
        answered.close()


def _counts(name: str, path: str, times: int) -> None:
    counter = Counter(path)
    for _ in range(times):
        with contextlib.closing(ipc.Mutex(name=name)) as mutex, mutex:
            counter.add()
    counter.close()


def test_who_comes_and_goes_all_the_time_never_has_another_one_than_the_rest(tmp_path: Path, locks: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(64))
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_counts, args=("orders", str(path), 200)) for _ in range(3)]
    for each in others:
        each.start()
    for each in others:
        each.join()
        assert each.exitcode == 0
    counter = Counter(str(path))
    assert counter[0] == 600
    counter.close()
    assert list(locks.iterdir()) == []


# --- deaths ---


@pytest.mark.parametrize("others", [False, True], ids=["it was alone", "others have it"])
@pytest.mark.parametrize("kind", ["Mutex", "Condition"])
def test_a_holder_that_is_killed_is_told_of_to_who_comes_next(kind: str, others: bool, locks: Path) -> None:
    with contextlib.ExitStack() as open_meanwhile:
        if others:
            open_meanwhile.enter_context(contextlib.closing(MAKERS[kind]("orders")))
        died = killed(f"mutex = ipc.{kind}(name='orders')\nmutex.acquire()")
        for _ in range(2):  # until somebody says that it is in order
            with contextlib.closing(MAKERS[kind]("orders")) as mine:
                with pytest.raises(ipc.HolderDied, match=f"process {died} died while it had the {kind} 'orders'"):
                    mine.acquire(timeout_s=PATIENCE_S)
                mine.release()
        with contextlib.closing(MAKERS[kind]("orders")) as mine:
            with pytest.raises(ipc.HolderDied):
                mine.acquire(timeout_s=PATIENCE_S)
            mine.mark_consistent()
            mine.release()
            with mine:
                pass
    assert list(locks.iterdir()) == []
    with contextlib.closing(MAKERS[kind]("orders")) as mine, mine:
        pass


@pytest.mark.parametrize("others", [False, True], ids=["it was alone", "others have it"])
def test_a_writer_that_is_killed_is_told_of_to_who_comes_next(others: bool, locks: Path) -> None:
    with contextlib.ExitStack() as open_meanwhile:
        if others:
            open_meanwhile.enter_context(contextlib.closing(ipc.ReadWriteLock(name="orders")))
        died = killed("lock = ipc.ReadWriteLock(name='orders')\nwriting = lock.writing()\nwriting.__enter__()")
        with contextlib.closing(ipc.ReadWriteLock(name="orders")) as mine:
            with pytest.raises(ipc.HolderDied, match=f"process {died} died while it wrote"), mine.reading():
                pass
            mine.mark_consistent()
            with mine.writing(timeout_s=PATIENCE_S):
                pass
    assert list(locks.iterdir()) == []


def test_a_reader_that_is_killed_leaves_nothing() -> None:
    killed("lock = ipc.ReadWriteLock(name='orders')\nreading = lock.reading()\nreading.__enter__()")
    with contextlib.closing(ipc.ReadWriteLock(name="orders")) as mine, mine.writing(timeout_s=PATIENCE_S):
        pass


def test_a_semaphore_begins_anew_when_all_who_had_it_are_gone() -> None:
    killed("semaphore = ipc.Semaphore(2, name='orders')\nsemaphore.acquire()\nsemaphore.acquire()")
    with contextlib.closing(ipc.Semaphore(3, name="orders")) as mine:
        assert mine.value == 3
        killed("semaphore = ipc.Semaphore(9, name='orders')\nsemaphore.acquire()")
        assert mine.value == 2  # the number is the first one's, and what a dead one had stays taken while others live


def test_who_is_killed_while_it_makes_one_harms_nobody(monkeypatch: pytest.MonkeyPatch, locks: Path) -> None:
    child = os.fork()
    if not child:
        monkeypatch.setattr(ipc.Mutex, "_make", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        ipc.Mutex(name="orders")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (locks / "orders").exists()
    with contextlib.closing(ipc.Mutex(name="orders")) as mine, mine:
        pass


def _uses_for_ever(kind: str, path: str) -> None:
    counter = Counter(path)
    while True:
        with contextlib.suppress(ipc.HolderDied), contextlib.closing(MAKERS[kind]("orders")) as lock:
            try:
                lock.acquire()
            except ipc.HolderDied:
                lock.mark_consistent()
            counter.add()
            lock.release()


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments_hang_nobody_and_split_nothing(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(64))
    context = multiprocessing.get_context("fork")
    for number in range(8):
        others = [context.Process(target=_uses_for_ever, args=("Mutex", str(path))) for _ in range(2)]
        for each in others:
            each.start()
        time.sleep((seed + number) % 5 * 0.004)
        for each in others:
            each.kill()
            each.join()
        with contextlib.closing(ipc.Mutex(name="orders")) as mine:
            try:
                assert mine.acquire(timeout_s=PATIENCE_S)
            except ipc.HolderDied:
                mine.mark_consistent()
            mine.release()


# --- who has it ---


def test_a_forked_child_goes_on_having_it_when_its_parent_has_closed_it(locks: Path) -> None:
    mutex = ipc.Mutex(name="orders")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)  # until the parent is done
        mutex.close()
        os._exit(0)
    os.close(reader)
    mutex.close()
    assert (locks / "orders").exists()
    os.close(writer)
    os.waitpid(child, 0)
    assert list(locks.iterdir()) == []


@pytest.mark.parametrize("kind", MAKERS)
def test_it_is_inherited_and_pickled_with_its_name(kind: str, locks: Path) -> None:
    with contextlib.closing(MAKERS[kind]("orders")) as mine:
        program = f"lock = ipc.inherit(sys.argv[1], ipc.{kind}); print(lock.name); lock.close()"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", f"import sys\nfrom underlay import ipc\n{program}", mine.argument()],
            pass_fds=mine.descriptors,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert (done.stdout, done.stderr) == ("orders\n", "")
        other = multiprocessing.get_context("spawn").Process(target=_has_the_name, args=(mine,))
        other.start()
        other.join()
        assert other.exitcode == 0
        assert (locks / "orders").exists()
    assert list(locks.iterdir()) == []


def _has_the_name(lock: Any) -> None:
    assert lock.name == "orders"
    lock.close()


# --- what cannot be ---


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "a b", "x\0y", 5, b"x"])
def test_a_name_that_cannot_be_is_refused(name: Any) -> None:
    for make in MAKERS.values():
        with pytest.raises(UsageError, match="cannot be the name of a lock"):
            make(name)


def test_a_name_is_as_long_as_that_of_a_file_may_be() -> None:
    ipc.Mutex(name="x" * 255).close()
    with pytest.raises(UsageError, match="is too long; take one of 255 at most"):
        ipc.Mutex(name="x" * 256)


def test_a_name_of_another_class_or_for_another_number_is_refused() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.closing(ipc.Barrier(2, name="orders")):
        during = len(os.listdir("/proc/self/fd"))
        with pytest.raises(UsageError, match="what others have by the name 'orders' is a Barrier, and no Mutex"):
            ipc.Mutex(name="orders")
        with pytest.raises(UsageError, match="the Barrier 'orders' that others have is for 2, and not for 3"):
            ipc.Barrier(3, name="orders")
        assert len(os.listdir("/proc/self/fd")) == during
    assert len(os.listdir("/proc/self/fd")) == before
    with contextlib.closing(ipc.Barrier(3, name="orders")):
        pass


def test_what_is_none_of_ours_is_left_alone(locks: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (locks / "folder").mkdir()
    (locks / "link").symlink_to(locks / "folder")
    os.mkfifo(locks / "fifo")
    for name in ("folder", "link", "fifo"):
        with pytest.raises(ipc.NameTaken, match=f"{name} is nothing of ours"):
            ipc.Mutex(name=name)
    assert sorted(each.name for each in locks.iterdir()) == ["fifo", "folder", "link"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_of_another_size_that_somebody_has_locked_is_left_alone(locks: Path) -> None:
    (locks / "orders").write_bytes(b"notes")
    with open(locks / "orders", "rb") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_SH)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ipc.NameTaken, match="orders is nothing of ours"):
            ipc.Mutex(name="orders")
        assert len(os.listdir("/proc/self/fd")) == before
    assert (locks / "orders").read_bytes() == b"notes"


def test_what_a_dead_one_of_another_class_left_is_no_death_inside() -> None:
    killed("barrier = ipc.Barrier(3, name='orders')")  # the number stands where a mutex says who died
    with contextlib.closing(ipc.Mutex(name="orders")) as mutex, mutex:
        assert mutex.held


def test_who_closes_one_whose_file_was_removed_leaves_the_next_one_of_the_name(locks: Path) -> None:
    old = ipc.Mutex(name="orders")
    (locks / "orders").unlink()
    with contextlib.closing(ipc.Mutex(name="orders")):
        old.close()
        assert [each.name for each in locks.iterdir()] == ["orders"]


def test_a_lock_and_a_channel_may_have_the_same_name() -> None:
    with ipc.create("pipe", "orders"), contextlib.closing(ipc.Mutex(name="orders")):
        assert [known.name for known in ipc.names()] == ["orders"]


def test_a_folder_that_is_locked_for_too_long_is_said_to_be_and_closing_goes_on(
    monkeypatch: pytest.MonkeyPatch, locks: Path
) -> None:
    monkeypatch.setattr(_folder_lock, "PATIENCE_S", 0.01)
    before = len(os.listdir("/proc/self/fd"))
    mutex = ipc.Mutex(name="orders")
    with _folder_lock.locked(str(locks)):
        with pytest.raises(ipc.FolderLocked):
            ipc.Mutex(name="others")
        mutex.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with contextlib.closing(ipc.Mutex(name="orders")) as again, again:
        assert _named.name_of(again.descriptors[0]) == "orders"
    assert list(locks.iterdir()) == []
