"""How a channel comes to be: a pair of ends, or an end that another process made.

This file knows the public words. It refuses to know what the ends are made of.
"""

from __future__ import annotations

from ._channel import Channel
from ._handover import end_from
from ._kinds import make_ends, terms_for


def pair(
    kind: str,
    *,
    both_ways: bool = False,
    max_message_bytes: int | None = None,
    capacity: int = 0,
    wakeup: str = "eventfd",
) -> tuple[Channel, Channel]:
    """The two ends of a new channel without a name: the receiver and the sender, or two that do both.

    ``max_message_bytes`` and ``capacity`` are the kind's own where they are not given. Raises ``UsageError`` for what
    the kind cannot do.

    >>> from underlay import ipc
    >>> left, right = ipc.pair("pipe", both_ways=True)
    >>> with left, right:
    ...     left.send(b"ping")
    ...     right.send(right.receive() + b" pong")
    ...     left.receive()
    b'ping pong'
    """
    terms = terms_for(kind, max_message_bytes, capacity, wakeup)
    here, there = make_ends(terms, both_ways)
    return Channel(here), Channel(there)


def inherit(word: str) -> Channel:
    """The end that this process inherited: ``word`` is what `Channel.argument` gave the process that started it.

    Raises ``UsageError`` where it says no such thing, or the descriptors did not come along.
    """
    return Channel(end_from(word))
