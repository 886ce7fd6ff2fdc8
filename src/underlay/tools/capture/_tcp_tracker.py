"""What a TCP segment means beside those before it: opens, repeats, overtakes, fills a window, closes.

A pure state machine for what an observer can know: it takes header fields and the time they were seen, and gives the
notes that Wireshark gives (User's Guide, "TCP Analysis"), condition by condition, so that a line here and a row there
say the same. Where its versions differ an RFC decides, as RFC 6675 does of what SACK says of losses. It refuses to know
addresses as text, links, and whether anybody else saw the segment: a retransmission that the capture did not see the
first time of is a gap here.

Flows are bounded: the one that was silent longest is let go, and counted.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, NamedTuple

from ...wire import ACK, FIN, RST, SYN

__all__ = ["MOST_FLOWS", "NOTE_NAMES", "FlowTracker", "Note", "Notes", "TrackerStatistics"]

MOST_FLOWS: Final = 20_000
"""How many flows are remembered unless told otherwise: some 1 KiB each."""

# Wireshark's, where its page gives them: a fast retransmission comes within 20 ms of the last duplicate; what comes
# late by less than the first round trip, 3 ms where that was not seen, was overtaken on its way.
_FAST_NS: Final = 20_000_000
_OVERTAKEN_NS: Final = 3_000_000

_WRAP: Final = 0xFFFF_FFFF
_HALF: Final = 0x8000_0000

# No scale is known before both SYNs were seen; after them there may be none.
_UNKNOWN_SCALE: Final = -1
_NO_SCALE: Final = -2
_MAX_SCALE: Final = 14  # RFC 7323 §2.3

# Instead of a count of duplicate ACKs: the other side has acknowledged what was not seen, and that was noted. It is
# noted again once this side acknowledges something new. (Wireshark 4.0 has it as an unsigned number, and then finds two
# duplicates and more where there were none: here nothing is a fast retransmission by that.)
_SAID: Final = -1

# RFC 9293 §3.7.1: what a segment carries at most where no MSS was told (IPv4).
_DEFAULT_MSS: Final = 536
# Stretches of a direction that are remembered as seen: what lies between them was not. 100 gaps on the way at once are
# more than a sender that answers loss lets come about.
_MOST_STRETCHES: Final = 100


class Note:
    """The notes, one bit each; plain numbers, since they are joined for every segment."""

    SYN: Final = 1 << 0
    SYN_ACK: Final = 1 << 1
    ESTABLISHED: Final = 1 << 2
    FIN: Final = 1 << 3
    CLOSED: Final = 1 << 4
    RESET: Final = 1 << 5
    PORTS_REUSED: Final = 1 << 6
    GAP: Final = 1 << 7
    ACKED_UNSEEN: Final = 1 << 8
    KEEP_ALIVE: Final = 1 << 9
    KEEP_ALIVE_ACK: Final = 1 << 10
    DUPLICATE_ACK: Final = 1 << 11
    ZERO_WINDOW: Final = 1 << 12
    ZERO_WINDOW_PROBE: Final = 1 << 13
    ZERO_WINDOW_PROBE_ACK: Final = 1 << 14
    WINDOW_FULL: Final = 1 << 15
    WINDOW_UPDATE: Final = 1 << 16
    RETRANSMISSION: Final = 1 << 17
    FAST_RETRANSMISSION: Final = 1 << 18
    SPURIOUS_RETRANSMISSION: Final = 1 << 19
    OUT_OF_ORDER: Final = 1 << 20


NOTE_NAMES: Final[dict[int, str]] = {
    Note.SYN: "handshake 1/3",
    Note.SYN_ACK: "handshake 2/3",
    Note.ESTABLISHED: "handshake 3/3",
    Note.FIN: "close",
    Note.CLOSED: "closed",
    Note.RESET: "reset",
    Note.PORTS_REUSED: "ports reused",
    Note.GAP: "gap before",
    Note.ACKED_UNSEEN: "acknowledges unseen",
    Note.KEEP_ALIVE: "keep-alive",
    Note.KEEP_ALIVE_ACK: "keep-alive ack",
    Note.DUPLICATE_ACK: "duplicate ack",
    Note.ZERO_WINDOW: "zero window",
    Note.ZERO_WINDOW_PROBE: "zero window probe",
    Note.ZERO_WINDOW_PROBE_ACK: "zero window probe ack",
    Note.WINDOW_FULL: "window full",
    Note.WINDOW_UPDATE: "window update",
    Note.RETRANSMISSION: "retransmission",
    Note.FAST_RETRANSMISSION: "fast retransmission",
    Note.SPURIOUS_RETRANSMISSION: "spurious retransmission",
    Note.OUT_OF_ORDER: "out of order",
}
"""What a line calls each note."""


class Notes(NamedTuple):
    """What is known of one segment."""

    flow: int
    """The number of its connection in this capture, from 0; each is counted where it is first seen."""
    bits: int
    """The notes of `Note`."""
    relative_seq: int
    """Its sequence number from the first that was seen in its direction; a SYN's is 0."""
    relative_ack: int
    """The same of what it acknowledges; 0 without an ACK."""
    duplicate_acks: int
    """Which duplicate of an ACK this is, from 1; 0: it is none."""
    window_bytes: int
    """The window, scaled where the scale was seen."""

    @property
    def names(self) -> tuple[str, ...]:
        """The notes in words."""
        return tuple(name for bit, name in NOTE_NAMES.items() if self.bits & bit)


