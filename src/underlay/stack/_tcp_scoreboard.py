"""What was sent and not yet acknowledged, and what is known of its fate: SACK (RFC 2018, 6675) and RACK (RFC 8985).

This file knows the segments on their way, which of them the peer has told to
have, which are taken for lost and why, and how many bytes are still in the
network ("pipe"). It refuses to know the congestion window and who sends.

The queue of segments is in sequence order, so a block is found by bisection.
RACK reads them in the order of their last transmission, which is kept as a
linked list (OrderedDict) from the first sign of trouble until the last: while
all goes well a segment costs one append and one popleft. Each ACK pays for what
it newly tells, never for the whole window.
"""

from __future__ import annotations

import enum
from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from operator import attrgetter
from typing import Final

__all__ = ["DUPLICATE_THRESHOLD", "Phase", "Scoreboard", "Sent", "last_mss"]

# RFC 5681 §3.2, RFC 6675 §2: three duplicates.
DUPLICATE_THRESHOLD: Final = 3
# RFC 8985 §6.2 step 4: recoveries after which a widened reordering window shrinks again.
_REO_WINDOW_PERSIST: Final = 16
_BY_START: Final = attrgetter("start")


class Sent:
    """One transmission that is not acknowledged: a segment, or a super segment of several."""

    __slots__ = ("end", "flags", "lost", "out", "payload", "sacked", "sent_at", "start", "times")

    def __init__(self, start: int, end: int, flags: int, payload: bytes | memoryview, sent_at: float) -> None:
        self.start = start
        self.end = end
        """Behind the payload, and behind a SYN or FIN, which count as one."""
        self.flags = flags
        self.payload = payload
        self.sent_at = sent_at
        """When it was sent last."""
        self.times = 0
        """How often it was retransmitted."""
        self.sacked = False
        self.lost = False
        self.out = False
        """Its retransmission is in the network."""

    def __repr__(self) -> str:
        marks = "".join(letter for letter, on in (("S", self.sacked), ("L", self.lost), ("R", self.out)) if on)
        return f"<Sent {self.start}..{self.end} {marks}>"


class Phase(enum.Enum):
    """What recovery is doing (the names of RFC 5681 and 6675; Linux's are Open, Recovery and Loss)."""

    OPEN = "open"
    RECOVERY = "fast recovery"
    LOSS = "after a timeout"


# Ranges beyond one for each segment: middleboxes cut segments anew, and a few pieces of them may come out of order.
SPARE_RANGES: Final = 64


