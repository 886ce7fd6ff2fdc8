"""io_uring(7) from plain Python: a submission queue, a completion queue and a ring of receive buffers.

This file knows the kernel's interface (``linux/io_uring.h``): sizes, offsets, flags, and the three system
calls behind them. It knows nothing of asyncio, of sockets, or of what a completion is for; ``_io_uring.py``
does.

**One thread, one call.**  A `Ring` is made disabled, and belongs to the thread that calls `enable`: with
``IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN`` the kernel does the completion work only inside
that thread's `wait`, never behind its back.  A call from another thread fails with EEXIST.

**Memory order.** The heads and tails are shared with the kernel, and a plain Python store has no barrier.
None is needed: because of DEFER_TASKRUN the kernel reads our tail and writes its own on *our* thread, within
io_uring_enter(2), and one thread always sees its own stores in order, on x86 and on ARM alike. The head of
the completion queue, which other CPUs may read, only ever frees room: read late, it costs nothing.
"""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# The same numbers on every architecture that asm-generic/unistd.h serves, and on x86-64.
_SYS_SETUP: Final = 425
_SYS_ENTER: Final = 426
_SYS_REGISTER: Final = 427

# --- linux/io_uring.h, in its order ---------------------------------------------------------------------
NOP: Final = 0
FSYNC: Final = 3
POLL_ADD: Final = 6
POLL_REMOVE: Final = 7
ACCEPT: Final = 13
ASYNC_CANCEL: Final = 14
OPENAT: Final = 18
CLOSE: Final = 19
READ: Final = 22
WRITE: Final = 23
SEND: Final = 26
RECV: Final = 27

BUFFER_SELECT: Final = 1 << 5 << 8  # sqe->flags stand in bits 8 to 15 of the first word
SKIP_SUCCESS: Final = 1 << 6 << 8  # a success makes no completion
MULTISHOT: Final = 1 << 1 << 16  # sqe->ioprio, bits 16 to 31: IORING_RECV_MULTISHOT
POLL_MULTISHOT: Final = 1 << 0  # sqe->len: IORING_POLL_ADD_MULTI
ACCEPT_MULTISHOT: Final = 1 << 0 << 16

CANCEL_ALL: Final = 1 << 0
CANCEL_ANY: Final = 1 << 2

CQE_HAS_BUFFER: Final = 1 << 0  # the upper 16 bits of the flags then say which
CQE_MORE: Final = 1 << 1  # the same submission will complete again
CQE_SOCK_NONEMPTY: Final = 1 << 2  # there is more in the socket than the buffer took

_SETUP_CQSIZE: Final = 1 << 3
_SETUP_R_DISABLED: Final = 1 << 6
_SETUP_SUBMIT_ALL: Final = 1 << 7  # one refused entry doesn't hold back those behind it
_SETUP_SINGLE_ISSUER: Final = 1 << 12
_SETUP_DEFER_TASKRUN: Final = 1 << 13  # Linux 6.1, which also has all the multishot operations used here
_SETUP_FLAGS: Final = (
    _SETUP_CQSIZE | _SETUP_R_DISABLED | _SETUP_SUBMIT_ALL | _SETUP_SINGLE_ISSUER | _SETUP_DEFER_TASKRUN
)

_ENTER_GETEVENTS: Final = 1 << 0
_ENTER_EXT_ARG: Final = 1 << 3
_ENTER_FLAGS: Final = _ENTER_GETEVENTS | _ENTER_EXT_ARG  # always GETEVENTS: that is when deferred work is done

_OFF_SQ_RING: Final = 0
_OFF_SQES: Final = 0x10000000

_REGISTER_PROBE: Final = 8
_REGISTER_ENABLE_RINGS: Final = 12
_REGISTER_PBUF_RING: Final = 22

_PARAMS: Final = struct.Struct("=10I 8IQ 8IQ")  # struct io_uring_params: 120 bytes
_SQE: Final = struct.Struct("=6Q")  # the first 48 of 64 bytes; addr3 and its padding stay zero
_SQE_SHIFT: Final = 6
_CQE: Final = struct.Struct("=QiI")
_CQE_AT: Final = _CQE.unpack_from
_CQE_BYTES: Final = 16
_BUFFER: Final = struct.Struct("=QIH")  # struct io_uring_buf without its last field, which in the first is the tail
_BUFFER_BYTES: Final = 16
_BUFFER_REG: Final = struct.Struct("=QIHH3Q")
_TIMESPEC: Final = struct.Struct("=qq")
_GETEVENTS_ARG: Final = struct.Struct("=QIIQ")
_PROBE_OPS: Final = 256
_OP_SUPPORTED: Final = 1 << 0

