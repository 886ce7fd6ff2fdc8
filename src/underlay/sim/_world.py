"""A world: hosts, the ways between them, and one virtual time, from one seed.

This file knows who is there and whose turn it is. It refuses to know how a packet travels (``_internet.py``) and what
a host does in its turn (``_host.py``).
"""

from __future__ import annotations

import contextlib
import os
import sys
from asyncio import tasks
from asyncio.events import _get_running_loop, _set_running_loop
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from random import Random
from types import MappingProxyType
from typing import Any, Final, TypeVar, Unpack, cast

from ..errors import UnderlayError, UsageError
from . import _chance, _determinism, _files, _polling, _signals, _sockets, _stand_ins, _threads, _time, _turn  # noqa: F401
from ._between import Between, Ends
from ._body import Body, Move
from ._capture import CAPTURE_BYTES, Capture, passing
from ._chaos import Chaos, ChaosWords
from ._conditions import Conditions, Words
from ._faults import Calm, Disturb, FaultLog, Heal, Hold, Isolate, LinkChange, Partition, Release
from ._files import disk_at
from ._host import MTU_BYTES, Host, Start
from ._internet import Internet
from ._lan import Lan
from ._loop import restart_numbers
from ._order import Garbage
from ._quantities import seconds
from ._schedule import Schedule
from ._topology import INTERNET, Topology, check_name
from ._waiting import told

_T = TypeVar("_T")

# Whatever a test waits for has come by then, or never comes: the slowest that Linux does by itself is to give up a peer
# by keepalive, after 7875 s. Who looks for it every 10 ms is ended in some seconds; a day of that takes minutes.
TIME_LIMIT_S: Final = 3 * 3600.0
# Every way's, unless told otherwise: hosts of one data centre.
DELAY_S: Final = 0.0005
# Of a LAN's wire, unless told otherwise: 100 m of it, and what a card and half a switch take.
WIRE_DELAY_S: Final = 25e-6
# As many as 192.168.0.0/16 has networks of 254.
MOST_LANS: Final = 255
# How long cancelled programs have to say goodbye when the test is over: more than servers wait for their clients.
GOODBYE_S: Final = 30.0
_WAITS: Final = "it waits for what cannot come: an answer that nobody sends, a lock that nobody releases"
# Where a test's own lines run outside of any host's block.
OUTSIDE: Final = "the test"


