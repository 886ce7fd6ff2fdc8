"""A hub: what comes in at one port goes out at all the others, in virtual time.

This file knows ports. It refuses to know addresses; collisions are not modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..wire import Frame
from ._carrier import LIMIT_BYTES, LIMIT_FRAMES, Carrier, Lane
from ._contract import FRAME
from ._impairments import Impairment

__all__ = ["Hub"]


class Hub(Carrier):
    """A repeater with ``ports`` ports; ``impairments(port)`` makes the stages on the way out to a port.

    A stage that drops a frame is counted at the port to which it did not come.
    """

    def __init__(
        self,
        ports: int,
        name: str = "hub",
        *,
        impairments: Callable[[int], Sequence[Impairment]] | None = None,
        offload: bool = False,
        is_ethernet: bool = True,
        limit_frames: int = LIMIT_FRAMES,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        super().__init__(
            name,
            ports,
            offload=offload,
            is_ethernet=is_ethernet,
            limit_frames=limit_frames,
            limit_bytes=limit_bytes,
        )
        self._lanes = [
            Lane(port, impairments(port) if impairments else (), counted_at=port, sender=None) for port in range(ports)
        ]

    def _carry(self, port: int, frame: Frame, now: float) -> None:
        if FRAME.listeners:
            FRAME(self.labels[port], "out", frame.to_bytes(), now, "")
        for lane in self._lanes:
            if lane.to != port:
                self._enter(lane, frame, now)
