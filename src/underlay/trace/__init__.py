"""The room of the recorders: what probes say, in files that other programs read.

`capture` writes the frames of every link to a pcapng file, for Wireshark and tshark; `capture_process` does so for a
whole process. This file is the room's public face; it refuses to know any format.
"""

from __future__ import annotations

from ._pcapng import (
    CapturedFrame,
    CapturedLink,
    CaptureStatistics,
    PcapngWriter,
    capture,
    read_pcapng,
)
from ._process import capture_process

__all__ = [
    "CaptureStatistics",
    "CapturedFrame",
    "CapturedLink",
    "PcapngWriter",
    "capture",
    "capture_process",
    "read_pcapng",
]
