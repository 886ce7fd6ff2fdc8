"""What a link can do to a frame: delay it, lose it, double it, damage it. Each is one middleware of a chain.

This file knows one direction of a link as a chain of stages: a stage takes one passage (a frame, and when it will
arrive) and gives none, one or two. Chance comes from the ``rng`` that is given, so that the same seed gives the same
accidents. It refuses to know clocks and who is at the ends; a stage belongs to one direction and is not shared.

The order matters as it does with cables: ``[Rate(...), Delay(...)]`` queues before the long way, as a modem does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple

from ..wire import Frame
from ._contract import Rng
from ._segmentation import finished, network_start

__all__ = [
    "Corruption",
    "Delay",
    "Duplication",
    "Impairment",
    "Jitter",
    "Loss",
    "Mtu",
    "Passage",
    "Rate",
    "Reordering",
    "wire_bytes",
]

# The queue of an interface of Linux: txqueuelen, DEFAULT_TX_QUEUE_LEN in net/sched/sch_generic.c.
_QUEUE_FRAMES: Final = 1000


class Passage(NamedTuple):
    """One frame on its way."""

    frame: Frame
    due: float
    """When it arrives, in seconds of the caller's time."""
    held: bool = False
    """Frames that were sent later may arrive before it."""
    comment: str = ""
    """What became of it so far, for a capture."""


