"""What a stream socket of a simulated host does otherwise than `underlay.loop`'s: where its reads end.

This file knows one read. It refuses to know how often a part is given: `SimBridge` draws that.

It is compiled where the stack is: each read of a program passes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..loop._stack_core import StreamCore, would_block
from ..stack import State

if TYPE_CHECKING:
    from ..loop._stack_address import Pair
    from ._bridge import SimBridge

_ESTABLISHED: Final = State.ESTABLISHED


class SimStreamCore(StreamCore):
    """A TCP socket that now and then gives a part of what is there; the rest is for the next read.

    A stream has no messages. On a real machine their ends and those of reads agree for as long as the machine is
    fast and the network idle, and part one day: a segment came alone, a window was full, a proxy cut otherwise.
    """

    _bridge: SimBridge

    def receive(self, max_bytes: int) -> tuple[bytes, Pair | None]:
        """At most `max_bytes` of what arrived, b"" at the end."""
        bridge = self._bridge
        bridge.whole_reads -= 1
        connection = self._connection
        if bridge.whole_reads < 0:
            max_bytes = bridge.part_of(max_bytes, connection.unread_bytes if connection else 0)
        if connection is None or not connection.received.size_bytes:
            return super().receive(max_bytes)
        data = connection.receive(max_bytes, bridge.now())  # the same, with fewer calls
        if data is None:
            raise would_block()
        if (
            not connection.received.size_bytes
            and connection.state is _ESTABLISHED
            and not connection.read_closed
            and connection.error is None
        ):
            bridge.readiness.emptied(self._number)
        return data, None
