"""Supervised workers that run one unmodified server: a group that survives crashes and restarts without a pause.

``_supervisor`` decides, and reaches no operating system; ``_group`` does what it
decides, in the supervising process; ``_worker`` is what runs in each process that
the group starts. Between the two goes what ``_channel`` says.

A worker imports this package too, so nothing of the group is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._control import WORDS, request
    from ._group import Group, Options
    from ._listeners import SHARES
    from ._program import Program, parse
    from ._status import Status, as_json, as_table
    from ._supervisor import Policy

__all__ = [
    "SHARES",
    "WORDS",
    "Group",
    "Options",
    "Policy",
    "Program",
    "Status",
    "as_json",
    "as_table",
    "parse",
    "request",
]

_WHERE = {
    "Group": "_group",
    "Options": "_group",
    "Policy": "_supervisor",
    "Program": "_program",
    "SHARES": "_listeners",
    "Status": "_status",
    "WORDS": "_control",
    "as_json": "_status",
    "as_table": "_status",
    "parse": "_program",
    "request": "_control",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
