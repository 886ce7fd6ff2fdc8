"""A packet as a person reads it: one line, or one object, with what only its connection tells.

This file knows how a line and a JSON object look. It joins what is in the packet (``_decode.py``), what it is to its
connection (``_tcp_tracker.py``) and who talks (``_owners.py``), and refuses to know where packets come from.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from ...wire import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, TcpSegment, format_ip, format_mac
from .._printable import masked
from ._decode import Decoded, decode
from ._tcp_tracker import MOST_FLOWS, NOTE_NAMES, FlowTracker, Note, Notes, TrackerStatistics

__all__ = ["SCHEMA", "Describer", "Packet"]

SCHEMA: Final = "underlay.capture/1"
"""The first key of each JSON object; documented in docs/capture.md."""

_FLAG_NAMES: Final = {SYN: "SYN", FIN: "FIN", RST: "RST", PSH: "PSH", ACK: "ACK", URG: "URG", ECE: "ECE", CWR: "CWR"}
# Ever the same few: the words of all 256 combinations, made once.
_FLAG_WORDS: Final = tuple(
    " ".join(name for bit, name in _FLAG_NAMES.items() if flags & bit) or "none" for flags in range(256)
)
_MOST_NAMES: Final = 10_000
# A file may have a comment of megabytes on each packet, and names of 64 KiB; as much is written of one
# (trace/_pcapng_blocks.py).
_MOST_LETTERS: Final = 1000
# A file may claim any time; strftime(3) takes years up to some ten thousands.
_MOST_SECONDS: Final = 1 << 35


class Packet(NamedTuple):
    """One captured packet, read."""

    number: int
    """From 1, in this capture."""
    time_ns: int
    """Since 1970."""
    interface: str
    direction: str
    """``"in"``, ``"out"``, or empty where a file does not say."""
    data: bytes
    """What was kept of it, from the link header on."""
    size_bytes: int
    """How long it was."""
    protocol: str
    """``"TCP"``, ``"UDP"``, ``"DNS"``, ``"ICMP"``, ``"ARP"``, …"""
    source: str
    """An IP or MAC address; empty where the packet has none."""
    source_port: int | None
    destination: str
    destination_port: int | None
    payload_bytes: int
    """What TCP or UDP carried."""
    text: str
    """What it says."""
    notes: tuple[str, ...]
    """What a TCP segment is to its connection: the words of docs/capture.md."""
    flow: int | None
    """The number of its TCP connection in this capture, from 0."""
    segment: TcpSegment | None
    """The header of TCP."""
    owner: str
    """Who talks to whom, as ``curl[1234] > nginx[80]``: on the first packet of a flow; or a file's comment."""

    @property
    def line(self) -> str:
        """The packet in one line of text, without a line end."""
        seconds, rest_ns = divmod(self.time_ns, 1_000_000_000)
        return f"{_clock(seconds)}.{rest_ns // 1000:06d} {self.interface} {self.body}"

    @property
    def body(self) -> str:
        """The same without time and interface."""
        if self.source_port is not None:
            if ":" in self.source:
                ends = f"[{self.source}]:{self.source_port} > [{self.destination}]:{self.destination_port}  "
            else:
                ends = f"{self.source}:{self.source_port} > {self.destination}:{self.destination_port}  "
        elif self.source or self.destination:
            ends = f"{self.source or '?'} > {self.destination or '?'}  "
        else:
            ends = ""
        line = f"{self.protocol} {ends}{self.text}"
        if self.notes:
            line += f"  [{', '.join(self.notes)}]"
        if self.owner:
            line += f"  ({self.owner})"
        return line

    def as_json(self) -> dict[str, object]:
        """The packet as an object of the schema."""
        found: dict[str, object] = {
            "schema": SCHEMA,
            "type": "packet",
            "number": self.number,
            "time_ns": self.time_ns,
            "interface": self.interface,
            "direction": self.direction or None,
            "size_bytes": self.size_bytes,
            "kept_bytes": len(self.data),
            "protocol": self.protocol,
            "source": self.source or None,
            "source_port": self.source_port,
            "destination": self.destination or None,
            "destination_port": self.destination_port,
            "payload_bytes": self.payload_bytes,
            "text": self.text,
            "notes": list(self.notes),
            "flow": self.flow,
            "owner": self.owner or None,
        }
        segment = self.segment
        if segment is not None:
            found["tcp"] = {
                "flags": _FLAG_WORDS[segment.flags].split(),
                "seq": segment.seq,
                "ack": segment.ack if segment.flags & ACK else None,
                "window": segment.window,
            }
        return found