class Scoreboard:
    """The fate of each segment in `queue`, which is the connection's own and stays in sequence order."""

    __slots__ = (
        "active", "by_time", "dsack_seen", "duplicate_acks", "fack", "lost", "lost_bytes",
        "min_rtt_s", "mss", "phase", "prr_delivered", "prr_out", "queue", "rack_end", "rack_rtt_s", "rack_sent_at",
        "recover_flight", "recovery_point", "reo_mult", "reo_persist", "reo_round_end", "reordering_seen",
        "retrans_bytes", "sacked_bytes", "sacked_segments", "starts", "stops", "undo",
    )  # fmt: skip

    def __init__(self, queue: deque[Sent], mss: int) -> None:
        self.queue = queue
        self.mss = mss
        self.min_rtt_s = 0.0
        self.reordering_seen = False
        self.reo_mult = 1
        self.reo_persist = 0
        self.reo_round_end = -1
        self.recovery_point = -1
        self.active = False
        self._rest()

    def _rest(self) -> None:
        self.by_time: OrderedDict[Sent, None] = OrderedDict()
        self.lost: deque[Sent] = deque()
        self.lost_bytes = 0
        self.retrans_bytes = 0
        self.sacked_bytes = 0
        self.sacked_segments = 0
        self.starts: list[int] = []  # of the ranges that are SACKed, merged and in order
        self.stops: list[int] = []
        self.duplicate_acks = 0
        self.fack = -1
        self.rack_sent_at = -1.0
        self.rack_end = -1
        self.rack_rtt_s = 0.0
        self.phase = Phase.OPEN
        self.prr_delivered = 0
        self.prr_out = 0
        self.recover_flight = 0
        self.dsack_seen = False
        self.undo: tuple[int, int, int, int] | None = None
        """(cwnd, ssthresh, our timestamp at the first retransmission, its number): what a needless one gives back."""

    def activate(self) -> None:
        """Begin to keep account of what is in the queue now; nothing in it was retransmitted, or it was once only."""
        if not self.active:
            self.active = True
            ordered = sorted(self.queue, key=lambda sent: (sent.sent_at, sent.end))
            self.by_time = OrderedDict.fromkeys(ordered)

    def settle(self) -> None:
        """Rest again if nothing is doubtful any more."""
        if self.phase is Phase.OPEN and not (self.sacked_bytes or self.lost_bytes or self.retrans_bytes):
            self.active = False
            self._rest()

    def on_sent(self, sent: Sent) -> None:
        """Note that `sent` was sent now, for the first time or again."""
        by_time = self.by_time
        by_time[sent] = None
        by_time.move_to_end(sent)

    # --- what the peer tells ---

    def on_acked(self, sent: Sent, now: float, echoed_earlier: bool) -> int:
        """`sent` is acknowledged and leaves the queue; give its bytes if no SACK had told of them."""
        size = sent.end - sent.start
        if sent.lost:
            self.lost_bytes -= size
            sent.lost = False
        if sent.out:
            self.retrans_bytes -= size
        self.by_time.pop(sent, None)
        if sent.sacked:
            self.sacked_bytes -= size
            self.sacked_segments -= 1
            return 0
        self._delivered(sent, now, echoed_earlier)
        return size

    def on_acked_part(self, sent: Sent, size: int) -> int:
        """The first `size` bytes of `sent`, still in the queue and already cut, are acknowledged."""
        if sent.lost:
            self.lost_bytes -= size
        if sent.out:
            self.retrans_bytes -= size
        if sent.sacked:
            self.sacked_bytes -= size
            return 0
        return size

    def forget_ranges_before(self, una: int) -> None:
        """Drop SACKed ranges that the cumulative acknowledgment has passed."""
        passed = bisect_right(self.stops, una)  # one slice: a list that is emptied from its front moves all the rest
        if passed:
            del self.stops[:passed], self.starts[:passed]

    def on_sack(self, start: int, end: int, now: float) -> int:
        """The peer has [start, end), which lies within the queue; give the bytes that it had not told of before.

        -1 for a range that is one too many. A receiver's are whole segments, so there are no more of them than
        segments; one who names single bytes would have us keep, and go through, a range for each.
        """
        starts, stops = self.starts, self.stops
        low = bisect_left(stops, start)
        high = bisect_right(starts, end)
        if low == high and len(starts) > len(self.queue) + SPARE_RANGES:
            return -1
        # The holes that this block fills are between the ranges [low:high] that it touches.
        place = start
        fresh = 0
        for index in range(low, high):
            if place < starts[index]:
                fresh += self._mark_sacked(place, starts[index], now)
            place = max(place, stops[index])
        if place < end:
            fresh += self._mark_sacked(place, end, now)
        if high > low:
            start = min(start, starts[low])
            end = max(end, stops[high - 1])
        starts[low:high] = [start]
        stops[low:high] = [end]
        return fresh

    def _mark_sacked(self, start: int, end: int, now: float) -> int:
        """Mark the segments within [start, end), which no earlier block covered."""
        queue = self.queue
        index = bisect_right(queue, start, key=_BY_START) - 1
        if index < 0:
            index = 0
        fresh = 0
        mss = self.mss
        while index < len(queue):
            sent = queue[index]
            if sent.start >= end:
                break
            if sent.sacked:
                index += 1
                continue
            if sent.start < start or sent.end > end:
                # A super segment is divided only between segments, so that no peer can grind it to dust.
                if sent.end - sent.start <= mss or not sent.payload:
                    index = self._stretch(index, sent, start, end)
                    continue
                if sent.start < start:
                    cut = sent.start + -((sent.start - start) // mss) * mss
                    if cut >= sent.end or cut >= end:
                        index += 1
                        continue
                    self.split(index, cut, keep_left=True)
                    index += 1
                    sent = queue[index]
                if sent.end > end:
                    cut = sent.start + (end - sent.start) // mss * mss
                    if cut <= sent.start:
                        break
                    self.split(index, cut, keep_left=False)
                    sent = queue[index]
            size = sent.end - sent.start
            sent.sacked = True
            fresh += size
            self.sacked_bytes += size
            self.sacked_segments += 1
            if sent.lost:
                self.lost_bytes -= size
                sent.lost = False
            if sent.out:
                self.retrans_bytes -= size
                sent.out = False
            self.by_time.pop(sent, None)
            self._delivered(sent, now, False)
            index += 1
        return fresh

    def _stretch(self, index: int, sent: Sent, start: int, end: int) -> int:
        """A single segment is partly SACKed: it counts as soon as the known ranges and this block cover it all."""
        place = sent.start
        low = bisect_right(self.stops, place)
        ranges = sorted([*zip(self.starts[low : low + 4], self.stops[low : low + 4], strict=True), (start, end)])
        for known_start, known_end in ranges:
            if known_start <= place < known_end:
                place = known_end
        if place >= sent.end:
            sent.sacked = True
            size = sent.end - sent.start
            self.sacked_bytes += size
            self.sacked_segments += 1
            if sent.lost:
                self.lost_bytes -= size
                sent.lost = False
            if sent.out:
                self.retrans_bytes -= size
                sent.out = False
            self.by_time.pop(sent, None)
        return index + 1

    def split(self, index: int, cut: int, *, keep_left: bool) -> Sent:
        """Divide the segment at `index` before `cut`; the object keeps one part, and the other part is returned.

        What stays the same object stays in the time order; the other part joins it there, behind all that was
        sent at the same moment.
        """
        queue = self.queue
        sent = queue[index]
        offset = cut - sent.start
        view = memoryview(sent.payload)
        if keep_left:
            other = Sent(cut, sent.end, sent.flags, view[offset:], sent.sent_at)
            sent.payload = view[:offset]
            sent.end = cut
            sent.flags &= ~0x09  # FIN and PSH belong to the last part
            queue.insert(index + 1, other)
        else:
            other = Sent(sent.start, cut, sent.flags & ~0x09, view[:offset], sent.sent_at)
            sent.payload = view[offset:]
            sent.start = cut
            queue.insert(index, other)
        other.times, other.lost, other.out, other.sacked = sent.times, sent.lost, sent.out, sent.sacked
        if sent.sacked:
            self.sacked_segments += 1
        if self.active and sent in self.by_time:
            self._place_in_time(other)
        if sent.lost and not sent.out:
            self.lost.append(other)
        return other

    def _place_in_time(self, other: Sent) -> None:
        by_time = self.by_time
        last = next(reversed(by_time), None)
        by_time[other] = None
        if last is not None and (last.sent_at, last.end) > (other.sent_at, other.end):
            # Rare: the middle of a super segment that is SACKed leaves two parts to wait for; and of segments that
            # are sent again at one moment the earlier may have been found lost later.
            self.by_time = OrderedDict.fromkeys(sorted(by_time, key=lambda sent: (sent.sent_at, sent.end)))

    # --- RACK, RFC 8985 §6.2 ---

    def _delivered(self, sent: Sent, now: float, echoed_earlier: bool) -> None:
        """Steps 2 and 3: remember the newest transmission that arrived; see whether it arrived out of order."""
        if sent.times:
            # The acknowledgment may be for the first copy: its echo, or an impossibly short round trip, tells.
            if echoed_earlier or now - sent.sent_at < self.min_rtt_s:
                return
        elif sent.end > self.fack:
            self.fack = sent.end
        elif sent.end < self.fack and not sent.lost:
            self.reordering_seen = True
        if sent.sent_at > self.rack_sent_at or (sent.sent_at == self.rack_sent_at and sent.end > self.rack_end):
            self.rack_sent_at = sent.sent_at
            self.rack_end = sent.end
            self.rack_rtt_s = now - sent.sent_at

    def on_dsack(self, una: int, nxt: int) -> None:
        """Step 4: a segment came twice, so we were too quick; widen the window once a round trip."""
        self.dsack_seen = True
        if una >= self.reo_round_end:
            self.reo_round_end = nxt
            self.reo_mult = min(self.reo_mult + 1, 64)
            self.reo_persist = _REO_WINDOW_PERSIST

    def on_recovery_done(self) -> None:
        """Step 4: a widened window lasts 16 recoveries."""
        self.reo_persist -= 1
        if self.reo_persist <= 0:
            self.reo_mult = 1

    def _reordering_window_s(self, min_rtt_s: float, srtt_s: float) -> float:
        if not self.reordering_seen and (
            self.phase is not Phase.OPEN
            or self.sacked_segments >= DUPLICATE_THRESHOLD
            or self.sacked_bytes >= DUPLICATE_THRESHOLD * self.mss
        ):
            return 0.0
        return min(self.reo_mult * min_rtt_s / 4, srtt_s)

    def detect_losses(self, now: float, min_rtt_s: float, srtt_s: float) -> tuple[int, float]:
        """Step 5: take for lost what was sent long enough before something that has arrived.

        Give (bytes newly lost, seconds until the next may be: 0 when none waits).
        """
        if self.rack_sent_at < 0.0:
            return 0, 0.0
        patience_s = self.rack_rtt_s + self._reordering_window_s(min_rtt_s, srtt_s)
        rack_sent_at, rack_end = self.rack_sent_at, self.rack_end
        newly_lost = 0
        by_time = self.by_time
        while by_time:
            sent = next(iter(by_time))
            if sent.sent_at > rack_sent_at or (sent.sent_at == rack_sent_at and sent.end >= rack_end):
                break
            remaining_s = sent.sent_at + patience_s - now
            if remaining_s > 1e-9:
                return newly_lost, remaining_s
            newly_lost += self.mark_lost(sent)
        return newly_lost, 0.0

    # --- losses ---

    def mark_lost(self, sent: Sent) -> int:
        """Take `sent` for lost: it has left the network and is to be sent again."""
        self.by_time.pop(sent, None)
        size = sent.end - sent.start
        fresh = size
        if sent.out:
            sent.out = False
            self.retrans_bytes -= size
        elif sent.lost:
            fresh = 0
        if not sent.lost:
            sent.lost = True
            self.lost_bytes += size
        if fresh:
            self.lost.append(sent)
        return fresh

    def mark_all_lost(self, *, forget_sacks: bool) -> None:
        """After a timeout all that no SACK tells of is lost (RFC 5681 §3.1, RFC 6675 §5.1)."""
        self.lost.clear()
        if forget_sacks:
            # RFC 2018 §8: the peer may renege; it has, if it does not acknowledge what it said it had.
            for sent in self.queue:
                sent.sacked = False
            self.starts.clear()
            self.stops.clear()
            self.sacked_bytes = self.sacked_segments = 0
        for sent in self.queue:
            if not sent.sacked:
                self.mark_lost(sent)
        self.lost = deque(sent for sent in self.queue if sent.lost)

    def forgive_losses(self) -> None:
        """Nothing was lost after all: what was not yet retransmitted is back on its way."""
        for sent in self.lost:
            if sent.lost and not sent.out:
                sent.lost = False
                self.lost_bytes -= sent.end - sent.start
                self.on_sent(sent)
        self.lost.clear()
        self.by_time = OrderedDict.fromkeys(sorted(self.by_time, key=lambda sent: (sent.sent_at, sent.end)))

    def next_lost(self) -> Sent | None:
        """Give the lost segment to be sent again next, without removing it (RFC 6675 §4 NextSeg rule 1)."""
        lost = self.lost
        while lost:
            sent = lost[0]
            if sent.lost and not sent.out:
                return sent
            lost.popleft()
        return None

    def on_retransmit(self, sent: Sent, now: float) -> None:
        """`sent` is sent again now."""
        if sent.lost and not sent.out:
            sent.out = True
            self.retrans_bytes += sent.end - sent.start
        sent.sent_at = now
        sent.times += 1
        self.by_time.pop(sent, None)
        self._place_in_time(sent)

    def index_of(self, sent: Sent) -> int:
        """Give the place of `sent` in the queue."""
        return bisect_left(self.queue, sent.start, key=_BY_START)

    def in_network(self, flight_bytes: int) -> int:
        """Give the bytes in the network, "pipe" (RFC 6675 §4), of `flight_bytes` that are not acknowledged.

        Without SACK what duplicates tell of is a guess, and may be what is then found lost: so never below 0.
        """
        return max(flight_bytes - self.sacked_bytes - self.lost_bytes + self.retrans_bytes, 0)


def last_mss(board: Scoreboard) -> Sent:
    """Give the last segment of the queue; of a super segment only its last part, divided off."""
    queue = board.queue
    sent = queue[-1]
    size = len(sent.payload)
    if size > board.mss:
        whole = (size - 1) // board.mss * board.mss
        return board.split(len(queue) - 1, sent.start + whole, keep_left=True)
    return sent
