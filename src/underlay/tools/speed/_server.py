"""The server: a door at which clients knock, and one test at a time behind it.

A connection says a cookie of 37 bytes. The first that does becomes the control connection of a test, those that say
the same cookie when the test wants streams become its streams, and all others are told that the server is busy. Who
connects and says nothing keeps nobody out.

This file knows who comes in. It refuses to know what a test is.
"""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from .._address import Place, bound_to, written
from .._complaints import cannot_listen
from ._movers import no_further_thread
from ._protocol import COOKIE_BYTES, PORT, Refusal, State
from ._session import SHORTAGES, Phase, Session, no_descriptors
from ._settings import check_interval
from ._sockets import handshakes_for
from ._watcher import Watcher

__all__ = ["Server"]

# 128 streams may come at once: MOST_STREAMS.
_BACKLOG: Final = 128
# A cookie comes with the connection, or nearly.
_COOKIE_PATIENCE_S: Final = 5.0
# Where descriptors are short, one that was silent for longer makes room for the next.
_SPEAKS_WITHIN_S: Final = 0.5
# Connections that have not yet said their cookie, or wait for the server, or hear that it is busy: with more, the
# first of them goes.
_MOST_NEWCOMERS: Final = 256
# How long one that was sent away has to read why. Were it closed at once, with its cookie unread, the kernel would
# send a reset, which overtakes the answer: RFC 9293, 3.10.4 and RFC 1122, 4.2.2.13.
_REFUSED_PATIENCE_S: Final = 1.0
_LOOK_S: Final = 0.5
# The longest that a test takes to notice that it was broken off: its waits for a peer end at once, those for the
# streams' threads within END_PATIENCE_S.
_SESSION_PATIENCE_S: Final = 5.0


@dataclass(slots=True, eq=False)
class _Newcomer:
    sock: socket.socket
    peer: str
    deadline: float
    cookie: bytearray = field(default_factory=bytearray)
    is_refused: bool = False

    @property
    def has_spoken(self) -> bool:
        """Whether it has said its cookie."""
        return len(self.cookie) == COOKIE_BYTES