@dataclass(frozen=True, slots=True)
class TrackerStatistics:
    """How many flows there were, and what was forgotten to make room.

    ``stretches_let_go`` are of sequence numbers between gaps, of a direction that had more of them at once than are
    remembered: whether a segment in one was seen before is not known any more.
    """

    flows: int
    flows_let_go: int
    stretches_let_go: int


# From where to behind what. Those of a list touch each other nowhere.
_Stretch = tuple[int, int]
_Blocks = tuple[_Stretch, ...]


class _Side:
    """What is known of the segments of one direction."""

    __slots__ = (
        "base", "beyond_acked", "duplicate_acks", "fin_end", "has_window", "last_ack", "last_ack_ns", "last_bits",
        "let_go", "mss", "next_ns", "next_seq", "sacked", "scale", "seen", "window", "window_is_bare",
    )  # fmt: skip

    def __init__(self) -> None:
        self.base: int | None = None  # what relative numbers count from
        self.next_seq: int | None = None  # behind the highest that was seen…
        self.next_ns = 0  # … and when that was
        self.beyond_acked: int | None = None  # behind the highest that was seen without a gap
        self.window = 0
        self.window_is_bare = True  # a SYN's is never scaled (RFC 7323 §2.2)
        self.has_window = False
        self.scale = _UNKNOWN_SCALE
        self.last_ack: int | None = None
        self.last_ack_ns = 0
        self.last_bits = 0
        self.duplicate_acks = 0
        self.fin_end: int | None = None
        self.mss = _DEFAULT_MSS
        self.seen: list[_Stretch] = []  # what the other side has not acknowledged yet …
        self.sacked: list[_Stretch] = []  # … and what of the other's this side told it has, behind its last ACK
        self.let_go = 0  # stretches of these, for want of room, since this was last looked at


class _Flow:
    """One connection; ``sides`` by whether the sender has the lower address and port."""

    __slots__ = ("first_rtt_ns", "is_closed", "number", "opener", "sides", "state", "syn_ns")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sides = (_Side(), _Side())
        self.state = 0  # how much of the handshake was seen: 1 SYN, 2 SYN and SYN/ACK, 3 all
        self.opener = -1
        self.is_closed = False
        self.syn_ns: int | None = None
        self.first_rtt_ns = 0


_Key = tuple[bytes, int, bytes, int]


