"""Data that came before its turn: kept until the hole in front of it is filled (RFC 9293 §3.10.7.4, SHLD-31).

This file knows ranges of unending sequence numbers (`_tcp_sequence`) and their
bytes, and which SACK blocks tell of them (RFC 2018 §4). It refuses to know the
window: what lies outside was cut off before.

Where two segments overlap the bytes that came first stay. Blocks never touch:
those that meet become one. Each keeps its chunks apart, so nothing is copied.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

__all__ = ["Reassembly"]

# What a block and each chunk cost beside their bytes (sizeof), so that tiny pieces cannot fill the memory.
_BLOCK_BYTES: Final = 240
_CHUNK_BYTES: Final = 60
# RFC 2018 §3: no more than four blocks fit into a segment's options.
_REPORTED_BLOCKS: Final = 4


class _Block:
    __slots__ = ("chunks", "end", "start")

    def __init__(self, start: int, data: bytes) -> None:
        self.start = start
        self.end = start + len(data)
        self.chunks = [data]

    def charge(self) -> int:
        return self.end - self.start + _BLOCK_BYTES + _CHUNK_BYTES * len(self.chunks)


class Reassembly:
    """Blocks of received data behind a hole, in order; bounded in blocks and in memory.

    >>> held = Reassembly(max_blocks=16, max_bytes=65536)
    >>> held.add(20, b"cd"), held.add(10, b"a"), held.sack_blocks()
    (True, True, [(10, 11), (20, 22)])
    >>> held.add(11, b"b" * 9), held.sack_blocks()
    (True, [(10, 22)])
    >>> held.pop(10) == b"a" + b"b" * 9 + b"cd", held.size_bytes
    (True, 0)
    """

    __slots__ = (
        "_blocks",
        "_max_blocks",
        "_recent",
        "_starts",
        "charged_bytes",
        "duplicate",
        "fin_at",
        "max_bytes",
        "size_bytes",
    )

    def __init__(self, *, max_blocks: int, max_bytes: int) -> None:
        self._blocks: list[_Block] = []
        self._starts: list[int] = []
        self._recent: list[_Block] = []  # the most recently changed first, RFC 2018 §4
        self._max_blocks = max_blocks
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.charged_bytes = 0
        self.duplicate: tuple[int, int] | None = None
        """What the last segment brought a second time: the next ACK's DSACK block (RFC 2883)."""
        self.fin_at: int | None = None
        """Sequence number of a FIN that came before its turn."""

    def __bool__(self) -> bool:
        return bool(self._blocks) or self.fin_at is not None

    def add(self, start: int, data: bytes) -> bool:
        """Keep `data` which begins at `start`; False if there is no room left for it."""
        end = start + len(data)
        starts = self._starts
        blocks = self._blocks
        # The blocks that overlap or touch [start, end) are blocks[low:high].
        high = bisect_right(starts, end)
        low = bisect_left(starts, start)
        if low and blocks[low - 1].end >= start:
            low -= 1
        if low == high:
            if len(blocks) >= self._max_blocks or self.charged_bytes + len(data) + _BLOCK_BYTES > self.max_bytes:
                return False
            block = _Block(start, data)
            blocks.insert(low, block)
            starts.insert(low, start)
            self.size_bytes += len(data)
            self.charged_bytes += block.charge()
            self._touch(block)
            return True
        if self.charged_bytes + len(data) + _CHUNK_BYTES > self.max_bytes:
            return False
        block = blocks[low]
        if block.start <= start and end <= block.end:
            self.duplicate = (start, end)
        elif block.end == start and high - low == 1:
            block.chunks.append(data)  # the usual case: the next segment behind a lost one
            block.end = end
            self.size_bytes += len(data)
            self.charged_bytes += len(data) + _CHUNK_BYTES
        else:
            self._merge(low, high, start, data)
            block = blocks[low]
        self._touch(block)
        return True

    def _merge(self, low: int, high: int, start: int, data: bytes) -> None:
        """Fill what `data` brings new into the gaps around blocks[low:high], and make one block of all."""
        end = start + len(data)
        merged = self._blocks[low:high]
        chunks: list[bytes] = []
        place = start
        added = 0
        for block in merged:
            if place < block.start:
                gap = data[place - start : block.start - start]
                chunks.append(gap)
                added += len(gap)
            elif self.duplicate is None:
                self.duplicate = (max(start, block.start), min(end, block.end))
            chunks.extend(block.chunks)
            place = max(place, block.end)
        if place < end:
            gap = data[place - start :]
            chunks.append(gap)
            added += len(gap)
        if self.duplicate is not None and self.duplicate[0] >= self.duplicate[1]:
            self.duplicate = None
        whole = _Block(min(start, merged[0].start), b"")
        whole.chunks = chunks
        whole.end = max(end, merged[-1].end)
        self._blocks[low:high] = [whole]
        self._starts[low:high] = [whole.start]
        self._recent = [block for block in self._recent if block not in merged]
        self.size_bytes += added
        self.charged_bytes += whole.charge() - sum(block.charge() for block in merged)

    def _touch(self, block: _Block) -> None:
        recent = self._recent
        if not recent or recent[0] is not block:
            if block in recent:
                recent.remove(block)
            recent.insert(0, block)
            del recent[_REPORTED_BLOCKS:]

    def pop(self, start: int) -> bytes:
        """Remove and give the data that continues the stream at `start`; b"" while the hole is still there.

        Blocks that `start` has passed already are dropped, or cut at it.
        """
        blocks = self._blocks
        taken: list[bytes] = []
        while blocks and blocks[0].start <= start:
            block = blocks.pop(0)
            del self._starts[0]
            if block in self._recent:
                self._recent.remove(block)
            self.size_bytes -= block.end - block.start
            self.charged_bytes -= block.charge()
            if block.end > start:
                data = b"".join(block.chunks)
                taken.append(data[start - block.start :] if start > block.start else data)
                start = block.end
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def sack_blocks(self) -> list[tuple[int, int]]:
        """Give at most 4 (start, end): the block of the newest data first, then those reported before it.

        A FIN that is held counts as one behind its data, as it does in sequence numbers.
        """
        fin_at = self.fin_at
        if fin_at is not None:
            blocks = self._data_blocks()
            told = [(start, end + 1 if end == fin_at else end) for start, end in blocks]
            return told if told != blocks else [(fin_at, fin_at + 1), *told[: _REPORTED_BLOCKS - 1]]
        return self._data_blocks()

    def _data_blocks(self) -> list[tuple[int, int]]:
        if not self._blocks:
            return []
        reported = [(block.start, block.end) for block in self._recent]
        for block in reversed(self._blocks):
            if len(reported) >= min(_REPORTED_BLOCKS, len(self._blocks)):
                break
            if (block.start, block.end) not in reported:
                reported.append((block.start, block.end))
        return reported

    @property
    def block_count(self) -> int:
        """How many blocks are held."""
        return len(self._blocks)
