"""tshark as the oracle: what it says of each TCP segment of a file, in our words.

It knows the names of tshark's fields and which note of ours each stands for. It refuses to know how either comes to
what it says.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from pathlib import Path

from tests._kernel import needs_program

from underlay.tools.capture import FlowTracker, Note, decode
from underlay.trace import CaptureReader

FIELDS = {
    "tcp.connection.syn": Note.SYN,
    "tcp.connection.synack": Note.SYN_ACK,
    "tcp.connection.rst": Note.RESET,
    "tcp.analysis.retransmission": Note.RETRANSMISSION,
    "tcp.analysis.fast_retransmission": Note.FAST_RETRANSMISSION,
    "tcp.analysis.spurious_retransmission": Note.SPURIOUS_RETRANSMISSION,
    "tcp.analysis.out_of_order": Note.OUT_OF_ORDER,
    "tcp.analysis.lost_segment": Note.GAP,
    "tcp.analysis.ack_lost_segment": Note.ACKED_UNSEEN,
    "tcp.analysis.duplicate_ack": Note.DUPLICATE_ACK,
    "tcp.analysis.keep_alive": Note.KEEP_ALIVE,
    "tcp.analysis.keep_alive_ack": Note.KEEP_ALIVE_ACK,
    "tcp.analysis.window_full": Note.WINDOW_FULL,
    "tcp.analysis.window_update": Note.WINDOW_UPDATE,
    "tcp.analysis.zero_window": Note.ZERO_WINDOW,
    "tcp.analysis.zero_window_probe": Note.ZERO_WINDOW_PROBE,
    "tcp.analysis.zero_window_probe_ack": Note.ZERO_WINDOW_PROBE_ACK,
    "tcp.analysis.reused_ports": Note.PORTS_REUSED,
}
COMPARED = sum(FIELDS.values())
# The three that are compared most strictly: handshake, reset, retransmission.
STRICT = (
    Note.SYN | Note.SYN_ACK | Note.RESET | Note.RETRANSMISSION | Note.FAST_RETRANSMISSION | Note.SPURIOUS_RETRANSMISSION
)
NAMES = {bit: name.rpartition(".")[2] for name, bit in FIELDS.items()}


# 4.0 judges without SACK, 4.6 with it; what lies between was not tried.
WITH_SACK = (4, 1)


@functools.cache
def version() -> tuple[int, ...]:
    """Give tshark's."""
    done = subprocess.run([needs_program("tshark"), "--version"], capture_output=True, text=True, check=True)
    found = re.match(r"TShark .*?(\d+)\.(\d+)\.(\d+)", done.stdout)
    assert found, done.stdout
    return tuple(map(int, found.groups()))


def words(bits: int) -> set[str]:
    return {name for bit, name in NAMES.items() if bits & bit}


def fields(file: Path, *names: str) -> list[list[str]]:
    """Ask tshark for fields of each frame."""
    options = [word for name in names for word in ("-e", name)]
    done = subprocess.run(
        [needs_program("tshark"), "-r", file, "-T", "fields", "-E", "separator=|", *options],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": str(file.parent), "TZ": "UTC"},
    )
    return [line.split("|") for line in done.stdout.splitlines()]


def theirs(file: Path) -> list[int]:
    """Give the bits of each frame's notes, as tshark has them."""
    found = []
    for row in fields(file, *FIELDS):
        bits = sum(bit for value, bit in zip(row, FIELDS.values(), strict=True) if value)
        if bits & (Note.FAST_RETRANSMISSION | Note.SPURIOUS_RETRANSMISSION):
            bits &= ~Note.RETRANSMISSION  # it says both; these are kinds of it
        found.append(bits)
    return found


def ours(file: Path, tracker: FlowTracker | None = None, *, with_sack: bool = True) -> list[int]:
    """Give the same as the tracker has them, which may be told of no SACK, as tshark 4.0 looks at none."""
    tracker = tracker or FlowTracker()
    found = []
    with open(file, "rb") as opened:
        for packet in CaptureReader(opened):
            read = decode(packet.interface.link_type, packet.data, packet.size_bytes)
            segment = read.segment
            if segment is None:
                found.append(0)
                continue
            notes = tracker.see(
                (read.source, read.source_port, read.destination, read.destination_port),
                packet.time_ns,
                segment.seq,
                segment.ack,
                segment.flags,
                segment.window,
                read.payload_bytes,
                segment.window_scale,
                segment.sack if with_sack else (),
                segment.mss,
            )
            found.append(notes.bits & COMPARED)
    return found