class FlowTracker:
    """Remembers connections, and says of each segment what it is to its own.

    ``see`` takes segments in the order in which they were captured. Of ``most_flows`` connections more are let go.

    >>> tracker, one, two = FlowTracker(), bytes([10, 9, 0, 1]), bytes([10, 9, 0, 2])
    >>> for _ in range(2):
    ...     print(tracker.see((one, 4000, two, 80), 0, 77, 0, SYN, 65535, 0, None).names)
    ('handshake 1/3',)
    ('handshake 1/3', 'retransmission')
    """

    def __init__(self, most_flows: int = MOST_FLOWS) -> None:
        if most_flows < 1:
            raise ValueError("at least one flow is remembered")
        self._most_flows = most_flows
        self._flows: OrderedDict[_Key, _Flow] = OrderedDict()
        self._count = self._let_go = self._stretches_let_go = 0

    def statistics(self) -> TrackerStatistics:
        """How many flows were seen and let go so far."""
        return TrackerStatistics(self._count, self._let_go, self._stretches_let_go)

    def see(
        self,
        key: _Key,
        time_ns: int,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        payload_bytes: int,
        window_scale: int | None,
        sack: _Blocks = (),
        mss: int | None = None,
    ) -> Notes:
        """Look at one segment: ``key`` is source, its port, destination and its port; sizes in bytes.

        ``window_scale``, ``sack`` and ``mss`` are its options, where it has them; without ``sack`` a loss is known by
        what ACKs repeat alone.
        """
        source, source_port, destination, destination_port = key
        # Who speaks to itself has one direction only, as for Wireshark.
        lower = (source, source_port) <= (destination, destination_port)
        name = key if lower else (destination, destination_port, source, source_port)
        flow = self._flows.get(name)
        bits = 0
        if flow is None:
            flow = self._begin(name)
        else:
            self._flows.move_to_end(name)
            if flags & (SYN | ACK) == SYN:
                here = flow.sides[lower]
                if here.base is not None and seq != here.base:
                    flow = self._begin(name)
                    bits = Note.PORTS_REUSED
        forth, back = flow.sides[lower], flow.sides[not lower]
        if flags & (SYN | ACK) == SYN | ACK and forth.base is not None and seq != forth.base:
            # A server's second thoughts: of another connection, or of SYN cookies, which change with the minute. Its
            # numbers count from here on.
            forth.base = seq
            forth.seen, back.sacked = [], []
            bits |= Note.PORTS_REUSED
        bits |= _handshake(flow, forth, back, lower, seq, ack, flags, time_ns, payload_bytes)
        if forth.base is None:
            forth.base = seq if flags & SYN else seq - 1 & _WRAP
        if back.base is None and flags & ACK:
            back.base = ack - 1 & _WRAP
        bits = _analyse(flow, forth, back, time_ns, seq, ack, flags, window, payload_bytes, sack, bits)
        if forth.let_go:
            self._stretches_let_go += forth.let_go
            forth.let_go = 0
        if flags & SYN:
            if mss is not None:
                forth.mss = mss
            forth.scale = _NO_SCALE if window_scale is None else min(window_scale, _MAX_SCALE)
            if flags & ACK and (forth.scale == _NO_SCALE or back.scale == _NO_SCALE):
                forth.scale = back.scale = _NO_SCALE  # RFC 7323 §2.2: both ask for it, or it is not used
        forth.last_bits = bits
        scaled = window << forth.scale if forth.scale > 0 and back.scale >= 0 and not flags & SYN else window
        return Notes(
            flow.number,
            bits,
            seq - forth.base & _WRAP,
            (ack - back.base & _WRAP) if flags & ACK and back.base is not None else 0,
            forth.duplicate_acks if bits & Note.DUPLICATE_ACK else 0,
            scaled,
        )

    def _begin(self, name: _Key) -> _Flow:
        flow = _Flow(self._count)
        self._count += 1
        self._flows[name] = flow
        self._flows.move_to_end(name)
        if len(self._flows) > self._most_flows:
            self._flows.popitem(last=False)
            self._let_go += 1
        return flow


def _handshake(
    flow: _Flow, forth: _Side, back: _Side, lower: bool, seq: int, ack: int, flags: int, time_ns: int, size: int
) -> int:
    """Tell what a segment is to the connection's opening and end, which SYN, ACK, FIN and RST say."""
    bits = 0
    if flags & SYN:
        if flags & ACK:
            bits = Note.SYN_ACK
            if flow.state == 1 and lower != flow.opener:
                flow.state = 2
        else:
            bits = Note.SYN
            flow.syn_ns = time_ns
            if flow.state == 0:
                flow.state, flow.opener = 1, lower
    elif flags & ACK and not flags & RST:
        if flow.syn_ns is not None and not flow.first_rtt_ns:
            flow.first_rtt_ns = time_ns - flow.syn_ns
        if flow.state == 2 and lower == flow.opener and back.base is not None and ack - back.base & _WRAP >= 1:
            flow.state = 3
            bits = Note.ESTABLISHED
    if flags & FIN:
        bits |= Note.FIN
        forth.fin_end = seq + size + 1 & _WRAP
    if flags & RST:
        bits |= Note.RESET
    elif (
        flags & ACK
        and not flow.is_closed
        and back.fin_end is not None
        and forth.fin_end is not None
        and back.last_ack is not None
        # The other's FIN is acknowledged by this segment, and ours was before: then all is said.
        and not (ack - back.fin_end & _WRAP) & _HALF
        and not (back.last_ack - forth.fin_end & _WRAP) & _HALF
    ):
        flow.is_closed = True
        bits |= Note.CLOSED
    return bits


