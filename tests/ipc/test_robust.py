"""The robust mutex between processes, alone."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from underlay import ipc
from underlay.ipc import _memory, _robust
from underlay.ipc._robust import Got


@pytest.fixture
def mutex() -> Iterator[int]:
    descriptor = _memory.create("mutex", _memory.PAGE_BYTES)
    memory = _memory.attach(descriptor, _memory.PAGE_BYTES)
    os.close(descriptor)
    address = _memory.address_of(memory)
    _robust.create(address)
    yield address
    memory.close()


def in_another_process(work: Callable[[], bool]) -> int:
    pid = os.fork()
    if not pid:
        try:
            os._exit(work())
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_one_process_at_a_time_has_it(mutex: int) -> None:
    assert _robust.lock(mutex) is Got.LOCKED
    assert in_another_process(lambda: _robust.lock(mutex, 0) is Got.BUSY)
    assert in_another_process(lambda: _robust.lock(mutex, 0.01) is Got.BUSY)
    _robust.unlock(mutex)
    assert in_another_process(lambda: _robust.lock(mutex) is Got.LOCKED)


def test_a_thread_that_waits_gets_it(mutex: int) -> None:
    got: list[Got] = []

    def wait() -> None:
        got.append(_robust.lock(mutex, 20))
        _robust.unlock(mutex)

    _robust.lock(mutex)
    thread = threading.Thread(target=wait)
    thread.start()
    _robust.unlock(mutex)
    thread.join()
    assert got == [Got.LOCKED]


def test_the_death_of_its_holder_is_told_to_the_next(mutex: int) -> None:
    assert in_another_process(lambda: _robust.lock(mutex) is Got.LOCKED) == 1
    assert _robust.lock(mutex) is Got.HOLDER_DIED
    _robust.make_consistent(mutex)
    _robust.unlock(mutex)
    assert _robust.lock(mutex) is Got.LOCKED
    _robust.unlock(mutex)


def test_it_is_of_no_use_where_nobody_made_it_consistent(mutex: int) -> None:
    in_another_process(lambda: _robust.lock(mutex) is Got.LOCKED)
    assert _robust.lock(mutex) is Got.HOLDER_DIED
    _robust.unlock(mutex)
    with pytest.raises(OSError, match="pthread_mutex_lock") as refused:
        _robust.lock(mutex)
    assert refused.value.errno == errno.ENOTRECOVERABLE


def test_its_misuse_is_an_error(mutex: int) -> None:
    with pytest.raises(PermissionError):
        _robust.unlock(mutex)
    with pytest.raises(OSError, match="pthread_mutex_consistent"):
        _robust.make_consistent(mutex)
    _robust.lock(mutex)
    with pytest.raises(OSError, match="pthread_mutex_lock") as refused:
        _robust.lock(mutex, 1)
    assert refused.value.errno in (errno.EDEADLK, errno.EBUSY)
    _robust.unlock(mutex)


@pytest.mark.parametrize("kind", [-1, 0, 1, 0x7FFFFFFF, 0x192, 0x292])
def test_a_mutex_that_another_program_wrote_over_is_not_locked(kind: int) -> None:
    memory = ctypes.create_string_buffer(_robust.SIZE_BYTES)
    address = ctypes.addressof(memory)
    _robust.create(address)
    assert _robust.lock(address, 0) is Got.LOCKED
    _robust.unlock(address)
    struct.pack_into("i", memory, 16, kind)
    with pytest.raises(ipc.Damaged, match="another program wrote into the shared memory"):
        _robust.lock(address, 0)


@pytest.mark.parametrize("seed", range(20))
def test_a_sender_survives_rubbish_in_the_memory_of_many(seed: int) -> None:
    receiver, sender = ipc.pair("ring-many")
    with receiver, sender:
        sender.send(b"one")
        with mmap.mmap(sender.descriptors[0], mmap.PAGESIZE) as memory:
            memory[:] = random.Random(seed).randbytes(mmap.PAGESIZE)
        with pytest.raises(ipc.Damaged):
            sender.send(b"two", timeout_s=0)


def test_a_program_that_ends_with_a_mutex_says_nothing_of_it() -> None:
    program = "from underlay import ipc; mutex = ipc.Mutex(); mutex.acquire()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_mutex_that_is_forgotten_while_it_is_held_harms_no_other() -> None:
    program = """
from underlay import ipc
for _ in range(20):
    mutex = ipc.Mutex()
    mutex.acquire()
    del mutex
with ipc.Mutex() as other:
    pass
other.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