# A NamedTuple's own __new__ is Python, and takes three times as long.
_new = tuple.__new__

_last_second = (-1, "")


def _clock(seconds: int) -> str:
    """Give a second as the time of day here; a stream of packets asks for the same one again and again."""
    global _last_second
    if _last_second[0] != seconds:
        _last_second = (
            seconds,
            time.strftime("%H:%M:%S", time.localtime(max(-_MOST_SECONDS, min(seconds, _MOST_SECONDS)))),
        )
    return _last_second[1]


class Describer:
    """Reads packets in their order, and remembers connections; at most ``most_flows`` of them."""

    def __init__(self, *, most_flows: int = MOST_FLOWS) -> None:
        self._tracker = FlowTracker(most_flows)
        self._number = 0
        self._names: dict[bytes, str] = {}

    def tracker_statistics(self) -> TrackerStatistics:
        """How many connections were seen, and forgotten."""
        return self._tracker.statistics()

    def describe(
        self,
        link_type: int,
        data: bytes,
        size_bytes: int,
        time_ns: int,
        interface: str = "",
        direction: str = "",
        owner: str = "",
    ) -> Packet:
        """Read the next packet: ``data`` is what was kept of ``size_bytes``, ``time_ns`` counts from 1970.

        ``link_type`` is a number of www.tcpdump.org/linktypes.html; ``direction`` is ``"in"``, ``"out"`` or empty. A
        packet that is cut off or damaged is described as such; none raises.
        """
        self._number += 1
        decoded = decode(link_type, data, size_bytes)
        segment = decoded.segment
        text = decoded.text
        notes: tuple[str, ...] = ()
        flow = None
        if segment is not None:
            # The same segment is seen in its tunnel and, on another interface, out of it: no retransmission is that.
            way = "/".join(decoded.tunnels).encode() if decoded.tunnels else b""
            said = self._tracker.see(
                (decoded.source + way, decoded.source_port, decoded.destination + way, decoded.destination_port),
                time_ns,
                segment.seq,
                segment.ack,
                segment.flags,
                segment.window,
                decoded.payload_bytes,
                segment.window_scale,
                segment.sack,
                segment.mss,
            )
            text, notes, flow = _segment_words(decoded, segment, said), _note_words(said), said.flow
        protocol, source, destination, source_port, destination_port, payload_bytes, _, _, _ = decoded
        names = self._names
        return _new(
            Packet,
            (
                self._number, time_ns, _shown(interface), direction, data, size_bytes, protocol,
                names.get(source) or self._address(source), source_port if source_port >= 0 else None,
                names.get(destination) or self._address(destination),
                destination_port if destination_port >= 0 else None,
                payload_bytes, text, notes, flow, segment, _shown(owner) if owner else "",
            ),
        )  # fmt: skip

    def _address(self, address: bytes) -> str:
        if len(self._names) >= _MOST_NAMES:
            self._names.clear()
        name = format_mac(address) if len(address) == 6 else format_ip(address) if address else ""
        self._names[address] = name
        return name


def _shown(text: str) -> str:
    return masked(text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + "…")


_words_of_bits: dict[int, tuple[str, ...]] = {}


def _note_words(notes: Notes) -> tuple[str, ...]:
    bits = notes.bits
    words = _words_of_bits.get(bits)
    if words is None:
        words = notes.names
        if len(_words_of_bits) < _MOST_NAMES:
            _words_of_bits[bits] = words
    if bits & Note.DUPLICATE_ACK:
        numbered = f"{NOTE_NAMES[Note.DUPLICATE_ACK]} {notes.duplicate_acks}"
        return tuple(numbered if word == NOTE_NAMES[Note.DUPLICATE_ACK] else word for word in words)
    return words


def _segment_words(decoded: Decoded, segment: TcpSegment, notes: Notes) -> str:
    text = f"{_FLAG_WORDS[segment.flags]}, seq {notes.relative_seq}"
    if segment.flags & ACK:
        text += f", ack {notes.relative_ack}"
    text += f", win {notes.window_bytes}"
    if decoded.payload_bytes:
        text += ", 1 byte" if decoded.payload_bytes == 1 else f", {decoded.payload_bytes} bytes"
    if segment.flags & SYN:
        if segment.mss is not None:
            text += f", mss {segment.mss}"
        if segment.window_scale is not None:
            text += f", scale {segment.window_scale}"
    if segment.sack:
        text += f", sack of {len(segment.sack)}"
    return f"{text}, {decoded.text}" if decoded.text else text
