"""Random faults with a budget: which, when, whom and for how long is drawn from the seed, before the first happens.

This file knows how a schedule of faults is drawn, applied and undone. It refuses to know how a fault is brought about
(``_faults.py``).

Drawn first and applied later: so a run may leave some of them out (`FaultLog.is_wanted`), and the others are the same.
Two faults that would undo each other's work, of one host or of one way, do not overlap; each is undone by itself, and
the last at the end of the budget at the latest. A test may assert from then on that everything recovers.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import TYPE_CHECKING, ClassVar, Final, TypedDict

from ..errors import UsageError, nearest
from ._faults import ClockChange, Crash, Disturb, Drawn, Fault, Hold, Kill, Partition, Pause, Slow
from ._quantities import seconds

if TYPE_CHECKING:
    from ._host import Host
    from ._world import World

MOST_FAULTS: Final = 1000
"""How many faults one schedule has at most, unless told otherwise."""
# How often whom to befall is drawn anew, where those drawn are befallen already.
_TRIES: Final = 8
# Somewhat after the end, so that whoever waited for it finds all undone.
_AFTER_S: Final = 1e-6
# Faults that follow each other faster, and last no longer, would be drawn for ever before they are over.
_LEAST_S: Final = 1e-9


class ChaosWords(TypedDict, total=False):
    """What may be said of a schedule of random faults; times in seconds or as "20ms"."""

    duration: float | str
    every: float | str
    each: float | str
    at_once: int
    most: int
    hosts: Iterable[str | Host] | None


class Chaos:
    """A schedule of random faults: ``faults`` are those drawn, ``ends_at_s`` is when all are undone.

    It lasts ``duration``. A fault begins ``every`` so often and lasts ``each`` so long, both on the average and
    exponentially distributed; ``at_once`` are under way at most, and there are ``most`` in all. ``hosts`` are befallen,
    and the ways between them; all but those where the test itself stands, unless told otherwise: these cannot crash,
    and ways to them are befallen all the same. What cannot be done when its time has come is ``skipped``.
    """

    KINDS: ClassVar[tuple[str, ...]] = (
        "partition",
        "one_way_partition",
        "hold",
        "disturb",
        "crash",
        "kill",
        "pause",
        "slow",
        "clock",
    )

    def __init__(
        self,
        world: World,
        rng: Random,
        kinds: Sequence[str] = (),
        *,
        duration: float | str = 60.0,
        every: float | str = 5.0,
        each: float | str = 3.0,
        at_once: int = 2,
        most: int = MOST_FAULTS,
        hosts: Iterable[str | Host] | None = None,
    ) -> None:
        self.faults: tuple[Drawn, ...] = ()
        self.began_at_s = self.ends_at_s = world.now
        for kind in kinds:
            if kind not in self.KINDS:
                raise UsageError(f"chaos knows no {kind!r}", remedy=nearest(kind, self.KINDS))
        if at_once < 1 or most < 1:
            raise UsageError("chaos without a fault cannot be", remedy="at_once= and most= are 1 at least")
        self.world = world
        self.ends_at_s = world.now + seconds(duration, "duration")
        self.skipped = 0
        named = None if hosts is None else [each if isinstance(each, str) else each.name for each in hosts]
        for name in named or ():
            if name not in world.hosts:
                raise UsageError(f"there is no host {name!r}", remedy=nearest(name, world.hosts))
        self._rng = rng
        self._machines = [h for h in (named or world.hosts) if named or not world.hosts[h].is_visited]
        self._ends = list(named or world.hosts)
        # Among LANs only some ends have a way that can be held or disturbed: a wire, or two hosts of the internet.
        self._ways = world.between.ways_among(self._ends) if world.topology.lans else None
        possible = [kind for kind in kinds or self.KINDS if self._can_draw(kind)]
        if not possible:
            raise UsageError(
                "chaos has nobody to befall", remedy="make hosts first; the ways between them need two, and hosts one"
            )
        every_s, each_s = seconds(every, "every"), seconds(each, "each")
        if max(every_s, each_s) < _LEAST_S:
            raise UsageError(
                f"every={every!r} and each={each!r} let no time pass", remedy="let faults come every second, say"
            )
        self.faults = tuple(self._draw(possible, every_s, each_s, at_once, most))

    def _can_draw(self, kind: str) -> bool:
        if kind in _OF_HOSTS:
            return bool(self._machines)
        if kind in ("hold", "disturb") and self._ways is not None:
            return bool(self._ways)
        return len(self._ends) > 1

    # --- drawing --------------------------------------------------------------------------------------------

    def _draw(self, kinds: list[str], every_s: float, each_s: float, at_once: int, most: int) -> list[Drawn]:
        rng, log = self._rng, self.world.faults
        drawn: list[Drawn] = []
        # What is befallen until when: a host, or one aspect of a way.
        busy: dict[tuple[str, ...], float] = {}
        ends: list[float] = []
        at_s = self.began_at_s
        while len(drawn) < most:
            at_s += rng.expovariate(1 / every_s) if every_s else 0.0
            ends = [end for end in ends if end > at_s]
            if len(ends) >= at_once:
                at_s = sorted(ends)[-at_once]
                ends = [end for end in ends if end > at_s]
            until_s = min(at_s + (rng.expovariate(1 / each_s) if each_s else 0.0), self.ends_at_s)
            if at_s >= self.ends_at_s:
                break
            for _ in range(_TRIES):
                fault = self._fault(rng.choice(kinds))
                keys = _keys(fault)
                if all(busy.get(key, -1.0) < at_s for key in keys):
                    busy.update(dict.fromkeys(keys, until_s))
                    ends.append(until_s)
                    drawn.append(log.draw(at_s, fault, until_s))
                    break
        return drawn

    def _fault(self, kind: str) -> Fault:
        rng = self._rng
        if kind in _OF_HOSTS:
            return _OF_HOSTS[kind](rng.choice(self._machines), rng)
        if kind in ("partition", "one_way_partition"):
            # One host alone, as often as any other division.
            ends = rng.sample(self._ends, len(self._ends))
            size = 1 if rng.random() < 0.5 else rng.randint(1, len(ends) - 1)
            return Partition(tuple(sorted(ends[:size])), tuple(sorted(ends[size:])), kind == "one_way_partition")
        one, other = rng.sample(self._ends if self._ways is None else rng.choice(self._ways), 2)
        one_way = rng.random() < 0.5
        if kind == "hold":
            return Hold((one,), (other,), one_way)
        return Disturb((one,), (other,), one_way, _bad_conditions(rng))

    # --- applying -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Put all into the world's schedule, also what is unwanted: the chance of others must not depend on it."""
        for drawn in self.faults:
            self.world.schedule.at(drawn.at_s, self._apply, drawn)

    def _apply(self, drawn: Drawn) -> None:
        world, fault = self.world, drawn.fault
        undoing = fault.undoing()
        if isinstance(fault, ClockChange):
            clock = world.hosts[fault.host].clock
            undoing = ClockChange(
                fault.host,
                None if fault.offset_s is None else clock.offset_s,
                None if fault.drift is None else clock.drift,
            )
        is_wanted = world.faults.is_wanted(drawn.number)
        if is_wanted and not self._can_apply(fault):
            self.skipped += 1
            is_wanted = False
        world.schedule.at(drawn.until_s or world.now, self._undo, (drawn, undoing if is_wanted else None))
        if is_wanted:
            with world.faults.caused_by(drawn.number):
                fault.apply(world)

    def _can_apply(self, fault: Fault) -> bool:
        if isinstance(fault, Crash | Kill | Pause | Slow):
            host = self.world.hosts[fault.host]
            needs_program = isinstance(fault, Kill | Pause)
            return host.is_up and not host.is_visited and (host.has_program or not needs_program)
        return True

    def _undo(self, what: tuple[Drawn, Fault | None]) -> None:
        drawn, undoing = what
        if undoing is None:
            return
        host = self.world.hosts.get(getattr(undoing, "host", ""))
        if host is not None and isinstance(drawn.fault, Crash | Kill) and host.is_up and host.has_program:
            return  # somebody else has started it again
        with self.world.faults.caused_by(drawn.number):
            undoing.apply(self.world)

    async def over(self) -> None:
        """Return when all is undone."""
        while self.world.now <= self.ends_at_s:
            await asyncio.sleep(self.ends_at_s - self.world.now + _AFTER_S)

    def __repr__(self) -> str:
        return f"<Chaos of {len(self.faults)} faults, {self.began_at_s:g} to {self.ends_at_s:g} s>"