class Server:
    """An iperf3 server, for stock clients as for ours: one test at a time, of TCP or UDP, each way or both.

    An empty ``host`` is every address of this machine, of both families. Port 0 lets the kernel choose; `port` tells.
    ``serve`` blocks, `in_thread` serves beside the caller; leaving the ``with`` block closes everything. Every
    ``interval_s`` seconds (0.1 to 60; 0 for never) of a test ``watcher`` is told what moved.

    Raises ``UsageError`` when the port is taken, or the right to it is missing, or for an interval that no test can
    have, ``UnderlayError`` when the kernel refuses the port otherwise.

    >>> with Server("127.0.0.1", 0) as server, server.in_thread():
    ...     server.port > 0
    True
    """

    def __init__(
        self,
        host: str = "",
        port: int = PORT,
        *,
        family: int = socket.AF_UNSPEC,
        interval_s: float = 1.0,
        watcher: Watcher | None = None,
    ) -> None:
        check_interval(interval_s)
        self._watcher = watcher or Watcher()
        self._interval_s = interval_s
        self._selector = selectors.DefaultSelector()
        self._newcomers: dict[socket.socket, _Newcomer] = {}
        self._session: Session | None = None
        self._thread: threading.Thread | None = None
        self._is_stopped = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._listeners: list[socket.socket] = []
        try:
            self._listeners = _listen(host, port, family)
        except BaseException:
            self._close()
            raise
        for listener in self._listeners:
            self._selector.register(listener, selectors.EVENT_READ)

    @property
    def port(self) -> int:
        """The TCP port that clients connect to; UDP streams have the same number."""
        return int(self._listeners[0].getsockname()[1])

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as a person writes it."""
        return [bound_to(listener) for listener in self._listeners]

    @property
    def is_stuck(self) -> bool:
        """Whether a test that `serve` broke off as it ended goes on: its watcher keeps it, as one that prints does."""
        return self._thread is not None and self._thread.is_alive()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close everything; not while `serve` runs, which `stop` ends."""
        for newcomer in list(self._newcomers.values()):
            self._drop(newcomer)
        self._close()

    def stop(self) -> None:
        """Let `serve` return; from any thread, or a signal's handler."""
        self._is_stopped = True
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[None]:
        """Serve in a thread of its own until the block ends."""
        thread = threading.Thread(target=self.serve, name="speed server", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.stop()
            thread.join()

    def serve(self, *, one_off: bool = False) -> bool:
        """Serve clients until `stop`, or, with ``one_off``, until one test is over; tell whether the last went well.

        A test that breaks is told to the watcher and ends nothing but itself. One that still runs when this returns,
        or is interrupted, is broken off, and its client is told.
        """
        self._watcher.listening(self.addresses)
        complete = True
        try:
            while not self._is_stopped:
                self._look(self._selector.select(self._next_s()))
                if (session := self._take_finished()) is not None:
                    complete = session.is_complete
                    if one_off:
                        break
                self._drop_the_late()
                self._admit_who_waits()
        finally:
            self._end_session()
        return complete

    def _look(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, _ in ready:
            sock = key.fileobj
            if not isinstance(sock, socket.socket):
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            elif sock in self._listeners:
                self._accept(sock)
            elif (newcomer := self._newcomers.get(sock)) is not None:  # one before it may have sent it away
                self._hear(newcomer)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, address = listener.accept()
        except OSError as error:
            # It went away, or we are out of descriptors: then the others' ends have to come first, and a test that
            # waits for its streams waits in vain. But who has said nothing as yet keeps nobody out.
            if error.errno in SHORTAGES:
                if self._make_room(_SPEAKS_WITHIN_S):
                    return
                if self._session is not None and all(each.has_spoken for each in self._newcomers.values()):
                    self._session.lack(error)
            time.sleep(0.01)
            return
        if len(self._newcomers) >= _MOST_NEWCOMERS:
            self._drop(next(iter(self._newcomers.values())))
        sock.setblocking(False)
        newcomer = _Newcomer(sock, written(address), time.monotonic() + _COOKIE_PATIENCE_S)
        self._newcomers[sock] = newcomer
        self._selector.register(sock, selectors.EVENT_READ)
        session = self._session
        if session is not None and session.phase is Phase.BUSY and not session.is_leaving:
            self._refuse(newcomer)

    def _make_room(self, silent_s: float = 0.0) -> bool:
        """Drop the first of those that have said nothing for so long, and tell whether there was one."""
        latest = time.monotonic() + _COOKIE_PATIENCE_S - silent_s
        for newcomer in self._newcomers.values():
            if not newcomer.has_spoken and newcomer.deadline <= latest:
                self._drop(newcomer)
                return True
        return False

    def _hear(self, newcomer: _Newcomer) -> None:
        try:
            data = newcomer.sock.recv(4096 if newcomer.is_refused else COOKIE_BYTES - len(newcomer.cookie))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(newcomer)
        elif not newcomer.is_refused:
            newcomer.cookie += data
            if newcomer.has_spoken:
                # No longer heard here: what follows is for whoever gets the connection.
                self._selector.unregister(newcomer.sock)
                self._admit(newcomer)

    def _admit(self, newcomer: _Newcomer) -> None:
        """Give a connection to whom its cookie names; let it wait while the last client is leaving."""
        session = self._session
        if session is not None and session.is_leaving:
            return
        if session is not None and (session.phase is Phase.BUSY or session.cookie != newcomer.cookie):
            self._selector.register(newcomer.sock, selectors.EVENT_READ)
            self._refuse(newcomer)
            return
        del self._newcomers[newcomer.sock]
        newcomer.sock.setblocking(True)
        if session is not None:
            session.offer(newcomer.sock)
            return
        try:
            self._session = self._make_session(newcomer)
        except OSError as error:  # it went away, or we are out of descriptors
            if error.errno in SHORTAGES:
                with contextlib.suppress(OSError):
                    newcomer.sock.send(Refusal.STREAM.wire(error.errno))
                self._watcher.broken(no_descriptors(newcomer.peer, error), None)
            newcomer.sock.close()
            return
        self._thread = threading.Thread(target=self._run_session, args=(self._session,), name="speed test", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the user, or the machine, may have no further one
            self._thread = None
            self._session.refuse(no_further_thread())

    def _make_session(self, newcomer: _Newcomer) -> Session:
        while True:
            try:
                return Session(
                    newcomer.sock,
                    bytes(newcomer.cookie),
                    port=self.port,
                    handshakes_for=functools.partial(handshakes_for, self._listeners),
                    interval_s=self._interval_s,
                    watcher=self._watcher,
                )
            except OSError as error:
                if error.errno not in SHORTAGES or not self._make_room():
                    raise

    def _run_session(self, session: Session) -> None:
        session.run()
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def _admit_who_waits(self) -> None:
        for newcomer in list(self._newcomers.values()):
            if newcomer.has_spoken and not newcomer.is_refused:
                self._admit(newcomer)

    def _refuse(self, newcomer: _Newcomer) -> None:
        newcomer.is_refused = True
        newcomer.deadline = time.monotonic() + _REFUSED_PATIENCE_S
        try:
            newcomer.sock.send(State.ACCESS_DENIED.wire)
            newcomer.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(newcomer)
        self._watcher.refused(newcomer.peer)

    def _drop(self, newcomer: _Newcomer) -> None:
        if self._newcomers.pop(newcomer.sock, None) is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(newcomer.sock)
            newcomer.sock.close()

    def _drop_the_late(self) -> None:
        now = time.monotonic()
        for newcomer in [each for each in self._newcomers.values() if each.deadline <= now]:
            if newcomer.has_spoken and not newcomer.is_refused:  # it waited for a test that does not come to its end
                self._selector.register(newcomer.sock, selectors.EVENT_READ)
                self._refuse(newcomer)
            else:
                self._drop(newcomer)

    def _next_s(self) -> float:
        first = min((newcomer.deadline for newcomer in self._newcomers.values()), default=None)
        return _LOOK_S if first is None else max(0.0, min(first - time.monotonic(), _LOOK_S))

    def _take_finished(self) -> Session | None:
        session, thread = self._session, self._thread
        if session is None or not session.has_ended:
            return None
        if thread is not None:
            thread.join()  # it has only to say so
        session.drop_offers()
        self._session = self._thread = None
        if session.bug is not None:
            raise session.bug
        return session

    def _end_session(self) -> None:
        if self._session is not None and self._thread is not None:
            self._session.interrupt()
            self._thread.join(_SESSION_PATIENCE_S)

    def _close(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._selector.close()
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1


def _listen(host: str, port: int, family: int) -> list[socket.socket]:
    """Bind each address that the host has, on one port; an empty host is every address, by one socket."""
    listeners: list[socket.socket] = []
    place = Place(host, port)
    try:
        if not host and family == socket.AF_UNSPEC and socket.has_dualstack_ipv6():
            listeners.append(_listener(socket.AF_INET6, ("::", port), only_6=False))
            return listeners
        wanted = family if host or family else socket.AF_INET
        found = socket.getaddrinfo(host or None, port, wanted, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
        for each, _, _, _, address in found:
            # The same port for all, where the kernel chose the first.
            at = (address[0], listeners[0].getsockname()[1] if listeners else port, *address[2:])
            listeners.append(_listener(each, at, only_6=True))
        return listeners
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise cannot_listen(place, error, reuse_address=True, may_share=False) from error


def _listener(family: int, address: tuple[object, ...], *, only_6: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only_6))
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
        return sock
    except BaseException:
        sock.close()
        raise
