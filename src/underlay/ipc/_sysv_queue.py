"""The System V message queues themselves: how one is made, found under a key, and removed by whoever is the last.

This file knows msgget(2), msgctl(2) and their limits. It refuses to know messages.

**Nothing is left.** The kernel keeps such a queue when all its processes are dead. So each has a page, a file in a
private folder, that all its ends hold a lock on together (flock(2)), which the kernel gives up with the last of their
processes. Whoever closes an end and gets the lock for itself was the last, and removes the queue; and whoever makes a
new one removes those whose processes were all killed.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import stat
import sys
import weakref
from multiprocessing.util import Finalize, register_after_fork
from pathlib import Path
from typing import Final

from ..errors import UsageError
from . import _folder, _folder_lock, _libc
from ._contract import Terms
from ._descriptors import path_of
from ._errors import NameTaken, NoSuchName
from ._page import Page

_LIMITS: Final = Path("/proc/sys/kernel")
# The defaults of Linux, where /proc says nothing: sysvipc(7), msgget(2).
_USUAL_MSGMAX, _USUAL_MSGMNB = 8192, 16384
# What says nothing of a queue, but that this process has no room to look after it.
_SHORT_OF: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# The folder of pages, beside that of names.
_PAGES: Final = "sysv"
_WORD_BYTES: Final = 8
# The words of the page.
QUEUE, CHANGED, RECEIVER_SLEEPS, SENDER_SLEEPS = range(4)


def limit(name: str, usual: int) -> int:
    """What the kernel allows, or what it usually does."""
    try:
        return int((_LIMITS / name).read_text())
    except (OSError, ValueError):
        return usual


MAX_MESSAGE_BYTES: Final = min(limit("msgmax", _USUAL_MSGMAX), limit("msgmnb", _USUAL_MSGMNB))
"""The longest message that any queue takes."""


def key_of(name: str) -> int:
    """The key of a queue that has a name: the same in each process of this user, and not IPC_PRIVATE."""
    digest = hashlib.blake2b(f"{os.geteuid()}/{name}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF | 1


def create(key: int, terms: Terms) -> int:
    """The number of a new queue. Raises `NameTaken` where the key has one."""
    most_bytes = limit("msgmnb", _USUAL_MSGMNB)
    if terms.capacity and not terms.max_message_bytes <= terms.capacity:
        raise UsageError(
            f"a message queue of {terms.capacity:,} bytes has no room for messages of {terms.max_message_bytes:,}",
            remedy="give it more capacity, or less max_message_bytes",
        )
    queue = _libc.msgget(key, _libc.IPC_CREAT | _libc.IPC_EXCL | 0o600)
    if queue < 0:
        error = _libc.failure("msgget")
        if error.errno == errno.ENOSPC:
            raise UsageError(
                f"there are as many System V message queues as the kernel allows ({error})",
                remedy=f"remove some (ipcs -q, ipcrm), or raise {_LIMITS}/msgmni",
            )
        if error.errno == errno.EEXIST:
            raise NameTaken(
                f"there is a System V message queue with the key {key:#010x} already",
                remedy=f"take another name, or remove it with ipcrm -Q {key:#010x}",
            )
        raise error
    if terms.capacity:
        about = _libc.MsqidDs()
        if _libc.msgctl(queue, _libc.IPC_STAT, about):
            raise _libc.failure("msgctl")
        about.msg_qbytes = terms.capacity
        if _libc.msgctl(queue, _libc.IPC_SET, about):
            error = _libc.failure("msgctl")
            _libc.msgctl(queue, _libc.IPC_RMID, None)
            if error.errno == errno.EPERM:
                raise UsageError(
                    f"the kernel makes no message queue of {terms.capacity:,} bytes ({error})",
                    remedy=f"{_LIMITS}/msgmnb allows {most_bytes:,}",
                )
            raise error
    return queue


def find(key: int) -> tuple[int, Terms]:
    """The number of the queue that has a key, and what it can take. Raises `NoSuchName`."""
    queue = _libc.msgget(key, 0)
    if queue < 0:
        error = _libc.failure("msgget")
        if error.errno == errno.ENOENT:
            raise NoSuchName(f"there is no System V message queue with the key {key:#010x}", remedy="create it first")
        raise error
    most_bytes = _about(queue).msg_qbytes
    return queue, Terms("sysv", min(most_bytes, MAX_MESSAGE_BYTES), most_bytes)


def remove(queue: int) -> None:
    """Remove a queue, whoever has it; who did so before is no matter, for a number is not used again so soon."""
    _libc.msgctl(queue, _libc.IPC_RMID, None)


def _about(queue: int) -> _libc.MsqidDs:
    about = _libc.MsqidDs()
    if _libc.msgctl(queue, _libc.IPC_STAT, about):
        raise _libc.failure("msgctl")
    return about


def refusal(call: str) -> OSError:
    """What a failed msgsnd(2) or msgrcv(2) means."""
    error = _libc.failure(call)
    if error.errno in (errno.EIDRM, errno.EINVAL):
        # Somebody removed it, by ipcrm(1) for example: it is as if the other end had closed.
        return ConnectionResetError(errno.EIDRM, f"{call}: {os.strerror(errno.EIDRM)}")
    return error


# --- pages, and what is left of the dead ---


def make_page(queue: int) -> int:
    """The descriptor of a new queue's page, locked."""
    where = _folder.folder_beside(_PAGES)
    with _folder_lock.locked(where):
        _sweep(where)
        path = os.path.join(where, str(queue))
        page = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(page, 0, mmap.PAGESIZE)  # or a full disk would kill whoever writes to it
            fcntl.flock(page, fcntl.LOCK_SH)
            words = Page(page)
            words.word(QUEUE)[0], words.word(CHANGED)[0] = queue, _about(queue).msg_ctime
            words.close()
        except BaseException:
            os.close(page)
            os.unlink(path)
            raise
    return page


