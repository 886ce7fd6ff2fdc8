"""The framing of netlink(7): requests with a header, attributes within them, answers in parts.

This file knows ``struct nlmsghdr`` and ``struct rtattr``, how a dump comes and ends, and that the kernel's refusal is
a message too. It refuses to know any family of netlink: what is asked for is its users' (rtnetlink, sock_diag).

A request that the kernel refuses is the ``OSError`` with its errno.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

__all__ = [
    "ACK",
    "ATTRIBUTE",
    "CREATE",
    "DONE",
    "DUMP",
    "ERROR",
    "EXCLUSIVE",
    "HEADER",
    "PART_BYTES",
    "Netlink",
    "aligned",
    "attribute",
    "attributes",
    "raise_refusal",
]

# linux/netlink.h
ERROR: Final = 2
DONE: Final = 3
_REQUEST: Final = 0x1
ACK: Final = 0x4
DUMP: Final = 0x300
CREATE: Final = 0x400
EXCLUSIVE: Final = 0x200

HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE: Final = struct.Struct("=HH")  # struct rtattr: length, type
_I32: Final = struct.Struct("=i")

# The kernel answers within the system call; only a lost answer would make us wait.
_ANSWER_S: Final = 5.0
PART_BYTES: Final = 1 << 16
"""Room for one part of a dump, which has at most 32 KiB (net/netlink/af_netlink.c, netlink_dump)."""
# The type of an attribute stands in the lower 14 bits: NLA_TYPE_MASK.
_TYPE_MASK: Final = 0x3FFF


class Netlink:
    """A socket to one family of netlink, for all its life in the network namespace of the thread that makes it."""

    def __init__(self, family: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.settimeout(_ANSWER_S)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Send one request; return the bodies of its answers, without headers. A refusal is raised."""
        self._send(kind, flags, body)
        answers: list[bytes] = []
        while True:
            part = self._socket.recv(PART_BYTES)
            start = 0
            while start < len(part):
                size, answer, _, sequence, _ = HEADER.unpack_from(part, start)
                inside = part[start + HEADER.size : start + size]
                start += aligned(size)
                if sequence != self._sequence:
                    continue  # left over from a request that timed out
                if answer in (ERROR, DONE):
                    raise_refusal(inside)
                    return answers
                answers.append(inside)
                if flags & (DUMP | ACK) == 0:
                    return answers

    def dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """Ask for all there is, and give it as it comes: parts of whole messages, with their headers.

        For those who have thousands of messages to read and do it in their own way. Where ``DONE`` stands behind other
        messages, whoever finds it hands its body to `raise_refusal` and asks for no more.
        """
        self._send(kind, DUMP, body)
        while True:
            part = self._socket.recv(PART_BYTES)
            _, answer, _, sequence, _ = HEADER.unpack_from(part)
            if sequence != self._sequence:
                continue  # left over from a dump that nobody read to its end
            if answer in (ERROR, DONE):
                raise_refusal(part[HEADER.size :])
                return
            yield part

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, flags | _REQUEST, self._sequence, 0) + body)


def raise_refusal(body: bytes) -> None:
    """Raise what ``ERROR``, or ``DONE`` of a dump that failed, says in its first four bytes; nothing for 0."""
    if len(body) >= _I32.size and (number := -_I32.unpack_from(body)[0]) > 0:
        raise OSError(number, os.strerror(number))


def aligned(size: int) -> int:
    """NLMSG_ALIGN and RTA_ALIGN: everything begins at a multiple of four.

    >>> aligned(5)
    8
    """
    return (size + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """Build one attribute, padded.

    >>> attribute(3, b"lo\\0").hex()
    '070003006c6f0000'
    """
    size = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(size, kind) + value + bytes(aligned(size) - size)


def attributes(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Give each attribute from ``start`` on: its type and its value; what is cut off ends them.

    >>> list(attributes(attribute(3, b"lo\\0")))
    [(3, b'lo\\x00')]
    """
    while start + ATTRIBUTE.size <= len(data):
        size, kind = ATTRIBUTE.unpack_from(data, start)
        if size < ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[start + ATTRIBUTE.size : start + size]
        start += aligned(size)
