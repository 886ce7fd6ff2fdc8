"""Network namespaces: making one, working in one, and giving one a name.

This file knows unshare(2), setns(2) and mount(2), by ctypes, since Python has the first two only from 3.12 on. A
network namespace is a thread's own, so work in another one is done by a thread of its own that enters it and ends;
the thread that asked never leaves where it is. It refuses to know what is done there.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self, TypeVar

__all__ = ["CLONE_NEWNET", "CLONE_NEWUSER", "NAMED", "Namespace", "setns", "unshare"]

# linux/sched.h
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWNET: Final = 0x4000_0000
# linux/mount.h
_MS_BIND: Final = 4096
_MNT_DETACH: Final = 2

NAMED: Final = Path("/run/netns")
"""Where ip-netns(8) looks for namespaces that have a name."""

_T = TypeVar("_T")


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str | None = None) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    """Leave the namespaces that ``flags`` name for new ones; unshare(2), of the calling thread."""
    _checked(_libc().unshare(flags))


def setns(fd: int, kind: int = CLONE_NEWNET) -> None:
    """Enter the namespace behind the descriptor; setns(2), of the calling thread."""
    _checked(_libc().setns(fd, kind))


def _mount(source: str, target: str, flags: int) -> None:
    """Mount ``source`` at ``target``; mount(2) for flags that need no type of file system."""
    _checked(_libc().mount(source.encode(), target.encode(), b"none", ctypes.c_ulong(flags), None), target)


def _unmount(target: str) -> None:
    """Take away what is mounted at ``target``, as soon as nobody uses it; umount2(2)."""
    _checked(_libc().umount2(target.encode(), _MNT_DETACH), target)


class Namespace:
    """A network namespace, held by a descriptor; without a name it ends when nobody holds it any more.

    ``fd`` is the descriptor. The namespace begins with nothing but a loopback that is down. To make one takes
    CAP_SYS_ADMIN (``OSError`` with EPERM otherwise).
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def create(cls) -> Self:
        """Make a new, empty one."""
        return cls(_in_a_thread(_fresh))

    @classmethod
    def create_named(cls, name: str, folder: Path = NAMED) -> Self:
        """Make one that has a name as those of ip-netns(8) have, and lasts until `delete_named`.

        ``OSError`` with EEXIST when the name is taken. Nothing is left after a failure.
        """
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        path = folder / name
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))

        def make() -> int:
            fd = _fresh()
            try:
                _mount(f"/proc/self/fd/{fd}", str(path), _MS_BIND)
            except BaseException:
                os.close(fd)
                raise
            return fd

        try:
            return cls(_in_a_thread(make))
        except BaseException:
            path.unlink()
            raise

    @classmethod
    def open_named(cls, name: str, folder: Path = NAMED) -> Self:
        """Open one by its name; ``FileNotFoundError`` when there is none."""
        return cls(os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC))

    @staticmethod
    def delete_named(name: str, folder: Path = NAMED) -> bool:
        """Take the name away, and with it the namespace unless a process lives there; False when there is none."""
        path = folder / name
        try:
            _unmount(str(path))
        except FileNotFoundError:
            return False
        except OSError:
            pass  # EINVAL: a plain file that a crash left before the mount
        path.unlink(missing_ok=True)
        try:
            folder.rmdir()  # it may have been made for this one
        except OSError:
            pass  # others are in it, or ip-netns(8) has mounted it
        return True

    def run(self, work: Callable[[], _T]) -> _T:
        """Call ``work`` in the namespace, in a thread that ends with it, and give what it returns or raises."""

        def inside() -> _T:
            setns(self.fd)
            return work()

        return _in_a_thread(inside)

    def popen(
        self,
        arguments: Sequence[str],
        *,
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        text: bool = False,
    ) -> subprocess.Popen[str] | subprocess.Popen[bytes]:
        """Start a program in the namespace."""
        # A child has the namespaces of the thread that forked it.
        return self.run(lambda: subprocess.Popen(arguments, stdin=stdin, stdout=stdout, stderr=stderr, text=text))

    def close(self) -> None:
        """Let go of it. A second time does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _fresh() -> int:
    """Enter a new namespace and give a descriptor of it."""
    unshare(CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _in_a_thread(work: Callable[[], _T]) -> _T:
    results: list[_T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name="underlay-namespace")
    thread.start()
    try:
        thread.join()
    except BaseException:  # Ctrl-C: whoever clears away must know that no more is being made
        thread.join()
        raise
    if errors:
        raise errors[0]
    return results[0]
