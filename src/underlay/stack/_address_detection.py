"""Whether somebody else on the link has an address of ours, and telling the link that we have it.

This file knows when an address is asked for, announced, defended and given up
(RFC 5227 for IPv4, RFC 4862 section 5.4 for IPv6), as an enum and a table. It
refuses to know what a probe looks like on the wire, and routes.

Without detection (``HostConfig.detect_duplicates``), an address is used at once
and announced; a conflict is then only counted and answered.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from ._contract import Rng
from ._host_config import Drops, HostConfig
from ._local_addresses import LocalAddresses
from ._timers import Timers


class Claim(enum.Enum):
    """How far the host is with one of its addresses."""

    WAITING = "waiting"  # a random while, so that machines which start together do not shout together
    PROBING = "probing"  # asking whether anybody has it
    ANNOUNCING = "announcing"  # saying that we have it
    OWNED = "owned"
    LOST = "lost"  # somebody else has it; it is not used


class ClaimEvent(enum.Enum):
    """What happens to a claim."""

    TIMER = "timer"
    DONE = "done"  # the last probe's, or the last announcement's, time is over
    CONFLICT = "conflict"  # somebody else uses the address, or probes for it at the same time


CLAIM_TRANSITIONS: Final[Mapping[tuple[Claim, ClaimEvent], Claim]] = MappingProxyType(
    {
        (Claim.WAITING, ClaimEvent.TIMER): Claim.PROBING,
        (Claim.WAITING, ClaimEvent.CONFLICT): Claim.LOST,
        (Claim.PROBING, ClaimEvent.DONE): Claim.ANNOUNCING,
        (Claim.PROBING, ClaimEvent.CONFLICT): Claim.LOST,
        (Claim.ANNOUNCING, ClaimEvent.DONE): Claim.OWNED,
        # A conflict later on changes nothing: RFC 5227 section 2.4 (c), for a host that keeps its address for good.
    }
)


class Timing(NamedTuple):
    """The constants of one family."""

    wait_s: float
    probes: int
    probe_min_s: float
    probe_max_s: float
    after_probes_s: float
    announce_interval_s: float


# RFC 5227 section 1.1: PROBE_WAIT, PROBE_NUM, PROBE_MIN, PROBE_MAX, ANNOUNCE_WAIT, ANNOUNCE_INTERVAL.
TIMING4: Final = Timing(1.0, 3, 1.0, 2.0, 2.0, 2.0)
# RFC 4861 section 10: MAX_RTR_SOLICITATION_DELAY, RETRANS_TIMER; RFC 4862 section 5.1: DupAddrDetectTransmits.
TIMING6: Final = Timing(1.0, 1, 1.0, 1.0, 1.0, 1.0)
DEFEND_INTERVAL_S: Final = 10.0  # RFC 5227 section 1.1


class Announcer(Protocol):
    """Who can ask and tell the link about an address."""

    def probe(self, address: bytes) -> None:
        """Ask whether anybody has it."""
        ...

    def announce(self, address: bytes) -> None:
        """Say that we have it."""
        ...


class _State:
    __slots__ = ("announcer", "claim", "defended_s", "sent", "timing")

    def __init__(self, announcer: Announcer, timing: Timing, claim: Claim) -> None:
        self.announcer = announcer
        self.timing = timing
        self.claim = claim
        self.sent = 0
        self.defended_s: float | None = None


class AddressDetection:
    """The claims of one host to its addresses."""

    def __init__(self, config: HostConfig, rng: Rng, drops: Drops, addresses: LocalAddresses) -> None:
        self._config = config
        self._rng = rng
        self._drops = drops
        self._addresses = addresses
        self._states: dict[bytes, _State] = {}
        self.timers: Timers[bytes] = Timers()
        self.lost: list[bytes] = []
        """Addresses that somebody else turned out to have, in the order of finding out."""
        self.conflicts: dict[bytes, bytes | None] = {}
        """Addresses that were ever in conflict, and the MAC address of whoever was first; None where it told none."""

    def begin(self, address: bytes, announcer: Announcer, now: float) -> bool:
        """Claim an address; True where it is tentative, to be used only after it was found to be free."""
        detect = self._config.detect_duplicates
        timing = TIMING4 if len(address) == 4 else TIMING6
        self._states[address] = _State(announcer, timing, Claim.WAITING if detect else Claim.ANNOUNCING)
        self.timers.schedule(address, now + (self._rng.random() * timing.wait_s if detect else 0.0))
        return detect

    def claim(self, address: bytes) -> Claim | None:
        """Say how far the host is with an address; None where it never claimed it."""
        state = self._states.get(address)
        return state.claim if state is not None else None

    def conflict(self, address: bytes, mac: bytes | None, now: float) -> None:
        """Take note that somebody else uses ``address``, or is about to."""
        state = self._states.get(address)
        if state is None:
            return
        self._drops.count("address.conflict")
        self.conflicts.setdefault(address, mac)
        before = state.claim
        state.claim = CLAIM_TRANSITIONS.get((before, ClaimEvent.CONFLICT), before)
        if state.claim is Claim.LOST:
            if before is not Claim.LOST:
                self.timers.cancel(address)
                self._addresses.remove(address)
                self.lost.append(address)
        elif state.defended_s is None or now - state.defended_s >= DEFEND_INTERVAL_S:
            state.defended_s = now
            state.announcer.announce(address)

    def next_deadline(self) -> float | None:
        """Return when ``handle_timers`` has something to do; None where it has not."""
        return self.timers.next_deadline()

    def handle_timers(self, now: float) -> None:
        """Send the probes and announcements that are due."""
        for address in self.timers.due(now):
            self._advance(address, self._states[address], now)

    def _advance(self, address: bytes, state: _State, now: float) -> None:
        most = {Claim.PROBING: state.timing.probes, Claim.ANNOUNCING: self._config.announcements}.get(state.claim, 0)
        event = ClaimEvent.DONE if state.claim is not Claim.WAITING and state.sent >= most else ClaimEvent.TIMER
        before = state.claim
        state.claim = CLAIM_TRANSITIONS.get((before, event), before)
        if state.claim is not before:
            state.sent = 0
        timing = state.timing
        if state.claim is Claim.PROBING:
            state.announcer.probe(address)
            state.sent += 1
            if state.sent < timing.probes:
                wait_s = timing.probe_min_s + self._rng.random() * (timing.probe_max_s - timing.probe_min_s)
            else:
                wait_s = timing.after_probes_s
            self.timers.schedule(address, now + wait_s)
        elif state.claim is Claim.ANNOUNCING:
            if before is Claim.PROBING:
                self._addresses.use(address)
            if state.sent < self._config.announcements:
                state.announcer.announce(address)
                state.sent += 1
            self.timers.schedule(address, now + timing.announce_interval_s)
