"""The room of the links: what carries frames between a stack and the kernel, or between two stacks.

`TunTap` ends in the Linux kernel. `VirtualWire`, `Hub` and `Switch` carry frames in virtual time, each direction
behind a chain of impairments. This file is the room's public face: it opens a file when one of its
names is asked for, since a command that only asks the kernel by netlink has no use for the others. It refuses to know
how a frame is carried.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
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

# Where each name is: as above, for those who run it.
_FILES: Final = {
    "._carrier": ("LIMIT_BYTES", "LIMIT_FRAMES", "Carrier"),
    "._contract": ("FRAME", "LinkStatistics", "Rng"),
    "._holders": ("Process", "cable_holders", "inhabitants"),
    "._hub": ("Hub",),
    "._impairments": (
        "Corruption",
        "Delay",
        "Duplication",
        "Impairment",
        "Jitter",
        "Loss",
        "Mtu",
        "Passage",
        "Rate",
        "Reordering",
        "wire_bytes",
    ),
    "._namespace": ("CLONE_NEWNET", "CLONE_NEWUSER", "Namespace", "setns", "unshare"),
    "._rtnetlink": ("InterfaceAddress", "LinkInfo", "Rtnetlink"),
    "._segmentation": ("finished", "segments"),
    "._switch": ("Switch", "SwitchEntry"),
    "._tuntap": ("Received", "TunTap", "check_addresses", "check_name"),
    "._virtual_wire": ("VirtualWire",),
}
_FILE_OF: Final = {name: file for file, names in _FILES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _FILE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_FILE_OF[name], __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
