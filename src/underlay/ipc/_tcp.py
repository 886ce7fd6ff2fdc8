"""A TCP connection, tcp(7): both ways, in order, between machines. Whoever reaches the port can open the channel.

This file knows addresses, what a connection tells of the other side, and how it is noticed that a machine vanished. It
refuses to know what the messages mean, and how who listens and who comes greet each other: see `_door`.

**A close and a death** look the same to TCP: the kernel ends the connections of a dead process in order. So an end that
is closed says goodbye: a length that no message has. What ends without it has died.

**A machine that vanished** says nothing. While nothing is sent, the kernel asks after it (SO_KEEPALIVE). While
something is, it would try for a quarter of an hour (tcp_retries2); TCP_RTO_MAX_MS, of Linux 6.15, makes its tries
closer. TCP_USER_TIMEOUT is not used, though it looks made for this: it also ends a connection whose receiver lives and
only takes nothing for so long.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import time
from dataclasses import asdict
from typing import Final

from ..errors import UsageError
from . import _descriptors, _door
from ._contract import MAX_MESSAGE_BYTES, Incoming, Kind, Outgoing, Terms
from ._deadline import deadline
from ._end import End, copies, terms_of
from ._errors import HandshakeFailed, NameTaken, NoSuchName
from ._kinds import Places
from ._life import Life, Over
from ._sockets import socket_of
from ._steps import Steps, Wait
from ._tcp_ways import TcpIncoming, TcpOutgoing, goodbye

KIND: Final = Kind(
    name="tcp",
    summary="a TCP connection, tcp(7)",
    max_message_bytes=MAX_MESSAGE_BYTES,
    one_way=False,
    crosses_machines=True,
)
# A vanished machine is noticed after 10 + 3 * 5 seconds of silence: a wireless network may need some to come back.
KEEPALIVE_IDLE_S: Final = 10
KEEPALIVE_INTERVAL_S: Final = 5
KEEPALIVE_COUNT: Final = 3
# linux/tcp.h; Python has no name for it. The fifteen tries of tcp_retries2 then take as long as the above: 25 s.
TCP_RTO_MAX_MS: Final = 44
RTO_MAX_MS: Final = 2000
_BACKLOG: Final = 128
_ADDRESS: Final = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>\d{1,5})", re.ASCII)
# A name may be taken, and not yet be listened on: see `opening`.
_PAUSE_S: Final = 0.02
_PEER_ROLES: Final = {"receiver": "sender", "sender": "receiver", "both": "both"}


# --- addresses ---


def places(name: str, flags: int = 0) -> Places:
    """What an address stands for; a resolver may be asked, and that takes its time."""
    found = _ADDRESS.fullmatch(name)
    if found is None or int(found["port"]) > 65535:
        raise UsageError(f"{name[:80]!r} is no address", remedy="it is host:port, or [host]:port for IPv6")
    infos = socket.getaddrinfo(found["six"] or found["host"], int(found["port"]), type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in infos]


def _said(address: tuple[object, ...]) -> str:
    host, port = str(address[0]), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(name: str) -> socket.socket:
    family, place = places(name, socket.AI_PASSIVE)[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        # Connections of who had the port before may still wait for their end; none of them is taken for one of ours.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(_BACKLOG)
        return listening
    except BaseException as error:
        listening.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise NameTaken(
                f"a process listens at {name} already", remedy="take another port, or 0; ss -ltnp shows who"
            ) from error
        raise


def _tune(terms: Terms, connection: socket.socket) -> None:
    connection.setblocking(False)
    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),  # a message is whole: nothing is gained by waiting for more
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT),
    ]
    if terms.capacity:
        options.append((socket.SOL_SOCKET, socket.SO_SNDBUF, min(terms.capacity, 1 << 30)))
    for option in options:
        connection.setsockopt(*option)
    with contextlib.suppress(OSError):  # an older kernel, which takes longer to notice
        connection.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, RTO_MAX_MS)


# --- the other side's life ---


class TcpLife(Life):
    """What a connection tells of the other side; before there is one, who comes for it."""

    def __init__(
        self,
        terms: Terms,
        incoming: TcpIncoming | None,
        outgoing: TcpOutgoing | None,
        own: socket.socket,
        back: TcpIncoming | None,
        *,
        role: str,
        awaits: bool,
    ) -> None:
        super().__init__()
        self._terms = terms
        self._role = role
        self._incoming = incoming
        self._outgoing = outgoing
        self._socket = own
        self._back = back  # of an end that only sends: nothing comes there but the end
        self._door: _door.Door | None = None
        self._address = _said(own.getsockname())
        if awaits:
            self._door = _door.Door(self._socket, _anybody)
            self._door.before_close = self._about_to_close
            _door.answers_here(self, self.look)

    @property
    def descriptor(self) -> int | None:
        """None: there is nothing besides what carries the messages."""
        return None

    @property
    def alone(self) -> bool:
        """Whether the other side is still awaited."""
        return self._door is not None

    @property
    def address(self) -> str | None:
        """The host and the port on this machine."""
        return self._address

    def _meet(self, door: _door.Door) -> None:
        before = door.waits()
        self._let_in(door)
        if self._door is None or door.waits() != before:
            self.version += 1

    def _let_in(self, door: _door.Door) -> None:
        while (visitor := door.let_in()) is not None:
            ways = [each for each in (self._incoming, self._outgoing) if each is not None]
            with contextlib.ExitStack() as undoing:
                undoing.callback(visitor.close)
                # All that may fail, for want of a descriptor, is done before the visitor is told that it is in.
                _tune(self._terms, visitor)
                connections = [undoing.enter_context(visitor.dup()) for _ in ways]
                back = None
                if self._incoming is None:
                    back = _back(self._terms, visitor)
                    undoing.callback(back.close)
                if not _door.answer(visitor, _offer(self._terms, self._role)):
                    continue
                undoing.pop_all()
            self._stop_listening()
            for way, connection in zip(ways, connections, strict=True):
                way.connect(connection)
            self._socket, self._back, self._address = visitor, back, _said(visitor.getsockname())
            return

    def _stop_listening(self) -> None:
        door, self._door = self._door, None
        if door is not None:
            _door.answers_no_more(self)
            # Its duplicates, which the ways keep, listen as long as it does.
            self._socket.shutdown(socket.SHUT_RDWR)
            door.close()

    def _about_to_close(self, descriptor: int) -> None:
        if self.before_close is not None:
            self.before_close(descriptor)

    def _say_open(self) -> None:
        pass  # the connection says it

    def _say_lent(self) -> None:
        pass

    def _say_closed(self) -> None:
        if self._door is not None:
            self._meet(self._door)  # who knocks already finds it closed, not dead
            self._stop_listening()
        with contextlib.suppress(OSError):
            if self._outgoing is None or self._outgoing.flush():
                self._socket.send(goodbye(self.failed), socket.MSG_NOSIGNAL)
            self._socket.shutdown(socket.SHUT_WR)
            # What comes and is not read makes the kernel break the connection off, and what we sent last is lost.
            while self._socket.recv(1 << 16):
                pass

    def close(self) -> None:
        """Say that the end is closed, where it was used here; give back what the kernel gave."""
        with contextlib.ExitStack() as closing:
            closing.callback(self._socket.close)
            if self._back is not None:
                closing.callback(self._back.close)
                closing.callback(self._about_to_close, self._back.descriptors[0])
            closing.callback(self._close_door)
            self.say_closed()

    def _close_door(self) -> None:
        if self._door is not None:  # in a process that was forked from the one that listens
            _door.answers_no_more(self)
            self._door.close()

    def waits(self) -> tuple[int, ...]:
        """The descriptors that become readable when there is something to `look` at."""
        if self._door is not None:
            return self._door.waits()
        return () if self._back is None or self.over is not None else self._back.descriptors

    def look(self) -> None:
        """Bring ``over`` up to date; let in who was awaited."""
        if self._door is not None:
            self._meet(self._door)
        if self._back is not None:
            self._back.read_ahead()
        for reader in (self._incoming, self._back):
            if reader is not None and reader.over is not None:
                if self.over is None:
                    self.version += 1
                self.over = reader.over

    def await_over(self) -> None:
        """The kernel says that nobody is there: see whether there was a goodbye."""
        if self._incoming is not None:
            self._incoming.read_ahead()
        self.look()
        if self.over is None:
            self.over = Over.DIED


def is_listening(each: socket.socket) -> bool:
    """Whether a socket listens."""
    return each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def _back(terms: Terms, connection: socket.socket) -> TcpIncoming:
    return TcpIncoming(terms, os.dup(connection.fileno()), awaits=False)


def _offer(terms: Terms, role: str) -> dict[str, object]:
    """What a visitor is told, where this end has that role."""
    return {"terms": asdict(terms), "role": _PEER_ROLES[role]}


def _anybody(visitor: socket.socket) -> bool:
    return True


# --- making it ---


def make(terms: Terms) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The descriptors of the way in, and of the way out: a connection of this machine to itself."""
    with _listen("127.0.0.1:0") as listening, contextlib.ExitStack() as undoing:
        here = undoing.enter_context(socket.create_connection(listening.getsockname()))
        while True:
            select.select([listening], [], [])
            there, address = listening.accept()
            if address == here.getsockname():
                break
            there.close()  # somebody else was faster
        undoing.enter_context(there)
        for each in (here, there):
            _tune(terms, each)
        undoing.pop_all()
        return (here.detach(),), (there.detach(),)


