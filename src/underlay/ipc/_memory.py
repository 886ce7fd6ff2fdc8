"""Memory that two processes share: a memfd_create(2) that nobody can make shorter.

This file knows how such memory is made, sealed and mapped. It refuses to know what is in it.

**Why it is sealed.** Whoever maps a file and touches a page beyond its end is killed by SIGBUS. A peer that could make
the file shorter could kill us so; a memfd with F_SEAL_SHRINK cannot be made shorter by anybody, and a descriptor that
came from elsewhere is looked at for the seal before it is mapped. It has no name in any file system: nothing is left
when the last process is gone, however it went.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
from typing import Final

from ._errors import Damaged

PAGE_BYTES: Final = mmap.PAGESIZE
# madvise(2): a page that is touched for the first time is a fault, which costs as much as to copy four pages, and more
# on a virtual machine; many at once cost a fifth (measured).
_MADV_POPULATE_READ, _MADV_POPULATE_WRITE = 22, 23
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def create(name: str, size_bytes: int) -> int:
    """The descriptor of new memory, full of zeros, whose size is sealed; ``name`` is seen in /proc alone."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size_bytes)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def attach(descriptor: int, size_bytes: int) -> mmap.mmap:
    """The memory behind a descriptor. Raises `Damaged` where it is not as long as it must be, or may become shorter."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        raise Damaged(f"descriptor {descriptor} is no shared memory", remedy="make a new channel") from None
    found_bytes = os.fstat(descriptor).st_size
    if found_bytes < size_bytes or not seals & fcntl.F_SEAL_SHRINK:
        raise Damaged(
            f"shared memory of {found_bytes:,} bytes that is {'' if seals & fcntl.F_SEAL_SHRINK else 'not '}sealed "
            f"came where {size_bytes:,} bytes, sealed, are needed",
            remedy="make a new channel, with both ends of the same version",
        )
    return mmap.mmap(descriptor, size_bytes)


def get_pages(memory: mmap.mmap, start: int, end: int, *, to_write: bool) -> None:
    """Have the kernel put these pages into the page table at once, where it can; they hold what they held."""
    start -= start % PAGE_BYTES
    # A kernel before 5.14 does not know it, and one that is short of memory refuses: then the pages come one by one.
    with contextlib.suppress(OSError):
        memory.madvise(_MADV_POPULATE_WRITE if to_write else _MADV_POPULATE_READ, start, end - start)


def address_of(memory: mmap.mmap) -> int:
    """Where it begins in this process, for calls of the C library. Valid while it is open."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def detach(memory: mmap.mmap, *views: memoryview) -> None:
    """Unmap it; where somebody still has a view of it, that happens when the last view goes."""
    with contextlib.suppress(BufferError):
        for view in views:
            view.release()
        memory.close()


def rounded_up(size_bytes: int, unit_bytes: int) -> int:
    """The next multiple of a unit."""
    return -(-size_bytes // unit_bytes) * unit_bytes
