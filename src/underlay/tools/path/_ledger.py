"""Which probe was sent when, and what became of it.

Every probe is in one of four states: on its way, answered, lost, or late (lost, and answered afterwards). This file
keeps them, and sums of their round-trip times for each flow and distance. It takes times as arguments, in
nanoseconds of any clock that only goes forward. It refuses to know sockets and what the sums mean.
"""

from __future__ import annotations

import enum
import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = ["HISTORY", "Answer", "AnswerKind", "Cell", "Ledger", "Probe", "State", "Times"]

# So many probes of one flow at one distance are kept one by one, for what their order tells; sums go on beyond.
HISTORY: Final = 1000
# Of the addresses that answer in one place, so many are told apart. Paths have few; an attacker may invent more.
_ADDRESSES: Final = 16


class AnswerKind(enum.Enum):
    """What an answer says."""

    PASSING = enum.auto()
    """Somebody on the way: its time to live was over."""
    REACHED = enum.auto()
    """The host itself."""
    UNREACHABLE = enum.auto()
    """Somebody on the way doesn't send there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whoever's probe it is for."""

    kind: AnswerKind
    address: str
    received_ns: int
    note: str = ""
    mpls: tuple[int, ...] = ()


class State(enum.Enum):
    """What became of a probe."""

    ON_ITS_WAY = enum.auto()
    ANSWERED = enum.auto()
    LOST = enum.auto()
    LATE = enum.auto()


@dataclass(slots=True, eq=False)
class Probe:
    """One probe."""

    flow: int
    ttl: int
    number: int
    """Its place among all that the flow sent."""
    sent_ns: int
    deadline_ns: int
    state: State = State.ON_ITS_WAY


