"""How a channel comes to be: a pair of ends, an end that another process made, or two that meet under a name.

This file knows the public words. It refuses to know what the ends are made of, and how processes meet.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar, overload

from ..errors import UsageError, nearest
from . import _folder, _persistent
from ._channel import Channel, announced, channel_of
from ._end import End
from ._handover import end_from
from ._kinds import NetworkModule, make_ends, module_of, network_module_of, terms_for
from ._listen import Listener
from ._meeting import Meeting, coming_for
from ._shared import Shared
from ._steps import awaited_through, slept_through

if TYPE_CHECKING:
    from ._slot_channel import SlotChannel

Role: TypeAlias = Literal["receiver", "sender", "both"]
OneEnd = TypeVar("OneEnd", bound=Channel)
Thing = TypeVar("Thing", bound=Shared)
ROLES: Final = ("receiver", "sender", "both")
# Long enough for a program that was started at the same time to import this library on a busy machine.
_OPEN_TIMEOUT_S: Final = 5.0


@overload
def pair(
    kind: Literal["slots"],
    *,
    both_ways: bool = False,
    max_message_bytes: int | None = None,
    capacity: int = 0,
    wakeup: str | None = None,
) -> tuple[SlotChannel, SlotChannel]: ...


@overload
def pair(
    kind: str,
    *,
    both_ways: bool = False,
    max_message_bytes: int | None = None,
    capacity: int = 0,
    wakeup: str | None = None,
) -> tuple[Channel, Channel]: ...


def pair(
    kind: str,
    *,
    both_ways: bool = False,
    max_message_bytes: int | None = None,
    capacity: int = 0,
    wakeup: str | None = None,
) -> tuple[Channel, Channel]:
    """The two ends of a new channel without a name: the receiver and the sender, or two that do both.

    ``max_message_bytes``, ``capacity`` and ``wakeup`` are the kind's own where they are not given. ``capacity`` is
    about so many bytes or more, and always enough for the longest message; or exactly so many messages, for mqueue,
    signal and slots. Raises ``UsageError`` for what the kind cannot do.

    >>> from underlay import ipc
    >>> left, right = ipc.pair("pipe", both_ways=True)
    >>> with left, right:
    ...     left.send(b"ping")
    ...     right.send(right.receive() + b" pong")
    ...     left.receive()
    b'ping pong'
    """
    terms = terms_for(kind, max_message_bytes, capacity, wakeup)
    here, there = make_ends(terms, both_ways)
    try:
        one = channel_of(here)
    except BaseException:
        there.close()
        raise
    try:
        return one, channel_of(there)
    except BaseException:
        one.close()
        raise


@overload
def inherit(word: str) -> Channel: ...


@overload
def inherit(word: str, what: type[OneEnd]) -> OneEnd: ...


@overload
def inherit(word: str, what: type[Thing]) -> Thing: ...


def inherit(word: str, what: type[Channel | Shared] = Channel) -> Channel | Shared:
    """What this process inherited: ``word`` is what ``argument()`` gave the process that started it.

    ``what`` is its class where that is not a `Channel`: ``ipc.inherit(word, ipc.Mutex)``. Raises ``UsageError`` where
    the word says no such thing, or the descriptors did not come along, or are something else; they are left as they
    are then.

    >>> import subprocess, sys
    >>> from underlay import ipc
    >>> program = "import sys; from underlay import ipc; ipc.inherit(sys.argv[1]).send(b'hello')"
    >>> receiver, sender = ipc.pair("pipe")
    >>> with receiver, sender:
    ...     command = [sys.executable, "-c", program, sender.argument()]
    ...     done = subprocess.run(command, pass_fds=sender.descriptors)
    ...     receiver.receive()
    b'hello'
    """
    if issubclass(what, Shared):
        return what.inherited(word)
    channel = channel_of(end_from(word))
    if not isinstance(channel, what):
        channel.close()
        raise UsageError(f"{channel} is no {what.__name__}", remedy="inherit it as what it is")
    return channel


def create(
    kind: str,
    name: str,
    *,
    role: Role = "receiver",
    max_message_bytes: int | None = None,
    capacity: int = 0,
    wakeup: str | None = None,
    replace: bool = False,
    persistent: bool = False,
    senders: int | None = None,
) -> Channel:
    """One end of a new channel, whose other end is for the process that opens ``name``.

    It does not wait for that process, and a sender may send before it comes; what was sent is lost where it never
    does. It is let in while this end sends, receives or closes. Then the name is free again. ``role`` is what this end
    does.

    Where a kind has many senders, a receiver's name stays until it closes, and lets in whoever comes: so it never ends
    by itself. With ``senders``, so many are let in; then the name is free, and the end comes when all have closed.

    A name is for the processes of one user on one machine: letters, digits, ``-``, ``_`` and ``.``. For ``tcp`` it is
    ``host:port`` or ``[host]:port``; port 0 lets the kernel choose, and `Channel.address` says which. Nobody is asked
    there who he is, and nothing is encrypted: whoever reaches the port is the other end.

    A ``persistent`` channel outlives all processes until `remove`, and no death is noticed on it: time-outs are all
    that ends a wait. Any number of processes open it, in either role.

    Raises `NameTaken`; `StaleName` where a dead process left the name, unless ``replace``; `WrongOwner` where the
    folder of names is not this user's alone; ``UsageError`` for a name that cannot be, or what the kind cannot do.

    >>> from underlay import ipc
    >>> with ipc.create("pipe", "example-orders") as mailbox, ipc.open("example-orders") as sender:
    ...     sender.send(b"two coffees")
    ...     mailbox.receive()
    b'two coffees'
    """
    _check_role(role)
    terms = terms_for(kind, max_message_bytes, capacity, wakeup)
    many = module_of(kind).KIND.many_senders and role == "receiver" and not persistent
    if senders is not None:
        _check_senders(senders, many)
    if persistent:
        return channel_of(_persistent.create(terms, name, role, replace=replace), name)
    network = network_module_of(kind)
    if network is not None:
        return announced(channel_of(network.create(terms, name, role), name))
    if not module_of(kind).KIND.unrelated_processes:
        raise UsageError(f"the kind {kind} cannot have a name", remedy="make both ends with ipc.pair()")
    receiving, sending = make_ends(terms, role == "both")
    here, there = (sending, receiving) if role == "sender" else (receiving, sending)
    try:
        meeting = Meeting(name, lambda: there, many=many, replace=replace)
    except BaseException:
        here.close()
        there.close()
        raise
    try:
        channel = channel_of(here, name)
    except BaseException:
        meeting.close()
        there.close()
        raise
    channel.expect(meeting, there, senders if many else 1)
    return announced(channel)


def open(name: str, *, role: Role | None = None, timeout_s: float = _OPEN_TIMEOUT_S) -> Channel:
    """The other end of a channel that another process created or listens for under this name.

    What it can do follows from the other side's role; kind and limits are the other side's. With a ``role``, it is an
    error where that is another, but for a persistent channel, which has any. Waits up to ``timeout_s`` until the name
    is there and its process lets us in.

    Raises `NoSuchName` where nobody made it, `StaleName` where who made it is dead, ``TimeoutError`` where who made it
    lives and does not let us in, `HandshakeFailed` where somebody else answers, and ``OSError`` for a host that cannot
    be reached.
    """
    _check_role(role)
    network = _network_of(name)
    if network is None:
        return _opened(slept_through(coming_for(name, timeout_s)), name, role)
    return _opened(slept_through(network.opening(name, network.places(name), timeout_s)), name, role)


async def aio_open(name: str, *, role: Role | None = None, timeout_s: float = _OPEN_TIMEOUT_S) -> Channel:
    """As `open`, awaited: the event loop goes on while the name is waited for, and whoever made it may be a task of it.

    It is no face of its own: what it gives is a `Channel`, with its ``aio``. Raises as `open` does. A call that is
    cancelled has opened nothing; had it just been let in, the other side finds that closed.

    >>> import asyncio
    >>> from underlay import ipc
    >>> async def main():
    ...     with ipc.create("pipe", "example-orders") as mailbox:
    ...         with await ipc.aio_open("example-orders") as sender:
    ...             await sender.aio.send(b"two coffees")
    ...         return await mailbox.aio.receive()
    >>> asyncio.run(main())
    b'two coffees'
    """
    _check_role(role)
    network = _network_of(name)
    if network is None:
        return _opened(await awaited_through(coming_for(name, timeout_s)), name, role)
    places = await asyncio.to_thread(network.places, name)
    return _opened(await awaited_through(network.opening(name, places, timeout_s)), name, role)


def _network_of(name: str) -> NetworkModule | None:
    return network_module_of("tcp") if ":" in str(name) else None


def _opened(found: End | str, name: str, role: Role | None) -> Channel:
    if isinstance(found, str):
        return channel_of(_persistent.open(found, role), name)
    channel = announced(channel_of(found, name))
    if role not in (None, found.role):
        channel.close()
        raise UsageError(
            f"the end of {channel} that is handed out is a {found.role}, not a {role}", remedy="open it as that"
        )
    return channel


def remove(name: str) -> None:
    """Remove a name that a process which is dead left behind, or a persistent channel with all that is in it.

    Raises `NoSuchName`, and `NameTaken` where its process lives.
    """
    _folder.remove(name, _persistent.give_back)


def _check_senders(senders: int, many: bool) -> None:
    if not many:
        raise UsageError("only the receiver of a ring-many knows many senders", remedy="leave senders= out")
    if not isinstance(senders, int):
        raise UsageError(f"senders={senders!r} is no whole number", remedy="give one, as 4")
    if senders < 1:
        raise UsageError(f"nobody can wait for {senders} senders", remedy="give 1 or more, or leave it out")


def _check_role(role: str | None) -> None:
    if role is not None and role not in ROLES:
        raise UsageError(f"there is no role {role!r}", remedy=nearest(str(role), ROLES))


def listen(
    kind: str,
    name: str,
    *,
    both_ways: bool = True,
    max_message_bytes: int | None = None,
    capacity: int = 0,
    wakeup: str | None = None,
    replace: bool = False,
) -> Listener:
    """A name that many processes open, each of which gets a channel of its own.

    Without ``both_ways`` this side receives. See `create` for names, and what it raises.

    >>> from underlay import ipc
    >>> with ipc.listen("unix", "example-service") as listener, ipc.open("example-service") as client:
    ...     client.send(b"hello")
    ...     with listener.accept() as server:
    ...         server.receive()
    b'hello'
    """
    terms = terms_for(kind, max_message_bytes, capacity, wakeup)
    return Listener(terms, name, both_ways=both_ways, replace=replace)
