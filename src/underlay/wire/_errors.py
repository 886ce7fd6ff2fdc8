"""The one error of this room: a header that does not say what its standard allows.

This file knows how to name the header, the field and the reason. It refuses to
know who is to be told: the stack counts these errors by their key, and the
program above never sees one for a frame that came from outside.
"""

from __future__ import annotations

from typing import NoReturn

__all__ = ["WireError"]


class WireError(ValueError):
    """Bytes that are no valid header, or fields that fit into none.

    ``header`` and ``field`` are the names that its RFC uses, in lower case with
    underscores; the field ``header`` means that there are too few bytes for one.
    ``pointer`` is the offset of the offending octet from the beginning of that
    header where an ICMP Parameter Problem could tell it, else None.

    >>> error = WireError("tcp", "data_offset", "16 bytes, but a header has 20 at least")
    >>> print(error)
    tcp.data_offset: 16 bytes, but a header has 20 at least
    >>> error.key
    'tcp.data_offset'
    """

    def __init__(self, header: str, field: str, reason: str, pointer: int | None = None) -> None:
        # pickle and copy call the class with args, so they must be our own.
        super().__init__(header, field, reason, pointer)
        self.header = header
        self.field = field
        self.reason = reason
        self.pointer = pointer

    @property
    def key(self) -> str:
        """The name under which such errors are counted: ``header.field``."""
        return f"{self.header}.{self.field}"

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


def refuse_short(header: str, have_bytes: int, need_bytes: int) -> NoReturn:
    """Raise the error for a buffer that ends before the header does."""
    raise WireError(header, "header", f"{max(have_bytes, 0)} bytes are too few, it has {need_bytes} at least")