def _keys(fault: Fault) -> list[tuple[str, ...]]:
    """What a fault touches, that no other may touch at that time."""
    if isinstance(fault, Partition | Hold | Disturb):
        pairs = [(one, other) for one in fault.ones for other in fault.others]
        if not fault.one_way:
            pairs += [(other, one) for one, other in pairs]
        return [(fault.kind, *pair) for pair in pairs]
    assert isinstance(fault, Crash | Kill | Pause | Slow | ClockChange)
    return [("clock" if isinstance(fault, ClockChange) else "host", fault.host)]


def _clock(host: str, rng: Random) -> Fault:
    """A step of a second to a day, or a pace that is wrong by up to a twentieth, either way."""
    sign = -1 if rng.random() < 0.5 else 1
    if rng.random() < 0.5:
        return ClockChange(host, offset_s=sign * _between(1.0, 86_400.0, rng))
    return ClockChange(host, drift=sign * 0.05 * rng.random())


_OF_HOSTS: Final[dict[str, Callable[[str, Random], Fault]]] = {
    "crash": lambda host, rng: Crash(host),
    "kill": lambda host, rng: Kill(host),
    "pause": lambda host, rng: Pause(host),
    "slow": lambda host, rng: Slow(host, _between(1e-4, 0.1, rng)),
    "clock": _clock,
}


def _bad_conditions(rng: Random) -> tuple[tuple[str, float | str | None], ...]:
    """One or two respects in which a way is bad, from hardly noticed to hardly bearable."""
    words = rng.sample(("delay", "jitter", "rate", "loss", "duplicate", "reorder", "corrupt"), rng.randint(1, 2))
    return tuple((word, _bad(word, rng)) for word in words)


def _bad(word: str, rng: Random) -> float:
    if word in ("delay", "jitter"):
        return _between(0.001, 2.0, rng)
    if word == "rate":
        return _between(1e5, 1e8, rng)
    return _between(0.001, 0.5, rng)


def _between(least: float, most: float, rng: Random) -> float:
    """Each order of magnitude as likely as another; of six digits, which a person can read and type."""
    return float(f"{least * math.exp(rng.random() * math.log(most / least)):.6g}")
