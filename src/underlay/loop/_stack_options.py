"""The options of a socket of the stack: which there are, what they may be, and what they are at first.

This file knows names and values of socket(7), tcp(7), ip(7) and ipv6(7), and how they read as the stack's own
options.  It does not know when they take effect.  An option that the stack doesn't have is ENOPROTOOPT, as in a
kernel built without it; a few that change nothing here (buffer hints, reports that nobody reads) are remembered and
told back, because libraries set them on every socket.
"""

from __future__ import annotations

import copy
import errno
import os
import socket
import struct
from typing import Any, Final

from ..stack import Congestion, TcpOptions

_SOL: Final = socket.SOL_SOCKET
_TCP: Final = socket.IPPROTO_TCP
_IP: Final = socket.IPPROTO_IP
_IPV6: Final = socket.IPPROTO_IPV6

# struct linger of socket(7): two ints, on or off and seconds.
_LINGER: Final = struct.Struct("ii")

# Linux's defaults, each in its man page: tcp(7) for the keepalive, socket(7) for the buffers (net.ipv4.tcp_rmem and
# tcp_wmem give the sizes), ip(7) for the TTL.
_DEFAULTS: Final[dict[tuple[int, int], int]] = {
    (_SOL, socket.SO_REUSEADDR): 0,
    (_SOL, socket.SO_REUSEPORT): 0,
    (_SOL, socket.SO_KEEPALIVE): 0,
    (_SOL, socket.SO_BROADCAST): 0,
    (_SOL, socket.SO_OOBINLINE): 0,
    (_SOL, socket.SO_RCVBUF): 131072,
    (_SOL, socket.SO_SNDBUF): 16384,
    (_SOL, socket.SO_RCVLOWAT): 1,
    (_SOL, socket.SO_PRIORITY): 0,
    (_TCP, socket.TCP_NODELAY): 0,
    (_TCP, socket.TCP_KEEPIDLE): 7200,
    (_TCP, socket.TCP_KEEPINTVL): 75,
    (_TCP, socket.TCP_KEEPCNT): 9,
    (_TCP, socket.TCP_USER_TIMEOUT): 0,
    (_TCP, socket.TCP_QUICKACK): 1,
    (_TCP, socket.TCP_CORK): 0,
    (_TCP, socket.TCP_DEFER_ACCEPT): 0,
    (_TCP, socket.TCP_SYNCNT): 6,
    (_TCP, socket.TCP_LINGER2): 60,
    (_TCP, socket.TCP_MAXSEG): 536,
    (_TCP, socket.TCP_FASTOPEN): 0,
    (_IP, socket.IP_TTL): 64,
    (_IP, socket.IP_TOS): 0,
    (_IP, socket.IP_MULTICAST_TTL): 1,
    (_IP, socket.IP_MULTICAST_LOOP): 1,
    (_IPV6, socket.IPV6_V6ONLY): 0,
    (_IPV6, socket.IPV6_UNICAST_HOPS): 64,
    (_IPV6, socket.IPV6_MULTICAST_HOPS): 1,
    (_IPV6, socket.IPV6_MULTICAST_LOOP): 1,
}

# Linux says reno for what RFC 6582 calls NewReno.
_CONGESTION: Final[dict[bytes, Congestion]] = {b"cubic": "cubic", b"reno": "newreno"}


