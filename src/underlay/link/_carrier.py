"""What the virtual carriers share: frames wait in one heap until they are due, each direction behind its impairments.

This file knows the order of deliveries, the limits, and what is counted and reported. Time is an argument and nothing
reads a clock. It refuses to know to which ports a frame goes: that is what `VirtualWire`, `Hub` and `Switch` differ in.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from ..wire import Frame
from ._contract import FRAME, LinkStatistics
from ._impairments import Impairment, Passage
from ._segmentation import finished

__all__ = ["LIMIT_BYTES", "LIMIT_FRAMES", "Carrier", "Lane"]

LIMIT_FRAMES: Final = 10_000
"""How many frames may be under way at once, unless told otherwise."""
LIMIT_BYTES: Final = 64 << 20
"""How many bytes may be under way at once, unless told otherwise: 5 Gbit/s for 100 ms."""


class Lane:
    """One direction: the stages on the way to a port, and the last arrival, which nobody overtakes unasked.

    ``sender`` is the port whose host sends into it, or None when several do; ``counted_at`` is the port in whose
    statistics the drops stand.
    """

    def __init__(self, to: int, impairments: Sequence[Impairment], *, counted_at: int, sender: int | None) -> None:
        self.to = to
        self.impairments = tuple(impairments)
        self.counted_at = counted_at
        self.sender = sender
        self.last_due = 0.0


class Carrier:
    """A link in virtual time with numbered ports, a host at each.

    ``send`` takes a frame of the host at ``port``; what is due then comes out of ``poll_deliveries``. Without
    ``offload`` super-frames are cut and checksums finished at the entry, as a network card would. At most
    ``limit_frames`` frames and ``limit_bytes`` bytes are under way at once; what exceeds them is dropped and counted
    (``in_flight``).
    """

    def __init__(
        self,
        name: str,
        ports: int,
        *,
        offload: bool,
        is_ethernet: bool,
        limit_frames: int = LIMIT_FRAMES,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self.name: Final = name
        self.ports: Final = ports
        self.offload: Final = offload
        self.is_ethernet: Final = is_ethernet
        self.limit_frames: Final = limit_frames
        self.limit_bytes: Final = limit_bytes
        self.labels: Final = tuple(f"{name}:{port}" for port in range(ports))
        self._heap: list[tuple[float, int, Lane, Frame]] = []
        self._sequence = 0
        self._bytes_under_way = 0
        self._sent = [[0, 0] for _ in range(ports)]
        self._received = [[0, 0] for _ in range(ports)]
        self._drops: list[Counter[str]] = [Counter() for _ in range(ports)]

    # --- for the hosts at the ends ---------------------------------------------------------------------

    def send(self, port: int, frame: Frame, now: float) -> None:
        """Take a frame from the host at ``port``."""
        head, payload, segment_bytes, checksum_start, _ = frame
        counts = self._sent[port]
        counts[0] += 1
        counts[1] += len(head) + len(payload)
        if type(payload) is memoryview and not payload.readonly:
            # It arrives later than the sender may use its buffer again.
            frame = frame._replace(payload=bytes(payload))
        if not self.offload and (segment_bytes or checksum_start):
            pieces = finished(frame, is_ethernet=self.is_ethernet)
            if pieces is None:
                self._drop(port, frame, now, "bad_segments")
                return
            for piece in pieces:
                self._carry(port, piece, now)
        else:
            self._carry(port, frame, now)

    def poll_deliveries(self, now: float) -> list[tuple[int, Frame]]:
        """Give the frames that have arrived by ``now``, each with its port, in the order of their arrival."""
        heap, deliveries = self._heap, []
        while heap and heap[0][0] <= now:
            _, _, lane, frame = heapq.heappop(heap)
            size_bytes = len(frame[0]) + len(frame[1])
            self._bytes_under_way -= size_bytes
            port = lane.to
            counts = self._received[port]
            counts[0] += 1
            counts[1] += size_bytes
            deliveries.append((port, frame))
            if FRAME.listeners:
                FRAME(self.labels[port], "in", frame.to_bytes(), now, "")
        return deliveries

    def next_deadline(self) -> float | None:
        """When the next frame arrives; None when none is under way."""
        return self._heap[0][0] if self._heap else None

    @property
    def frames_under_way(self) -> int:
        """How many frames have been sent and not yet arrived."""
        return len(self._heap)

    def statistics(self, port: int) -> LinkStatistics:
        """What the host at ``port`` sent and received, and what was dropped, by the name of the stage."""
        (received_frames, received_bytes), (sent_frames, sent_bytes) = self._received[port], self._sent[port]
        drops = MappingProxyType(dict(self._drops[port]))
        return LinkStatistics(received_frames, received_bytes, sent_frames, sent_bytes, drops)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, {self.ports} ports, {len(self._heap)} frames under way>"

    # --- for the carriers ------------------------------------------------------------------------------

    def _carry(self, port: int, frame: Frame, now: float) -> None:
        """Put the frame on the lanes to where it goes."""
        raise NotImplementedError

    def _enter(self, lane: Lane, frame: Frame, now: float) -> None:
        """Send a frame through the stages of a lane, and into the heap."""
        passages: Sequence[Passage] = (Passage(frame, now),)
        comments: list[str] = []
        for stage in lane.impairments:
            if len(passages) == 1:
                passages = stage.apply(passages[0], is_ethernet=self.is_ethernet)
            else:
                passages = [out for each in passages for out in stage.apply(each, is_ethernet=self.is_ethernet)]
            if not passages:
                self._drops[lane.counted_at][stage.name] += 1
                comments = [f"dropped: {stage.name}"]
                break
        heap = self._heap
        for arriving, due, held, comment in passages:
            size_bytes = len(arriving[0]) + len(arriving[1])
            if len(heap) >= self.limit_frames or self._bytes_under_way + size_bytes > self.limit_bytes:
                self._drops[lane.counted_at]["in_flight"] += 1
                comments.append("dropped: in_flight")
                continue
            if not held:
                if due < lane.last_due:
                    due = lane.last_due
                else:
                    lane.last_due = due
            self._sequence += 1
            self._bytes_under_way += size_bytes
            heapq.heappush(heap, (due, self._sequence, lane, arriving))
            if comment:
                comments.append(comment)
        if FRAME.listeners:
            if lane.sender is not None:
                FRAME(self.labels[lane.sender], "out", frame.to_bytes(), now, "; ".join(comments))
            elif any(comment.startswith("dropped") for comment in comments):
                FRAME(self.labels[lane.to], "in", frame.to_bytes(), now, "; ".join(comments))

    def _drop(self, port: int, frame: Frame, now: float, reason: str) -> None:
        """Drop what the host at ``port`` sent."""
        self._drops[port][reason] += 1
        if FRAME.listeners:
            FRAME(self.labels[port], "out", frame.to_bytes(), now, f"dropped: {reason}")
