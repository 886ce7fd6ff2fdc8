"""One stream of a test: a socket, what one call moves over it, and what it counts.

A stream's `stepper` gives a function that moves one block or datagram; who calls it again and again, in which thread,
is `_movers.py`. What another thread wants to know it reads from the counters, each of which only one thread writes.

This file knows how bytes and datagrams are moved, paced and counted. It refuses to know states, intervals and threads.

Source: iperf3's src/iperf_tcp.c and src/iperf_udp.c; RFC 1889, 6.3.1 and A.8, for the jitter.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from ._settings import MOST_DATAGRAM_BYTES, TCP_BLOCK_BYTES, Settings
from ._sockets import tcp_info

__all__ = [
    "END_PATIENCE_S",
    "Budget",
    "Stream",
    "make_stream",
    "stop_receiving",
    "stream_number",
    "wait_for_ends",
]

END_PATIENCE_S: Final = 1.0
"""How long all threads together may take to notice that their sockets were shut down, or their streams stopped."""

# Datagrams that are sent by one step where nothing paces them. Of 32 KiB each, to a socket that nobody reads, one takes
# 3.99 µs of CPU time and by single steps 4.16 (medians of 25 interleaved runs of 60,000).
_BURST: Final = 32

# A receiver that each piece wakes reads 22.7 Gbit/s of stock iperf3's over the loopback, for 0.48 s of CPU time a GB;
# woken by blocks (SO_RCVLOWAT, socket(7)) 24.9, for 0.42 (medians of nine interleaved). But what waits to be read is
# missing from the window that the sender sees, and a mark that the buffer has no room for makes the kernel fix that
# window to it (tcp_set_rcvlowat() in net/ipv4/tcp.c): at 50 Mbit/s and 100 ms that left 7.3 of 43.7 Mbit/s. So first
# the kernel is to have grown the buffer, of which a half at least is window (tcp_adv_win_scale in tcp(7)).
_BLOCKS_OF_ROOM: Final = 8

_HEADER_32: Final = struct.Struct("!III")
_HEADER_64: Final = struct.Struct("!IIQ")


class Budget:
    """The bytes that a test's senders may send together, from the moment at which they count."""

    def __init__(self, size_bytes: int) -> None:
        self._left = size_bytes
        self._counts = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Let what is taken from now on count."""
        self._counts = True

    def take(self, wanted: int) -> int:
        """Give up to ``wanted`` of them; 0 when none is left."""
        if not self._counts:
            return wanted
        with self._lock:
            taken = min(wanted, self._left)
            self._left -= taken
            return taken

    def give_back(self, size: int) -> None:
        """Return what could not be sent."""
        if self._counts:
            with self._lock:
                self._left += size


class Stream:
    """What every stream has. Its kinds, below, differ in `stepper` alone."""

    def __init__(self, number: int, sock: socket.socket, settings: Settings, *, is_sender: bool) -> None:
        self.number = number
        self.sock = sock
        self.is_sender = is_sender
        self.settings = settings
        self.bytes = 0
        self.packets = 0  # sent, or the highest number that came
        self.lost = 0
        self.out_of_order = 0
        self.not_ours = 0  # datagrams that no sender of this test made
        self.jitter_s = 0.0
        self.failure: OSError | None = None
        self.is_stopped = False
        self.is_cut = False
        """Whether it is to move nothing more, though there is something: a receiver reads on after it was stopped."""
        self.budget: Budget | None = None
        self.on_end: Callable[[], None] = lambda: None
        self.due_in_s = _pace(self)
        """How long a sender has to wait, so as not to be ahead of the test's rate; 0 for not at all."""
        self.thread: threading.Thread | None = None
        self._ended = threading.Event()
        sock.settimeout(None)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be moved."""
        return self._ended.is_set()

    @property
    def retransmissions(self) -> int | None:
        """Segments that the kernel sent again; None of a receiver, and of UDP."""
        if not self.is_sender or self.settings.is_udp or (info := tcp_info(self.sock)) is None:
            return None
        return info.retransmissions

    def stepper(self) -> Callable[[], bool]:
        """Give what moves one block: True for more, False at the end. It raises ``BlockingIOError`` where none can be.

        Called once, in the thread that calls what it gives.
        """
        raise NotImplementedError

    def end(self, failure: OSError | None = None) -> None:
        """Say that nothing more will be moved, and tell who waits."""
        # Of a socket that was shut down from here, an error tells nothing.
        if failure is not None and not self.is_stopped:
            self.failure = failure
        self._ended.set()
        self.on_end()

    def wait_for_end(self, timeout_s: float) -> None:
        """Wait until nothing more is moved, if it ever began."""
        if self.thread is not None:
            self._ended.wait(timeout_s)

    def drain(self, deadline: float) -> None:
        """Wait until what has come is read, until ``deadline`` at most, and take no more from the network."""
        # Bytes that are in our buffer came during the test: we were slower than the network.
        unread = select.poll()
        unread.register(self.sock, select.POLLIN)
        while time.monotonic() < deadline and not self.has_ended and unread.poll(0):
            time.sleep(0.001)
        self.is_stopped = True
        try:
            self.sock.shutdown(socket.SHUT_RD)  # wakes the thread
        except OSError:
            pass  # the peer was first


class TcpSender(Stream):
    """Sends blocks as fast as the kernel takes them, or at the test's rate."""

    _source: int | None = None

    def end(self, failure: OSError | None = None) -> None:
        """Close what it sends from, too."""
        if self._source is not None:
            os.close(self._source)
            self._source = None
        super().end(failure)

    def stepper(self) -> Callable[[], bool]:
        """Send one block, or what the budget has left."""
        view = memoryview(bytes(self.settings.length_bytes))
        if self.settings.zero_copy:
            # A file without a name, for sendfile(2) to read from: memfd_create(2).
            source = self._source = os.memfd_create("underlay speed")
            os.write(source, view)
            return self._step_by(lambda size: os.sendfile(self.sock.fileno(), source, 0, size), len(view))
        send = self.sock.send
        if self.budget is not None:
            return self._step_by(lambda size: send(view[:size]), len(view))

        def step() -> bool:
            self.bytes += send(view)
            return True

        return step

    def _step_by(self, send: Callable[[int], int], block_bytes: int) -> Callable[[], bool]:
        budget = self.budget
        left = 0

        def step() -> bool:
            nonlocal left
            # Of a block that the kernel took in part the rest follows on the same stream: a peer that reads whole
            # blocks would wait for it.
            if not left:
                left = block_bytes if budget is None else budget.take(block_bytes)
            if not left:
                return False
            sent = send(left)
            left -= sent
            self.bytes += sent
            return True

        return step


