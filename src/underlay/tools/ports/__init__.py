"""Who holds a port, why an address is in use, which sockets there are: the kernel's own answers, by sock_diag.

This file is the public face; it opens a file when one of its names is asked for. It refuses to know how it is done.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ._bind_trial import Trial, Want
    from ._close import close_socket
    from ._conflict import Overlap
    from ._connectors import Connector
    from ._filter import Filter
    from ._list import Snapshot, list_sockets, take_snapshot
    from ._socket import Owner, Socket, State, TcpInfo
    from ._watch import Change, Watch
    from ._why import Attempt, Cause, Obstacle, Verdict, explain_bind

__all__ = [
    "Attempt",
    "Cause",
    "Change",
    "Connector",
    "Filter",
    "Obstacle",
    "Overlap",
    "Owner",
    "Snapshot",
    "Socket",
    "State",
    "TcpInfo",
    "Trial",
    "Verdict",
    "Want",
    "Watch",
    "close_socket",
    "explain_bind",
    "list_sockets",
    "take_snapshot",
]

# Where each name is: as above, for those who run it.
_FILES: Final = {
    "._bind_trial": ("Trial", "Want"),
    "._close": ("close_socket",),
    "._conflict": ("Overlap",),
    "._connectors": ("Connector",),
    "._filter": ("Filter",),
    "._list": ("Snapshot", "list_sockets", "take_snapshot"),
    "._socket": ("Owner", "Socket", "State", "TcpInfo"),
    "._watch": ("Change", "Watch"),
    "._why": ("Attempt", "Cause", "Obstacle", "Verdict", "explain_bind"),
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
