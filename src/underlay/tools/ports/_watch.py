"""Changes of sockets as they happen: what opened, what changed its state, what closed.

This file compares two looks, and knows what wakes it between them: the kernel's own message for each TCP and UDP
socket that it destroys (any user may hear it), and for root the tracepoint of TCP's states. UDP sockets that open, and
all Unix sockets, show at the next look. It refuses to print.

A message of a socket's end carries its addresses and its cookie, so that one which came and went between two looks is
told as well. A state that lasted less than the time between two looks is not.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final, NamedTuple

from ...link._netlink import HEADER, PART_BYTES, aligned
from ._connectors import Connector, Connectors
from ._diag import look_up, read_dead
from ._filter import Filter
from ._list import SOCK_DIAG, open_diag, take_snapshot
from ._owners import find_owners
from ._socket import Socket, State
from ._tracepoint import Tracepoint, TracepointUnavailable

__all__ = ["Change", "Watch"]

# SKNLGRP_INET_TCP_DESTROY, _INET_UDP_, _INET6_TCP_ and _INET6_UDP_ of linux/sock_diag.h are groups 1 to 4.
_DEATHS: Final = 0b1111
# Some 4000 messages of 380 bytes, as the kernel counts them; what is lost beyond is told, and found by the next look.
_DEATHS_BYTES: Final = 4 << 20
# After an event others follow at once (a handshake has three); a look in so long sees them all.
_SETTLE_S: Final = 0.05
# A look of ten thousand sockets takes 30 ms; all looks may take a fifth of a processor, and no more.
_REST: Final = 4
# asm-generic/socket.h: beyond net.core.rmem_max, for root.
_SO_RCVBUFFORCE: Final = 33
# As many messages are read before looking again, however fast sockets end.
_MOST_AT_ONCE: Final = 1024
# The last cookies of those that were told as closed: the message of the end may come after the look that missed them,
# and is not to be told as that of a socket which came and went.
_MOST_CLOSED: Final = 65_536


class Change(NamedTuple):
    """One socket that is no longer as it was."""

    kind: str
    """``opened``, ``changed`` or ``closed``; ``passed`` for one that came and went between two looks, of which only the
    ends are known."""
    time_s: float
    """When it was noticed, in seconds since 1970."""
    socket: Socket
    before: State | None = None
    """The state that it was in before, of one that changed."""
    connected_by: Connector | None = None
    """Who connected it, of a TCP connection that no process holds any more, as far as the tracepoint told."""


class Watch:
    """The changes of the sockets that a filter means, from now on; iterate over it.

    ``interval_s`` is the time between two looks when nothing wakes it.

    >>> with Watch(Filter(["proto:tcp", "state:listen"]), interval_s=0.1) as watch:
    ...     changes = iter(watch)
    ...     with socket.create_server(("127.0.0.1", 0)) as server:
    ...         port = server.getsockname()[1]
    ...         next(change.kind for change in changes if change.socket.local_port == port)
    'opened'
    """

    def __init__(self, only: Filter, *, interval_s: float = 1.0) -> None:
        if not 0.01 <= interval_s <= 3600:
            raise ValueError(f"interval_s is {interval_s}, and has to be between 0.01 and 3600")
        self.only = only
        self.interval_s = interval_s
        self.lost_messages = 0
        """So often the kernel had no room for its messages: the ends of some sockets were found by looking."""
        self.tracepoint: Tracepoint | None = None
        self.why_no_tracepoint = ""
        """Why the tracepoint is not heard; empty where it is."""
        self._stack = ExitStack()
        self._is_open = True
        self._closed: OrderedDict[int, None] = OrderedDict()
        self._poll = select.poll()
        self._stirred = False
        try:
            self._kernel = self._stack.enter_context(open_diag())
            self._deaths = self._hear_deaths()
            self._hear_states()
            self._known = {sock.cookie: sock for sock in self._first_look()}
            self._looked_at = time.monotonic()
            self._look_took_s = 0.0
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hear no more; an iteration ends."""
        self._is_open = False
        self._stack.close()

    @property
    def hears_deaths(self) -> bool:
        """Whether the kernel's messages of sockets' ends are heard."""
        return self._deaths is not None

    @property
    def sockets(self) -> list[Socket]:
        """Those that are there, as far as was noticed."""
        return list(self._known.values())

    def _hear_deaths(self) -> socket.socket | None:
        if not any(self.only.wants(protocol, family) for protocol in ("tcp", "udp") for family in (4, 6)):
            return None
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        deaths = self._stack.enter_context(socket.socket(socket.AF_NETLINK, kind, SOCK_DIAG))
        try:
            deaths.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _DEATHS_BYTES)
        except PermissionError:
            deaths.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _DEATHS_BYTES)
        try:
            deaths.bind((0, _DEATHS))
        except OSError:
            return None  # before Linux 4.3 there are none
        self._poll.register(deaths, select.POLLIN)
        return deaths

    def _hear_states(self) -> None:
        if not (self.only.wants("tcp", 4) or self.only.wants("tcp", 6)):
            return
        try:
            self.tracepoint = self._stack.enter_context(Tracepoint())
        except TracepointUnavailable as reason:
            self.why_no_tracepoint = str(reason)
            return
        self._connectors = Connectors()
        for descriptor in self.tracepoint.descriptors:
            self._poll.register(descriptor, select.POLLIN)

    def _first_look(self) -> list[Socket]:
        try:
            return take_snapshot(self.only).sockets
        except OSError as error:
            if self.tracepoint is None or error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            # It has two descriptors for each processor, and a look needs some: rather look than hear.
            self.why_no_tracepoint = os.strerror(error.errno).lower()
        for descriptor in self.tracepoint.descriptors:
            self._poll.unregister(descriptor)
        self.tracepoint.close()
        self.tracepoint = None
        return take_snapshot(self.only).sockets

    def __iter__(self) -> Iterator[Change]:
        """Wait for changes and give each, until it is closed."""
        due = self._next_look(self.interval_s)
        while self._is_open:
            if self._stirred:
                self._stirred = False
                due = min(due, max(time.monotonic() + _SETTLE_S, self._next_look()))
            patience_s = max(0.0, due - time.monotonic())
            ready = {descriptor for descriptor, _ in self._poll.poll(patience_s * 1000)}
            dead: list[bytes] = []
            if self._deaths is not None and self._deaths.fileno() in ready:
                dead += self._read_deaths(self._deaths)
            # Behind the messages of ends: who connected what ended was recorded before.
            self._learn()
            for message in dead:
                if (change := self._died(message)) is not None:
                    yield change
            if time.monotonic() >= due:
                yield from self._look()
                due = self._next_look(self.interval_s)

    def _next_look(self, patience_s: float = 0.0) -> float:
        """When to look again: after so long, and not before the last look has been rested from."""
        return self._looked_at + max(patience_s, self._look_took_s * _REST)

    def _learn(self) -> None:
        """Take what the tracepoint recorded, which is a reason to look again."""
        if self.tracepoint is None:
            return
        lost, transitions = self.tracepoint.lost, self.tracepoint.read()
        if self.tracepoint.lost == lost:
            self._connectors.learn(transitions)
        else:
            self._connectors.forget()
        self._stirred = self._stirred or bool(transitions)

    def _opened(self, sock: Socket, now: float) -> Change:
        return Change("opened", now, sock, connected_by=self._connected_by(sock))

    def _connected_by(self, sock: Socket) -> Connector | None:
        return None if sock.owners or self.tracepoint is None else self._connectors.of(sock)

    def _look(self) -> Iterator[Change]:
        if not self._is_open:
            return  # whoever was given the last change has closed it
        began = time.monotonic()
        if self.tracepoint is not None:
            self._connectors.look_again()
        seen = {sock.cookie: sock for sock in take_snapshot(self.only, owners=False).sockets}
        now = time.time()
        changes: list[Change] = []
        for cookie, sock in list(self._known.items()):
            if cookie not in seen and (change := self._gone(sock, now)) is not None:
                changes.append(change)
        fresh = [cookie for cookie in seen if cookie not in self._known]
        held = find_owners().by_inode if any(seen[cookie].inode for cookie in fresh) else {}
        self._learn()
        for cookie in fresh:
            sock = seen[cookie]
            self._known[cookie] = sock = sock._replace(owners=held.get(sock.inode, ()))
            changes.append(self._opened(sock, now))
        for cookie, sock in seen.items():
            before = self._known.get(cookie)
            if before is not None and before.state is not sock.state:
                self._known[cookie] = sock = sock._replace(owners=before.owners)
                changes.append(Change("changed", now, sock, before.state))
        self._looked_at = time.monotonic()
        self._look_took_s = self._looked_at - began
        yield from changes

    def _gone(self, sock: Socket, now: float) -> Change | None:
        """What became of a known socket that was not seen, or that the kernel called dead; None for nothing."""
        # A dump passes over some while others come and go, and TIME-WAIT has its socket's addresses and cookie.
        left = None if sock.protocol == "unix" else look_up(self._kernel, sock)
        if left is not None and left.cookie == sock.cookie:
            if left.state is sock.state:
                return None
            left = left._replace(owners=sock.owners)
            if self.only.states is None or left.state in self.only.states:
                self._known[sock.cookie] = left
                return Change("changed", now, left, sock.state)
        del self._known[sock.cookie]
        self._remember_closed(sock.cookie)
        return Change("closed", now, sock)

    def _remember_closed(self, cookie: int) -> None:
        self._closed[cookie] = None
        if len(self._closed) > _MOST_CLOSED:
            self._closed.popitem(last=False)

    def _read_deaths(self, deaths: socket.socket) -> Iterator[bytes]:
        for _ in range(_MOST_AT_ONCE):
            try:
                part = deaths.recv(PART_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost_messages += 1
                continue
            start = 0
            while start + HEADER.size <= len(part):
                length = HEADER.unpack_from(part, start)[0]
                if length < HEADER.size:
                    break
                yield part[start : start + length]
                start += aligned(length)

    def _died(self, message: bytes) -> Change | None:
        dead = read_dead(message)
        if dead is None or not self._is_open:
            return None
        now = time.time()
        if (known := self._known.get(dead.cookie)) is not None:
            return self._gone(known, now)
        if dead.cookie in self._closed or not self.only.matches_ends(dead):
            return None
        self._remember_closed(dead.cookie)
        # A socket has no cookie before somebody asks for it, so that what it left in TIME-WAIT, or waiting for its
        # peer's FIN, has got another one.
        left = look_up(self._kernel, dead._replace(cookie=0)) if dead.protocol == "tcp" else None
        if left is None or left.state not in (State.TIME_WAIT, State.FIN_WAIT_2):
            return Change("passed", now, dead, connected_by=self._connected_by(dead))
        if left.cookie in self._known:
            return None
        self._known[left.cookie] = left
        return self._opened(left, now)
