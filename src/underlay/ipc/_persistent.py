"""Channels that outlive all processes: the kernel keeps what was sent, and a name says where.

This file knows that such a channel has no other side whose life could be watched: whoever comes may send or receive,
now or much later. It refuses to know what keeps the messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final, Protocol, cast

from ..errors import UsageError
from . import _folder
from ._contract import Terms
from ._end import End, close_all
from ._errors import HandshakeFailed
from ._kinds import KindModule, module_of

_PEER_ROLES: Final = {"receiver": "sender", "sender": "receiver"}


class PersistentModule(KindModule, Protocol):
    """What the file of a kind offers that outlives processes."""

    create_persistent: Callable[[str, Terms], tuple[tuple[int, ...], tuple[int, ...]]]
    open_persistent: Callable[[str], tuple[Terms, tuple[int, ...], tuple[int, ...]]]
    remove_persistent: Callable[[str], None]


def _module_of(kind: str) -> PersistentModule:
    module = module_of(kind)
    if not hasattr(module, "create_persistent"):
        raise UsageError(f"the kind {kind} cannot be persistent", remedy="mqueue and sysv can")
    return cast(PersistentModule, module)


def create(terms: Terms, name: str, role: str, *, replace: bool) -> End:
    """An end of a new channel that stays. Raises `NameTaken`."""
    module = _module_of(terms.kind)
    if role not in _PEER_ROLES:
        raise UsageError("a persistent channel has one way", remedy="make two, with a name each")
    made: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def make() -> str:
        made.append(module.create_persistent(name, terms))
        return json.dumps({"kind": terms.kind, "name": name, "role": role})

    _folder.keep(name, make, replace=replace)
    return _end(terms, role, *made[0])


def open(kept: str, role: str | None) -> End:
    """An end of a channel that stays, of which a name says this; without a role, the other one than who made it has.

    Raises `NoSuchName`.
    """
    said = _understood(kept)
    terms, ways_in, ways_out = _module_of(said["kind"]).open_persistent(said["name"])
    return _end(terms, role or _PEER_ROLES[said["role"]], ways_in, ways_out)


def give_back(kept: str) -> None:
    """Remove a channel that stays, of which a name says this, unless that was done already."""
    said = _understood(kept)
    try:
        _module_of(said["kind"]).remove_persistent(said["name"])
    except FileNotFoundError:
        pass  # the machine was started anew, or somebody removed it otherwise


def _understood(kept: str) -> dict[str, str]:
    try:
        said = json.loads(kept)
        found = {key: str(said[key]) for key in ("kind", "name", "role")}
        _PEER_ROLES[found["role"]]
        return found
    except (ValueError, TypeError, KeyError):
        raise HandshakeFailed(f"{kept[:80]!r} is no persistent channel", remedy="move that file away") from None


def _end(terms: Terms, role: str, ways_in: tuple[int, ...], ways_out: tuple[int, ...]) -> End:
    receives = role == "receiver"
    close_all(ways_out if receives else ways_in)
    return End(terms, ways_in if receives else None, None if receives else ways_out, None)