def _analyse(
    flow: _Flow,
    forth: _Side,
    back: _Side,
    time_ns: int,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    size: int,
    sack: _Blocks,
    bits: int,
) -> int:
    """Give the notes about sequence numbers, acknowledgments and windows, and remember what the next need."""
    plain = not flags & (SYN | FIN | RST)
    next_seq = forth.next_seq
    if flags & ACK and forth.sacked:
        forth.sacked = _behind(forth.sacked, ack)
    has_news = bool(sack) and plain and flags & ACK != 0 and _tell(forth, sack, ack)
    if size == 1 and seq == next_seq and back.has_window and back.window == 0:
        bits |= Note.ZERO_WINDOW_PROBE
    else:
        bits = _windows(forth, back, seq, ack, flags, window, size, bits, plain, has_news)
    if ack != forth.last_ack:
        forth.duplicate_acks = 0
    if flags & ACK and back.beyond_acked is not None and 0 < (ack - back.beyond_acked & _WRAP) < _HALF:
        opens = plain and not size and window and window != forth.window and seq == next_seq
        if opens and back.last_bits & Note.ZERO_WINDOW_PROBE and ack == (forth.last_ack or 0) + 1 & _WRAP:
            # The receiver took the byte of the probe, which until now did not count.
            back.beyond_acked = back.next_seq = ack
            bits |= Note.WINDOW_UPDATE
        elif (back.beyond_acked - (back.next_seq or 0) & _WRAP) & _HALF:
            # Behind a gap there was more, up to which it may be: said once.
            back.beyond_acked = back.next_seq
            bits |= Note.ACKED_UNSEEN
        else:
            if back.duplicate_acks == 0:
                bits |= Note.ACKED_UNSEEN
            back.duplicate_acks = _SAID
    end = seq + size + bool(flags & (SYN | FIN)) & _WRAP
    if end != seq:
        bits |= _repeated(flow, forth, back, time_ns, seq, end, size, bits)
    # What comes next, and what is remembered.
    if flags & ACK and back.seen:
        back.seen = _behind(back.seen, ack)
    if not bits & Note.ZERO_WINDOW_PROBE:
        if end != seq:
            _join(forth, seq, end)
        if next_seq is None or 0 < (end - next_seq & _WRAP) < _HALF:
            forth.next_seq = end
            forth.next_ns = time_ns
        if forth.beyond_acked is None or seq == forth.beyond_acked:
            forth.beyond_acked = forth.next_seq
    forth.window = window
    forth.window_is_bare = flags & SYN != 0
    forth.has_window = True
    forth.last_ack = ack if flags & ACK else None
    forth.last_ack_ns = time_ns
    return bits


def _tell(side: _Side, sack: _Blocks, ack: int) -> bool:
    """Remember what a SACK tells of, and say whether there is news: neither acknowledged nor told of before."""
    has_news = False
    for seq, end in sack:
        if 0 < (end - seq & _WRAP) < _HALF and 0 < (end - ack & _WRAP) < _HALF and not _is_in(side.sacked, seq, end):
            side.sacked = _fewer(side, _joined(side.sacked, seq, end))
            has_news = True
    return has_news


def _is_in(stretches: list[_Stretch], seq: int, end: int) -> bool:
    return any(not (seq - one & _WRAP) & _HALF and not (two - end & _WRAP) & _HALF for one, two in stretches)


def _join(side: _Side, seq: int, end: int) -> None:
    seen = side.seen
    if len(seen) == 1 and seen[0][1] == seq:  # as nearly always
        # Where no ACK is ever seen, numbers go round.
        seen[0] = (seen[0][0] if (end - seen[0][0] & _WRAP) < _HALF else seq, end)
    else:
        side.seen = _fewer(side, _joined(seen, seq, end))


def _joined(stretches: list[_Stretch], seq: int, end: int) -> list[_Stretch]:
    """Join one with those that it touches."""
    apart = []
    for one, two in stretches:
        if (two - seq & _WRAP) & _HALF or (end - one & _WRAP) & _HALF:
            apart.append((one, two))
            continue
        if (one - seq & _WRAP) & _HALF:
            seq = one
        if not (two - end & _WRAP) & _HALF:
            end = two
    apart.append((seq, end))
    return apart


