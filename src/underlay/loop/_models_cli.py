"""The command ``underlay models``: which I/O models there are, and which of them this machine can run.

This file knows how the table is shown, to a person or as JSON.  What is in it is ``_models.py``'s.
"""

from __future__ import annotations

import argparse
import json
import os
import platform

from ._models import chosen_by_auto, models


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``underlay models``."""
    parser.description = "List the I/O models, which of them this machine can run, and what would mend the others."
    parser.add_argument("--json", action="store_true", help="print the same as one JSON object")


# Below this the words of a cell would stand one letter to a line; a terminal without a size says 0.
_NARROWEST_COLUMNS = 40


def _width() -> int:
    """Give the terminal's columns, up to 100; 80 where there is no terminal, or one that doesn't know its size."""
    try:
        columns = os.get_terminal_size(1).columns if os.isatty(1) else 0
    except OSError:
        columns = 0
    return max(_NARROWEST_COLUMNS, min(columns, 100)) if columns else 80


def main(args: argparse.Namespace) -> int:
    """Print the table; 0 also where a model is missing, since that is an answer."""
    rows = models()
    chosen, passed_over = chosen_by_auto()
    if args.json:
        print(
            json.dumps(
                {
                    "schema": "underlay.models/1",
                    "kernel": platform.release(),
                    "auto": chosen.name,
                    "models": [
                        {
                            "name": row.name,
                            "model": row.number,
                            "how": row.how,
                            "available": row.available,
                            "reason": row.reason,
                            "remedy": row.remedy,
                        }
                        for row in rows
                    ],
                },
                indent=2,
            )
        )
        return 0

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "", "how it waits", "here", "why not, and what mends it"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        here = "[green]yes[/]" if row.available else "[red]no[/]"
        why_not = "; ".join(filter(None, (row.reason, row.remedy)))
        table.add_row(row.command_name, str(row.number), row.how, here, escape(why_not))
    console = Console(width=_width(), highlight=False)
    console.print(table)
    console.print(f"\nauto takes {chosen.command_name} on this machine (kernel {platform.release()}).")
    for row in passed_over:
        console.print(f"It would have taken {row.command_name}, but {escape(row.reason)}.")
    return 0
