"""The client of a test: it connects, says what is to be done, makes the streams, and ends it.

This file knows the order of the client's part of iperf3's protocol. It refuses to know what a stream does.

Source: iperf3's src/iperf_client_api.c.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

from ...errors import UnderlayError, UsageError
from .._address import Place
from .._complaints import cannot_connect
from ._movers import close_all
from ._protocol import PORT, Control, PeerError, State, new_cookie
from ._results import PeerResults, Result
from ._run import REASON_S, Run
from ._settings import MOST_TIME_S, Settings, check_interval
from ._sockets import Target, connect, connect_udp, mss_of, resolve
from ._streams import Stream, make_stream, stream_number
from ._watcher import Watcher

__all__ = ["Client", "measure"]

# A server may be slow to answer; its results come through a queue that the test itself has filled.
_ANSWER_PATIENCE_S: Final = 10.0
_RESULTS_PATIENCE_S: Final = 30.0


def measure(
    host: str,
    settings: Settings | None = None,
    *,
    port: int = PORT,
    family: int = socket.AF_UNSPEC,
    source: str = "",
    connect_timeout_s: float = 5.0,
    interval_s: float = 1.0,
    watcher: Watcher | None = None,
) -> Result:
    """Run one test against an iperf3 server, ours or another, and give what both ends found.

    It blocks for as long as the test lasts; from a coroutine, call it by `asyncio.to_thread`. ``source`` is a local
    address to send from. Every ``interval_s`` seconds (0.1 to 60; 0 for never) ``watcher`` is told what moved.

    Raises ``PeerError`` when the server is busy, breaks the test off or does not speak iperf3's protocol,
    ``UnderlayError`` when it cannot be reached, ``UsageError`` for what this kernel cannot do, and for an interval that
    no test can have.

    >>> from underlay.tools.speed import Server, Settings, measure
    >>> with Server("127.0.0.1", 0) as server, server.in_thread():
    ...     result = measure("127.0.0.1", Settings(size_bytes=1_000_000), port=server.port)
    >>> result.totals[0].sent_bytes
    1000000
    """
    client = Client(
        Place(host, port), settings or Settings(), family, source, connect_timeout_s, interval_s, watcher or Watcher()
    )
    return client.run()


class Client:
    """One test, from the client's side. After an interruption `partial` gives what there was."""

    def __init__(
        self,
        place: Place,
        settings: Settings,
        family: int,
        source: str,
        connect_timeout_s: float,
        interval_s: float,
        watcher: Watcher,
    ) -> None:
        check_interval(interval_s)
        if not 0 < connect_timeout_s <= MOST_TIME_S:
            raise UsageError(
                f"nobody is connected to within {connect_timeout_s:g} s", remedy=f"give up to {MOST_TIME_S} s"
            )
        self._place = place
        self._settings = settings
        self._family = family
        self._source = source
        self._connect_timeout_s = connect_timeout_s
        self._interval_s = interval_s
        self._watcher = watcher
        self._streams: list[Stream] = []
        self._run: Run | None = None

    def run(self) -> Result:
        """Do the test to its end; whatever happens, no socket and no thread of it is left."""
        target, control = self._connect()
        try:
            return self._test(target, control)
        except BaseException as error:
            if not isinstance(error, PeerError):
                self._say_that_we_end(control)
            raise
        finally:
            close_all(self._streams)
            control.close()

    def partial(self) -> Result | None:
        """What was found by now, without the server's part; None where the test has not begun."""
        return None if self._run is None else self._run.result(None)

    def _connect(self) -> tuple[Target, Control]:
        failure: OSError | None = None
        for target in resolve(self._place, self._family):
            try:
                sock = connect(target, None, self._source, self._connect_timeout_s)
            except OSError as error:
                failure = failure or error
                continue
            return target, Control(sock, f"the server at {self._place}", at_client=True)
        assert failure is not None  # getaddrinfo gives one address at least
        raise self._unreachable(failure) from failure

    def _unreachable(self, failure: OSError) -> UnderlayError:
        if isinstance(failure, TimeoutError) and failure.errno is None:
            return UnderlayError(
                f"time-out: {self._place} did not answer within {self._connect_timeout_s:g} s",
                remedy="a packet filter drops what it does not want without a word",
            )
        if self._source and failure.errno == errno.EADDRNOTAVAIL:
            return UsageError(
                f"cannot send from {self._source} to {self._place}: it is no address of that family",
                remedy="--bind takes an address of this machine, of IPv4 or IPv6 as the server's is",
            )
        return cannot_connect(self._place, failure)

    def _test(self, target: Target, control: Control) -> Result:
        cookie = new_cookie()
        control.send_bytes(cookie)
        self._expect(control, State.PARAM_EXCHANGE, "it was asked for a test")
        settings = self._settings = self._settings.with_length(mss_of(control.sock))
        control.send_json(settings.to_parameters())
        self._expect(control, State.CREATE_STREAMS, "it was told what to test")
        self._make_streams(target, control, cookie)
        self._expect(control, State.TEST_START, "it had the streams")
        self._expect(control, State.TEST_RUNNING, "it began")
        run = self._run = Run(
            settings,
            self._streams,
            control,
            at_client=True,
            interval_s=self._interval_s,
            on_interval=self._watcher.interval,
        )
        self._watcher.started(control.peer, settings)
        run.start()
        try:
            if (state := run.drive()) is not None:
                raise PeerError(f"{control.peer} said {state.name} in the middle of the test")
        finally:
            run.end()
        control.send_state(State.TEST_END)
        self._expect(control, State.EXCHANGE_RESULTS, "the test had ended", _RESULTS_PATIENCE_S)
        control.send_json(run.to_results())
        told = control.receive_json(_RESULTS_PATIENCE_S)
        found = PeerResults.read(told, control.peer, [stream.number for stream in self._streams])
        self._expect(control, State.DISPLAY_RESULTS, "the results were told")
        control.send_state(State.IPERF_DONE)
        result = run.result(found)
        self._watcher.finished(result)
        return result

    def _make_streams(self, target: Target, control: Control, cookie: bytes) -> None:
        settings = self._settings
        for at, sends in enumerate(settings.is_sender(at_client=True)):
            try:
                if settings.is_udp:
                    sock = connect_udp(target, settings, self._source, control.sock, control.peer)
                else:
                    sock = connect(target, settings, self._source, self._connect_timeout_s)
            except PeerError:
                self._hear_why(control)
                raise
            except OSError as error:
                self._hear_why(control)
                raise self._unreachable(error) from error
            stream = make_stream(stream_number(at), sock, settings, is_sender=sends)
            self._streams.append(stream)
            if not settings.is_udp:
                try:
                    sock.sendall(cookie)
                except OSError as error:
                    self._hear_why(control)
                    raise self._unreachable(error) from error

    def _hear_why(self, control: Control) -> None:
        """Raise what the server says of a stream that cannot be made, where that is its doing."""
        control.wait_state(REASON_S)

    def _expect(self, control: Control, wanted: State, when: str, patience_s: float | None = None) -> None:
        state = control.expect_state(patience_s or _ANSWER_PATIENCE_S, f"after {when}")
        if state is not wanted:
            raise PeerError(f"{control.peer} said {state.name} after {when}, where {wanted.name} is due")

    def _say_that_we_end(self, control: Control) -> None:
        if self._run is not None:
            try:
                control.send_state(State.CLIENT_TERMINATE)
            except PeerError:
                pass  # it has gone as well
