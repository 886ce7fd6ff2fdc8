"""Knows how a comparison looks in a terminal of 80 columns: a table, bars, and what there is to say about them.

It turns a `Report` into lines of text with styles; it does not measure and does not write files. In a pipe the
lines are plain; where the encoding isn't UTF-8, bars are made of `#`.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from ._compare_report import OTHERS, Outcome, Report, Spread
from ._sparkline import is_utf8

WIDTH = 80
# The loops that people have already, to compare with.
REFERENCES = ("asyncio", "uvloop")

NAME_WIDTH = 11  # `nonblocking`
SPREAD_WIDTH = 5  # a space and `115%`

# For a terminal that can't show them (LANG=C).
_ASCII = str.maketrans({"█": "#", "▒": ":", "µ": "u", "±": "~", "—": "-", "–": "-", "’": "'", "×": "x"})


@dataclass(frozen=True)
class Column:
    """One column: two lines of heading, its width, the figure's name."""

    top: str
    bottom: str
    width: int
    figure: str


def print_report(report: Report, console: Console) -> None:
    """Print the table, the bars and the remarks."""
    for line in [*table_lines(report), *bar_lines(report), *remark_lines(report)]:
        if not is_utf8(console.encoding):
            line = Text(line.plain.translate(_ASCII))
        console.print(line, soft_wrap=True, highlight=False)


def table_lines(report: Report) -> list[Text]:
    """Give a row for each model: its figures, or the reason why it has none."""
    in_ms = _latency_in_ms(report)
    columns = [
        Column("requests", "per s", 8, "requests_per_s"),
        Column("CPU µs", "/req", 6, "cpu_us_per_request"),
        Column("p50", "ms" if in_ms else "µs", 5, "latency_p50_us"),
        Column("p99", "ms" if in_ms else "µs", 5, "latency_p99_us"),
        Column("p99.9", "ms" if in_ms else "µs", 5, "latency_p99_9_us"),
        Column("calls", "/req", 5, "syscalls_per_request"),
        Column("ctxsw", "/req", 5, "context_switches_per_request"),
        Column("KiB", "/conn", 5, "memory_per_connection_bytes"),
    ]
    heads = [" " * NAME_WIDTH, f"{'model':<{NAME_WIDTH}}"]
    for column in columns:
        wide = column.figure in _WITH_SPREAD
        heads[0] += f" {column.top:>{column.width}}" + " " * (SPREAD_WIDTH * wide)
        heads[1] += f" {column.bottom:>{column.width}}" + f"{'±':>{SPREAD_WIDTH}}" * wide
    heads[1] += " err"
    lines = [Text(head, style="bold") for head in heads]
    best = _best(report)
    for outcome in report.outcomes:
        if outcome.samples:
            text = f"{outcome.model:<{NAME_WIDTH}}"
            for column in columns:
                text += " " + _cell(outcome.figure(column.figure), column, in_ms)
            errors = sum(outcome.errors.values())
            text += f" {errors:>3}" if errors < 1000 else " 1k+"
            lines.append(Text(text, style="bold green" if outcome is best else ""))
        if outcome.failure:
            label = "" if outcome.samples else outcome.model
            indent = " " * (NAME_WIDTH + 1)
            wrapped = textwrap.wrap(
                f"— {outcome.failure}", WIDTH, initial_indent=indent, subsequent_indent=indent + "  "
            )
            wrapped[0] = f"{label:<{NAME_WIDTH}}" + wrapped[0][NAME_WIDTH:]
            lines += [Text(part, style="red") for part in wrapped]
    return lines


_WITH_SPREAD = ("requests_per_s", "cpu_us_per_request")


def _cell(spread: Spread | None, column: Column, in_ms: bool) -> str:
    if spread is None:
        return f"{'—':>{column.width}}"
    scale = {"latency": 1000 if in_ms else 1, "memory_": 1024}.get(column.figure[:7], 1)
    whole = column.figure == "requests_per_s" or (column.figure.startswith("latency") and not in_ms)
    decimals = 0 if whole else 2
    cell = f"{fit(spread.median / scale, column.width, decimals):>{column.width}}"
    if column.figure not in _WITH_SPREAD:
        return cell
    # One round has no spread to tell.
    around = f"{min(spread.relative, 9.99):.0%}" if spread.rounds > 1 else "–"
    return cell + f"{around:>{SPREAD_WIDTH}}"


