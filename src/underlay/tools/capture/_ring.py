"""Packets out of a ring of memory that the kernel fills: AF_PACKET, TPACKET_V3.

This file knows packet(7) and Documentation/networking/packet_mmap.rst: the socket, the ring's blocks and how they
change hands, and the two counters. It refuses to know filters' words, protocols, and what becomes of a packet.

*No packet before the filter.* A socket of AF_PACKET that names a protocol receives from the moment it exists. This one
names none (0), so that it receives nothing until it is bound; by then the filter is in its place and the ring is made.
libpcap, which opens its socket another way, has to let nothing pass, drain what slipped in, and then set its filter.

*Whose block is it?* A block is the kernel's or ours, by one word at its head. The kernel hands over a block that is
full, or that has waited for `RETIRE_MS` with a packet in it; we give it back when its packets are copied. When all
blocks are ours, the kernel drops what comes and counts it, which `RingStatistics` shows. A read of the word must not
be overtaken by reads of the block: between them stands poll(2), a system call, which the processor does not reorder.

*The counters* start again at 0 whenever they are read, and ``tp_packets`` includes the dropped ones
(packet_getsockopt() in net/packet/af_packet.c), so this file adds up.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ...errors import UsageError
from ._filter import Instruction
from ._link_types import SLL_BYTES

__all__ = ["BLOCK_BYTES", "RETIRE_MS", "CapturedPacket", "PacketRing", "RingStatistics"]

BLOCK_BYTES: Final = 512 << 10
"""A block holds the longest packet that is kept (262,144 bytes) beside its header; a part of it may stay unused."""
RETIRE_MS: Final = 10
"""How long a packet waits in a block that does not fill: below what a person sees as a delay."""

# linux/if_packet.h
_SOL_PACKET: Final = 263
_ADD_MEMBERSHIP: Final = 1
_RX_RING: Final = 5
_STATISTICS: Final = 6
_VERSION: Final = 10
_TPACKET_V3: Final = 2
_PROMISCUOUS: Final = 1
_OUTGOING: Final = 4
_TP_STATUS_USER: Final = 1
_VLAN_VALID: Final = 1 << 4
_VLAN_TPID_VALID: Final = 1 << 6
_FRAME_BYTES: Final = 2048  # only its multiple counts in this version: frames are as long as they are
# linux/if_ether.h, asm-generic/socket.h
_ETH_P_ALL: Final = 3
_ETH_P_8021Q: Final = 0x8100
_SO_ATTACH_FILTER: Final = 26

_REQUEST: Final = struct.Struct("=7I")  # struct tpacket_req3
_MEMBERSHIP: Final = struct.Struct("=iHH8x")  # struct packet_mreq
_BLOCK: Final = struct.Struct("=8xIII")  # of struct tpacket_block_desc: status, packets, first
# struct tpacket3_hdr up to the VLAN's protocol, and struct sockaddr_ll behind it
_HEADER: Final = struct.Struct("=IIIIIIHHIIH10xHHiHBB8s")
_ADDRESS: Final = struct.Struct("=HHi12x")  # struct sockaddr_ll
_SLL: Final = struct.Struct("!HHH8sH")


class CapturedPacket(NamedTuple):
    """One packet as the ring had it."""

    time_ns: int
    """Since 1970."""
    interface: int
    """The number of the interface (if_nametoindex(3))."""
    direction: str
    """``"in"`` or ``"out"``; of a loopback always ``"in"``."""
    data: bytes
    """From the link header on, as much as was to be kept; with the VLAN tag that the kernel had taken out."""
    size_bytes: int
    """How long it was."""


@dataclass(frozen=True, slots=True)
class RingStatistics:
    """What the kernel counted: packets that passed the filter, and those of them that found no room in the ring."""

    received: int
    dropped: int


def _available_bytes() -> int:
    """Give how much memory is to be had without swapping (proc_meminfo(5)); where nobody says, as much as one likes."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return 1 << 62


