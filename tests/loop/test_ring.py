"""The kernel's own promises about io_uring, as far as the loop leans on them, and how its absence is told.

These tests know `_ring.py` and the kernel. They know nothing of asyncio. Where this machine has no io_uring, those that
need one are skipped; those that take it away (by a seccomp filter, in a child) run everywhere on Linux.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from underlay.loop import _ring
from underlay.loop._ring import ReceiveBuffers, Ring, RingSupport, head, probe, why_not

SUPPORT = probe()
needs_ring = pytest.mark.skipif(not SUPPORT.available, reason=f"{SUPPORT.reason}; {SUPPORT.remedy}")

# A child that runs longer hangs; nothing is measured by it.
LIMIT_S = 60


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring(8, 16)
    ring.enable()
    yield ring
    ring.close()


def nop(ring: Ring, mark: int) -> int:
    return ring.push(head(_ring.NOP, -1), 0, 0, 0, mark)


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@needs_ring
def test_what_is_pushed_completes_at_the_next_wait_with_its_own_mark(ring: Ring) -> None:
    nop(ring, 7)
    nop(ring, 2**64 - 1)
    assert ring.take() == []
    assert ring.wait(None) == [(7, 0, 0), (2**64 - 1, 0, 0)]
    assert ring.wait(0) == []


@needs_ring
def test_a_wait_with_nothing_under_way_ends_by_its_timeout(ring: Ring) -> None:
    assert ring.wait(0.001) == []


@needs_ring
def test_a_refused_operation_does_not_hold_back_those_behind_it(ring: Ring) -> None:
    ring.push(head(_ring.READ, 10**6), 0, 0, 1, 1)
    nop(ring, 2)
    assert ring.wait(0) == [(1, -errno.EBADF, 0), (2, 0, 0)]


@needs_ring
def test_more_operations_than_the_queue_holds_all_complete_in_order(ring: Ring) -> None:
    for mark in range(1000):
        nop(ring, mark)
    # 16 completions have a place; of the others the kernel keeps a list, and gives it as room is made.
    marks: list[int] = []
    while completions := ring.wait(0):
        marks += [mark for mark, _, _ in completions]
    assert marks == list(range(1000))
    assert ring.overflowed == 0


@needs_ring
def test_an_operation_can_be_lengthened_until_the_kernel_knows_of_it(ring: Ring) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        memory = bytearray(b"headers body")
        number = ring.push(head(_ring.SEND, ours.fileno()), 0, _ring.address_of(memory), 7, 1)
        assert ring.lengthen(number, 12)
        assert ring.wait(0) == [(1, 12, 0)]
        assert theirs.recv(100) == b"headers body"
        assert not ring.lengthen(number, 3)


@needs_ring
def test_a_silent_send_completes_aloud_only_when_it_is_short(ring: Ring) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        memory = bytearray(1 << 20)
        flags = (socket.MSG_DONTWAIT | socket.MSG_WAITALL) << 32
        silent = head(_ring.SEND, ours.fileno(), _ring.SKIP_SUCCESS)
        ring.push(silent, 0, _ring.address_of(memory), 100 | flags, 1)
        assert ring.wait(0) == []
        assert len(theirs.recv(1000)) == 100
        ring.push(silent, 0, _ring.address_of(memory), len(memory) | flags, 2)
        ((mark, sent, _),) = ring.wait(0)
        assert mark == 2
        assert 0 < sent < len(memory)
        ring.push(silent, 0, _ring.address_of(memory), 100 | flags, 3)
        assert ring.wait(0) == [(3, -errno.EAGAIN, 0)]


@needs_ring
def test_one_receive_completes_again_and_again_into_the_lent_buffers(ring: Ring) -> None:
    ours, theirs = socket.socketpair()
    buffers = ReceiveBuffers(ring, 0, 4, 4096, 2)
    with ours, theirs:
        ring.push(head(_ring.RECV, ours.fileno(), _ring.MULTISHOT | _ring.BUFFER_SELECT), 0, 0, 0, 9)
        for message in (b"one", b"two"):
            theirs.send(message)
            ((mark, nbytes, flags),) = ring.wait(None)
            assert mark == 9
            assert flags & _ring.CQE_MORE
            start = (flags >> 16) * 4096
            assert buffers.memory[start : start + nbytes] == message
        # Both buffers are filled and none was given back: the receive ends, and says why.
        theirs.send(b"three")
        ((_, result, flags),) = ring.wait(None)
        assert result == -errno.ENOBUFS
        assert not flags & _ring.CQE_MORE
        buffers.give_back([1, 0])  # in any order
        assert buffers.grow()
        assert not buffers.grow()
        ring.push(head(_ring.RECV, ours.fileno(), _ring.MULTISHOT | _ring.BUFFER_SELECT), 0, 0, 0, 9)
        ((_, nbytes, flags),) = ring.wait(None)
        assert flags >> 16 == 1
        assert buffers.memory[4096 : 4096 + nbytes] == b"three"
    ring.close()
    buffers.close()


@needs_ring
def test_a_ring_belongs_to_the_thread_that_enabled_it(ring: Ring) -> None:
    seen: list[int | None] = []

    def elsewhere() -> None:
        try:
            ring.wait(0)
        except OSError as error:
            seen.append(error.errno)

    nop(ring, 1)
    ring.wait(0)
    nop(ring, 2)
    ring.submit()
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [errno.EEXIST]
    assert ring.take() == [(2, 0, 0)], "what completed is there for whoever looks"


@needs_ring
def test_a_later_generation_numbers_its_operations_higher() -> None:
    ring = Ring(8, 16, generation=3)
    ring.enable()
    try:
        assert nop(ring, 1) == 3 << 32
        assert ring.unsubmitted == 1
        assert ring.wait(0) == [(1, 0, 0)]
        assert ring.submitted == (3 << 32) + 1
    finally:
        ring.close()


@needs_ring
def test_closing_gives_back_every_descriptor_and_can_be_done_twice() -> None:
    before = descriptors()
    ring = Ring()
    buffers = ReceiveBuffers(ring, 0, 4, 4096, 2)
    assert descriptors() != before
    ring.close()
    ring.close()
    buffers.close()
    assert descriptors() == before


@needs_ring
def test_a_process_out_of_descriptors_is_told_so_and_not_that_io_uring_is_missing() -> None:
    def out_of_descriptors() -> Ring:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(OSError, match="Too many open files"):
        probe(out_of_descriptors)


# --- where io_uring is forbidden ----------------------------------------------------------------------------

# A seccomp filter (seccomp(2), linux/filter.h): the calls named get an errno, all others pass.
FORBID = """
import ctypes, struct, sys
def forbid(error, *calls):
    load = struct.pack("=HBBI", 0x20, 0, 0, 0)                       # the number of the call
    tests = b"".join(struct.pack("=HBBI", 0x15, 0, 1, call)          # is it this one?
                     + struct.pack("=HBBI", 0x06, 0, 0, 0x50000 | error) for call in calls)
    program = load + tests + struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
    memory = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0                           # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, header, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, by filter
