"""The functions of the C library that Python has no words for, each with its types and its page of the manual.

This file knows how each is called. It refuses to know what for. A call that fails is an ``OSError`` with the errno and
the name of the call: `failure` makes it, right after the call.

ctypes is the only way that needs no compiler where underlay is installed. A call costs about 0.3 µs more than one that
Python has itself, and lets other threads run meanwhile.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from collections.abc import Callable
from typing import Any, Final

_LIBRARY: Final = ctypes.CDLL(None, use_errno=True)
X86_64: Final = platform.machine().lower() in ("x86_64", "amd64")
"""Whether system calls have x86-64's own numbers (asm/unistd_64.h), not the common ones (asm-generic/unistd.h)."""


def function(name: str, result: object, *arguments: object) -> Callable[..., int]:
    """A function of the C library by its name. A call with other types raises ``ctypes.ArgumentError``."""
    # Another object each time: one function may have several forms. ctypes has no types that a checker could follow.
    found: Any = _LIBRARY[name]
    found.restype, found.argtypes = result, arguments
    return found  # type: ignore[no-any-return]


def failure(call: str) -> OSError:
    """What went wrong in the last call of this thread, named ``call``."""
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


# --- POSIX message queues: mq_overview(7) ---


class MqAttr(ctypes.Structure):
    """``struct mq_attr`` of mq_getattr(3)."""

    _fields_ = (
        ("mq_flags", ctypes.c_long),
        ("mq_maxmsg", ctypes.c_long),
        ("mq_msgsize", ctypes.c_long),
        ("mq_curmsgs", ctypes.c_long),
        ("_reserved", ctypes.c_long * 4),
    )


_MQ_ATTR_P: Final = ctypes.POINTER(MqAttr)
# mq_open(3), its form with O_CREAT; the mode is passed as an int, as a variable argument is.
mq_open: Final = function("mq_open", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int, _MQ_ATTR_P)
mq_unlink: Final = function("mq_unlink", ctypes.c_int, ctypes.c_char_p)  # mq_unlink(3)
mq_getattr: Final = function("mq_getattr", ctypes.c_int, ctypes.c_int, _MQ_ATTR_P)  # mq_getattr(3)
# mq_send(3): queue, message, its length, priority
mq_send: Final = function("mq_send", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint)
# mq_receive(3): queue, buffer, its length, where the priority goes or NULL
mq_receive: Final = function(
    "mq_receive", ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p
)


# --- System V message queues: sysvipc(7) ---

IPC_PRIVATE: Final = 0
IPC_RMID: Final = 0
IPC_SET: Final = 1
IPC_STAT: Final = 2
IPC_CREAT: Final = 0o1000
IPC_EXCL: Final = 0o2000
IPC_NOWAIT: Final = 0o4000


class IpcPerm(ctypes.Structure):
    """``struct ipc_perm`` of <sys/ipc.h> where a mode has 32 bits (bits/ipc-perm.h of the C library since 2.31)."""

    _fields_ = (
        ("key", ctypes.c_int),
        ("uid", ctypes.c_uint),
        ("gid", ctypes.c_uint),
        ("cuid", ctypes.c_uint),
        ("cgid", ctypes.c_uint),
        ("mode", ctypes.c_uint),
        ("seq", ctypes.c_ushort),
        ("_pad", ctypes.c_ushort),
        ("_reserved", ctypes.c_ulong * 2),
    )


class MsqidDs(ctypes.Structure):
    """``struct msqid_ds`` of msgctl(2) on machines of 64 bits."""

    _fields_ = (
        ("msg_perm", IpcPerm),
        ("msg_stime", ctypes.c_long),
        ("msg_rtime", ctypes.c_long),
        ("msg_ctime", ctypes.c_long),
        ("msg_cbytes", ctypes.c_ulong),
        ("msg_qnum", ctypes.c_ulong),
        ("msg_qbytes", ctypes.c_ulong),
        ("msg_lspid", ctypes.c_int),
        ("msg_lrpid", ctypes.c_int),
        ("_reserved", ctypes.c_ulong * 2),
    )


msgget: Final = function("msgget", ctypes.c_int, ctypes.c_int, ctypes.c_int)  # msgget(2): key, flags
# msgctl(2): queue, command, its argument or NULL
msgctl: Final = function("msgctl", ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.POINTER(MsqidDs))
# msgsnd(2): queue, the type (a long) and the text after it, the length of the text, flags
msgsnd: Final = function("msgsnd", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
# msgrcv(2): queue, buffer, the length of its text, which type, flags
msgrcv: Final = function(
    "msgrcv", ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long, ctypes.c_int
)


# --- signals with a value: signal(7) ---


class SigInfo(ctypes.Structure):
    """The ``siginfo_t`` of a signal that a process queues with a value (sigqueue(3)), on machines of 64 bits."""

    _fields_ = (
        ("si_signo", ctypes.c_int),
        ("si_errno", ctypes.c_int),
        ("si_code", ctypes.c_int),
        ("_pad", ctypes.c_int),
        ("si_pid", ctypes.c_int),
        ("si_uid", ctypes.c_uint),
        ("si_value", ctypes.c_uint64),
        ("_rest", ctypes.c_char * 96),
    )


class SigSet(ctypes.Structure):
    """``sigset_t`` of the C library: 1,024 bits."""

    _fields_ = (("bits", ctypes.c_uint64 * 16),)


SI_QUEUE: Final = -1
SFD_NONBLOCK: Final = os.O_NONBLOCK
SFD_CLOEXEC: Final = os.O_CLOEXEC
# pidfd_send_signal(2) has no function in the C library before 2.39: it goes through syscall(2), as number 424 on every
# machine. Its types: number, pidfd, signal, what comes with it, flags.
_syscall_pidfd: Final = function(
    "syscall", ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.POINTER(SigInfo), ctypes.c_uint
)
SYS_PIDFD_SEND_SIGNAL: Final = 424
# signalfd(2): a descriptor or -1, the signals, flags
signalfd: Final = function("signalfd", ctypes.c_int, ctypes.c_int, ctypes.POINTER(SigSet), ctypes.c_int)


def pidfd_send_signal(pidfd: int, info: SigInfo) -> Callable[[], int]:
    """A call that queues a signal, with its value at that time, for a process: 0, or -1 and an errno."""
    return functools.partial(_syscall_pidfd, SYS_PIDFD_SEND_SIGNAL, pidfd, info.si_signo, ctypes.pointer(info), 0)
