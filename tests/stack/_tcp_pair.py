"""Two TcpLayers joined by a scripted wire in virtual time, for tests.

This file knows how to carry segments, lose, delay, double and reorder them as a test
says, and to write down what passed. It refuses to know what TCP makes of it.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

from underlay.stack import Events, Path, State, TcpConfig, TcpConnection, TcpLayer, TcpListener, TcpOptions, TcpPacket
from underlay.wire import ACK, FIN, PSH, RST, SYN, URG, TcpSegment, build_tcp_header, parse_tcp, pseudo_header_sum

A = bytes([10, 9, 0, 1])
B = bytes([10, 9, 0, 2])
A6 = bytes.fromhex("fd00000000000000000000000000000a")
B6 = bytes.fromhex("fd00000000000000000000000000000b")

_LETTERS = ((SYN, "S"), (FIN, "F"), (RST, "R"), (PSH, "P"), (URG, "U"), (ACK, "."))


def letters(flags: int) -> str:
    """Write flags as tcpdump does: S, F, R, P, U and a dot for ACK."""
    return "".join(letter for bit, letter in _LETTERS if flags & bit)


@dataclass(slots=True)
class Packet:
    """One segment on the wire; ``number`` counts those of its sender from 0."""

    sender: str
    number: int
    segment: TcpSegment
    source: bytes
    destination: bytes
    data: bytes
    segment_bytes: int
    checksum_valid: bool

    @property
    def size(self) -> int:
        return len(self.segment.payload)


Verdict = float | list[float] | None
"""What a script says of a packet: None loses it, a number delays it so many seconds more, a list sends a copy each."""


def states(*connections: TcpConnection) -> tuple[State, ...]:
    """Give the states as they are now (a checker of types believes that an attribute stays what it was)."""
    return tuple(connection.state for connection in connections)


class End:
    """One host's IP layer, as far as TCP sees it."""

    def __init__(self, pair: Pair, name: str, addresses: tuple[bytes, ...], config: TcpConfig, seed: int) -> None:
        self.pair = pair
        self.name = name
        self.addresses = addresses
        self.mtu_bytes = 1500
        self.offload = False
        self.sent = 0
        self.events: list[tuple[object, Events]] = []
        self.doubts: list[bytes] = []
        self.layer = TcpLayer(
            self,
            random.Random(seed),
            lambda who, events: self.events.append((who, events)),
            config,
            on_doubt=lambda local, remote: self.doubts.append(remote),
        )

    def path(self, destination: bytes, source: bytes | None = None, /) -> Path | None:
        for address in self.addresses:
            if len(address) == len(destination) and source in (None, address):
                return Path(address, self.mtu_bytes, self.offload)
        return None

    def is_unicast(self, address: bytes, /) -> bool:
        first = address[0]
        return address != bytes(len(address)) and not (first >= 224 if len(address) == 4 else first == 0xFF)

    def send(
        self, source: bytes, destination: bytes, protocol: int, head: bytes, payload: bytes | memoryview, now: float,
        *, segment_bytes: int = 0, checksum_offset: int = 0, ttl: int = 64, ecn: int = 0, dscp: int = 0,
        dont_fragment: bool = True, options: bytes = b"",
    ) -> None:  # fmt: skip
        data = head + bytes(payload)
        assert segment_bytes or len(data) + (20 if len(source) == 4 else 40) <= self.mtu_bytes
        if not checksum_offset:
            parse_tcp(data, pseudo=pseudo_header_sum(source, destination, protocol, len(data)))  # checks the checksum
        packet = Packet(
            self.name, self.sent, parse_tcp(data), source, destination, data, segment_bytes, checksum_offset > 0
        )
        self.sent += 1
        self.pair.carry(packet)

    def send_tcp(self, packet: TcpPacket, now: float, /) -> None:
        raise AssertionError("no path here is by value")

    def told(self, who: object) -> Events:
        """All events that `who` was told of, together."""
        result = Events(0)
        for socket, events in self.events:
            if socket is who:
                result |= events
        return result


