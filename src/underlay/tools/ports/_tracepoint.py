"""Wakes a waiter when a TCP socket of this machine changes its state: the tracepoint ``sock:inet_sock_set_state``.

This file knows the tracepoint's fields, and how its records lie in a buffer. It refuses to know what they are good for:
the tracepoint does not say in which network namespace a socket is, so whoever is woken asks sock_diag, which answers
for its own.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import struct
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Final, NamedTuple, Self

from .._tracepoints import contents, open_event, open_folder

__all__ = ["Tracepoint", "TracepointUnavailable", "Transition"]

_NAME: Final = "sock/inet_sock_set_state"  # since Linux 4.16

# PERF_SAMPLE_TID, PERF_SAMPLE_TIME and PERF_SAMPLE_RAW: the order in which a record has them.
_SAMPLE: Final = 1 << 1 | 1 << 2 | 1 << 10
_RECORD: Final = struct.Struct("=IHH")  # struct perf_event_header: type, misc, size
_RECORD_LOST: Final = 2
_RECORD_SAMPLE: Final = 9
_TID_TIME_RAW: Final = struct.Struct("=IIQI")
# data_head and data_tail in the first page of the buffer, whose size is in the pages behind it.
_HEADS: Final = struct.Struct("=QQ")
_HEADS_AT: Final = 1024
# A power of two, as perf_event_open(2) asks: room for some 1200 records of a processor between two readings.
_PAGES: Final = 32
# Where less is free, a record may have found no room: one has 112 bytes.
_FULL_BYTES: Final = 256

# A line of `format`: Documentation/trace/events.rst, "Event formats".
_FIELD: Final = re.compile(r"field:[^;]*?(\w+)(?:\[\d+\])?;\s*offset:(\d+);\s*size:(\d+);")
_NUMBERS: Final = ("skaddr", "oldstate", "newstate", "protocol", "family", "sport", "dport")
_ADDRESSES: Final = ("saddr", "daddr", "saddr_v6", "daddr_v6")


class TracepointUnavailable(Exception):
    """This user or this kernel may not, or cannot, hear of it; the text says why."""


class Transition(NamedTuple):
    """A socket goes from one state to another, by the kernel's numbers (include/net/tcp_states.h)."""

    time_ns: int
    """By the kernel's own clock; good for the order only."""
    pid: int
    """The process that ran meanwhile, which is not always the one that the socket belongs to; 0 for one that has no
    number in this PID namespace."""
    thread: int
    sock: int
    """The kernel's address of the socket: the same for all of its life, and used again afterwards."""
    before: int
    after: int
    protocol: int
    family: int
    local_port: int
    peer_port: int
    addresses: tuple[bytes, bytes, bytes, bytes]
    """Its own and its peer's, as IPv4, and as IPv6."""


class Tracepoint:
    """Descriptors that poll(2) finds readable (POLLIN) after a state changed, until `read` is called.

    Raises `TracepointUnavailable`.
    """

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self.lost = 0
        """So many records found no room in their buffer, as far as is known."""
        self._buffers: list[mmap.mmap] = []
        self._fields: dict[str, slice] = {}
        try:
            number, self._fields = _declaration()
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
        try:
            # Each event is recorded, and wakes.
            descriptor = open_event(number, processor=processor, sample_period=1, sample_type=_SAMPLE, wakeup_events=1)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return  # this processor is offline
            raise
        self.descriptors.append(descriptor)
        # One page of head and tail, and those of records: poll(2) tells of an event only where there is a buffer.
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        self._buffers.append(mmap.mmap(descriptor, (1 + _PAGES) * mmap.PAGESIZE, mmap.MAP_SHARED, protection))

    def read(self) -> list[Transition]:
        """What was recorded since it was read, in its order; the next event wakes again."""
        found: list[Transition] = []
        for buffer in self._buffers:
            head, tail = _HEADS.unpack_from(buffer, _HEADS_AT)
            if head == tail:
                continue
            size = _PAGES * mmap.PAGESIZE
            if head - tail > size - _FULL_BYTES:
                self.lost += 1  # the kernel says so, too, but only once there is room again
            first, last = tail % size + mmap.PAGESIZE, head % size + mmap.PAGESIZE
            data = buffer[first:last] if first < last else buffer[first:] + buffer[mmap.PAGESIZE : last]
            struct.pack_into("=Q", buffer, _HEADS_AT + 8, head)
            found += self._transitions(data)
        found.sort()
        return found

    def _transitions(self, data: bytes) -> Iterator[Transition]:
        at = 0
        while at + _RECORD.size <= len(data):
            kind, _, size = _RECORD.unpack_from(data, at)
            if size < _RECORD.size:
                break
            if kind == _RECORD_LOST:
                self.lost += 1
            elif kind == _RECORD_SAMPLE:
                pid, thread, time_ns, length = _TID_TIME_RAW.unpack_from(data, at + _RECORD.size)
                start = at + _RECORD.size + _TID_TIME_RAW.size
                yield _transition(time_ns, pid, thread, data[start : start + length], self._fields)
            at += size

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


def _transition(time_ns: int, pid: int, thread: int, raw: bytes, fields: dict[str, slice]) -> Transition:
    sock, before, after, protocol, family, local_port, peer_port = (
        int.from_bytes(raw[fields[name]], sys.byteorder) for name in _NUMBERS
    )
    own, peer, own_v6, peer_v6 = (raw[fields[name]] for name in _ADDRESSES)
    return Transition(
        time_ns,
        pid if pid < 1 << 31 else 0,  # one outside of this PID namespace is told as 0, one that has ended as -1
        thread,
        sock,
        before,
        after,
        protocol,
        family,
        local_port,
        peer_port,
        (own, peer, own_v6, peer_v6),
    )


def _declaration() -> tuple[int, dict[str, slice]]:
    """The tracepoint's number on this kernel, and where its fields are."""
    folder = open_folder(_NAME)
    try:
        number = int(contents("id", folder))
        fields = {
            name: slice(int(offset), int(offset) + int(size))
            for name, offset, size in _FIELD.findall(contents("format", folder).decode(errors="replace"))
        }
    finally:
        os.close(folder)
    if not fields.keys() >= {*_NUMBERS, *_ADDRESSES}:
        raise TracepointUnavailable("this kernel's has other fields")
    return number, fields


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.EPERM | errno.EACCES:
            return "only root may hear of it"
        case errno.ENOENT | errno.ENODEV | errno.ENOSYS:
            return "this kernel has it not"
        case _:
            return os.strerror(error.errno or 0).lower()