def _fewer(side: _Side, stretches: list[_Stretch]) -> list[_Stretch]:
    """Keep so many at most, the last that came, and count the others."""
    if len(stretches) <= _MOST_STRETCHES:
        return stretches
    side.let_go += len(stretches) - _MOST_STRETCHES
    return stretches[-_MOST_STRETCHES:]


def _behind(stretches: list[_Stretch], ack: int) -> list[_Stretch]:
    """Give what of them is behind an ACK."""
    for one, _ in stretches:
        if (one - ack & _WRAP) & _HALF:
            break
    else:
        return stretches
    return [
        (ack if (one - ack & _WRAP) & _HALF else one, two) for one, two in stretches if 0 < (two - ack & _WRAP) < _HALF
    ]


def _windows(
    forth: _Side,
    back: _Side,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    size: int,
    bits: int,
    plain: bool,
    has_news: bool,
) -> int:
    """Note what ACKs and windows say, data aside."""
    next_seq = forth.next_seq
    if window == 0 and plain:
        bits |= Note.ZERO_WINDOW
    if next_seq is not None and 0 < (seq - next_seq & _WRAP) < _HALF and not flags & RST:
        bits |= Note.GAP
    if not plain or next_seq is None:
        return bits
    if size <= 1 and seq == next_seq - 1 & _WRAP:
        bits |= Note.KEEP_ALIVE
    if size:
        if back.scale != _UNKNOWN_SCALE and back.last_ack is not None:
            scale = 0 if back.window_is_bare else max(back.scale, 0)
            if seq + size & _WRAP == back.last_ack + (back.window << scale) & _WRAP:
                bits |= Note.WINDOW_FULL
        return bits
    if seq != next_seq or ack != forth.last_ack:
        return bits
    is_update = window != forth.window
    if is_update and not has_news:
        return bits | Note.WINDOW_UPDATE if window else bits
    if window:
        if back.last_bits & Note.KEEP_ALIVE and not is_update:
            return bits | Note.KEEP_ALIVE_ACK
        # RFC 6675 §2: with news in its SACK it is a duplicate whatever its window.
        forth.duplicate_acks = max(forth.duplicate_acks, 0) + 1
        return bits | Note.DUPLICATE_ACK
    if back.last_bits & Note.ZERO_WINDOW_PROBE:
        return bits | Note.ZERO_WINDOW_PROBE_ACK
    return bits


def _repeated(flow: _Flow, forth: _Side, back: _Side, time_ns: int, seq: int, end: int, size: int, bits: int) -> int:
    """Say whether data, a SYN or a FIN was sent before, and why again; or was overtaken on its way."""
    next_seq = forth.next_seq
    is_old = next_seq is not None and bool((seq - next_seq & _WRAP) & _HALF)
    if is_old and bits & Note.KEEP_ALIVE:
        return 0
    if size > 1 and next_seq is not None and seq == next_seq - 1 & _WRAP:
        is_old = False  # new data behind a byte that may have been a probe
    if size and back.last_ack is not None and not (back.last_ack - seq - size & _WRAP) & _HALF:
        return Note.SPURIOUS_RETRANSMISSION
    if not is_old:
        return 0
    # Of a clock that was put back nothing follows but that the segment came again.
    if 0 <= time_ns - back.last_ack_ns < _FAST_NS and _is_asked_for(back, seq, end):
        return Note.FAST_RETRANSMISSION
    if _is_in(forth.seen, seq, end):
        return Note.RETRANSMISSION
    late_ns = time_ns - forth.next_ns
    limit_ns = flow.first_rtt_ns or _OVERTAKEN_NS
    if 0 <= late_ns < limit_ns and next_seq != end:
        return Note.OUT_OF_ORDER
    return Note.RETRANSMISSION


def _is_asked_for(back: _Side, seq: int, end: int) -> bool:
    """Whether ACKs ask for a segment: by being repeated, or by how much behind it they tell of (RFC 6675 §4)."""
    is_next = back.last_ack == seq
    if back.duplicate_acks >= 2 and (is_next or (back.sacked and not _is_in(back.sacked, seq, end))):
        return True
    return is_next and sum(two - one & _WRAP for one, two in back.sacked) > 2 * back.mss
