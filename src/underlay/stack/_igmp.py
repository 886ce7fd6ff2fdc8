"""Multicast groups of a host's interfaces, and IGMPv2, which tells routers of them (RFC 1112, RFC 2236).

This file knows who joined which group how often, and when a router is told, as
an enum and a table. It refuses to know sockets and routes. For IPv6 it keeps the
groups; nobody is told of them (MLD, RFC 2710), which a link without a snooping
switch does not need.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from ..wire import (
    IGMP_LEAVE,
    IGMP_QUERY,
    IGMP_V1_REPORT,
    IGMP_V2_REPORT,
    IPV4_ROUTER_ALERT,
    build_igmp,
    format_ip,
    parse_igmp,
)
from ._contract import Rng
from ._host_config import Drops, HostConfig
from ._interface import Interface
from ._ip_output import PacketOutput
from ._local_addresses import ALL_SYSTEMS4, LocalAddresses
from ._received import Received
from ._timers import Timers

IGMP: Final = 2  # its protocol number (RFC 2236)
ALL_ROUTERS4: Final = b"\xe0\x00\x00\x02"  # 224.0.0.2: where a leave goes (RFC 2236 section 3)

# RFC 2236 section 8.10; also the longest delay of an answer to a version 1 query (section 4, 10 seconds).
UNSOLICITED_REPORT_INTERVAL_S: Final = 10.0


class Membership(enum.Enum):
    """How far the telling is (RFC 2236 section 6)."""

    NON_MEMBER = "non-member"
    DELAYING = "delaying member"  # a report is due when the timer ends
    IDLE = "idle member"


class GroupEvent(enum.Enum):
    """What happens to a membership (RFC 2236 section 6)."""

    JOIN = "join group"
    LEAVE = "leave group"
    QUERY = "query received"
    REPORT = "report received"
    TIMER = "timer expired"


_M = Membership
_E = GroupEvent

MEMBERSHIP_TRANSITIONS: Final[Mapping[tuple[Membership, GroupEvent], Membership]] = MappingProxyType(
    {
        (_M.NON_MEMBER, _E.JOIN): _M.DELAYING,
        (_M.DELAYING, _E.LEAVE): _M.NON_MEMBER,
        (_M.DELAYING, _E.QUERY): _M.DELAYING,
        (_M.DELAYING, _E.REPORT): _M.IDLE,
        (_M.DELAYING, _E.TIMER): _M.IDLE,
        (_M.IDLE, _E.LEAVE): _M.NON_MEMBER,
        (_M.IDLE, _E.QUERY): _M.DELAYING,
    }
)


class _Group:
    __slots__ = ("deadline_s", "last_reporter", "state")

    def __init__(self) -> None:
        self.state = Membership.NON_MEMBER
        self.last_reporter = False  # whether our report was the last: only then a leave is worth sending
        self.deadline_s = 0.0


class GroupLayer:
    """The groups of one host."""

    def __init__(
        self,
        config: HostConfig,
        rng: Rng,
        drops: Drops,
        addresses: LocalAddresses,
        output: PacketOutput,
        interface_for: Callable[[bytes], Interface | None],
    ) -> None:
        self._config = config
        self._rng = rng
        self._drops = drops
        self._addresses = addresses
        self._output = output
        self._interface_for = interface_for
        self._groups: dict[tuple[int, bytes], _Group] = {}
        self.timers: Timers[tuple[int, bytes]] = Timers()

    # -- the program ---------------------------------------------------------------------------------------------------

    def join(self, group: bytes, interface: int | None, now: float) -> int:
        """Join a group once more, on an interface or on the one its route names; return the interface's index.

        ENODEV where there is none, ENOBUFS where the interface has its limit of groups.
        """
        if interface is None:
            found = self._interface_for(group)
        elif 0 <= interface < len(self._output.ports):
            found = self._output.ports[interface].interface
        else:
            found = None
        if found is None:
            raise OSError(errno.ENODEV, f"no interface for the group {format_ip(group)}")
        if group not in found.groups and len(found.groups) >= self._config.group_memberships:
            raise OSError(errno.ENOBUFS, f"{found.name} is in {len(found.groups)} groups already")
        found.groups[group] = found.groups.get(group, 0) + 1
        if found.groups[group] == 1 and self._is_told(found, group):
            state = self._groups[found.index, group] = _Group()
            self._change(found, group, state, GroupEvent.JOIN, now)
        return found.index

    def leave(self, group: bytes, interface: int, now: float) -> None:
        """Leave a group once; with the last leave the interface does not hear it any more."""
        found = self._output.ports[interface].interface
        count = found.groups.get(group, 0)
        if count > 1:
            found.groups[group] = count - 1
        elif count == 1:
            del found.groups[group]
            state = self._groups.pop((found.index, group), None)
            if state is not None:
                self._change(found, group, state, GroupEvent.LEAVE, now)

    def membership(self, group: bytes, interface: int) -> Membership:
        """Say how far the telling of a group is."""
        state = self._groups.get((interface, group))
        return state.state if state is not None else Membership.NON_MEMBER

    # -- the link ------------------------------------------------------------------------------------------------------

    def receive(self, packet: Received, now: float) -> None:
        """Take an IGMP message; a ``WireError`` goes to the caller, who counts it."""
        message = parse_igmp(packet.data, packet.start, packet.end)
        interface = packet.interface
        if message.type == IGMP_QUERY:
            # RFC 2236 section 4: a version 1 query says no time, and means ten seconds.
            longest_s = message.max_response_ds / 10 or UNSOLICITED_REPORT_INTERVAL_S
            for (index, group), state in list(self._groups.items()):
                if index == interface.index and message.group in (bytes(4), group):
                    if state.state is Membership.DELAYING and state.deadline_s - now <= longest_s:
                        continue  # it is sent soon enough
                    self._change(interface, group, state, GroupEvent.QUERY, now, longest_s)
        elif message.type in (IGMP_V1_REPORT, IGMP_V2_REPORT):
            found = self._groups.get((interface.index, message.group))
            if found is not None:
                self._change(interface, message.group, found, GroupEvent.REPORT, now)
        elif message.type != IGMP_LEAVE:
            self._drops.count("igmp.type_unknown")

    def next_deadline(self) -> float | None:
        """Return when ``handle_timers`` has something to do; None where it has not."""
        return self.timers.next_deadline()

    def handle_timers(self, now: float) -> None:
        """Send the reports that are due."""
        for index, group in self.timers.due(now):
            state = self._groups[index, group]
            self._change(self._output.ports[index].interface, group, state, GroupEvent.TIMER, now)

    # -- inside --------------------------------------------------------------------------------------------------------

    @staticmethod
    def _is_told(interface: Interface, group: bytes) -> bool:
        """Whether routers hear of a group: never of 224.0.0.1 (RFC 2236 section 6)."""
        return len(group) == 4 and group != ALL_SYSTEMS4 and not interface.is_loopback

    def _change(
        self,
        interface: Interface,
        group: bytes,
        state: _Group,
        event: GroupEvent,
        now: float,
        longest_s: float = UNSOLICITED_REPORT_INTERVAL_S,
    ) -> None:
        key = interface.index, group
        before = state.state
        state.state = MEMBERSHIP_TRANSITIONS.get((before, event), before)
        if event is GroupEvent.JOIN or event is GroupEvent.TIMER:
            self._send(interface, group, IGMP_V2_REPORT, group, now)
            state.last_reporter = True
        elif event is GroupEvent.REPORT:
            self.timers.cancel(key)
            state.last_reporter = False
        elif event is GroupEvent.LEAVE:
            self.timers.cancel(key)
            if state.last_reporter:
                self._send(interface, group, IGMP_LEAVE, ALL_ROUTERS4, now)
        if state.state is Membership.DELAYING and event in (GroupEvent.JOIN, GroupEvent.QUERY):
            state.deadline_s = now + self._rng.random() * longest_s
            self.timers.schedule(key, state.deadline_s)

    def _send(self, interface: Interface, group: bytes, kind: int, destination: bytes, now: float) -> None:
        source = interface.source_for(destination, self._addresses.unicast)
        if source is None:
            self._drops.count("igmp.no_source")
            return
        message = build_igmp(kind, group)
        self._output.send(
            source, destination, IGMP, message, b"", now, ttl=1, options=IPV4_ROUTER_ALERT, loop_back=False
        )
