"""The internet of a world: every host at one end of a way to every other, each direction with conditions of its own.

This file knows which way a packet takes, when it arrives, what is held or dropped, and what is under way. It refuses
to know what is in a packet, but for its addresses, and who the hosts are.

What happens to a way happens also to the packets under way on it. Cut, they are lost; held, they stand still, and go
on with what was left of their way; and changed conditions are met by each of them once (`Internet.change`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeAlias

from ..link import FRAME, Impairment, Passage, Rate, segments
from ..probe import Probe
from ..stack import TcpPacket
from ..wire import Frame
from ._conditions import Conditions
from ._frames import Packet, addresses_of, for_capture, frame_of, kept
from ._schedule import Moment, Schedule

LIMIT_FRAMES: Final = 100_000
"""How many frames may be under way or held in one world; what exceeds it is dropped and counted (``in_flight``)."""

Receive: TypeAlias = Callable[[bytes | memoryview | TcpPacket, bool, bool], None]
Arrive: TypeAlias = "Callable[[tuple[Way, Packet]], None]"


@dataclass(frozen=True, slots=True)
class WayStatistics:
    """What one direction carried, and what it dropped, by reason."""

    sent_frames: int
    sent_bytes: int
    arrived_frames: int
    drops: dict[str, int]


class Way:
    """One direction between two hosts."""

    __slots__ = (
        "arrive",
        "arrived_frames",
        "conditions",
        "cuts",
        "delay_s",
        "drops",
        "held",
        "is_cut",
        "is_ethernet",
        "is_held",
        "is_silent",
        "label",
        "last_due",
        "last_tie",
        "link",
        "must_cut",
        "receive",
        "rng",
        "sender",
        "sent_bytes",
        "sent_frames",
        "stages",
        "target",
        "undisturbed",
    )

    def __init__(self, sender: str, target: str, receive: Receive, arrive: Arrive, link: str = "") -> None:
        self.sender = sender
        self.target = target
        self.label = f"{sender}->{target}"
        # What both directions are together.
        self.link = link or " | ".join(sorted((sender, target)))
        self.receive = receive
        # What happens at its end: a host receives it, or it goes on by another way.
        self.arrive = arrive
        self.is_ethernet = False
        self.is_silent = False  # another way showed its frames, which it takes over, to those who capture
        self.must_cut = False
        self.last_due = -1.0
        self.last_tie = 0.0
        self.is_cut = False
        self.is_held = False
        self.undisturbed: Conditions | None = None
        # What stands still, how much of its way is left (None for what was sent meanwhile, which has it all), and where
        # it goes on: here, or on the access link behind.
        self.held: deque[tuple[Frame, float | None, Way]] = deque()
        self.sent_frames = self.sent_bytes = self.arrived_frames = 0
        self.drops: Counter[str] = Counter()

    def become(self, conditions: Conditions, rng: Random) -> None:
        """Be like this from now on."""
        self.conditions = conditions
        self.rng = rng
        self.delay_s = conditions.delay_s
        self.cuts = conditions.is_per_frame or self.must_cut
        self.stages: tuple[Impairment, ...] = conditions.stages(rng)

    def clear(self) -> None:
        """Nothing is on the way any more, nor waits for its rate; nobody is behind anybody."""
        self.last_due = -1.0
        self.stages = self.conditions.stages(self.rng)

    def statistics(self) -> WayStatistics:
        """What it carried and dropped so far."""
        return WayStatistics(self.sent_frames, self.sent_bytes, self.arrived_frames, dict(self.drops))

    def __repr__(self) -> str:
        state = " cut" if self.is_cut else " held" if self.is_held else ""
        return f"<Way {self.label}{state} {self.conditions}>"


PACKET: Final[Probe[[object, Way, str, bytes, str]]] = Probe(
    "sim.packet",
    "the Internet, the Way, direction, the packet's bytes, comment: 'out' when it is sent, 'in' when it arrives at a "
    "host, at the world's time; the comment says why it was dropped ('dropped: loss')",
)


class Internet:
    """All ways of a world. A way comes to be when the first packet takes it, or conditions are named for it."""

    def __init__(self, schedule: Schedule, rng_for: Callable[[str], Random], conditions: Conditions) -> None:
        self._schedule = schedule
        self._rng_for = rng_for
        self.conditions = conditions
        self._names: dict[bytes, str] = {}
        self._receivers: dict[str, Receive] = {}
        self._ways: dict[tuple[str, str], Way] = {}
        self._by_address: dict[str, dict[bytes, Way]] = {}
        self.under_way = 0
        self.drops: Counter[str] = Counter()
        self._dropped_by = ""
        self._deliver_one: Final = self._deliver
        self._routers: set[str] = set()
        self._accesses: dict[str, tuple[Way, Way]] = {}
        self._regions: dict[str, str] = {}
        self._between: dict[tuple[str, str], Conditions] = {}

    def join(self, name: str, addresses: Iterable[bytes], receive: Receive) -> None:
        """Let `name` be reached at its addresses; `receive` takes a packet, whether its checksums hold, and
        whether another comes at the same instant.
        """
        self._receivers[name] = receive
        self._by_address.setdefault(name, {})
        for address in addresses:
            self._names[address] = name

    def reach_by(self, name: str, addresses: Iterable[bytes]) -> None:
        """Let what is for these addresses be taken by `name`, a router, that knows more; where nobody has them."""
        for address in addresses:
            self._names.setdefault(address, name)

    def cut_for(self, router: str) -> None:
        """Let a router have packets as long as they are on a wire: it must tell senders of those that are too long."""
        self._routers.add(router)
        for way in self._ways.values():
            if way.target == router:
                way.must_cut = way.cuts = True

    def receive_by(self, name: str, receive: Receive) -> None:
        """Let packets for `name` be taken by another function from now on."""
        self._receivers[name] = receive
        for way in self._ways.values():
            if way.target == name:
                way.receive = receive

    def has_way(self, sender: str, target: str) -> bool:
        """Whether there is a way from one to the other, or would be when it is used."""
        return (sender, target) in self._ways or (sender in self._receivers and target in self._receivers)

    def wire(
        self,
        sender: str,
        target: str,
        arrive: Callable[[tuple[Way, Frame]], None],
        conditions: Conditions,
        *,
        is_from_switch: bool = False,
    ) -> Way:
        """Make a way for Ethernet frames, one end of which is a switch."""
        way = self._ways[sender, target] = Way(sender, target, _nobody, arrive)  # type: ignore[arg-type]  # no values
        way.is_ethernet = True
        way.is_silent = is_from_switch  # what comes from the switch was shown when it was sent
        way.must_cut = target in self._routers
        way.become(conditions, self._rng_for(f"way {way.label}"))
        return way

    def access(self, name: str, up: Conditions, down: Conditions) -> None:
        """Let all that `name` sends pass one way first, and all that it is sent pass one way last."""
        known = self._accesses.get(name)
        if known is not None:
            for way, conditions in zip(known, (up, down), strict=True):
                self._change(way, conditions)
            return
        access = f"access of {name}"
        uplink = Way(name, access, _nobody, self._leave_uplink, access)
        downlink = Way(access, name, self._receivers[name], self._deliver_one, access)
        downlink.is_silent = True
        for way, conditions in ((uplink, up), (downlink, down)):
            self._ways[way.sender, way.target] = way
            way.become(conditions, self._rng_for(f"way {way.label}"))
        self._accesses[name] = uplink, downlink
        self._by_address[name] = _Uplink(uplink)
        for way in self._ways.values():
            self._use_accesses(way)

    @property
    def has_accesses(self) -> bool:
        """Whether some hosts have a link that all their traffic shares."""
        return bool(self._accesses)

    def _use_accesses(self, way: Way) -> None:
        if way.sender in self._accesses and way.arrive is self._deliver_one:
            way.is_silent = True
        if way.target in self._accesses and way is not self._accesses[way.target][1]:
            way.arrive = self._enter_downlink

    def wan(self, between: dict[tuple[str, str], Conditions], regions: dict[str, str]) -> None:
        """Let ways between hosts of two regions have these conditions, those included that are not yet."""
        self._between.update(between)
        self._regions.update(regions)
        for way in self.ways():
            conditions = self._conditions_between(way.sender, way.target)
            if conditions is not None:
                self._change(way, conditions)

    def _conditions_between(self, sender: str, target: str) -> Conditions | None:
        regions = self._regions
        if sender not in regions or target not in regions:
            return None
        return self._between.get((regions[sender], regions[target]))

    def way(self, sender: str, target: str) -> Way:
        """The way from one host to another."""
        way = self._ways.get((sender, target))
        if way is None:
            way = self._ways[sender, target] = Way(sender, target, self._receivers[target], self._deliver_one)
            way.must_cut = target in self._routers
            if self._accesses:
                self._use_accesses(way)
            conditions = self._conditions_between(sender, target) if self._regions else None
            way.become(conditions or self.conditions, self._rng_for(f"way {way.label}"))
        return way

    def ways(self) -> tuple[Way, ...]:
        """All ways that came to be."""
        return tuple(self._ways.values())

    def change(self, sender: str, target: str, conditions: Conditions) -> None:
        """Let the way from `sender` to `target` be like this from now on, for what is under way too.

        What is under way meets once what is new: a share of it is lost, doubled, held, damaged; what is too long for
        a new MTU vanishes; what still waits for the rate waits on at the new one; and each packet arrives as much
        earlier or later as the way became shorter or longer, though not before now. None overtakes another by that.
        """
        self._change(self.way(sender, target), conditions)

    def _change(self, way: Way, conditions: Conditions) -> None:
        before = way.conditions
        if before == conditions:
            return
        under_way = self._withdraw(way)
        way.become(conditions, self._rng_for(f"way {way.label} {self._schedule.now!r}"))
        way.last_due = -1.0
        if under_way:
            self._meet(way, under_way, before)

    def _meet(self, way: Way, under_way: list[Moment], before: Conditions) -> None:
        """Let what was under way meet what is new; it was taken out of the schedule."""
        now, conditions = self._schedule.now, way.conditions
        new = conditions.since(before)
        longer_s = conditions.delay_s - before.delay_s
        stages = new.stages(way.rng)
        rate = next((stage for stage in way.stages if isinstance(stage, Rate)), None)
        for due, _, _, _, (_, packet) in under_way:
            frame = frame_of(packet)
            for piece in self._pieces(way, frame) if new.is_per_frame else [frame]:
                # What has not left its queue yet; a jitter that it may have met is not known.
                waits = before.rate_bits_per_s is not None and due - before.delay_s > now
                again = (rate,) if waits and rate is not None else ()
                passage = Passage(piece, now + conditions.delay_s if again else max(now, due + longer_s))
                for out in self._through(way, (*again, *stages), passage):
                    self._enter(way, out[0], out[1], held=out[2])

    # --- a packet ---------------------------------------------------------------------------------------------

    def send(self, sender: str, packet: Packet) -> None:
        """Take a packet of `sender`'s."""
        if isinstance(packet, TcpPacket):
            known = self._by_address[sender].get(packet[0][0])
            if known is not None and self._send_value(known, packet):
                return
            frame = packet.frame()
        else:
            frame = packet
        head = frame[0]
        destination = head[16:20] if head[0] >> 4 == 4 else head[24:40]
        ways = self._by_address[sender]
        way = ways.get(destination)
        if way is None:
            target = self._names.get(destination)
            if target is None:
                self.drops["nobody"] += 1
                return
            way = ways[destination] = self.way(sender, target)
        self.enter(way, frame)

    def _send_value(self, way: Way, packet: TcpPacket) -> bool:
        """Let a segment travel as a value; False where something on its way is to see its bytes, or it is dropped."""
        if (
            way.stages
            or way.cuts
            or way.is_cut
            or way.is_held
            or way.arrive is not self._deliver_one
            or FRAME.listeners
            or PACKET.listeners
            or self.under_way >= LIMIT_FRAMES
        ):
            return False
        way.sent_frames += 1
        way.sent_bytes += packet[5]
        self.under_way += 1
        schedule = self._schedule
        due = schedule.now + way.delay_s
        if due <= way.last_due:  # as in `_enter`
            schedule.behind(way.last_due, way.last_tie, self._deliver_one, (way, packet))
        else:
            way.last_due = due
            way.last_tie = schedule.first_at(due, self._deliver_one, (way, packet))
        return True

    @property
    def now(self) -> float:
        """Seconds since the world began."""
        return self._schedule.now

    def _tell(self, way: Way, direction: str, frame: Frame, comment: str = "") -> None:
        PACKET(self, way, direction, for_capture(frame, is_ethernet=way.is_ethernet), comment)

    def _show(self, way: Way, direction: str, frame: Frame, comment: str = "") -> None:
        if not way.is_ethernet:  # what passes a LAN its switch shows
            end = way.sender if direction == "out" else way.target
            FRAME(end, direction, for_capture(frame, is_ethernet=False), self._schedule.now, comment)

    def arrives_by_wire(self, way: Way, frame: Frame) -> None:
        """A frame has come from a LAN to a host."""
        self.arrived(way)
        if PACKET.listeners:
            self._tell(way, "in", frame)

    def arrived(self, way: Way) -> None:
        """A frame has come to the end of a way that ends at no host."""
        self.under_way -= 1
        way.arrived_frames += 1

    def _leave_uplink(self, passage: tuple[Way, Packet]) -> None:
        uplink, frame = passage[0], frame_of(passage[1])
        self.arrived(uplink)
        head = frame[0]
        target = self._names.get(head[16:20] if head[0] >> 4 == 4 else head[24:40])
        if target is None:
            self.drops["nobody"] += 1
        else:
            self.enter(self.way(uplink.sender, target), frame)

    def _enter_downlink(self, passage: tuple[Way, Packet]) -> None:
        way, frame = passage[0], frame_of(passage[1])
        self.arrived(way)
        self.enter(self._accesses[way.target][1], frame)

    def enter(self, way: Way, frame: Frame) -> None:
        """Take a packet for a way."""
        way.sent_frames += 1
        way.sent_bytes += len(frame[0]) + len(frame[1])
        if FRAME.listeners and not way.is_silent:
            self._show(way, "out", frame, "dropped: cut" if way.is_cut else "")
        if PACKET.listeners and (way.is_cut or way.is_held) and not way.is_silent:
            self._tell(way, "out", frame, "dropped: cut" if way.is_cut else "held")
        if way.is_cut:
            way.drops["cut"] += 1
        elif way.is_held:
            self._hold(way, frame)
        elif way.cuts:
            for piece in self._pieces(way, frame):
                self._carry(way, piece)
        else:
            self._carry(way, frame)

    def _hold(self, way: Way, frame: Frame) -> None:
        if self.under_way >= LIMIT_FRAMES:
            way.drops["in_flight"] += 1
            return
        self.under_way += 1
        way.held.append((kept(frame), None, way))

    def _pieces(self, way: Way, frame: Frame) -> list[Frame]:
        """Cut a super-frame, as each of its segments has a fate of its own."""
        segment_bytes, start, offset = frame[2], frame[3], frame[4]
        if not segment_bytes:
            return [frame]
        pieces = segments(frame, is_ethernet=way.is_ethernet, checksums=False)
        if pieces is None:
            way.drops["bad_segments"] += 1
            return []
        # A piece is a super-frame of one segment: whoever needs its checksum, as a corrupting stage does, makes it.
        return [Frame(head, payload, segment_bytes, start, offset) for head, payload, *_ in pieces]

    def _carry(self, way: Way, frame: Frame, *, is_told: bool = False) -> None:
        due = self._schedule.now + way.delay_s
        passages = [Passage(frame, due)] if not way.stages else self._through(way, way.stages, Passage(frame, due))
        if PACKET.listeners and not is_told and not (way.is_silent and passages):
            self._tell(way, "out", frame, "" if passages else f"dropped: {self._dropped_by}")
        for passage in passages:
            self._enter(way, passage[0], passage[1], held=passage[2])

    def _through(self, way: Way, stages: tuple[Impairment, ...], passage: Passage) -> list[Passage]:
        passages = [passage]
        for stage in stages:
            passages = [out for each in passages for out in stage.apply(each, is_ethernet=way.is_ethernet)]
            if not passages:
                way.drops[stage.name] += 1
                self._dropped_by = stage.name
                if FRAME.listeners:
                    self._show(way, "out", passage[0], f"dropped: {stage.name}")
                break
        return passages

    def _enter(self, way: Way, frame: Frame, due: float, *, held: bool) -> None:
        if self.under_way >= LIMIT_FRAMES:
            way.drops["in_flight"] += 1
            return
        self.under_way += 1
        schedule = self._schedule
        if not held:
            # No frame overtakes another on its way, also where both arrive at one instant.
            if due <= way.last_due:
                due = way.last_due
                schedule.behind(due, way.last_tie, way.arrive, (way, kept(frame)))
                return
            way.last_due = due
            way.last_tie = schedule.first_at(due, way.arrive, (way, kept(frame)))
        else:
            schedule.at(due, way.arrive, (way, kept(frame)))

    def _deliver(self, passage: tuple[Way, Packet]) -> None:
        way, packet = passage
        self.under_way -= 1
        way.arrived_frames += 1
        if FRAME.listeners:
            self._show(way, "in", frame_of(packet))
        if PACKET.listeners:
            self._tell(way, "in", frame_of(packet))
        schedule = self._schedule
        more = False
        if schedule.heap:
            when, _, _, call, following = schedule.heap[0]
            more = when == schedule.now and call is self._deliver_one and following[0].target == way.target
        if isinstance(packet, TcpPacket):
            way.receive(packet, True, more)
        else:
            head, payload, _, start, _ = packet
            # A checksum that is still open has met nothing that could have damaged what it covers.
            way.receive(head + payload if payload else head, start > 0, more)

    # --- faults -----------------------------------------------------------------------------------------------

    def cut(self, sender: str, target: str) -> None:
        """Let nothing pass any more; what is under way or held is lost too."""
        way = self.way(sender, target)
        way.is_cut = True
        way.drops["cut"] += len(self._withdraw(way)) + len(way.held)
        self.under_way -= len(way.held)
        way.held.clear()
        way.clear()

    def lose(self, sources: Iterable[bytes], targets: Iterable[bytes]) -> None:
        """Lose what is under way, or held, from these addresses to those, whichever ways it takes."""
        ends = frozenset(sources), frozenset(targets)

        def is_theirs(way: Way, packet: Packet) -> bool:
            source, target = addresses_of(frame_of(packet).to_bytes(), is_ethernet=way.is_ethernet)
            return source in ends[0] and target in ends[1]

        lost = self._schedule.withdraw(
            lambda moment: (
                type(moment[4]) is tuple and type(moment[4][0]) is Way and is_theirs(moment[4][0], moment[4][1])
            )
        )
        count = len(lost)
        for way in self._ways.values():
            if way.held:
                kept_back = deque(each for each in way.held if not is_theirs(way, each[0]))
                count += len(way.held) - len(kept_back)
                way.held = kept_back
        self.under_way -= count
        self.drops["partition"] += count

    def mend(self, sender: str, target: str) -> None:
        """Let packets pass again."""
        self.way(sender, target).is_cut = False

    def hold(self, sender: str, target: str) -> None:
        """Keep what is sent and what is under way until `release`."""
        way = self.way(sender, target)
        if way.is_held:
            return
        way.is_held = True
        now = self._schedule.now
        if target in self._accesses:  # what has left this way may be on the last one, with others' packets
            downlink = self._accesses[target][1]
            late = self._withdraw(downlink, lambda frame: self._names.get(_source(frame)) == sender)
            way.held.extend((frame_of(moment[4][1]), moment[0] - now, downlink) for moment in late)
        way.held.extend((frame_of(moment[4][1]), moment[0] - now, way) for moment in self._withdraw(way))
        self.under_way += len(way.held)
        way.clear()

    def release(self, sender: str, target: str) -> None:
        """Let what was held go on with what is left of its way, and behind it what was sent meanwhile, in its order."""
        way = self.way(sender, target)
        way.is_held = False
        held, way.held = way.held, deque()
        self.under_way -= len(held)
        now = self._schedule.now
        for frame, left_s, on in held:
            if left_s is not None:
                self._enter(on, frame, now + left_s, held=False)
            else:
                for piece in self._pieces(way, frame) if way.cuts else [frame]:
                    self._carry(way, piece, is_told=True)

    def _withdraw(self, way: Way, is_wanted: Callable[[Packet], bool] | None = None) -> list[Moment]:
        """Take what is under way, or some of it, out of the schedule, in the order of arrival."""
        moments = self._schedule.withdraw(
            lambda moment: (
                type(moment[4]) is tuple and moment[4][0] is way and (is_wanted is None or is_wanted(moment[4][1]))
            )
        )
        self.under_way -= len(moments)
        return moments


def _source(packet: Packet) -> bytes:
    return addresses_of(frame_of(packet).to_bytes(), is_ethernet=False)[0]


def _nobody(packet: bytes | memoryview | TcpPacket, checksum_valid: bool, more: bool) -> None:
    raise AssertionError("a way that ends at no host has no receiver")


class _Uplink(dict[bytes, Way]):
    """By whichever address: the one way that all packets of a host take first."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self._way = way

    def get(self, address: bytes, default: Any = None, /) -> Way:
        return self._way
