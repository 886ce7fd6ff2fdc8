"""Code that takes time on a host: its clock is ahead of the world, and what comes meanwhile waits.

This file knows when the world has caught up with a host, and what waits for that. It refuses to know what a host does
with it (``_host.py``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

from ..stack import TcpPacket
from ._frames import Packet, kept

if TYPE_CHECKING:
    from ._bridge import SimBridge
    from ._host import Host

LIMIT_INBOX_FRAMES: Final = 1000
"""How many frames wait for a busy host (Linux: net.core.netdev_max_backlog)."""
NEVER_EARLY_S: Final = 1e-9
"""A timer is never early: a nanosecond covers what is lost when a host's time is reckoned in the world's and back."""

# By which interface it came, and whether its checksums hold.
Arrived: TypeAlias = tuple[int, "bytes | memoryview | TcpPacket", bool]


class Busy:
    """The time that one host's code takes, in which packets wait, as does what its program sent after it had begun."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tie = 0.0
        self._calls_in_threads = 0
        self._inbox: deque[Arrived] = deque()
        self.drops = 0

    def take(self, seconds: float, bridge: SimBridge | None) -> None:
        """Let its program's code take so long, as ``time.sleep`` does: the clock of the host moves on at once.

        What the program sends afterwards leaves later, by as much; its timers, and packets that arrive meanwhile, are
        handled when the world has caught up. The other hosts go on. In a call that a thread makes, only the thread
        takes it. (The kernel of a real machine would acknowledge meanwhile; here peers may send again.)
        """
        host, clock = self._host, self._host.clock
        if bridge is None or seconds <= 0:
            return
        if not self._calls_in_threads:
            bridge.settle()  # what was sent before leaves before
            if not host.is_busy:
                host.is_busy = True
                self._tie = host.world.schedule.tie()
                bridge.send_by(self._send_later)
                clock.ahead_s = clock.time() + seconds
                self.when_over(self._catch_up)
                return
        clock.ahead_s = clock.time() + seconds

    @contextmanager
    def thread(self) -> Iterator[Callable[[], float]]:
        """For a call that a thread would make: gives a function that tells how long it took."""
        clock = self._host.clock
        ahead_s, began_s = clock.ahead_s, clock.time()
        self._calls_in_threads += 1
        try:
            yield lambda: took_s
        finally:
            took_s = clock.time() - began_s
            clock.ahead_s = ahead_s
            self._calls_in_threads -= 1

    def when_over(self, call: Callable[[Host], None]) -> None:
        """Call it when the world is where this host's clock is now; never where it crashes before."""
        boots, schedule, clock = self._host.boots, self._host.world.schedule, self._host.clock

        def caught_up(host: Host) -> None:
            if host.is_up and host.boots == boots:
                call(host)

        when = max(clock.world_s(clock.ahead_s), schedule.now) + NEVER_EARLY_S
        schedule.behind(when, self._tie, caught_up, self._host)

    def queue(self, arrived: Arrived) -> None:
        """Keep what came until the host has time for it."""
        if len(self._inbox) < LIMIT_INBOX_FRAMES:
            self._inbox.append(arrived)
        else:
            self.drops += 1

    def waiting(self) -> Iterator[Arrived]:
        """Give what came meanwhile, each once."""
        while self._inbox:
            yield self._inbox.popleft()

    def end(self) -> None:
        """The machine is off."""
        self._host.is_busy = False
        self._inbox.clear()
        self._host.clock.ahead_s = 0.0

    def _send_later(self, name: str, packet: Packet) -> None:
        later = packet if isinstance(packet, TcpPacket) else kept(packet)
        process = self._host.processes

        def depart(host: Host) -> None:
            if host.processes == process and host.has_program:  # else it was killed before it got there
                host.world.internet.send(name, later)

        self.when_over(depart)

    def _catch_up(self, host: Host) -> None:
        if host.clock.world_s(host.clock.ahead_s) > host.world.schedule.now:
            self.when_over(self._catch_up)
        else:
            host.go_on()
