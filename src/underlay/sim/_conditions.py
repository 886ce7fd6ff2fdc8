"""What a way between two hosts is like: its delay, its rate, and what goes wrong on it.

This file knows the words of `World.link` and which stages of `underlay.link` they make. It refuses to know hosts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final, TypedDict, cast

from ..errors import UsageError, nearest
from ..link import Corruption, Duplication, Impairment, Jitter, Loss, Mtu, Rate, Reordering
from ._quantities import bits_per_s, probability, seconds, size_bytes

Time = float | str
Share = float | str


class Words(TypedDict, total=False):
    """What may be said of a link; times in seconds or as "20ms", shares from 0 to 1 or as "1%"."""

    delay: Time
    jitter: Time
    rate: float | str
    queue: int
    loss: Share
    duplicate: Share
    reorder: Share
    reorder_by: Time
    corrupt: Share
    mtu: int | str


# How long a frame is held that others overtake, unless `reorder_by` says otherwise: some round trips of a data centre.
_REORDER_BY_S: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """One direction of a way between two hosts.

    >>> Conditions().changed(delay="20ms", loss="1%")
    Conditions(delay_s=0.02, loss=0.01)
    """

    delay_s: float = 0.0
    """How long it is."""
    jitter_s: float = 0.0
    """How much longer it may be, uniformly from frame to frame. None overtakes another."""
    rate_bits_per_s: float | None = None
    """How much it carries; None for all."""
    queue_frames: int = 1000
    """How many frames wait before the rate; the newest is dropped (Linux: txqueuelen)."""
    loss: float = 0.0
    """The share of frames that are lost."""
    duplicate: float = 0.0
    """The share that arrives twice."""
    reorder: float = 0.0
    """The share that is held, and overtaken, …"""
    reorder_by_s: float = _REORDER_BY_S
    """… for so long."""
    corrupt: float = 0.0
    """The share in which a bit is turned."""
    mtu_bytes: int | None = None
    """The longest packet that passes; longer ones vanish, and nobody is told. None for all."""

    def changed(self, **words: object) -> Conditions:
        """These conditions with other words for some. Raises ``UsageError`` for a word or value that is none."""
        changes: dict[str, object] = {}
        for word, value in words.items():
            reader = _READERS.get(word)
            if reader is None:
                raise UsageError(f"a link has no {word!r}", remedy=nearest(word, _READERS))
            field, read = reader
            if value is None and field not in _OPTIONAL:
                raise UsageError(f"{word}=None cannot be", remedy=f"leave it out, or say 0: no {word}")
            changes[field] = None if value is None else read(value, word)  # type: ignore[operator]
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def is_per_frame(self) -> bool:
        """Whether something happens to single frames: super-frames must be cut first."""
        return bool(
            self.rate_bits_per_s or self.loss or self.duplicate or self.reorder or self.corrupt or self.mtu_bytes
        )

    def words(self) -> Words:
        """The words that make these conditions of any others."""
        fields = {word: getattr(self, field) for word, (field, _) in _READERS.items()}
        return cast("Words", fields)

    def since(self, before: Conditions) -> Conditions:
        """What befalls single frames, as far as it was not so before: what those meet that are under way."""
        new = {
            name: value
            for name in ("loss", "duplicate", "reorder", "reorder_by_s", "corrupt", "mtu_bytes", "jitter_s")
            if (value := getattr(self, name)) != getattr(before, name)
        }
        return Conditions(**new)

    def stages(self, rng: Random) -> tuple[Impairment, ...]:
        """The stages behind which a frame is delayed; the queue is before the long way, as a modem's is."""
        stages: list[Impairment] = []
        if self.mtu_bytes:
            stages.append(Mtu(self.mtu_bytes))
        if self.rate_bits_per_s:
            stages.append(Rate(self.rate_bits_per_s, queue_frames=self.queue_frames))
        if self.loss:
            stages.append(Loss(rng, self.loss))
        if self.corrupt:
            stages.append(Corruption(rng, self.corrupt))
        if self.duplicate:
            stages.append(Duplication(rng, self.duplicate))
        if self.jitter_s:
            stages.append(Jitter(rng, self.jitter_s))
        if self.reorder:
            stages.append(Reordering(rng, self.reorder, self.reorder_by_s))
        return tuple(stages)

    def __repr__(self) -> str:
        default = _DEFAULTS
        said = [
            f"{name}={getattr(self, name)!r}"
            for name in self.__dataclass_fields__
            if getattr(self, name) != getattr(default, name, None)
        ]
        return f"Conditions({', '.join(said)})"


def _frames(value: float | str, name: str) -> int:
    frames = int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) else 0
    if frames < 1:
        raise UsageError(f"{name}={value!r} cannot be", remedy="a queue has room for one frame at least")
    return frames


def _mtu(value: float | str, name: str) -> int:
    mtu_bytes = size_bytes(value, name)
    if mtu_bytes < 68:
        raise UsageError(f"{name}={value!r} cannot be", remedy="every link carries 68 bytes (RFC 791)")
    return mtu_bytes


_READERS: Final = {
    "delay": ("delay_s", seconds),
    "jitter": ("jitter_s", seconds),
    "rate": ("rate_bits_per_s", bits_per_s),
    "queue": ("queue_frames", _frames),
    "loss": ("loss", probability),
    "duplicate": ("duplicate", probability),
    "reorder": ("reorder", probability),
    "reorder_by": ("reorder_by_s", seconds),
    "corrupt": ("corrupt", probability),
    "mtu": ("mtu_bytes", _mtu),
}
# None of these is all of it.
_OPTIONAL: Final = frozenset({"rate_bits_per_s", "mtu_bytes"})
_DEFAULTS: Final = Conditions()
