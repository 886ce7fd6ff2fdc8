"""Where we and a version of tshark are known to say different things of a segment, each with its reason.

It knows which difference is meant, by both sides' words, by the version, and by what stands in the file before that
segment. It refuses to know how either comes to what it says; a difference that is not named here is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from underlay.tools.capture import decode
from underlay.trace import CaptureReader
from underlay.wire import ACK, FIN, SYN

from ._tshark import WITH_SACK, ours, theirs, version, words

_WRAP, _HALF = 0xFFFF_FFFF, 0x8000_0000
_EARLIER: Final = ((0,), WITH_SACK)
_LATER: Final = (WITH_SACK, (99,))
_ALL: Final = ((0,), (99,))


class Segment(NamedTuple):
    """A segment as it stands in the file."""

    time_ns: int
    source: tuple[bytes, int]
    ends: frozenset[tuple[bytes, int]]
    seq: int
    ack: int
    flags: int
    window: int
    size: int
    sack: tuple[tuple[int, int], ...]

    @property
    def end(self) -> int:
        return self.seq + self.size + bool(self.flags & (SYN | FIN)) & _WRAP


@dataclass(frozen=True)
class Situation:
    """A segment, and those of its connection before it."""

    segment: Segment
    earlier: list[Segment]

    @property
    def all(self) -> list[Segment]:
        return [*self.earlier, self.segment]

    @property
    def same(self) -> list[Segment]:
        """Those of the same sender."""
        return [each for each in self.earlier if each.source == self.segment.source]

    @property
    def other(self) -> list[Segment]:
        return [each for each in self.earlier if each.source != self.segment.source]


def situations(file: Path) -> Iterator[Situation | None]:
    """Give each frame's; None where it has no segment."""
    before: dict[frozenset[tuple[bytes, int]], list[Segment]] = {}
    with open(file, "rb") as opened:
        for packet in CaptureReader(opened):
            read = decode(packet.interface.link_type, packet.data, packet.size_bytes)
            if read.segment is None:
                yield None
                continue
            said = read.segment
            source, target = (read.source, read.source_port), (read.destination, read.destination_port)
            segment = Segment(
                packet.time_ns, source, frozenset((source, target)), said.seq, said.ack, said.flags, said.window,
                read.payload_bytes, said.sack,
            )  # fmt: skip
            earlier = before.setdefault(segment.ends, [])
            yield Situation(segment, list(earlier))
            earlier.append(segment)


def _probe_was_taken(segments: list[Segment]) -> bool:
    """Whether one byte was sent to a closed window, and acknowledged."""
    windows: dict[tuple[bytes, int], int] = {}
    probes: list[Segment] = []
    for each in segments:
        if each.flags & ACK and any(probe.source != each.source and probe.end == each.ack for probe in probes):
            return True
        if each.size == 1 and any(window == 0 for source, window in windows.items() if source != each.source):
            probes.append(each)
        windows[each.source] = each.window
    return False


def _covered(seq: int, end: int, stretches: list[tuple[int, int]]) -> bool:
    """Whether every octet is in one of them or another."""
    while seq != end:
        ends = [two for one, two in stretches if not (seq - one & _WRAP) & _HALF and 0 < (two - seq & _WRAP) < _HALF]
        if not ends:
            return False
        if any(not (two - end & _WRAP) & _HALF for two in ends):
            return True
        seq = max(ends, key=lambda two, start=seq: two - start & _WRAP)  # type: ignore[misc]
    return True


def _highest(segments: list[Segment]) -> Segment:
    """Give that which reached furthest first."""
    highest = segments[0]
    for each in segments:
        if 0 < (each.end - highest.end & _WRAP) < _HALF:
            highest = each
    return highest


def _was_sent(now: Situation) -> bool:
    return _covered(now.segment.seq, now.segment.end, [(each.seq, each.end) for each in now.same])


def _was_told_of(now: Situation) -> bool:
    blocks = [block for each in now.other for block in each.sack]
    return _covered(now.segment.seq, now.segment.end, blocks)


def _is_of_a_window_that_opens(now: Situation) -> bool:
    """Whether an ACK that repeats another, with a SACK, changed the window, among the last of the other side."""
    other = now.other
    for place in range(len(other) - 1, 0, -1):
        one, two = other[place - 1 : place + 1]
        if two.ack != one.ack:
            return False
        if two.sack and two.window != one.window:
            return True
    return False


def _much_behind_it_was_told_of(now: Situation) -> bool:
    """Whether it is next for the other side, which told of what is behind it, be it not with its last ACK."""
    other = now.other
    return (
        bool(other)
        and other[-1].ack == now.segment.seq
        and any(0 < (right - now.segment.end & _WRAP) < _HALF for each in other for _, right in each.sack)
    )


@dataclass(frozen=True)
class Difference:
    """One that is known: from which version on and below which, where, why, and in whose words."""

    why: str
    versions: tuple[tuple[int, ...], tuple[int, ...]]
    where: Callable[[Situation], bool]
    words: tuple[tuple[str, str], ...]
    """Ours and theirs, where they differ; empty: any."""
    is_of_sack: bool = False
    """Whether it comes of nothing but that we look at SACK: it is none where we do not."""


