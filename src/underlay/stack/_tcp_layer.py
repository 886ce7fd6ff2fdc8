"""TCP as one host has it: which connection a segment belongs to, ports, listeners, timers, resets to strangers.

This file knows the table of connections and everything that needs more than one
of them. It refuses to know what a segment does to a connection (`_tcp_input`),
and how packets travel (`IpOutput`).
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ..wire import ACK, FIN, PROTOCOL_TCP, RST, SYN, TCP_CHECKSUM_OFFSET, TcpSegment, WireError, build_tcp_header
from ..wire import parse_tcp as _parse_tcp
from ._contract import Events, IcmpError, IpOutput, Path, Rng
from ._tcp_challenge import ChallengeLimit
from ._tcp_congestion import make_congestion_control
from ._tcp_connection import TcpConnection
from ._tcp_icmp import take_icmp_error
from ._tcp_info import TcpStatistics
from ._tcp_input import receive
from ._tcp_isn import InitialNumbers, IsnGenerator
from ._tcp_listener import SynRequest, TcpListener
from ._tcp_options import Congestion, TcpConfig, TcpOptions
from ._tcp_output import arm_retransmission, flush, schedule, send_reset, send_syn, update_mss
from ._tcp_packet import TcpPacket
from ._tcp_passive import receive_at_listener
from ._tcp_ports import Binding, Ports
from ._tcp_scoreboard import Sent
from ._tcp_sequence import MASK, is_before, unwrap
from ._tcp_source_route import return_hops
from ._tcp_state import State, TcpEvent
from ._tcp_tcb import NEVER, Key, Tcb
from ._tcp_timers import expire

if TYPE_CHECKING:
    Socket = TcpConnection | TcpListener

__all__ = ["TcpLayer"]

_TIME_WAIT: Final = State.TIME_WAIT
# Entries of the heap of timers that are left in peace however few connections there are.
_SPARE_ENTRIES: Final = 64
# What a connection in TIME_WAIT has on its way. There are thousands of them, and an empty deque has 600 bytes.
_NOTHING_SENT: Final[deque[Sent]] = deque(maxlen=0)
_PORTS: Final = struct.Struct("!HH")


class TcpLayer:
    """All of a host's TCP.

    `ip` carries its packets; `rng` gives the secrets; `notify(socket, events)` is called when something becomes
    true of a connection or listener; `on_doubt(local, remote)` when a path seems dead (RFC 9293 MUST-20: "negative
    advice"). What came, was called or ran out becomes segments only in ``flush``.
    """

    def __init__(
        self,
        ip: IpOutput,
        rng: Rng,
        notify: Callable[[TcpConnection | TcpListener, Events], None],
        config: TcpConfig | None = None,
        *,
        on_doubt: Callable[[bytes, bytes], None] | None = None,
    ) -> None:
        self.ip = ip
        self.config = config if config is not None else TcpConfig()
        self.isn: InitialNumbers = IsnGenerator(rng)
        self.dirty: list[Tcb] = []
        self.segments_in = 0
        self.segments_out = 0
        self.resets_in = 0
        self.resets_out = 0
        self.retransmitted = 0
        self.timeouts = 0
        self.tail_probes = 0
        self.window_probes = 0
        self.keepalives = 0
        self.active_opens = 0
        self.passive_opens = 0
        self.orphans = 0
        self._orphan_bytes = 0
        self.syn_requests = 0
        self._notify = notify
        self._on_doubt = on_doubt
        self._now = 0.0
        self._drops: dict[str, int] = {}
        self._connections: dict[Key, TcpConnection] = {}
        self.ports = Ports(rng, self.config.ephemeral_ports, self._connections)
        self._time_wait: dict[Tcb, None] = {}
        self._heap: list[tuple[float, int, Tcb | SynRequest]] = []
        self._sweeps_at = _SPARE_ENTRIES
        self._serial = 0
        self.challenges = ChallengeLimit(rng, most_per_s=self.config.challenge_acks_per_s)

    # --- opening ---

    def listen(
        self,
        address: bytes,
        port: int,
        now: float,
        *,
        backlog: int = 128,
        options: TcpOptions | None = None,
        reuse_address: bool = False,
        binding: Binding | None = None,
    ) -> TcpListener:
        """Wait for connections at `port` (0: choose one) of `address` (all zeros: every address of the family).

        OSError: EADDRINUSE if the port is taken; with `reuse_address` only by another listener. Two listeners
        may have one port at different addresses (MUST-42). With the `binding` of a socket, which is to be of this
        port, Linux's rules hold for SO_REUSEADDR and SO_REUSEPORT, and it stays when the listener is closed.
        """
        if not 0 <= port <= 0xFFFF or len(address) not in (4, 16):
            raise OSError(errno.EINVAL, "no such address or port")
        own = binding is None
        if binding is not None:
            self.ports.check(binding)
        elif port == 0:
            binding = self.ports.bind(address, 0)
        else:
            binding = self.ports.force(address, port, reuse_address=reuse_address)
        binding.listening = True
        listener = TcpListener(self, address, binding.port, backlog, options or self.config.options)
        listener.binding, listener.owns_binding = binding, own
        self.ports.add_listener(listener)
        return listener

    def connect(
        self,
        remote: bytes,
        remote_port: int,
        now: float,
        *,
        local: bytes | None = None,
        local_port: int = 0,
        options: TcpOptions | None = None,
        binding: Binding | None = None,
    ) -> TcpConnection:
        """Begin an active open; CONNECTED is told when it is done, ERROR when it failed.

        `local` and `local_port` may be left to us (MUST-43, MUST-44), or be those of a socket's `binding`, where a
        second connection to the same peer is EADDRNOTAVAIL. OSError: ENETUNREACH without a way or for
        an address that is not one host's (MUST-46), EADDRNOTAVAIL for a `local` that is not ours or when no port
        is left, EADDRINUSE, ENOBUFS at ``max_connections``.
        """
        if len(remote) not in (4, 16) or not 0 <= remote_port <= 0xFFFF or not 0 <= local_port <= 0xFFFF:
            raise OSError(errno.EINVAL, "no such address or port")
        if binding is not None:
            local_port = binding.port
            local = binding.address if any(binding.address) else None
        if not self.ip.is_unicast(remote):
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        hops = (options or self.config.options).source_route if len(remote) == 4 else ()  # IPv6: RFC 5095
        path = self.ip.path(hops[0] if hops else remote, local)
        if path is None:
            if local is not None and self.ip.path(remote) is not None:
                raise OSError(errno.EADDRNOTAVAIL, "the local address is not ours")
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        if len(self._connections) >= self.config.max_connections:
            raise OSError(errno.ENOBUFS, "too many connections")
        source = path.source
        if local_port:
            key = (source, local_port, remote, remote_port)
            if binding is None and self.ports.listener(key) is not None:
                raise OSError(errno.EADDRINUSE, f"port {local_port} is in use")
            old = self._connections.get(key)
            if old is not None:
                if old.state is not _TIME_WAIT:
                    number = errno.EADDRINUSE if binding is None else errno.EADDRNOTAVAIL
                    raise OSError(number, f"port {local_port} is in use to that address")
                self._end_time_wait(old, now)
        else:
            local_port = self.ports.choose(
                lambda port: (
                    (source, port, remote, remote_port) not in self._connections and not self.ports.is_bound(port)
                )
            )
            key = (source, local_port, remote, remote_port)
        tcb = TcpConnection(self, key, options or self.config.options)
        tcb.move(TcpEvent.ACTIVE_OPEN)
        self.adopt(tcb, path)
        if hops:
            tcb.take_route(hops)
        tcb.iss, tcb.ts_offset = self.isn.numbers(key, now)
        tcb.snd_una = tcb.iss
        tcb.snd_nxt = tcb.iss + 1
        tcb.rcv_adv = min(tcb.rcv_buf, 0xFFFF)
        tcb.queue.append(Sent(tcb.iss, tcb.iss + 1, SYN, b"", now))
        tcb.stuck_from = now
        self.active_opens += 1
        self._now = now
        send_syn(tcb, now)
        arm_retransmission(tcb, now)
        schedule(tcb)
        return tcb

    def adopt(self, tcb: TcpConnection, path: Path) -> None:
        """Enter a new connection into the table, and say what its path and our buffers allow."""
        self._connections[tcb.key] = tcb
        self.ports.hold(tcb.key[1])
        tcb.path_mtu = path.mtu_bytes
        tcb.offload = path.offload
        if path.by_value:
            local, local_port, remote, remote_port = tcb.key
            tcb.by_value, tcb.peer_key = True, (remote, remote_port, local, local_port)
        tcb.adv_mss = self.advertised_mss(tcb.key[0], path, tcb.options)
        tcb.rcv_wscale = self.window_scale(tcb.options)
        if not self.config.window_scaling:
            tcb.rcv_buf = min(tcb.rcv_buf, 0xFFFF)

    def advertised_mss(self, local: bytes, path: Path, options: TcpOptions) -> int:
        """Give the MSS to tell a peer: what the MTU leaves after fixed headers (RFC 9293 §3.7.1, MUST-67)."""
        mss = path.mtu_bytes - (40 if len(local) == 4 else 60)
        return max(min(mss, options.max_segment_bytes or mss, 0xFFFF), 36)

    def window_scale(self, options: TcpOptions) -> int:
        """Give the shift with which 16 bits can tell the largest window that the buffer may grow to (RFC 7323 §2)."""
        if not self.config.window_scaling:
            return 0
        most = max(options.receive_buffer_bytes or 0, self.config.max_receive_buffer_bytes)
        return min(max((most - 1).bit_length() - 16, 0), 14)

    # --- segments ---

    def receive_segment(
        self,
        source: bytes,
        destination: bytes,
        data: bytes | memoryview,
        start: int,
        end: int,
        now: float,
        *,
        checksum_valid: bool = False,
        ip_options: bytes = b"",
    ) -> None:
        """Take the segment in ``data[start:end]``; it is counted, never raised, if it is malformed.

        `checksum_valid` says that the link has checked it or that it never left this machine; otherwise a wrong
        checksum drops it (MUST-3). `ip_options` are those of its IPv4 header: of them TCP knows source routes.
        """
        self.segments_in += 1
        self._now = now
        try:
            if checksum_valid:
                segment = _parse_tcp(data, start, end)
            else:
                pseudo = int.from_bytes(source, "big") + int.from_bytes(destination, "big") + PROTOCOL_TCP + end - start
                segment = _parse_tcp(data, start, end, pseudo=pseudo)
        except WireError as error:
            self.count(error.key)
            return
        tcb = self._connections.get((destination, segment[1], source, segment[0]))
        if tcb is not None:
            if ip_options and not tcb.options.source_route:
                hops = return_hops(ip_options)
                if hops:
                    tcb.take_route(hops)  # SHLD-24: a later one overrides
                    update_mss(tcb, tcb.path_mtu)
            if tcb.state is not _TIME_WAIT:
                receive(tcb, segment, now)
                return
            if not self._may_reuse(tcb, segment, now):
                receive(tcb, segment, now)
                return
            least = tcb.snd_nxt + 65537  # Linux: tcp_timewait_state_process()
            self._end_time_wait(tcb, now)
            self._receive_unconnected(source, destination, segment, ip_options, now, least)
            return
        self._receive_unconnected(source, destination, segment, ip_options, now, 0)

    def receive_packet(self, packet: TcpPacket, now: float) -> bool:
        """Take a segment that came as a value; False, and nothing is done, for one that no connection waits for."""
        tcb = self._connections.get(packet[0])
        if tcb is None or tcb.state is _TIME_WAIT:
            return False
        self.segments_in += 1
        self._now = now
        receive(tcb, packet[1], now)
        return True

    def _receive_unconnected(
        self, source: bytes, destination: bytes, segment: TcpSegment, ip_options: bytes, now: float, least_iss: int
    ) -> None:
        key = (destination, segment.destination_port, source, segment.source_port)
        if not (self.ip.is_unicast(destination) and self.ip.is_unicast(source)):
            self.count("address.not_unicast")  # MUST-57, MUST-63
            return
        listener = self.ports.listener(key)
        if listener is not None:
            receive_at_listener(self, listener, key, segment, ip_options, now, least_iss)
            return
        self.count("port.closed")
        self.send_stray_reset(key, segment, now)

    def _may_reuse(self, tcb: Tcb, segment: TcpSegment, now: float) -> bool:
        """May this SYN begin a new life of a connection in TIME_WAIT? (RFC 9293 §3.6.1 MAY-2, RFC 6191)."""
        if segment.flags & (SYN | RST | ACK) != SYN:
            return False
        if self.ports.listener(tcb.key) is None:
            return False
        if tcb.timestamps and segment.timestamp is not None:
            if is_before(tcb.ts_recent, segment.timestamp[0]):
                return True
            if segment.timestamp[0] != tcb.ts_recent:
                return False
        return unwrap(segment.seq, tcb.rcv_nxt) > tcb.rcv_nxt

    def send_stray_reset(self, key: Key, segment: TcpSegment, now: float) -> None:
        """Answer a segment that no connection wants by a reset (RFC 9293 §3.5.2, group 1); never an RST by an RST."""
        flags = segment.flags
        if flags & RST:
            return
        if flags & ACK:
            seq, ack, answer = segment.ack, 0, RST
        else:
            length = len(segment.payload) + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)
            seq, ack, answer = 0, (segment.seq + length) & MASK, RST | ACK
        path = self.ip.path(key[2], key[0])
        if path is None:
            return
        head = build_tcp_header(key[0], key[2], key[1], key[3], seq, ack, answer, 0, offload=path.offload)
        self.resets_out += 1
        self.segments_out += 1
        self.ip.send(
            key[0], key[2], PROTOCOL_TCP, head, b"", now,
            checksum_offset=TCP_CHECKSUM_OFFSET if path.offload else 0,
            ttl=self.config.options.ttl,
        )  # fmt: skip

    def receive_icmp_error(self, error: IcmpError, now: float) -> None:
        """Take an ICMP error about a segment that we sent (RFC 9293 §3.9.2.2, MUST-54)."""
        if error.protocol != PROTOCOL_TCP or len(error.quoted) < 8:
            self.count("icmp.malformed")
            return
        self._now = now
        local_port, remote_port = _PORTS.unpack_from(error.quoted, 0)
        tcb = self._connections.get((error.local, local_port, error.remote, remote_port))
        if tcb is None:
            self.count("icmp.stranger")
            return
        take_icmp_error(tcb, error, int.from_bytes(error.quoted[4:8], "big"), now)

    # --- sending and time ---

    def mark(self, tcb: Tcb) -> None:
        """Have `tcb` looked at by the next ``flush``."""
        if not tcb.dirty:
            tcb.dirty = True
            self.dirty.append(tcb)

    def flush(self, now: float) -> None:
        """Send all that became due since the last call: data, and one acknowledgment for all that came."""
        self._now = now
        while self.dirty:
            dirty = self.dirty
            self.dirty = []
            for tcb in dirty:
                if tcb.dirty:
                    flush(tcb, now)

    def push(self, target: Tcb | SynRequest, deadline: float) -> None:
        """Enter a deadline into the heap; an entry that has become too early is sorted out when it comes up."""
        self._serial += 1
        target.heap_at = deadline
        heap = self._heap
        heappush(heap, (deadline, self._serial, target))
        if len(heap) >= self._sweeps_at:
            # A far deadline that an earlier one took the place of stays until its time, perhaps two hours: sweep.
            heap[:] = [entry for entry in heap if entry[0] == entry[2].heap_at]
            heapify(heap)
            # As many again may come before the next sweep, so that each entry pays for being looked at once or twice.
            self._sweeps_at = _SPARE_ENTRIES + 2 * len(heap)

    def handle_timers(self, now: float) -> None:
        """Do everything whose time has come by `now`."""
        self._now = now
        heap = self._heap
        while heap and heap[0][0] <= now:
            when, _, target = heappop(heap)
            if when != target.heap_at:
                continue
            target.heap_at = NEVER
            if target.deadline > now:
                if target.deadline != NEVER:
                    self.push(target, target.deadline)
                elif isinstance(target, Tcb):
                    target.rest()
            elif isinstance(target, SynRequest):
                target.expire(now)
            else:
                expire(target, now)

    def next_deadline(self) -> float | None:
        """Tell when ``handle_timers`` is needed next; None if nothing waits for time."""
        if self.dirty:
            return self._now
        heap = self._heap
        while heap:
            when, _, target = heap[0]
            if when == target.heap_at:
                deadline = target.deadline
                if deadline <= when:
                    return when
                target.heap_at = NEVER
                heappop(heap)
                if deadline != NEVER:
                    self.push(target, deadline)
                elif isinstance(target, Tcb):
                    target.rest()
            else:
                heappop(heap)
        return None

    def wakes_at(self) -> float:
        """Tell a time before which ``next_deadline`` is not: a deadline that has moved on is not looked for."""
        if self.dirty:
            return self._now
        return self._heap[0][0] if self._heap else NEVER

    # --- what connections ask of their layer ---

    def tell(self, tcb: Tcb, events: Events) -> None:
        """Tell the program, if it knows of the connection and still cares."""
        if tcb.accepted and not tcb.detached:
            self._notify(tcb, events)  # type: ignore[arg-type]

    def tell_acceptable(self, listener: TcpListener) -> None:
        """Tell the program that a connection waits for ``accept``."""
        self._notify(listener, Events.ACCEPTABLE)

    def tell_room(self, tcb: Tcb) -> None:
        """Tell WRITABLE to a program that found no room, once a third of the buffer is free (Linux)."""
        if 3 * (tcb.unsent.size_bytes + tcb.snd_nxt - tcb.snd_una) <= 2 * tcb.snd_buf:
            tcb.notified_room = True
            self.tell(tcb, Events.WRITABLE)

    def tell_soft_error(self, tcb: Tcb, wrong: int) -> None:
        """Report what does not end the connection by itself (RFC 9293 §3.9.1.8, MUST-47)."""
        tcb.soft_error = wrong
        self.tell(tcb, Events.SOFT_ERROR)

    def count(self, reason: str) -> None:
        """Count something that was refused or dropped."""
        self._drops[reason] = self._drops.get(reason, 0) + 1

    def advise_negative(self, tcb: Tcb) -> None:
        """R1 was passed: the path may be dead (MUST-20)."""
        self.tell_soft_error(tcb, tcb.soft_error or errno.ETIMEDOUT)
        if self._on_doubt is not None:
            self._on_doubt(tcb.key[0], tcb.key[2])

    def change_congestion(self, tcb: Tcb, kind: Congestion) -> None:
        """Go on with another congestion control from the same window."""
        old = tcb.congestion
        assert old is not None
        new = make_congestion_control(kind, tcb.snd_mss, self.config.initial_window_segments)
        new.cwnd_bytes, new.ssthresh_bytes = old.cwnd_bytes, old.ssthresh_bytes
        tcb.congestion = new

    def begin_time_wait(self, tcb: Tcb, now: float) -> None:
        """Stay for 2 MSL, to answer what comes late (MUST-13); the oldest gives way if there are too many."""
        tcb.life_at = now + 2 * self.config.msl_s
        tcb.rtx_at = tcb.keepalive_at = NEVER
        tcb.congestion = None
        tcb.board = None
        tcb.queue = _NOTHING_SENT
        tcb.rest()
        self._leave_orphans(tcb)
        self._time_wait[tcb] = None
        if len(self._time_wait) > self.config.max_time_wait:
            oldest = next(iter(self._time_wait))
            self.count("time_wait.full")
            oldest.move(TcpEvent.GIVE_UP)
            self.forget(oldest, now, 0)
        self.mark(tcb)

    def _end_time_wait(self, tcb: Tcb, now: float) -> None:
        tcb.move(TcpEvent.GIVE_UP)
        self.forget(tcb, now, 0)

    def abort(self, tcb: Tcb, now: float, wrong: int) -> None:
        """End a connection by a reset, where its state has one to send (RFC 9293 §3.10.5)."""
        state = tcb.state
        if state not in (State.SYN_SENT, State.TIME_WAIT, State.CLOSED):
            send_reset(tcb, now)
        tcb.move(TcpEvent.ABORT)
        self.forget(tcb, now, wrong)

    def abort_behind_data(self, tcb: Tcb, now: float, wrong: int) -> None:
        """The same, behind what ``send`` took before and the windows allow: Linux has sent that in the call itself.

        So an answer goes out that is written and closed behind a question that nobody reads to its end.
        """
        if tcb.unsent.size_bytes:
            flush(tcb, now)
        self.abort(tcb, now, wrong)

    def forget(self, tcb: Tcb, now: float, wrong: int) -> None:
        """Remove a connection that has come to its end, and tell the program, with errno `wrong` if that is one."""
        if self._connections.pop(tcb.key, None) is None:
            return
        self.ports.let_go(tcb.key[1])
        self._leave_orphans(tcb)
        self._time_wait.pop(tcb, None)
        if wrong:
            tcb.error = wrong
        tcb.write_closed = True
        tcb.fin_pending = False
        tcb.unsent.clear()
        tcb.queue.clear()
        tcb.snd_nxt = tcb.snd_una
        tcb.reassembly = None
        tcb.board = None
        tcb.ack_now = False
        tcb.unacked_bytes = 0
        tcb.dirty = False
        tcb.rtx_at = tcb.ack_at = tcb.keepalive_at = tcb.life_at = tcb.deadline = NEVER
        tcb.heap_at = NEVER  # what waits in the heap for a while is swept out, and the connection with it
        events = Events.CLOSED
        if wrong:
            events |= Events.ERROR | Events.READABLE | Events.WRITABLE
        self.tell(tcb, events)

    def take_orphan(self, tcb: Tcb) -> bool:
        """Keep a connection that the program has closed until all is sent; False where there are too many such."""
        config = self.config
        held = tcb.unsent.size_bytes + tcb.snd_nxt - tcb.snd_una
        if self.orphans >= config.max_orphans:
            self.count("orphan.too_many")
            return False
        if held and self._orphan_bytes + held > config.max_orphan_bytes:
            self.count("orphan.too_many_bytes")
            return False
        self.orphans += 1
        self._orphan_bytes += held
        tcb.orphan = True
        tcb.orphan_bytes = held
        return True

    def _leave_orphans(self, tcb: Tcb) -> None:
        if tcb.orphan:
            tcb.orphan = False
            self.orphans -= 1
            self._orphan_bytes -= tcb.orphan_bytes

    def connections(self) -> tuple[TcpConnection, ...]:
        """Give every connection there is, those in TIME_WAIT too, in the order in which they were made."""
        return tuple(self._connections.values())

    def statistics(self) -> TcpStatistics:
        """Give the layer's counters."""
        return TcpStatistics(
            segments_in=self.segments_in,
            segments_out=self.segments_out,
            resets_in=self.resets_in,
            resets_out=self.resets_out,
            retransmitted_segments=self.retransmitted,
            timeouts=self.timeouts,
            tail_probes=self.tail_probes,
            window_probes=self.window_probes,
            keepalives=self.keepalives,
            active_opens=self.active_opens,
            passive_opens=self.passive_opens,
            connections=len(self._connections),
            syn_requests=self.syn_requests,
            orphans=self.orphans,
            time_wait=len(self._time_wait),
            listeners=self.ports.listening,
            drops=MappingProxyType(dict(self._drops)),
        )

    @property
    def is_full(self) -> bool:
        """No further connection may be made."""
        return len(self._connections) >= self.config.max_connections