def _free_addresses_bytes() -> int:
    """Give how much more memory this process may map: RLIMIT_AS in getrlimit(2)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return 1 << 62
    try:
        with open("/proc/self/statm") as file:  # its first figure is the size in pages: proc_pid_statm(5)
            return limit - int(file.read().split()[0]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return limit


class PacketRing:
    """A socket that sees packets and the ring they go to; nothing is received before `start`.

    Raises ``PermissionError`` without CAP_NET_RAW; that is the only right it needs, and only here.
    """

    def __init__(self, *, cooked: bool) -> None:
        self._cooked = cooked
        kind = socket.SOCK_DGRAM if cooked else socket.SOCK_RAW
        self._socket = socket.socket(socket.AF_PACKET, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        self._memory: mmap.mmap | None = None
        self._blocks = self._next = 0
        self._received = self._dropped = 0
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def fileno(self) -> int:
        """The descriptor, for poll(2): readable when a block is ours."""
        return self._socket.fileno()

    def set_filter(self, program: Sequence[Instruction]) -> None:
        """Let the kernel run this for each packet from now on."""
        code = b"".join(struct.pack("=HBBI", *each) for each in program)
        buffer = ctypes.create_string_buffer(code, len(code))
        argument = struct.pack("@HP", len(program), ctypes.addressof(buffer))  # struct sock_fprog
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, argument)

    def make(self, size_bytes: int, retire_ms: int = RETIRE_MS) -> None:
        """Make the ring; ``UsageError`` where the kernel has not so much memory.

        It would try, at the cost of all other programs: a ring never takes more than half of what is available. Nor
        does it take more than half of what this process may map, which needs room for the packets that it looks at.
        """
        self._blocks = max(2, size_bytes // BLOCK_BYTES)
        total = self._blocks * BLOCK_BYTES
        refusal = UsageError(
            f"the kernel has no memory for a ring of {total >> 20} MiB", remedy="choose a smaller --ring-size"
        )
        if total > min(_available_bytes(), _free_addresses_bytes()) // 2:
            raise refusal
        request = _REQUEST.pack(BLOCK_BYTES, self._blocks, _FRAME_BYTES, total // _FRAME_BYTES, retire_ms, 0, 0)
        self._socket.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
        try:
            self._socket.setsockopt(_SOL_PACKET, _RX_RING, request)
            try:
                self._memory = mmap.mmap(self._socket.fileno(), total, mmap.MAP_SHARED)
            except OSError:
                # The ring is there, though this process has no room for its addresses (RLIMIT_AS): while it is, there
                # can be no other (EBUSY).
                self._socket.setsockopt(_SOL_PACKET, _RX_RING, _REQUEST.pack(0, 0, 0, 0, 0, 0, 0))
                raise
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.EINVAL):
                raise
            raise refusal from error

    def start(self, index: int = 0, *, promiscuous: Sequence[int] = ()) -> None:
        """Receive from the interface with this number, 0 for all; and let some receive what is for others, too."""
        for each in promiscuous:
            try:
                self._socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, _MEMBERSHIP.pack(each, _PROMISCUOUS, 0))
            except OSError as error:
                # It went away since it was chosen; if it is the only one, bind() says so.
                if error.errno != errno.ENODEV:
                    raise
        # Python's bind() takes a name, and before 3.12 none for all of them.
        address = _ADDRESS.pack(socket.AF_PACKET, socket.htons(_ETH_P_ALL), index)
        if ctypes.CDLL(None, use_errno=True).bind(self._socket.fileno(), address, len(address)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def error(self) -> int:
        """The errno that waits on the socket, once: ENETDOWN when its interface went down or away."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def blocks(self) -> Iterator[list[CapturedPacket]]:
        """Give the packets of each block that is ours now, and the block back to the kernel."""
        memory = self._memory
        if memory is None:
            return
        # As many as there are: a flood must not keep the caller from everything else.
        for _ in range(self._blocks):
            self._poll.poll(0)
            start = self._next * BLOCK_BYTES
            status, count, first = _BLOCK.unpack_from(memory, start)
            if not status & _TP_STATUS_USER:
                return
            packets = self._packets(memory, start + first, count)
            memory[start + 8 : start + 12] = b"\0\0\0\0"
            self._next = (self._next + 1) % self._blocks
            yield packets

    def _packets(self, memory: mmap.mmap, place: int, count: int) -> list[CapturedPacket]:
        packets = []
        unpack = _HEADER.unpack_from
        new = tuple.__new__  # the NamedTuple's own takes three times as long
        for _ in range(count):
            (
                step, seconds, nanoseconds, kept, size, status, mac, _, _, tag, tag_type,
                _, protocol, index, hardware, kind, address_bytes, address,
            ) = unpack(memory, place)  # fmt: skip
            begin = place + mac
            data = memory[begin : begin + kept]
            if self._cooked:
                protocol = protocol >> 8 | (protocol & 0xFF) << 8  # it stands in network order
                data = _SLL.pack(kind, hardware, address_bytes, address, protocol) + data
                size += SLL_BYTES
            elif status & _VLAN_VALID:
                tag_type = tag_type if status & _VLAN_TPID_VALID else _ETH_P_8021Q
                data = b"".join((data[:12], struct.pack("!HH", tag_type, tag & 0xFFFF), data[12:]))
                size += 4
            direction = "out" if kind == _OUTGOING else "in"
            packets.append(new(CapturedPacket, (seconds * 1_000_000_000 + nanoseconds, index, direction, data, size)))
            place += step
        return packets

    def statistics(self) -> RingStatistics:
        """What was counted since `start`."""
        if self._socket.fileno() >= 0:
            received, dropped, _ = struct.unpack("=III", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 12))
            self._received += received
            self._dropped += dropped
        return RingStatistics(self._received, self._dropped)

    def close(self) -> None:
        """Let go of the ring and the socket."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        self._socket.close()
