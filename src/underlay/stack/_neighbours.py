"""Who sits at which MAC address: the neighbours of one family on one interface, as a state machine.

This file knows the states of RFC 4861 section 7.3.2, which Linux uses for ARP
too, the packets that wait for an answer, and the limits of both. It refuses to
know what a question looks like (``_arp.py`` and ``_neighbour_discovery.py``
ask), how a frame reaches the link, and any clock.

A neighbour that is believed costs a sender one comparison: until
``fresh_until_s`` its ``link_header`` is what stands before the packet. Only then
is this file asked, and so an idle host has no timer for those it believes.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from ..wire import Frame
from ._host_config import Drops, HostConfig
from ._timers import Timers

NEVER: Final = -math.inf


class NeighbourState(enum.Enum):
    """What is known of a neighbour (RFC 4861 section 7.3.2)."""

    NO_ENTRY = "no entry"  # nothing; its object is not in the cache (any more)
    INCOMPLETE = "incomplete"  # it was asked, and packets wait
    REACHABLE = "reachable"  # it answered a short while ago
    STALE = "stale"  # it may be there still; nobody has sent since
    DELAY = "delay"  # somebody sent, and soon it will be asked
    PROBE = "probe"  # it is being asked, at its old MAC address


class NeighbourEvent(enum.Enum):
    """What happens to a neighbour."""

    USE = "use"  # a packet is to be sent to it
    LEARNED = "learned"  # it said its MAC address, unasked
    MOVED = "moved"  # …and it is another than before
    CONFIRMED = "confirmed"  # it answered, or a connection to it moves forward
    DOUBTED = "doubted"  # somebody else claims the address, without the right to override
    AGED = "aged"  # its last answer is long ago
    TIMER = "timer"  # it was asked and has not answered, or it is time to ask
    EXHAUSTED = "exhausted"  # it was asked often enough


_S = NeighbourState
_E = NeighbourEvent

# RFC 4861 section 7.3.3 and appendix C. What is not here leaves a neighbour as it is.
NEIGHBOUR_TRANSITIONS: Final[Mapping[tuple[NeighbourState, NeighbourEvent], NeighbourState]] = MappingProxyType(
    {
        (_S.NO_ENTRY, _E.USE): _S.INCOMPLETE,
        (_S.NO_ENTRY, _E.LEARNED): _S.STALE,
        (_S.INCOMPLETE, _E.LEARNED): _S.STALE,
        (_S.INCOMPLETE, _E.CONFIRMED): _S.REACHABLE,
        (_S.INCOMPLETE, _E.EXHAUSTED): _S.NO_ENTRY,
        (_S.REACHABLE, _E.AGED): _S.STALE,
        (_S.REACHABLE, _E.DOUBTED): _S.STALE,
        (_S.REACHABLE, _E.MOVED): _S.STALE,
        (_S.STALE, _E.USE): _S.DELAY,
        (_S.STALE, _E.CONFIRMED): _S.REACHABLE,
        (_S.DELAY, _E.TIMER): _S.PROBE,
        (_S.DELAY, _E.CONFIRMED): _S.REACHABLE,
        (_S.DELAY, _E.MOVED): _S.STALE,
        (_S.PROBE, _E.CONFIRMED): _S.REACHABLE,
        (_S.PROBE, _E.MOVED): _S.STALE,
        (_S.PROBE, _E.EXHAUSTED): _S.NO_ENTRY,
    }
)


class Neighbour:
    """One neighbour; who sends reads ``fresh_until_s`` and ``link_header`` and nothing else."""

    __slots__ = ("address", "asked", "fresh_until_s", "link_header", "mac", "pending", "state")

    def __init__(self, address: bytes, *, link_header: bytes = b"", fresh_until_s: float = NEVER) -> None:
        self.address = address
        self.mac: bytes | None = None
        self.state = NeighbourState.NO_ENTRY
        self.link_header = link_header
        self.fresh_until_s = fresh_until_s
        self.asked = 0
        self.pending: deque[Frame] | None = None

    def __repr__(self) -> str:
        mac = self.mac.hex(":") if self.mac else "no MAC"
        return f"<Neighbour {self.address.hex()} at {mac}, {self.state.value}>"


class NeighbourLink(Protocol):
    """What a cache asks of the link it belongs to."""

    def link_header(self, mac: bytes) -> bytes:
        """Return what stands before a packet to ``mac``."""
        ...

    def solicit(self, address: bytes, mac: bytes | None, now: float) -> None:
        """Ask for ``address``, everybody or the station at ``mac``."""
        ...

    def transmit(self, frame: Frame) -> None:
        """Put a whole frame on the link."""
        ...

    def give_up(self, address: bytes, packets: list[Frame], now: float) -> None:
        """Say that ``address`` did not answer; ``packets`` waited for it, and have no link header."""
        ...


class NeighbourCache:
    """The neighbours of one family on one interface. ``reasons`` is the first word of its drop reasons."""

    def __init__(self, link: NeighbourLink, config: HostConfig, drops: Drops, reasons: str) -> None:
        self._link = link
        self._config = config
        self._drops = drops
        self._queue_full = f"{reasons}.queue_full"
        self._table_full = f"{reasons}.table_full"
        self._unanswered = f"{reasons}.unanswered"
        # The order is that of the last change of state, so that the first one is the one to give up.
        self._entries: dict[bytes, Neighbour] = {}
        self.timers: Timers[bytes] = Timers()
        self._pending_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def pending_packets(self) -> int:
        """How many packets wait for neighbours."""
        return sum(len(each.pending) for each in self._entries.values() if each.pending is not None)

    def get(self, address: bytes) -> Neighbour | None:
        """Return the neighbour of an address, where there is one."""
        return self._entries.get(address)

    def get_or_add(self, address: bytes) -> Neighbour:
        """Return the neighbour of an address; a new one takes the place of the oldest where the cache is full."""
        neighbour = self._entries.get(address)
        if neighbour is None:
            while len(self._entries) >= self._config.neighbours:
                self._drops.count(self._table_full)
                for _ in self._forget(next(iter(self._entries.values()))):
                    self._drops.count(self._queue_full)
            neighbour = self._entries[address] = Neighbour(address)
        return neighbour

    # -- a sender ------------------------------------------------------------------------------------------------------

    def usable(self, neighbour: Neighbour, now: float) -> bool:
        """Tell whether ``link_header`` may be used, after saying that it is going to be."""
        if neighbour.state is _S.REACHABLE and now >= neighbour.fresh_until_s:
            self._change(neighbour, _E.AGED, now)
        if neighbour.state in (_S.STALE, _S.NO_ENTRY):
            self._change(neighbour, _E.USE, now)
        return neighbour.state is not _S.INCOMPLETE

    def wait(self, neighbour: Neighbour, packet: Frame) -> None:
        """Keep a packet, without link header, until the neighbour answers or is given up."""
        pending = neighbour.pending
        if pending is None:
            pending = neighbour.pending = deque()
        pending.append(packet)
        self._pending_bytes += packet.size_bytes
        # RFC 4861 section 7.2.2: the new arrival replaces the oldest.
        while len(pending) > self._config.pending_packets_per_neighbour or (
            self._pending_bytes > self._config.pending_bytes and pending
        ):
            self._pending_bytes -= pending.popleft().size_bytes
            self._drops.count(self._queue_full)

    # -- what neighbours say -------------------------------------------------------------------------------------------

    def learn(self, address: bytes, mac: bytes, now: float, *, may_add: bool) -> None:
        """Take note that ``address`` said, unasked, that it is at ``mac``; ``may_add`` is whether a stranger counts."""
        neighbour = self._entries.get(address)
        if neighbour is None:
            if not may_add:
                return
            neighbour = self.get_or_add(address)
        if neighbour.mac == mac:
            return
        event = _E.LEARNED if neighbour.mac is None else _E.MOVED
        self._set_mac(neighbour, mac)
        self._change(neighbour, event, now)

    def confirm(self, address: bytes, mac: bytes, now: float) -> None:
        """Take note that ``address`` answered our question from ``mac``; an answer nobody waits for is passed over."""
        neighbour = self._entries.get(address)
        if neighbour is not None:
            if neighbour.mac != mac:
                self._set_mac(neighbour, mac)
            self._change(neighbour, _E.CONFIRMED, now)

    def advertise(self, address: bytes, mac: bytes | None, now: float, *, solicited: bool, override: bool) -> None:
        """Take note of a neighbour advertisement (RFC 4861 section 7.2.5)."""
        neighbour = self._entries.get(address)
        if neighbour is None:
            return
        if mac is None or mac == neighbour.mac:
            # A neighbour of whom no MAC address is known is not found by an answer that does not say it.
            if solicited and neighbour.mac is not None:
                self._change(neighbour, _E.CONFIRMED, now)
        elif neighbour.mac is not None and not override:
            self._change(neighbour, _E.DOUBTED, now)
        elif solicited:
            self._set_mac(neighbour, mac)
            self._change(neighbour, _E.CONFIRMED, now)
        else:
            self.learn(address, mac, now, may_add=False)

    def reached(self, address: bytes, now: float) -> None:
        """Take note that a connection through ``address`` moves forward (RFC 4861 section 7.3.1)."""
        neighbour = self._entries.get(address)
        if neighbour is not None and neighbour.mac is not None:
            self._change(neighbour, _E.CONFIRMED, now)

    def doubt(self, address: bytes, now: float) -> None:
        """Take note that nothing came back through ``address`` for a while: with the next packet it is asked soon."""
        neighbour = self._entries.get(address)
        if neighbour is not None:
            self._change(neighbour, _E.DOUBTED, now)

    # -- time ----------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return when ``handle_timers`` has something to do; None where it has not."""
        return self.timers.next_deadline()

    def handle_timers(self, now: float) -> None:
        """Ask those who have not answered, and give up those who were asked often enough."""
        for address in self.timers.due(now):
            neighbour = self._entries[address]
            if neighbour.asked >= self._config.neighbour_solicitations:
                self._change(neighbour, _E.EXHAUSTED, now)
            else:
                self._change(neighbour, _E.TIMER, now)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _change(self, neighbour: Neighbour, event: NeighbourEvent, now: float) -> None:
        before = neighbour.state
        state = NEIGHBOUR_TRANSITIONS.get((before, event), before)
        neighbour.state = state
        address = neighbour.address
        if state is not before and address in self._entries:
            self._entries[address] = self._entries.pop(address)
        if state is _S.REACHABLE:
            self.timers.cancel(address)
            neighbour.asked = 0
            neighbour.fresh_until_s = now + self._config.reachable_s
            self._release(neighbour)
        elif state is _S.STALE:
            if before is not _S.STALE:
                self.timers.cancel(address)
                neighbour.asked = 0
                neighbour.fresh_until_s = NEVER
                if neighbour.pending:
                    self._release(neighbour)
                    self._change(neighbour, _E.USE, now)
        elif state is _S.DELAY:
            if before is not _S.DELAY:
                neighbour.fresh_until_s = now + self._config.delay_first_probe_s
                self.timers.schedule(address, neighbour.fresh_until_s)
        elif state is _S.NO_ENTRY:
            if before is not _S.NO_ENTRY:
                self._drops.count(self._unanswered)
                packets = self._forget(neighbour)
                self._link.give_up(address, packets, now)
        elif event is _E.TIMER or before is not state:
            # INCOMPLETE and PROBE ask; the one everybody, the other the station where the neighbour was.
            neighbour.asked += 1
            again_at_s = now + self._config.retransmit_s
            self.timers.schedule(address, again_at_s)
            neighbour.fresh_until_s = again_at_s if state is _S.PROBE else NEVER
            self._link.solicit(address, neighbour.mac if state is _S.PROBE else None, now)

    def _set_mac(self, neighbour: Neighbour, mac: bytes) -> None:
        neighbour.mac = mac
        neighbour.link_header = self._link.link_header(mac)

    def _release(self, neighbour: Neighbour) -> None:
        """Send what waited."""
        pending = neighbour.pending
        if not pending:
            return
        neighbour.pending = None
        header = neighbour.link_header
        for packet in pending:
            self._pending_bytes -= packet.size_bytes
            start = packet.checksum_start + len(header) if packet.checksum_offset else 0
            self._link.transmit(
                Frame(header + packet.head, packet.payload, packet.segment_bytes, start, packet.checksum_offset)
            )

    def _forget(self, neighbour: Neighbour) -> list[Frame]:
        """Take a neighbour out of the cache, and return what waited for it."""
        self._entries.pop(neighbour.address, None)
        self.timers.cancel(neighbour.address)
        packets = list(neighbour.pending or ())
        self._pending_bytes -= sum(packet.size_bytes for packet in packets)
        neighbour.pending = None
        neighbour.state = _S.NO_ENTRY
        neighbour.mac = None
        neighbour.asked = 0
        neighbour.fresh_until_s = NEVER
        return packets
