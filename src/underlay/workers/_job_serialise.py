"""Arguments and results as bytes: JSON by default, and only what JSON gives back as it was.

This file knows values and bytes. It refuses to know what they are arguments or results of.
"""

from __future__ import annotations

import json
import math
from typing import Final, Protocol

from ._job_errors import NotSerialisable

__all__ = ["JobSerialiser", "JsonSerialiser", "dumps", "loads"]

# json's own encoder and decoder recurse in C, to about 1,000 on the smallest stacks that Python allows.
_DEEPEST: Final = 200
# sys.set_int_max_str_digits(): more cannot be parsed again, by default.
_LONGEST_INTEGER_BITS: Final = 14_000


class JobSerialiser(Protocol):
    """How arguments and results become bytes. Each program that uses a database must use the same."""

    def dumps(self, value: object, /) -> bytes:
        """Put a value into bytes; any exception says that it cannot be."""

    def loads(self, data: bytes, /) -> object:
        """Make a value of what ``dumps`` gave."""


class JsonSerialiser:
    """JSON, strictly: it refuses what would come back as something else, such as a key that is a number, or NaN.

    A tuple is written as a list, and comes back as one.

    >>> JsonSerialiser().dumps({"to": ["ann", 3.5, None]})
    b'{"to":["ann",3.5,null]}'
    >>> JsonSerialiser().dumps({"when": {1: "one"}})
    Traceback (most recent call last):
    ...
    ValueError: its part ['when'] has the key 1, and JSON's keys are strings
    """

    def dumps(self, value: object, /) -> bytes:
        """Put a value into JSON; ``ValueError`` names the place of what cannot be."""
        _check(value, "", 0)
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()

    def loads(self, data: bytes, /) -> object:
        """Make a value of JSON."""
        return json.loads(data)


def _check(value: object, place: str, depth: int) -> None:
    """Raise where JSON would not give back what it is given; ``place`` is how to come there."""
    kind = type(value)
    if value is None or kind in (str, bool):
        return
    what = f"its part {place}" if place else "it"
    if depth > _DEEPEST:
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels, or contains itself")
    if kind is int:
        assert isinstance(value, int)
        if value.bit_length() > _LONGEST_INTEGER_BITS:
            raise ValueError(f"{what} is an integer of {value.bit_length():,} bits, too long for JSON's readers")
    elif kind is float:
        assert isinstance(value, float)
        if not math.isfinite(value):
            raise ValueError(f"{what} is {value}, which JSON has no word for")
    elif kind is dict:
        assert isinstance(value, dict)
        for key, each in value.items():
            if type(key) is not str:
                raise ValueError(f"{what} has the key {key!r:.60}, and JSON's keys are strings")
            _check(each, f"{place}[{key!r:.60}]", depth + 1)
    elif kind is list or kind is tuple:
        assert isinstance(value, (list, tuple))
        for index, each in enumerate(value):
            _check(each, f"{place}[{index}]", depth + 1)
    else:
        raise ValueError(f"{what} is of the type {kind.__qualname__}, which JSON has no word for")


def dumps(serialiser: JobSerialiser, value: object, what: str, most_bytes: int) -> bytes:
    """Serialise ``what``, or raise ``NotSerialisable`` for what cannot be put into words or is too long."""
    try:
        data = serialiser.dumps(value)
    except Exception as error:
        told = f"{error}" or type(error).__name__
        raise NotSerialisable(f"{what} cannot be stored: {told}", remedy="give plain data") from error
    if len(data) > most_bytes:
        raise NotSerialisable(
            f"{what} cannot be stored: {len(data):,} bytes are more than the limit of {most_bytes:,}",
            remedy="store it elsewhere and give a reference, or allow more with Limits",
        )
    return data


def loads(serialiser: JobSerialiser, data: bytes, what: str) -> object:
    """Read ``what`` back, or raise ``NotSerialisable`` where another serialiser wrote it."""
    try:
        return serialiser.loads(data)
    except Exception as error:
        raise NotSerialisable(
            f"{what} cannot be read back: {error}", remedy="use the serialiser that it was stored with"
        ) from error
