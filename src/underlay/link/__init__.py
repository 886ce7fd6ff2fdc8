"""The room of the links: what carries frames between a stack and the kernel, or between two stacks.

`TunTap` ends in the Linux kernel. `VirtualWire`, `Hub` and `Switch` carry frames in virtual time, each direction
behind a chain of impairments. This file is the room's public face; it refuses to know how a frame is carried.
"""

from __future__ import annotations

from ._carrier import LIMIT_BYTES, LIMIT_FRAMES, Carrier
from ._contract import FRAME, LinkStatistics, Rng
from ._holders import Process, cable_holders, inhabitants
from ._hub import Hub
from ._impairments import (
    Corruption,
    Delay,
    Duplication,
    Impairment,
    Jitter,
    Loss,
    Mtu,
    Passage,
    Rate,
    Reordering,
    wire_bytes,
)
from ._namespace import CLONE_NEWNET, CLONE_NEWUSER, Namespace, setns, unshare
from ._rtnetlink import InterfaceAddress, LinkInfo, Rtnetlink
from ._segmentation import finished, segments
from ._switch import Switch, SwitchEntry
from ._tuntap import Received, TunTap, check_addresses, check_name
from ._virtual_wire import VirtualWire

__all__ = [
    "CLONE_NEWNET",
    "CLONE_NEWUSER",
    "FRAME",
    "LIMIT_BYTES",
    "LIMIT_FRAMES",
    "Carrier",
    "Corruption",
    "Delay",
    "Duplication",
    "Hub",
    "Impairment",
    "InterfaceAddress",
    "Jitter",
    "LinkInfo",
    "LinkStatistics",
    "Loss",
    "Mtu",
    "Namespace",
    "Passage",
    "Process",
    "Rate",
    "Received",
    "Reordering",
    "Rng",
    "Rtnetlink",
    "Switch",
    "SwitchEntry",
    "TunTap",
    "VirtualWire",
    "cable_holders",
    "check_addresses",
    "check_name",
    "finished",
    "inhabitants",
    "segments",
    "setns",
    "unshare",
    "wire_bytes",
]
