"""The kernel's tracepoints: where one is declared, and a descriptor of perf_event_open(2) that hears it or counts it.

Nothing stays behind: the events are descriptors, and end with the process. A tracefs that is not mounted is mounted
for these descriptors alone (fsmount(2)) and shows nowhere.

This file knows two file systems' paths and five system calls that Python has no names for. It refuses to know what a
tracepoint is good for; what the kernel refuses is its `OSError`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final

__all__ = ["INHERIT", "contents", "open_event", "open_folder"]

_MOUNTED: Final = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
# A file of tracefs is at most some kilobytes.
_FILE_BYTES: Final = 1 << 16

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

INHERIT: Final = 1 << 1
"""A flag of an event: the threads and children that begin later count too."""


def open_folder(name: str) -> int:
    """Open the folder of a tracepoint in tracefs, such as ``sock/inet_sock_set_state``."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    for mounted in _MOUNTED:
        try:
            return os.open(f"{mounted}/events/{name}", flags)
        except FileNotFoundError:
            continue
    unseen = _mount_unseen()
    try:
        return os.open(f"events/{name}", flags, dir_fd=unseen)
    finally:
        os.close(unseen)


def contents(name: str, folder: int) -> bytes:
    """Read a file of such a folder: ``id`` is the tracepoint's number on this kernel, ``format`` its fields."""
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(descriptor, _FILE_BYTES)
    finally:
        os.close(descriptor)


def open_event(
    number: int,
    *,
    pid: int = -1,
    processor: int = -1,
    sample_period: int = 0,
    sample_type: int = 0,
    flags: int = 0,
    wakeup_events: int = 0,
) -> int:
    """Hear or count the tracepoint of this number: in one thread, or on one processor; -1 is each of them."""
    call = _PERF_EVENT_OPEN.get(platform.machine())
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    attributes = _ATTRIBUTES.pack(
        _TYPE_TRACEPOINT, _ATTRIBUTES.size, number, sample_period, sample_type, 0, flags, wakeup_events
    )
    no_group = -1
    return _call(call, ctypes.c_char_p(attributes), pid, processor, no_group, _FLAG_FD_CLOEXEC)


def _mount_unseen() -> int:
    """Mount tracefs where no path leads to, and give the descriptor of its root."""
    context = _call(_FSOPEN, ctypes.c_char_p(b"tracefs"), _CLOEXEC)
    try:
        _call(_FSCONFIG, context, _CONFIG_CREATE, None, None, 0)
        return _call(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)


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
