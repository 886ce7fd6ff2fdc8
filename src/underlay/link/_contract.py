"""What every link has in common: the probe it fires, what it counts, and where it takes chance from.

This file knows the words. It refuses to know any link, kernel or virtual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from ..probe import Probe

__all__ = ["FRAME", "LinkStatistics", "Rng"]

FRAME: Final[Probe[[str, str, bytes, float | None, str]]] = Probe(
    "link.frame",
    "link, direction, the frame's bytes, seconds or None, comment: a frame as the host at that end sees it. "
    "The link of a carrier with ports is NAME:PORT; the direction is 'out' for what the host sends and 'in' for what "
    "it receives; seconds are the caller's virtual time, None where the link has no clock; the comment says why a "
    "frame was dropped ('dropped: loss') or what became of it.",
)


class Rng(Protocol):
    """The two draws that a link makes; ``random.Random(seed)`` fits."""

    def random(self) -> float:
        """Give a float in [0, 1)."""

    def getrandbits(self, k: int, /) -> int:
        """Give an integer of ``k`` random bits."""


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """What a link carried since it was made, and what it dropped, by reason.

    ``received`` came out of the link to us, ``sent`` went in. A super-frame counts once.
    """

    received_frames: int
    received_bytes: int
    sent_frames: int
    sent_bytes: int
    drops: Mapping[str, int]
