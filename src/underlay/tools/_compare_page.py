"""Knows how a comparison looks as one HTML page that needs nothing else: no script, no font, no picture from outside.

It writes text from a `Report`; it does not measure. The report's JSON is in the page too, so that a page sent
to somebody carries its data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape

from ..errors import plural
from ._chart import Bar, Ridge, draw_bars, draw_ridges
from ._compare_report import OTHERS, Outcome, Report, condensed

REFERENCES = ("asyncio", "uvloop")

_STYLE = """
:root { color-scheme: light dark; --paper:#fff; --ink:#1b1f24; --muted:#59636e; --grid:#d9dee3; --accent:#2268c4;
  --reference:#8b949e; --bad:#b42318; --card:#f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --paper:#14171b; --ink:#e6e9ed; --muted:#9aa4af; --grid:#30363d;
  --accent:#5a9cf0; --reference:#7d8590; --bad:#ff8a7a; --card:#1c2026; } }
body { margin:0 auto; padding:2rem 1rem 4rem; max-width:60rem; background:var(--paper); color:var(--ink);
  font:16px/1.5 system-ui, sans-serif; }
h1 { font-size:1.6rem; margin:0 0 .3rem; } h2 { font-size:1.15rem; margin:2.2rem 0 .2rem; }
p { margin:.3rem 0 .8rem; max-width:46rem; } .muted, caption { color:var(--muted); }
pre { background:var(--card); padding:.7rem 1rem; overflow-x:auto; border-radius:6px; }
figure { margin:0; } svg { width:100%; height:auto; max-width:48rem; font:13px system-ui, sans-serif; }
.wide { overflow-x:auto; }
table { border-collapse:collapse; font-variant-numeric:tabular-nums; font-size:.9rem; }
th, td { padding:.3rem .6rem; text-align:right; border-bottom:1px solid var(--grid); white-space:nowrap; }
th:first-child, td:first-child { text-align:left; } td.reason { text-align:left; white-space:normal; color:var(--bad); }
td small { color:var(--muted); } dl { display:grid; grid-template-columns:max-content 1fr; gap:.1rem 1rem; }
dt { color:var(--muted); } dd { margin:0; }
.ours { fill:var(--accent); } .reference { fill:var(--reference); } .area { fill-opacity:.75; }
.grid { stroke:var(--grid); fill:none; } .whisker, .mark { stroke:var(--ink); stroke-width:1.2; fill:none; }
.label, .value { fill:var(--ink); } .tick, .axis { fill:var(--muted); } .tick { font-size:12px; }
"""

_COLUMNS: list[tuple[str, str, Callable[[float], str]]] = [
    ("requests/s", "requests_per_s", lambda v: f"{v:,.0f}"),
    ("CPU µs/request", "cpu_us_per_request", lambda v: f"{v:.2f}"),
    ("p50 µs", "latency_p50_us", lambda v: f"{v:,.0f}"),
    ("p99 µs", "latency_p99_us", lambda v: f"{v:,.0f}"),
    ("p99.9 µs", "latency_p99_9_us", lambda v: f"{v:,.0f}"),
    ("system calls/request", "syscalls_per_request", lambda v: f"{v:.2f}"),
    ("switches/request", "context_switches_per_request", lambda v: f"{v:.3f}"),
    ("KiB/connection", "memory_per_connection_bytes", lambda v: f"{v / 1024:,.1f}"),
]


def write_page(report: Report) -> str:
    """Give the whole page as text."""
    load = report.load
    connections = f"{load.connections:,} connection" + "s" * (load.connections != 1)
    what = f"GET {load.path}" if load.kind.startswith("http") else f"{load.size_bytes:,} bytes"
    rounds = plural(load.rounds, "round")
    facts = {
        "Load": f"{load.kind}, {connections}, one request in flight on each, {what} per request",
        "Rounds": f"{rounds} of {load.duration_s:g} s, the models in turn, a fresh process each time",
        "Machine": f"{report.machine['processor']}, {report.machine['cores']} cores, "
        f"{int(report.machine['memory_mib']) / 1024:.1f} GiB",
        "System": f"{report.machine['kernel']}, {report.machine['python']}",
        "Made": report.made + (" (interrupted)" if report.interrupted else ""),
    }
    data = json.dumps(report.as_json(), separators=(",", ":")).replace("<", "\\u003c")
    return "".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(report.title)} on each I/O model</title>",
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{escape(report.title)} on each I/O model</h1>",
            f"<pre>{escape(report.command)}</pre>",
            "<dl>",
            *(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items()),
            "</dl>",
            *(f"<p>{escape(note)}</p>" for note in [*_crowd(report), *report.notes]),
            *_pictures(report),
            "<h2>All figures</h2><p class=muted>Medians of the rounds; below them the range.</p>",
            _table(report),
            _errors(report),
            "<h2>How it was measured</h2>",
            "<p>CPU time is the server’s alone, user and system, by the scheduler’s own clock of its process tree. "
            "A measured window begins and ends with all connections idle, so that only whole requests count. "
            "The load comes from one other process. Memory is what user space holds; the kernel’s socket buffers "
            "are not in it. System calls are counted in a window of their own.</p>",
            f'<script type="application/json" id="report">{data}</script>',
            "</body></html>\n",
        ]
    )


def _crowd(report: Report) -> list[str]:
    if report.others_busy <= OTHERS:
        return []
    return [
        f"Other programs took {report.others_busy:.1f} of the machine’s cores meanwhile, so requests/s and "
        "latencies are doubtful; CPU per request suffers least."
    ]


def _pictures(report: Report) -> list[str]:
    measured = report.measured
    if not measured:
        return ["<p>No model carried the load; the table says why.</p>"]
    ridges = [
        Ridge(
            outcome.model,
            [(edge, edge * 10 ** (1 / 40), count) for edge, count in condensed(outcome.latency)],
            [
                (name, outcome.latency.percentile_us(percent))
                for name, percent in (("p50", 50), ("p99", 99), ("p99.9", 99.9))
            ],
            outcome.model in REFERENCES,
        )
        for outcome in measured
    ]
    return [
        "<h2>CPU time per request</h2><p class=muted>Less is better. Bars are medians, whiskers the range over "
        "the rounds; grey bars are the loops to compare with.</p>",
        _figure(draw_bars(_bars(measured, "cpu_us_per_request"), "server CPU, µs per request", 2)),
        "<h2>Throughput</h2><p class=muted>More is better; it ends where the server, the load’s one process or "
        "the machine is full.</p>",
        _figure(draw_bars(_bars(measured, "requests_per_s"), "requests per second", 0)),
        "<h2>Latency</h2><p class=muted>Where the latencies of all requests lie, each model to its own height; "
        "lines mark p50, p99 and p99.9. With one request in flight on each connection a latency is mostly the "
        "wait for the other connections’ turns.</p>",
        _figure(draw_ridges(ridges, "latency of a request, µs, logarithmic")),
    ]


def _bars(outcomes: list[Outcome], name: str) -> list[Bar]:
    bars = []
    for outcome in outcomes:
        spread = outcome.figure(name)
        if spread is not None:
            reference = outcome.model in REFERENCES
            bars.append(Bar(outcome.model, spread.median, spread.least, spread.greatest, reference))
    return bars


def _figure(svg: str) -> str:
    return f"<figure>{svg}</figure>"


def _table(report: Report) -> str:
    heads = "".join(f"<th>{name}</th>" for name, _, _ in _COLUMNS)
    rows = []
    for outcome in report.outcomes:
        cells = []
        for _, name, write in _COLUMNS:
            spread = outcome.figure(name)
            if spread is None:
                cells.append("<td>—</td>")
                continue
            span = f"{write(spread.least)} – {write(spread.greatest)}"
            cells.append(f"<td>{write(spread.median)}<br><small>{span}</small></td>")
        errors = sum(outcome.errors.values())
        reason = f'<td class="reason" colspan="{len(_COLUMNS) + 1}">{escape(outcome.failure)}</td>'
        body = "".join(cells) + f"<td>{errors:,}</td>" if outcome.samples else reason
        rows.append(f"<tr><td>{escape(outcome.model)}</td>{body}</tr>")
        if outcome.samples and outcome.failure:
            rows.append(f"<tr><td></td>{reason}</tr>")
    return (
        f'<div class="wide"><table><thead><tr><th>model</th>{heads}<th>errors</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _errors(report: Report) -> str:
    items = [
        f"<li>{escape(outcome.model)}: {escape(reason)}, {count:,} times</li>"
        for outcome in report.outcomes
        for reason, count in outcome.errors.items()
    ]
    items += [
        f"<li>{escape(outcome.model)}: the load generator was the bottleneck, so requests/s is a lower bound</li>"
        for outcome in report.measured
        if outcome.generator_bound
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""
