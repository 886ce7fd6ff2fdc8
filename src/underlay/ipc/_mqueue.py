"""A POSIX message queue (mq_overview(7)): messages with priorities, the highest first.

This file knows mq_open(3) and its limits. It refuses to know who is at the other end.

On Linux a queue's handle is a descriptor: it can be polled, inherited and duplicated. So a queue that is to have no
name has one only until it is open, and goes when nobody has it open any more, however those end. A persistent one keeps
its name and its messages until it is removed or the machine restarts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import select
from pathlib import Path
from typing import Final

from ..errors import UsageError
from . import _descriptors, _libc
from ._contract import Incoming, Kind, Message, Outgoing, Terms
from ._errors import NameTaken, NoSuchName

_LIMITS: Final = Path("/proc/sys/fs/mqueue")
# The defaults of Linux since 3.5, where /proc says nothing: mq_overview(7).
_USUAL_MSG_MAX, _USUAL_MSGSIZE_MAX = 10, 8192
_MOST_PRIORITY: Final = 32767  # MQ_PRIO_MAX - 1: mq_overview(7)


def _limit(name: str, usual: int) -> int:
    try:
        return int((_LIMITS / name).read_text())
    except (OSError, ValueError):
        return usual


KIND: Final = Kind(
    name="mqueue",
    summary="a POSIX message queue, mq_overview(7)",
    max_message_bytes=_limit("msgsize_max", _USUAL_MSGSIZE_MAX),
    limited_by="fs.mqueue.msgsize_max",
    one_way=True,
    survives_process=True,
    priorities=True,
)


def make(terms: Terms) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The descriptors of the way in, and of the way out, to a queue without a name."""
    name = b"/underlay." + secrets.token_hex(12).encode()
    reader = _create(name, terms)
    try:
        writer = _open(name, os.O_WRONLY)
    except BaseException:
        os.close(reader)
        raise
    finally:
        _libc.mq_unlink(name)
    return (reader,), (writer,)


def check(terms: Terms, descriptors: tuple[int, ...], writes: bool) -> None:
    """Raise ``ValueError`` where a way cannot be made of these."""
    _descriptors.check_number(descriptors, 1)
    (descriptor,) = descriptors
    attributes = _libc.MqAttr()
    if _libc.mq_getattr(descriptor, attributes):
        raise ValueError(f"descriptor {descriptor} is no message queue")
    if attributes.mq_msgsize != terms.max_message_bytes:
        raise ValueError(
            f"descriptor {descriptor} is a message queue for messages of {attributes.mq_msgsize:,} bytes, "
            f"and not of {terms.max_message_bytes:,}"
        )
    if _descriptors.access_of(descriptor) != (os.O_WRONLY if writes else os.O_RDONLY):
        raise ValueError(f"descriptor {descriptor} is not the {'sending' if writes else 'receiving'} end of a queue")
    _descriptors.check_never_waits(descriptor)


def outgoing(terms: Terms, descriptor: int) -> MqueueOutgoing:
    """The way out to a queue."""
    return MqueueOutgoing(descriptor)


def incoming(terms: Terms, descriptor: int) -> MqueueIncoming:
    """The way in from a queue."""
    return MqueueIncoming(descriptor, terms)


# --- under a name that outlives all processes ---


def create_persistent(name: str, terms: Terms) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The same as `make`, to a new queue that stays. Raises `NameTaken`."""
    reader = _create(_path(name), terms)
    try:
        return (reader,), (_open(_path(name), os.O_WRONLY),)
    except BaseException:
        os.close(reader)
        raise


def open_persistent(name: str) -> tuple[Terms, tuple[int, ...], tuple[int, ...]]:
    """What was agreed on a queue that stays, and the descriptors to it. Raises `NoSuchName`."""
    reader = _open(_path(name), os.O_RDONLY)
    try:
        attributes = _libc.MqAttr()
        if _libc.mq_getattr(reader, attributes):
            raise _libc.failure("mq_getattr")
        terms = Terms(KIND.name, attributes.mq_msgsize, attributes.mq_maxmsg)
        return terms, (reader,), (_open(_path(name), os.O_WRONLY),)
    except BaseException:
        os.close(reader)
        raise


def remove_persistent(name: str) -> None:
    """Take a queue's name away; it goes when the last process has closed it. Raises `NoSuchName`."""
    if _libc.mq_unlink(_path(name)):
        raise _refusal("mq_unlink", _path(name), None)


