"""Writes down where a thread is when nobody says in time that it goes on, also while C code holds the interpreter lock.

Three ways were at hand. A Python thread that looks (`sys._current_frames`) needs the interpreter lock, which is just
what a call in C may hold; so does a Python signal handler, which runs only when the call is over.
`faulthandler.dump_traceback_later` needs none, but there is one for the process, which pytest and others use, it
starts a thread each time it is armed, and it walks the frames of threads that run meanwhile. So here the kernel
keeps the time: timer_create(2) with SIGEV_THREAD_ID sends a real-time signal to *the blocked thread itself*, and the
handler is the one that `faulthandler.register` sets. It is C, needs no lock, and writes the stack of the thread in
which it runs, whose frames therefore stand still. The timer is armed again by one system call, timer_settime(2).

The text goes into a memfd whose size is sealed: however long a call blocks, the kernel refuses what is past its end.

This file knows the timer, the signal and the file. It refuses to know any loop, and what a stack means.
"""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import os
import signal
import sys
import threading
from typing import Any, Final

from ..errors import UnderlayError

__all__ = ["Sampler"]

# Room for the samples of one block. faulthandler writes 100 frames at most, mostly below 8 KiB.
ROOM_BYTES: Final = 256 * 1024
# Less room than this, and the last sample may have lost its end.
_CUT_BELOW_BYTES: Final = 1024

# asm-generic/siginfo.h, time.h; fcntl.h (Python's fcntl module names the last two since 3.8 on Linux).
_SIGEV_THREAD_ID: Final = 4
_CLOCK_MONOTONIC: Final = 1
_NS_PER_S: Final = 1_000_000_000

# faulthandler writes one stack at a time in a process, and drops what is asked for meanwhile (``reentrant`` in
# CPython's Modules/faulthandler.c). Timers that ran out together would do so for ever, each time to the loss of all but
# one: so each repeats by a step of its own, longer by so much for each number its signal is above the lowest.
_STAGGER: Final = 1 / 64


class _SigEvent(ctypes.Structure):
    """``struct sigevent`` of timer_create(2): 64 bytes, with the thread in its union."""

    _fields_ = (
        ("sigev_value", ctypes.c_void_p),
        ("sigev_signo", ctypes.c_int),
        ("sigev_notify", ctypes.c_int),
        ("sigev_notify_thread_id", ctypes.c_int),
        ("_rest", ctypes.c_char * 44),
    )


