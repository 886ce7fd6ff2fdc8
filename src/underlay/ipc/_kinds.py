"""The kinds of channels there are, each in a file of its own, and how the two ends of one are made.

This file knows their names and modules. It refuses to know what any of them does.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol, TypeAlias, cast

from ..errors import UsageError, nearest
from . import _life
from ._contract import WAKEUPS, Incoming, Kind, Outgoing, Terms
from ._descriptors import check_socket
from ._end import End, close_all, copies
from ._steps import Steps

Places: TypeAlias = list[tuple[socket.AddressFamily, tuple[object, ...]]]
"""What an address of a network stands for, as socket.getaddrinfo says it."""

_MODULES: Final = {
    "pipe": "_pipe",
    "fifo": "_fifo",
    "unix": "_unix",
    "seqpacket": "_seqpacket",
    "tcp": "_tcp",
    "mqueue": "_mqueue",
    "sysv": "_sysv",
    "signal": "_signal",
    "ring": "_ring",
    "ring-many": "_ring_many",
    "slots": "_slots",
}


class KindModule(Protocol):
    """What the file of a kind offers; functions, all of them."""

    KIND: Kind
    check: Callable[[Terms, tuple[int, ...], bool], None]
    make: Callable[[Terms], tuple[tuple[int, ...], tuple[int, ...]]]
    outgoing: Callable[..., Outgoing]
    incoming: Callable[..., Incoming]


class Reception(Protocol):
    """Lets visitors in, one after the other. It never waits."""

    @property
    def address(self) -> str | None:
        """Where it is in a network."""

    def waits(self) -> tuple[int, ...]:
        """The descriptors that become readable when there is somebody to `admit`."""

    def admit(self) -> End | None:
        """This side's end for the next visitor, or None where there is none now."""

    def close(self) -> None:
        """Let nobody in any more."""


class NetworkModule(KindModule, Protocol):
    """What the file of a kind offers that crosses machines: its ways know the other side's life themselves."""

    parts_of: Callable[[End], tuple[Incoming | None, Outgoing | None, _life.Life]]
    create: Callable[[Terms, str, str], End]
    places: Callable[[str], Places]
    opening: Callable[[str, Places, float], Steps[End]]
    reception: Callable[[Terms, str, bool], Reception]


def module_of(kind: str) -> KindModule:
    """The file of a kind. Raises ``UsageError`` for a name that none has."""
    name = _MODULES.get(str(kind))
    if name is None:
        raise UsageError(f"there is no kind of channel {kind!r}", remedy=nearest(str(kind), _MODULES))
    return cast(KindModule, importlib.import_module(f"{__package__}.{name}"))


class _Kinds(Mapping[str, Kind]):
    def __getitem__(self, name: str) -> Kind:
        if name not in _MODULES:
            raise KeyError(name)
        return module_of(name).KIND

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


KINDS: Final[Mapping[str, Kind]] = _Kinds()
"""What each kind can do, by its name; the file of one is loaded when it is asked for."""


def network_module_of(kind: str) -> NetworkModule | None:
    """The file of a kind, where it crosses machines. Raises ``UsageError`` for a name that none has."""
    module = module_of(kind)
    return cast(NetworkModule, module) if module.KIND.crosses_machines else None


