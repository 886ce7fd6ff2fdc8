"""What a test is: its protocol, its ways, its end, and how iperf3 writes that down.

This file knows the limits of each figure, the same as iperf3's, and the JSON in which a client tells its server. It
refuses to know sockets.

Source: iperf3's src/iperf_api.c (send_parameters, get_parameters) and src/iperf.h (the limits).
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from ...errors import UsageError
from ._protocol import Json, Refusal

__all__ = [
    "MOST_NUMBER",
    "Direction",
    "RefusedSettings",
    "Settings",
    "Way",
    "check_interval",
    "is_interval",
    "number_of",
]

# src/iperf.h and src/iperf_api.h: MAX_STREAMS, MAX_TIME, MAX_OMIT_TIME, MAX_BLOCKSIZE, MAX_TCP_BUFFER, MAX_MSS, and
# MIN_UDP_BLOCKSIZE, MAX_UDP_BLOCKSIZE.
MOST_STREAMS: Final = 128
MOST_TIME_S: Final = 86_400
MOST_OMIT_S: Final = 60
MOST_BLOCK_BYTES: Final = 1 << 20
MOST_WINDOW_BYTES: Final = 512 << 20
MOST_MSS_BYTES: Final = 9 * 1024
LEAST_DATAGRAM_BYTES: Final = 16
MOST_DATAGRAM_BYTES: Final = 65_507

# DEFAULT_TCP_BLKSIZE and UDP_RATE.
TCP_BLOCK_BYTES: Final = 128 * 1024
UDP_RATE_BITS_PER_S: Final = 1024 * 1024

# src/iperf.h: MIN_INTERVAL and MAX_INTERVAL.
LEAST_INTERVAL_S: Final = 0.1
MOST_INTERVAL_S: Final = 60.0
INTERVALS: Final = f"an interval is 0, or {LEAST_INTERVAL_S:g} to {MOST_INTERVAL_S:g} s"

MOST_NUMBER: Final = 1 << 53
"""Up to here a double, which is what iperf3 makes of each number of JSON, is exact. A terabit/s for a day is less."""


class Way(enum.Enum):
    """Which way data goes: ``UP`` from the client to the server, or ``DOWN``."""

    UP = "up"
    DOWN = "down"


class Direction(enum.Enum):
    """Which ways a test has. By default the client sends."""

    NORMAL = "normal"
    REVERSE = "reverse"
    BIDIRECTIONAL = "bidirectional"


class RefusedSettings(ValueError):
    """A client asked for what this server does not do; ``refusal`` is what it is told."""

    def __init__(self, refusal: Refusal, what: str) -> None:
        super().__init__(what)
        self.refusal = refusal


class _WrongSettingsError(UsageError):
    """The sentence for a person here, and the number for a client elsewhere."""

    def __init__(self, refusal: Refusal, what: str, remedy: str) -> None:
        super().__init__(what, remedy=remedy)
        self.refusal = refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one test does; both ends keep to it. Its limits are iperf3's, and one that is passed is a ``UsageError``.

    The test ends after ``time_s`` seconds, or, where they are not 0, after ``size_bytes`` or ``blocks`` of all streams
    together. ``omit_s`` seconds go before and are not counted. ``length_bytes`` is what one write or one datagram has;
    0 takes 128 KiB for TCP, or ``size_bytes`` where that is less, and for UDP what fits the path. ``rate_bits_per_s``
    is each stream's; 0 is no limit.

    >>> Settings(time_s=5, parallel=3).is_sender(at_client=True)
    (True, True, True)
    >>> Settings(direction=Direction.BIDIRECTIONAL).is_sender(at_client=True)
    (True, False)
    """

    protocol: Literal["tcp", "udp"] = "tcp"
    direction: Direction = Direction.NORMAL
    parallel: int = 1
    time_s: float = 10.0
    size_bytes: int = 0
    blocks: int = 0
    omit_s: int = 0
    length_bytes: int = 0
    rate_bits_per_s: int = 0
    window_bytes: int = 0
    mss_bytes: int = 0
    no_delay: bool = False
    congestion: str = ""
    tos: int = 0
    zero_copy: bool = False
    udp_counters_64bit: bool = False

    def __post_init__(self) -> None:
        """Refuse what iperf3 would refuse."""
        if (wrong := _first_wrong(self)) is not None:
            raise _WrongSettingsError(*wrong)

    @property
    def is_udp(self) -> bool:
        """Whether the streams are of datagrams."""
        return self.protocol == "udp"

    @property
    def ends_by_size(self) -> bool:
        """Whether bytes or blocks end it, and not time."""
        return bool(self.size_bytes or self.blocks)

    @property
    def wanted_bytes(self) -> int:
        """What all streams together are to move where that ends the test, else 0; ``length_bytes`` is known by then."""
        return self.size_bytes or self.blocks * self.length_bytes

    def is_sender(self, *, at_client: bool) -> tuple[bool, ...]:
        """Tell of each stream, in the order of their numbers, whether this end sends on it."""
        client = {Direction.NORMAL: (True,), Direction.REVERSE: (False,), Direction.BIDIRECTIONAL: (True, False)}
        return tuple(sends == at_client for sends in client[self.direction] for _ in range(self.parallel))

    def with_length(self, mss_bytes: int) -> Settings:
        """Fill in what one write or datagram has, if it was left open; UDP's is the control connection's MSS."""
        if self.length_bytes:
            return self
        if self.is_udp:
            fits = mss_bytes if LEAST_DATAGRAM_BYTES <= mss_bytes <= MOST_DATAGRAM_BYTES else 1460
            return replace(self, length_bytes=fits)
        # Of fewer bytes than a block an iperf3 server since 3.16 would count none: it reads whole blocks.
        return replace(self, length_bytes=min(self.size_bytes or TCP_BLOCK_BYTES, TCP_BLOCK_BYTES))

    def to_parameters(self) -> dict[str, object]:
        """Write it as a client tells it. iperf3 reads whole seconds, and we tell those that are begun."""
        told: dict[str, object] = {
            self.protocol: True,
            "omit": self.omit_s,
            "time": 0 if self.ends_by_size else math.ceil(self.time_s),
            "num": self.size_bytes,
            "blockcount": self.blocks,
            "parallel": self.parallel,
            "len": self.length_bytes,
            "pacing_timer": 1000,  # µs, iperf3's default: a server that sends needs one
            "client_version": "3.12",  # the version whose protocol this is
        }
        optional = {
            "MSS": self.mss_bytes,
            "nodelay": self.no_delay,
            "reverse": self.direction is Direction.REVERSE,
            "bidirectional": self.direction is Direction.BIDIRECTIONAL,
            "window": self.window_bytes,
            "bandwidth": self.rate_bits_per_s,
            "TOS": self.tos,
            "congestion": self.congestion,
            "udp_counters_64bit": int(self.udp_counters_64bit),
        }
        return told | {name: value for name, value in optional.items() if value}

    @classmethod
    def from_parameters(cls, told: Json) -> Settings:
        """Read what a client tells; raises ``RefusedSettings`` for what is wrong with it, or is not for us."""
        if told.get("sctp"):
            raise RefusedSettings(Refusal.UNSUPPORTED, "it asks for SCTP")
        both = _flag(told, "bidirectional")
        direction = Direction.REVERSE if _flag(told, "reverse") else Direction.NORMAL
        size, blocks = number_of(told, "num"), number_of(told, "blockcount")
        congestion = told.get("congestion", "")
        if not isinstance(congestion, str):
            raise RefusedSettings(Refusal.PARAMETERS, "its congestion control is no name")
        try:
            settings = cls(
                protocol="udp" if _flag(told, "udp") else "tcp",
                direction=Direction.BIDIRECTIONAL if both else direction,
                parallel=number_of(told, "parallel", 1),
                # iperf3 says 0 where bytes or blocks end it; that alone would never end.
                time_s=float(number_of(told, "time", 10)) or (0.0 if size or blocks else float(MOST_TIME_S)),
                size_bytes=size,
                blocks=blocks,
                omit_s=number_of(told, "omit"),
                length_bytes=number_of(told, "len"),
                rate_bits_per_s=number_of(told, "bandwidth"),
                window_bytes=number_of(told, "window"),
                mss_bytes=number_of(told, "MSS"),
                no_delay=_flag(told, "nodelay"),
                congestion=congestion,
                tos=number_of(told, "TOS"),
                udp_counters_64bit=_flag(told, "udp_counters_64bit"),
            )
        except _WrongSettingsError as error:
            raise RefusedSettings(error.refusal, error.what) from None
        return settings.with_length(0)


