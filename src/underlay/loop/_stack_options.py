"""The options of a socket of the stack: which there are, what they may be, and what they are at first.

This file knows names and values of socket(7), tcp(7), ip(7) and ipv6(7), and how they read as the stack's own
options.  It does not know when they take effect.  An option that the stack doesn't have is ENOPROTOOPT, as in a
kernel built without it; a few that change nothing here (buffer hints, reports that nobody reads) are remembered and
told back, because libraries set them on every socket.
"""

from __future__ import annotations

import copy
import errno
import functools
import os
import socket
import struct
from typing import Any, Final, NamedTuple

from ..stack import Congestion, TcpOptions

_SOL: Final = socket.SOL_SOCKET
_TCP: Final = socket.IPPROTO_TCP
_IP: Final = socket.IPPROTO_IP
_IPV6: Final = socket.IPPROTO_IPV6

# struct linger of socket(7): two ints, on or off and seconds.
_LINGER: Final = struct.Struct("ii")
_LONGEST_LINGER_S: Final = 86400


class Rule(NamedTuple):
    """What an option is at first, and what it may be: ``least`` to ``most``; ``kind`` is one of those below."""

    default: int
    least: int = 0
    most: int = 2**31 - 1
    kind: str = ""

    def take(self, value: int) -> int:
        """The value as it is kept; EINVAL for one that cannot be."""
        if self.kind == _SWITCH:
            return int(bool(value))
        if self.kind == _SIZE:
            return min(max(value, self.least), self.most)
        if self.kind == _BACK_OFF:
            return next((sum(_BACK_OFFS_S[:n]) for n in range(len(_BACK_OFFS_S)) if sum(_BACK_OFFS_S[:n]) >= value), 0)
        if self.kind == _LOW_WATER:
            return self.most if value < 0 else value or 1
        if self.kind == _MINUS_ONE and value == -1:
            return self.default
        if not self.least <= value <= self.most:
            raise refuse(errno.EINVAL)
        return value


# A switch: any other value than 0 is 1. A size: brought within its limits, never refused (socket(7)). Or -1 for the
# default (ip(7), ipv6(7)). Everything else outside of its limits is EINVAL.
_SWITCH: Final = "switch"
_SIZE: Final = "size"
# Linux: sk_setsockopt() takes 0 for 1, and less for as much as can be.
_LOW_WATER: Final = "low water"
_MINUS_ONE: Final = "minus one is the default"
# Seconds, brought up to a number of retransmissions: secs_to_retrans() and retrans_to_secs() of Linux's tcp.c.
_BACK_OFF: Final = "back-off"
_BACK_OFFS_S: Final = (*(min(1 << step, 120) for step in range(12)),)

