"""What a kind can do, what both ends of a channel agree on, and what went through one.

This file knows these words. It refuses to know what anybody does with them. It is not compiled: terms come from other
programs, and are looked at as they came, where machine code would have made an int of True.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOST_CAPACITY: Final = 2**31 - 1
"""What the kernel takes for the size of a pipe's or a socket's buffer is an int: fcntl(2), socket(7)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What one kind of channel can do.

    ``max_message_bytes`` is the most that it can be made for, ``usual_message_bytes`` what it is made for where nobody
    asks (0: the most), and ``limited_by`` what of this machine limits it, as sysctl(8) names it; ``one_way`` that one
    goes one way, so that ``both_ways`` makes two; ``crosses_machines`` that its ends may be on two machines;
    ``survives_process`` that what was sent outlives all processes, where it is made ``persistent``;
    ``unrelated_processes`` that it can have a name; ``many_senders`` that several processes may send on it;
    ``priorities`` that the message with the highest is received first; ``zero_copy`` that a message can be written and
    read where it is; ``wakeups`` are how who waits can be woken, the usual one first, and none where the kernel does
    that; ``max_capacity`` is the most room that it can be made with.
    """

    name: str
    summary: str
    max_message_bytes: int
    one_way: bool
    usual_message_bytes: int = 0
    limited_by: str = ""
    crosses_machines: bool = False
    survives_process: bool = False
    unrelated_processes: bool = True
    many_senders: bool = False
    priorities: bool = False
    zero_copy: bool = False
    wakeups: tuple[str, ...] = ()
    max_capacity: int = MOST_CAPACITY


@dataclass(frozen=True, slots=True)
class Terms:
    """What both ends of one channel agree on.

    ``capacity`` is how much it holds before a sender waits: about so many bytes or more, and always the longest
    message; or exactly so many messages where the kind counts them; 0 leaves it to the kind. ``wakeup`` is how a
    process that waits for shared memory is woken.
    """

    kind: str
    max_message_bytes: int
    capacity: int = 0
    wakeup: str = "eventfd"


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """What went through one end since it was made, and how often it had to wait.

    ``messages_dropped`` counts those that were torn by the death of their sender.
    """

    messages_sent: int
    bytes_sent: int
    messages_received: int
    bytes_received: int
    send_waits: int
    receive_waits: int
    messages_dropped: int
