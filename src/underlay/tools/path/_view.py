"""How a report looks: as lines of text of at most 80 columns, and as JSON.

Every line is made of parts with a style, so that a terminal colours what a pipe gets plain. Addresses and names are
never cut: one that is too long for its column stands on a line of its own. This file refuses to know terminals.
"""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import Final

from ...errors import plural
from ._model import Ending, Hop, Report, Verdict

__all__ = ["SCHEMA", "Line", "as_json", "fitting", "lines"]

SCHEMA: Final = "underlay.path/1"

Line = list[tuple[str, str]]
"""A line: texts, each with its style for rich, or an empty one."""

_WIDTH: Final = 80
_TIMES: Final = ("last", "avg", "best", "worst", "stdev", "jitter")
_TIME_WIDTH: Final = 7
_HEAD: Final = f"{'hop':>3} {'loss %':>6} {'sent':>5} {'got':>5}"
_WHO: Final = len(_HEAD) + _TIME_WIDTH * len(_TIMES) + 2
_INDENT: Final = " " * 4
# One answer a second to each host is what Linux gives (icmp(7), icmp_ratelimit; ip-sysctl.rst, icmp/ratelimit), and
# another program that asks, or answers of two kinds, share it.
_TOLD_APART_S: Final = 3.0
# Where fewer rows than these are left for the hops and the end, the heading makes room: an empty line, and a sentence.
_LEAST_BELOW: Final = 4

_COLOURS: Final = {
    Verdict.LOSS: "bold red",
    Verdict.RATE_LIMITED: "yellow",
    Verdict.SILENT: "bright_black",
    Verdict.NO_ANSWER: "bright_black",
    Verdict.OK: "",
}


def lines(report: Report, *, interrupted: bool = False) -> list[Line]:
    """Give the lines of a report: what was asked, a row for each hop, and what there is to say."""
    how = report.protocol.upper() + (f" port {report.port}" if report.port is not None else " echo")
    flows, rounds = plural(len(report.flow_ids), "flow"), plural(report.rounds, "round")
    title = f"path to {report.host}" + (f" ({report.address})" if report.address != report.host else "")
    found: list[Line] = [[(title, "bold")]]
    found += _sentence(f"{how} from {report.source}, {flows}, {rounds}, {report.interval_s:g} s apart")
    times = "".join(f"{name:>{_TIME_WIDTH}}" for name in _TIMES)
    found.append([(f"{_HEAD}{times}  who", "bold")])
    found.append([(f"{'':{len(_HEAD)}}" + f"{'ms':>{_TIME_WIDTH}}" * len(_TIMES), "bold")])
    rows = list(report.hops)
    tail = _silent_tail(rows)
    for hop in rows[: len(rows) - len(tail)]:
        found += _rows(hop, many_flows=len(report.flow_ids) > 1)
    if tail:
        first, last = tail[0].ttl, tail[-1].ttl
        sent = sum(hop.sent for hop in tail)
        span = f"hop {first}" if first == last else f"hops {first} to {last}"
        found.append([(f"{_INDENT}{span}: no answer to {plural(sent, 'probe')}", "bright_black")])
    found.append([])
    found += _sentence(
        report.ending_says + ".", "" if report.reached or report.ending is Ending.UNKNOWN else "bold red"
    )
    found += _remarks(report)
    if interrupted:
        found += _sentence("Interrupted: this is what was measured so far.")
    return found


def fitting(found: list[Line], columns: int, rows: int) -> list[Line]:
    """Leave lines out where all take more than so many rows: what stands above the hops stays, and the end.

    >>> ["".join(text for text, _ in line) for line in fitting([[(name, "")] for name in "abcdefgh"], 80, 6)]
    ['…', 'd', 'e', 'f', 'g', 'h']
    """
    if sum(_height(line, columns) for line in found) <= rows:
        return found
    above = next((at + 2 for at, line in enumerate(found) if any(part.startswith(_HEAD) for part, _ in line)), 0)
    left = rows - 1 - sum(_height(line, columns) for line in found[:above])
    if left < _LEAST_BELOW:
        above, left = 0, rows - 1
    below = len(found)
    while below > above and (left := left - _height(found[below - 1], columns)) >= 0:
        below -= 1
    return [*found[:above], [("…", "")], *found[below:]]


