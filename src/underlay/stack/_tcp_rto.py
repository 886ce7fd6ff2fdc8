"""The retransmission timeout: how long to wait for an acknowledgment (RFC 6298).

This file knows the estimator and its back-off. It refuses to know which segment
was measured and who waits.
"""

from __future__ import annotations

from typing import Final

__all__ = ["RtoEstimator"]

# RFC 6298 §2.3.
_ALPHA: Final = 1 / 8
_BETA: Final = 1 / 4
_K: Final = 4


class RtoEstimator:
    """Smoothed round-trip time, its variation, and the timeout which follows from them.

    >>> estimator = RtoEstimator(initial_s=1.0, min_s=0.2, max_s=120.0)
    >>> estimator.measure(0.1)
    >>> round(estimator.rto_s, 6), round(estimator.srtt_s, 6)
    (0.3, 0.1)
    >>> estimator.back_off(); round(estimator.rto_s, 6)
    0.6
    """

    __slots__ = ("_base_s", "backoffs", "latest_s", "max_s", "min_rtt_s", "min_s", "rto_s", "rttvar_s", "srtt_s")

    def __init__(self, *, initial_s: float, min_s: float, max_s: float) -> None:
        self.srtt_s = 0.0
        self.rttvar_s = 0.0
        self.latest_s = 0.0
        self.min_rtt_s = float("inf")
        self.min_s = min_s
        self.max_s = max_s
        self.backoffs = 0
        self._base_s = initial_s
        self.rto_s = initial_s

    def measure(self, rtt_s: float) -> None:
        """Take the round trip of a segment that was sent once (Karn's algorithm, RFC 6298 §3, is the caller's)."""
        self.latest_s = rtt_s
        if rtt_s < self.min_rtt_s:
            self.min_rtt_s = rtt_s
        srtt = self.srtt_s
        if srtt:
            error = rtt_s - srtt
            self.rttvar_s += _BETA * ((error if error >= 0 else -error) - self.rttvar_s)
            srtt += _ALPHA * error
        else:
            srtt = rtt_s or 1e-9  # 0 means "no measurement yet"
            self.rttvar_s = rtt_s / 2
        self.srtt_s = srtt
        spread = _K * self.rttvar_s
        # As Linux (tcp_rtt_estimator()) the spread is bounded, not the sum (RFC 6298 §2.4 with its 1 s): on a steady
        # path of more than `min_s` it falls to nothing, and a full queue or a delayed ACK would be a timeout.
        rto = srtt + (spread if spread > self.min_s else self.min_s)
        self._base_s = self.rto_s = min(rto, self.max_s)
        self.backoffs = 0

    def back_off(self) -> None:
        """Double it (RFC 6298 §5.5)."""
        self.backoffs += 1
        self.rto_s = min(self.rto_s * 2, self.max_s)

    def forgive(self) -> None:
        """Take back all doubling: something new was acknowledged (Linux; RFC 6298 §5.7 leaves it to a measurement)."""
        self.backoffs = 0
        self.rto_s = self._base_s

    def after_lost_syn(self) -> None:
        """Begin the data phase with 3 s: the SYN was lost and nothing was measured (RFC 6298 §5.7)."""
        if not self.srtt_s:
            self._base_s = self.rto_s = min(3.0, self.max_s)
            self.backoffs = 0
