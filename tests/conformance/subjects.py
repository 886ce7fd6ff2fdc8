"""Names the event loops that the conformance tests hold to account.

It knows how a subject is spelled (`module:attribute`), how the spelling becomes a loop
factory, and which subjects the suite runs. It does not know the tests.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@dataclass(frozen=True, slots=True)
class Subject:
    """An event loop under test: `name` in test ids, `spelling` as `module:attribute`."""

    name: str
    spelling: str


# The stock loop comes first: a test that it does not pass proves nothing about ours.
STOCK = Subject("stock", "asyncio:SelectorEventLoop")

MODEL_NAMES = (
    "select",
    "poll",
    "epoll",
    "epoll_et",
    "nonblocking",
    "signal",
    "uring",
    "blocking",
)

MODELS = tuple(Subject(name, f"underlay.loop:{name}") for name in MODEL_NAMES)

# The epoll model over a TCP/IP stack of our own.
STACK = Subject("stack", "tests.conformance.stack_subject:stack")

SUBJECTS = (STOCK, *MODELS, STACK)


def factory_of(spelling: str) -> LoopFactory:
    """Imports what `module:attribute` names and returns it as a loop factory.

    Raises `ImportError` or `AttributeError` as the import does.

    >>> factory_of("asyncio:SelectorEventLoop") is asyncio.SelectorEventLoop
    True
    """
    module_name, colon, attribute = spelling.partition(":")
    if not colon:
        raise ValueError(
            f"subject {spelling!r} has no attribute; write it as module:attribute, like asyncio:SelectorEventLoop"
        )
    found = importlib.import_module(module_name)
    for part in attribute.split("."):
        found = getattr(found, part)
    factory: LoopFactory = found  # type: ignore[assignment]
    return factory