def is_interval(interval_s: float) -> bool:
    """Tell whether reports may be so many seconds apart; 0 is none at all.

    >>> is_interval(0), is_interval(0.1), is_interval(-1), is_interval(float("nan"))
    (True, True, False, False)
    """
    return interval_s == 0 or LEAST_INTERVAL_S <= interval_s <= MOST_INTERVAL_S


def check_interval(interval_s: float) -> None:
    """Raise ``UsageError`` where reports cannot be so many seconds apart."""
    if not is_interval(interval_s):
        raise UsageError(f"{interval_s:g} s cannot lie between two reports", remedy=INTERVALS)


def number_of(told: Mapping[str, object], name: str, default: int = 0) -> int:
    """Read a whole number that is not negative; iperf3 writes large ones as 1e+10.

    Raises ``RefusedSettings`` for anything else.

    >>> number_of({"num": 1e10}, "num"), number_of({}, "num", 7)
    (10000000000, 7)
    """
    value = told.get(name, default)
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    if not isinstance(value, int) or not 0 <= value <= MOST_NUMBER:
        raise RefusedSettings(Refusal.PARAMETERS, f"its {name} is no number that a test can have")
    return int(value)


def _flag(told: Json, name: str) -> bool:
    return bool(told.get(name, False))


def _first_wrong(settings: Settings) -> tuple[Refusal, str, str] | None:
    """Find the first figure that no test can have: what a client is told, the sentence, what mends it."""
    if not 1 <= settings.parallel <= MOST_STREAMS:
        what = f"{settings.parallel} parallel streams are not possible"
        return Refusal.STREAMS, what, f"a test has 1 to {MOST_STREAMS}"
    if settings.size_bytes and settings.blocks:
        return Refusal.UNSUPPORTED, "both bytes and blocks would end the test", "choose one of them"
    if not settings.ends_by_size and not 0 < settings.time_s <= MOST_TIME_S:
        return Refusal.DURATION, f"a test cannot last {settings.time_s:g} s", f"it lasts up to {MOST_TIME_S} s, a day"
    if min(settings.size_bytes, settings.blocks) < 0:
        return Refusal.PARAMETERS, "fewer bytes or blocks than none are not possible", "leave that out"
    if not 0 <= settings.omit_s <= MOST_OMIT_S or settings.omit_s != int(settings.omit_s):
        return Refusal.OMIT, f"{settings.omit_s} s cannot be omitted", f"it takes 0 to {MOST_OMIT_S} whole seconds"
    if settings.is_udp:
        if settings.length_bytes and not LEAST_DATAGRAM_BYTES <= settings.length_bytes <= MOST_DATAGRAM_BYTES:
            what = f"a datagram of {settings.length_bytes} bytes is not possible"
            return Refusal.UDP_BLOCK_SIZE, what, f"it has {LEAST_DATAGRAM_BYTES} to {MOST_DATAGRAM_BYTES}"
    elif not 0 <= settings.length_bytes <= MOST_BLOCK_BYTES:
        what = f"blocks of {settings.length_bytes} bytes are not possible"
        return Refusal.BLOCK_SIZE, what, f"a block has up to {MOST_BLOCK_BYTES}, 1 MiB"
    if max(settings.size_bytes, settings.blocks, settings.rate_bits_per_s) > MOST_NUMBER:
        return Refusal.PARAMETERS, "no test moves so much, or so fast", f"sizes and rates are up to {MOST_NUMBER:,}"
    if settings.rate_bits_per_s < 0:
        return Refusal.PARAMETERS, "a rate is not negative", "0 is no limit"
    if not 0 <= settings.window_bytes <= MOST_WINDOW_BYTES:
        return Refusal.WINDOW, f"a window of {settings.window_bytes} bytes is not possible", "it has up to 512 MiB"
    if not 0 <= settings.mss_bytes <= MOST_MSS_BYTES:
        return Refusal.MSS, f"an MSS of {settings.mss_bytes} bytes is not possible", f"it has up to {MOST_MSS_BYTES}"
    if not 0 <= settings.tos <= 255:
        return Refusal.TOS, f"{settings.tos} is no type of service", "it is between 0 and 255"
    # TCP_CA_NAME_MAX of <linux/tcp.h> is 16, with the NUL.
    if settings.congestion and re.fullmatch(r"[A-Za-z0-9_-]{1,15}", settings.congestion) is None:
        return Refusal.PARAMETERS, f"{settings.congestion!r} is no name of a congestion control", "cubic and bbr are"
    return None
