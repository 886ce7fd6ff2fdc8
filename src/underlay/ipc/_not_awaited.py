"""What is used with ``with`` and ``for``, and is met with ``async with`` and ``async for`` by mistake.

This file knows what Python then says, which names no remedy, and what is said in its place.
"""

from __future__ import annotations

from typing import NoReturn


class NotAwaited:
    """Has a face for asyncio, its ``aio``, and is none."""

    __slots__ = ()

    def __aiter__(self) -> NoReturn:
        raise TypeError(f"{self} is not for async for; its aio is: put .aio behind it")

    async def __aenter__(self) -> NoReturn:
        raise TypeError(f"{self} is not for async with; take a plain with, or for a lock put .aio behind it")

    async def __aexit__(self, *_: object) -> None:
        """Nothing was entered."""
