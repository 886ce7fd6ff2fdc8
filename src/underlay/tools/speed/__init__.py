"""How fast is the way to another machine? iperf3's protocol, as a client and as a server.

Either end may be a stock iperf3. This file is the public face: it knows names, and opens a file when one of its names
is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ._client import measure
    from ._protocol import PORT, PeerError
    from ._results import Cpu, Interval, Result, StreamResult, Total
    from ._server import Server
    from ._settings import Direction, Settings, Way
    from ._verdict import Verdict, verdicts
    from ._watcher import Watcher

__all__ = [
    "PORT",
    "Cpu",
    "Direction",
    "Interval",
    "PeerError",
    "Result",
    "Server",
    "Settings",
    "StreamResult",
    "Total",
    "Verdict",
    "Watcher",
    "Way",
    "measure",
    "verdicts",
]

# Where each name is: as above, for those who run it.
_FILES: Final = {
    "._client": ("measure",),
    "._protocol": ("PORT", "PeerError"),
    "._results": ("Cpu", "Interval", "Result", "StreamResult", "Total"),
    "._server": ("Server",),
    "._settings": ("Direction", "Settings", "Way"),
    "._verdict": ("Verdict", "verdicts"),
    "._watcher": ("Watcher",),
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