def _height(line: Line, columns: int) -> int:
    return max(1, -(-sum(len(part) for part, _ in line) // max(columns, 1)))


def _silent_tail(rows: list[Hop]) -> list[Hop]:
    """The rows at the end of which none has an answer, not even a late one: a line is enough for two and more."""
    count = 0
    while count < len(rows) and rows[-1 - count].verdict is Verdict.NO_ANSWER and rows[-1 - count].address is None:
        count += 1
    return rows[len(rows) - count :]


def _rows(hop: Hop, *, many_flows: bool) -> list[Line]:
    colour = _COLOURS[hop.verdict]
    loss = "?" if hop.path_loss is None else f"{hop.path_loss * 100:.1f}"
    head = f"{hop.ttl:>3} {loss:>6} {hop.sent:>5} {hop.answered:>5}"
    values = (hop.last_us, hop.average_us, hop.best_us, hop.worst_us, hop.stdev_us, hop.jitter_us)
    times = "".join(f"{milliseconds(value):>{_TIME_WIDTH}}" for value in values)
    who = hop.address or "no answer"
    if hop.name and hop.name != hop.address:
        who = f"{hop.name} ({hop.address})"
    row: Line = [(head, colour), (times, ""), ("  ", ""), (who, colour)]
    found = [row]
    if _WHO + len(who) > _WIDTH:
        found = [row[:2], [(" " * 4, ""), (who, colour)]]
    says = []
    if many_flows:
        says.append(f"flow{'s' * (len(hop.flows) > 1)} {_spans(hop.flows)}")
    if hop.verdict not in (Verdict.OK, Verdict.LOSS) and (hop.address is None or hop.answered):
        says.append(f"{hop.verdict.value}: {hop.evidence}" if hop.evidence else hop.verdict.value)
    if hop.note:
        says.append(hop.note)
    if hop.mpls:
        says.append("MPLS " + " ".join(map(str, hop.mpls)))
    if hop.late:
        says.append(f"{hop.late} late")
    if hop.duplicates:
        says.append(f"{hop.duplicates} duplicate")
    if hop.others:
        says.append("also " + " ".join(hop.others) + (" and more" if hop.others_left_out else ""))
    for part in textwrap.wrap("; ".join(says), _WIDTH - len(_INDENT)):
        found.append([(_INDENT + part, colour)])
    return found


def _remarks(report: Report) -> list[Line]:
    found: list[Line] = []
    worst = next((hop for hop in report.hops if hop.verdict is Verdict.LOSS), None)
    # Where nothing goes on, what is missing are answers that say so: nothing is lost that was to arrive.
    is_dead_end = report.ending is Ending.UNREACHABLE and worst is report.hops[-1]
    if worst is not None and worst.path_loss and not is_dead_end:
        found += _sentence(
            f"Packets are lost from hop {worst.ttl} on: {worst.path_loss * 100:.1f} % there, on the way or back."
        )
        if (worst.ttl == 1 or report.ending is Ending.UNREACHABLE) and report.interval_s < _TOLD_APART_S:
            found += _sentence("Or hops limit their answers: a longer --interval would tell, of 3 s for instance.")
    if late := sum(hop.late for hop in report.hops):
        them = "it" if late == 1 else "them"
        found += _sentence(
            f"{plural(late, 'answer')} came after the time-out of {report.timeout_s:g} s;"
            f" a longer --timeout would count {them}."
        )
    if report.unassigned:
        found += _sentence(f"{report.unassigned} answers quote too little to say which probe they are for.")
    if report.strays:
        found += _sentence(f"{report.strays} answers belong to none of these probes; they don't count.")
    if report.names_left_out:
        found += _sentence("Not every address was asked for its name: there are too many.")
    for reason, count in report.send_errors.items():
        found += _sentence(f"{count} probes were not sent: {reason}.")
    return found


def _sentence(text: str, style: str = "") -> list[Line]:
    return [[(part, style)] for part in textwrap.wrap(text, _WIDTH)]


def milliseconds(value_us: float | None) -> str:
    """Write a time in milliseconds with three digits or more, in six columns up to 100 seconds.

    >>> milliseconds(52.4), milliseconds(12345.6), milliseconds(1234567.8), milliseconds(None)
    ('0.052', '12.3', '1235', '-')
    """
    if value_us is None:
        return "-"
    value = value_us / 1000
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 1000 else 0}f}"


def _spans(numbers: tuple[int, ...]) -> str:
    """Write 1, 2, 3, 7 as 1-3 7."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return " ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans)


def as_json(report: Report, *, interrupted: bool = False) -> dict[str, object]:
    """Give the report as the object that docs/path.md describes."""
    whole = asdict(report)
    found = whole.pop("hops")
    for hop, row in zip(report.hops, found, strict=True):
        row["loss"] = hop.loss
        row["verdict"] = hop.verdict.value
    whole["ending"] = report.ending.value
    return {"schema": SCHEMA, **whole, "reached": report.reached, "interrupted": interrupted, "hops": found}
