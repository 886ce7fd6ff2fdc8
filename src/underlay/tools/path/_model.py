"""What is found out about a path: hops, and the report that holds them.

This file knows the words in which a path is described, and their units. It refuses to know sockets, time, and how
anything here is found out.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

__all__ = ["Ending", "Hop", "Report", "Verdict"]


class Verdict(enum.StrEnum):
    """What the numbers of a hop carry, in a word."""

    OK = "ok"
    """It answers, and nothing says that packets are lost here."""
    LOSS = "loss"
    """From here on packets are lost: the hops behind it, if any, lose as many."""
    RATE_LIMITED = "rate-limited"
    """It answers only some probes; the packets themselves pass."""
    SILENT = "silent"
    """It answers no probe, and passes them on: hops behind it answer."""
    NO_ANSWER = "no answer"
    """Neither it nor anything behind it answers."""


class Ending(enum.StrEnum):
    """How the path ends."""

    REACHED = "reached"
    """The host itself answers."""
    UNREACHABLE = "unreachable"
    """A router says that it doesn't send there."""
    SILENT = "silent"
    """Nothing answers behind the last hop that does."""
    TOO_LONG = "too long"
    """Routers answer as far as the greatest number of hops that was allowed."""
    UNKNOWN = "unknown"
    """It was ended before this was found out."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One router, or the host itself, as some of the flows found it at one distance."""

    ttl: int
    """Its distance: the time to live (or hop limit) of the probes that end here."""
    address: str | None
    """Who answers, be it late; None where nobody does."""
    name: str | None
    """Its name by reverse look-up, None where it has none or nobody asked."""
    flows: tuple[int, ...]
    """The numbers of the flows that come by here, from 1."""
    sent: int
    """Probes whose time is over, answered or not."""
    answered: int
    late: int
    """Answers that came after the time-out; their probes count as lost."""
    duplicates: int
    """Answers to a probe that was answered before."""
    last_us: float | None
    average_us: float | None
    best_us: float | None
    worst_us: float | None
    stdev_us: float | None
    """The standard deviation of the round-trip times; None for fewer than two."""
    jitter_us: float | None
    """The mean difference of one round-trip time to the next; None for fewer than two."""
    path_loss: float | None
    """The part of the packets, 0 to 1, that is lost on the way to here or back, as far as this hop's answers and those
    of the hops behind it can tell. None where only its own answers could, and they are limited."""
    verdict: Verdict
    evidence: str
    """What the verdict rests on, as a clause; empty where there is nothing to say."""
    note: str = ""
    """What it says besides: ``"host unreachable"``, …"""
    others: tuple[str, ...] = ()
    """Further addresses that answered at this distance in the same flows, at most 15 of each flow."""
    others_left_out: int = 0
    """Answers from yet further addresses."""
    mpls: tuple[int, ...] = ()
    """The labels with which the probe came in, outermost first (RFC 4950)."""

    @property
    def loss(self) -> float:
        """The part of the probes that it did not answer, 0 to 1."""
        return 1 - self.answered / self.sent if self.sent else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """A path, as far as it is known now."""

    host: str
    address: str
    protocol: str
    port: int | None
    source: str
    flow_ids: tuple[int, ...]
    """What tells the flows apart: the source port, or the identifier of ICMP echo."""
    rounds: int
    """Rounds that every flow has sent."""
    interval_s: float
    timeout_s: float
    ending: Ending
    """How the first flow that ends best ends."""
    ending_says: str
    """The same as a sentence."""
    hops: tuple[Hop, ...]
    """In order of distance; at one distance, in order of flows."""
    strays: int = 0
    """Answers that belong to no probe of ours."""
    unassigned: int = 0
    """Answers that quote too little to say which probe they are for."""
    names_left_out: int = 0
    """Times that no name was asked for, since 256 were."""
    send_errors: dict[str, int] = field(default_factory=dict)
    """Probes that this machine did not send: the reason, and how many."""

    @property
    def reached(self) -> bool:
        """Whether the host itself answered."""
        return self.ending is Ending.REACHED
