"""Draw a connection as a ladder: two hosts as two vertical lines, each segment an arrow from one to the other.

This file knows how it is drawn: a row for each thing that happens, in the order in which it happens, so that time is
told in numbers and not in lengths. It refuses to know where the events come from (``tcp_life.py``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarks.tcp_life import Event

_WIDTH: Final = 900  # pixels; a page of documentation shows it without scrolling
_LINES: Final = (350, 550)  # x of the two hosts
_BAND: Final = 12  # the width of a host's line, coloured by its state
_TEXT: Final = 14  # from the line to its text
_TOP: Final = 66
_ROW: Final = 21
_MORE: Final = 14  # a second line of text
_PART: Final = 38
_EDGE: Final = 8

# How the states are coloured; each is named beside its line as well.
_KINDS: Final = {
    "CLOSED": "closed", "LISTEN": "listen", "SYN_SENT": "opening", "SYN_RECEIVED": "opening",
    "ESTABLISHED": "open", "FIN_WAIT_1": "closing", "FIN_WAIT_2": "closing", "CLOSING": "closing",
    "CLOSE_WAIT": "closing", "LAST_ACK": "closing", "TIME_WAIT": "waiting",
}  # fmt: skip

_STYLE: Final = """
text{font:11px system-ui,sans-serif;fill:var(--ink)}
.title{font-size:14px;font-weight:600}.part{font-size:12px;font-weight:600}.small{font-size:10px;fill:var(--soft)}
.line{font:10.5px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.call{font-style:italic}.state{font-weight:700}.lostword{fill:var(--lost);font-weight:700}.word{fill:var(--again)}
svg{--ink:#1b1f24;--soft:#5b6470;--rule:#d5dae0;--card:#fff;--control:#8250df;--data:#1f6feb;--ack:#6e7781;
--lost:#cf222e;--again:#9a5b00;--closed:#d5dae0;--listen:#8b949e;--opening:#d4a72c;--open:#2da44e;--closing:#8250df;
--waiting:#bf3989}
@media(prefers-color-scheme:dark){svg{--ink:#e6edf3;--soft:#9aa4af;--rule:#363d46;--card:#12161c;--control:#bc8cff;
--data:#58a6ff;--ack:#9aa4af;--lost:#ff7b72;--again:#e3b341;--closed:#363d46;--listen:#6e7681;--opening:#bb8009;
--open:#238636;--closing:#8957e5;--waiting:#db61a2}}
.card{fill:var(--card)}.rule{stroke:var(--rule)}.change{stroke:var(--ink);stroke-width:1.5}
.control{stroke:var(--control)}.data{stroke:var(--data)}.ack{stroke:var(--ack)}
.lost{stroke:var(--lost);stroke-dasharray:5 3}.again{stroke:var(--again);stroke-width:2}
.head-control{fill:var(--control)}.head-data{fill:var(--data)}.head-ack{fill:var(--ack)}.head-again{fill:var(--again)}
.closed{fill:var(--closed)}.listen{fill:var(--listen)}.opening{fill:var(--opening)}.open{fill:var(--open)}
.closing{fill:var(--closing)}.waiting{fill:var(--waiting)}
"""


@dataclass(slots=True)
class _Row:
    """What happens at one height, on one side; the y is its middle."""

    side: int
    when_s: float
    y: float = 0.0
    texts: list[tuple[str, str]] = field(default_factory=list)  # class, words; each a line
    state: str = ""
    part: str = ""
    is_arrival: bool = False


def draw(events: Sequence[Event]) -> str:
    """The events as a self-contained SVG document."""
    return _Ladder(events).svg()


class _Ladder:
    def __init__(self, events: Sequence[Event]) -> None:
        self._rows: list[_Row] = []
        self._sent: dict[int, tuple[_Row, Event]] = {}
        self._arrived: dict[int, _Row] = {}
        self._parts: list[str] = []
        for event in events:
            self._place(event)
        y: float = _TOP + _ROW
        for row in self._rows:
            if row.part:
                y += _PART
            row.y = y
            y += _ROW + _MORE * max(len(row.texts) - 1, 0)
        self._height = round(y + 8)

    def _place(self, event: Event) -> None:
        """Find the event's row: its own, or that of what it belongs to."""
        last = self._rows[-1] if self._rows else None
        beside = last is not None and last.side == event.side and last.when_s == event.when_s
        if event.kind == "state" and beside and last is not None and not last.state:
            last.state = event.text
            last.texts.append(("state", f"→ {event.text}"))
            return
        answers = event.kind == "sent" and beside and last is not None and last.is_arrival and not last.texts
        row = last if answers and last is not None else _Row(event.side, event.when_s, part=event.part)
        if row is not last:
            self._rows.append(row)
        if event.kind == "sent":
            words = label(event.text)
            if event.lost:
                words[-1] += " lost"
            row.texts += [("line lostword" if event.lost else "line", text) for text in words]
            self._sent[event.segment] = row, event
        elif event.kind == "arrived":
            row.is_arrival = True
            self._arrived[event.segment] = row
        elif event.kind == "state":
            row.state = event.text
            row.texts.append(("state", f"→ {event.text}"))
        else:
            row.texts.append(("line call", event.text))

    def svg(self) -> str:
        title = "One connection, from SYN to TIME_WAIT"
        self._add("text", 'class="title" x="8" y="22"', title)
        for side, (name, x) in enumerate(zip(("client", "server"), _LINES, strict=True)):
            anchor = "end" if side == 0 else "start"
            self._add("text", f'class="part" x="{x}" y="{_TOP - 8}" text-anchor="{anchor}"', name)
        self._legend()
        self._bands()
        for row in self._rows:
            self._row(row)
        seen: set[str] = set()
        for number, (row, event) in self._sent.items():
            self._arrow(row, event, self._arrived.get(number), seen)
        said = "; ".join(f"{('client', 'server')[each.side]} is {each.text}" for each in self._states())
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {self._height}" width="{_WIDTH}" '
            f'height="{self._height}" role="img" aria-labelledby="t d"><title id="t">{title}</title>'
            f'<desc id="d">{escape(said)}</desc><style>{_STYLE}</style>'
            f'<rect class="card" width="{_WIDTH}" height="{self._height}"/>\n' + "\n".join(self._parts) + "\n</svg>\n"
        )

    def _states(self) -> list[_State]:
        return [_State(row.side, row.state, row.y) for row in self._rows if row.state]

    def _add(self, element: str, attributes: str, words: str | None = None) -> None:
        self._parts.append(
            f"<{element} {attributes}/>" if words is None else f"<{element} {attributes}>{escape(words)}</{element}>"
        )

    def _legend(self) -> None:
        x = 352
        for kind, words in (
            ("control", "SYN, FIN"), ("data", "data"), ("ack", "only an acknowledgment"), ("lost", "lost"),
            ("again", "sent again"),
        ):  # fmt: skip
            self._add("line", f'class="{kind}" x1="{x}" y1="18" x2="{x + 22}" y2="18"')
            self._add("text", f'class="small" x="{x + 27}" y="22"', words)
            x += 46 + round(len(words) * 5.6)

    def _bands(self) -> None:
        """The two lines, each coloured by the state that its host is in."""
        bottom = self._height - _EDGE
        for side, x in enumerate(_LINES):
            changes = [_State(side, "CLOSED", _TOP), *(each for each in self._states() if each.side == side)]
            for number, change in enumerate(changes):
                end = changes[number + 1].y if number + 1 < len(changes) else bottom
                self._add(
                    "rect",
                    f'class="{_KINDS[change.text]}" x="{x - _BAND / 2:g}" y="{change.y:g}" width="{_BAND}" '
                    f'height="{end - change.y:g}"',
                )
                if number:
                    mark = f'x1="{x - 9}" y1="{change.y:g}" x2="{x + 9}" y2="{change.y:g}"'
                    self._add("line", f'class="change" {mark}')

    def _row(self, row: _Row) -> None:
        if row.part:
            y = row.y - _ROW - 10
            self._add("line", f'class="rule" x1="{_EDGE}" y1="{y:g}" x2="{_WIDTH - _EDGE}" y2="{y:g}"')
            self._add("text", f'class="part" x="{_EDGE}" y="{y + 15:g}"', row.part)
        left = row.side == 0
        edge = _EDGE if left else _WIDTH - _EDGE
        x = _LINES[0] - _TEXT if left else _LINES[1] + _TEXT
        anchor, other = ("end", "start") if left else ("start", "end")
        self._add("text", f'class="small" x="{edge}" y="{row.y + 4:g}" text-anchor="{other}"', in_words(row.when_s))
        for number, (kind, words) in enumerate(row.texts):
            y = row.y + 4 + _MORE * number
            self._add("text", f'class="{kind}" x="{x}" y="{y:g}" text-anchor="{anchor}"', words)

    def _arrow(self, row: _Row, event: Event, arrival: _Row | None, seen: set[str]) -> None:
        toward = 1 if event.side == 0 else -1
        x1 = _LINES[event.side] + toward * _BAND / 2
        x2 = _LINES[1 - event.side] - toward * _BAND / 2
        span = re.search(r"seq \d+:\d+", event.text)
        kind = "ack" if span is None else "data"
        if re.search(r"Flags \[[^\]]*[SF]", event.text):
            kind = "control"
        if span is not None and span[0] in seen:
            kind = "again"
        if span is not None:
            seen.add(span[0])
        if event.lost or arrival is None:
            x2, y2 = x1 + 0.4 * (x2 - x1), row.y + 1.6 * _ROW  # about as steep as its neighbours
            self._add("line", f'class="lost" x1="{x1:g}" y1="{row.y:g}" x2="{x2:g}" y2="{y2:g}"')
            self._add("text", f'class="lostword" x="{x2:g}" y="{y2 + 5:g}" text-anchor="middle"', "✕")
            return
        y2 = arrival.y
        tip = x2 - toward * 9
        # The arrow's head lies along its line.
        slope = (y2 - row.y) / (x2 - x1)
        back = y2 - slope * toward * 9
        self._add("line", f'class="{kind}" x1="{x1:g}" y1="{row.y:g}" x2="{tip:g}" y2="{back:.1f}"')
        self._add("path", f'class="head-{kind}" d="M{x2:g} {y2:g}L{tip:g} {back - 4:.1f}L{tip:g} {back + 4:.1f}z"')
        if kind == "again":
            self._add(
                "text",
                f'class="word" x="{(x1 + x2) / 2:g}" y="{(row.y + y2) / 2 - 7:g}" text-anchor="middle"',
                "again",
            )


@dataclass(frozen=True, slots=True)
class _State:
    side: int
    text: str
    y: float


def label(line: str) -> list[str]:
    """The short form of a line of the transcript; a SYN's options stand in a line of their own.

    >>> label("Flags [.], seq 1:1449, ack 19, win 1023, length 1448")
    ['[.] seq 1:1449, ack 19, length 1448']
    >>> label("Flags [S], seq 0, win 65535, options [mss 1460,sackOK], length 0")
    ['[S] seq 0, win 65535, length 0', 'mss 1460,sackOK']
    """
    found = re.fullmatch(r"Flags (\[[A-Z.]+\]), (.*?)(?:, options \[(.*)\])?, length (\d+)", line)
    assert found is not None, line
    flags, numbers, options, size = found.groups()
    if "S" in flags:
        return [f"{flags} {numbers}, length {size}", *([options] if options else [])]
    numbers = re.sub(r", win \d+$", "", numbers)
    return [f"{flags} {numbers}{', ' + options if options else ''}, length {size}"]


def in_words(when_s: float) -> str:
    """A time in the unit that suits it.

    >>> in_words(0.020048), in_words(60.366286)
    ('20.0 ms', '60.37 s')
    """
    return f"{when_s * 1e3:.1f} ms" if abs(when_s) < 1 else f"{when_s:.2f} s"
