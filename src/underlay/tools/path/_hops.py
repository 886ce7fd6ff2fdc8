"""The rows of a report: flows that found the same answerer at the same distance together, and each row judged.

This file knows the ledger and the rules of ``_verdict.py``. It refuses to know how probes are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ._ledger import Answer, Ledger, State, Times
from ._model import Hop, Verdict
from ._verdict import CHANCE, chance_of_fewer, even_beat, path_loss

__all__ = ["circle", "hops"]

_US = 1000.0


@dataclass(slots=True)
class _Row:
    """Flows that found the same answerer at one distance."""

    ttl: int
    address: str | None
    flows: list[int]
    settled: int
    answered: int
    path_loss: float | None = None
    verdict: Verdict = Verdict.OK
    evidence: str = ""


def hops(
    ledger: Ledger,
    last_ttl: Callable[[int], int],
    name: Callable[[str], str | None],
    dead_end: Callable[[int], Answer | None] = lambda _: None,
) -> tuple[Hop, ...]:
    """Give every row, judged.

    ``last_ttl`` tells how far a flow's path is shown, ``name`` what an address is called, and ``dead_end`` who says
    that a flow's path leads no farther: which may be known by an answer that was late, or to another probe.
    """
    last = {flow: last_ttl(flow) for flow in range(ledger.flows)}
    ends = {(flow, last[flow]): answer for flow in last if (answer := dead_end(flow)) is not None}
    rows = _rows(ledger, last, ends)
    limited: set[tuple[int, int]] = set()
    for row in reversed(rows):  # what is behind is judged first
        _judge(row, rows, ledger, limited)
    return tuple(_hop(row, ledger, name, ends) for row in rows)


def circle(addresses: Sequence[str | None]) -> tuple[str, ...]:
    """Give the routers among which a packet goes round, where the end of the way says so twice; else none.

    >>> circle(["a", "b", "c", "b", "c"]), circle(["a", "b", "c", "d"]), circle(["a", "b", "b"])
    (('b', 'c'), (), ())
    """
    for size in range(2, len(addresses) // 2 + 1):
        last = [address for address in addresses[-size:] if address is not None]
        if len(last) == size and list(addresses[-2 * size : -size]) == last:
            return tuple(last)
    return ()


def _rows(ledger: Ledger, last: dict[int, int], ends: Mapping[tuple[int, int], Answer]) -> list[_Row]:
    """Group the flows, at each distance, by who answers most of their probes there."""
    rows: list[_Row] = []
    for ttl in range(1, max(last.values(), default=0) + 1):
        groups: dict[str | None, _Row] = {}
        for flow, end in last.items():
            cell = ledger.cells(flow).get(ttl)
            if ttl > end or cell is None:
                continue
            address = cell.address
            if address is None and (said := ends.get((flow, ttl))) is not None:
                address = said.address
            row = groups.setdefault(address, _Row(ttl, address, [], 0, 0))
            row.flows.append(flow)
            row.settled += cell.settled
            row.answered += cell.answered
        rows += groups.values()
    return rows


def _judge(row: _Row, rows: list[_Row], ledger: Ledger, limited: set[tuple[int, int]]) -> None:
    """Give the row its verdict, its evidence and the loss that the packets themselves suffer."""
    behind = _behind(row, rows, ledger, limited)
    # A hop that few probes reached as yet says little about those that came before it.
    known = [each for each in behind if 2 * each[1] >= row.settled and each[2]]
    if not row.answered:
        if any(answered for _, _, answered in behind):
            row.verdict, row.evidence = Verdict.SILENT, "it answers none, and hops behind it answer"
            row.path_loss = path_loss(None, known)
        elif row.settled:
            row.verdict, row.path_loss = Verdict.NO_ANSWER, 1.0
        return
    if row.answered == row.settled:
        row.path_loss = 0.0
        return
    for ttl, settled, answered in known:
        if answered * row.settled > row.answered * settled and chance_of_fewer(
            row.answered, row.settled, answered, settled
        ) < CHANCE / len(known):
            row.evidence = (
                f"it answered {row.answered} of {row.settled} probes, and hop {ttl}, behind it, {answered} of {settled}"
            )
            _limited(row, path_loss(None, known), limited)
            return
    if not known and (beat := even_beat(_probes(row, ledger))) is not None:
        row.evidence = f"its answers come evenly, one every {beat:.2g} s, as a limit lets them through"
        _limited(row, None, limited)
        return
    row.path_loss = path_loss((row.ttl, row.settled, row.answered), known)
    if row.path_loss:
        row.verdict = Verdict.LOSS


def _limited(row: _Row, loss: float | None, limited: set[tuple[int, int]]) -> None:
    row.verdict, row.path_loss = Verdict.RATE_LIMITED, loss
    limited.update((flow, row.ttl) for flow in row.flows)


def _behind(row: _Row, rows: list[_Row], ledger: Ledger, limited: set[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """List (distance, settled, answered) of the same flows' probes to each hop behind, without limited ones."""
    found = []
    for ttl in sorted({each.ttl for each in rows if each.ttl > row.ttl}):
        cells = [
            cell
            for flow in row.flows
            if (flow, ttl) not in limited and (cell := ledger.cells(flow).get(ttl)) is not None
        ]
        shown = {flow for each in rows if each.ttl == ttl for flow in each.flows}
        # Only a hop that every one of these flows was sent to says something of all their probes.
        if len(cells) == len(row.flows) and shown.issuperset(row.flows):
            found.append((ttl, sum(cell.settled for cell in cells), sum(cell.answered for cell in cells)))
    return found


def _probes(row: _Row, ledger: Ledger) -> list[tuple[float, bool]]:
    """Tell of each probe to this row, in the order of sending, when that was in seconds and whether it was answered."""
    probes = [
        (probe.sent_ns / 1e9, probe.state is State.ANSWERED)
        for flow in row.flows
        for probe in ledger.cell(flow, row.ttl).history
        if probe.state is not State.ON_ITS_WAY
    ]
    return sorted(probes)


def _hop(row: _Row, ledger: Ledger, name: Callable[[str], str | None], ends: Mapping[tuple[int, int], Answer]) -> Hop:
    cells = [ledger.cell(flow, row.ttl) for flow in row.flows]
    times = Times.of(cell.times for cell in cells)
    others = {address: None for cell in cells for address in cell.addresses if address != row.address}
    stdev, jitter = times.stdev_ns, times.jitter_ns
    said = next((ends[flow, row.ttl].note for flow in row.flows if (flow, row.ttl) in ends), "")
    return Hop(
        row.ttl,
        row.address,
        None if row.address is None else name(row.address),
        tuple(flow + 1 for flow in row.flows),
        row.settled,
        row.answered,
        sum(cell.late for cell in cells),
        sum(cell.duplicates for cell in cells),
        times.last_ns / _US if times.count else None,
        times.mean_ns / _US if times.count else None,
        times.best_ns / _US if times.count else None,
        times.worst_ns / _US if times.count else None,
        None if stdev is None else stdev / _US,
        None if jitter is None else jitter / _US,
        row.path_loss,
        row.verdict,
        row.evidence,
        next((cell.note for cell in cells if cell.note), "") or said,
        tuple(others),
        sum(cell.addresses_left_out for cell in cells),
        next((cell.mpls for cell in cells if cell.mpls), ()),
    )
