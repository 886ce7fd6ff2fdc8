"""Draw a recording of system calls as swim lanes: one lane per thread and client, time from left to right.

This file knows what is drawn and how: waiting hatched, work solid, each in words as well as in colour. It does
not know where a recording comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH: Final = 960  # pixels; what a page of documentation shows without scrolling
_LEFT: Final = 132  # the lanes' names
_RIGHT: Final = 12
_LANE: Final = 58
_BAR: Final = 22
_TOP: Final = 64
_CHARACTER: Final = 6.1  # width of a character at the font size of 11 used for labels

# Calls in which a thread waits, where they take longer than a call that returns at once, and what to say of each.
_WAITS: Final = {
    "recvfrom": "waits in recv",
    "read": "waits in read",
    "accept4": "waits in accept",
    "accept": "waits in accept",
    "epoll_wait": "waits in epoll_wait",
    "poll": "waits in poll",
    "select": "waits in select",
    "pselect6": "waits in select",
    "rt_sigtimedwait": "waits for a signal",
    "io_uring_enter": "waits for completions",
    "futex": "waits for its turn",
    "clock_nanosleep": "pauses",
}
_CLOCKS_APART_S: Final = 0.0002  # between strace's reading of the clock and the traced program's return
_WAITING_S: Final = 0.0003  # under strace a call that doesn't wait takes some tens of microseconds
_READS: Final = frozenset({"recvfrom", "read", "recvmsg", "readv"})
_SENDS: Final = frozenset({"sendto", "write", "sendmsg", "writev"})

_STYLE: Final = """
text{font:11px system-ui,sans-serif;fill:var(--ink)}
.title{font-size:14px;font-weight:600}.name{font-weight:600}.small{font-size:10px;fill:var(--soft)}
svg{--ink:#1b1f24;--soft:#5b6470;--rule:#d5dae0;--wait:#c98a10;--waitbg:#fdf3da;--read:#1f6feb;--send:#1a7f37;
--again:#cf222e;--other:#8b949e;--card:#fff;--flow:#8250df}
@media(prefers-color-scheme:dark){svg{--ink:#e6edf3;--soft:#9aa4af;--rule:#363d46;--wait:#e3b341;--waitbg:#3a2f12;
--read:#58a6ff;--send:#3fb950;--again:#ff7b72;--other:#6e7681;--card:#12161c;--flow:#bc8cff}}
.card{fill:var(--card)}.rule{stroke:var(--rule)}.waitbg{fill:var(--waitbg);stroke:var(--wait)}.hatch{stroke:var(--wait)}
.read{fill:var(--read)}.send{fill:var(--send)}.again{fill:var(--again)}.other{fill:var(--other)}
.flow{stroke:var(--flow);stroke-dasharray:3 2;fill:none}.head{fill:var(--flow)}
.asks{fill:none;stroke:var(--flow);stroke-width:2}
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One system call of one thread; `outcome` is its result, the name of its errno, or nothing while it goes on."""

    name: str
    start_s: float
    took_s: float
    target: str
    outcome: str

    @property
    def end_s(self) -> float:
        """When it returned."""
        return self.start_s + self.took_s

    @property
    def waits(self) -> bool:
        """Whether the thread waited in it, and didn't merely pass through."""
        return self.name in _WAITS and self.took_s >= _WAITING_S

    @property
    def kind(self) -> str:
        """How it is drawn: wait, again, read, send or other."""
        if self.waits:
            return "wait"
        if self.outcome == "EAGAIN":
            return "again"
        return self.kind_of_data or "other"

    @property
    def kind_of_data(self) -> str:
        """Read or send for a connection's data, else nothing: the loop's own wake-up pipe is nobody's data."""
        if "TCP" not in self.target:
            return ""
        return "read" if self.name in _READS else "send" if self.name in _SENDS else ""


@dataclass(frozen=True, slots=True)
class Lane:
    """A thread of the server and its calls in order."""

    name: str
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request, from its send to its answer; seconds of the recording's clock."""

    client: str
    sent_s: float
    answered_s: float


@dataclass(frozen=True, slots=True)
class Recording:
    """One run of one model between two moments; `clients` names them by their port."""

    model: str
    start_s: float
    end_s: float
    lanes: tuple[Lane, ...]
    requests: tuple[Request, ...]
    clients: dict[str, str]


def draw(recording: Recording) -> str:
    """The recording as a self-contained SVG document."""
    return _Drawing(recording).svg()


class _Drawing:
    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._clients = sorted({request.client for request in recording.requests})
        self._rows = [f"client {client}" for client in self._clients] + [lane.name for lane in recording.lanes]
        self._height = _TOP + _LANE * len(self._rows) + 26
        self._parts: list[str] = []

    def _x(self, when_s: float) -> float:
        recording = self._recording
        share = (when_s - recording.start_s) / (recording.end_s - recording.start_s)
        return round(_LEFT + min(1.0, max(0.0, share)) * (_WIDTH - _LEFT - _RIGHT), 1)

    def _middle(self, row: int) -> float:
        return _TOP + _LANE * row + _LANE / 2

    def svg(self) -> str:
        title = f"Model {self._recording.model.replace('_', '-')}: who waits where"
        self._legend(title)
        self._axis()
        for row, name in enumerate(self._rows):
            self._parts.append(f'<text class="name" x="8" y="{self._middle(row) + 4}">{escape(name)}</text>')
        for row, lane in enumerate(self._recording.lanes, start=len(self._clients)):
            self._lane(row, lane)
        for request in self._recording.requests:
            self._request(request)
        summary = "; ".join(f"{lane.name}: {_in_words(lane)}" for lane in self._recording.lanes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {self._height}" width="{_WIDTH}" '
            f'height="{self._height}" role="img" aria-labelledby="t d"><title id="t">{escape(title)}</title>'
            f'<desc id="d">{escape(summary)}</desc><style>{_STYLE}</style>'
            '<defs><pattern id="h" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            '<line class="hatch" x1="0" y1="0" x2="0" y2="6" stroke-opacity=".35"/></pattern></defs>'
            f'<rect class="card" width="{_WIDTH}" height="{self._height}"/>{"".join(self._parts)}</svg>\n'
        )

    def _legend(self, title: str) -> None:
        self._parts.append(f'<text class="title" x="8" y="20">{escape(title)}</text>')
        x = _LEFT
        for kind, words in (
            ("waitbg", "waits in a system call"),
            ("again", "asked: EAGAIN"),
            ("read", "copies to the program"),
            ("send", "copies to the kernel"),
            ("other", "another call"),
        ):
            self._parts.append(f'<rect class="{kind}" x="{x}" y="32" width="12" height="12"/>')
            if kind == "waitbg":
                self._parts.append(f'<rect fill="url(#h)" x="{x}" y="32" width="12" height="12"/>')
            self._parts.append(f'<text class="small" x="{x + 17}" y="42">{words}</text>')
            x += 30 + round(len(words) * _CHARACTER * 0.9)

    def _axis(self) -> None:
        recording = self._recording
        bottom = _TOP + _LANE * len(self._rows)
        length_ms = (recording.end_s - recording.start_s) * 1e3
        step = next((step for step in (1, 2, 5, 10, 20, 50) if length_ms / step <= 12), 100)
        for ms in range(0, int(length_ms) + 1, step):
            x = self._x(recording.start_s + ms / 1e3)
            self._parts.append(f'<line class="rule" x1="{x}" y1="{_TOP}" x2="{x}" y2="{bottom}"/>')
            self._parts.append(f'<text class="small" x="{x}" y="{bottom + 15}" text-anchor="middle">{ms} ms</text>')

    def _lane(self, row: int, lane: Lane) -> None:
        middle = self._middle(row)
        top = middle - _BAR / 2
        for call in lane.calls:
            x, width = self._x(call.start_s), max(1.2, self._x(call.end_s) - self._x(call.start_s))
            width = round(width, 1)
            if call.waits:
                self._parts.append(f'<rect class="waitbg" x="{x}" y="{top}" width="{width}" height="{_BAR}"/>')
                self._parts.append(f'<rect fill="url(#h)" x="{x}" y="{top}" width="{width}" height="{_BAR}"/>')
                if call.kind_of_data == "read" and call.outcome.isdigit():
                    # The second phase, copying, is the end of the same call.
                    self._parts.append(
                        f'<rect class="read" x="{x + width - 3:.1f}" y="{top}" width="3" height="{_BAR}"/>'
                    )
                words = _WAITS[call.name]
                if len(words) * _CHARACTER < width:
                    self._parts.append(
                        f'<text x="{x + width / 2:.1f}" y="{middle + 4}" text-anchor="middle">{words}</text>'
                    )
            else:
                self._parts.append(
                    f'<rect class="{call.kind}" x="{x}" y="{top}" width="{width}" height="{_BAR}">'
                    f"<title>{escape(call.name)} = {escape(call.outcome)}</title></rect>"
                )
        for text, at_s in _notes(lane):
            self._parts.append(f'<text class="small" x="{self._x(at_s)}" y="{top + _BAR + 12}">{escape(text)}</text>')

    def _request(self, request: Request) -> None:
        """The client's wait as an open bar, and the two crossings: to whoever noticed, and from whoever answered."""
        row = self._clients.index(request.client)
        middle = self._middle(row)
        x, end = self._x(request.sent_s), self._x(request.answered_s)
        self._parts.append(
            f'<rect class="asks" x="{x}" y="{middle - 7}" width="{max(2, round(end - x, 1))}" height="14"/>'
            f'<text class="small" x="{x}" y="{middle - 11}">asks</text>'
        )
        noticed, answered = self._crossings(request)
        if noticed is not None:
            self._cross(x, middle + 7, self._x(noticed[1].end_s), self._middle(noticed[0]) - _BAR / 2)
        if answered is not None:
            self._cross(self._x(answered[1].start_s), self._middle(answered[0]) - _BAR / 2, end, middle + 7)

    def _crossings(self, request: Request) -> tuple[tuple[int, Call] | None, tuple[int, Call] | None]:
        """The call that noticed the request and the one that answered it, each with its row.

        Those that name the client's port, where there are such; with io_uring no call does, and it is the wait that
        ended after the request was sent, and the next time that the ring was entered.
        """
        port = next(port for port, client in self._recording.clients.items() if client == request.client)
        calls = [
            (row, call)
            for row, lane in enumerate(self._recording.lanes, start=len(self._clients))
            for call in lane.calls
            if request.sent_s <= call.end_s and call.start_s <= request.answered_s
        ]
        mine = [(row, call) for row, call in calls if call.target.endswith(f":{port}]")]
        # strace takes its time a little before the client takes its own.
        rings = [
            (row, call)
            for row, lane in enumerate(self._recording.lanes, start=len(self._clients))
            for call in lane.calls
            if call.name == "io_uring_enter" and call.end_s >= request.sent_s - _CLOCKS_APART_S
        ]
        noticed = next((each for each in mine if each[1].name in _READS and each[1].outcome.isdigit()), None)
        answered = next((each for each in mine if each[1].name in _SENDS), None)
        if noticed is None and rings:
            noticed, answered = rings[0], rings[min(1, len(rings) - 1)]
        return noticed, answered

    def _cross(self, x1: float, y1: float, x2: float, y2: float) -> None:
        down = 1 if y2 > y1 else -1
        self._parts.append(
            f'<path class="flow" d="M{x1} {y1}L{x2} {y2}"/><path class="head" d="M{x2} {y2}l-3 {-6 * down}l6 0z"/>'
        )


def _notes(lane: Lane) -> list[tuple[str, float]]:
    """Runs of EAGAIN too dense to count by eye, as one note under each: ``412 × EAGAIN``."""
    notes: list[tuple[str, float]] = []
    run: list[Call] = []
    for call in (*lane.calls, None):
        if call is not None and (call.kind == "again" or (run and call.kind == "other")):
            run.append(call)
            continue
        again = [each for each in run if each.kind == "again"]
        if len(again) > 3:
            notes.append((f"{len(again)} × {again[0].name} = EAGAIN", again[0].start_s))
        run = []
    return notes


def _in_words(lane: Lane) -> str:
    waited = sorted({_WAITS[call.name] for call in lane.calls if call.waits})
    again = sum(call.kind == "again" for call in lane.calls)
    words = [*waited, *([f"is told EAGAIN {again} times"] if again else [])]
    return ", ".join(words) or "never waits"
