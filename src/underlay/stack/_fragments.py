"""Putting packets together again from their fragments, within limits (RFC 791 section 3.2, RFC 8200 section 4.5).

This file knows which pieces of a packet have come and what to do where two of
them overlap: with IPv4 the first one stands, with IPv6 the whole packet is
discarded (RFC 5722). It refuses to know headers, and who is told of a packet
that never became whole.
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable
from typing import Final, NamedTuple

from ._host_config import Drops, HostConfig
from ._interface import LARGEST_PACKET_BYTES
from ._received import Received
from ._timers import Timers

# What a piece costs beside its bytes: a list entry, a bytes object's head and its place in memory.
_PIECE_OVERHEAD_BYTES: Final = 64


class Expired(NamedTuple):
    """A packet whose pieces did not come in time; ``first`` is the one at offset 0, if that came."""

    key: Hashable
    first: Received | None


class _Packet:
    """The pieces of one packet: starts in order, and the bytes at each of them; they never overlap."""

    __slots__ = ("arrived_bytes", "cost_bytes", "first", "pieces", "refused", "starts", "total_bytes")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.pieces: list[bytes] = []
        self.total_bytes: int | None = None  # known once the last piece is here
        self.arrived_bytes = 0
        self.cost_bytes = 0
        self.first: Received | None = None
        self.refused = False  # RFC 5722: later pieces are discarded too

    def end(self) -> int:
        return self.starts[-1] + len(self.pieces[-1]) if self.starts else 0


class Reassembler:
    """Packets of one family on their way to being whole.

    >>> parts = Reassembler(HostConfig(), Drops(), "ip")
    >>> parts.add("key", 8, b"world", more=False, first=None, now=0.0)
    >>> parts.add("key", 0, b"8 bytes ", more=True, first=None, now=0.1)
    b'8 bytes world'
    """

    def __init__(self, config: HostConfig, drops: Drops, reasons: str, *, overlaps_refused: bool = False) -> None:
        self._config = config
        self._drops = drops
        self._reasons = reasons
        self._overlaps_refused = overlaps_refused
        self._packets: dict[Hashable, _Packet] = {}  # the oldest first
        self.timers: Timers[Hashable] = Timers()
        self.bytes = 0
        self.first: Received | None = None
        """The piece at offset 0 of the packet that `add` gave last: its header is the whole packet's (RFC 791)."""

    def __len__(self) -> int:
        return len(self._packets)

    def add(
        self, key: Hashable, offset: int, data: bytes | memoryview, *, more: bool, first: Received | None, now: float
    ) -> bytes | None:
        """Keep a piece, copied; return the packet's whole payload when it is the last that was missing.

        ``first`` is the packet that carried the piece at offset 0, for a later error message.
        """
        end = offset + len(data)
        if end > LARGEST_PACKET_BYTES or (more and (len(data) % 8 or not data)):
            self._drops.count(f"{self._reasons}.fragment_malformed")
            return None
        packet = self._packets.get(key)
        if packet is None:
            packet = self._begin(key, now)
        elif packet.refused:
            self._drops.count(f"{self._reasons}.fragment_refused")
            return None
        if not self._fits(packet, end, more):
            self._refuse(packet, "fragment_ends_differ")
            return None
        if not more:
            packet.total_bytes = end
        if offset == 0 and packet.first is None:
            packet.first = first
        if not self._insert(packet, offset, bytes(data)):
            return None
        if packet.arrived_bytes == packet.total_bytes:
            self._forget(key)
            self.first = packet.first
            return b"".join(packet.pieces)
        if len(packet.pieces) > self._config.reassembly_fragments:
            self._refuse(packet, "fragments_too_many")
        while self.bytes > self._config.reassembly_bytes:
            self._forget(next(iter(self._packets)))
            self._drops.count(f"{self._reasons}.reassembly_full")
        return None

    def next_deadline(self) -> float | None:
        """Return when the oldest packet is given up; None where none waits."""
        return self.timers.next_deadline()

    def expire(self, now: float) -> list[Expired]:
        """Forget the packets whose time is over, and say which."""
        expired = []
        for key in self.timers.due(now):
            packet = self._forget(key)
            if packet is not None and not packet.refused:
                self._drops.count(f"{self._reasons}.reassembly_timeout")
                expired.append(Expired(key, packet.first))
        return expired

    # -- inside --------------------------------------------------------------------------------------------------------

    def _begin(self, key: Hashable, now: float) -> _Packet:
        while len(self._packets) >= self._config.reassembly_packets:
            self._forget(next(iter(self._packets)))
            self._drops.count(f"{self._reasons}.reassembly_full")
        packet = self._packets[key] = _Packet()
        # Counted from the first piece that came (RFC 8200 section 4.5, RFC 1122 section 3.3.2), whatever comes later.
        self.timers.schedule(key, now + self._config.reassembly_timeout_s)
        return packet

    @staticmethod
    def _fits(packet: _Packet, end: int, more: bool) -> bool:
        """Whether a piece agrees with what is known of the packet's end."""
        total = packet.total_bytes
        if total is not None:
            return end <= total if more else end == total
        return more or end >= packet.end()

    def _insert(self, packet: _Packet, offset: int, data: bytes) -> bool:
        """Put a piece, or what of it is new, among the others; False where the packet is refused for it."""
        starts, pieces = packet.starts, packet.pieces
        index = bisect.bisect_right(starts, offset)
        overlaps_before = index > 0 and starts[index - 1] + len(pieces[index - 1]) > offset
        overlaps_after = index < len(starts) and starts[index] < offset + len(data)
        if overlaps_before or overlaps_after:
            if index > 0 and starts[index - 1] == offset and pieces[index - 1] == data:
                self._drops.count(f"{self._reasons}.fragment_duplicate")  # RFC 8200 section 4.5 allows to drop just it
                return True
            if self._overlaps_refused:
                self._refuse(packet, "fragment_overlap")
                return False
            self._drops.count(f"{self._reasons}.fragment_overlap")
        position, end = offset, offset + len(data)
        if overlaps_before:
            position = starts[index - 1] + len(pieces[index - 1])
        while position < end:
            gap_end = min(end, starts[index]) if index < len(starts) else end
            if gap_end > position:
                starts.insert(index, position)
                pieces.insert(index, data[position - offset : gap_end - offset])
                packet.arrived_bytes += gap_end - position
                cost = gap_end - position + _PIECE_OVERHEAD_BYTES
                packet.cost_bytes += cost
                self.bytes += cost
                index += 1
            if index < len(starts):
                position = max(gap_end, starts[index] + len(pieces[index]))
                index += 1
            else:
                position = gap_end
        return True

    def _refuse(self, packet: _Packet, reason: str) -> None:
        """Let nothing more come of a packet; its entry stays until its time is over, so that its pieces are known."""
        self._drops.count(f"{self._reasons}.{reason}")
        self.bytes -= packet.cost_bytes
        packet.cost_bytes = 0
        packet.refused = True
        packet.first = None
        packet.starts.clear()
        packet.pieces.clear()

    def _forget(self, key: Hashable) -> _Packet | None:
        packet = self._packets.pop(key, None)
        self.timers.cancel(key)
        if packet is not None:
            self.bytes -= packet.cost_bytes
        return packet