KNOWN: Final = [
    Difference(
        "an ACK whose SACK tells more is a duplicate whatever its window (RFC 6675 §2): 4.0 looks at the window only",
        _EARLIER,
        lambda now: bool(now.segment.sack),
        (("duplicate_ack", "window_update"),),
        is_of_sack=True,
    ),
    Difference(
        "so that it counts fewer duplicates; and it does not know what SACK says is lost",
        _EARLIER,
        lambda now: any(each.sack for each in now.other),
        (("fast_retransmission", "out_of_order"), ("fast_retransmission", "retransmission")),
        is_of_sack=True,
    ),
    Difference(
        "octets that were seen before are a retransmission: 4.0 does not look whether they were, later ones look for"
        " one segment that had them all and was not acknowledged (Wireshark's issues 13284, 13843, 17214)",
        _ALL,
        _was_sent,
        (("retransmission", "out_of_order"),),
    ),
    Difference(
        "an ACK whose SACK tells nothing new is no duplicate where its window changes (RFC 6675 §2): later ones call"
        " each with a SACK one (issue 14937)",
        _LATER,
        lambda now: bool(now.segment.sack),
        (("window_update", "duplicate_ack"),),
    ),
    Difference(
        "so that it counts more duplicates where one is answered",
        _LATER,
        _is_of_a_window_that_opens,
        (("retransmission", "fast_retransmission"), ("out_of_order", "fast_retransmission")),
    ),
    Difference(
        "what is behind by more than two segments is lost after one duplicate, too, and whichever ACK told of it"
        " (RFC 6675 §4, IsLost): 4.6 waits for two duplicates",
        _LATER,
        _much_behind_it_was_told_of,
        (("fast_retransmission", "retransmission"), ("fast_retransmission", "out_of_order")),
    ),
    Difference(
        "what SACK says is there is not asked for: later ones compare its relative edges with absolute numbers",
        _LATER,
        _was_told_of,
        (("retransmission", "fast_retransmission"), ("out_of_order", "fast_retransmission")),
    ),
    Difference(
        "from a clock that was put back nothing follows: later ones take it for no time",
        _LATER,
        lambda now: now.segment.time_ns < max(each.time_ns for each in now.all),
        (("retransmission", "fast_retransmission"), ("retransmission", "out_of_order")),
    ),
    Difference(
        "how late a segment is: we count from the highest that was seen, as 4.0; later ones from the last of the other"
        " side",
        _LATER,
        lambda now: bool(now.same) and (not now.other or now.other[-1].time_ns < now.same[-1].time_ns),
        (("out_of_order", "retransmission"),),
    ),
    Difference(
        "how late a segment is, the other way round",
        _LATER,
        lambda now: bool(now.same and now.other) and now.other[-1].time_ns > _highest(now.same).time_ns,
        (("retransmission", "out_of_order"),),
    ),
    Difference(
        "a second SYN/ACK of another number: later ones begin anew with it, we and 4.0 see a gap",
        _LATER,
        lambda now: len({each.seq for each in now.all if each.flags & SYN and each.flags & ACK}) > 1,
        (("lost_segment", ""), ("ack_lost_segment", "")),
    ),
    Difference(
        "a probe of a closed window whose byte is taken: later ones count it (issues 8404, 10745), by which all numbers"
        " of its connection are others from there on",
        _LATER,
        lambda now: _probe_was_taken(now.all),
        (),
    ),
    Difference(
        "what is acknowledged unseen: later ones remember segments behind a gap (issues 11506, 18558)",
        _LATER,
        lambda now: bool(now.segment.flags & ACK),
        (("ack_lost_segment", ""), ("", "ack_lost_segment")),
    ),
]


def unknown(file: Path, *, with_sack: bool = True) -> list[bool]:
    """Say of each frame whether we and this tshark say different things of it for no reason that is known."""
    return [
        one != two and not _is_known(one, two, now, with_sack)
        for one, two, now in zip(ours(file, with_sack=with_sack), theirs(file), situations(file), strict=True)
    ]


def _is_known(one: int, two: int, now: Situation | None, with_sack: bool) -> bool:
    said = ",".join(sorted(words(one & ~two))), ",".join(sorted(words(two & ~one)))
    return now is not None and any(
        each.versions[0] <= version() < each.versions[1]
        and (with_sack or not each.is_of_sack)
        and (not each.words or said in each.words)
        and each.where(now)
        for each in KNOWN
    )


def compare(file: Path) -> tuple[Counter[str], list[str]]:
    """Count tshark's notes, and tell each frame about which we say something else for no reason that is known.

    A tshark that does not look at SACK is also compared with what we say without it: then nothing of that excuses.
    """
    other = theirs(file)
    said = Counter(word for bits in other for word in words(bits))
    differences = []
    for with_sack in (True,) if version() >= WITH_SACK else (False, True):
        mine = ours(file, with_sack=with_sack)
        assert len(mine) == len(other) > 0
        for number, is_unknown in enumerate(unknown(file, with_sack=with_sack)):
            if is_unknown:
                one, two = mine[number], other[number]
                more, less = sorted(words(one & ~two)), sorted(words(two & ~one))
                told = "" if with_sack else " without SACK"
                differences.append(f"frame {number + 1}{told}: only we say {more}, only tshark says {less}")
    return said, differences
