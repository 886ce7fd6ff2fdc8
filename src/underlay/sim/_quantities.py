"""Quantities as a person writes them: "20ms", "10mbit", "64kib", 0.01.

This file knows units. It refuses to know what is measured.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from ..errors import UsageError

_SECONDS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
# Rates as tc(8) writes them: powers of ten, and of bits unless it says bps.
_BITS_PER_S: Final = {
    "bit": 1.0,
    "kbit": 1e3,
    "mbit": 1e6,
    "gbit": 1e9,
    "bps": 8.0,
    "kbps": 8e3,
    "mbps": 8e6,
    "gbps": 8e9,
}
_BYTES: Final = {"b": 1, "": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_NUMBER_AND_UNIT: Final = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-zµ]*)\s*", re.IGNORECASE | re.ASCII)


def seconds(value: float | str, name: str = "time") -> float:
    """The seconds of a number, or of a text with a unit: ns, us, ms, s, min, h, d. Raises ``UsageError``.

    >>> seconds("20ms"), seconds("1.5s"), seconds(3)
    (0.02, 1.5, 3.0)
    """
    return _read(value, name, _SECONDS, "20ms")


def bits_per_s(value: float | str, name: str = "rate") -> float:
    """The bits per second of a number, or of a text as tc(8) has it: kbit, mbit, gbit, or bytes as kbps, mbps.

    >>> bits_per_s("10mbit"), bits_per_s("1mbps")
    (10000000.0, 8000000.0)
    """
    return _read(value, name, _BITS_PER_S, "10mbit")


def size_bytes(value: float | str, name: str = "size") -> int:
    """The bytes of a number, or of a text with kb, mb, gb (powers of ten) or kib, mib, gib.

    >>> size_bytes("64kib"), size_bytes(100)
    (65536, 100)
    """
    return int(_read(value, name, _BYTES, "64kib"))


def probability(value: float | str, name: str) -> float:
    """A probability of a number from 0 to 1, or of a text such as "1%".

    >>> probability("1%", "loss"), probability(0.5, "loss")
    (0.01, 0.5)
    """
    share = _share(value)
    if not 0 <= share <= 1:
        raise UsageError(f"{name}={value!r} is no probability", remedy='it lies from 0 to 1, or is written "1%"')
    return float(share)


def _share(value: object) -> float:
    """Of whatever is written; what is none is -1."""
    if isinstance(value, float | int):
        return value
    if not isinstance(value, str):
        return -1.0
    text, percent, rest = value.strip().partition("%")
    try:
        return -1.0 if rest else float(text) / (100 if percent else 1)
    except ValueError:
        return -1.0


def _read(value: object, name: str, units: dict[str, float] | dict[str, int], example: str) -> float:
    if isinstance(value, str):
        match = _NUMBER_AND_UNIT.fullmatch(value.replace("µ", "u"))
        unit = units.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise UsageError(
                f"{name}={value!r} cannot be read", remedy=f"write it as in {example!r}; units are {', '.join(units)}"
            )
        value = float(match[1]) * unit
        if value == float("inf"):
            raise UsageError(
                f"{name}={match[1]:.20}… is more than a number can be", remedy=f"write it as in {example!r}"
            )
        return value
    if not isinstance(value, float | int) or not 0 <= value <= sys.float_info.max:
        raise UsageError(f"{name}={value!r} cannot be", remedy=f"it is no less than 0, or a text as in {example!r}")
    return float(value)
