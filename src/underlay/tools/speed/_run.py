"""The running part of a test, the same at both ends: streams begin, are looked at now and then, and end.

The streams' threads move the bytes. This file knows when to look at their counters, when the test is over by our own
clock or bytes, and how it ends so that what has arrived is counted. It refuses to know what was said before and after.
"""

from __future__ import annotations

import errno
import math
import resource
import time
from collections.abc import Callable, Sequence
from typing import Final

from ...errors import UnderlayError
from .._complaints import reason
from ._movers import start
from ._protocol import Control, PeerError, State
from ._results import Cpu, Interval, PeerResults, Result
from ._settings import Settings
from ._streams import END_PATIENCE_S, Budget, Stream, stop_receiving, wait_for_ends
from ._tally import Tally

__all__ = ["REASON_S", "Run"]

REASON_S: Final = 0.3
"""A stream's connection and the control connection may break at the same time: how long the latter has to say why."""

# At a client, a test that ends by bytes breaks when none has moved for so long. One keeps a server only for as long as
# something moves: iperf3's --rcv-timeout is two minutes. Less would not do where bytes end it: its client since 3.16
# looks whether they are sent once in an interval (-i), which has up to a minute.
_STALL_S: Final = 30.0
_IDLE_S: Final = 120.0
# Datagrams that are lost are not sent again: a receiver that misses some of the last waits this long for them.
_UDP_QUIET_S: Final = 1.0
# How long what has already arrived may take to be read, after the end.
_DRAIN_S: Final = 0.5
# Bytes say no word when they are enough: how often they are looked at.
_LOOK_S: Final = 0.01
# An interval that ends this short a part of one before the test does lasts until then.
_LEAST_REST: Final = 0.1


