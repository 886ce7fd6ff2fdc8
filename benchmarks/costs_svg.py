"""Draw what units of concurrency cost: three panels of bars on a scale of powers of ten.

This file knows how it is drawn: each bar with its number, and what is quoted as a mark with its own. It does not know
where the figures come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final, TypeAlias

# By unit: the figures of the panels, and beside each what is quoted: a number, from one to another, or nothing.
Quoted: TypeAlias = float | tuple[float, float] | None
Bars: TypeAlias = Mapping[str, tuple[Sequence[float], Sequence[Quoted]]]

_WIDTH: Final = 960  # pixels; what a page of documentation shows without scrolling
_LEFT: Final = 120  # the units' names
_RIGHT: Final = 110  # room for a number behind the longest bar
_ROW: Final = 26
_BAR: Final = 14
_HEAD: Final = 48
_TOP: Final = 44
_PANELS: Final = (("To make one", "µs"), ("To switch to one", "µs"), ("Memory of one that waits", "KiB"))

_STYLE: Final = """
text{font:11px system-ui,sans-serif;fill:var(--ink)}
.title{font-size:14px;font-weight:600}.panel{font-weight:600}.small{font-size:10px;fill:var(--soft)}
svg{--ink:#1b1f24;--soft:#5b6470;--rule:#e3e7ec;--bar:#1f6feb;--mark:#c98a10;--card:#fff}
@media(prefers-color-scheme:dark){svg{--ink:#e6edf3;--soft:#9aa4af;--rule:#2a3038;--bar:#58a6ff;--mark:#e3b341;
--card:#12161c}}
.card{fill:var(--card)}.rule{stroke:var(--rule)}.bar{fill:var(--bar)}
.mark{stroke:var(--mark);stroke-width:3;fill:var(--mark)}
"""


def number(value: float, unit: str) -> str:
    """A number as a label has it.

    >>> number(0.078, "µs"), number(3.25, "µs"), number(1234.5, "KiB")
    ('78 ns', '3.2 µs', '1,234 KiB')
    """
    if unit == "µs" and value < 1:
        return f"{value * 1000:.0f} ns"
    return f"{value:,.{0 if value >= 100 else 1}f} {unit}"


class _Panel:
    """One scale, from a power of ten below the least figure to one above the greatest."""

    def __init__(self, values: Sequence[float]) -> None:
        self.low = math.floor(math.log10(min(values)))
        self.high = max(self.low + 1, math.ceil(math.log10(max(values))))

    def x(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def picture(bars: Bars, where: str) -> str:
    """All panels as a self-contained SVG document; ``where`` says of which machine and day they are."""
    parts: list[str] = []
    words: list[str] = []
    y = _TOP
    for index, (title, unit) in enumerate(_PANELS):
        # What takes less than can be measured has no place on such a scale.
        figures = {name: max(values[index], 1e-3) for name, (values, _) in bars.items()}
        quoted = {name: said[index] for name, (_, said) in bars.items()}
        ends = [each for said in quoted.values() if said is not None for each in _both(said)]
        panel = _Panel([*figures.values(), *ends])
        bottom = y + _HEAD + _ROW * len(figures)
        parts.append(f'<text class="panel" x="8" y="{y + 14}">{title}</text>')
        for power in range(panel.low, panel.high + 1):
            x = panel.x(10.0**power)
            parts.append(f'<line class="rule" x1="{x}" y1="{y + 36}" x2="{x}" y2="{bottom}"/>')
            parts.append(
                f'<text class="small" x="{x}" y="{y + 32}" text-anchor="middle">{number(10.0**power, unit)}</text>'
            )
        for row, (name, value) in enumerate(figures.items()):
            top = y + _HEAD + _ROW * row
            label = number(value, unit)
            end = panel.x(value)
            parts.append(f'<text x="8" y="{top + 11}">{escape(name)}</text>')
            parts.append(
                f'<rect class="bar" x="{_LEFT}" y="{top}" width="{max(1, round(end - _LEFT, 1))}" height="{_BAR}"/>'
            )
            said = quoted[name]
            if said is not None:
                low, high = (panel.x(each) for each in _both(said))
                parts.append(
                    f'<line class="mark" x1="{low}" y1="{top + 18}" x2="{max(high, low + 4)}" y2="{top + 18}"/>'
                )
                end = max(end, high)
                label += f"; quoted: {'–'.join(number(each, unit) for each in dict.fromkeys(_both(said)))}"
            parts.append(f'<text class="small" x="{end + 6}" y="{top + 11}">{label}</text>')
            words.append(f"{title}, {name}: {label}")
        y = bottom + 14
    title = "What a unit of concurrency costs"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}" role="img" '
        f'aria-labelledby="t d"><title id="t">{title}</title><desc id="d">{escape("; ".join(words))}</desc>'
        f'<style>{_STYLE}</style><rect class="card" width="{_WIDTH}" height="{y}"/>'
        f'<text class="title" x="8" y="20">{title}</text>'
        f'<text class="small" x="8" y="36">each line on the scale is ten times the one before; below a bar: what is '
        f"quoted. {escape(where)}</text>{''.join(parts)}</svg>\n"
    )


def _both(said: float | tuple[float, float]) -> tuple[float, float]:
    return said if isinstance(said, tuple) else (said, said)