class Options:
    """What was set on one socket."""

    def __init__(self) -> None:
        self._set: dict[tuple[int, int], int] = {}
        self.linger_s: int | None = None
        self.congestion: Congestion = "cubic"

    def copy(self) -> Options:
        """The same for another socket: what accept() gives has its listener's options."""
        other = copy.copy(self)
        other._set = dict(self._set)
        return other

    def value(self, level: int, name: int) -> int:
        """A number, as it was set or as it is at first."""
        return self._set.get((level, name), _DEFAULTS.get((level, name), 0))

    def set(self, level: int, name: int, value: Any) -> None:
        """Remember an option; OSError as setsockopt(2) has it for one that isn't."""
        if (level, name) == (_SOL, socket.SO_LINGER):
            if not isinstance(value, bytes | bytearray) or len(value) < _LINGER.size:
                raise _refused(errno.EINVAL)
            on, seconds = _LINGER.unpack_from(value)
            self.linger_s = seconds if on else None
        elif (level, name) == (_TCP, socket.TCP_CONGESTION):
            chosen = _CONGESTION.get(bytes(value).rstrip(b"\0"))
            if chosen is None:
                raise _refused(errno.ENOENT)
            self.congestion = chosen
        elif (level, name) in _DEFAULTS:
            if isinstance(value, bytes | bytearray):
                if len(value) < 4:
                    raise _refused(errno.EINVAL)
                value = int.from_bytes(value[:4], "little", signed=True)
            if not isinstance(value, int):
                raise TypeError(f"an integer is required (got type {type(value).__name__})")
            if value < 0:
                raise _refused(errno.EINVAL)
            self._set[level, name] = int(value)
        else:
            raise _refused(errno.ENOPROTOOPT)

    def get(self, level: int, name: int, kind: int, family: int) -> int | bytes:
        """An option's value; ENOPROTOOPT as above."""
        if level == _SOL:
            fixed = {socket.SO_TYPE: kind, socket.SO_DOMAIN: family, socket.SO_ERROR: 0}
            fixed[socket.SO_PROTOCOL] = _TCP if kind == socket.SOCK_STREAM else socket.IPPROTO_UDP
            if name in fixed:
                return int(fixed[name])
            if name == socket.SO_LINGER:
                return _LINGER.pack(self.linger_s is not None, self.linger_s or 0)
        if (level, name) == (_TCP, socket.TCP_CONGESTION):
            return next(name for name, each in _CONGESTION.items() if each == self.congestion)
        if (level, name) not in _DEFAULTS:
            raise _refused(errno.ENOPROTOOPT)
        value = self.value(level, name)
        if (level, name) == (_SOL, socket.SO_RCVBUF) or (level, name) == (_SOL, socket.SO_SNDBUF):
            return value * 2 if (level, name) in self._set else value  # Linux counts its bookkeeping in: socket(7)
        return value

    def tcp(self) -> TcpOptions:
        """The same as the stack's TCP has it; what was never set is left to the stack's defaults."""
        return TcpOptions(
            nodelay=bool(self.value(_TCP, socket.TCP_NODELAY)),
            keepalive=bool(self.value(_SOL, socket.SO_KEEPALIVE)),
            keepalive_idle_s=float(self.value(_TCP, socket.TCP_KEEPIDLE)),
            keepalive_interval_s=float(self.value(_TCP, socket.TCP_KEEPINTVL)),
            keepalive_count=self.value(_TCP, socket.TCP_KEEPCNT),
            user_timeout_s=self.value(_TCP, socket.TCP_USER_TIMEOUT) / 1e3 or None,  # milliseconds: tcp(7)
            linger_s=self.linger_s,
            congestion=self.congestion,
            oob_inline=bool(self.value(_SOL, socket.SO_OOBINLINE)),
            send_buffer_bytes=self._set.get((_SOL, socket.SO_SNDBUF)),
            receive_buffer_bytes=self._set.get((_SOL, socket.SO_RCVBUF)),
            max_segment_bytes=self._set.get((_TCP, socket.TCP_MAXSEG)),
            ttl=self.value(_IP, socket.IP_TTL),
            dscp=self.value(_IP, socket.IP_TOS) >> 2,  # the two bits below are ECN's: RFC 3168
        )

    @property
    def reuse_address(self) -> bool:
        """SO_REUSEADDR."""
        return bool(self.value(_SOL, socket.SO_REUSEADDR))

    @property
    def v6_only(self) -> bool:
        """IPV6_V6ONLY."""
        return bool(self.value(_IPV6, socket.IPV6_V6ONLY))


def _refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))