class Run:
    """The streams of a test while they run, at one end. They stay the caller's, who closes them."""

    def __init__(
        self,
        settings: Settings,
        streams: Sequence[Stream],
        control: Control,
        *,
        at_client: bool,
        interval_s: float,
        on_interval: Callable[[Interval], None],
    ) -> None:
        self._settings = settings
        self._streams = streams
        self._control = control
        self._at_client = at_client
        self._interval_s = interval_s
        self._on_interval = on_interval
        self._tally = Tally(settings, streams, at_client=at_client)
        self._is_omitting = settings.omit_s > 0
        self._budget: Budget | None = None
        # A server's senders know no end where something is omitted: its client begins to count at another moment.
        if settings.ends_by_size and (at_client or not settings.omit_s):
            # A server's last block is a whole one, as iperf3's: a client since 3.16 reads whole blocks, counts no part
            # of one, and would wait for the rest of it.
            rest = 0 if at_client else -settings.wanted_bytes % settings.length_bytes
            self._budget = Budget(settings.wanted_bytes + rest)
        self._began = self._counted_from = self._last_report = 0.0
        self._cpu_began = (0.0, 0.0)
        self._has_ended = False

    def start(self) -> None:
        """Begin: what moves from now on counts, but for what is omitted."""
        self._began = self._counted_from = self._last_report = time.monotonic()
        self._cpu_began = _cpu_s()
        if self._budget is not None and not self._is_omitting:
            self._budget.begin()
        for stream in self._streams:
            stream.budget = self._budget
            stream.on_end = self._control.wake
        start(self._streams)

    def drive(self, longest_s: float | None = None) -> State | None:
        """Report until the test is over: None where a client's clock or bytes say so, else what the peer said.

        Raises ``PeerError`` when a stream breaks, when nothing moves, or when ``longest_s`` has passed.
        """
        moved_bytes, moved_at = -1, time.monotonic()
        while True:
            now = time.monotonic()
            if self._is_omitting and now - self._began >= self._settings.omit_s:
                self._end_omission(now)
            if self._interval_s and now - self._last_report >= self._interval_s and not self._ends_soon(now):
                self._report(now)
            total = sum(stream.bytes for stream in self._streams)
            if total != moved_bytes:
                moved_bytes, moved_at = total, now
            if self._at_client and self._is_over(now, now - moved_at):
                return None
            if (state := self._after_a_break()) is not None:
                return state
            if longest_s is not None and now - self._began > longest_s:
                raise PeerError(f"{self._control.peer} did not end its test in time")
            if now - moved_at > self._stall_s():
                raise PeerError(f"no byte moved between {self._control.peer} and us for {now - moved_at:.0f} s")
            if (state := self._control.wait_state(self._next_s(now))) is not None:
                return state

    def end(self) -> None:
        """Stop the senders, count what has arrived, and take all figures; a second time does nothing."""
        if self._has_ended:
            return
        self._has_ended = True
        senders = [stream for stream in self._streams if stream.is_sender]
        receivers = [stream for stream in self._streams if not stream.is_sender]
        for stream in senders:
            stream.is_stopped = True
        wait_for_ends(senders, time.monotonic() + END_PATIENCE_S)
        # A client goes on to read, so that no server waits for it, but no longer counts.
        if not self._at_client:
            stop_receiving(receivers, time.monotonic() + _DRAIN_S)
        now = time.monotonic()
        for stream in self._streams:
            self._tally.finish(stream, now - self._counted_from)
        if self._interval_s:
            self._report(now)
        user_s, system_s = (after - before for after, before in zip(_cpu_s(), self._cpu_began, strict=True))
        took_s = max(now - self._began, 1e-6)
        self._tally.cpu = Cpu(user_s / took_s * 100, system_s / took_s * 100)

    def to_results(self) -> dict[str, object]:
        """Write our part as iperf3 tells it to the other end."""
        return self._tally.to_results()

    def result(self, peer: PeerResults | None, notes: Sequence[str] = ()) -> Result:
        """Give what was found; without the peer's part where it was not told."""
        return self._tally.result(self._control.peer, peer, notes)

    def _is_over(self, now: float, quiet_s: float) -> bool:
        settings = self._settings
        if self._is_omitting:
            return False
        if not settings.ends_by_size:
            return now - self._counted_from >= settings.time_s
        senders = [stream for stream in self._streams if stream.is_sender]
        if senders and all(stream.has_ended and stream.failure is None for stream in senders):
            return True
        if self._tally.moved_bytes(sent=False) >= settings.wanted_bytes:
            return True
        has_begun = any(stream.bytes for stream in self._streams)
        return settings.is_udp and not senders and has_begun and quiet_s > max(_UDP_QUIET_S, self._block_s() * 3)

    def _ends_soon(self, now: float) -> bool:
        """Whether what is left of the test is too little for an interval."""
        if self._is_omitting or self._settings.ends_by_size:
            return False
        left_s = self._counted_from + self._settings.time_s - now
        return -self._interval_s < left_s < self._interval_s * _LEAST_REST

    def _block_s(self) -> float:
        """How long a block takes at the rate that was asked for."""
        rate = self._settings.rate_bits_per_s
        return self._settings.length_bytes * 8 / rate if rate else 0.0

    def _stall_s(self) -> float:
        if not self._at_client:
            # Whatever the client's rate: with one bit a second it would have the server for as long as it likes.
            return _IDLE_S
        return max(_STALL_S, self._block_s() * 3) if self._settings.ends_by_size else math.inf

    def _next_s(self, now: float) -> float:
        """How long nothing is to be done, if the peer says nothing and no stream ends."""
        waits = [1.0]
        if self._interval_s:
            left_s = self._last_report + self._interval_s - now
            # One that is due and not told is to last until the end.
            waits.append(left_s if left_s > 0 or not self._ends_soon(now) else self._interval_s)
        if self._is_omitting:
            waits.append(self._began + self._settings.omit_s - now)
        elif self._at_client and not self._settings.ends_by_size:
            waits.append(self._counted_from + self._settings.time_s - now)
        elif self._at_client:
            waits.append(_LOOK_S)
        return max(0.0, min(waits))

    def _after_a_break(self) -> State | None:
        """Raise what broke a stream; or give what the peer said at the same time, which tells why."""
        for stream in self._streams:
            # That a receiver ends before the test does is the peer's doing.
            if stream.failure is None and (stream.is_sender or not stream.has_ended):
                continue
            deadline = time.monotonic() + REASON_S
            while (left_s := deadline - time.monotonic()) > 0:
                if (state := self._control.wait_state(left_s)) is not None:
                    return state
            why = reason(stream.failure) if stream.failure is not None else "it was closed before its end"
            what = f"stream {stream.number} between {self._control.peer} and us broke: {why}"
            if stream.failure is not None and stream.failure.errno == errno.ENOMEM:  # our own shortage
                raise UnderlayError(what, remedy="`ulimit -v` may be too low") from stream.failure
            raise PeerError(what)
        return None

    def _end_omission(self, now: float) -> None:
        if self._interval_s:
            self._report(now)
        self._is_omitting = False
        self._counted_from = self._last_report = now
        self._tally.omit()
        if self._budget is not None:
            self._budget.begin()

    def _report(self, now: float) -> None:
        start_s, end_s = self._last_report - self._counted_from, now - self._counted_from
        if end_s <= start_s:
            return
        self._last_report = now
        for interval in self._tally.report(start_s, end_s, is_omitted=self._is_omitting):
            self._on_interval(interval)


def _cpu_s() -> tuple[float, float]:
    """CPU time of this process, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime, used.ru_stime
