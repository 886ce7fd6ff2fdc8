"""A learning switch: a frame goes to the port where its destination was last heard, in virtual time.

This file knows IEEE 802.1D as far as one bridge alone needs it: learning, ageing, filtering, flooding, and which
addresses are never forwarded. VLANs are learned apart from each other by their tag, but every port is a member of
each. It refuses to know spanning trees, and any header above Ethernet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ..wire import Frame
from ._carrier import LIMIT_BYTES, LIMIT_FRAMES, Carrier, Lane
from ._contract import FRAME
from ._impairments import Impairment

__all__ = ["Switch", "SwitchEntry"]

# IEEE 802.1D-2004, table 7-5: the recommended ageing time.
_AGEING_S: Final = 300.0
# What a small switch has; documentation of our own, no standard.
_TABLE_LIMIT: Final = 1024
_HEADER_BYTES: Final = 14
_VLAN: Final = b"\x81\x00"
_GROUP: Final = 0x01  # the bit of the first octet that says: for many
# IEEE 802.1D-2004, table 7-10: 01-80-C2-00-00-00 to -0F end at the bridge.
_RESERVED: Final = bytes.fromhex("0180c20000")


class SwitchEntry(NamedTuple):
    """One line of a switch's table."""

    mac: bytes
    vlan: int
    """The number in the tag, 0 without one."""
    port: int
    age_s: float


class Switch(Carrier):
    """A switch with ``ports`` ports; ``impairments(port)`` makes the stages on the way out to a port.

    An address is forgotten after ``ageing_s`` of silence. The table holds ``table_limit`` addresses; while it is full
    a new one is not learned (``table_full`` counts that), so that frames to it go to all ports: nothing is lost, and
    nobody who was known is pushed out. Drops at the entry are counted at the port of the sender: ``runt``,
    ``group_source``, ``reserved``, ``same_port``; those of a stage at the port to which the frame did not come.
    """

    def __init__(
        self,
        ports: int,
        name: str = "switch",
        *,
        impairments: Callable[[int], Sequence[Impairment]] | None = None,
        ageing_s: float = _AGEING_S,
        table_limit: int = _TABLE_LIMIT,
        offload: bool = False,
        limit_frames: int = LIMIT_FRAMES,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        super().__init__(
            name,
            ports,
            offload=offload,
            is_ethernet=True,
            limit_frames=limit_frames,
            limit_bytes=limit_bytes,
        )
        self.ageing_s: Final = ageing_s
        self.table_limit: Final = table_limit
        self.table_full = 0
        self.flooded = 0
        self._lanes = [
            Lane(port, impairments(port) if impairments else (), counted_at=port, sender=None) for port in range(ports)
        ]
        # (VLAN, address) → (port, last heard); the one that was silent longest stands first.
        self._table: dict[tuple[int, bytes], tuple[int, float]] = {}

    def table(self, now: float) -> list[SwitchEntry]:
        """List what the switch knows, the one that was silent longest first."""
        return [
            SwitchEntry(mac, vlan, port, now - heard)
            for (vlan, mac), (port, heard) in self._table.items()
            if now - heard <= self.ageing_s
        ]

    def _carry(self, port: int, frame: Frame, now: float) -> None:
        head = frame.head if len(frame.head) >= _HEADER_BYTES + 4 else frame.to_bytes()
        if len(head) < _HEADER_BYTES:
            self._drop(port, frame, now, "runt")
            return
        destination, source = head[:6], head[6:12]
        if source[0] & _GROUP:
            self._drop(port, frame, now, "group_source")
            return
        vlan = int.from_bytes(head[14:16], "big") & 0x0FFF if head[12:14] == _VLAN else 0
        self._learn((vlan, bytes(source)), port, now)
        if destination[:5] == _RESERVED and destination[5] <= 0x0F:
            self._drop(port, frame, now, "reserved")
            return
        known = None if destination[0] & _GROUP else self._table.get((vlan, bytes(destination)))
        comment = ""
        if known is not None and now - known[1] <= self.ageing_s:
            if known[0] == port:
                self._drop(port, frame, now, "same_port")
                return
            lanes = [self._lanes[known[0]]]
        else:
            self.flooded += 1
            comment = "flooded"
            lanes = [lane for lane in self._lanes if lane.to != port]
        if FRAME.listeners:
            FRAME(self.labels[port], "out", frame.to_bytes(), now, comment)
        for lane in lanes:
            self._enter(lane, frame, now)

    def _learn(self, key: tuple[int, bytes], port: int, now: float) -> None:
        table = self._table
        if table.pop(key, None) is None and len(table) >= self.table_limit:
            oldest = next(iter(table), None)
            if oldest is None or now - table[oldest][1] <= self.ageing_s:
                self.table_full += 1
                return
            del table[oldest]
        table[key] = (port, now)
