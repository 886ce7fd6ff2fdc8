"""How much may be on its way: NewReno (RFC 5681) and CUBIC (RFC 9438).

This file knows the congestion window and how it answers to acknowledgments,
losses and silence. It refuses to know sequence numbers, what is lost and when
to send: recovery (`_tcp_recovery`) asks it at each of those moments.

Windows are bytes. Growth counts acknowledged bytes, not acknowledgments
(RFC 3465), so delayed and aggregated ACKs neither slow it nor speed it up.
"""

from __future__ import annotations

from typing import Final

from ._tcp_hystart import HyStart
from ._tcp_options import Congestion

__all__ = ["CongestionControl", "Cubic", "NewReno", "make_congestion_control"]

_INFINITE: Final = 1 << 60

# RFC 9438 §4.6 and §5: beta, C.
_BETA: Final = 0.7
_C: Final = 0.4
# RFC 9438 §4.3: additive increase while it competes as Reno would.
_ALPHA: Final = 3 * (1 - _BETA) / (1 + _BETA)


class NewReno:
    """Slow start and congestion avoidance after RFC 5681; what a loss does is half the flight."""

    __slots__ = ("_acked_bytes", "cwnd_bytes", "initial_bytes", "mss", "ssthresh_bytes")

    name: Congestion = "newreno"

    def __init__(self, mss: int, initial_segments: int) -> None:
        self.mss = mss
        # RFC 6928 §2: min (10*MSS, max (2*MSS, 14600)).
        self.initial_bytes = min(initial_segments * mss, max(2 * mss, 1460 * initial_segments))
        self.cwnd_bytes = self.initial_bytes
        self.ssthresh_bytes = _INFINITE
        self._acked_bytes = 0

    def on_ack(self, acked_bytes: int, now: float, srtt_s: float) -> None:
        """Grow by what was newly delivered; called only while the window is what limits sending.

        In slow start by all of it, as RFC 9002 §7.3.1 and Linux do: RFC 3465's limit of two segments an
        acknowledgment was made for peers that acknowledge every second segment, and a burst here is
        bounded by what left the network.
        """
        cwnd = self.cwnd_bytes
        if cwnd < self.ssthresh_bytes:
            room = self.ssthresh_bytes - cwnd
            if acked_bytes <= room:
                self.cwnd_bytes = cwnd + acked_bytes
                return
            self.cwnd_bytes = cwnd = self.ssthresh_bytes
            acked_bytes -= room
        self._avoid(cwnd, acked_bytes, now, srtt_s)

    def watch_delay(self, rtt_s: float, ack: int, nxt: int) -> None:
        """Take a round trip measured in slow start; NewReno goes on until something is lost."""

    def _avoid(self, cwnd: int, acked_bytes: int, now: float, srtt_s: float) -> None:
        """Congestion avoidance: one segment for each window of acknowledged bytes (RFC 5681 §3.1, RFC 3465 §2.1)."""
        acked_bytes += self._acked_bytes
        if acked_bytes >= cwnd:
            acked_bytes -= cwnd
            self.cwnd_bytes = cwnd + self.mss
        self._acked_bytes = acked_bytes

    def on_loss(self, flight_bytes: int, now: float) -> None:
        """Set the slow start threshold, at the begin of a recovery (RFC 5681 §3.2); the window follows it later."""
        self.ssthresh_bytes = max(flight_bytes // 2, 2 * self.mss)
        self._acked_bytes = 0

    def on_timeout(self, flight_bytes: int, now: float, *, again: bool) -> None:
        """Fall back to one segment (RFC 5681 §3.1, equation 4); `again`: the same segment timed out before."""
        if not again:
            self.on_loss(flight_bytes, now)
        self.cwnd_bytes = self.mss

    def on_idle(self, idle_s: float, rto_s: float) -> None:
        """Shrink to the restart window after longer silence than a timeout (RFC 5681 §4.1)."""
        if idle_s > rto_s and self.cwnd_bytes > self.initial_bytes:
            # RFC 7661 §4.3.2 (and Linux): what was known of the path is kept as the threshold.
            self.ssthresh_bytes = max(self.ssthresh_bytes, self.cwnd_bytes * 3 // 4)
            self.cwnd_bytes = self.initial_bytes

    def undo(self, cwnd_bytes: int, ssthresh_bytes: int) -> None:
        """Take back a reduction that turned out to be for nothing (RFC 4015 §3)."""
        self.cwnd_bytes = max(self.cwnd_bytes, cwnd_bytes)
        self.ssthresh_bytes = max(self.ssthresh_bytes, ssthresh_bytes)

    def set_mss(self, mss: int) -> None:
        """Go on with another segment size (path MTU)."""
        self.mss = mss


class Cubic(NewReno):
    """CUBIC: after a loss the window grows by a cubic of the time, flat where the loss was (RFC 9438)."""

    __slots__ = ("_epoch_at", "_estimate", "_hystart", "_k_s", "_origin", "_w_max")

    name: Congestion = "cubic"

    def __init__(self, mss: int, initial_segments: int) -> None:
        super().__init__(mss, initial_segments)
        self._epoch_at = -1.0  # negative: no epoch has begun
        self._w_max = 0.0  # in segments, as all of RFC 9438's W are
        self._origin = 0.0
        self._k_s = 0.0
        self._estimate = 0.0
        # RFC 9438 §4.10 wants it, for the first slow start.
        self._hystart: HyStart | None = HyStart()

    def on_ack(self, acked_bytes: int, now: float, srtt_s: float) -> None:
        watch = self._hystart
        if watch is not None and self.cwnd_bytes < self.ssthresh_bytes:
            if watch.done:
                self.ssthresh_bytes = self.cwnd_bytes
                self._hystart = None
            else:
                acked_bytes //= watch.divisor
        super().on_ack(acked_bytes, now, srtt_s)

    def watch_delay(self, rtt_s: float, ack: int, nxt: int) -> None:
        if self._hystart is not None:
            self._hystart.watch(rtt_s, ack, nxt)

    def _avoid(self, cwnd: int, acked_bytes: int, now: float, srtt_s: float) -> None:
        mss = self.mss
        window = cwnd / mss
        if self._epoch_at < 0.0:
            self._epoch_at = now
            self._estimate = window
            if window < self._w_max:
                self._k_s = ((self._w_max - window) / _C) ** (1 / 3)  # RFC 9438 §4.2, equation 2
                self._origin = self._w_max
            else:
                self._k_s = 0.0
                self._origin = window
        # RFC 9438 §4.3: what Reno would have by now; alpha is 1 once it is back where the loss was.
        self._estimate += (_ALPHA if self._estimate < self._w_max else 1.0) * acked_bytes / cwnd
        # RFC 9438 §4.4: aim where the cubic will be one round trip from now, at most half as much again.
        target = self._origin + _C * (now + srtt_s - self._epoch_at - self._k_s) ** 3
        if target > 1.5 * window:
            target = 1.5 * window
        if target > window:
            grown = (target - window) / window * acked_bytes
        else:
            grown = acked_bytes / (100 * window)  # RFC 8312 §4.5: very slow growth on the plateau
        friendly = self._estimate * mss
        if friendly > cwnd + grown:
            grown = friendly - cwnd
        if grown > acked_bytes / 2:
            grown = acked_bytes / 2  # RFC 9438 §4.4: half as much again in a round trip at most
        # Whole bytes go into the window, the fraction (in 1/1024) waits in _acked_bytes.
        fine = self._acked_bytes + int(grown * 1024)
        self.cwnd_bytes = cwnd + (fine >> 10)
        self._acked_bytes = fine & 1023

    def on_loss(self, flight_bytes: int, now: float) -> None:
        window = self.cwnd_bytes / self.mss
        # RFC 9438 §4.7, fast convergence: leave room to others when the plateau was not reached again.
        self._w_max = window * (1 + _BETA) / 2 if window < self._w_max else window
        self._hystart = None
        self._epoch_at = -1.0
        self._acked_bytes = 0
        # RFC 9438 §4.6 takes the flight; Linux, and this, the window, for a flight may be what a receiver allowed.
        self.ssthresh_bytes = max(int(min(self.cwnd_bytes, 2 * flight_bytes) * _BETA), 2 * self.mss)

    def on_timeout(self, flight_bytes: int, now: float, *, again: bool) -> None:
        super().on_timeout(flight_bytes, now, again=again)
        self._epoch_at = -1.0

    def on_idle(self, idle_s: float, rto_s: float) -> None:
        before = self.cwnd_bytes
        super().on_idle(idle_s, rto_s)
        if self.cwnd_bytes < before:
            self._epoch_at = -1.0  # what Reno would have by now was for the window before
        elif self._epoch_at >= 0.0:
            self._epoch_at += idle_s  # RFC 9438 §4.2: the cubic's clock stands still while nothing is sent

    def undo(self, cwnd_bytes: int, ssthresh_bytes: int) -> None:
        super().undo(cwnd_bytes, ssthresh_bytes)
        self._epoch_at = -1.0


CongestionControl = NewReno
"""What recovery asks: the methods of `NewReno`, which `Cubic` answers in its own way."""

_KINDS: Final[dict[Congestion, type[NewReno]]] = {"newreno": NewReno, "cubic": Cubic}


def make_congestion_control(kind: Congestion, mss: int, initial_segments: int) -> CongestionControl:
    """Make the congestion control of that name for a path whose segments carry `mss` bytes.

    >>> make_congestion_control("newreno", 1460, 10).cwnd_bytes
    14600
    """
    return _KINDS[kind](mss, initial_segments)