class TcpReceiver(Stream):
    """Reads what comes, until its end; after the test too, so that the peer never waits for us."""

    def stepper(self) -> Callable[[], bool]:
        """Read what has come, up to a block."""
        receive = self.sock.recv_into
        buffer = memoryview(bytearray(self.settings.length_bytes))
        block_bytes = min(len(buffer), TCP_BLOCK_BYTES)
        look_at = _BLOCKS_OF_ROOM * block_bytes if self._may_wait_for_blocks() else math.inf

        def step() -> bool:
            nonlocal look_at
            size = receive(buffer)
            self.bytes += size
            if self.bytes >= look_at:
                has_room = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= _BLOCKS_OF_ROOM * block_bytes
                if has_room:
                    self._wake_at(block_bytes)
                look_at = math.inf if has_room else self.bytes + _BLOCKS_OF_ROOM * block_bytes
            return size > 0

        return step

    def drain(self, deadline: float) -> None:
        """Wait for what follows without a gap, too."""
        # poll(2) calls readable only what reaches the mark: of a sender whose last megabytes are still on their way it
        # would find nothing as soon as less than a block is there.
        self._wake_at(1)
        super().drain(deadline)

    def _may_wait_for_blocks(self) -> bool:
        """Whether less than a block need not wake us at once.

        Bytes that end the test, or come at a rate, are seen when they come. Of several streams each finds more to read
        when its turn comes; with three, and stock iperf3 sending, blocks cost 0.49 s of CPU time a GB where pieces
        cost 0.47. And where streams share a thread poll(2) would wait for the mark without end, while a call that
        blocks returns after SO_RCVTIMEO.
        """
        settings = self.settings
        is_alone = settings.parallel == 1 and self.sock.getblocking()
        return is_alone and not settings.ends_by_size and not settings.rate_bits_per_s

    def _wake_at(self, least_bytes: int) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least_bytes)


