"""A deterministic internet in one process: unmodified asyncio programs on hosts of a world in virtual time.

This file is the room's public face. It knows names, and opens a file when one of its names is asked for: pytest loads
the plugin of this room in every project, and most have no test of ours. It refuses to know how any of it is done.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ._capture import Capture
    from ._chaos import Chaos
    from ._conditions import Conditions
    from ._disk import Disk
    from ._explore import Exploration, Failure, explore
    from ._faults import (
        Applied,
        Calm,
        ClockChange,
        Crash,
        Disturb,
        Drawn,
        Fault,
        FaultLog,
        Heal,
        Hold,
        Isolate,
        Kill,
        LinkChange,
        Partition,
        Pause,
        Release,
        Restart,
        Resume,
        Slow,
    )
    from ._host import Host, current_host
    from ._internet import WayStatistics
    from ._lan import Lan
    from ._test import SimTest, test
    from ._world import Stalled, World

__all__ = [
    "Applied",
    "Calm",
    "Capture",
    "Chaos",
    "ClockChange",
    "Conditions",
    "Crash",
    "Disk",
    "Disturb",
    "Drawn",
    "Exploration",
    "Failure",
    "Fault",
    "FaultLog",
    "Heal",
    "Hold",
    "Host",
    "Isolate",
    "Kill",
    "Lan",
    "LinkChange",
    "Partition",
    "Pause",
    "Release",
    "Restart",
    "Resume",
    "SimTest",
    "Slow",
    "Stalled",
    "WayStatistics",
    "World",
    "current_host",
    "explore",
    "test",
]

# Where each name is: as above, for those who run it.
_FILES: Final = {
    "._capture": ("Capture",),
    "._chaos": ("Chaos",),
    "._conditions": ("Conditions",),
    "._disk": ("Disk",),
    "._explore": ("Exploration", "Failure", "explore"),
    "._host": ("Host", "current_host"),
    "._internet": ("WayStatistics",),
    "._lan": ("Lan",),
    "._test": ("SimTest", "test"),
    "._world": ("Stalled", "World"),
}
_FILE_OF: Final = {name: file for file, names in _FILES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_FILE_OF.get(name, "._faults"), __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
