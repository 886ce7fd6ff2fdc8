"""A cable between two hosts, in virtual time.

This file knows that what goes in at one end comes out at the other. It refuses to know addresses.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..wire import Frame
from ._carrier import LIMIT_BYTES, LIMIT_FRAMES, Carrier, Lane
from ._impairments import Impairment

__all__ = ["VirtualWire"]


class VirtualWire(Carrier):
    """A cable with the ports 0 and 1; ``forward`` are the stages from 0 to 1, ``backward`` those from 1 to 0.

    Frames arrive in the order in which they were sent, unless a `Reordering` holds some of them. A stage that drops
    a frame is counted at the port that sent it. ``is_ethernet`` says that frames begin with an Ethernet header, and
    not with an IP header.

    >>> from underlay.link import Delay, VirtualWire
    >>> from underlay.wire import Frame
    >>> wire = VirtualWire(forward=[Delay(0.010)])
    >>> wire.send(0, Frame(b"hello"), now=1.0)
    >>> wire.next_deadline(), wire.poll_deliveries(1.0)
    (1.01, [])
    >>> [(port, frame.to_bytes()) for port, frame in wire.poll_deliveries(1.01)]
    [(1, b'hello')]
    """

    def __init__(
        self,
        name: str = "wire",
        *,
        forward: Sequence[Impairment] = (),
        backward: Sequence[Impairment] = (),
        offload: bool = False,
        is_ethernet: bool = True,
        limit_frames: int = LIMIT_FRAMES,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        super().__init__(
            name,
            2,
            offload=offload,
            is_ethernet=is_ethernet,
            limit_frames=limit_frames,
            limit_bytes=limit_bytes,
        )
        self._lanes = (
            Lane(1, forward, counted_at=0, sender=0),
            Lane(0, backward, counted_at=1, sender=1),
        )

    def _carry(self, port: int, frame: Frame, now: float) -> None:
        self._enter(self._lanes[port], frame, now)
