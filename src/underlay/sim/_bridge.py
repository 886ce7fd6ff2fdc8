"""The bridge of a simulated host: `underlay.loop`'s, with the world's time and internet in place of a device.

This file knows when a host's stack is settled: once its program has done all it can at an instant; and that a read
may end anywhere in a stream. It refuses to know what is sent where.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from random import Random
from typing import TYPE_CHECKING, Final

from ..loop._bridge import Bridge
from ._clock import HostClock
from ._refusals import refusal
from ._stream_core import SimStreamCore

if TYPE_CHECKING:
    from .. import stack
    from ..loop._stack_socket import StackSocket
    from ..wire import Frame
    from ._frames import Packet

# One read in so many, on the average, gives less than what is there.
WHOLE_READS: Final = 32
# Sockets that one host can have at a time, as its ports.
NUMBERS_A_HOST: Final = 1 << 16


def _round_and_round(first_number: int) -> Iterator[int]:
    """The numbers of a host's sockets: as a kernel's, they are given again, but here when all others were."""
    while True:
        yield from range(first_number, first_number + NUMBERS_A_HOST)


class SimBridge(Bridge):
    """A host's sockets, and the way its packets take: ``send(name, packet)``; ``rng`` says where reads end."""

    stream_core = SimStreamCore
    has_processes = False  # they are refused, so nobody can miss a socket there (Hypercorn makes its own inheritable)
    hosts_file = ""  # the machine that runs the tests is no part of a world

    def __init__(
        self,
        host: stack.Host,
        clock: HostClock,
        name: str,
        send: Callable[[str, Packet], None],
        interface: int,
        rng: Random,
        first_number: int,
    ) -> None:
        super().__init__(host, {}, clock, numbers=_round_and_round(first_number))
        self._rng = rng
        self.whole_reads = int(rng.random() * WHOLE_READS)
        self._name = name
        self._send = send
        self._interface = interface
        # For what leaves by a card in a LAN.
        self.send_elsewhere: Callable[[int, Frame], None] | None = None
        # No later than when the stack wants its turn, in the host's time; of the last `settle`.
        self.deadline_s = float("inf")

    def free_number(self) -> int:
        """A number that no socket has; EMFILE where they have them all."""
        for number in itertools.islice(self._numbers, NUMBERS_A_HOST):
            if number not in self._sockets and number not in self._detached:
                return number
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def part_of(self, max_bytes: int, unread_bytes: int) -> int:
        """Draw how much a read gives of what is there, and after how many it is so again."""
        there = min(max_bytes, unread_bytes)
        if there < 2:
            self.whole_reads = 0  # nothing to part: the next one, then
            return max_bytes
        self.whole_reads = int(self._rng.random() * 2 * WHOLE_READS)
        return 1 + int(self._rng.random() * (there - 1))

    def send_by(self, send: Callable[[str, Packet], None]) -> None:
        """Let packets take this way from now on."""
        self._send = send

    def close_sockets(self) -> None:
        """The program has ended: its sockets are closed, as a kernel does it, and nobody is told that it did not."""
        for sock in list(self._sockets.values()):
            sock.close()

    def end(self) -> None:
        """The machine is off: its sockets are dead, and say nothing of not having been closed."""
        for sock in list(self._sockets.values()):
            sock._closed = sock._gone = True
        self._end()

    def touch(self, sock: StackSocket) -> None:
        """Something may be ready on a socket that the stack does not know."""
        self.readiness.touch(sock.fileno())

    def pump_until(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """For a call that would block: whatever is not there at once would come only when the host has waited."""
        self.settle()
        if condition():
            return True
        raise refusal(
            f"a call of a socket on the simulated host {self._name} would block all of it",
            "setblocking(False) and await loop.sock_*(), or use asyncio's streams",
        )

    def settle(self) -> None:
        """Send what the host has to send, let what is due happen, and note what is due next."""
        host, send, name = self.host, self._send, self._name
        now = self.now()
        while True:
            for interface, packet in host.poll_packets(now):
                if interface == self._interface:
                    send(name, packet)
                elif self.send_elsewhere is not None:
                    self.send_elsewhere(interface, packet)  # type: ignore[arg-type]  # no LAN's card is by value
                else:
                    self.frames_without_device += 1
            self.deadline_s = host.wakes_at()
            if self.deadline_s > now:
                return
            host.handle_timers(now)
