"""The room of the links: what carries frames between a stack and the kernel, or between two stacks.

`TunTap` ends in the Linux kernel. This file is the room's public face; it refuses to know how a frame is carried.
"""

from __future__ import annotations

from ._contract import FRAME, LinkStatistics, Rng
from ._namespace import CLONE_NEWNET, CLONE_NEWUSER, Namespace, setns, unshare
from ._rtnetlink import InterfaceAddress, LinkInfo, Rtnetlink
from ._segmentation import finished, segments
from ._tuntap import Received, TunTap, check_addresses, check_name

__all__ = [
    "CLONE_NEWNET",
    "CLONE_NEWUSER",
    "FRAME",
    "InterfaceAddress",
    "LinkInfo",
    "LinkStatistics",
    "Namespace",
    "Received",
    "Rng",
    "Rtnetlink",
    "TunTap",
    "check_addresses",
    "check_name",
    "finished",
    "segments",
    "setns",
    "unshare",
]
