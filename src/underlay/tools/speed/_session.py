"""The server's side of one test, from the cookie to the results.

It runs in a thread of its own, one call after another, each with a deadline: a client that is killed, or silent, or
means harm, costs its own test and no more. The door (`_server.py`) hands it the streams' connections.

This file knows the order of the server's part of iperf3's protocol. It refuses to know the listening socket.

Source: iperf3's src/iperf_server_api.c.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import queue
import select
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final

from ...errors import UnderlayError, UsageError
from .._address import written
from .._complaints import reason
from ._movers import close_all
from ._protocol import Control, PeerError, Refusal, State
from ._results import PeerResults, Result
from ._run import Run
from ._settings import MOST_TIME_S, RefusedSettings, Settings
from ._sockets import set_up, udp_stream, udp_welcome, welcome_again
from ._streams import Stream, make_stream, stream_number
from ._watcher import Watcher

__all__ = ["SHORTAGES", "Phase", "Session", "no_descriptors"]

SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What the kernel says where this machine has no more of something: no client's fault."""

# iperf3's client does each of these at once; the way to it may be long, and its first packets may be lost.
_PATIENCE_S: Final = 10.0
# What a client's test may take longer than it said: iperf3's own grace is 5 s (create_server_timers), and the way back
# of a test that has filled a queue is long.
_GRACE_S: Final = 10.0
# A test that bytes end may go on for as long as one that the clock ends: a byte now and then is no reason to keep all
# other clients out for ever.
_MOST_BY_SIZE_S: Final = MOST_TIME_S
# The client has all it wants then. Others wait for it, so this is short.
_GOODBYE_PATIENCE_S: Final = 1.0
_LOOK_S: Final = 0.05


def no_descriptors(peer: str, error: OSError) -> UnderlayError:
    """Say which of `SHORTAGES` a client's test ended by."""
    return UnderlayError(f"no streams for {peer}: {reason(error)}", remedy="`ulimit -n` tells how many")


class Phase(enum.Enum):
    """What the door does with a newcomer: ask for its cookie, send it away, or let it wait."""

    WANTS_STREAMS = enum.auto()
    BUSY = enum.auto()
    LEAVING = enum.auto()


