"""HyStart++: leave slow start when the round trip grows, before the bottleneck's queue overflows (RFC 9406).

This file knows the rounds, their least round-trip times and the two speeds of
slow start. It refuses to know the window and its losses.
"""

from __future__ import annotations

from typing import Final

__all__ = ["HyStart"]

# RFC 9406 §4.3, all of them its recommended values.
_MIN_THRESHOLD_S: Final = 0.004
_MAX_THRESHOLD_S: Final = 0.016
_THRESHOLD_DIVISOR: Final = 8
_SAMPLES: Final = 8
_CONSERVATIVE_DIVISOR: Final = 4
_CONSERVATIVE_ROUNDS: Final = 5
_UNKNOWN: Final = float("inf")


class HyStart:
    """Watches one slow start; ``divisor`` is by what its growth is to be divided, ``done`` says that it is over.

    >>> watch = HyStart()
    >>> watch.divisor, watch.done
    (1, False)
    """

    __slots__ = ("_baseline_s", "_current_s", "_last_s", "_rounds", "_samples", "_window_end", "divisor", "done")

    def __init__(self) -> None:
        self._window_end = -1
        self._last_s = _UNKNOWN
        self._current_s = _UNKNOWN
        self._samples = 0
        self._baseline_s = _UNKNOWN
        self._rounds = 0
        self.divisor = 1
        self.done = False

    def watch(self, rtt_s: float, ack: int, nxt: int) -> None:
        """Take a measured round trip; `ack` is what it acknowledged, `nxt` what is sent next."""
        if ack >= self._window_end:
            # §4.2: a round has ended, the next one ends when all that is sent now is acknowledged.
            self._window_end = nxt
            self._last_s = self._current_s
            self._current_s = _UNKNOWN
            self._samples = 0
            if self.divisor > 1:
                self._rounds += 1
                if self._rounds >= _CONSERVATIVE_ROUNDS:
                    self.done = True
        if rtt_s < self._current_s:
            self._current_s = rtt_s
        self._samples += 1
        if self._samples < _SAMPLES or self._last_s == _UNKNOWN:
            return
        if self.divisor == 1:
            threshold_s = max(_MIN_THRESHOLD_S, min(self._last_s / _THRESHOLD_DIVISOR, _MAX_THRESHOLD_S))
            if self._current_s >= self._last_s + threshold_s:
                self._baseline_s = self._current_s
                self._rounds = 0
                self.divisor = _CONSERVATIVE_DIVISOR
        elif self._current_s < self._baseline_s:
            # The delay went away again, it was chance: back to full slow start.
            self._baseline_s = _UNKNOWN
            self.divisor = 1
