"""The command ``underlay ipc``: which kinds of channel there are, what each can do, and how much here.

This file knows how the table is shown: to a person, as JSON, and to the documentation. What is in it, each kind says
itself; and its actions are of `_names_cli`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from ..errors import UsageError
from . import _names_cli
from ._contract import Kind
from ._kinds import KINDS

# What a kind may be able to do besides: the field that says it, and the words for it.
_ABILITIES: Final = {
    "many_senders": "many senders",
    "priorities": "priorities",
    "survives_process": "persistent",
    "zero_copy": "zero-copy",
    "crosses_machines": "other machines",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``underlay ipc``."""
    parser.description = (
        "List the kinds of channel between processes: what each can do, and its limits on this machine. "
        "Or see who has a name, and remove one that nobody has any more."
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the same as one JSON object")
    form.add_argument("--markdown", action="store_true", help="print what is so on every machine, for the docs")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name,
            prog=f"underlay ipc {name}",
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )

    listing = action("names", "list the names of channels and locks of this user, and who has them")
    # Said before the action or behind it, it is the same.
    listing.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object")
    removing = action("remove", "remove a channel's name that a dead process left, or a persistent channel")
    removing.add_argument("name", metavar="NAME")


def in_units(size_bytes: int) -> str:
    """A size as it is exact and short.

    >>> in_units(64 << 20), in_units(8192), in_units(212918)
    ('64 MiB', '8 KiB', '212,918 B')
    """
    for unit_bytes, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size_bytes >= unit_bytes and size_bytes % unit_bytes == 0:
            return f"{size_bytes // unit_bytes:,} {unit}"
    return f"{size_bytes:,} B"


def _ways(kind: Kind) -> str:
    return "one" if kind.one_way else "both"


def _abilities(kind: Kind) -> str:
    able = [words for field, words in _ABILITIES.items() if getattr(kind, field)]
    if not kind.unrelated_processes:
        able.append("no name")
    return ", ".join(able)


def markdown() -> Iterator[str]:
    """The lines of the table in the docs; where a machine sets a limit, that is named in the number's place."""
    yield "| kind | what it is | longest message | unless more is asked for | ways | besides |"
    yield "|---|---|---|---|---|---|"
    for kind in KINDS.values():
        longest = f"`{kind.limited_by}`" if kind.limited_by else in_units(kind.max_message_bytes)
        usual = in_units(kind.usual_message_bytes) if kind.usual_message_bytes else "the same"
        yield f"| `{kind.name}` | {kind.summary} | {longest} | {usual} | {_ways(kind)} | {_abilities(kind)} |"


def _width() -> int:
    """The terminal's columns, from 60 to 100; 80 where there is no terminal, or one that doesn't know its size."""
    try:
        columns = os.get_terminal_size(1).columns if os.isatty(1) else 0
    except OSError:
        columns = 0
    return max(60, min(columns, 100)) if columns else 80


def main(args: argparse.Namespace) -> int:
    """Print the table, or what the action is."""
    if args.action is not None:
        if args.markdown:
            raise UsageError(f"--markdown is of the table, and not of {args.action}", remedy="leave it out")
        if args.action == "names":
            _names_cli.print_names(as_json=args.json)
        else:
            _names_cli.remove(args.name)
        return 0
    if args.markdown:
        print("\n".join(markdown()))
        return 0
    if args.json:
        kinds = [asdict(kind) for kind in KINDS.values()]
        print(json.dumps({"schema": "underlay.ipc/1", "kernel": platform.release(), "kinds": kinds}, indent=2))
        return 0

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("kind", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    table.add_column("longest", justify="right", no_wrap=True)
    table.add_column("ways", no_wrap=True)
    table.add_column("besides", overflow="fold")
    for kind in KINDS.values():
        table.add_row(kind.name, kind.summary, in_units(kind.max_message_bytes), _ways(kind), _abilities(kind))
    console = Console(width=_width(), highlight=False)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))  # cells are filled with blanks
    console.print("\nOf a kind with one way, both_ways=True makes two.")
    for kind in KINDS.values():
        if kind.limited_by:
            console.print(f"{kind.name}: this machine's limit is {kind.limited_by} (sysctl).")
    usual: dict[int, list[str]] = {}
    for kind in KINDS.values():
        if kind.usual_message_bytes:
            usual.setdefault(kind.usual_message_bytes, []).append(kind.name)
    for size_bytes, names in usual.items():
        console.print(f"{', '.join(names)}: up to {in_units(size_bytes)} unless max_message_bytes asks for more.")
    return 0
