"""``underlay ipc names`` and ``underlay ipc remove``: who has a name on this machine, and what nobody has any more.

This file knows how names are shown, to a person and as JSON. It refuses to know where they are kept.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from . import _folder, _open
from ._lock_names import KnownLock, lock_names


def print_names(*, as_json: bool) -> None:
    """Print the names of channels and of locks."""
    channels, locks = _folder.names(), lock_names()
    if as_json:
        known = {"channels": [asdict(each) for each in channels], "locks": [asdict(each) for each in locks]}
        print(json.dumps({"schema": "underlay.ipc.names/1", **known}, indent=2))
        return
    rows = [(each.name, "channel", _who_has(each)) for each in channels]
    rows += [(each.name, each.kind, _who_uses(each)) for each in locks]
    if not rows:
        print(f"No channel and no lock has a name: {_folder.folder()} is empty.")
        return
    rows.insert(0, ("name", "what", "who has it"))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, what, who in rows:
        print(f"{name:<{widths[0]}}  {what:<{widths[1]}}  {who}")


def remove(name: str) -> None:
    """Remove the name of a channel, as `ipc.remove` does."""
    _open.remove(name)
    print(f"removed the channel {name!r}")


def _who_has(known: _folder.KnownName) -> str:
    if not known.process:
        return "persistent: nobody need be there"
    return f"process {known.process}" if known.lives else f"stale: process {known.process} is dead"


def _who_uses(known: KnownLock) -> str:
    return "in use" if known.in_use else "nobody: it is made anew by who says it next"
