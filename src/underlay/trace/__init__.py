"""The room of the recorders: what probes say, in files that other programs read.

`capture` writes the frames of every link to a pcapng file, for Wireshark and tshark; `capture_process` does so for a
whole process; `PacketFile` takes packets by the batch. `CaptureReader` reads such files, and those of others. This file
is the room's public face; it refuses to know any format.
"""

from __future__ import annotations

from ._capture_reader import (
    CapturedFrame,
    CapturedLink,
    CaptureFormatError,
    CaptureReader,
    ReadCounts,
    ReadInterface,
    ReadPacket,
    read_pcapng,
)
from ._packet_file import PacketFile
from ._pcapng import CaptureStatistics, PcapngWriter, capture
from ._pcapng_blocks import SNAP_BYTES
from ._process import capture_process

__all__ = [
    "SNAP_BYTES",
    "CaptureFormatError",
    "CaptureReader",
    "CaptureStatistics",
    "CapturedFrame",
    "CapturedLink",
    "PacketFile",
    "PcapngWriter",
    "ReadCounts",
    "ReadInterface",
    "ReadPacket",
    "capture",
    "capture_process",
    "read_pcapng",
]
