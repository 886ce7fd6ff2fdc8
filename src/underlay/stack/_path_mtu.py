"""Which destinations are reached by smaller packets than the link carries.

This file knows what routers said of a destination and until when it is
believed (RFC 1191, RFC 8201). It refuses to know routes and who sends.
"""

from __future__ import annotations

from typing import Final

from ._host_config import Drops, HostConfig
from ._interface import SMALLEST_MTU6_BYTES

# RFC 1191 section 7.1: MTUs in use, for old routers that do not say theirs.
PLATEAUS: Final = (65_535, 32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 508, 296, 68)


def next_plateau(total_bytes: int) -> int:
    """Return the largest common MTU below the size of a packet that was too big (RFC 1191 section 7).

    >>> next_plateau(1500), next_plateau(60)
    (1492, 68)
    """
    for plateau in PLATEAUS:
        if plateau < total_bytes:
            return plateau
    return PLATEAUS[-1]


class PathMtuCache:
    """Path MTUs by destination, each until its time is over.

    >>> cache = PathMtuCache(HostConfig(path_mtu_timeout_s=600), Drops())
    >>> cache.lower(b"\\x0a\\x00\\x00\\x01", 1400, now=5.0)
    True
    >>> cache.get(b"\\x0a\\x00\\x00\\x01", now=10.0), cache.get(b"\\x0a\\x00\\x00\\x01", now=605.0)
    ((1400, 605.0), None)
    """

    def __init__(self, config: HostConfig, drops: Drops) -> None:
        self._config = config
        self._drops = drops
        self._entries: dict[bytes, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, destination: bytes, now: float) -> tuple[int, float] | None:
        """Return (MTU in bytes, until when) where a smaller one is known and still believed."""
        entry = self._entries.get(destination)
        if entry is None:
            return None
        if now >= entry[1]:
            del self._entries[destination]
            return None
        return entry

    def lower(self, destination: bytes, mtu_bytes: int, now: float) -> bool:
        """Believe a path MTU, unless a smaller one is believed already; True where that changed something.

        A value below what every link carries is raised to it: RFC 8201 section 4 ignores it, and with IPv4 it is
        the attack of RFC 5927 section 7.2.
        """
        smallest = self._config.smallest_path_mtu_bytes if len(destination) == 4 else SMALLEST_MTU6_BYTES
        mtu_bytes = max(mtu_bytes, smallest)
        known = self.get(destination, now)
        if known is not None and known[0] < mtu_bytes:
            return False
        self._entries.pop(destination, None)
        if len(self._entries) >= self._config.path_mtu_entries:
            del self._entries[next(iter(self._entries))]
            self._drops.count("path_mtu.table_full")
        self._entries[destination] = mtu_bytes, now + self._config.path_mtu_timeout_s
        return known is None or known[0] != mtu_bytes
