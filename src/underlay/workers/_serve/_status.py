"""How a group's state is shown: a table of 80 columns for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypedDict

from ...errors import plural

__all__ = ["Row", "Status", "as_json", "as_table"]

SCHEMA = "underlay.serve/1"


class Row(TypedDict):
    """One worker."""

    number: int
    pid: int
    state: str
    generation: int
    since_s: float  # how long it has been in this state
    threads: int  # 0: the program runs in the process's main thread
    connections: int
    cpu_s: float
    rss_bytes: int


class Status(TypedDict):
    """A group."""

    schema: str
    pid: int
    program: str
    by: str
    share: str
    wanted: int
    generation: int
    crashes: int  # workers that ended by themselves
    next_start_s: float  # how long the next start is put off, after crashes
    stopping: bool
    listening: Sequence[str]
    workers: Sequence[Row]


def as_json(status: Mapping[str, object]) -> str:
    """Write the status as one JSON object."""
    return json.dumps(status, indent=2)


def as_table(status: Status) -> str:
    """Write the status for a person, in at most 80 columns.

    >>> row: Row = {"number": 1, "pid": 4711, "state": "ready", "generation": 1, "since_s": 75.2, "threads": 0,
    ...     "connections": 12, "cpu_s": 3.25, "rss_bytes": 25_000_000}
    >>> status: Status = {"schema": SCHEMA, "pid": 4700, "program": "app:main", "by": "process", "share": "inherit",
    ...     "wanted": 1, "generation": 1, "crashes": 2, "next_start_s": 0.0, "stopping": False,
    ...     "listening": ["127.0.0.1:8000"], "workers": [row]}
    >>> print(as_table(status))
    app:main at 127.0.0.1:8000
    1 worker wanted, by process, share inherit; supervisor 4700; crashes: 2
    <BLANKLINE>
        #      pid  state       since  restart connections     CPU s     MiB
        1     4711  ready        1:15        0          12      3.25    23.8

    By thread a row is the process that holds them all:

    >>> print(as_table({**status, "by": "thread", "wanted": 3, "workers": [{**row, "threads": 3}]}))
    app:main at 127.0.0.1:8000
    3 workers wanted, by thread, share inherit; supervisor 4700; crashes: 2
    <BLANKLINE>
        #      pid  state     threads   since  restart connections     CPU s     MiB
        1     4711  ready           3    1:15        0          12      3.25    23.8
    """
    places = ", ".join(status["listening"]) or "nowhere yet"
    by_thread = status["by"] == "thread"
    lines = [
        _cut(f"{status['program']} at {places}"),
        _cut(
            f"{plural(status['wanted'], 'worker')} wanted, by {status['by']}, share {status['share']}; "
            f"supervisor {status['pid']}; crashes: {status['crashes']}"
        ),
    ]
    if status["stopping"]:
        lines.append("stopping")
    elif status["next_start_s"] > 0:
        lines.append(f"the next start is put off for {status['next_start_s']:.1f} s, after crashes")
    threads = f" {'threads':>7}" if by_thread else ""
    # With the threads, of which a row is the one process, it is 80 columns wide.
    heads = (
        f"{'#':>5} {'pid':>8}  {'state':<9}{threads} {'since':>7}  "
        f"{'restart':>7} {'connections':>11} {'CPU s':>9} {'MiB':>7}"
    )
    lines += ["", heads]
    for row in status["workers"]:
        threads = f" {row['threads']:>7}" if by_thread else ""
        lines.append(
            f"{row['number']:>5} {row['pid']:>8}  {row['state']:<9}{threads} {_duration(row['since_s']):>7}  "
            f"{row['generation'] - 1:>7} {row['connections']:>11} {row['cpu_s']:>9.2f} {row['rss_bytes'] / 2**20:>7.1f}"
        )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}"


def _cut(line: str) -> str:
    return line if len(line) <= 80 else line[:79] + "…"
