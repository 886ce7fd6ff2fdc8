"""Knows how to draw figures as SVG: bars with their spread, and distributions on a logarithmic axis.

It computes text from numbers: no file, no model, no measurement is known here. Colours are CSS variables
(`--ink`, `--muted`, `--grid`, `--accent`, `--reference`), which the page around the picture defines for light and
dark; sizes are in the pixels of a picture 720 wide, which shrinks with the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 720
LABEL_WIDTH = 112  # room for `nonblocking` in 13 px
VALUE_WIDTH = 64  # room for a value behind the longest bar
BAR_PITCH = 26
BAR_HEIGHT = 16
RIDGE_PITCH = 44
AXIS_HEIGHT = 44
TOP = 6
DASHES = ("none", "5 2", "1.5 2")  # of the first, second and third mark

_LEFT = LABEL_WIDTH
_SPAN = WIDTH - LABEL_WIDTH - VALUE_WIDTH


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its value, the least and greatest that were seen, whether it's a reference."""

    label: str
    value: float
    least: float
    greatest: float
    reference: bool = False


@dataclass(frozen=True)
class Ridge:
    """One distribution: buckets as (lower edge, upper edge, count), and marks as (name, value)."""

    label: str
    buckets: Sequence[tuple[float, float, int]]
    marks: Sequence[tuple[str, float]]
    reference: bool = False


def draw_bars(bars: Sequence[Bar], axis: str, digits: int = 1) -> str:
    """Draw horizontal bars from zero with a whisker over the range; `axis` names quantity and unit.

    >>> draw_bars([Bar("epoll", 6.3, 6.1, 6.6)], "CPU µs per request").startswith("<svg")
    True
    """
    if not bars:
        return ""
    ticks = linear_ticks(max(bar.greatest for bar in bars))
    scale = _SPAN / ticks[-1]
    height = TOP + BAR_PITCH * len(bars)
    parts = [_open(height + AXIS_HEIGHT, axis)]
    for tick in ticks:
        parts.append(_tick(_LEFT + tick * scale, height, number(tick)))
    for row, bar in enumerate(bars):
        y = TOP + row * BAR_PITCH
        middle = y + BAR_HEIGHT / 2
        kind = "reference" if bar.reference else "ours"
        least, greatest = _LEFT + bar.least * scale, _LEFT + bar.greatest * scale
        text = f"{bar.value:,.{digits}f}"
        parts.append(
            f"<g><title>{escape(bar.label)}: {text} "
            f"(from {bar.least:,.{digits}f} to {bar.greatest:,.{digits}f})</title>"
            f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{bar.value * scale:.1f}" '
            f'height="{BAR_HEIGHT}" rx="2"/>'
            f'<path class="whisker" d="M{least:.1f} {middle}H{greatest:.1f}'
            f'M{least:.1f} {middle - 4}v8M{greatest:.1f} {middle - 4}v8"/>'
            f'<text class="value" x="{max(greatest, _LEFT) + 6:.1f}" y="{middle + 4}">{text}</text></g>'
        )
        parts.append(_label(bar.label, middle + 4))
    parts.append(_axis(height, axis))
    return "".join(parts) + "</svg>"


def draw_ridges(ridges: Sequence[Ridge], axis: str) -> str:
    """Draw distributions one below the other on one logarithmic axis, each scaled to its own height.

    The area shows where the values lie, not how many there are; marks are thin lines, told apart by
    their dashes, which the legend names.
    """
    filled = [ridge for ridge in ridges if ridge.buckets]
    if not filled:
        return ""
    low = min(ridge.buckets[0][0] for ridge in filled)
    high = max(ridge.buckets[-1][1] for ridge in filled)
    ticks = log_ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    scale = (WIDTH - _LEFT - 20) / (math.log10(high) - math.log10(low))

    def x(value: float) -> float:
        return _LEFT + (math.log10(max(value, low)) - math.log10(low)) * scale

    top = TOP + 18  # the legend of the marks stands above the first ridge
    height = top + RIDGE_PITCH * len(filled)
    parts = [_open(height + AXIS_HEIGHT, axis)]
    for tick in ticks:
        parts.append(_tick(x(tick), height, number(tick)))
    for order, (name, _) in enumerate(filled[0].marks):
        at_x = WIDTH - 66 * (len(filled[0].marks) - order)
        parts.append(_mark(at_x, TOP + 12, order, height=14))
        parts.append(f'<text class="tick" x="{at_x + 6}" y="{TOP + 9}">{escape(name)}</text>')
    for row, ridge in enumerate(filled):
        base = top + (row + 1) * RIDGE_PITCH - 8
        peak = max(count for _, _, count in ridge.buckets)
        path = [f"M{x(ridge.buckets[0][0]):.1f} {base}"]
        at = ridge.buckets[0][0]
        for left, right, count in ridge.buckets:
            if left > at * 1.001:  # nothing was seen between this bucket and the one before
                path.append(f"V{base}H{x(left):.1f}")
            path.append(f"V{base - count / peak * (RIDGE_PITCH - 14):.1f}H{x(right):.1f}")
            at = right
        path.append(f"V{base}Z")
        kind = "reference" if ridge.reference else "ours"
        marks = ", ".join(f"{name} {number(value)}" for name, value in ridge.marks)
        parts.append(
            f'<g><title>{escape(ridge.label)}: {escape(marks)}</title><path class="{kind} area" d="{"".join(path)}"/>'
        )
        for order, (_, value) in enumerate(ridge.marks):
            parts.append(_mark(x(value), base + 3, order))
        parts.append("</g>" + _label(ridge.label, base))
    parts.append(_axis(height, axis))
    return "".join(parts) + "</svg>"


def linear_ticks(greatest: float) -> list[float]:
    """Give round numbers from 0 to at least `greatest`, four to seven of them.

    >>> linear_ticks(23.0)
    [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]
    """
    if not greatest > 0:
        return [0.0, 1.0]
    rough = greatest / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    return [step * i for i in range(math.ceil(greatest / step - 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Give 1, 2 and 5 times the powers of ten that lie within the range; only the powers if it's wide.

    >>> log_ticks(8, 130)
    [10.0, 20.0, 50.0, 100.0]
    """
    factors = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside or [low]


def number(value: float) -> str:
    """Write a number short enough for an axis.

    >>> number(150000.0), number(2500.0), number(0.5)
    ('150 k', '2,500', '0.5')
    """
    if abs(value) >= 10_000:
        return f"{value / 1000:,.3g} k" if abs(value) < 1e6 else f"{value / 1e6:,.3g} M"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _open(height: float, name: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(name)}">'
    )


def _tick(x: float, height: float, text: str) -> str:
    return (
        f'<path class="grid" d="M{x:.1f} {TOP - 4}V{height}"/>'
        f'<text class="tick" x="{x:.1f}" y="{height + 16}" text-anchor="middle">{text}</text>'
    )


def _mark(x: float, y: float, order: int, height: float = RIDGE_PITCH - 14) -> str:
    dashes = DASHES[order % len(DASHES)]
    return f'<path class="mark" stroke-dasharray="{dashes}" d="M{x:.1f} {y:.1f}v-{height}"/>'


def _label(text: str, y: float) -> str:
    return f'<text class="label" x="{_LEFT - 8}" y="{y}" text-anchor="end">{escape(text)}</text>'


def _axis(height: float, text: str) -> str:
    middle = _LEFT + _SPAN / 2
    return f'<text class="axis" x="{middle}" y="{height + 36}" text-anchor="middle">{escape(text)}</text>'
