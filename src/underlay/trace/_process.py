"""A capture for the length of a process: begun before its program, whole whenever and however it ends.

This file knows when a process ends and what is written then, and a file that holds whole blocks only. It refuses to
know their format (``_pcapng.py``) and whose frames they are.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable
from typing import BinaryIO, cast

from ..errors import UsageError
from ..link import FRAME
from ._pcapng import LIMIT_BYTES, PcapngWriter

__all__ = ["capture_process"]


class _WholeBlocks:
    """A file that is written block by block, without a buffer: what ends the process leaves no part of a block.

    The cost is one system call a frame, some 2 µs. A regular file loses what was written of a block that the disk had
    no room for.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._size_bytes = 0

    def write(self, block: bytes) -> int:
        view = memoryview(block)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except BaseException:
            self.cut(self._size_bytes)
            raise
        self._size_bytes += len(block)
        return len(block)

    def cut(self, size_bytes: int) -> None:
        """Keep the beginning only; the descriptor appends, so that the next block follows it."""
        if self._is_regular:
            os.ftruncate(self.fd, size_bytes)

    def flush(self) -> None:
        """Nothing waits to be written."""


def capture_process(path: str, *, limit_bytes: int = LIMIT_BYTES) -> tuple[Callable[[], None], Callable[[], None]]:
    """Open ``path`` for the frames of every link; give what begins the capture, and what undoes the opening.

    Until it begins nothing of a file that stood there is lost. It ends with the process, after all that registers
    with ``atexit`` from now on; a signal that ends the process at once leaves a file that is whole as well, without the
    counts at its end. After ``limit_bytes`` frames are only counted, which is told on stderr at the end. Forked
    children write nothing. Raises ``UsageError`` where the file cannot be written.
    """
    is_new = not os.path.lexists(path)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        remedy = {
            errno.ENOENT: "make its directory first",
            errno.EISDIR: "name a file in it",
            errno.ENOTDIR: "name a file in a directory",
        }.get(error.errno or 0, "choose a file that you may write")
        reason = os.strerror(error.errno or 0).lower()
        raise UsageError(f"the capture {path} cannot be written: {reason}", remedy=remedy) from error
    file = _WholeBlocks(fd)
    writers: list[PcapngWriter] = []

    def begin() -> None:
        file.cut(0)
        writer = PcapngWriter(cast("BinaryIO", file), limit_bytes=limit_bytes)
        writers.append(writer)
        FRAME.listen(writer.record)

    def undo() -> None:
        leave()
        if is_new:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def leave() -> None:
        """Write nothing more."""
        while writers:
            FRAME.drop(writers.pop().record)
        if file.fd >= 0:
            os.close(file.fd)
            file.fd = -1

    def end() -> None:
        for writer in writers:
            FRAME.drop(writer.record)
            try:
                writer.close()
            except OSError as error:
                _say(f"the capture {path} ends early: {os.strerror(error.errno or 0)}")
                continue
            left_out = writer.statistics().unwritten_frames
            if left_out:
                _say(f"the capture {path} was full, and {left_out} frames are not in it")
        leave()

    atexit.register(end)
    os.register_at_fork(after_in_child=leave)
    return begin, undo


def _say(sentence: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            # In one write, also where Python is unbuffered: a child may say the same at this moment.
            print(f"underlay: {sentence}\n", end="", file=sys.stderr, flush=True)