def _path(name: str) -> bytes:
    return f"/underlay.{os.getuid()}.{name}".encode()


# --- mq_open(3) ---


def _create(name: bytes, terms: Terms) -> int:
    capacity = terms.capacity or min(_limit("msg_max", _USUAL_MSG_MAX), _USUAL_MSG_MAX)
    attributes = _libc.MqAttr(0, capacity, terms.max_message_bytes, 0)
    descriptor = _libc.mq_open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CREAT | os.O_EXCL, 0o600, attributes)
    if descriptor < 0:
        raise _refusal("mq_open", name, attributes)
    return descriptor


def _open(name: bytes, how: int) -> int:
    descriptor = _libc.mq_open(name, how | os.O_NONBLOCK, 0, None)
    if descriptor < 0:
        raise _refusal("mq_open", name, None)
    return descriptor


def _refusal(call: str, name: bytes, attributes: _libc.MqAttr | None) -> Exception:
    """One clear error for each of the reasons that mq_open(3) has."""
    error, shown = _libc.failure(call), name.decode(errors="replace")
    if error.errno == errno.EEXIST:
        return NameTaken(f"there is a message queue {shown} already", remedy="open it, or remove it with ipc.remove()")
    if error.errno == errno.ENOENT:
        return NoSuchName(f"there is no message queue {shown}", remedy="create it first")
    if attributes is not None:
        held = f"{attributes.mq_maxmsg:,} messages of {attributes.mq_msgsize:,} bytes"
        if error.errno == errno.EINVAL:
            return UsageError(
                f"the kernel makes no message queue that holds {held} ({error})",
                remedy=f"{_LIMITS}/msg_max allows {_limit('msg_max', _USUAL_MSG_MAX):,} messages, "
                f"msgsize_max {_limit('msgsize_max', _USUAL_MSGSIZE_MAX):,} bytes each",
            )
        if error.errno in (errno.EMFILE, errno.ENOMEM):
            return UsageError(
                f"this user has no room for one more message queue of {held} ({error})",
                remedy="close some, ask for less (capacity=, max_message_bytes=), or raise RLIMIT_MSGQUEUE (ulimit -q)",
            )
        if error.errno == errno.ENOSPC:
            return UsageError(
                f"there are as many message queues as the kernel allows ({error})",
                remedy=f"close some, or raise {_LIMITS}/queues_max",
            )
    return error


class MqueueOutgoing(Outgoing):
    """Puts messages into a queue."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._send = _libc.mq_send
        self.ready = (descriptor, select.POLLOUT)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The queue's descriptor for writing."""
        return (self._descriptor,)

    def try_send(self, message: Message, priority: int) -> bool:
        """Take a message whole, or say that there is no room."""
        if not 0 <= priority <= _MOST_PRIORITY:
            raise UsageError(
                f"a message queue has no priority {priority}", remedy=f"it is from 0 to {_MOST_PRIORITY:,}, the first"
            )
        if type(message) is not bytes:
            message = bytes(message)
        if not self._send(self._descriptor, message, len(message), priority):
            return True
        if ctypes.get_errno() in (errno.EAGAIN, errno.EINTR):
            return False
        raise _libc.failure("mq_send")

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


class MqueueIncoming(Incoming):
    """Takes messages out of a queue."""

    def __init__(self, descriptor: int, terms: Terms) -> None:
        self._descriptor = descriptor
        self._receive = _libc.mq_receive
        self._size = terms.max_message_bytes
        buffer = ctypes.create_string_buffer(self._size)
        self._at = ctypes.addressof(buffer)
        self._view = memoryview(buffer).cast("B")  # keeps the buffer
        self.ready = (descriptor, select.POLLIN)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The queue's descriptor for reading."""
        return (self._descriptor,)

    def try_receive(self) -> bytes | None:
        """The next message, or None where there is none yet."""
        size = self._receive(self._descriptor, self._at, self._size, None)
        if size >= 0:
            return self._view[:size].tobytes()
        if ctypes.get_errno() in (errno.EAGAIN, errno.EINTR):
            return None
        raise _libc.failure("mq_receive")

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)