class Session:
    """One test of one client. It owns the control connection and the streams."""

    def __init__(
        self,
        sock: socket.socket,
        cookie: bytes,
        *,
        port: int,
        handshakes_for: Callable[[Settings], AbstractContextManager[None]],
        interval_s: float,
        watcher: Watcher,
    ) -> None:
        self.cookie = cookie
        self.phase = Phase.BUSY
        self.bug: BaseException | None = None
        self.is_complete = False
        self._is_interrupted = False
        self.has_ended = False
        address = sock.getpeername()
        self._client_host: str = address[0]
        self.control = Control(sock, f"the client at {written(address)}", at_client=False)
        self._port = port
        self._handshakes_for = handshakes_for
        self._interval_s = interval_s
        self._watcher = watcher
        self._offers: queue.SimpleQueue[socket.socket | OSError] = queue.SimpleQueue()
        self._streams: list[Stream] = []
        self._notes: list[str] = []
        self._run: Run | None = None

    @property
    def is_leaving(self) -> bool:
        """Whether its client has all it wants, or went away: who comes next has to wait for a moment only."""
        try:
            return self.phase is Phase.LEAVING or self.control.has_ended()
        except ValueError:
            return True  # it was closed in this moment

    def offer(self, sock: socket.socket) -> None:
        """Take the connection of a stream, which has said our cookie."""
        self._offers.put(sock)

    def lack(self, error: OSError) -> None:
        """Take note that no connection can be taken: one of `SHORTAGES`."""
        if self.phase is Phase.WANTS_STREAMS:
            self._offers.put(error)

    def run(self) -> None:
        """Lead the test through its states; nothing of it is left afterwards."""
        try:
            result = self._test()
            self.is_complete = True
            self._watcher.finished(result)
        except UnderlayError as error:
            if self._run is not None:
                self._run.end()
            ours = PeerError(f"this server was stopped in the midst of the test of {self.control.peer}")
            self._break_off(ours if self._is_interrupted else error)
        except MemoryError:
            self._break_off(
                UnderlayError(f"no memory for the test of {self.control.peer}", remedy="`ulimit -v` may be too low")
            )
        except BaseException as error:
            self.bug = error
        finally:
            self._close()
            self.has_ended = True

    def refuse(self, error: UnderlayError) -> None:
        """End a test that cannot begin, as `run` ends one that broke."""
        self._break_off(error)
        self._close()
        self.has_ended = True

    def drop_offers(self) -> None:
        """Close the connections that came too late."""
        while not self._offers.empty():
            if isinstance(offer := self._offers.get(), socket.socket):
                offer.close()

    def interrupt(self) -> None:
        """Break the test off from another thread, and tell the client."""
        self._is_interrupted = True
        try:
            self.control.sock.send(State.SERVER_TERMINATE.wire)
            self.control.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is over anyway

    def _test(self) -> Result:
        control = self.control
        control.send_state(State.PARAM_EXCHANGE)
        settings = self._settings(control)
        self._gather(settings)
        control.send_state(State.TEST_START)
        run = self._run = Run(
            settings,
            self._streams,
            control,
            at_client=False,
            interval_s=self._interval_s,
            on_interval=self._watcher.interval,
        )
        self._watcher.started(control.peer, settings)
        control.send_state(State.TEST_RUNNING)
        run.start()
        longest_s = _MOST_BY_SIZE_S if settings.ends_by_size else settings.time_s
        state = run.drive(settings.omit_s + longest_s + _GRACE_S)
        if state is State.CLIENT_TERMINATE:
            raise PeerError(f"{control.peer} broke its test off")
        if state is not State.TEST_END:
            raise PeerError(f"{control.peer} said {state.name if state else state} in the middle of its test")
        run.end()
        close_all(self._streams)  # a client that receives reads until their end
        control.send_state(State.EXCHANGE_RESULTS)
        told = control.receive_json(_PATIENCE_S)
        found = PeerResults.read(told, control.peer, [stream.number for stream in self._streams])
        control.send_json(run.to_results())
        self.phase = Phase.LEAVING
        control.send_state(State.DISPLAY_RESULTS)
        self._hear_goodbye()
        return run.result(found, self._notes)

    def _settings(self, control: Control) -> Settings:
        told = control.receive_json(_PATIENCE_S)
        try:
            return Settings.from_parameters(told)
        except RefusedSettings as error:
            control.send_refusal(error.refusal)
            raise PeerError(f"{control.peer} asked for what this server does not do: {error}") from None

    def _gather(self, settings: Settings) -> None:
        try:
            if settings.is_udp:
                self._gather_udp(settings)
            else:
                self._gather_tcp(settings)
        except OSError as error:
            if error.errno in SHORTAGES:
                raise no_descriptors(self.control.peer, error) from error
            raise PeerError(f"{self.control.peer} could not make its streams: {reason(error)}") from error

    def _gather_tcp(self, settings: Settings) -> None:
        try:
            with self._handshakes_for(settings):
                self.phase = Phase.WANTS_STREAMS
                self.control.send_state(State.CREATE_STREAMS)
                deadline = time.monotonic() + _PATIENCE_S
                for at, sends in enumerate(settings.is_sender(at_client=False)):
                    sock = self._next_offer(deadline, at)
                    self._add(sock, settings, sends)
        finally:
            self.phase = Phase.BUSY

    def _next_offer(self, deadline: float, count: int) -> socket.socket:
        while True:
            try:
                offer = self._offers.get(timeout=_LOOK_S)
            except queue.Empty:
                self._look_whether_it_is_there(deadline, count)
                continue
            if isinstance(offer, OSError):
                raise offer
            return offer

    def _gather_udp(self, settings: Settings) -> None:
        local = self.control.sock.getsockname()
        try:
            welcome = udp_welcome((local[0], self._port, *local[2:]), self.control.sock.family)
        except OSError as error:
            raise UnderlayError(
                f"cannot bind UDP port {self._port} for {self.control.peer}: {reason(error)}"
            ) from error
        with welcome:
            self.control.send_state(State.CREATE_STREAMS)
            deadline = time.monotonic() + _PATIENCE_S
            for at, sends in enumerate(settings.is_sender(at_client=False)):
                self._add(self._next_udp(welcome, settings, deadline, at), settings, sends)

    def _next_udp(self, welcome: socket.socket, settings: Settings, deadline: float, count: int) -> socket.socket:
        waits = select.poll()
        for each in (welcome, *(stream.sock for stream in self._streams)):
            waits.register(each, select.POLLIN)
        while True:
            ready = dict(waits.poll(_LOOK_S * 1000))
            for stream in self._streams:
                if stream.sock.fileno() in ready:
                    welcome_again(stream.sock)
            if welcome.fileno() in ready and (sock := udp_stream(welcome, self._client_host, settings)) is not None:
                return sock
            self._look_whether_it_is_there(deadline, count)

    def _look_whether_it_is_there(self, deadline: float, count: int) -> None:
        if self.control.has_ended():
            raise PeerError(f"{self.control.peer} went away before its test began")
        if time.monotonic() > deadline:
            raise PeerError(f"{self.control.peer} made {count} of its streams and no more in {_PATIENCE_S:g} s")

    def _add(self, sock: socket.socket, settings: Settings, sends: bool) -> None:
        try:
            stream = make_stream(stream_number(len(self._streams)), sock, settings, is_sender=sends)
        except BaseException:
            sock.close()
            raise
        self._streams.append(stream)
        if settings.is_udp:
            return
        try:
            set_up(sock, settings)
        except UsageError as error:
            # As iperf3 does: the client sees by the name in our results that it is another.
            set_up(sock, replace(settings, congestion="", mss_bytes=0))
            if str(error) not in self._notes:
                self._notes.append(str(error))

    def _hear_goodbye(self) -> None:
        try:
            self.control.expect_state(_GOODBYE_PATIENCE_S, "at its end")
        except PeerError:
            pass  # it has its results, and needs no manners

    def _break_off(self, error: UnderlayError) -> None:
        """Tell who watches, and the client where it is this end that cannot go on."""
        if not isinstance(error, PeerError):
            cause = error.__cause__
            number = cause.errno if isinstance(cause, OSError) else errno.EAGAIN  # of threads: pthread_create(3)
            with contextlib.suppress(PeerError):  # it has gone as well
                self.control.send_refusal(Refusal.STREAM, number or 0)
        try:
            self._watcher.broken(error, None if self._run is None else self._run.result(None, self._notes))
        except BaseException as other:
            self.bug = other

    def _close(self) -> None:
        self.phase = Phase.LEAVING
        close_all(self._streams)
        self.control.close()
        self.drop_offers()