def check(terms: Terms, descriptors: tuple[int, ...], writes: bool) -> None:
    """Raise ``ValueError`` where a way cannot be made of these."""
    _descriptors.check_number(descriptors, 1)
    _descriptors.check_socket(descriptors[0], (socket.AF_INET, socket.AF_INET6), socket.SOCK_STREAM)


def outgoing(terms: Terms, descriptor: int) -> TcpOutgoing:
    """The way out through a connection."""
    return TcpOutgoing(descriptor, awaits=False)


def incoming(terms: Terms, descriptor: int) -> TcpIncoming:
    """The way in through a connection."""
    return TcpIncoming(terms, descriptor, awaits=False)


def parts_of(end: End) -> tuple[Incoming | None, Outgoing | None, Life]:
    """The ways of an end, and what is known of the other side: of a connection, or of a socket that awaits one.

    Where no descriptor is left for another, those of the end are given back.
    """
    (descriptor,) = end.ways_in or end.ways_out or ()
    with contextlib.ExitStack() as undoing:
        undoing.callback(end.close)
        own = undoing.enter_context(socket_of(os.dup(descriptor)))
        awaits = is_listening(own)
        back = None if awaits or end.ways_in is not None else _back(end.terms, own)
        undoing.pop_all()
    way_in = None if end.ways_in is None else TcpIncoming(end.terms, *end.ways_in, awaits=awaits)
    way_out = None if end.ways_out is None else TcpOutgoing(*end.ways_out, awaits=awaits)
    return way_in, way_out, TcpLife(end.terms, way_in, way_out, own, back, role=end.role, awaits=awaits)


