"""Initial sequence numbers, and the offset of timestamps, that nobody outside can guess (RFC 6528, RFC 7323 §5.4).

This file knows the formula and keeps the secret. It refuses to know what a
connection does with its numbers.
"""

from __future__ import annotations

import struct
from hashlib import blake2s
from typing import TYPE_CHECKING, Final, Protocol

from ._contract import Rng
from ._tcp_sequence import MASK

if TYPE_CHECKING:
    from ._tcp_tcb import Key

__all__ = ["InitialNumbers", "IsnGenerator"]

_PORTS: Final = struct.Struct("!HH")
# RFC 9293 §3.4.1, MUST-8: the clock ticks every 4 µs.
_TICKS_PER_S: Final = 250_000


class InitialNumbers(Protocol):
    """What a TCP layer asks for the numbers with which a connection begins."""

    def hash(self, key: Key, extra: bytes = b"") -> int: ...
    def numbers(self, key: Key, now: float) -> tuple[int, int]: ...


class IsnGenerator:
    """ISN = M + F(local, local port, remote, remote port, secret), where M is the clock (SHLD-1)."""

    __slots__ = ("_secret",)

    def __init__(self, rng: Rng) -> None:
        # MUST-9: F cannot be computed from outside, for 128 bits of its key never leave this object.
        self._secret = rng.getrandbits(128).to_bytes(16, "big")

    def hash(self, key: Key, extra: bytes = b"") -> int:
        """Give 64 bits that are always the same for one connection, and random to everyone else."""
        local, local_port, remote, remote_port = key
        text = local + remote + _PORTS.pack(local_port, remote_port) + extra
        return int.from_bytes(blake2s(text, digest_size=8, key=self._secret).digest(), "big")

    def numbers(self, key: Key, now: float) -> tuple[int, int]:
        """Give the initial sequence number for a connection that begins now, and its timestamps' offset."""
        random = self.hash(key)
        return (int(now * _TICKS_PER_S) + random) & MASK, random >> 32
