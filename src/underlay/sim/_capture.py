"""Packets of a world in a pcapng file: one interface for each link, each packet as it is sent.

This file knows which links are wanted, and what an interface is called. It refuses to know how a packet travels
(``_internet.py``), and the blocks of the file (`underlay.trace`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeAlias

from ..trace import PcapngWriter
from . import _turn
from ._clock import EPOCH_S
from ._internet import PACKET, Internet, Way

CAPTURE_BYTES: Final = 64 << 20
"""How long a capture may become: what Wireshark opens at once."""

Wanted: TypeAlias = Callable[[Way], bool]


class Capture:
    """Writes the packets of one world's links from now on, until `close` or the end of the world.

    An interface is named by the ends of its link, as in "api | db", "office | pc" for a host's wire to a LAN, and
    "access of home". A packet is there once, when it is sent, and a comment says what it was dropped by. With
    ``arrivals`` it is there once more, inbound, as it arrives: later, perhaps damaged or doubled. (A program that looks
    into TCP, as Wireshark does, takes these for retransmissions.)
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        internet: Internet,
        is_wanted: Wanted | None = None,
        *,
        arrivals: bool = False,
        limit_bytes: int = CAPTURE_BYTES,
    ) -> None:
        self._arrivals = arrivals
        self._internet = internet
        self._is_wanted = is_wanted
        with _turn.of(None):
            self._writer: Final = PcapngWriter(file, epoch_s=EPOCH_S, limit_bytes=limit_bytes)
        self._is_closed = False
        PACKET.listen(self._packet)

    @property
    def written_frames(self) -> int:
        """How many packets are in the file."""
        return self._writer.statistics().written_frames

    @property
    def unwritten_frames(self) -> int:
        """How many are not, for want of room."""
        return self._writer.statistics().unwritten_frames

    def _packet(self, internet: object, way: Way, direction: str, data: bytes, comment: str) -> None:
        if direction == "in" and not self._arrivals:
            return
        if internet is self._internet and (self._is_wanted is None or self._is_wanted(way)):
            self._writer.add_link(way.link, is_ethernet=way.is_ethernet)  # a damaged first packet may look like neither
            self._writer.record(way.link, direction, data, self._internet.now, comment)

    def close(self) -> None:
        """Write no more. Raises the ``OSError`` that ended the writing early, such as a full disk's."""
        if not self._is_closed:
            self._is_closed = True
            PACKET.drop(self._packet)
            with _turn.of(None):
                self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


def passing(ones: list[str], others: list[str], *, one_way: bool = False) -> Wanted:
    """The ways between these ends; all ways that begin or end at these, where no others are named."""
    some, more = frozenset(ones), frozenset(others)
    if not more:
        return lambda way: way.sender in some or way.target in some
    if one_way:
        return lambda way: way.sender in some and way.target in more
    return lambda way: (way.sender in some and way.target in more) or (way.sender in more and way.target in some)