def _end_of(terms: Terms, each: socket.socket, role: str) -> End:
    made = copies([each.fileno()] * (2 if role == "both" else 1))
    return End(terms, None if role == "sender" else made[:1], None if role == "receiver" else made[-1:], None)


def create(terms: Terms, name: str, role: str) -> End:
    """An end that awaits a connection at an address."""
    with _listen(name) as listening:
        return _end_of(terms, listening, role)


class TcpReception:
    """Makes an end of each connection to an address."""

    def __init__(self, terms: Terms, name: str, both_ways: bool) -> None:
        self._terms = terms
        self._role = "both" if both_ways else "receiver"
        listening = _listen(name)
        self.address = _said(listening.getsockname())
        self._door = _door.Door(listening, _anybody)

    def waits(self) -> tuple[int, ...]:
        """The descriptors that become readable when there is somebody to `admit`."""
        return self._door.waits()

    def admit(self) -> End | None:
        """This side's end for the next visitor, or None where there is none now."""
        while (visitor := self._door.let_in()) is not None:
            with visitor:
                # What may fail, for want of a descriptor, is done before the visitor is told that it is in.
                _tune(self._terms, visitor)
                end = _end_of(self._terms, visitor, self._role)
                if _door.answer(visitor, _offer(self._terms, self._role)):
                    return end
                end.close()
        return None

    def close(self) -> None:
        """Let nobody in any more."""
        self._door.close()


reception = TcpReception


def opening(name: str, found: Places, timeout_s: float) -> Steps[End]:
    """An end of a connection to who listens at an address, which stands for these."""
    deadline_s = deadline(timeout_s)
    who = f"whoever listens at {name}"
    while True:
        for family, place in found:
            connection = socket.socket(family, socket.SOCK_STREAM)
            with connection:
                try:
                    yield from _connecting(connection, place, deadline_s)
                    # Where nobody listens, a connection to this machine's own port may meet itself (RFC 9293, 3.5).
                    if connection.getsockname() == connection.getpeername():
                        continue
                    said, descriptors = yield from _door.asking(connection, who, deadline_s)
                except TimeoutError:
                    raise TimeoutError(
                        f"{who} did not answer within {timeout_s:g} s: it does so while it sends, receives or accepts"
                    ) from None
                except ConnectionError as error:
                    if isinstance(error, HandshakeFailed):
                        raise
                    continue
                terms = _terms_from(said, who)
                assert not descriptors  # no network carries them
                _tune(terms, connection)
                return _end_of(terms, connection, str(said["role"]))
        _door.answer_those_of_this_thread()
        if time.monotonic() >= deadline_s:
            raise NoSuchName(
                f"nobody listens at {name}", remedy="make it with ipc.create() or ipc.listen(), and see firewalls"
            )
        yield Wait(_PAUSE_S)


def _connecting(connection: socket.socket, place: tuple[object, ...], deadline_s: float) -> Steps[None]:
    connection.setblocking(False)
    error = connection.connect_ex(place)
    while error == errno.EINPROGRESS:
        left_s = max(deadline_s - time.monotonic(), _PAUSE_S)
        if (yield Wait(left_s, writable=(connection.fileno(),))):
            error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        elif time.monotonic() >= deadline_s:
            raise TimeoutError
    if error:
        raise OSError(error, os.strerror(error))


def _terms_from(said: dict[str, object], who: str) -> Terms:
    try:
        terms = terms_of(said["terms"])
        if terms.kind != KIND.name or said["role"] not in _PEER_ROLES:
            raise ValueError(f"a {str(said['role'])[:40]} of the kind {str(terms.kind)[:40]}")
        return terms
    except (KeyError, TypeError, ValueError) as error:
        raise HandshakeFailed(
            f"{who} offers what is no channel ({error})", remedy="run both with the same version of underlay"
        ) from None