_U32: Final = 0xFFFFFFFF
_NS: Final = 1_000_000_000

# 1,024 submissions hold a turn of a thousand connections; a longer turn submits in the middle.  64 KiB.
SUBMISSIONS: Final = 1024
# A multishot operation completes many times for one submission; past these the kernel keeps a list (FEAT_NODROP).
COMPLETIONS: Final = 8192


def _no_syscall(*args: object) -> int:
    raise OSError(errno.ENOSYS, f"io_uring is Linux's, and this is {sys.platform}")


# The conversion of each argument to a C long by `argtypes` would cost 0.5 µs a call; ints fit C's int here, and what
# doesn't is wrapped.  Measured: 0.7 µs against 1.3.
_syscall: Callable[..., int] = _no_syscall
if sys.platform == "linux":
    _syscall = ctypes.CDLL(None, use_errno=True).syscall
# The seventh argument goes by the stack, where the upper half of a C int's place is whatever was there.
_ARG_BYTES: Final = ctypes.c_size_t(_GETEVENTS_ARG.size)

Completion = tuple[int, int, int]
"""What the kernel says of one operation: (user_data, result or -errno, flags)."""


def head(opcode: int, fd: int, flags: int = 0) -> int:
    """The first word of a submission: opcode, flags and ioprio (as this file's constants have them) and descriptor."""
    return opcode | flags | (fd & _U32) << 32


