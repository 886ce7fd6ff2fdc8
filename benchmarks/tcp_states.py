"""Draw the life of a TCP connection as the code has it: the states of docs/tcp.md, and every way between them.

    python benchmarks/tcp_states.py --out docs/figures    # tcp-states.svg

This file knows where each state stands in the picture; the arrows and their labels come from
``underlay.stack.TRANSITIONS``, and the two ways that are drawn thick from the connection which ``tcp_life.py`` plays.
CLOSED stands twice, as in RFC 9293's figure 5: where a life begins, and where it ends. A way that leads to CLOSED from
all states of a connection (a reset, an abort, giving up) is a mark in their boxes instead of an arrow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from html import escape
from itertools import pairwise
from math import hypot
from pathlib import Path
from typing import Final, NamedTuple

_ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from benchmarks.tcp_life import CLIENT, SERVER, Event, Life  # noqa: E402

from underlay.stack import TRANSITIONS, State, TcpEvent  # noqa: E402

_WIDTH: Final = 790
_HEIGHT: Final = 770
_BOX: Final = (146, 36)
_APART: Final = 11  # two ways between the same two states, each to its own side
_COMMON: Final = 5  # an event that leads to CLOSED from as many states as this is a mark

_LEFT, _MIDDLE, _RIGHT = 100, 400, 700
_PLACES: Final = {
    State.CLOSED: (_MIDDLE, 84),
    State.LISTEN: (_LEFT, 176),
    State.SYN_SENT: (_RIGHT, 176),
    State.SYN_RECEIVED: (_LEFT, 292),
    State.ESTABLISHED: (_MIDDLE, 372),
    State.FIN_WAIT_1: (_LEFT, 468),
    State.CLOSE_WAIT: (_RIGHT, 468),
    State.FIN_WAIT_2: (_LEFT, 580),
    State.CLOSING: (_MIDDLE, 580),
    State.LAST_ACK: (_RIGHT, 580),
    State.TIME_WAIT: (_MIDDLE, 680),
}
_END: Final = (_RIGHT, 680)  # CLOSED once more

_STYLE: Final = """
text{font:11px system-ui,sans-serif;fill:var(--ink)}
.title{font-size:14px;font-weight:600}.state{font-size:12px;font-weight:700;text-anchor:middle}
.label{text-anchor:middle;paint-order:stroke;stroke:var(--card);stroke-width:9px;stroke-linejoin:round}
.small{font-size:10.5px;fill:var(--soft)}
svg{--ink:#1b1f24;--soft:#5b6470;--rule:#8b949e;--card:#fff;--box:#f3f5f8;--client:#1f6feb;--server:#1a7f37;
--mark:#cf222e}
@media(prefers-color-scheme:dark){svg{--ink:#e6edf3;--soft:#9aa4af;--rule:#6e7681;--card:#12161c;--box:#1c2129;
--client:#58a6ff;--server:#3fb950;--mark:#ff7b72}}
.card{fill:var(--card)}.box{fill:var(--box);stroke:var(--rule)}.mark{fill:var(--mark);font-weight:700}
.way{stroke:var(--rule);stroke-width:1.3}.head-way{fill:var(--rule)}
.client{stroke:var(--client);stroke-width:2.6}.head-client{fill:var(--client)}
.server{stroke:var(--server);stroke-width:2.6;stroke-dasharray:7 3}.head-server{fill:var(--server)}
"""


class Way(NamedTuple):
    """One entry of the table."""

    state: State
    event: TcpEvent
    to: State


def ways() -> tuple[list[Way], list[TcpEvent]]:
    """The ways that are drawn as arrows, and the events that are drawn as marks."""
    every = [Way(state, event, to) for (state, event), to in TRANSITIONS.items()]
    common = [
        event
        for event in TcpEvent
        if {way.to for way in every if way.event is event} == {State.CLOSED}
        and sum(way.event is event for way in every) >= _COMMON
    ]
    return [way for way in every if way.event not in common], common


def taken(events: Iterable[Event], side: int) -> set[tuple[State, State]]:
    """From which state to which the client or the server of a played connection went."""
    states = [State.CLOSED, *(State[each.text] for each in events if each.kind == "state" and each.side == side)]
    return set(pairwise(states))


def draw() -> str:
    """The diagram as a self-contained SVG document."""
    arrows, common = ways()
    played = Life().play()
    thick = {CLIENT: taken(played, CLIENT), SERVER: taken(played, SERVER)}
    parts: list[str] = []
    labels: list[str] = []
    for way in arrows:
        kind = "way"
        for side, name in ((CLIENT, "client"), (SERVER, "server")):
            if (way.state, way.to) in thick[side]:
                kind = name
        line, label = _arrow(way, kind, both=any(other.state is way.to and other.to is way.state for other in arrows))
        parts.append(line)
        labels.append(label)
    for state, place in (*_PLACES.items(), (State.CLOSED, _END)):
        parts.append(_box(state, place, [event for event in common if (state, event) in TRANSITIONS]))
    said = "; ".join(f"{way.state.name}, {way.event.value}: {way.to.name}" for way in arrows)
    title = "The states of a TCP connection"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" role="img" aria-labelledby="t d"><title id="t">{title}</title>'
        f'<desc id="d">{escape(said)}</desc><style>{_STYLE}</style>'
        f'<rect class="card" width="{_WIDTH}" height="{_HEIGHT}"/>\n'
        + "\n".join([*_legend(title, common), *parts, *labels])
        + "\n</svg>\n"
    )


def _legend(title: str, common: list[TcpEvent]) -> list[str]:
    names = ", ".join(event.value for event in common)
    return [
        f'<text class="title" x="8" y="22">{title}</text>',
        '<line class="client" x1="8" y1="40" x2="40" y2="40"/>'
        '<text class="small" x="47" y="44">the client of this page</text>',
        '<line class="server" x1="190" y1="40" x2="222" y2="40"/><text class="small" x="229" y="44">its server</text>',
        '<text class="mark" x="16" y="752">✕</text>'
        f'<text class="small" x="32" y="752">{escape(names)}: from each state with this mark to CLOSED at once</text>',
    ]


def _box(state: State, place: tuple[int, int], marks: list[TcpEvent]) -> str:
    x, y = place
    width, height = _BOX
    parts = [
        f'<rect class="box" x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" height="{height}" rx="6"/>',
        f'<text class="state" x="{x}" y="{y + 4}">{state.name}</text>',
    ]
    if marks:
        ends = "".join(f'<g class="ends" data-way="{state.name} {event.name} CLOSED"/>' for event in marks)
        words = ", ".join(event.value for event in marks)
        parts.append(
            f'<text class="mark" x="{x + width / 2 - 17:g}" y="{y + 4}">✕<title>{escape(words)}: CLOSED</title></text>'
            + ends
        )
    return "".join(parts)


def _arrow(way: Way, kind: str, *, both: bool) -> tuple[str, str]:
    """An arrow, and its label in the middle; `both` says that there is one the other way round."""
    x1, y1 = _PLACES[way.state]
    x2, y2 = _PLACES[way.to]
    if way.to is State.CLOSED and hypot(_END[0] - x1, _END[1] - y1) < hypot(x2 - x1, y2 - y1):
        x2, y2 = _END
    length = hypot(x2 - x1, y2 - y1)
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    aside = _APART if both else 0
    ax, ay = -dy * aside, dx * aside
    begin = _way_out(dx, dy, ax, ay)
    end = length - _way_out(-dx, -dy, ax, ay)
    bx, by = x1 + ax + dx * begin, y1 + ay + dy * begin
    ex, ey = x1 + ax + dx * end, y1 + ay + dy * end
    tx, ty = ex - dx * 10, ey - dy * 10
    name = f"{way.state.name} {way.event.name} {way.to.name}"
    line = (
        f'<g data-way="{name}"><line class="{kind}" x1="{bx:.1f}" y1="{by:.1f}" x2="{tx:.1f}" y2="{ty:.1f}"/>'
        f'<path class="head-{kind}" d="M{ex:.1f} {ey:.1f}L{tx - dy * 5:.1f} {ty + dx * 5:.1f}'
        f'L{tx + dy * 5:.1f} {ty - dx * 5:.1f}z"/></g>'
    )
    # Of two ways side by side each has its label on its own side, and a little nearer to where it begins.
    share = 0.42 if both else 0.5
    lx, ly = bx + (ex - bx) * share + 2.8 * ax, by + (ey - by) * share + 1.75 * ay
    anchor = ""
    if both and abs(dx) < 0.1:
        anchor = f' style="text-anchor:{"start" if ax > 0 else "end"}"'
        lx -= ax * 2.0
    return line, f'<text class="label" x="{lx:.1f}" y="{ly + 4:.1f}"{anchor}>{escape(way.event.value)}</text>'


def _way_out(dx: float, dy: float, ax: float, ay: float) -> float:
    """How far it is from beside a box's middle to its edge, in a direction of length 1."""
    width, height = _BOX
    reach = []
    for direction, start, half in ((dx, ax, width / 2), (dy, ay, height / 2)):
        if abs(direction) > 1e-9:
            reach.append((half - start if direction > 0 else half + start) / abs(direction))
    return min(reach)


def main() -> int:
    """Write the picture."""
    parser = argparse.ArgumentParser(description="draw TCP's states from the table that the code runs on")
    parser.add_argument("--out", type=Path, default=_ROOT / "docs/figures", help="where the SVG file goes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "tcp-states.svg"
    path.write_text(draw())
    print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