def check_page(page: int) -> None:
    """Raise ``ValueError`` where a descriptor is not a queue's page: a file of its own, named as the queue is numbered.

    Nobody but us makes files in that folder shorter: it is this user's alone.
    """
    found = os.fstat(page)
    if stat.S_ISREG(found.st_mode) and found.st_size == mmap.PAGESIZE and found.st_uid == os.geteuid():
        queue = int.from_bytes(os.pread(page, _WORD_BYTES, QUEUE), sys.byteorder)
        path = path_of(page)
        if os.path.basename(path) == str(queue) and os.path.basename(os.path.dirname(path)) == _PAGES:
            return
    raise ValueError(f"descriptor {page} is no page of a System V message queue")


def _sweep(where: str) -> None:
    """Remove the queues whose processes were all killed."""
    for entry in os.listdir(where):
        path = os.path.join(where, entry)
        try:
            page = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # removed meanwhile
        try:
            fcntl.flock(page, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(page).st_size >= mmap.PAGESIZE:
                words = Page(page)
                queue, changed = words.word(QUEUE)[0], words.word(CHANGED)[0]
                words.close()
                # After a restart of the machine, the number may be another's.
                if _about(queue).msg_ctime == changed:
                    remove(queue)
            os.unlink(path)
        except BlockingIOError:
            pass  # somebody has it
        except OSError as error:
            if error.errno not in _SHORT_OF:  # else the queue would have no record any more, and stay for ever
                with contextlib.suppress(OSError):
                    os.unlink(path)  # its queue is gone
        finally:
            os.close(page)


_open_here: weakref.WeakSet[Hold] = weakref.WeakSet()


def _exits() -> None:
    for hold in list(_open_here):
        hold.give_up()


def _tell_at_exit(_: object = None) -> None:
    # As in `_life`: processes of multiprocessing leave by os._exit() and know only its own finalizers, of their own.
    Finalize(None, _exits, exitpriority=0)


_tell_at_exit()
register_after_fork(_open_here, _tell_at_exit)
atexit.register(_exits)


class Hold:
    """One end's hold on a queue, through the lock on its page."""

    def __init__(self, page: int) -> None:
        self.page = page
        self.words = Page(page)
        self.queue: Final = self.words.word(QUEUE)[0]
        _open_here.add(self)

    def give_up(self) -> None:
        """Let go of the page; remove it, and the queue, if nobody else holds it."""
        if self.page < 0:
            return
        page, self.page = self.page, -1
        _open_here.discard(self)
        self.words.close()
        try:
            again = os.open(f"/proc/self/fd/{page}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # no /proc, no descriptor left, or its page is gone: the next one to be made sweeps
            os.close(page)
            return
        os.close(page)
        try:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # others have it
        else:
            remove(self.queue)
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(_folder.folder_beside(_PAGES), str(self.queue)))
        finally:
            os.close(again)