@dataclass(slots=True)
class Times:
    """Sums of round-trip times that can be added to others': Welford's, with Chan's way to join two."""

    count: int = 0
    mean_ns: float = 0.0
    squares: float = 0.0
    best_ns: int = 0
    worst_ns: int = 0
    last_ns: int = 0
    last_number: int = -1
    differences: int = 0
    differences_ns: float = 0.0

    def add(self, rtt_ns: int, number: int) -> None:
        """Take one more; ``number`` tells which was sent last."""
        if self.count:
            self.differences += 1
            self.differences_ns += abs(rtt_ns - self.last_ns)
            self.best_ns, self.worst_ns = min(self.best_ns, rtt_ns), max(self.worst_ns, rtt_ns)
        else:
            self.best_ns = self.worst_ns = rtt_ns
        self.last_ns, self.last_number = rtt_ns, number
        self.count += 1
        step = rtt_ns - self.mean_ns
        self.mean_ns += step / self.count
        self.squares += step * (rtt_ns - self.mean_ns)

    @classmethod
    def of(cls, parts: Iterable[Times]) -> Times:
        """Give the sums of several flows together; no difference is taken from one flow to another."""
        whole = cls()
        for part in parts:
            if not part.count:
                continue
            if not whole.count:
                whole.best_ns, whole.worst_ns = part.best_ns, part.worst_ns
            count = whole.count + part.count
            step = part.mean_ns - whole.mean_ns
            whole.squares += part.squares + step * step * whole.count * part.count / count
            whole.mean_ns += step * part.count / count
            whole.count = count
            whole.best_ns = min(whole.best_ns, part.best_ns)
            whole.worst_ns = max(whole.worst_ns, part.worst_ns)
            whole.differences += part.differences
            whole.differences_ns += part.differences_ns
            if part.last_number > whole.last_number:
                whole.last_ns, whole.last_number = part.last_ns, part.last_number
        return whole

    @property
    def stdev_ns(self) -> float | None:
        """The standard deviation of the sample."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else None

    @property
    def jitter_ns(self) -> float | None:
        """The mean difference of one to the next."""
        return self.differences_ns / self.differences if self.differences else None


@dataclass(slots=True)
class Cell:
    """What one flow knows of one distance."""

    settled: int = 0
    answered: int = 0
    late: int = 0
    duplicates: int = 0
    times: Times = field(default_factory=Times)
    addresses: Counter[str] = field(default_factory=Counter)
    """Who answered, and how often."""
    addresses_left_out: int = 0
    """Answers from addresses that are not among those."""
    note: str = ""
    mpls: tuple[int, ...] = ()
    history: deque[Probe] = field(default_factory=lambda: deque(maxlen=HISTORY))
    told_by: str | None = None
    """Who is there, as far as answers tell that came too late."""

    @property
    def address(self) -> str | None:
        """Who answered most often."""
        return max(self.addresses, key=self.addresses.__getitem__, default=self.told_by)


class Ledger:
    """All probes of all flows that still matter, and the cells."""

    def __init__(self, flows: int) -> None:
        self.flows = flows
        self._cells: list[dict[int, Cell]] = [{} for _ in range(flows)]
        self._on_their_way: list[dict[int, Probe]] = [{} for _ in range(flows)]
        self._numbers = [0] * flows

    def cell(self, flow: int, ttl: int) -> Cell:
        """What is known of a place; an empty one where nothing was sent."""
        return self._cells[flow].setdefault(ttl, Cell())

    def cells(self, flow: int) -> dict[int, Cell]:
        """Every place of a flow that a probe was sent to."""
        return self._cells[flow]

    def on_their_way(self, flow: int) -> Sequence[Probe]:
        """The flow's probes that are neither answered nor lost, oldest first."""
        return list(self._on_their_way[flow].values())

    def is_busy(self, flow: int) -> bool:
        """Whether a probe of the flow is on its way."""
        return bool(self._on_their_way[flow])

    def new_probe(self, flow: int, ttl: int, sent_ns: int, deadline_ns: int) -> Probe:
        """Write down a probe that is about to be sent. Deadlines of a flow are in the order of its probes."""
        probe = Probe(flow, ttl, self._numbers[flow], sent_ns, deadline_ns)
        self._numbers[flow] += 1
        self._on_their_way[flow][probe.number] = probe
        self.cell(flow, ttl).history.append(probe)
        return probe

    def not_sent(self, probe: Probe) -> None:
        """Strike out a probe that the machine did not send."""
        self._on_their_way[probe.flow].pop(probe.number, None)
        history = self.cell(probe.flow, probe.ttl).history
        if history and history[-1] is probe:
            history.pop()

    def answer(self, probe: Probe, answer: Answer) -> bool:
        """Write down an answer to a probe. False for a duplicate or late one, which tells nothing new of the path."""
        cell = self.cell(probe.flow, probe.ttl)
        match probe.state:
            case State.ON_ITS_WAY:
                probe.state = State.ANSWERED
                self._on_their_way[probe.flow].pop(probe.number, None)
                cell.settled += 1
                cell.answered += 1
                cell.times.add(max(answer.received_ns - probe.sent_ns, 0), probe.number)
                if answer.address in cell.addresses or len(cell.addresses) < _ADDRESSES:
                    cell.addresses[answer.address] += 1
                else:
                    cell.addresses_left_out += 1
                cell.note, cell.mpls = answer.note, answer.mpls
                return True
            case State.LOST:
                probe.state = State.LATE
                cell.late += 1
                # One that says that the way ends need not be from there: `end_of`.
                if not cell.addresses and answer.kind is not AnswerKind.UNREACHABLE:
                    cell.told_by, cell.note = answer.address, answer.note
            case _:
                cell.duplicates += 1
        return False

    def end_of(self, probe: Probe, answer: Answer, source: str) -> int:
        """At which distance the path ends, of which an answer says that it leads no farther.

        A router, or the machine ``source`` itself, that looks for a neighbour says so after seconds, to all probes that
        it has got by then, however far they were to go. Its own distance is known by those that ended there; but where
        somebody else has answered behind it, it is about this probe alone.
        """
        cells = self._cells[probe.flow]
        own = 0 if answer.address == source else None
        for ttl in range(1, probe.ttl):
            if (cell := cells.get(ttl)) is None or not cell.addresses:
                continue
            own = ttl if answer.address in cell.addresses else None
        return probe.ttl if own is None else own + 1

    def expire(self, now_ns: int) -> list[Probe]:
        """Count as lost what should have been answered by now, and give it."""
        lost = []
        for flow in self._on_their_way:
            for probe in flow.values():  # in the order of sending, which is that of their deadlines
                if probe.deadline_ns > now_ns:
                    break
                lost.append(probe)
        for probe in lost:
            probe.state = State.LOST
            del self._on_their_way[probe.flow][probe.number]
            self.cell(probe.flow, probe.ttl).settled += 1
        return lost

    def next_deadline_ns(self) -> int | None:
        """When the next probe is lost, if none is answered before; None where nothing is on its way."""
        return min((next(iter(flow.values())).deadline_ns for flow in self._on_their_way if flow), default=None)
