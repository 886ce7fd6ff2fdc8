"""A TCP connection as a program sees it: send, receive, close, and the errors that Linux gives for each.

This file knows the calls of RFC 9293 §3.9.1 and what each does in each state. It
refuses to know segments: a call changes the connection's variables, and
`_tcp_output` sends what became due when the layer is flushed.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Final

from ._tcp_info import TcpInfo
from ._tcp_options import TcpOptions
from ._tcp_output import update_mss
from ._tcp_scoreboard import Phase
from ._tcp_state import State, TcpEvent
from ._tcp_tcb import NEVER, Tcb

__all__ = ["TcpConnection"]

# The values of shutdown(2).
_SHUT_READ: Final = 0
_SHUT_WRITE: Final = 1
_SHUT_BOTH: Final = 2

_OPENING: Final = frozenset({State.SYN_SENT, State.SYN_RECEIVED})
_OPEN_FOR_SENDING: Final = frozenset({State.ESTABLISHED, State.CLOSE_WAIT})
_RECEIVING: Final = frozenset({State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2})


class TcpConnection(Tcb):
    """One connection; made by `TcpLayer.connect` and `TcpListener.accept`, never by hand.

    ``state`` is where it is in its life, ``error`` the errno of what ended it. Events
    tell of changes; ``readable`` and ``writable`` tell how it is now.
    """

    __slots__ = ()

    @property
    def local(self) -> tuple[bytes, int]:
        """Our address and port."""
        return self.key[0], self.key[1]

    @property
    def remote(self) -> tuple[bytes, int]:
        """The peer's address and port."""
        return self.key[2], self.key[3]

    @property
    def options(self) -> TcpOptions:
        """What was chosen for this connection; `configure` changes it."""
        return self._options

    # --- sending ---

    @property
    def writable(self) -> bool:
        """``send`` would take something, or raise: as poll(2) has POLLOUT, from one third of free room on."""
        if self.state in _OPENING:
            return False
        if self.error is not None or self.write_closed or self.state is State.CLOSED:
            return True
        return 3 * (self.unsent.size_bytes + self.snd_nxt - self.snd_una) <= 2 * self.snd_buf

    def send(self, data: bytes | bytearray | memoryview, now: float) -> int:
        """Take bytes to be sent and give their number: fewer than all, or 0, when the send buffer is full.

        ``bytes`` are kept and not copied. After 0 or less than all, WRITABLE is told as soon as there is room.
        OSError: the connection's own error once, then EPIPE.
        """
        if self.state not in _OPEN_FOR_SENDING or self.write_closed:
            if self.state in _OPENING and not self.write_closed:
                self.notified_room = False
                return 0
            self._raise_error()
            raise BrokenPipeError(errno.EPIPE, "the connection cannot send any more")
        room = self.snd_buf - self.unsent.size_bytes - (self.snd_nxt - self.snd_una)
        if type(data) is not bytes:
            view = memoryview(data).cast("B")
            data = bytes(view[:room] if room < len(view) else view) if room > 0 else b""
            size = len(view)
        else:
            size = len(data)
        if room <= 0:
            if not size:
                return 0
            self.notified_room = False
            self.layer.mark(self)  # what Nagle held may go now
            return 0
        if size > room:
            self.notified_room = False
            self.unsent.append(data if len(data) == room else memoryview(data)[:room])
            size = room
        elif size:
            self.unsent.append(data)
        if not self.dirty:
            self.dirty = True
            self.layer.dirty.append(self)
        return size

    def send_urgent(self, data: bytes | bytearray | memoryview, now: float) -> int:
        """Send bytes, and tell the peer that the stream is urgent up to their end (RFC 9293 §3.8.5, MSG_OOB).

        They go in order with all others. A second urgent send before the first is acknowledged moves the mark.
        """
        taken = self.send(data, now)
        if taken:
            self.snd_up = self.snd_nxt + self.unsent.size_bytes
        return taken

    # --- receiving ---

    @property
    def _read_seq(self) -> int:
        """Sequence number of the first byte that the program has not read."""
        return self.rcv_nxt - self.received.size_bytes - (1 if self.peer_closed else 0)

    @property
    def readable(self) -> bool:
        """``receive`` would give bytes, the end, or an error."""
        if self.received.size_bytes:
            return not (self.received.size_bytes == 1 and self.oob_at == self._read_seq)
        return self.peer_closed or self.read_closed or self.error is not None or self.state is State.CLOSED

    @property
    def unread_bytes(self) -> int:
        """How many bytes wait for ``receive``."""
        return self.received.size_bytes

    def receive(self, max_bytes: int, now: float) -> bytes | None:
        """Give at most `max_bytes` of what came; None while nothing is there, b"" at the end of the stream.

        OSError: the connection's own error, once, after all that came before it was read.
        """
        received = self.received
        if received.size_bytes:
            if self.rcv_up is None and self.oob_at is None:
                data = received.take(max_bytes)
                self._after_reading(len(data), now)
                return data
            data = received.take(self._up_to_mark(max_bytes, now))
            if data or max_bytes <= 0:
                self._after_reading(len(data), now)
                self._pass_mark()
                return data
        return self._nothing_to_read()

    def peek(self, max_bytes: int) -> bytes | None:
        """Give what ``receive`` would, and leave it there (recv(2) with MSG_PEEK); an error is raised and gone (Linux).

        It passes over an urgent byte that is next, as ``receive`` does, but does not take that either.
        """
        received = self.received
        if received.size_bytes:
            offset = 0
            if self.oob_at is not None:
                distance = self.oob_at - self._read_seq
                if distance == 0:
                    offset = 1
                elif distance > 0:
                    max_bytes = min(max_bytes, distance)
            data = received.peek(max_bytes, offset)
            if data or max_bytes <= 0:
                return data
        return self._nothing_to_read()

    def receive_into(self, buffer: bytearray | memoryview, now: float) -> int | None:
        """Fill `buffer` with what came and give the count; None and 0 as None and b"" of ``receive``."""
        view = memoryview(buffer).cast("B")
        if self.received.size_bytes:
            limit = self._up_to_mark(len(view), now)
            count = self.received.take_into(view[:limit])
            if count or not len(view):
                self._after_reading(count, now)
                self._pass_mark()
                return count
        return None if self._nothing_to_read() is None else 0

    def _nothing_to_read(self) -> bytes | None:
        if self.peer_closed:
            return b""
        self._raise_error()
        if self.state is State.CLOSED or self.read_closed:
            return b""
        return None

    def _raise_error(self) -> None:
        """Raise the error that ended the connection, once; as Linux's sock_error()."""
        wrong = self.error
        if wrong is not None:
            self.error = None
            raise OSError(wrong, f"the connection was ended: {errno.errorcode.get(wrong, str(wrong))}")

    def take_error(self) -> int:
        """Give the pending error's errno and forget it, 0 if there is none (SO_ERROR)."""
        wrong = self.error
        self.error = None
        return wrong or 0

    def _after_reading(self, count: int, now: float) -> None:
        """The buffer has more room: let it grow if it is what limits, and open the window if that is worth telling."""
        self.counted_bytes += count
        elapsed_s = now - self.counted_from
        if elapsed_s >= self.rto.srtt_s:
            counted = self.counted_bytes
            if self._options.receive_buffer_bytes is None and counted > self.counted_most:
                # Dynamic right-sizing, as Linux's tcp_rcv_space_adjust(): twice what is read in a round trip,
                # and more as long as that grows, for a sender in slow start will be quicker by then.
                wanted = 2 * counted + 16 * self.adv_mss
                wanted += 2 * wanted * (counted - self.counted_most) // self.counted_most
                self.counted_most = counted
                if wanted > self.rcv_buf:
                    self.rcv_buf = min(wanted, self.layer.config.max_receive_buffer_bytes)
            self.counted_bytes = 0
            self.counted_from = now
        if self.pushed and not self.received.size_bytes and (self.pushed > 1 or not self.pingpong):
            # All that the peer wrote is read and no answer was written: it may wait for just this (Linux:
            # tcp_cleanup_rbuf()). An answer that is written before the next flush still takes it along.
            self.ack_now = True
            self.layer.mark(self)
        left = self.rcv_adv - self.rcv_nxt
        gain = self.rcv_nxt + self.rcv_buf - self.received.size_bytes - self.rcv_adv
        # Told by itself only if it doubles what the peer may send; other segments carry it anyway (Linux).
        if gain >= self.rcv_sws and gain >= left and self.state in _RECEIVING:
            self.ack_now = True
            self.layer.mark(self)

    # --- urgent data ---

    @property
    def urgent_bytes(self) -> int:
        """How many bytes are left up to the end of the peer's urgent data, some perhaps still to come (MUST-33)."""
        return max(self.rcv_up - self._read_seq, 0) if self.rcv_up is not None else 0

    @property
    def at_mark(self) -> bool:
        """The next byte of the stream stands at the urgent mark (sockatmark(3))."""
        up = self.rcv_up if self.rcv_up is not None else -1
        return self._read_seq == (up if self._options.oob_inline else up - 1) or self.oob_at == self._read_seq

    def receive_urgent(self) -> bytes | None:
        """Give the urgent byte that is kept out of the stream; None until it is here (recv(2) with MSG_OOB).

        OSError EINVAL if there is none, if it was taken already, or if it stays in the stream (``oob_inline``).
        """
        if self.oob:
            byte, self.oob = self.oob, b""
            return byte
        if self.oob_at is None or self.oob is not None:
            raise OSError(errno.EINVAL, "there is no urgent byte")
        offset = self.oob_at - self._read_seq
        if offset >= self.received.size_bytes:
            return None
        byte = self.received.peek(1, offset)
        self.oob = b""
        return byte

    def _up_to_mark(self, count: int, now: float) -> int:
        """Reading stops before the urgent byte, which is then passed over (Linux: tcp_recvmsg())."""
        if self.oob_at is None:
            return count
        distance = self.oob_at - self._read_seq
        if distance == 0:
            byte = self.received.take(1)
            if self.oob is None:
                self.oob = byte
            self.oob_at = None
            self._after_reading(1, now)
            return count
        if distance < 0:
            self.oob_at = None
            return count
        return min(count, distance)

    def _pass_mark(self) -> None:
        if self.rcv_up is not None and self._read_seq >= self.rcv_up:
            self.rcv_up = None

    # --- ending ---

    def shutdown(self, how: int, now: float) -> None:
        """End one direction: 0 reading, 1 writing (a FIN goes behind all data), 2 both; as shutdown(2).

        OSError ENOTCONN if the connection is gone.
        """
        if how not in (_SHUT_READ, _SHUT_WRITE, _SHUT_BOTH):
            raise OSError(errno.EINVAL, "how is 0, 1 or 2")
        if self.state is State.CLOSED:
            raise OSError(errno.ENOTCONN, "the connection is not there any more")
        if how != _SHUT_WRITE:
            self.read_closed = True
        if how != _SHUT_READ:
            self._close_writing(now)

    def _close_writing(self, now: float) -> None:
        if self.write_closed:
            return
        self.write_closed = True
        self.fin_pending = True
        if self.state not in _OPENING:
            self.move(TcpEvent.CLOSE)
        self.layer.mark(self)

    def close(self, now: float) -> None:
        """Let the connection go: what was taken is still sent, then a FIN, and nothing of it is told any more.

        It is a reset instead if there are bytes that nobody will read (RFC 9293 §3.6.1, SHLD-3), if ``linger_s`` is 0,
        or if too many of those that were closed have not ended yet, which is counted.
        """
        if self.detached:
            return
        layer = self.layer
        state = self.state
        self.detached = True
        self.read_closed = True
        if state is State.CLOSED:
            return
        if state is State.SYN_SENT:
            self.move(TcpEvent.CLOSE)
            layer.forget(self, now, 0)
            return
        if state is not State.TIME_WAIT:
            unread = self.received.size_bytes
            if unread:
                layer.count("data.unread")
            if unread or self._options.linger_s == 0 or not layer.take_orphan(self):
                layer.abort_behind_data(self, now, 0)
                return
            self._close_writing(now)
            if state is State.FIN_WAIT_2:
                self.life_at = now + layer.config.fin_timeout_s
        layer.mark(self)

    def abort(self, now: float) -> None:
        """Drop everything and send a reset (RFC 9293 §3.10.5)."""
        if self.state is not State.CLOSED:
            self.layer.abort(self, now, 0)
        self.detached = True

    # --- settings and figures ---

    def configure(self, now: float, **changes: object) -> None:
        """Change options by name: ``configure(now, nodelay=True, keepalive=True)``; OSError EINVAL as setsockopt(2)."""
        before = self._options
        options = self._options = replace(before, **changes)  # type: ignore[arg-type]
        if options.send_buffer_bytes is not None:
            self.snd_buf = options.send_buffer_bytes
        if options.receive_buffer_bytes is not None:
            most = self.layer.config.max_receive_buffer_bytes
            self.rcv_buf = min(options.receive_buffer_bytes, most)
            self.rcv_sws = max(min(self.rcv_buf // 2, self.adv_mss), 1)
        if self.state is State.CLOSED:
            return
        if options.congestion != before.congestion and self.congestion is not None:
            self.layer.change_congestion(self, options.congestion)
        if options.source_route != before.source_route:
            self.take_route(options.source_route)
        if (options.source_route, options.max_segment_bytes) != (before.source_route, before.max_segment_bytes):
            update_mss(self, self.path_mtu)
        if options.keepalive and self.state not in _OPENING and self.state is not State.TIME_WAIT:
            self.keepalive_probes = 0
            self.keepalive_at = now + options.keepalive_idle_s
        else:
            self.keepalive_at = NEVER
        self.layer.mark(self)  # what Nagle held may go now

    def info(self) -> TcpInfo:
        """Give the connection's figures at this moment (TCP_INFO)."""
        congestion = self.congestion
        board = self.board
        estimator = self.rto
        stats = self.stats
        reassembly = self.reassembly
        return TcpInfo(
            state=self.state,
            congestion=self._options.congestion,
            phase=(board.phase if board is not None else Phase.OPEN).value,
            rto_s=estimator.rto_s,
            srtt_s=estimator.srtt_s,
            rttvar_s=estimator.rttvar_s,
            min_rtt_s=estimator.min_rtt_s,
            backoffs=estimator.backoffs,
            cwnd_bytes=congestion.cwnd_bytes if congestion is not None else 0,
            ssthresh_bytes=congestion.ssthresh_bytes if congestion is not None else 0,
            flight_bytes=self.snd_nxt - self.snd_una,
            sacked_bytes=board.sacked_bytes if board is not None else 0,
            lost_bytes=board.lost_bytes if board is not None else 0,
            unsent_bytes=self.unsent.size_bytes,
            unread_bytes=self.received.size_bytes,
            out_of_order_bytes=reassembly.size_bytes if reassembly is not None else 0,
            send_window_bytes=self.snd_wnd,
            receive_window_bytes=self.rcv_adv - self.rcv_nxt,
            send_buffer_bytes=self.snd_buf,
            receive_buffer_bytes=self.rcv_buf,
            send_mss=self.snd_mss,
            receive_mss=self.rcv_mss,
            advertised_mss=self.adv_mss,
            path_mtu_bytes=self.path_mtu,
            send_window_scale=self.snd_wscale,
            receive_window_scale=self.rcv_wscale,
            timestamps=self.timestamps,
            sack=self.sack,
            segments_in=stats[0],
            segments_out=stats[1],
            bytes_in=stats[2],
            bytes_out=stats[3],
            retransmitted_segments=stats[4],
            retransmitted_bytes=stats[5],
            duplicates_in=stats[6],
            timeouts=stats[7],
        )

    def __repr__(self) -> str:
        return f"<TcpConnection {self.state.name} port {self.key[1]} to port {self.key[3]}>"
