"""What is done to a world, as data: each fault a frozen value that can be told, written down and applied again.

This file knows the faults, the log of those that were applied, and which of the drawn ones a run is to leave out. It
refuses to know how a fault is brought about (``_world.py``, ``_host.py``), and who draws them (``_chaos.py``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ..probe import Probe
from ._schedule import Schedule

if TYPE_CHECKING:
    from ._world import World

LIMIT_FAULTS: Final = 10_000
"""How many entries a log keeps, the first ones; what exceeds it is counted (``unlogged``)."""


@dataclass(frozen=True)
class Fault:
    """Something that is done to a world; ``str()`` tells it, as in "partition db | api"."""

    kind: ClassVar[str] = ""

    def apply(self, world: World) -> None:
        """Do it now, by the method of the world or the host that a test would call."""
        raise NotImplementedError

    def undoing(self) -> Fault | None:
        """What takes it back, where that is a fault of its own."""
        return None

    def as_json(self) -> dict[str, Any]:
        """Its kind and its fields, for a file."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class _OfWays(Fault):
    """A fault of the ways between some hosts and others, in both directions unless ``one_way``."""

    ones: tuple[str, ...]
    others: tuple[str, ...]
    one_way: bool = False

    def __str__(self) -> str:
        sides = [", ".join(side) for side in (self.ones, self.others) if side]
        return f"{self.kind} {(' -> ' if self.one_way else ' | ').join(sides)}".rstrip()

    def _by(self, method: Callable[..., None], **words: object) -> None:
        """Call a method of the world with what this fault says."""
        if self.one_way:
            method(self.ones, to=self.others, **words)
        elif self.ones:
            method(self.ones, *self.others, **words)
        else:
            method()


@dataclass(frozen=True)
class _OfConditions(_OfWays):
    """A fault of what ways are like; ``words`` are those of `World.link`, as pairs."""

    words: tuple[tuple[str, float | str | None], ...] = ()

    def __str__(self) -> str:
        return " ".join([super().__str__(), *(f"{word}={value}" for word, value in self.words)])


@dataclass(frozen=True)
class Partition(_OfWays):
    """No packet passes.

    >>> print(Partition(("db",), ("api",)), Partition(("api",), ("db",), one_way=True), sep="; ")
    partition db | api; partition api -> db
    >>> print(Partition(("db",), ("api",)).undoing())
    heal db | api
    """

    kind: ClassVar[str] = "partition"

    def apply(self, world: World) -> None:
        """By `World.partition`."""
        self._by(world.partition)

    def undoing(self) -> Fault:
        """Healing the same ways."""
        return Heal(self.ones, self.others, self.one_way)


@dataclass(frozen=True)
class Heal(_OfWays):
    """Packets pass again; everywhere, where no hosts are named."""

    kind: ClassVar[str] = "heal"
    ones: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def apply(self, world: World) -> None:
        """By `World.heal`."""
        self._by(world.heal)


@dataclass(frozen=True)
class Hold(_OfWays):
    """Packets are kept."""

    kind: ClassVar[str] = "hold"

    def apply(self, world: World) -> None:
        """By `World.hold`."""
        self._by(world.hold)

    def undoing(self) -> Fault:
        """Releasing the same ways."""
        return Release(self.ones, self.others, self.one_way)


@dataclass(frozen=True)
class Release(_OfWays):
    """What was kept goes on its way; everywhere, where no hosts are named."""

    kind: ClassVar[str] = "release"
    ones: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def apply(self, world: World) -> None:
        """By `World.release`."""
        self._by(world.release)


@dataclass(frozen=True)
class LinkChange(_OfConditions):
    """A way has other conditions.

    >>> print(LinkChange(("db",), ("api",), words=(("delay", "2s"), ("loss", 0.1))))
    link db | api delay=2s loss=0.1
    """

    kind: ClassVar[str] = "link"

    def apply(self, world: World) -> None:
        """By `World.link`."""
        for one, other in itertools.product(self.ones, self.others):
            world.link(one, other, one_way=self.one_way, **dict(self.words))  # type: ignore[arg-type]

    def undoing(self) -> Fault:
        """The world's own conditions; who changes a link that had conditions of its own knows better."""
        return LinkChange(self.ones, self.others, self.one_way)