class World:
    """Many hosts in one process, each with its own loop, clock and TCP/IP stack, in virtual time, from a seed.

    ``conditions`` are those of every way that `link` says nothing of. ``time_limit`` bounds the virtual time, of
    three hours unless told otherwise. Of the
    faults that `chaos` draws, ``only_faults`` applies those of these numbers: so a schedule is shrunk.

    >>> import asyncio
    >>> async def shout(reader, writer):
    ...     writer.write((await reader.readline()).upper())
    ...     writer.close()
    >>> async def serve():
    ...     async with await asyncio.start_server(shout, port=7) as server:
    ...         await server.serve_forever()
    >>> async def test(world):
    ...     world.host("server", start=serve)
    ...     async with world.host("client"):
    ...         await asyncio.sleep(1)
    ...         reader, writer = await asyncio.open_connection("server", 7)
    ...         writer.write(b"across the internet\\n")
    ...         answer = await reader.read()
    ...         writer.close()
    ...         return answer
    >>> World(seed=1).run(test)
    b'ACROSS THE INTERNET\\n'
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        time_limit: float | str = TIME_LIMIT_S,
        only_faults: Collection[int] | None = None,
        **conditions: Unpack[Words],
    ) -> None:
        if not isinstance(seed, int):  # a text would do, and be another seed than the number
            raise UsageError(f"{seed!r} is no seed", remedy="a seed is a whole number, such as 17")
        self.seed = seed
        self.time_limit_s = seconds(time_limit, "time_limit")
        self.schedule: Final = Schedule(self.rng_for("schedule"))
        self.faults: Final = FaultLog(self.schedule, only_faults)
        self.names: dict[str, Sequence[str]] = {}
        self.internet: Final = Internet(self.schedule, self.rng_for, Conditions(delay_s=DELAY_S).changed(**conditions))
        self.topology: Final = Topology()
        self._hosts: dict[str, Host] = {}
        self.between: Final = Between(self._hosts, self.topology, self.internet)
        self._chaoses = 0
        self._captures: list[Capture] = []
        self._outside: Final = Host(self, OUTSIDE, 0, None)
        self._places: list[Host] = []
        self._body: Body[Any] | None = None
        self._failure: BaseException | None = None
        self._is_over = False
        # Called before each step, outside of any host's turn; set before the run.
        self.watch: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<World of seed {self.seed}, at {self.now:g} s>"

    @property
    def now(self) -> float:
        """Seconds since the world began."""
        return self.schedule.now

    @property
    def current(self) -> Host | None:
        """The host whose turn it is; None outside of any."""
        host = _turn.host
        return host if host is not None and host.world is self else None

    @property
    def hosts(self) -> MappingProxyType[str, Host]:
        """All hosts by name."""
        return MappingProxyType(self._hosts)

    def rng_for(self, purpose: str) -> Random:
        """Chance for one purpose: of the seed, and independent of what is drawn for others."""
        return _determinism.rng(self.seed, purpose)

    # --- what there is --------------------------------------------------------------------------------------

    def host(
        self,
        name: str,
        start: Start | None = None,
        *,
        on: str | Lan | tuple[str | Lan, ...] = INTERNET,
        forwards: bool = False,
        disk: str | os.PathLike[str] | None = None,
    ) -> Host:
        """The host of that name, made and booted where there is none; ``start`` is its program.

        It is on the internet, unless ``on`` names a LAN, or several segments; ``forwards`` makes it a router. Below the
        directory ``disk``, such as "/var/lib/db", its program's files are on a disk of its own.
        """
        known = self._hosts.get(name)
        if known is not None:
            if start is not None or disk is not None:
                what = "program" if start is not None else "disk"
                raise UsageError(f"the host {name!r} is there already", remedy=f"give it its {what} when it is made")
            if (on != INTERNET or forwards) and (self.topology.segments(on), forwards) != (known.on, known.forwards):
                raise UsageError(
                    f"the host {name!r} is there already, on {' and '.join(known.on)}",
                    remedy="say where it is when it is made",
                )
            return known
        self._check_not_over()
        check_name(name, "host")
        if name == INTERNET or name in self.topology.lans:
            raise UsageError(f"{name!r} names a network already", remedy="give the host another name")
        if name.lower() in self.names:
            raise UsageError(f"{name!r} is known already, as names are alike in capitals", remedy="choose another name")
        if start is not None and not callable(start):
            raise UsageError(
                f"the program of {name}, {start!r}, cannot be called", remedy="give an async def, and do not call it"
            )
        number, segments = len(self._hosts) + 1, self.topology.segments(on)
        if forwards:
            self.topology.check_apart(name, segments)
        host = Host(self, name, number, start, segments, forwards=forwards, disk_at=disk_at(disk))
        self._hosts[name] = host
        if host.on != (INTERNET,) or forwards:
            self._join(host)
        self.names[name.lower()] = [host.address]  # one: a client would try another, and tell of two errors
        host.boot()
        self.between.welcome(name)
        return host

    def _join(self, host: Host) -> None:
        """Plug a host into its LANs, and let everybody know the routes that it opens."""
        topology, internet = self.topology, self.internet
        if host.forwards:
            internet.cut_for(host.name)
        for segment in host.on:
            if segment != INTERNET:
                card = topology.lans[segment].plug(host.name, host.cards.take)
                host.cards.by_lan[segment] = card
                if INTERNET not in host.on and len(host.cards.by_lan) == 1:
                    host.address, host.address6 = card.address, card.address6
        topology.join(host)
        if host.forwards:
            for other in self._hosts.values():
                other.cards.add_routes()
        for target, segment, router in topology.hops((INTERNET,)):
            assert segment == INTERNET
            internet.reach_by(router.name, topology.behind(target))

    def lan(self, name: str, *, prefix: str | None = None, **conditions: Unpack[Words]) -> Lan:
        """Make an Ethernet LAN, for hosts that are made with ``on=name``; ``conditions`` are each wire's, both ways.

        An ``mtu`` is that of its hosts' cards: they send nothing longer, and a router says so to others.

        Its hosts reach each other; and others where a `router` joins it to the internet or to another LAN. Of its
        wires one speaks as of other ways, ``world.link("pc", "office", loss=0.01)``.

        >>> async def test(world):
        ...     world.lan("office")
        ...     world.router("gateway", "office", "internet")
        ...     pc, web = world.host("pc", on="office"), world.host("web")
        ...     return pc.address, world.host("gateway").address, web.address
        >>> World().run(test)
        ('192.168.1.2', '10.0.0.1', '10.0.0.3')
        """
        self._check_not_over()
        check_name(name, "LAN")
        lans = self.topology.lans
        if name in self._hosts or name in lans or name == INTERNET:
            raise UsageError(f"{name!r} names something already", remedy="give the LAN another name")
        if len(lans) >= MOST_LANS:
            raise UsageError(f"a world has no more than {MOST_LANS} LANs", remedy="put more hosts into each")
        wires = Conditions(delay_s=WIRE_DELAY_S).changed(**conditions)
        mtu_bytes, wires = wires.mtu_bytes or MTU_BYTES, wires.changed(mtu=None)
        lans[name] = lan = Lan(
            name, len(lans) + 1, self.internet, self.schedule, wires, prefix=prefix, mtu_bytes=mtu_bytes
        )
        return lan

    def router(self, name: str, *segments: str | Lan) -> Host:
        """Make a host that passes packets on between LANs, or between a LAN and the "internet"."""
        if len(segments) < 2:
            raise UsageError(f"the router {name!r} is on one segment only", remedy="name two at least")
        return self.host(name, on=segments, forwards=True)

    def wan(self, between: dict[tuple[str, str], float | str | Words], **regions: Iterable[str]) -> None:
        """Say what the ways between the hosts of two regions are like: a delay, or conditions, in both directions.

        ``regions`` name their hosts, which may be made later. A region with itself is a pair too.

        >>> async def test(world):
        ...     world.wan({("eu", "us"): "40ms", ("eu", "eu"): dict(delay="2ms", loss="0.1%")}, eu=["a", "b"], us=["c"])
        ...     a, b, c = world.host("a"), world.host("b"), world.host("c")
        ...     return [world.internet.way(*ends).conditions for ends in (("a", "c"), ("b", "a"))]
        >>> World().run(test)
        [Conditions(delay_s=0.04), Conditions(delay_s=0.002, loss=0.001)]
        """
        pairs: dict[tuple[str, str], Conditions] = {}
        _check_pairs(between)
        for (one, other), said in between.items():
            for region in (one, other):
                if region not in regions:
                    raise UsageError(f"there is no region {region!r}", remedy=f"name its hosts: {region}=[…]")
            words: Words = said if isinstance(said, dict) else {"delay": said}
            pairs[one, other] = pairs[other, one] = self.internet.conditions.changed(**words)
        self.internet.wan(pairs, {host: region for region, hosts in regions.items() for host in hosts})

    def access(
        self,
        host: str | Host,
        *,
        up: float | str | None = None,
        down: float | str | None = None,
        **conditions: Unpack[Words],
    ) -> None:
        """Let a host be joined to the internet by one link that all its traffic shares, such as ``up="1mbit"``.

        ``up`` and ``down`` are its rates, where it has two; ``conditions`` are of both directions.
        """
        (name,) = self.between.named(host)
        if INTERNET not in self._hosts[name].on:
            raise UsageError(f"{name} is not on the internet itself", remedy="say what its wire is like, by link()")
        both = Conditions().changed(**conditions)
        self.internet.access(
            name, both if up is None else both.changed(rate=up), both if down is None else both.changed(rate=down)
        )

    def link(self, one: str | Host, other: str | Host, *, one_way: bool = False, **conditions: Unpack[Words]) -> None:
        """Say what the way between two hosts is like, in both directions, or from `one` to `other` only."""
        ones, others = self.between.named(one), self.between.named(other)
        for sender, target in self.between.ways(ones, others, one_way=one_way):
            self.internet.change(sender, target, self.internet.conditions.changed(**conditions))
        words = cast("dict[str, float | str | None]", conditions)
        self.faults.note(LinkChange(tuple(ones), tuple(others), one_way, tuple(words.items())))

    # --- faults ---------------------------------------------------------------------------------------------

    def partition(self, one: Ends, *others: Ends, to: Ends | None = None) -> None:
        """Let no packet pass between `one` and the others (all hosts, where none is named), those under way included.

        With ``to`` only in one direction: what `one` sends to them is lost, what they send arrives. "All hosts" are
        also those that are made before `heal`.
        """
        between = self.between
        ones, targets, one_way = between.sides(one, others, to)
        for sender, target in between.pairs(ones, targets, one_way=one_way):
            between.part(sender, target)
        if not others and not one_way:
            between.keep_apart(ones)
        self.faults.note(Partition(tuple(ones), tuple(targets), one_way))

    def isolate(self, host: str | Host) -> None:
        """Cut a host off from all others, in both directions, until `heal`: as if its cables were pulled.

        >>> async def test(world):
        ...     db, api = world.host("db"), world.host("api")
        ...     world.isolate(db)
        ...     cut = [way.label for way in world.internet.ways() if way.is_cut]
        ...     world.heal(db)
        ...     return cut, [way.label for way in world.internet.ways() if way.is_cut]
        >>> World().run(test)
        (['db->api', 'api->db'], [])
        """
        between = self.between
        ones, targets, _ = between.sides(host, (), None)
        for target in (*targets, *between.wires(ones)):
            for sender, receiver in ((ones[0], target), (target, ones[0])):
                between.part(sender, receiver)
        between.keep_apart(ones)
        self.faults.note(Isolate(ones[0]))

    def heal(self, one: Ends | None = None, *others: Ends, to: Ends | None = None) -> None:
        """Undo every partition; or let packets pass again where `partition` with the same words cut them off."""
        between = self.between
        if one is None:
            between.join_all()
            self.faults.note(Heal())
            return
        ones, targets, one_way = between.sides(one, others, to)
        if not others and not one_way:
            between.keep_no_longer_apart(ones)
            targets += between.wires(ones)
        for sender, target in between.pairs(ones, targets, one_way=one_way):
            between.join(sender, target)
        self.faults.note(Heal(tuple(ones), tuple(targets), one_way))

    def hold(self, one: Ends, *others: Ends, to: Ends | None = None) -> None:
        """Keep all packets between them, those under way included, until `release`; the words are `partition`'s."""
        ones, targets, pairs = self.between.ways_of(one, others, to)
        for sender, target in pairs:
            self.internet.hold(sender, target)
        self.faults.note(Hold(tuple(ones), tuple(targets), to is not None))

    def release(self, one: Ends | None = None, *others: Ends, to: Ends | None = None) -> None:
        """Send what was held on its way, in its order; everything, where no hosts are named."""
        ones, targets, pairs = self.between.ways_of(one, others, to)
        for sender, target in pairs:
            self.internet.release(sender, target)
        self.faults.note(Release(tuple(ones), tuple(targets), to is not None))

    def disturb(self, one: Ends, *others: Ends, to: Ends | None = None, **conditions: Unpack[Words]) -> None:
        """Make ways worse in some respects and leave all others as they are, until `calm`."""
        ones, targets, pairs = self.between.ways_of(one, others, to)
        for sender, target in pairs:
            way = self.internet.way(sender, target)
            way.undisturbed = way.undisturbed or way.conditions
            self.internet.change(sender, target, way.conditions.changed(**conditions))
        words = cast("dict[str, float | str | None]", conditions)
        self.faults.note(Disturb(tuple(ones), tuple(targets), to is not None, tuple(words.items())))

    def calm(self, one: Ends | None = None, *others: Ends, to: Ends | None = None) -> None:
        """Let ways be again as they were before they were disturbed; all of them, where no hosts are named."""
        ones, targets, pairs = self.between.ways_of(one, others, to)
        for sender, target in pairs:
            way = self.internet.way(sender, target)
            if way.undisturbed is not None:
                before, way.undisturbed = way.undisturbed, None
                self.internet.change(sender, target, before)
        self.faults.note(Calm(tuple(ones), tuple(targets), to is not None))

    def capture(
        self,
        file: str | os.PathLike[str],
        one: Ends | None = None,
        *others: Ends,
        to: Ends | None = None,
        arrivals: bool = False,
        limit_bytes: int = CAPTURE_BYTES,
    ) -> Capture:
        """Write what passes from now on to a pcapng file: everything, or what does between some ends.

        ``world.capture("calls.pcapng", "api", "db")`` is one link, ``"api"`` alone all of a host's, a LAN's name all
        of its wires. Until `Capture.close`, the end of a ``with`` block, or that of the world. An interface of the file
        is a link, and a packet is there as it is sent; with ``arrivals`` once more as it arrives. Of more than
        ``limit_bytes`` the rest is counted, and not written.
        """
        wanted = None
        if one is not None:
            ones, targets, one_way = self.between.sides(one, others, to)
            wanted = passing(ones, targets if others or one_way else [], one_way=one_way)
        capture = Capture(file, self.internet, wanted, arrivals=arrivals, limit_bytes=limit_bytes)
        self._captures.append(capture)
        return capture

    def chaos(self, *kinds: str, **words: Unpack[ChaosWords]) -> Chaos:
        """Let random faults befall hosts and the ways between them, for a while; all is healed at its end.

        ``kinds`` are some of `Chaos.KINDS`, all unless told otherwise. The faults are drawn now, from the seed.

        >>> async def test(world):
        ...     world.host("db"), world.host("api")
        ...     chaos = world.chaos("crash", "partition", duration="60s", every="20s")
        ...     await chaos.over()
        ...     return [str(fault) for fault in chaos.faults]
        >>> for line in World(seed=1).run(test):
        ...     print(line)
        at 29.05 s partition db | api, until 29.2964 s
        at 46.9802 s partition db | api, until 54.3337 s
        at 58.2021 s crash db, until 60 s
        """
        self._chaoses += 1
        chaos = Chaos(self, self.rng_for(f"chaos {self._chaoses}"), kinds, **words)
        chaos.begin()
        return chaos

    def _check_not_over(self) -> None:
        if self._is_over:
            raise UsageError("this world has ended", remedy="say what is in a world before or while it runs")

    # --- a run ----------------------------------------------------------------------------------------------

    def run(self, test: Callable[[World], Coroutine[Any, Any, _T]]) -> _T:
        """Run ``test(world)`` to its end, in virtual time; give what it returns, raise what it or a program raised.

        Raises `Stalled` where it waits for what cannot come. A world is run once.
        """
        if self._is_over or self._body is not None:
            raise UsageError("this world has been run", remedy="make another of the same seed")
        if not callable(test):
            raise UsageError(f"{test!r} cannot be called with a world", remedy="give an async def, and do not call it")
        with _turn.of_a_world(), _stand_ins.in_place(), _beside_loop():
            return self._run(test)

    def _run(self, test: Callable[[World], Coroutine[Any, Any, _T]]) -> _T:
        restart_numbers()
        coroutine = test(self)
        if not isinstance(coroutine, Coroutine):
            raise UsageError(
                f"{test!r} gave {coroutine!r}, and no coroutine",
                remedy="give an async def that awaits, and has no yield",
            )
        self._outside.boot()
        self._body = body = Body(coroutine, self.schedule.stop)
        try:
            body.run_on(self._outside)
            schedule = self.schedule
            garbage, watch, limit_s = Garbage(), self.watch, self.time_limit_s
            while not schedule.is_stopped:
                if watch is not None:
                    watch()
                if not schedule.run(garbage.due_at if watch is None else 0, limit_s):
                    raise self._stalled("nothing is left to happen")
                if schedule.taken >= garbage.due_at:
                    garbage.collect(schedule.taken, len(self._hosts))
                if schedule.now > limit_s:
                    raise self._stalled(
                        f"the time limit of {limit_s:g} s has passed",
                        'it waits for what does not come; or it needs longer, as in time_limit="2d"',
                    )
            error = self._failure or body.error
            if error is not None:
                raise error
            return body.result  # type: ignore[return-value]
        finally:
            self._end()

    def _stalled(self, reason: str, remedy: str = _WAITS) -> Stalled:
        assert self._body is not None
        return Stalled(self, reason, told(self, self._body.coroutine, self._body.task), remedy)

    def fail(self, error: BaseException) -> None:
        """A program ended by an error that it did not catch: the run ends with it."""
        if self._failure is None and not self._is_over:
            self._failure = error
            self.schedule.stop()

    @property
    def is_walking(self) -> bool:
        """Whether the test itself is calling, and not a task that it or a program made."""
        return self._body is not None and self._body.is_current

    def move_to(self, host: Host) -> Move:
        """Awaited by the test: run what follows on that host."""
        self._places.append(host)
        return Move(host)

    def move_back(self) -> Move:
        """Awaited by the test: run what follows where it was before."""
        self._places.pop()
        return Move(self._places[-1] if self._places else self._outside)

    def _end(self) -> None:
        self._is_over = self.between.is_over = True
        if self._body is not None:
            self._body.close()
        hosts = (*self._hosts.values(), self._outside)
        for host in hosts:
            host.shut_down()
        last_s = self.schedule.now + GOODBYE_S
        busy = self._outside
        try:
            while (when := self.schedule.next_at()) is not None and when < last_s:
                if busy.is_idle:  # of thousands of hosts most are idle at once, and one is to be asked at each step
                    found = next((host for host in hosts if not host.is_idle), None)
                    if found is None:
                        break
                    busy = found
                self.schedule.step()
        finally:
            for host in hosts:
                host.switch_off()
            for capture in self._captures:
                capture.close()


@contextlib.contextmanager
def _beside_loop() -> Iterator[None]:
    """Lay aside the loop that runs in this thread, and its task, for a world's loops to run here meanwhile."""
    outer = _get_running_loop()
    # From Python 3.14 on a thread has one current task, not one for each of its loops.
    has_task = outer is not None and sys.version_info >= (3, 14)
    task = tasks._swap_current_task(outer, None) if has_task else None  # type: ignore[attr-defined]
    _set_running_loop(None)
    try:
        yield
    finally:
        _set_running_loop(outer)
        if has_task:
            tasks._swap_current_task(outer, task)  # type: ignore[attr-defined]


def _check_pairs(between: object) -> None:
    pairs = between if isinstance(between, dict) else [between]
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise UsageError(f"{pair!r} is no pair of regions", remedy='as in {("eu", "us"): "80ms"}')


class Stalled(UnderlayError):
    """The test waits, and nothing is left that could wake it; a note says on which line each task stands."""

    def __init__(self, world: World, reason: str, waiting: str, remedy: str = _WAITS) -> None:
        super().__init__(f"{reason} at {world.now:.6f} s, and the test has not ended", remedy=remedy)
        self.add_note(waiting)
