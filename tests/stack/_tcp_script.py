"""One TCP under test against a peer that a test speaks for, segment by segment: a test reads as a protocol trace.

This file knows how to say a segment and to write down the answers. It refuses to
know what the right answer is. Numbers are relative: a SYN has 0, the first byte 1.

    talk, connection = accepted()       # SYN, SYN-ACK, ACK are done
    talk.say(".", 1, 1, b"hello")       # the peer: ACK flag, seq 1, ack 1
    talk.expect(". 1:1 ack 6")
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from underlay.stack import Events, Path, TcpConfig, TcpConnection, TcpLayer, TcpListener, TcpOptions, TcpPacket
from underlay.wire import ACK, FIN, PSH, RST, SYN, URG, TcpSegment, build_tcp_header, parse_tcp, pseudo_header_sum

from ._tcp_pair import letters

US = bytes([10, 9, 0, 1])
PEER = bytes([10, 9, 0, 2])
STRANGER = bytes([10, 9, 0, 3])
US6 = bytes.fromhex("fd00000000000000000000000000000a")
PEER6 = bytes.fromhex("fd00000000000000000000000000000b")

_FLAGS = {"S": SYN, "F": FIN, "R": RST, "P": PSH, "U": URG, ".": ACK}

# A plain TCP of 1981 is the easiest to read; tests ask for more where it is their point.
PLAIN = TcpConfig(timestamps=False, sack=False, window_scaling=False)


def check_options(header: bytes) -> None:
    """Every option but END and NOP has a length that fits (MUST-68), and what is behind END is zeros (MUST-69)."""
    header_bytes = (header[12] >> 4) * 4
    place = 20
    while place < header_bytes:
        if header[place] == 0:
            assert not any(header[place:header_bytes])
            return
        place += 1 if header[place] == 1 else header[place + 1]
    assert place == header_bytes


@dataclass(slots=True)
class Answer:
    """A segment that we sent, and how IP was asked to carry it."""

    segment: TcpSegment
    source: bytes
    hop: bytes
    ttl: int
    dscp: int
    options: bytes
    segment_bytes: int
    at: float


class Talk:
    """A TcpLayer at `US`, and its peer's pen."""

    def __init__(self, config: TcpConfig = PLAIN, *, now: float = 1000.0, peer_iss: int = 5_000_000) -> None:
        self.now = now
        self.mtu_bytes = 1500
        self.offload = False
        self.reachable = True
        self.answers: list[Answer] = []
        self.events: list[tuple[object, Events]] = []
        self.doubts: list[bytes] = []
        self.us = US
        self.peer = PEER
        self.our_port = 80
        self.peer_port = 4000
        self.our_iss = 0
        self.peer_iss = peer_iss
        self.layer = TcpLayer(
            self,
            random.Random(1),
            lambda who, events: self.events.append((who, events)),
            config,
            on_doubt=lambda local, remote: self.doubts.append(remote),
        )
        self.listener: TcpListener | None = None
        self.last: Answer | None = None
        """What we sent last, of what was looked at."""
        self.said: list[Answer] = []
        """All that was looked at last time."""
        self.stamp: tuple[int, int] | None = None

    # --- IpOutput ---

    def path(self, destination: bytes, source: bytes | None = None, /) -> Path | None:
        if not self.reachable or source not in (None, US, US6):
            return None
        return Path(US if len(destination) == 4 else US6, self.mtu_bytes, self.offload)

    def is_unicast(self, address: bytes, /) -> bool:
        if len(address) == 16:
            return address[0] != 0xFF and any(address)
        return 0 < address[0] < 224 and address != bytes([10, 9, 0, 255])

    def send(
        self, source: bytes, destination: bytes, protocol: int, head: bytes, payload: bytes | memoryview, now: float,
        *, segment_bytes: int = 0, checksum_offset: int = 0, ttl: int = 64, ecn: int = 0, dscp: int = 0,
        dont_fragment: bool = True, options: bytes = b"",
    ) -> None:  # fmt: skip
        data = head + bytes(payload)
        # A source route's segments go to its first hop, but their checksum counts the last (RFC 1122 §4.2.2.7).
        final = self.peer if options else destination
        pseudo = None if checksum_offset else pseudo_header_sum(source, final, protocol, len(data))
        segment = parse_tcp(data, pseudo=pseudo)
        check_options(data)
        if segment.flags & SYN:
            self.our_iss = segment.seq
        self.answers.append(Answer(segment, source, destination, ttl, dscp, options, segment_bytes, now))

    def send_tcp(self, packet: TcpPacket, now: float, /) -> None:
        raise AssertionError("no path here is by value")

    # --- the peer ---

    def say(
        self, flags: str, seq: int, ack: int | None = None, payload: bytes = b"", *,
        window: int = 65535, urgent: int = 0, mss: int | None = None, window_scale: int | None = None,
        sack_permitted: bool = False, sack: list[tuple[int, int]] | None = None,
        timestamp: tuple[int, int] | None = None, source: bytes | None = None, port: int | None = None,
        spoil: bool = False, ip_options: bytes = b"",
    ) -> None:  # fmt: skip
        """Let the peer send a segment; `ack` and `sack` count from our initial number, `seq` from the peer's."""
        mask = 0xFFFF_FFFF
        bits = sum(_FLAGS[letter] for letter in flags)
        source = source or self.peer
        head = build_tcp_header(
            source, self.us, port or self.peer_port, self.our_port, (self.peer_iss + seq) & mask,
            (self.our_iss + ack) & mask if ack is not None else 0, bits, window, payload,
            urgent_pointer=urgent, mss=mss, window_scale=window_scale, sack_permitted=sack_permitted,
            sack=[((self.our_iss + left) & mask, (self.our_iss + right) & mask) for left, right in sack or []],
            timestamp=timestamp or self.stamp,
        )  # fmt: skip
        data = head + payload
        if spoil:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.layer.receive_segment(source, self.us, data, 0, len(data), self.now, ip_options=ip_options)

    def write(self, answer: Answer) -> str:
        """Write one of our segments down."""
        segment = answer.segment
        mask = 0xFFFF_FFFF
        seq = (segment.seq - self.our_iss) & mask if not (segment.flags & RST and segment.seq == 0) else 0
        text = f"{letters(segment.flags)} {seq}:{seq + len(segment.payload)}"
        if segment.flags & ACK:
            text += f" ack {(segment.ack - self.peer_iss) & mask}"
        if segment.flags & URG:
            text += f" urg {segment.urgent_pointer}"
        if segment.sack:
            text += " sack " + ",".join(
                f"{(left - self.peer_iss) & mask}:{(right - self.peer_iss) & mask}" for left, right in segment.sack
            )
        return text

    def heard(self) -> list[str]:
        """Flush, and give what we have sent since the last look."""
        self.layer.flush(self.now)
        lines = [self.write(answer) for answer in self.answers]
        self.last = self.answers[-1] if self.answers else self.last
        self.said = self.answers
        self.answers = []
        return lines

    def expect(self, *lines: str) -> None:
        """Exactly this was sent since the last look."""
        assert self.heard() == list(lines)

    def wait(self, seconds: float) -> None:
        """Let time pass, with every timer at its own moment."""
        end = self.now + seconds
        self.layer.flush(self.now)
        while (deadline := self.layer.next_deadline()) is not None and deadline <= end + 1e-9:
            self.now = max(self.now, deadline)
            self.layer.handle_timers(self.now)
            self.layer.flush(self.now)
        self.now = end

    def times(self, begin: float) -> list[float]:
        """When each segment since the last look was sent, in seconds after `begin`."""
        self.layer.flush(self.now)
        result = [round(answer.at - begin, 3) for answer in self.answers]
        self.answers = []
        return result

    def told(self, who: object) -> Events:
        """All that `who` was told since the last look."""
        result = Events(0)
        for socket, events in self.events:
            if socket is who:
                result |= events
        self.events = [each for each in self.events if each[0] is not who]
        return result

    @property
    def drops(self) -> dict[str, int]:
        return dict(self.layer.statistics().drops)

    # --- ready-made beginnings ---

    def listen(self, *, backlog: int = 128, options: TcpOptions | None = None) -> TcpListener:
        self.listener = self.layer.listen(self.us, self.our_port, self.now, backlog=backlog, options=options)
        return self.listener

    def accept(self) -> TcpConnection:
        assert self.listener is not None
        connection = self.listener.accept(self.now)
        assert connection is not None
        return connection

    def connect(self, *, options: TcpOptions | None = None) -> TcpConnection:
        """Begin an active open to the peer's port 80; the SYN is still to be looked at."""
        self.peer_port = 80
        connection = self.layer.connect(self.peer, 80, self.now, options=options)
        self.our_port = connection.local[1]
        return connection