"""
SETUP, ENTER, REGISTER = 425, 426, 427


def in_a_child_without(error: int, *calls: int, then: str) -> subprocess.CompletedProcess[str]:
    program = f"{FORBID}\nforbid({error}, {', '.join(map(str, calls))})\n{then}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=False)


PROBE = """
from underlay.loop._ring import probe
support = probe()
print(support.available, support.reason, support.remedy, sep="|")
"""


@pytest.mark.parametrize(
    ("error", "calls", "reason"),
    [
        (errno.EPERM, (SETUP, ENTER, REGISTER), "seccomp filter forbids"),
        (errno.EPERM, (ENTER,), "seccomp filter forbids"),
        (errno.EPERM, (REGISTER,), "seccomp filter forbids"),
        (errno.ENOSYS, (SETUP, ENTER, REGISTER), "has no io_uring, or a seccomp filter hides it"),
        (errno.EINVAL, (SETUP,), "too old"),
    ],
)
def test_a_filter_that_takes_io_uring_away_is_named_with_a_remedy(
    error: int, calls: tuple[int, ...], reason: str
) -> None:
    if not SUPPORT.available and error == errno.EPERM:
        pytest.skip("another reason comes first here")
    done = in_a_child_without(error, *calls, then=PROBE)
    assert done.stderr == ""
    available, why, remedy = done.stdout.strip().split("|")
    assert available == "False"
    assert reason in why
    assert "epoll" in remedy


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_a_loop_where_io_uring_is_forbidden_refuses_with_a_sentence_and_leaves_no_descriptor(error: int) -> None:
    program = """
import os
from underlay.errors import ModelUnavailable
from underlay.loop._io_uring import UringLoop
before = os.listdir("/proc/self/fd")
try:
    UringLoop()
except ModelUnavailable as refused:
    print(refused)
assert os.listdir("/proc/self/fd") == before
"""
    done = in_a_child_without(error, SETUP, then=program)
    assert done.stderr == ""
    assert done.stdout.startswith("the model uring is not available here: ")


def test_the_sysctl_is_blamed_when_it_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sysctl = tmp_path / "io_uring_disabled"
    monkeypatch.setattr(_ring, "_SYSCTL", sysctl)
    sysctl.write_text("2\n")
    assert why_not(OSError(errno.EPERM, "")) == RingSupport(
        False, "kernel.io_uring_disabled is 2", "sysctl kernel.io_uring_disabled=0, or use the model epoll"
    )
    sysctl.unlink()
    assert "seccomp" in why_not(OSError(errno.EPERM, "")).reason