def address_of(buffer: mmap.mmap | bytearray | bytes) -> int:
    """Where a buffer lies in memory; it must live, and keep its size, as long as the kernel may use it."""
    if isinstance(buffer, bytes):
        return ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value or 0
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class Ring:
    """One io_uring instance: `push` operations, then `wait` submits all and brings completions, in one system call.

    Raises OSError as io_uring_setup(2) does: EPERM where it is forbidden, ENOSYS where it isn't built, EINVAL
    where the kernel is older than 6.1, EMFILE and ENOMEM where the process is out of something.

    Operations are numbered from ``generation << 32``, so that those of an earlier ring of the same owner are all lower.
    """

    def __init__(self, submissions: int = SUBMISSIONS, completions: int = COMPLETIONS, *, generation: int = 0) -> None:
        params = bytearray(_PARAMS.size)
        _PARAMS.pack_into(params, 0, 0, completions, _SETUP_FLAGS, *[0] * 25)
        self.fd = _call("io_uring_setup", _SYS_SETUP, submissions, ctypes.c_void_p(address_of(params)))
        self._views: list[memoryview] = []
        self._maps: list[mmap.mmap] = []
        try:
            self._map(_PARAMS.unpack(params), generation)
        except BaseException:
            self.close()
            raise

    def _map(self, params: tuple[int, ...], generation: int) -> None:
        sq_entries, cq_entries = params[0], params[1]
        sq_head, sq_tail, sq_mask, _, _, _, sq_array = params[10:17]
        cq_head, cq_tail, cq_mask, _, cq_overflow, cqes = params[19:25]
        # IORING_FEAT_SINGLE_MMAP (5.4): both queues are in one mapping, as long as the longer asks for.
        size = max(sq_array + 4 * sq_entries, cqes + _CQE.size * cq_entries)
        queues = mmap.mmap(self.fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=_OFF_SQ_RING)
        self._maps.append(queues)
        self._sqes = mmap.mmap(self.fd, sq_entries << _SQE_SHIFT, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=_OFF_SQES)
        self._maps.append(self._sqes)
        control = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._maps.append(control)

        words = self._view(queues).cast("B")
        self._sq_head = self._view(words[sq_head : sq_head + 4].cast("I"))
        self._sq_tail = self._view(words[sq_tail : sq_tail + 4].cast("I"))
        self._cq_head = self._view(words[cq_head : cq_head + 4].cast("I"))
        self._cq_tail = self._view(words[cq_tail : cq_tail + 4].cast("I"))
        self._cq_overflow = self._view(words[cq_overflow : cq_overflow + 4].cast("I"))
        self._cqes = self._view(words[cqes : cqes + _CQE.size * cq_entries])
        self._views.append(words)
        # The submission queue proper is an array of indices; entry i is always described by slot i.
        array = words[sq_array : sq_array + 4 * sq_entries]
        array[:] = struct.pack(f"={sq_entries}I", *range(sq_entries))
        array.release()

        self._sq_entries = sq_entries
        self._sq_mask = struct.unpack_from("=I", queues, sq_mask)[0]
        self._cq_mask = struct.unpack_from("=I", queues, cq_mask)[0]
        self._tail = generation << 32  # of what we pushed; the kernel is told the lower half, at the next call
        self.submitted = self._tail  # how far the kernel has taken them
        self._seen = 0  # completions taken, modulo 2**32 as the kernel counts

        # The time-out and the two arguments that point, or don't point, to it.
        base = address_of(control)
        self._timespec = control
        _GETEVENTS_ARG.pack_into(control, 32, 0, 0, 0, base)
        self._arg_timeout = ctypes.c_void_p(base + 32)
        self._arg_forever = ctypes.c_void_p(base + 64)  # zeros: no signal mask, no time-out

    def _view(self, buffer: mmap.mmap | memoryview) -> memoryview:
        view = memoryview(buffer)
        self._views.append(view)
        return view

    def enable(self) -> None:
        """Make the ring the calling thread's own; before this nothing is submitted."""
        _call("io_uring_register", _SYS_REGISTER, self.fd, _REGISTER_ENABLE_RINGS, None, 0)

    def push(self, head: int, off: int, addr: int, length_and_flags: int, user_data: int, group: int = 0) -> int:
        """Queue one operation and give its number; the kernel learns of it at the next `wait` or `submit`.

        `length_and_flags` is ``sqe->len | op_flags << 32``; `group` the buffer group, for heads with BUFFER_SELECT.
        """
        tail = self._tail
        if tail - self.submitted == self._sq_entries:
            self.submit()
            if tail - self.submitted == self._sq_entries:
                raise OSError(errno.EBUSY, "io_uring takes no more operations before completions are taken")
        _SQE.pack_into(
            self._sqes, (tail & self._sq_mask) << _SQE_SHIFT, head, off, addr, length_and_flags, user_data, group
        )
        self._tail = tail + 1
        return tail

    def lengthen(self, number: int, length_and_flags: int) -> bool:
        """Change the length of operation `number`, if the kernel hasn't been told of it yet."""
        if number < self.submitted:
            return False
        struct.pack_into("=Q", self._sqes, ((number & self._sq_mask) << _SQE_SHIFT) + 24, length_and_flags)
        return True

    @property
    def unsubmitted(self) -> int:
        """Operations pushed of which the kernel doesn't know yet."""
        return self._tail - self.submitted

    @property
    def overflowed(self) -> int:
        """Completions that had no room in the queue and were lost; 0 unless the kernel ran out of memory too."""
        return int(self._cq_overflow[0])

    def wait(self, timeout_s: float | None) -> list[Completion]:
        """Submit what was pushed, wait up to `timeout_s` (None: for ever) for a completion, and take all there are."""
        want = 1
        arg = self._arg_forever
        if timeout_s is not None:
            if timeout_s > 0:
                # Rounded up: woken a nanosecond early, a loop would find its timer not due and spin.
                seconds = int(timeout_s)
                nanoseconds = min(_NS - 1, math.ceil((timeout_s - seconds) * _NS))
                _TIMESPEC.pack_into(self._timespec, 0, seconds, nanoseconds)
                arg = self._arg_timeout
            else:
                want = 0
        # What follows is submit() and take(), written out: this runs every turn, and a call costs 0.1 µs.
        tail = self._tail
        self._sq_tail[0] = tail & _U32
        # Where Ctrl-C raises right after the call, nothing is lost: the kernel's own count of what it took is looked
        # up next time (and more than there is it won't take), and what completed is still there.
        done = _syscall(_SYS_ENTER, self.fd, tail - self.submitted, want, _ENTER_FLAGS, arg, _ARG_BYTES)
        self.submitted = tail - ((tail - self._sq_head[0]) & _U32)
        if done < 0:
            _pass_or_raise()
        first, last = self._seen, self._cq_tail[0]
        if first == last:
            return []
        start, stop = (first & self._cq_mask) << 4, (last & self._cq_mask) << 4
        if stop - start == _CQE_BYTES:  # a server with little to do: 0.3 µs less than by a slice
            completions = [_CQE_AT(self._cqes, start)]
        elif start < stop:
            completions = list(_CQE.iter_unpack(self._cqes[start:stop]))
        else:
            return self.take()
        self._seen = last
        self._cq_head[0] = last  # only now may the kernel write there again
        return completions

    def take(self) -> list[Completion]:
        """The completions that the kernel has posted so far; it needs no system call, and any thread may ask."""
        first, last = self._seen, self._cq_tail[0]
        if first == last:
            return []
        self._seen = last
        start, stop = (first & self._cq_mask) << 4, (last & self._cq_mask) << 4
        if start < stop:
            completions = list(_CQE.iter_unpack(self._cqes[start:stop]))
        else:
            completions = [*_CQE.iter_unpack(self._cqes[start:]), *_CQE.iter_unpack(self._cqes[:stop])]
        self._cq_head[0] = last
        return completions

    def submit(self) -> None:
        """Submit what was pushed and let the kernel do the work that is due; nothing is waited for, nothing taken."""
        while True:
            before, tail = self.submitted, self._tail
            self._sq_tail[0] = tail & _U32
            done = _syscall(_SYS_ENTER, self.fd, tail - before, 0, _ENTER_FLAGS, self._arg_forever, _ARG_BYTES)
            self.submitted = tail - ((tail - self._sq_head[0]) & _U32)
            if done < 0:
                _pass_or_raise()
            if self.submitted in (tail, before):
                return

    def has_completed(self, mark: int) -> bool:
        """Whether a completion with this user_data waits to be taken."""
        first, last = self._seen, self._cq_tail[0]
        return any(
            _CQE.unpack_from(self._cqes, (place & self._cq_mask) << 4)[0] == mark
            for place in range(first, first + ((last - first) & _U32))
        )

    def close(self) -> None:
        """Give back the descriptor and the memory; the kernel cancels operations under way in its own time."""
        if self.fd < 0:
            return
        for view in reversed(self._views):
            view.release()
        self._views.clear()
        for mapping in self._maps:
            mapping.close()
        self._maps.clear()
        os.close(self.fd)
        self.fd = -1