@dataclass(frozen=True)
class Disturb(_OfConditions):
    """A way becomes worse in some respects, and stays as it is in all others.

    >>> print(Disturb(("db",), ("api",), words=(("loss", 0.1),)), Disturb(("db",), ("api",)).undoing(), sep="; ")
    disturb db | api loss=0.1; calm db | api
    """

    kind: ClassVar[str] = "disturb"

    def apply(self, world: World) -> None:
        """By `World.disturb`."""
        self._by(world.disturb, **dict(self.words))

    def undoing(self) -> Fault:
        """Its being as it was."""
        return Calm(self.ones, self.others, self.one_way)


@dataclass(frozen=True)
class Calm(_OfWays):
    """It is as it was before it was disturbed; everywhere, where no hosts are named."""

    kind: ClassVar[str] = "calm"
    ones: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def apply(self, world: World) -> None:
        """By `World.calm`."""
        self._by(world.calm)


@dataclass(frozen=True)
class _OfHost(Fault):
    """A fault of one host."""

    host: str

    def __str__(self) -> str:
        return f"{self.kind} {self.host}"


@dataclass(frozen=True)
class Crash(_OfHost):
    """A machine without power.

    >>> print(Crash("db"), Crash("db").undoing(), sep="; ")
    crash db; restart db
    """

    kind: ClassVar[str] = "crash"

    def apply(self, world: World) -> None:
        """By `Host.crash`."""
        world.hosts[self.host].crash()

    def undoing(self) -> Fault:
        """Its restart."""
        return Restart(self.host)


@dataclass(frozen=True)
class Isolate(_OfHost):
    """A host that no packet reaches or leaves.

    >>> print(Isolate("db"), Isolate("db").undoing(), sep="; ")
    isolate db; heal db
    """

    kind: ClassVar[str] = "isolate"

    def apply(self, world: World) -> None:
        """By `World.isolate`."""
        world.isolate(self.host)

    def undoing(self) -> Fault:
        """Its being joined to all others again."""
        return Heal((self.host,))


@dataclass(frozen=True)
class Kill(_OfHost):
    """A program that is ended by SIGKILL; its machine stays up."""

    kind: ClassVar[str] = "kill"

    def apply(self, world: World) -> None:
        """By `Host.kill`."""
        world.hosts[self.host].kill()

    def undoing(self) -> Fault:
        """Its restart."""
        return Restart(self.host)


@dataclass(frozen=True)
class Slow(_OfHost):
    """A program each turn of which takes so long; 0: no time, as ever.

    >>> print(Slow("db", 0.01))
    slow db 0.01 s a turn
    """

    kind: ClassVar[str] = "slow"
    turn_cost_s: float = 0.0

    def apply(self, world: World) -> None:
        """By `Host.slow`."""
        world.hosts[self.host].slow(self.turn_cost_s)

    def undoing(self) -> Fault:
        """Its being quick again."""
        return Slow(self.host)

    def __str__(self) -> str:
        return f"{super().__str__()} {self.turn_cost_s:g} s a turn"


@dataclass(frozen=True)
class Restart(_OfHost):
    """It has power again, or a process, and its program begins anew."""

    kind: ClassVar[str] = "restart"

    def apply(self, world: World) -> None:
        """By `Host.restart`."""
        world.hosts[self.host].restart()


@dataclass(frozen=True)
class Pause(_OfHost):
    """A program that is stopped."""

    kind: ClassVar[str] = "pause"

    def apply(self, world: World) -> None:
        """By `Host.pause`."""
        world.hosts[self.host].pause()

    def undoing(self) -> Fault:
        """Its going on."""
        return Resume(self.host)


@dataclass(frozen=True)
class Resume(_OfHost):
    """It goes on."""

    kind: ClassVar[str] = "resume"

    def apply(self, world: World) -> None:
        """By `Host.resume`."""
        world.hosts[self.host].resume()


