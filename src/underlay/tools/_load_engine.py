"""Knows how to keep N connections busy, one request in flight on each, cheaply.

It runs in the generator's own process. It knows sockets, epoll and the clock; it does not know who
started it, which server it talks to, or what the figures are for (`_load.py` asks, `_compare.py`
judges). What a request and a complete reply *are* comes from a `Dialogue` (see
`_load_dialogue.py`).

The measured window has quiet edges: it begins with every connection idle and ends when the last
reply came in, so that whoever samples the server's counters before and after counts whole requests
only.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable

from ._load_contract import COARSE_SHIFT, FINE_BUCKETS, FINE_SHIFT, Dialogue, LoadError, Reply, Window

# asyncio.start_server listens with a backlog of 100 by default; more connections than that at once
# would have their SYN dropped and come back a second later, which would measure TCP's
# retransmission timer.
CONNECT_BATCH = 50

# A connection that has waited this long for a reply is counted as stalled; loopback answers within
# milliseconds.
STALL_S = 5.0

# The reply to a request may be larger than the request (HTTP). 256 KiB is what asyncio itself reads
# at most at once.
RECEIVE_BYTES = 1 << 18

# An unmeasured exchange may take this long from one sign of life to the next.
REPLY_S = 5.0

# A datagram unanswered for this long is counted as lost: loopback loses them only when a socket's
# buffer is full.
LOST_S = 0.5

# How often the engine looks up when nothing comes in, to see what is lost or stalled.
POLL_S = 0.1

NotYet = (BlockingIOError, ssl.SSLWantReadError)
WouldBlock = (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError)


class Engine:
    """Holds the connections of one dialogue and drives them in windows."""

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self._epoll = select.epoll()
        self._socks: dict[int, socket.socket] = {}
        # Bound methods, looked up once: the hot loop then costs two calls into C for each request.
        self._recvs: dict[int, Callable[[bytearray], int]] = {}
        self._sends: dict[int, Callable[[bytes | memoryview], int]] = {}
        self._unsent: dict[int, memoryview] = {}
        self._started: dict[int, int] = {}
        self._buffer = bytearray(RECEIVE_BYTES)

    def __len__(self) -> int:
        return len(self._socks)

    def connect(self, count: int, timeout_s: float = REPLY_S) -> None:
        """Open `count` further connections, each proven by an exchange: the server accepted it."""
        wanted = len(self._socks) + count
        while len(self._socks) < wanted:
            batch: list[socket.socket] = []
            try:
                for _ in range(min(CONNECT_BATCH, wanted - len(self._socks))):
                    batch.append(self.dialogue.open())
                self.dialogue.check(batch, timeout_s)
                while batch:
                    self._adopt(batch.pop())
            except (OSError, LoadError) as error:
                at = f"after {len(self._socks)} of {wanted} connections: " if self._socks else ""
                raise LoadError(at + _words(error)) from error
            finally:
                for sock in batch:
                    sock.close()

    def check(self, timeout_s: float = REPLY_S) -> None:
        """Carry out one verified exchange on every connection."""
        try:
            self.dialogue.check(list(self._socks.values()), timeout_s)
        except (OSError, LoadError) as error:
            raise LoadError(f"after the load: {_words(error)}") from error

    def close(self) -> None:
        """Close every connection."""
        for fd in list(self._socks):
            self._drop(fd)
        self._epoll.close()

    def run(self, seconds: float, *, spin: bool = False) -> Window:
        """Keep every connection busy for `seconds`, await the last replies, tell what was seen."""
        if not self._socks:
            raise LoadError("no connection is left to carry the load")
        window = Window()
        fine = [0] * FINE_BUCKETS
        clock = time.perf_counter_ns
        cpu_before = time.process_time_ns()
        begin = clock()
        until = begin + int(seconds * 1e9)
        for fd in list(self._socks):
            self._ask(fd, window)
        self._pump(window, fine, until, 0.0 if spin else POLL_S)
        window.seconds = (clock() - begin) / 1e9
        window.cpu_s = (time.process_time_ns() - cpu_before) / 1e9
        window.fine = {bucket: n for bucket, n in enumerate(fine) if n}
        window.requests = sum(window.fine.values()) + sum(window.coarse.values())
        return window

    def _pump(self, window: Window, fine: list[int], until: int, wait_s: float) -> None:
        """The hot loop: per readable connection one receive, one clock reading, one send."""
        poll, clock, buffer = self._epoll.poll, time.perf_counter_ns, self._buffer
        recvs, sends, started = self._recvs, self._sends, self._started
        request, expected, lossy = self._terms()
        size, readable, shift, buckets = len(request), select.EPOLLIN, FINE_SHIFT, FINE_BUCKETS
        last = clock()
        while started:
            events = poll(wait_s)
            now = clock()
            if not events or lossy:
                self._sweep(window, now, last, until)
            if events:
                last = now
            for fd, event in events:
                if event != readable and not self._push(fd, event, window):
                    continue
                try:
                    n = recvs[fd](buffer)
                except NotYet:
                    continue
                except OSError as error:
                    self._lose(fd, window, _words(error))
                    continue
                if n != expected:
                    fd = self._continue(fd, n, window)
                    if fd < 0:
                        continue
                now = clock()
                try:
                    bucket = (now - started[fd]) >> shift
                except KeyError:
                    self._lose(fd, window, "the server sent more than it was asked for")
                    continue
                if bucket < buckets:
                    fine[bucket] += 1
                else:
                    bucket >>= COARSE_SHIFT - FINE_SHIFT
                    window.coarse[bucket] = window.coarse.get(bucket, 0) + 1
                if now >= until:
                    del started[fd]
                    continue
                started[fd] = now
                try:
                    sent = sends[fd](request)
                except OSError as error:
                    self._unsendable(fd, error, window)
                    continue
                if sent != size:
                    self._later(fd, memoryview(request)[sent:])

    # --- the seldom paths
    # -------------------------------------------------------------------------------------------

    def _terms(self) -> tuple[bytes, int, bool]:
        return self.dialogue.request, self.dialogue.expected_bytes, self.dialogue.lossy

    def _ask(self, fd: int, window: Window) -> None:
        """Send one request on an idle connection."""
        request = self.dialogue.request
        self._started[fd] = time.perf_counter_ns()
        try:
            sent = self._sends[fd](request)
        except OSError as error:
            self._unsendable(fd, error, window)
            return
        if sent != len(request):
            self._later(fd, memoryview(request)[sent:])

    def _unsendable(self, fd: int, error: OSError, window: Window) -> None:
        if isinstance(error, WouldBlock):
            self._later(fd, memoryview(self.dialogue.request))
        else:
            self._lose(fd, window, _words(error))

    def _later(self, fd: int, rest: memoryview) -> None:
        """Keep what the socket did not take; the poll says when it has room."""
        self._unsent[fd] = rest
        self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)

    def _push(self, fd: int, event: int, window: Window) -> bool:
        """Handle what is more than readability; True if there may be something to receive."""
        rest = self._unsent.get(fd)
        if rest is not None and event & select.EPOLLOUT:
            try:
                rest = rest[self._sends[fd](rest) :]
            except WouldBlock:
                pass
            except OSError as error:
                self._lose(fd, window, _words(error))
                return False
            if rest:
                self._unsent[fd] = rest
            else:
                del self._unsent[fd]
                self._epoll.modify(fd, select.EPOLLIN)
        return fd in self._socks and bool(event & ~select.EPOLLOUT)

    def _continue(self, fd: int, received: int, window: Window) -> int:
        """Take a reply in pieces; the descriptor to go on with once it is complete, else -1."""
        while True:
            match self.dialogue.more(fd, received, self._buffer):
                case Reply.COMPLETE:
                    return fd
                case Reply.BROKEN:
                    self._lose(
                        fd,
                        window,
                        "the server closed the connection" if not received else "not a valid reply",
                    )
                    return -1
                case Reply.PARTIAL:
                    # TLS hands out one record of 16 KiB at a time, and epoll doesn't know of those
                    # already decrypted.
                    try:
                        received = self._recvs[fd](self._buffer)
                    except NotYet:
                        return -1
                    except OSError as error:
                        self._lose(fd, window, _words(error))
                        return -1

    def _sweep(self, window: Window, now: int, last: int, until: int) -> None:
        """Find what will not be answered any more."""
        if self.dialogue.lossy:
            for fd, since in list(self._started.items()):
                if now - since > LOST_S * 1e9:
                    window.error("datagram lost")
                    # A new socket has a new port, so that a late reply can't be taken for the next
                    # one.
                    fd = self._replace(fd, window)
                    if fd >= 0 and now < until:
                        self._ask(fd, window)
                    else:
                        self._started.pop(fd, None)
        elif now - last > STALL_S * 1e9:
            for fd in list(self._started):
                self._lose(fd, window, f"no reply within {STALL_S:.0f} s")

    def _replace(self, fd: int, window: Window) -> int:
        """Put a fresh connection in the place of one that is used up; its descriptor, or -1."""
        since = self._started.get(fd)
        self._drop(fd)
        try:
            sock = self.dialogue.open()
        except OSError as error:
            window.error(_words(error))
            return -1
        self._adopt(sock)
        if since is not None:
            self._started[sock.fileno()] = since
        return sock.fileno()

    def _adopt(self, sock: socket.socket) -> None:
        fd = sock.fileno()
        self._socks[fd] = sock
        self._recvs[fd] = sock.recv_into
        self._sends[fd] = sock.send
        self._epoll.register(fd, select.EPOLLIN)

    def _lose(self, fd: int, window: Window, reason: str) -> None:
        if fd in self._socks:
            window.error(reason)
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        sock = self._socks.pop(fd)
        self._epoll.unregister(fd)
        del self._recvs[fd], self._sends[fd]
        self._unsent.pop(fd, None)
        self._started.pop(fd, None)
        self.dialogue.forget(fd)
        sock.close()


def _words(error: Exception) -> str:
    """Give an exception's message for a person, without its errno."""
    if isinstance(error, TimeoutError):
        return "no reply in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return str(error)