def accepted(
    config: TcpConfig = PLAIN, *, options: TcpOptions | None = None, window: int = 65535, mss: int | None = 1460,
    window_scale: int | None = None, sack: bool = False, timestamp: int | None = None, peer_iss: int = 5_000_000,
    now: float = 1000.0, offload: bool = False, mtu_bytes: int = 1500,
) -> tuple[Talk, TcpConnection]:  # fmt: skip
    """Give a talk with an accepted connection; `sack` turns on SACK, `timestamp` timestamps from that value on."""
    if sack:
        config = replace(config, sack=True)
    if timestamp is not None:
        config = replace(config, timestamps=True)
    if window_scale is not None:
        config = replace(config, window_scaling=True)
    talk = Talk(config, peer_iss=peer_iss, now=now)
    talk.offload = offload
    talk.mtu_bytes = mtu_bytes
    talk.listen(options=options)
    stamp = (timestamp, 0) if timestamp is not None else None
    talk.say("S", 0, window=window, mss=mss, window_scale=window_scale, sack_permitted=sack, timestamp=stamp)
    assert talk.heard() == ["S. 0:0 ack 1"]
    if timestamp is not None:
        assert talk.last is not None
        assert talk.last.segment.timestamp is not None
        talk.stamp = timestamp, talk.last.segment.timestamp[0]
    talk.say(".", 1, 1, window=window)
    connection = talk.accept()
    assert talk.heard() == []
    return talk, connection


def connected(
    config: TcpConfig = PLAIN, *, options: TcpOptions | None = None, window: int = 65535, mss: int | None = 1460,
    peer_iss: int = 5_000_000, sack: bool = False,
) -> tuple[Talk, TcpConnection]:  # fmt: skip
    """Give a talk whose connection we opened."""
    if sack:
        config = replace(config, sack=True)
    talk = Talk(config, peer_iss=peer_iss)
    connection = talk.connect(options=options)
    talk.expect("S 0:0")
    talk.say("S.", 0, 1, window=window, mss=mss, sack_permitted=sack)
    talk.expect(". 1:1 ack 1")
    talk.told(connection)
    return talk, connection