class _TimerSpec(ctypes.Structure):
    """``struct itimerspec`` of timer_settime(2)."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


def _library_function(name: str, *arguments: object, result: object = ctypes.c_int) -> Any:
    """A function of the C library, called with the interpreter lock held: these never wait, and giving it up costs."""
    library = ctypes.PyDLL(None, use_errno=True)
    if not hasattr(library, name):  # glibc before 2.34 has the timers in a library of their own
        library = ctypes.PyDLL("librt.so.1", use_errno=True)
    found: Any = getattr(library, name)
    found.argtypes, found.restype = arguments, result
    return found


class Sampler:
    """A timer on one thread and the stacks that were written down when it ran out.

    Raises ``UnderlayError`` where the machine isn't Linux, or every real-time signal of the process is in use.
    """

    def __init__(self) -> None:
        platform: str = sys.platform  # a plain str: mypy believes that sys.platform is a constant
        if platform != "linux":
            raise UnderlayError(
                f"a watchdog needs Linux's timers, and this is {platform}", remedy="use asyncio's debug mode"
            )
        from ._real_time_signals import take_unused

        self._settime = _library_function(
            "timer_settime", ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_TimerSpec), ctypes.c_void_p
        )
        self._delete = _library_function("timer_delete", ctypes.c_void_p)
        self._signal_function = _library_function("signal", ctypes.c_int, ctypes.c_void_p, result=ctypes.c_void_p)
        self._timer: ctypes.c_void_p | None = None
        self._off = ctypes.byref(_TimerSpec())
        self._unblocked = False
        self.thread_ident = 0
        self._closing = threading.Lock()
        taken = take_unused()
        if taken is None:
            raise UnderlayError(
                "no real-time signal is free for another watched loop in this process",
                remedy="end watchdogs, signal-driven loops or channels by signals that are no longer used",
            )
        self._signo = taken
        try:
            self._fd = os.memfd_create("underlay-watchdog", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except BaseException:
            self._give_back_number()
            raise
        os.ftruncate(self._fd, ROOM_BYTES)
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        # faulthandler puts back, at the end, what it finds now. A signal that is ignored can't end the process if it
        # comes late, and ignoring one takes it out of the queues of all threads. Python's signal.signal() works in the
        # main thread only.
        self._signal_function(self._signo, int(signal.SIG_IGN))
        faulthandler.register(self._signo, file=self._fd, all_threads=False, chain=False)

    def adopt_thread(self) -> None:
        """Aim at the calling thread from now on."""
        self._drop_timer()
        event = _SigEvent(
            sigev_signo=self._signo,
            sigev_notify=_SIGEV_THREAD_ID,
            sigev_notify_thread_id=threading.get_native_id(),
        )
        create = _library_function(
            "timer_create", ctypes.c_int, ctypes.POINTER(_SigEvent), ctypes.POINTER(ctypes.c_void_p)
        )
        timer = ctypes.c_void_p()
        if create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
            number = ctypes.get_errno()
            raise OSError(number, f"timer_create: {os.strerror(number)}")
        self._timer = timer
        self.thread_ident = threading.get_ident()
        # A thread whose maker blocked all signals would never be asked. This number is ours alone.
        self._unblocked = self._signo in signal.pthread_sigmask(signal.SIG_UNBLOCK, [self._signo])

    def specification(self, first_s: float, then_s: float) -> Any:
        """What `arm` takes: run out after ``first_s``, and again each ``then_s`` or up to half as much more.

        How much more is the sampler's own, so that two of them never run out together again and again. Made once, as it
        costs 2 µs.
        """
        stagger = 1 + (self._signo - signal.SIGRTMIN) * _STAGGER
        first_ns, then_ns = round(first_s * _NS_PER_S), round(then_s * stagger * _NS_PER_S)
        return ctypes.byref(_TimerSpec(*divmod(then_ns, _NS_PER_S), *divmod(first_ns, _NS_PER_S)))

    def arm(self, specification: Any) -> None:
        """Begin to count anew. In the thread itself: no signal from before comes after this."""
        self._settime(self._timer, 0, specification, None)

    def disarm(self) -> None:
        """Count no more, until armed again."""
        if self._timer is not None:
            self._settime(self._timer, 0, self._off, None)

    def take(self) -> list[str]:
        """The stacks written since the last time, as faulthandler writes them; the oldest first."""
        samples = self._written()
        os.lseek(self._fd, 0, os.SEEK_SET)
        return samples

    def peek(self) -> list[str]:
        """The stacks written so far, in any thread: they stay for `take`."""
        with self._closing:
            return self._written() if self._fd >= 0 else []

    def _written(self) -> list[str]:
        end = os.lseek(self._fd, 0, os.SEEK_CUR)
        if not end:
            return []
        samples = os.pread(self._fd, end, 0).decode("ascii", "replace").split("Stack (most recent call first):\n")[1:]
        if end > ROOM_BYTES - _CUT_BELOW_BYTES and len(samples) > 1:
            samples.pop()
        return samples

    def close(self) -> None:
        """Give the timer, the signal with its handler, and the descriptor back. Once more does no harm."""
        if self._fd < 0:
            return
        self._drop_timer()
        if self._unblocked and self.thread_ident == threading.get_ident():
            signal.pthread_sigmask(signal.SIG_BLOCK, [self._signo])
        faulthandler.unregister(self._signo)
        self._signal_function(self._signo, int(signal.SIG_DFL))
        with self._closing:  # else another thread might read what gets this number next
            fd, self._fd = self._fd, -1
            os.close(fd)
        self._give_back_number()

    def close_in_child(self) -> None:
        """After fork(2): timers are not inherited (fork(2)), the rest is given back."""
        self._timer = None
        self.close()

    def _drop_timer(self) -> None:
        if self._timer is not None:
            timer, self._timer = self._timer, None
            self._delete(timer)

    def _give_back_number(self) -> None:
        from ._real_time_signals import free_signals

        free_signals.insert(0, self._signo)