def fit(value: float, width: int, decimals: int) -> str:
    """Write a number in at most `width` columns: fewer decimals first, then thousands and millions.

    >>> fit(3.14159, 5, 2), fit(1234.5, 5, 2), fit(1234567.0, 5, 0)
    ('3.14', '1,234', '1.23M')
    """
    for power, unit in enumerate(("", "k", "M", "G", "T")):
        for places in range(decimals if not unit else 2, -1, -1):
            text = f"{value / 1000**power:,.{places}f}{unit}"
            if len(text) <= width:
                return text
    return "∞"


def bar_lines(report: Report) -> list[Text]:
    """Give a bar of CPU µs per request for each model: full up to the least round, light up to the greatest."""
    spreads = [
        (outcome, spread) for outcome in report.measured if (spread := outcome.figure("cpu_us_per_request")) is not None
    ]
    if not spreads:
        return []
    longest = max(spread.greatest for _, spread in spreads)
    room = WIDTH - NAME_WIDTH - 9
    lines = [Text(), Text("CPU µs per request: less is better; ▒ is the range over the rounds", style="bold")]
    best = _best(report)
    for outcome, spread in spreads:
        full = round(spread.least / longest * room)
        light = round(spread.greatest / longest * room) - full
        line = Text(f"{outcome.model:<{NAME_WIDTH}} ")
        colour = "green" if outcome is best else "bright_black" if outcome.model in REFERENCES else "blue"
        line.append("█" * full + "▒" * light, style=colour)
        line.append(" " + fit(spread.median, 7, 2))
        lines.append(line)
    return lines


def remark_lines(report: Report) -> list[Text]:
    """Give the sentences below the pictures: who did best, and what to beware of."""
    remarks: list[str] = []
    best = _best(report)
    if best is not None and len(report.measured) > 1:
        remarks.append(_verdict(report, best))
    for outcome in report.outcomes:
        for reason, count in outcome.errors.items():
            remarks.append(f"{outcome.model}: {count:,} errors: {reason}.")
    bound = [outcome.model for outcome in report.measured if outcome.generator_bound]
    if bound:
        remarks.append(
            f"The load generator was the bottleneck for {', '.join(bound)}: their requests/s are a lower "
            "bound; their CPU per request holds."
        )
    if report.others_busy > OTHERS:
        remarks.append(
            f"Other programs took {report.others_busy:.1f} of the {report.machine['cores']} cores "
            "meanwhile: requests/s and latencies are theirs as well; CPU per request suffers least."
        )
    remarks += report.notes
    if report.interrupted:
        remarks.append("Interrupted: this is what was measured so far.")
    lines = [Text()]
    for remark in remarks:
        lines += [Text(part) for part in textwrap.wrap(remark, WIDTH)]
    machine = report.machine
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['kernel']}, {machine['python']}"
    lines += [Text(part, style="dim") for part in textwrap.wrap(where, WIDTH)]
    return lines


def _verdict(report: Report, best: Outcome) -> str:
    mine = best.figure("cpu_us_per_request")
    assert mine is not None
    text = f"{best.model} used the least CPU: {mine.median:.2f} µs per request"
    for name in ("uvloop", "asyncio"):
        for outcome in report.measured:
            other = outcome.figure("cpu_us_per_request")
            if outcome.model == name and outcome is not best and other is not None:
                text += f", {mine.median / other.median:.2f} × {name}’s"
    return text + "."


def _best(report: Report) -> Outcome | None:
    """Give the model with the least CPU time per request among those that failed no request."""
    able = [outcome for outcome in report.measured if not outcome.failure and not outcome.errors]
    return min(able, key=_cpu_us, default=None)


def _cpu_us(outcome: Outcome) -> float:
    spread = outcome.figure("cpu_us_per_request")
    return spread.median if spread else float("inf")


def _latency_in_ms(report: Report) -> bool:
    """Choose ms where the models' usual latency is a millisecond or more."""
    medians = [spread.median for o in report.measured if (spread := o.figure("latency_p50_us"))]
    return bool(medians) and sorted(medians)[len(medians) // 2] >= 1000
