"""A host of a world: a machine with a TCP/IP stack, a clock, and one asyncio program.

This file knows how a host boots, ends, crashes and is paused, and how its program and its stack are given their turn.
It refuses to know what the network between hosts does to packets, and what time it is elsewhere.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .. import stack
from ..errors import UnderlayError, UsageError
from ..loop._bridge import FIRST_NUMBER
from ..probe import Probe
from ..stack import TcpPacket
from ..wire import format_ip, parse_ip
from . import _turn
from ._bridge import NUMBERS_A_HOST, SimBridge
from ._busy import NEVER_EARLY_S, Busy
from ._cards import Cards
from ._chance import Chance
from ._clock import HostClock
from ._disk import Disk
from ._entry import Entry
from ._faults import ClockChange, Crash, Kill, Pause, Restart, Resume, Slow
from ._loop import THREAD_COST_S, SimLoop
from ._quantities import seconds
from ._topology import INTERNET
from ._unix import UnixCore

if TYPE_CHECKING:
    from ._world import World

# A coroutine function; or what calls asyncio.run() itself, and returns nothing.
Start: TypeAlias = Callable[[], Coroutine[Any, Any, object] | None]

# What stops a program: SIGSTOP, and its last turn, which a slow machine is not done with.
_PAUSED: Final = 1
_TIRED: Final = 2
_FOR_EVER_S: Final = float("inf")
MTU_BYTES: Final = 1500
# Whether TCP segments travel as values where they can; tests take it back, to see that nobody can tell.
BY_VALUE = True
# Numbers of sockets are the same in each run, and no two hosts' are the same, that one's is not taken for another's; a
# C int has room for so many from `FIRST_NUMBER` on.
_HOSTS_WITH_NUMBERS: Final = 1 << 14
# Linux gives a SYN up after tcp_syn_retries, 127 s in all; RFC 9293 would have it wait for three minutes.
CONFIG: Final = stack.HostConfig(tcp=stack.TcpConfig(min_syn_timeout_s=0.0))
ROUTER_CONFIG: Final = dataclasses.replace(CONFIG, forwarding=True)

HOST: Final[Probe[[object, str, str]]] = Probe("sim.host", "the world, a host's name, what befell it at world.now")


class Host(AbstractAsyncContextManager["Host"]):
    """One machine. Made by `World.host`; ``async with`` lets a test's own lines run on it.

    ``address`` and ``address6`` are its own, and its name is known to all others.
    """

    def __init__(
        self,
        world: World,
        name: str,
        number: int,
        start: Start | None,
        on: tuple[str, ...] = (INTERNET,),
        *,
        forwards: bool = False,
        disk_at: str | None = None,
    ) -> None:
        self.world = world
        self.disk_at: Final = disk_at
        self.on = on
        self.forwards = forwards
        self.cards: Final = Cards(self)
        self.name = name
        self.start = start
        self.address = format_ip(b"\x0a" + number.to_bytes(3, "big"))
        self.address6 = format_ip(b"\xfd" + bytes(11) + number.to_bytes(4, "big"))
        self.is_connected: Final = number > 0 and INTERNET in on
        self.thread_cost_s = THREAD_COST_S
        self.boots = 0
        self.processes = 0
        self.is_up = False
        self.turn_cost_s = 0.0
        self._stopped = 0
        self._has_work = False
        self._disk: Disk | None = None
        self.main: asyncio.Future[Any] | None = None
        self._clock = HostClock(world.schedule, self._note_clock)
        self._loop: SimLoop | None = None
        self._stack: stack.Host | None = None
        self._bridge: SimBridge | None = None
        self._wakes_at = float("inf")
        self._due_s = float("inf")
        self._visitors = 0
        self.interface = -1
        # Held until the world ends: a program that a crash ended must not run its `finally` blocks.
        self._dead: list[tuple[SimLoop, list[asyncio.Task[Any]]]] = []
        self._number = number
        self.is_busy = False
        self.busy: Final = Busy(self)
        self._chance: Chance | None = None
        self.signals: dict[int, Any] = {}
        self.unix_names: dict[bytes, UnixCore] = {}

    def __repr__(self) -> str:
        state = "down" if not self.is_up else "paused" if self.is_paused else "up"
        return f"<Host {self.name} {self.address} {state}>"

    # --- what it is -----------------------------------------------------------------------------------------

    @property
    def loop(self) -> SimLoop:
        """Its event loop. Raises ``UnderlayError`` while the host is down, or its program has ended."""
        if self._loop is None:
            raise UnderlayError(f"no program runs on {self.name}", remedy="the host is down, or its program has ended")
        return self._loop

    @property
    def stack(self) -> stack.Host:
        """Its TCP/IP stack: connections, routes, and what they count."""
        if self._stack is None:
            raise UnderlayError(f"the host {self.name} is down", remedy="restart() it")
        return self._stack

    @property
    def clock(self) -> HostClock:
        """Its clock; set ``offset_s`` for a wrong time of day, and ``drift`` for a wrong pace."""
        return self._clock

    @property
    def disk(self) -> Disk:
        """Its disk, which outlives its crashes, but for what was not on it yet.

        With ``disk=`` of `World.host`, what its program has below that directory, by the same paths.
        """
        disk = self._disk
        if disk is None:
            world, schedule = self.world, self.world.schedule

            def chance() -> Random:
                return world.rng_for(f"disk of {self.name} boot {self.boots}")

            disk = self._disk = Disk(lambda: schedule.now, chance, time_of_day=self._clock.time_of_day)
            if self.disk_at is not None:
                disk.make_root(self.disk_at)
        return disk

    @property
    def has_program(self) -> bool:
        """Whether a process runs on it, or could: it is up, and its program has not ended."""
        return self._loop is not None

    @property
    def is_visited(self) -> bool:
        """Whether the test itself stands on it."""
        return self._visitors > 0

    @property
    def is_paused(self) -> bool:
        """Whether its program is stopped, until `resume`."""
        return bool(self._stopped & _PAUSED)

    @property
    def chance(self) -> Chance:
        """What its program draws from: ``random``, ``os.urandom``, its process's number."""
        chance = self._chance
        if chance is None:
            process = f"{self.name} process {self.processes}"
            chance = self._chance = Chance(self.world, process, self._number, self.processes)
        return chance

    # --- life -----------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the machine and its program."""
        if self.is_up:
            raise UsageError(f"the host {self.name} is up already", remedy="crash() it first, or leave it")
        world = self.world
        self.boots += 1
        rng = world.rng_for(f"host {self.name} boot {self.boots}")
        self._stack = stack.Host(self.name, rng=rng, config=ROUTER_CONFIG if self.forwards else CONFIG)
        if self.is_connected:
            addresses = [f"{self.address}/8", f"{self.address6}/8"]
            offload = not self.forwards  # or what is too long for its next wire would be cut, and nobody told
            self.interface = self._stack.add_interface(
                addresses, mac=None, mtu_bytes=MTU_BYTES, offload=offload, by_value=offload and BY_VALUE
            )
            world.internet.join(self.name, [parse_ip(self.address), parse_ip(self.address6)], self.cards.receive)
        self.cards.plug_in(self._stack)
        reads = world.rng_for(f"reads of {self.name} boot {self.boots}")
        send = world.internet.send
        with _turn.of(None):
            first = FIRST_NUMBER + (self._number % _HOSTS_WITH_NUMBERS) * NUMBERS_A_HOST
            self._bridge = bridge = SimBridge(self._stack, self._clock, self.name, send, self.interface, reads, first)
            bridge.names = world.names
        if self.cards.by_lan:
            bridge.send_elsewhere = self.cards.send
        self.is_up = True
        self._start_program(bridge)

    def _start_program(self, bridge: SimBridge) -> None:
        self.processes += 1
        self._chance = None
        self.signals.clear()
        self.unix_names.clear()
        with _turn.of(None):  # a loop of the library's, made within a program's turn
            self._loop = SimLoop(bridge, self)
        if HOST.listeners:
            HOST(self.world, self.name, f"begins process {self.processes}, at {self.address} and {self.address6}")
        if self.start is not None and inspect.iscoroutinefunction(self.start):
            self.main = self._loop.create_task(self._run_program(self.start))
        elif self.start is not None:
            self.main = self._loop.create_future()
            self._loop.entry = Entry(self, self._loop, self.start)
        self.wake()

    async def _run_program(self, begin: Callable[[], Any]) -> None:
        try:
            await begin()
        except asyncio.CancelledError:
            self.world.schedule.at(self.world.now, Host._end_program, self)
            raise
        except BaseException as error:
            self._fail(error)
        else:
            self.world.schedule.at(self.world.now, Host._end_program, self)

    def _fail(self, error: BaseException) -> None:
        error.add_note(f"on the host {self.name}, at {self.world.now:.6f} s")
        if isinstance(error, KeyboardInterrupt):
            raise error  # a person's, also when the world is over
        self.world.fail(error)

    def leave(self, entry: Entry, loop: SimLoop) -> None:
        """The function by which its program began has returned, perhaps with the coroutine that is to be run."""
        loop.entry = None
        if entry.error is not None:
            if not isinstance(entry.error, asyncio.CancelledError):
                self._fail(entry.error)
        elif inspect.isawaitable(entry.result):
            self.main = loop.create_task(self._run_program(lambda: entry.result))
            return
        elif entry.result is not None:
            self._fail(
                UsageError(
                    f"the program of {self.name}, {self.start!r}, is no coroutine function",
                    remedy="give the async def that it hands to asyncio.run(), or the function that calls it",
                )
            )
        assert self.main is not None
        self.main.cancel()
        self.world.schedule.at(self.world.now, Host._end_program, self)

    def _end_program(self) -> None:
        """Do what ``asyncio.run`` does when its coroutine has returned; the machine stays up."""
        loop = self._loop
        if loop is None or self._visitors or self.main is None or not self.main.done():
            return
        if self.is_busy:
            self.busy.when_over(Host._end_program)
            return
        for task in loop.tasks():
            task.cancel()
        self._step()
        if self._loop is loop and loop.has_generators:
            loop.create_task(loop.shutdown_asyncgens())
            self._step()
        if self._loop is loop:
            if HOST.listeners:
                HOST(self.world, self.name, "its program has ended")
            self._end_process(loop)

    def _end_process(self, loop: SimLoop) -> None:
        # First note its tasks: who waits for what nobody else knows would be collected, and its `finally` would run.
        self._dead.append((loop, loop.end()))
        self._loop = self.main = None
        if self._bridge is not None:
            self._bridge.close_sockets()
        self.wake()

    def kill(self) -> None:
        """End its program as SIGKILL does: no ``finally`` runs, and the machine stays up.

        Its kernel closes its sockets: with FIN, or with RST where something came that the program had not read.
        """
        loop = self._loop
        self._check_no_visitors("be killed")
        if loop is None:
            raise UsageError(f"no program runs on {self.name}", remedy="restart() it first")
        if loop.has_turn:  # it kills itself: it is dead before it has another turn
            self._later(Host.kill, loop)
            return
        self.world.faults.note(Kill(self.name))
        self._stopped = 0
        if self._disk is not None:
            self._disk.drop_files()
        self._end_process(loop)

    def crash(self) -> None:
        """Take its power away: no FIN leaves, no ``finally`` runs, and what it had in memory is gone.

        What is on its way to it finds nobody; or, where it is up again by then, a kernel that knows of no connection.
        """
        self._check_no_visitors("crash")
        if not self.is_up:
            raise UsageError(f"the host {self.name} is down already", remedy="restart() it first")
        loop = self._loop
        if loop is not None and loop.has_turn:
            self._later(Host.crash, loop)
            return
        self.world.faults.note(Crash(self.name))
        if self._disk is not None:
            self._disk.crash()
        self._switch_off()

    def _switch_off(self) -> None:
        if self._bridge is not None:
            self._bridge.end()
        if self._loop is not None:
            self._dead.append((self._loop, self._loop.end()))
        self.is_up, self._stopped = False, 0
        self._loop = self.main = self._stack = self._bridge = None
        self.busy.end()
        self._wakes_at = float("inf")

    def _check_no_visitors(self, fate: str) -> None:
        if self._visitors:
            raise UsageError(f"{self.name} cannot {fate}: the test itself runs on it", remedy="leave its block first")

    def _later(self, end: Callable[[Host], None], loop: SimLoop) -> None:
        """Call it at this instant, behind the turn that the program has; never where another process runs by then."""

        def end_it(host: Host) -> None:
            if host._loop is loop:
                end(host)

        self.world.schedule.at(self.world.now, end_it, self)

    def restart(self) -> None:
        """Start it again with the same program: the machine after a crash, the process where only that has ended."""
        if self.is_up and self._loop is None and self._bridge is not None:
            self._start_program(self._bridge)
        else:
            self.boot()
        self.world.faults.note(Restart(self.name))

    def reboot(self, down_for: float | str = 0.0) -> None:
        """Let its power fail, and come back after a while; its disk keeps what was on it."""
        self.crash()
        schedule = self.world.schedule
        schedule.at(schedule.now + seconds(down_for, "down_for"), Host._come_back, self)

    def _come_back(self) -> None:
        if not self.is_up:
            self.restart()

    def pause(self) -> None:
        """Stop its program, as SIGSTOP does: the kernel below answers on. ``UsageError`` where none runs."""
        if self._loop is None:
            raise UsageError(f"no program runs on {self.name}", remedy="restart() it first")
        self._stopped |= _PAUSED
        self.world.faults.note(Pause(self.name))

    def resume(self) -> None:
        """Let a paused program go on."""
        self._stopped &= ~_PAUSED
        self.world.faults.note(Resume(self.name))
        self.wake()

    def slow(self, turn_cost: float | str) -> None:
        """Let each turn of its program's loop take that long from now on, in which the kernel below answers on.

        What a turn sends leaves at its begin; what comes meanwhile waits for its end. 0: turns take no time, as ever.
        """
        self.turn_cost_s = seconds(turn_cost, "turn_cost")
        self.world.faults.note(Slow(self.name, self.turn_cost_s))

    def _tire(self) -> None:
        self._stopped |= _TIRED
        self._has_work = False
        schedule = self.world.schedule
        schedule.at(schedule.now + self.turn_cost_s, Host._rest, (self, self._loop))

    @staticmethod
    def _rest(process: tuple[Host, SimLoop | None]) -> None:
        host, loop = process
        if host._loop is loop:
            host._stopped &= ~_TIRED
            if host._has_work:
                host.wake()

    def _note_clock(self, offset_s: float | None, drift: float | None) -> None:
        self.world.faults.note(ClockChange(self.name, offset_s, drift))
        if drift is not None and self.is_up:
            self.wake()  # what it waits for comes sooner or later now

    # --- its turn -------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let the host have its turn at this instant."""
        now = self.world.schedule.now
        if now < self._wakes_at:
            self._wakes_at = now
            self.world.schedule.at(now, Host._woken, self)

    def _woken(self) -> None:
        now = self.world.schedule.now
        if self.is_up and now >= self._wakes_at:
            self._wakes_at = float("inf")
            if not self.is_busy:
                self._step()

    def receive(self, packet: bytes | memoryview | TcpPacket, checksum_valid: bool, more: bool) -> None:
        """Take a packet, and have a turn with it, or with the last of those that come at one instant."""
        if self._stack is not None and not self.is_busy:  # as below, without another call
            if type(packet) is TcpPacket:
                self._stack.receive_packet(self.interface, packet, self._clock.time())
            else:
                self._take_in(self.interface, packet, checksum_valid)
            if not more:
                self._step()
        else:
            self.receive_frame(self.interface, packet, checksum_valid)

    def receive_frame(self, interface: int, frame: bytes | memoryview | TcpPacket, checksum_valid: bool) -> None:
        """Take what came by any interface."""
        if self.is_busy:
            self.busy.queue((interface, frame, checksum_valid))
        elif self._stack is not None:
            self._take_in(interface, frame, checksum_valid)
            self._step()
        else:
            self.world.internet.drops["host_down"] += 1

    def _take_in(self, interface: int, packet: bytes | memoryview | TcpPacket, checksum_valid: bool) -> None:
        assert self._stack is not None
        if isinstance(packet, TcpPacket):
            self._stack.receive_packet(interface, packet, self._clock.time())
        else:
            self._stack.receive_frame(interface, packet, self._clock.time(), checksum_valid=checksum_valid)

    def _step(self) -> None:
        """Let program and stack do what they can now, and note when they want to be woken."""
        bridge, loop = self._bridge, self._loop
        assert bridge is not None
        world = self.world
        outer, _turn.host = _turn.host, self
        try:
            if loop is not None and not self._stopped:
                sleeps_s = loop.turn() if loop.entry is None else loop.entry.turn()
                if self.turn_cost_s:
                    self._tire()
            else:
                sleeps_s = None
                self._has_work = True
                bridge.settle()
        finally:
            _turn.host = outer
        if self._bridge is not bridge:
            return  # it crashed meanwhile
        if self.is_busy:
            return  # and comes back when it has caught up
        if sleeps_s is None and bridge.deadline_s == self._due_s and self._wakes_at < _FOR_EVER_S:
            return  # it is to be woken for that already
        self._due_s = bridge.deadline_s
        due_s = bridge.deadline_s - self._clock.time()
        if sleeps_s is None or due_s < sleeps_s:
            sleeps_s = due_s
        if sleeps_s != _FOR_EVER_S:
            when = world.schedule.now + sleeps_s / self._clock.pace + NEVER_EARLY_S
            if when < self._wakes_at:
                self._wakes_at = when
                world.schedule.at(when, Host._woken, self)

    def take(self, seconds: float) -> None:
        """Let its program's code take so long, as ``time.sleep`` does (`Busy.take`)."""
        self.busy.take(seconds, self._bridge)

    def go_on(self) -> None:
        """The world has caught up with its clock: take what came meanwhile, and have a turn."""
        bridge = self._bridge
        assert bridge is not None
        self.is_busy = False
        bridge.send_by(self.world.internet.send)
        for interface, packet, checksum_valid in self.busy.waiting():
            self._take_in(interface, packet, checksum_valid)
        self._step()

    # --- the end of the world -------------------------------------------------------------------------------

    def shut_down(self) -> None:
        """The world ends: the program is cancelled, as ``asyncio.run`` does it, and may say goodbye."""
        if self._loop is not None:
            # What a cancelled program says at its end is no news: of a connection's handler asyncio 3.11 reports it.
            self._loop.set_exception_handler(lambda loop, context: None)
            for task in self._loop.tasks():
                task.cancel()
            self.wake()

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs on it."""
        return self._loop is None or not self._loop.tasks()

    def switch_off(self) -> None:
        """The world has ended: let go of everything."""
        self._switch_off()
        with _turn.of(self):
            for loop, tasks in self._dead:
                loop.bury(tasks)
        self._dead.clear()

    # --- a test on it ---------------------------------------------------------------------------------------

    async def __aenter__(self) -> Host:
        if not self.world.is_walking:
            raise UsageError(
                f"a task walked to the host {self.name}, and only the test itself does",
                remedy="make the task within the block of the host, or give the host a program by start=",
            )
        if self._loop is None:
            raise UsageError(f"no program runs on {self.name}, so the test cannot either", remedy="restart() it first")
        await self._finish_here()
        await self.world.move_to(self)
        self._visitors += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._visitors -= 1
        if kind is not GeneratorExit:  # the world is over, and nobody awaits any more
            await self._finish_here()
            await self.world.move_back()

    async def _finish_here(self) -> None:
        """Whoever leaves a host for another does so when all that its code took has passed."""
        host = self.world.current
        if host is not None and host.is_busy:
            await asyncio.sleep(0)


def current_host() -> Host:
    """The host whose program is calling. Raises ``UnderlayError`` outside of any."""
    host = _turn.here()
    if host is None:
        raise UnderlayError("no simulated host is running here", remedy="call it within a host's program or block")
    return host
