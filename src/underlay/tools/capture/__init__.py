"""What is on the wire, and who put it there: a running capture, and files of one.

`Live` captures by a ring that it shares with the kernel, `read_packets` reads pcapng and pcap, `Describer` says what a
packet holds and what a TCP segment is to its connection, `FlowTracker` does the latter alone, without any operating
system. This file is the public face; the command is ``_cli.py``.

A program of ten lines is a capture of its own::

    from underlay.tools.capture import Describer, Live

    with Live(["lo"], "tcp port 80", count=10) as live:
        describer = Describer()
        for rows in live.batches():
            for packet, flow, is_first in rows:
                told = describer.describe(live.source.link_type, packet.data, packet.size_bytes, packet.time_ns)
                print(told.body)
    print(live.statistics().dropped_packets, "dropped")
"""

from __future__ import annotations

from ._decode import Decoded, decode
from ._filter import CompiledFilter, compile_filter
from ._interfaces import Interface, interfaces
from ._live import Live, LiveStatistics, Row
from ._owners import Flow, Owner
from ._packet import Describer, Packet
from ._read import read_packets
from ._ring import CapturedPacket
from ._tcp_tracker import NOTE_NAMES, FlowTracker, Note, Notes, TrackerStatistics

__all__ = [
    "NOTE_NAMES",
    "CapturedPacket",
    "CompiledFilter",
    "Decoded",
    "Describer",
    "Flow",
    "FlowTracker",
    "Interface",
    "Live",
    "LiveStatistics",
    "Note",
    "Notes",
    "Owner",
    "Packet",
    "Row",
    "TrackerStatistics",
    "compile_filter",
    "decode",
    "interfaces",
    "read_packets",
]