class Impairment:
    """One stage of a link; ``seen`` counts the frames that came to it, ``affected`` those that it did something to."""

    name: ClassVar[str] = ""

    def __init__(self) -> None:
        self.seen = 0
        self.affected = 0

    def apply(self, passage: Passage, *, is_ethernet: bool) -> Sequence[Passage]:
        """Give what comes out of the stage; nothing when the frame was dropped."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, {self.affected} of {self.seen}>"


class Delay(Impairment):
    """The length of the way: every frame arrives ``delay_s`` later."""

    name = "delay"

    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self.delay_s = _not_negative("delay_s", delay_s)

    def apply(self, passage: Passage, *, is_ethernet: bool) -> Sequence[Passage]:
        """Delay the frame."""
        self.seen += 1
        self.affected += 1
        # Built anew rather than by _replace, which takes three times as long.
        frame, due, held, comment = passage
        return (Passage(frame, due + self.delay_s, held, comment),)


class Jitter(Impairment):
    """A delay that differs from frame to frame: uniformly 0 to ``jitter_s``. No frame overtakes another."""

    name = "jitter"

    def __init__(self, rng: Rng, jitter_s: float) -> None:
        super().__init__()
        self._rng = rng
        self.jitter_s = _not_negative("jitter_s", jitter_s)

    def apply(self, passage: Passage, *, is_ethernet: bool) -> Sequence[Passage]:
        """Delay the frame by chance."""
        self.seen += 1
        self.affected += 1
        frame, due, held, comment = passage
        return (Passage(frame, due + self._rng.random() * self.jitter_s, held, comment),)


class Rate(Impairment):
    """A bit rate, and the queue before it, which drops its newest when it is full (drop-tail).

    A frame of n bytes takes ``8 * (n + overhead_bytes) / bits_per_s`` seconds, one after the other. The queue holds
    at most ``queue_frames`` frames and, unless that is None, ``queue_bytes`` bytes, the one being sent included.
    Ethernet's overhead on the cable is 24 bytes: preamble 8, checksum 4, gap 12 (IEEE 802.3).
    """

    name = "queue"

    def __init__(
        self,
        bits_per_s: float,
        *,
        queue_frames: int = _QUEUE_FRAMES,
        queue_bytes: int | None = None,
        overhead_bytes: int = 0,
    ) -> None:
        super().__init__()
        if bits_per_s <= 0:
            raise ValueError(f"bits_per_s must be above 0, not {bits_per_s}")
        if queue_frames < 1 or (queue_bytes is not None and queue_bytes < 1):
            raise ValueError("a queue must have room for one frame")
        self.bits_per_s = bits_per_s
        self.queue_frames = queue_frames
        self.queue_bytes = queue_bytes
        self.overhead_bytes = overhead_bytes
        self._leaving: deque[tuple[float, int]] = deque()  # when each frame in the queue is sent, and its bytes
        self._queued_bytes = 0
        self._free_at = 0.0

    def apply(self, passage: Passage, *, is_ethernet: bool) -> Sequence[Passage]:
        """Queue the frame behind the others, or drop it."""
        self.seen += 1
        frame, arrives, held, comment = passage
        leaving = self._leaving
        while leaving and leaving[0][0] <= arrives:
            self._queued_bytes -= leaving.popleft()[1]
        size_bytes = wire_bytes(frame)
        limit_bytes = self.queue_bytes
        if len(leaving) >= self.queue_frames or (
            limit_bytes is not None and leaving and self._queued_bytes + size_bytes > limit_bytes
        ):
            self.affected += 1
            return ()
        begins = max(arrives, self._free_at)
        self._free_at = begins + (size_bytes + self.overhead_bytes) * 8 / self.bits_per_s
        leaving.append((self._free_at, size_bytes))
        self._queued_bytes += size_bytes
        return (Passage(frame, self._free_at, held, comment),)


class Loss(Impairment):
    """Each frame is lost with this probability, independently of the others."""

    name = "loss"

    def __init__(self, rng: Rng, probability: float) -> None:
        super().__init__()
        self._rng = rng
        self.probability = _probability(probability)

    def apply(self, passage: Passage, *, is_ethernet: bool) -> Sequence[Passage]:
        """Lose the frame, or not."""
        self.seen += 1
        if self._rng.random() < self.probability:
            self.affected += 1
            return ()
        return (passage,)


class Duplication(Impairment):
    """Each frame arrives twice with this probability."""

    name = "duplication"

    def __init__(self, rng: Rng, probability: float) -> None:
        super().__init__()
        self._rng = rng
        self.probability = _probability(probability)

    def apply(self, passage: Passage, *, is_ethernet: bool) -> Sequence[Passage]:
        """Double the frame, or not."""
        self.seen += 1
        if self._rng.random() < self.probability:
            self.affected += 1
            return (passage, passage._replace(comment=_and(passage.comment, "duplicated")))
        return (passage,)


class Reordering(Impairment):
    """Each frame is held for ``hold_s`` with this probability, and those sent meanwhile overtake it."""

    name = "reordering"

    def __init__(self, rng: Rng, probability: float, hold_s: float) -> None:
        super().__init__()
        self._rng = rng
        self.probability = _probability(probability)
        self.hold_s = _not_negative("hold_s", hold_s)

    def apply(self, passage: Passage, *, is_ethernet: bool) -> Sequence[Passage]:
        """Hold the frame, or not."""
        self.seen += 1
        if self._rng.random() < self.probability:
            self.affected += 1
            return (Passage(passage.frame, passage.due + self.hold_s, True, _and(passage.comment, "held")),)
        return (passage,)


class Corruption(Impairment):
    """With this probability ``bits`` bits of a frame, anywhere in it, are turned; draws may hit one bit twice.

    What the link would have left open is finished first: a checksum that is not there could not show the damage.
    """

    name = "corruption"

    def __init__(self, rng: Rng, probability: float, *, bits: int = 1) -> None:
        super().__init__()
        if bits < 1:
            raise ValueError(f"bits must be at least 1, not {bits}")
        self._rng = rng
        self.probability = _probability(probability)
        self.bits = bits

    def apply(self, passage: Passage, *, is_ethernet: bool) -> Sequence[Passage]:
        """Damage the frame, or not."""
        self.seen += 1
        if self._rng.random() >= self.probability:
            return (passage,)
        self.affected += 1
        pieces = finished(passage.frame, is_ethernet=is_ethernet) or [Frame(passage.frame.to_bytes())]
        hit = int(self._rng.random() * len(pieces))
        data = bytearray(pieces[hit].to_bytes())
        turned = []
        for _ in range(self.bits):
            bit = int(self._rng.random() * len(data) * 8)
            if data:
                data[bit >> 3] ^= 0x80 >> (bit & 7)
            turned.append(str(bit))
        comment = _and(passage.comment, f"corrupted: bit {', '.join(turned)}")
        pieces[hit] = Frame(bytes(data))
        return [
            passage._replace(frame=piece, comment=comment if number == hit else passage.comment)
            for number, piece in enumerate(pieces)
        ]


class Mtu(Impairment):
    """A packet longer than ``mtu_bytes``, its IP header included, is dropped, and nobody is told: a black hole.

    Of a super-frame the segments count.
    """

    name = "mtu"

    def __init__(self, mtu_bytes: int) -> None:
        super().__init__()
        # RFC 791, section 3.2: every link carries packets of 68 bytes.
        if mtu_bytes < 68:
            raise ValueError(f"mtu_bytes must be at least 68, not {mtu_bytes}")
        self.mtu_bytes = mtu_bytes

    def apply(self, passage: Passage, *, is_ethernet: bool) -> Sequence[Passage]:
        """Drop the packet that is too long."""
        self.seen += 1
        head, payload, segment_bytes, _, _ = passage.frame
        payload_bytes = min(len(payload), segment_bytes) if segment_bytes else len(payload)
        if len(head) + payload_bytes - network_start(head, is_ethernet=is_ethernet) > self.mtu_bytes:
            self.affected += 1
            return ()
        return (passage,)


def wire_bytes(frame: Frame) -> int:
    """How many bytes a frame is on the wire: a super-frame's headers go before each of its segments.

    >>> wire_bytes(Frame(bytes(40), bytes(2500), segment_bytes=1000))
    2620
    """
    head, payload, segment_bytes, _, _ = frame
    payload_bytes = len(payload)
    if not segment_bytes or not payload_bytes:
        return len(head) + payload_bytes
    return len(head) * -(-payload_bytes // segment_bytes) + payload_bytes


def _and(comment: str, more: str) -> str:
    return f"{comment}, {more}" if comment else more


def _probability(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"a probability lies between 0 and 1: {value}")
    return value


def _not_negative(name: str, value: float) -> float:
    if not value >= 0:
        raise ValueError(f"{name} must not be below 0: {value}")
    return value