@dataclass(frozen=True)
class ClockChange(_OfHost):
    """A clock with another offset or another pace; None leaves it as it is.

    >>> print(ClockChange("db", offset_s=-3600.0), ClockChange("db", drift=1e-3), sep="; ")
    clock db offset -3600 s; clock db drift 0.001
    """

    kind: ClassVar[str] = "clock"
    offset_s: float | None = None
    drift: float | None = None

    def apply(self, world: World) -> None:
        """By the host's `HostClock`."""
        clock = world.hosts[self.host].clock
        if self.offset_s is not None:
            clock.offset_s = self.offset_s
        if self.drift is not None:
            clock.drift = self.drift

    def undoing(self) -> Fault:
        """A clock that is right in what this made wrong."""
        return ClockChange(self.host, None if self.offset_s is None else 0.0, None if self.drift is None else 0.0)

    def __str__(self) -> str:
        offset = "" if self.offset_s is None else f" offset {self.offset_s:g} s"
        return f"{super().__str__()}{offset}" + ("" if self.drift is None else f" drift {self.drift:g}")


# --- the log --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Applied:
    """A fault that was applied at a time of the world; ``number`` is of the drawn one it belongs to, if any."""

    at_s: float
    fault: Fault
    number: int | None = None

    def __str__(self) -> str:
        return f"at {self.at_s:.6g} s {self.fault}"


@dataclass(frozen=True)
class Drawn:
    """A fault of a random schedule: what, when, and until when (None: for good, or until another undoes it)."""

    number: int
    at_s: float
    fault: Fault
    until_s: float | None = None

    def __str__(self) -> str:
        until = "" if self.until_s is None else f", until {self.until_s:.6g} s"
        return f"at {self.at_s:.6g} s {self.fault}{until}"

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {"number": self.number, "at_s": self.at_s, "until_s": self.until_s, **self.fault.as_json()}


FAULT: Final[Probe[[object, Applied]]] = Probe(
    "sim.fault", "the world's FaultLog, Applied: a fault was applied, at its world's time, also where none is noted"
)


class FaultLog:
    """What was done to one world, and what its random schedules drew.

    Who draws faults tells each to `draw`, before the first is applied and whatever ``only`` says: what is drawn must
    be the same in a run that leaves some of them out. It applies only what `is_wanted`, in a block of `caused_by`.

    >>> from random import Random
    >>> log = FaultLog(Schedule(Random(1)), only=[1])
    >>> [log.draw(3.0 + n, Crash("db"), 9.0).number for n in range(2)], log.is_wanted(0), log.is_wanted(1)
    ([0, 1], False, True)
    """

    def __init__(self, schedule: Schedule, only: Collection[int] | None = None) -> None:
        self._schedule = schedule
        self.only: Final = None if only is None else frozenset(only)
        self.applied: list[Applied] = []
        self.drawn: list[Drawn] = []
        self.unlogged = 0
        self._cause: int | None = None

    def note(self, fault: Fault) -> None:
        """A fault is applied now."""
        applied = Applied(self._schedule.now, fault, self._cause)
        if len(self.applied) < LIMIT_FAULTS:
            self.applied.append(applied)
        else:
            self.unlogged += 1
        if FAULT.listeners:
            FAULT(self, applied)

    def draw(self, at_s: float, fault: Fault, until_s: float | None = None) -> Drawn:
        """A fault is drawn; it gets the next number."""
        drawn = Drawn(len(self.drawn), at_s, fault, until_s)
        self.drawn.append(drawn)
        return drawn

    def is_wanted(self, number: int) -> bool:
        """Whether the drawn fault of that number is to be applied in this run."""
        return self.only is None or number in self.only

    @contextmanager
    def caused_by(self, number: int) -> Iterator[None]:
        """What is noted in this block belongs to the drawn fault of that number."""
        outer, self._cause = self._cause, number
        try:
            yield
        finally:
            self._cause = outer

    def as_json(self) -> dict[str, Any]:
        """Both, for a file."""
        return {
            "applied": [{"at_s": each.at_s, "number": each.number, **each.fault.as_json()} for each in self.applied],
            "drawn": [{**each.as_json(), "wanted": self.is_wanted(each.number)} for each in self.drawn],
            "unlogged": self.unlogged,
        }