def terms_for(kind: str, max_message_bytes: int | None, capacity: int, wakeup: str | None) -> Terms:
    """What both ends agree on. Raises ``UsageError`` for what the kind cannot do."""
    can = module_of(kind).KIND
    most = can.max_message_bytes
    if max_message_bytes is None:
        max_message_bytes = can.usual_message_bytes or most
    for asked, number in ("max_message_bytes", max_message_bytes), ("capacity", capacity):
        if not isinstance(number, int):
            raise UsageError(f"{asked}={number!r} is no whole number", remedy="give one, as 4096")
    if not 0 < max_message_bytes <= most:
        raise UsageError(
            f"the kind {kind} cannot take messages of up to {max_message_bytes:,} bytes",
            remedy=f"max_message_bytes is from 1 to {most:,} here",
        )
    if not 0 <= capacity <= can.max_capacity:
        raise UsageError(
            f"the kind {kind} cannot have room for {capacity:,}",
            remedy=f"capacity is from 1 to {can.max_capacity:,}; 0 leaves it to the kind",
        )
    if wakeup is None:
        return Terms(kind, max_message_bytes, capacity)
    if wakeup not in WAKEUPS:
        raise UsageError(f"nobody is woken by {wakeup!r}", remedy=nearest(str(wakeup), WAKEUPS))
    if wakeup not in can.wakeups:
        raise UsageError(
            f"the kind {kind} has no wake-ups to choose from",
            remedy="leave wakeup out, or take ring, ring-many or slots",
        )
    return Terms(kind, max_message_bytes, capacity, wakeup)


def check(end: End) -> None:
    """Raise ``ValueError`` or ``UsageError`` where what came from elsewhere cannot be an end; it is left as it is."""
    module = module_of(end.terms.kind)
    ways = (*(end.ways_in or ()), *(end.ways_out or ()), *(() if end.life is None else (end.life,)))
    if end.ways_in is None and end.ways_out is None:
        raise ValueError("it has neither a way in nor a way out")
    if len(set(ways)) < len(ways):
        raise ValueError("it has a descriptor twice")
    for way, writes in ((end.ways_in, False), (end.ways_out, True)):
        if way is not None:
            module.check(end.terms, way, writes)
    if end.life is not None:
        if module.KIND.crosses_machines:
            raise ValueError(f"the kind {end.terms.kind} needs no descriptor for the other side's life")
        check_socket(end.life, (socket.AF_UNIX,), socket.SOCK_SEQPACKET)
    elif not module.KIND.crosses_machines and (len(ways) > 1 or not module.KIND.survives_process):
        raise ValueError("it has no descriptor for the other side's life")


def parts_of(end: End) -> tuple[Incoming | None, Outgoing | None, _life.Life]:
    """What an end is made of: the way in, the way out, and what is known of the other side."""
    module, terms = module_of(end.terms.kind), end.terms
    if end.life is None and module.KIND.crosses_machines:
        return cast(NetworkModule, module).parts_of(end)
    incoming: Incoming | None = None
    left = dict.fromkeys(end.descriptors)  # what nobody but this call would give back
    try:
        if end.ways_in is not None:
            incoming = module.incoming(terms, *end.ways_in)
            left = {each: None for each in left if each not in end.ways_in}
        outgoing = None if end.ways_out is None else module.outgoing(terms, *end.ways_out)
    except BaseException:  # no descriptor is left, no memory, or no signal
        if incoming is not None:
            incoming.close()
        for each in left:
            with contextlib.suppress(OSError):
                os.close(each)
        raise
    life = (
        _life.Unattended()
        if end.life is None
        else _life.LocalLife(socket.socket(fileno=end.life), many=module.KIND.many_senders)
    )
    return incoming, outgoing, life


def make_ends(terms: Terms, both_ways: bool) -> tuple[End, End]:
    """Both ends of a new channel; the first receives, where only one does."""
    module = module_of(terms.kind)
    here: int | None = None
    there: int | None = None
    made: list[int] = []
    if not module.KIND.crosses_machines:
        here, there = (each.detach() for each in _life.pair())
        made = [here, there]
    try:
        incoming, outgoing = module.make(terms)
        made += (*incoming, *outgoing)
        if not both_ways:
            return End(terms, incoming, None, here), End(terms, None, outgoing, there)
        if not module.KIND.one_way:
            # Each way owns its descriptors, or one would close the other's.
            made += (incoming_too := copies(incoming))
            outgoing_too = copies(outgoing)
            return End(terms, incoming, incoming_too, here), End(terms, outgoing, outgoing_too, there)
        back_incoming, back_outgoing = module.make(terms)
        return End(terms, incoming, back_outgoing, here), End(terms, back_incoming, outgoing, there)
    except BaseException:
        close_all(made)
        raise
