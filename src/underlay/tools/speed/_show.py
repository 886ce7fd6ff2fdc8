"""What the command prints while tests run, and after: plain lines, a live graph at a terminal, or JSON.

Three watchers, one for each. They know where output goes; what it says is written by `_words.py` and `_results.py`.
"""

from __future__ import annotations

import json
import sys
import textwrap
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from ...errors import UnderlayError
from .._say import say
from .._sparkline import is_utf8
from ._results import SCHEMA, Interval, Result
from ._settings import Settings, Way
from ._verdict import verdicts
from ._watcher import Watcher
from ._words import WIDTH, describe, headings, interval_line, number, result_lines, sparkline

if TYPE_CHECKING:
    from rich.live import Live

__all__ = ["JsonShow", "PlainShow", "TerminalShow", "result_json"]

# A sparkline, its label and its figure fill a line of 80 columns.
_SPARKS: Final = 50


class PlainShow(Watcher):
    """Lines without colours, as they come: for a pipe, and for what a terminal keeps."""

    def __init__(self, *, at_client: bool) -> None:
        self._at_client = at_client
        # A server's tests and its door speak from two threads.
        self._lock = threading.RLock()

    def line(self, text: str) -> None:
        """Print one line, at once."""
        with self._lock:
            print(_fitting(text), flush=True)

    def listening(self, addresses: list[str]) -> None:
        """Say where."""
        self.line(f"listening on {' and '.join(addresses)}; Ctrl-C ends it")

    def started(self, peer: str, settings: Settings) -> None:
        """Say what is tested, and head the columns."""
        for line in textwrap.wrap(describe(peer, settings, at_client=self._at_client), WIDTH):
            self.line(line)
        self.line(headings(settings))

    def interval(self, interval: Interval) -> None:
        """Print its line."""
        self.line(interval_line(interval))

    def finished(self, result: Result) -> None:
        """Print the table, and what there is to say."""
        self.line("")
        for line in result_lines(result):
            self.line(line)
        if not self._at_client:
            self.line("")

    def broken(self, error: UnderlayError, result: Result | None) -> None:
        """Print what there was, and why there is no more."""
        if result is not None:
            self.finished(result)
        self.line(f"{error}")
        self.line("")

    def refused(self, peer: str) -> None:
        """Say who."""
        self.line(f"{peer} was sent away: a test runs")


class TerminalShow(PlainShow):
    """The same lines, and below them a graph that grows with each interval."""

    def __init__(self, *, at_client: bool) -> None:
        super().__init__(at_client=at_client)
        self._rates: dict[Way, deque[float]] = {}
        self._live: Live | None = None

    def line(self, text: str) -> None:
        """Print it above the graph."""
        with self._lock:
            if self._live is None:
                super().line(text)
            else:
                self._live.console.print(_fitting(text), markup=False, highlight=False, soft_wrap=True)

    def started(self, peer: str, settings: Settings) -> None:
        """Begin a graph."""
        from rich.live import Live

        super().started(peer, settings)
        self._rates = {}
        self._live = Live(auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
        self._live.start()
        # Hidden, the cursor would be so in the shell too, after a signal that ends or stops this program (Ctrl-Z).
        self._live.console.show_cursor(True)

    def interval(self, interval: Interval) -> None:
        """Let the graph grow."""
        from rich.text import Text

        super().interval(interval)
        if self._live is not None:
            self._rates.setdefault(interval.way, deque(maxlen=_SPARKS)).append(interval.bits_per_s)
            self._live.update(Text(self._graph()), refresh=True)

    def finished(self, result: Result) -> None:
        """Leave the graph where it is, and print the table below."""
        self.close()
        super().finished(result)

    def broken(self, error: UnderlayError, result: Result | None) -> None:
        """Leave the graph too."""
        self.close()
        super().broken(error, result)

    def close(self) -> None:
        """Print the graph as a line that stays, and give the terminal back."""
        if self._live is None:
            return
        graph = self._graph()
        self._live.stop()
        self._live = None
        if self._rates:
            self.line(graph)

    def _graph(self) -> str:
        lines = []
        for way, rates in self._rates.items():
            marks = sparkline(list(rates), _SPARKS, ascii_only=not _is_utf8())
            lines.append(f"{way.value:<5}{marks} {number(rates[-1] / 1e6, 10)} Mbit/s")
        return "\n".join(lines)


class JsonShow(Watcher):
    """One JSON object a line for each test, when it has ended."""

    def __init__(self, *, at_client: bool) -> None:
        self._role = "client" if at_client else "server"

    def listening(self, addresses: list[str]) -> None:
        """Say where, beside the output: port 0 is any."""
        say(f"listening on {' and '.join(addresses)}; Ctrl-C ends it")

    def finished(self, result: Result) -> None:
        """Print it."""
        print(json.dumps(result_json(result)), flush=True)

    def broken(self, error: UnderlayError, result: Result | None) -> None:
        """Print what there was, and the error."""
        told = {"schema": SCHEMA, "role": self._role, "complete": False} if result is None else result_json(result)
        print(json.dumps(told | {"error": str(error)}), flush=True)


def result_json(result: Result) -> dict[str, object]:
    """Write a result for a program; docs/speed.md has the schema."""
    settings = result.settings
    return {
        "schema": SCHEMA,
        "role": "client" if result.at_client else "server",
        "peer": result.peer,
        "complete": result.is_complete,
        "test": {
            "protocol": settings.protocol,
            "direction": settings.direction.value,
            "parallel": settings.parallel,
            "time_s": 0 if settings.ends_by_size else settings.time_s,
            "size_bytes": settings.size_bytes,
            "blocks": settings.blocks,
            "omit_s": settings.omit_s,
            "length_bytes": settings.length_bytes,
            "rate_bits_per_s": settings.rate_bits_per_s,
            "window_bytes": settings.window_bytes,
            "mss_bytes": settings.mss_bytes,
            "no_delay": settings.no_delay,
            "tos": settings.tos,
            "zero_copy": settings.zero_copy,
        },
        "intervals": [interval.to_json() for interval in result.intervals],
        "intervals_dropped": result.intervals_dropped,
        "streams": [stream.to_json() for stream in result.streams],
        "totals": [total.to_json() for total in result.totals],
        "cpu": {
            "here": result.cpu.to_json(),
            "there": None if result.peer_cpu is None else result.peer_cpu.to_json(),
        },
        "congestion": {"here": result.congestion or None, "there": result.peer_congestion or None},
        "datagrams_not_ours": result.not_ours,
        "verdicts": [verdict.to_json() for verdict in verdicts(result)],
        "notes": list(result.notes),
    }


def _is_utf8() -> bool:
    # It is None where the shell closed it (`>&-`), whatever typeshed says; then nothing is printed.
    return sys.stdout is None or is_utf8(sys.stdout.encoding)


def _fitting(text: str) -> str:
    """Spell what the output's encoding cannot (LANG=C)."""
    return text if _is_utf8() else text.replace("µ", "u").encode("ascii", "replace").decode()