def _pass_or_raise() -> None:
    """Raise the error of io_uring_enter(2), unless it is one that passes."""
    error = ctypes.get_errno()
    # A signal, the time-out; EAGAIN and EBUSY are a kernel short of memory, or with more completions than
    # room: both pass once completions are taken, and what wasn't submitted stays queued.
    if error not in (errno.EINTR, errno.ETIME, errno.EAGAIN, errno.EBUSY):
        raise OSError(error, f"io_uring_enter: {os.strerror(error)}")


class ReceiveBuffers:
    """Buffers lent to the kernel, of which a multishot receive takes one when the data is there, not before.

    `count` (a power of two, at most 32,768) of `size` bytes are reserved as address space; `lent` are in use at
    first, and `grow` doubles them.  Memory is touched only where data arrives.
    """

    def __init__(self, ring: Ring, group: int, count: int, size: int, lent: int) -> None:
        self.group = group
        self.size = size
        self.count = count
        self.lent = 0
        self.memory = mmap.mmap(-1, count * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._base = address_of(self.memory)
        # Shared, so that a fork doesn't leave the kernel with our page and us with a copy of it.
        self._entries = mmap.mmap(-1, count * _BUFFER_BYTES, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        self._halfwords = memoryview(self._entries).cast("H")
        self._mask = count - 1
        self._tail = 0
        self._order = [-1] * count  # which buffer stands in which place of the ring
        arg = bytearray(_BUFFER_REG.pack(address_of(self._entries), count, group, 0, 0, 0, 0))
        try:
            _call("io_uring_register", _SYS_REGISTER, ring.fd, _REGISTER_PBUF_RING, ctypes.c_void_p(address_of(arg)), 1)
        except BaseException:
            self.close()
            raise
        self._lend(lent)

    def _lend(self, how_many: int) -> None:
        first, self.lent = self.lent, min(self.count, self.lent + how_many)
        self.give_back(list(range(first, self.lent)))

    def grow(self) -> bool:
        """Lend as many buffers again; False where all are lent."""
        before = self.lent
        self._lend(before)
        return self.lent > before

    def give_back(self, numbers: list[int]) -> None:
        """Lend buffers again whose data was copied out; cheapest in the order in which they were filled."""
        tail, mask, order = self._tail, self._mask, self._order
        for number in numbers:
            place = tail & mask
            if order[place] != number:
                order[place] = number
                _BUFFER.pack_into(
                    self._entries, place * _BUFFER_BYTES, self._base + number * self.size, self.size, number
                )
            tail += 1
        self._tail = tail
        self._halfwords[7] = tail & 0xFFFF  # struct io_uring_buf_ring: the tail is the first entry's last field

    def close(self) -> None:
        """Give the memory back; the ring must be closed before, or else the kernel may still write there."""
        self._halfwords.release()
        self._entries.close()
        self.memory.close()


# --- is there an io_uring here? -----------------------------------------------------------------------------

_NEEDED: Final = {
    "POLL_ADD": POLL_ADD,
    "ACCEPT": ACCEPT,
    "ASYNC_CANCEL": ASYNC_CANCEL,
    "OPENAT": OPENAT,
    "CLOSE": CLOSE,
    "READ": READ,
    "WRITE": WRITE,
    "SEND": SEND,
    "RECV": RECV,
}
# What a kernel, a sysctl or a seccomp filter says to mean "not here"; any other error is the process's own trouble.
NOT_HERE: Final = frozenset({errno.EPERM, errno.ENOSYS, errno.EINVAL})
_SYSCTL: Final = Path("/proc/sys/kernel/io_uring_disabled")
_INSTEAD: Final = "use the model epoll"


@dataclass(frozen=True, slots=True)
class RingSupport:
    """Whether io_uring works here; if not, why, and what mends it."""

    available: bool
    reason: str = ""
    remedy: str = ""


def probe(make_ring: Callable[[], Ring] = Ring) -> RingSupport:
    """Say whether this process can use io_uring, found out by really setting a ring up and using it.

    A container's seccomp filter can be learned in no other way.  OSErrors that are not about io_uring itself
    (EMFILE, ENOMEM) are raised.  Source: io_uring_setup(2).

    >>> support = probe()
    >>> support.available or bool(support.reason and support.remedy)
    True
    """
    if sys.platform != "linux" or sys.byteorder != "little":
        return RingSupport(False, f"io_uring is Linux's, and this is {sys.platform}, {sys.byteorder}-endian", _INSTEAD)
    try:
        ring = make_ring()
        try:
            missing = _missing_operations(ring)
            _use(ring)
        finally:
            ring.close()
    except OSError as error:
        if error.errno not in NOT_HERE:
            raise
        return why_not(error)
    if missing:
        return RingSupport(
            False,
            f"the kernel {os.uname().release} has an io_uring without {', '.join(missing)}",
            "use Linux 6.1 or newer",
        )
    return RingSupport(True)


def why_not(error: OSError) -> RingSupport:
    """Turn the error with which io_uring refused into a reason and a remedy."""
    release = os.uname().release
    if error.errno == errno.EPERM:
        try:
            level = _SYSCTL.read_text().strip()
        except OSError:
            level = "0"
        if level != "0":
            return RingSupport(
                False, f"kernel.io_uring_disabled is {level}", f"sysctl kernel.io_uring_disabled=0, or {_INSTEAD}"
            )
        return RingSupport(
            False,
            "a seccomp filter forbids io_uring, as containers do by default",
            f"allow io_uring_setup, io_uring_enter and io_uring_register in its profile, or {_INSTEAD}",
        )
    if error.errno == errno.ENOSYS:
        return RingSupport(
            False,
            f"the kernel {release} has no io_uring, or a seccomp filter hides it",
            f"use a kernel built with CONFIG_IO_URING, or a seccomp profile that allows it, or {_INSTEAD}",
        )
    return RingSupport(
        False, f"the io_uring of the kernel {release} is too old", f"use Linux 6.1 or newer, or {_INSTEAD}"
    )


def _missing_operations(ring: Ring) -> list[str]:
    answer = bytearray(16 + 8 * _PROBE_OPS)  # struct io_uring_probe and its ops[]
    _call("io_uring_register", _SYS_REGISTER, ring.fd, _REGISTER_PROBE, ctypes.c_void_p(address_of(answer)), _PROBE_OPS)
    flags = {answer[at]: answer[at + 2] for at in range(16, 16 + 8 * (answer[0] + 1), 8)}
    return [name for name, opcode in _NEEDED.items() if not flags.get(opcode, 0) & _OP_SUPPORTED]


def _use(ring: Ring) -> None:
    """A filter may allow the setup and forbid the rest, so do the rest too."""
    buffers = ReceiveBuffers(ring, 0, 1, mmap.PAGESIZE, 1)
    try:
        ring.enable()
        ring.push(head(NOP, -1), 0, 0, 0, 1)
        ring.wait(0)
    finally:
        ring.close()
        buffers.close()


def _call(name: str, number: int, *args: object) -> int:
    result: int = _syscall(number, *args)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result
