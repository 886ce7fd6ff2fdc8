"""Wakes a waiter when a TCP socket of this machine changes its state: the tracepoint ``sock:inet_sock_set_state``.

This file knows perf_event_open(2) and where a tracepoint has its number. It refuses to know which socket it was: the
tracepoint does not say in which network namespace, so whoever is woken asks sock_diag, which answers for its own. So
nothing is read but *that* something happened, and a buffer that is too small loses nothing.

Nothing stays behind: the events are descriptors, and end with the process. A tracefs that is not mounted is mounted
for these descriptors alone (fsmount(2)) and shows nowhere.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
from types import TracebackType
from typing import Final, Self

__all__ = ["Tracepoint", "TracepointUnavailable"]

_ID: Final = "events/sock/inet_sock_set_state/id"  # since Linux 4.16
_MOUNTED: Final = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

# asm/unistd_64.h, and asm-generic/unistd.h for the younger machines.
_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "loongarch64": 241}
# The same on every machine since they have one table: asm-generic/unistd.h, Linux 5.2.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
# linux/mount.h
_CLOEXEC: Final = 1  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC
_CONFIG_CREATE: Final = 6

# struct perf_event_attr of its first version (linux/perf_event.h): type, size, config, sample_period, sample_type,
# read_format, flags, wakeup_events, and 12 bytes more.
_ATTRIBUTES: Final = struct.Struct("=IIQQQQQI12x")
_TYPE_TRACEPOINT: Final = 2
_FLAG_FD_CLOEXEC: Final = 8
# data_head and data_tail in the first page of the buffer.
_HEADS: Final = struct.Struct("=QQ")
_HEADS_AT: Final = 1024


class TracepointUnavailable(Exception):
    """This user or this kernel may not, or cannot, hear of it; the text says why."""


class Tracepoint:
    """Descriptors that poll(2) finds readable (POLLIN) after a state changed, until `drain` is called.

    Raises `TracepointUnavailable`.
    """

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self._buffers: list[mmap.mmap] = []
        try:
            number = _number()
            for processor in range(os.sysconf("SC_NPROCESSORS_CONF")):
                self._listen(number, processor)
            if not self.descriptors:
                raise TracepointUnavailable("no processor is online")
        except OSError as error:
            self.close()
            raise TracepointUnavailable(_reason(error)) from None
        except BaseException:
            self.close()
            raise

    def _listen(self, number: int, processor: int) -> None:
        wake_each_event = 1
        attributes = _ATTRIBUTES.pack(_TYPE_TRACEPOINT, _ATTRIBUTES.size, number, 1, 0, 0, 0, wake_each_event)
        try:
            descriptor = _perf_event_open(attributes, processor)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return  # this processor is offline
            raise
        self.descriptors.append(descriptor)
        # One page of head and tail, and one of records: poll(2) tells of an event only where there is a buffer.
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        self._buffers.append(mmap.mmap(descriptor, 2 * mmap.PAGESIZE, mmap.MAP_SHARED, protection))

    def drain(self) -> None:
        """Forget what was recorded, so that the next event wakes again."""
        for buffer in self._buffers:
            head, _ = _HEADS.unpack_from(buffer, _HEADS_AT)
            struct.pack_into("=Q", buffer, _HEADS_AT + 8, head)

    def close(self) -> None:
        """Let go of the events."""
        for buffer in self._buffers:
            buffer.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self._buffers, self.descriptors = [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _number() -> int:
    """The tracepoint's number on this kernel."""
    for folder in _MOUNTED:
        try:
            with open(f"{folder}/{_ID}") as file:
                return int(file.read())
        except FileNotFoundError:
            continue
    mounted = _mount_unseen()
    try:
        descriptor = os.open(_ID, os.O_RDONLY | os.O_CLOEXEC, dir_fd=mounted)
        try:
            return int(os.read(descriptor, 32))
        finally:
            os.close(descriptor)
    finally:
        os.close(mounted)


def _mount_unseen() -> int:
    """Mount tracefs where no path leads to, and give the descriptor of its root."""
    context = _call(_FSOPEN, ctypes.c_char_p(b"tracefs"), _CLOEXEC)
    try:
        _call(_FSCONFIG, context, _CONFIG_CREATE, None, None, 0)
        return _call(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)


def _perf_event_open(attributes: bytes, processor: int) -> int:
    number = _PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    every_process = no_group = -1
    return _call(number, ctypes.c_char_p(attributes), every_process, processor, no_group, _FLAG_FD_CLOEXEC)


def _call(number: int, *arguments: int | ctypes.c_char_p | None) -> int:
    """syscall(2): each argument takes a register of 64 bits."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result: int = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.EPERM | errno.EACCES:
            return "only root may hear of it"
        case errno.ENOENT | errno.ENODEV | errno.ENOSYS:
            return "this kernel has it not"
        case _:
            return os.strerror(error.errno or 0).lower()