# Linux's defaults and limits, from each man page and, where that is silent, from tcp.h (MAX_TCP_KEEPIDLE and its like)
# and sock.h (SOCK_MIN_SNDBUF and SOCK_MIN_RCVBUF, which count twice what is given). The most that a buffer may have is
# what the stack grows one to by itself.
_RULES: Final[dict[tuple[int, int], Rule]] = {
    (_SOL, socket.SO_REUSEADDR): Rule(0, kind=_SWITCH),
    (_SOL, socket.SO_REUSEPORT): Rule(0, kind=_SWITCH),
    (_SOL, socket.SO_KEEPALIVE): Rule(0, kind=_SWITCH),
    (_SOL, socket.SO_BROADCAST): Rule(0, kind=_SWITCH),
    (_SOL, socket.SO_OOBINLINE): Rule(0, kind=_SWITCH),
    (_SOL, socket.SO_RCVBUF): Rule(131072, 1152, 6 << 20, _SIZE),
    (_SOL, socket.SO_SNDBUF): Rule(16384, 2304, 4 << 20, _SIZE),
    (_SOL, socket.SO_RCVLOWAT): Rule(1, kind=_LOW_WATER),
    (_SOL, socket.SO_PRIORITY): Rule(0, 0, 6),
    (_TCP, socket.TCP_NODELAY): Rule(0, kind=_SWITCH),
    (_TCP, socket.TCP_KEEPIDLE): Rule(7200, 1, 32767),
    (_TCP, socket.TCP_KEEPINTVL): Rule(75, 1, 32767),
    (_TCP, socket.TCP_KEEPCNT): Rule(9, 1, 127),
    (_TCP, socket.TCP_USER_TIMEOUT): Rule(0),
    (_TCP, socket.TCP_QUICKACK): Rule(1, kind=_SWITCH),
    (_TCP, socket.TCP_CORK): Rule(0, kind=_SWITCH),
    (_TCP, socket.TCP_DEFER_ACCEPT): Rule(0, kind=_BACK_OFF),
    (_TCP, socket.TCP_SYNCNT): Rule(6, 1, 127),
    (_TCP, socket.TCP_LINGER2): Rule(60, -1),
    (_TCP, socket.TCP_MAXSEG): Rule(536, 88, 32767),
    (_TCP, socket.TCP_FASTOPEN): Rule(0),
    (_IP, socket.IP_TTL): Rule(64, 1, 255, _MINUS_ONE),
    (_IP, socket.IP_TOS): Rule(0, 0, 255),
    (_IP, socket.IP_MULTICAST_TTL): Rule(1, 0, 255, _MINUS_ONE),
    (_IP, socket.IP_MULTICAST_LOOP): Rule(1, kind=_SWITCH),
    (_IPV6, socket.IPV6_V6ONLY): Rule(0, kind=_SWITCH),
    (_IPV6, socket.IPV6_TCLASS): Rule(0, 0, 255, _MINUS_ONE),
    (_IPV6, socket.IPV6_UNICAST_HOPS): Rule(64, 0, 255, _MINUS_ONE),
    (_IPV6, socket.IPV6_MULTICAST_HOPS): Rule(1, 0, 255, _MINUS_ONE),
    (_IPV6, socket.IPV6_MULTICAST_LOOP): Rule(1, kind=_SWITCH),
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
        return self._set[level, name] if (level, name) in self._set else _RULES[level, name].default

    def set(self, level: int, name: int, value: Any) -> None:
        """Remember an option; OSError as setsockopt(2) has it for one that isn't."""
        if (level, name) == (_SOL, socket.SO_LINGER):
            if not isinstance(value, bytes | bytearray) or len(value) < _LINGER.size:
                raise refuse(errno.EINVAL)
            on, seconds = _LINGER.unpack_from(value)
            # The kernel's field has no sign, and its clock an end: more than this is for ever.
            self.linger_s = (seconds if 0 <= seconds < _LONGEST_LINGER_S else _LONGEST_LINGER_S) if on else None
        elif (level, name) == (_TCP, socket.TCP_CONGESTION):
            name_given = value.to_bytes(4, "little", signed=True) if isinstance(value, int) else bytes(value)
            chosen = _CONGESTION.get(name_given.rstrip(b"\0"))
            if chosen is None:
                raise refuse(errno.ENOENT)
            self.congestion = chosen
        elif (level, name) in _RULES:
            self._set[level, name] = _RULES[level, name].take(_number(level, value))
        else:
            raise refuse(errno.ENOPROTOOPT)

    def drop_ecn(self, level: int, name: int) -> None:
        """Of a stream's traffic class the two bits are TCP's own: __ip_sock_set_tos() of Linux."""
        if (level, name) in ((_IP, socket.IP_TOS), (_IPV6, socket.IPV6_TCLASS)):
            self._set[level, name] &= ~3

    def note_bound(self, address: bytes) -> None:
        """A socket bound to one IPv6 address is one of IPv6 only, and says so: inet6_bind() of Linux."""
        if len(address) == 16 and any(address):
            self._set[_IPV6, socket.IPV6_V6ONLY] = 1

    def get(self, level: int, name: int, kind: int, family: int) -> int | bytes:
        """An option's value; ENOPROTOOPT as above."""
        if level == _SOL:
            fixed = {socket.SO_TYPE: kind, socket.SO_DOMAIN: family, socket.SO_ERROR: 0, socket.SO_ACCEPTCONN: 0}
            fixed[socket.SO_PROTOCOL] = _TCP if kind == socket.SOCK_STREAM else socket.IPPROTO_UDP
            if name in fixed:
                return int(fixed[name])
            if name == socket.SO_LINGER:
                return _LINGER.pack(self.linger_s is not None, self.linger_s or 0)
        if (level, name) == (_TCP, socket.TCP_CONGESTION):
            return next(name for name, each in _CONGESTION.items() if each == self.congestion).ljust(16, b"\0")
        if (level, name) not in _RULES:
            raise refuse(errno.ENOPROTOOPT)
        value = self.value(level, name)
        if (level, name) == (_SOL, socket.SO_RCVBUF) or (level, name) == (_SOL, socket.SO_SNDBUF):
            return value * 2 if (level, name) in self._set else value  # Linux counts its bookkeeping in: socket(7)
        return value

    def tcp(self) -> TcpOptions:
        """The same as the stack's TCP has it; what was never set is left to the stack's defaults."""
        return _tcp_options(tuple(self._set.items()), self.linger_s, self.congestion)

    @property
    def reuse_address(self) -> bool:
        """SO_REUSEADDR."""
        return bool(self.value(_SOL, socket.SO_REUSEADDR))

    @property
    def reuse_port(self) -> bool:
        """SO_REUSEPORT."""
        return bool(self.value(_SOL, socket.SO_REUSEPORT))

    @property
    def v6_only(self) -> bool:
        """IPV6_V6ONLY."""
        return bool(self.value(_IPV6, socket.IPV6_V6ONLY))


# So many sets of options one program may have in use; whoever opens connections has mostly one or two.
@functools.lru_cache(maxsize=64)
def _tcp_options(
    were_set: tuple[tuple[tuple[int, int], int], ...], linger_s: int | None, congestion: Congestion
) -> TcpOptions:
    """The same object for the same options, which takes 4 µs to make: a socket asks for it at each of its steps."""
    chosen = dict(were_set)

    def value(level: int, name: int) -> int:
        return chosen.get((level, name), _RULES[level, name].default)

    return TcpOptions(
        nodelay=bool(value(_TCP, socket.TCP_NODELAY)),
        keepalive=bool(value(_SOL, socket.SO_KEEPALIVE)),
        keepalive_idle_s=float(value(_TCP, socket.TCP_KEEPIDLE)),
        keepalive_interval_s=float(value(_TCP, socket.TCP_KEEPINTVL)),
        keepalive_count=value(_TCP, socket.TCP_KEEPCNT),
        syn_retries=chosen.get((_TCP, socket.TCP_SYNCNT)),
        user_timeout_s=value(_TCP, socket.TCP_USER_TIMEOUT) / 1e3 or None,  # milliseconds: tcp(7)
        linger_s=linger_s,
        congestion=congestion,
        oob_inline=bool(value(_SOL, socket.SO_OOBINLINE)),
        send_buffer_bytes=chosen.get((_SOL, socket.SO_SNDBUF)),
        receive_buffer_bytes=chosen.get((_SOL, socket.SO_RCVBUF)),
        quick_ack=bool(chosen.get((_TCP, socket.TCP_QUICKACK))),
        max_segment_bytes=chosen.get((_TCP, socket.TCP_MAXSEG)),
        # An IPv6 socket has its own; one of IPv4 cannot set it.
        ttl=chosen.get((_IPV6, socket.IPV6_UNICAST_HOPS)) or value(_IP, socket.IP_TTL),
        reuse_address=bool(value(_SOL, socket.SO_REUSEADDR)),
        reuse_port=bool(value(_SOL, socket.SO_REUSEPORT)),
        dscp=chosen.get((_IPV6, socket.IPV6_TCLASS), value(_IP, socket.IP_TOS))
        >> 2,  # the two bits below are ECN's: RFC 3168
    )


def _number(level: int, value: Any) -> int:
    """The int that a program gave, or that is in its buffer; ip(7) takes a single byte too."""
    if isinstance(value, bytes | bytearray):
        if len(value) >= 4:
            return int.from_bytes(value[:4], "little", signed=True)
        if value and level == _IP:
            return value[0]
        raise refuse(errno.EINVAL)
    if not isinstance(value, int):
        raise TypeError(f"an integer is required (got type {type(value).__name__})")
    if not -(2**31) <= value < 2**31:
        raise TypeError("an integer of a C int is required")  # as socketmodule.c, which then looks for a buffer
    return int(value)


def given(value: Any) -> int | bytes:
    """An option's value as setsockopt(2) is handed it: an int, or the bytes of any contiguous buffer."""
    if isinstance(value, int):
        if not -(2**31) <= value < 2**31:
            raise TypeError("a bytes-like object is required, not 'int'")  # as socketmodule.c
        return int(value)
    try:
        view = memoryview(value)
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not '{type(value).__name__}'") from None
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return view.tobytes()


def refuse(number: int) -> OSError:
    """The error of a refused call, in the kernel's words."""
    return OSError(number, os.strerror(number))


def in_kernel_words(error: OSError) -> OSError:
    """The same error in the kernel's words, which programs look for and tests match."""
    return error if error.errno is None else OSError(error.errno, os.strerror(error.errno))