class UdpSender(Stream):
    """Sends numbered datagrams with the time in them, at the test's rate."""

    def stepper(self) -> Callable[[], bool]:
        """Send one datagram, or some that nothing paces; the last is a whole one, as iperf3's, for its header."""
        buffer = bytearray(self.settings.length_bytes)
        size = len(buffer)
        header = _HEADER_64 if self.settings.udp_counters_64bit else _HEADER_32
        most = (1 << 64) - 1 if header is _HEADER_64 else 0xFFFFFFFF
        pack, send, clock_ns = header.pack_into, self.sock.send, time.monotonic_ns
        budget = self.budget
        at_once = _BURST if budget is None and not self.settings.rate_bits_per_s else 1

        def step() -> bool:
            for _ in range(at_once):
                if self.is_stopped:
                    break
                if budget is not None and not budget.take(size):
                    return False
                number = (self.packets + 1) & most
                seconds, microseconds = divmod(clock_ns() // 1000, 1_000_000)
                pack(buffer, 0, seconds & 0xFFFFFFFF, microseconds, number)
                try:
                    self.bytes += send(buffer)
                    self.packets = number
                except OSError as error:
                    if budget is not None:
                        budget.give_back(size)
                    # A queue below us is full, as iperf3 knows too: it was not sent, and its number comes again.
                    if error.errno == errno.ENOBUFS:
                        raise BlockingIOError(error.errno, error.strerror) from None
                    raise
            return True

        return step


class UdpReceiver(Stream):
    """Counts datagrams, and finds by their numbers what was lost or overtaken."""

    def stepper(self) -> Callable[[], bool]:
        """Count one datagram."""
        buffer = memoryview(bytearray(MOST_DATAGRAM_BYTES))
        header = _HEADER_64 if self.settings.udp_counters_64bit else _HEADER_32
        unpack, receive, clock, least = header.unpack_from, self.sock.recv_into, time.monotonic, header.size
        last_transit: float | None = None

        def step() -> bool:
            nonlocal last_transit
            size = receive(buffer)
            if size < least:  # a hello or a welcome that came twice, or a stranger's
                if self.is_stopped and not size:
                    return False
                self.not_ours += 1
                return True
            now = clock()
            seconds, microseconds, number = unpack(buffer)
            self.bytes += size
            if number > self.packets:
                # A gap is a loss, until the datagram comes late after all.
                self.lost += number - self.packets - 1
                self.packets = number
            else:
                self.out_of_order += 1
                if self.lost:
                    self.lost -= 1
            # The two clocks need not agree: only how the transit changes counts.
            transit = now - seconds - microseconds / 1e6
            if last_transit is not None:
                self.jitter_s += (abs(transit - last_transit) - self.jitter_s) / 16
            last_transit = transit
            return True

        return step


def make_stream(number: int, sock: socket.socket, settings: Settings, *, is_sender: bool) -> Stream:
    """Make the stream of the kind that the test wants."""
    if settings.is_udp:
        kind: type[Stream] = UdpSender if is_sender else UdpReceiver
    else:
        kind = TcpSender if is_sender else TcpReceiver
    return kind(number, sock, settings, is_sender=is_sender)


def stop_receiving(streams: Sequence[Stream], deadline: float) -> None:
    """Let receivers count what has come until now, until ``deadline`` at most; what comes later is not counted.

    All end soon after it, however much is still in their buffers: of millions of bytes that a peer wants to be read one
    by one (`length_bytes`) the kernel gives out every one, though the socket was shut down.
    """
    for stream in streams:
        stream.drain(deadline)
    wait_for_ends(streams, max(deadline, time.monotonic()) + END_PATIENCE_S)
    for stream in streams:
        stream.is_cut = True
    wait_for_ends(streams, time.monotonic() + END_PATIENCE_S)


def wait_for_ends(streams: Sequence[Stream], deadline: float) -> None:
    """Wait until none of them moves anything more, until ``deadline`` at most."""
    for stream in streams:
        stream.wait_for_end(max(0.0, deadline - time.monotonic()))


def stream_number(at: int) -> int:
    """Give the number of the stream at a place: iperf3 counts 1, 3, 4, …

    >>> [stream_number(at) for at in range(4)]
    [1, 3, 4, 5]
    """
    return at + 2 if at else 1


def _pace(stream: Stream) -> Callable[[], float]:
    """Give how long a sender has to wait for its turn.

    Whoever is late catches up, as iperf3 does: the rate is that of the whole test, from the first time this is asked.
    """
    if not stream.is_sender or not stream.settings.rate_bits_per_s:
        return lambda: 0.0
    bytes_per_s = stream.settings.rate_bits_per_s / 8
    clock = time.monotonic
    began: float | None = None

    def due_in_s() -> float:
        nonlocal began
        now = clock()
        if began is None:
            began = now
        return max(0.0, stream.bytes / bytes_per_s - (now - began))

    return due_in_s