class Pair:
    """Hosts a (client) and b (server), `delay_s` apart each way; `script` judges each packet.

    With `rate_bytes_per_s` the wire is a bottleneck, whose queue drops what is more than `queue_bytes`.

    ``trace`` holds one line for each packet sent, with sequence numbers relative to the initial ones:
    ``"0.000 a S 0:0 win 65535"``, and ``lost`` behind those that the script lost.
    """

    def __init__(
        self,
        *,
        delay_s: float = 0.01,
        config: TcpConfig | None = None,
        config_b: TcpConfig | None = None,
        script: Callable[[Packet], Verdict] | None = None,
        seed: int = 1,
        rate_bytes_per_s: float = 0.0,
        cut: bool = False,
        queue_bytes: float = float("inf"),
    ) -> None:
        config = config or TcpConfig()
        self.now = 1000.0
        self.began = self.now
        self.delay_s = delay_s
        self.script = script
        self.rate_bytes_per_s = rate_bytes_per_s
        self.cut = cut
        self.queue_bytes = queue_bytes
        self.overflows = 0
        self.trace: list[str] = []
        self.packets: list[Packet] = []
        self.keep = True
        self._base: dict[tuple[bytes, int, bytes, int], int] = {}
        self._flying: list[tuple[float, int, Packet]] = []
        self._serial = 0
        self._busy_until = {"a": 0.0, "b": 0.0}
        self.a = End(self, "a", (A, A6), config, seed)
        self.b = End(self, "b", (B, B6), config_b or config, seed + 1)

    # --- the wire ---

    def carry(self, packet: Packet) -> None:
        """Take a packet from its sender."""
        if self.cut and packet.size > packet.segment_bytes > 0:
            for piece in self._pieces(packet):
                self._carry_one(piece)
        else:
            self._carry_one(packet)

    def _pieces(self, packet: Packet) -> list[Packet]:
        """Cut a super segment as a link with TSO does."""
        segment = packet.segment
        pieces = []
        for offset in range(0, packet.size, packet.segment_bytes):
            part = bytes(segment.payload[offset : offset + packet.segment_bytes])
            last = offset + len(part) == packet.size
            flags = segment.flags if last else segment.flags & ~(FIN | PSH)
            head = build_tcp_header(
                packet.source, packet.destination, segment.source_port, segment.destination_port,
                (segment.seq + offset) & 0xFFFFFFFF, segment.ack, flags, segment.window, part,
                timestamp=segment.timestamp,
            )  # fmt: skip
            data = head + part
            pieces.append(
                Packet(packet.sender, packet.number, parse_tcp(data), packet.source, packet.destination, data, 0, False)
            )
        return pieces

    def _carry_one(self, packet: Packet) -> None:
        verdict: Verdict = 0.0 if self.script is None else self.script(packet)
        if self.keep:
            self._write(packet, verdict)
        if (self._busy_until[packet.sender] - self.now) * self.rate_bytes_per_s > self.queue_bytes:
            self.overflows += 1
            return
        leaves = self.now
        if self.rate_bytes_per_s:
            leaves = max(self._busy_until[packet.sender], self.now) + (packet.size + 40) / self.rate_bytes_per_s
            self._busy_until[packet.sender] = leaves
        for extra_s in verdict if isinstance(verdict, list) else () if verdict is None else (verdict,):
            self._serial += 1
            heapq.heappush(self._flying, (leaves + self.delay_s + extra_s, self._serial, packet))

    def _write(self, packet: Packet, verdict: Verdict) -> None:
        self.packets.append(packet)
        segment = packet.segment
        key = (packet.source, segment.source_port, packet.destination, segment.destination_port)
        back = (packet.destination, segment.destination_port, packet.source, segment.source_port)
        if segment.flags & SYN:
            self._base[key] = segment.seq
        seq = (segment.seq - self._base.get(key, segment.seq)) & 0xFFFFFFFF
        line = f"{self.now - self.began:.3f} {packet.sender} {letters(segment.flags)} {seq}:{seq + packet.size}"
        if segment.flags & ACK:
            line += f" ack {(segment.ack - self._base.get(back, 0)) & 0xFFFFFFFF}"
        self.trace.append(line + (" lost" if verdict is None else ""))

    # --- time ---

    def run(self, seconds: float = 1e9, *, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass until nothing is left to happen, `seconds` are over, or `until()` holds; say if it does."""
        end = self.now + seconds
        for _ in range(5_000_000):
            self.a.layer.flush(self.now)
            self.b.layer.flush(self.now)
            if until is not None and until():
                return True
            times = [t for t in (self.a.layer.next_deadline(), self.b.layer.next_deadline()) if t is not None]
            if self._flying:
                times.append(self._flying[0][0])
            if not times or min(times) > end:
                if seconds < 1e9:
                    self.now = end
                return until() if until is not None else False
            self.now = max(self.now, min(times))
            while self._flying and self._flying[0][0] <= self.now:
                packet = heapq.heappop(self._flying)[2]
                end_host = self.b if packet.sender == "a" else self.a
                end_host.layer.receive_segment(
                    packet.source, packet.destination, packet.data, 0, len(packet.data), self.now,
                    checksum_valid=packet.checksum_valid,
                )  # fmt: skip
            self.a.layer.handle_timers(self.now)
            self.b.layer.handle_timers(self.now)
        raise AssertionError("time does not pass: something happens again and again")

    # --- connections ---

    def open(
        self, *, options: TcpOptions | None = None, server_options: TcpOptions | None = None, ipv6: bool = False
    ) -> tuple[TcpConnection, TcpConnection]:
        """Give both ends of an established connection."""
        listener = self.listen(options=server_options, ipv6=ipv6)
        client = self.a.layer.connect(B6 if ipv6 else B, 80, self.now, options=options)
        assert self.run(60, until=lambda: listener.acceptable)
        server = listener.accept(self.now)
        assert server is not None
        return client, server

    def listen(self, *, options: TcpOptions | None = None, backlog: int = 128, ipv6: bool = False) -> TcpListener:
        return self.b.layer.listen(B6 if ipv6 else B, 80, self.now, backlog=backlog, options=options)

    def transfer(
        self, sender: TcpConnection, receiver: TcpConnection, data: bytes, *, seconds: float = 3600, close: bool = False
    ) -> bytes:
        """Send `data` from one end to the other as buffers allow; give what arrived."""
        arrived: list[bytes] = []
        count = 0
        place = 0
        closed = False

        def step() -> bool:
            nonlocal place, count, closed
            while place < len(data):
                taken = sender.send(memoryview(data)[place : place + 65536].toreadonly().tobytes(), self.now)
                if not taken:
                    break
                place += taken
            if close and place == len(data) and not closed:
                closed = True
                sender.shutdown(1, self.now)
            while True:
                chunk = receiver.receive(1 << 20, self.now)
                if not chunk:
                    break
                arrived.append(chunk)
                count += len(chunk)
            for end in (self.a, self.b):
                end.layer.flush(self.now)
            return count >= len(data)

        self.run(seconds, until=step)
        return b"".join(arrived)
