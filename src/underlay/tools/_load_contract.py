"""What the parts of the load generator agree on: a dialogue, how far a reply has come, a window, a failure.

It holds no behaviour but counting. What a request is, is a dialogue's (`_load_dialogue.py`, `_load_http.py`); when to
send it, the engine's (`_load_engine.py`).
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

# 2**18 fine buckets of 256 ns reach 67 ms; above that buckets of 65.5 µs are exact enough. Both
# sizes bound the memory of a run of any length, where a list of samples would grow by 8 MB for each
# second at 150,000 requests/s.
FINE_SHIFT = 8
FINE_BUCKETS = 1 << 18
COARSE_SHIFT = 16


class LoadError(Exception):
    """The load could not be carried out.

    The message is one sentence that says what was tried and what came back.
    """


class Reply(enum.Enum):
    """How far a reply has come."""

    PARTIAL = enum.auto()
    COMPLETE = enum.auto()
    BROKEN = enum.auto()  # the server closed in the middle, or said what is no reply


class Dialogue(Protocol):
    """What is said on a connection: how to open it, what to send, when a reply is complete."""

    request: bytes
    expected_bytes: int
    lossy: bool

    def open(self) -> socket.socket:
        """Give a connected, non-blocking socket."""

    def check(self, socks: Sequence[socket.socket], timeout_s: float) -> None:
        """Carry out one exchange whose reply is verified.

        Raise LoadError with the reason if it isn't right.
        """

    def more(self, fd: int, received: int, buffer: bytearray) -> Reply:
        """Take a reply that did not come in one piece of `expected_bytes`.

        `received` 0 means that the server closed.
        """

    def forget(self, fd: int) -> None:
        """Drop what is remembered of a reply that was under way on this descriptor."""


@dataclass
class Window:
    """What one measured window saw: times in s, errors by reason, latency buckets."""

    requests: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    fine: dict[int, int] = field(default_factory=dict)
    coarse: dict[int, int] = field(default_factory=dict)

    def error(self, reason: str) -> None:
        """Count one error under its reason."""
        self.errors[reason] = self.errors.get(reason, 0) + 1
