"""Which ports take a right, and which the kernel lends: two settings of ip(7), which IPv6 obeys as well.

This file knows where they are, and what Linux has where nobody set them. It refuses to know sockets.
"""

from __future__ import annotations

__all__ = ["first_unprivileged_port", "lent_ports"]


def first_unprivileged_port() -> int:
    """The first port that needs no right: net.ipv4.ip_unprivileged_port_start."""
    return _sysctl("ip_unprivileged_port_start", (1024,))[0]


def lent_ports() -> tuple[int, int]:
    """The first and last port that the kernel lends to outgoing connections: net.ipv4.ip_local_port_range."""
    first, last = _sysctl("ip_local_port_range", (32768, 60999))
    return first, last


def _sysctl(name: str, usual: tuple[int, ...]) -> tuple[int, ...]:
    try:
        with open(f"/proc/sys/net/ipv4/{name}") as file:
            found = tuple(int(word) for word in file.read().split())
    except (OSError, ValueError):
        return usual
    return found if len(found) == len(usual) else usual
