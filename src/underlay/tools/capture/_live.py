"""A running capture: from the ring to whoever wants the packets, in their order, with nothing lost uncounted.

This file knows the order of things: the process that looks for owners and the socket need root's rights and come
first, then these are given up, and only then is anything of a stranger's read. It waits on the ring, the answers about
owners, and the request to stop; packets wait at most `HOLD_S` for their flow's owner. It refuses to know protocols,
files and the terminal.
"""

from __future__ import annotations

import errno
import functools
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NamedTuple, Self

from ...errors import UsageError
from ...trace import SNAP_BYTES
from .._printable import quoted
from .._privileges import give_up_root
from ._filter import CompiledFilter, Instruction, compile_filter, kernel_program, no_right
from ._interfaces import Source, choose
from ._owners import Flow, Flows, must_be_near
from ._ring import BLOCK_BYTES, RETIRE_MS, CapturedPacket, PacketRing

__all__ = ["HOLD_S", "MOST_RING_BYTES", "RING_BYTES", "Live", "LiveStatistics", "Row"]

RING_BYTES: Final = 64 << 20
"""The ring unless told otherwise: 128 blocks. In a trickle each holds what came in 10 ms, so that we may be away for
1.3 s; in a flood all of them hold some 300,000 small packets."""
MOST_RING_BYTES: Final = 2 << 30
_LEAST_RING_BYTES: Final = 2 << 20  # what tcpdump has
HOLD_S: Final = 0.2
"""How long a packet waits for the owner of its flow."""
# Batches that wait for owners: as much memory again as the ring has by default.
_MOST_HELD: Final = RING_BYTES // BLOCK_BYTES
_TICK_S: Final = 1.0
# After the last of a family has ended its connections still say goodbye.
_GRACE_S: Final = 1.0


# A NamedTuple's own __new__ is Python, and takes three times as long.
_new = tuple.__new__


class Row(NamedTuple):
    """One packet, and its flow where it is of TCP or UDP and owners are looked for."""

    packet: CapturedPacket
    flow: Flow | None
    is_first: bool
    """Of its flow."""


@dataclass(frozen=True, slots=True)
class LiveStatistics:
    """What became of all packets that were to be captured."""

    captured_packets: int
    """Handed on."""
    dropped_packets: int
    """Passed the filter, but found no room in the ring: the kernel counted them.

    Where the kernel cannot be asked the whole filter, as one with ``vlan``, they may be packets that it does not want.
    """
    not_followed_packets: int
    """Of nobody in the family that is followed."""
    undecided_packets: int
    """Among them, those with an end here whose owner was not found in time, or was gone already."""
    unasked_owners: int
    """Ends of flows whose owner nobody could be asked for: whoever looks for them was busy, or had ended."""
    forgotten_flows: int
    """Flows that made room for others (of TCP and UDP); what comes of one of them is asked about again."""
    duration_s: float


class _Batch(NamedTuple):
    rows: list[Row]
    waiting: list[Flow]
    until_s: float


class Live:
    """Captures from its beginning to its end; ``with`` opens and closes it, `batches` gives the packets.

    ``names`` are interfaces, none for all; ``text`` a filter of pcap-filter(7); ``follow`` a process whose family's
    packets alone are wanted. ``note`` is told what a person should know meanwhile. Without ``keep_root`` this whole
    process becomes the user who called sudo(8), as soon as it may, for good. A ring of no given size is made smaller
    where the kernel lacks memory. Raises ``UsageError`` where something is not there or not allowed, and ``ValueError``
    for a number or a direction that cannot be; then nothing stays behind.
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        text: str = "",
        *,
        snap_bytes: int = SNAP_BYTES,
        ring_bytes: int | None = None,
        direction: str = "",
        promiscuous: bool = True,
        owners: bool = True,
        follow: int | None = None,
        count: int | None = None,
        duration_s: float | None = None,
        note: Callable[[str], None] = lambda _: None,
        keep_root: bool = True,
    ) -> None:
        if not 1 <= snap_bytes <= SNAP_BYTES:
            raise ValueError(f"snap_bytes is 1 to {SNAP_BYTES}, not {snap_bytes}")
        if direction not in ("", "in", "out"):
            raise ValueError(f"a direction is 'in', 'out' or empty, not {direction!r}")
        if count is not None and count < 1:
            raise ValueError(f"count is at least 1, not {count}")
        if duration_s is not None and not duration_s > 0:  # NaN is not greater than 0
            raise ValueError(f"duration_s is more than 0, not {duration_s}")
        if ring_bytes is not None and not 1 <= ring_bytes <= MOST_RING_BYTES:
            raise ValueError(f"ring_bytes is 1 to {MOST_RING_BYTES}, not {ring_bytes}")
        self.source: Source = choose(names)
        """What is captured on: ``interfaces``, and the ``link_type`` of each packet."""
        self.snap_bytes = snap_bytes
        self.text = text
        self._count = count
        self._duration_s = duration_s
        self._note = note
        self._follow = follow
        self._keep_root = keep_root
        self._wanted = (
            compile_filter(text, self.source.link_type, snap_bytes, interface=self.source.example) if text else None
        )
        make_program = functools.partial(
            kernel_program,
            snap_bytes=snap_bytes,
            loopbacks=self.source.loopbacks,
            interfaces=[each.index for each in self.source.interfaces] if len(self.source.interfaces) > 1 else [],
            direction=direction,
        )
        self._everything = make_program(None)[0]
        self._program, decides = make_program(self._wanted)
        self._lost: set[str] = set()
        self._here: CompiledFilter | None = None
        if not decides:
            self._look_here()
        self._promiscuous = [each.index for each in self.source.interfaces if promiscuous and not each.is_loopback]
        self._ring_bytes = ring_bytes
        self._owners = owners or follow is not None
        if follow is not None:
            must_be_near(follow)
        self._flows: Flows | None = None
        self._ring: PacketRing | None = None
        self._wake, self._wakes = -1, -1
        self._stopped = False
        self._captured = self._not_followed = self._undecided = 0
        self._begun_s = self._ended_s = 0.0
        self.gone = ""
        """The interface that went away, which ended the capture; empty otherwise."""

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        try:
            self._ring = PacketRing(cooked=self.source.is_cooked)
        except PermissionError:
            raise no_right() from None
        if self._owners:
            alone = self.source.interfaces[0].name if len(self.source.interfaces) == 1 else ""
            self._flows = Flows(self.source.link_type, self.source.loopbacks, self._follow, alone)
        if not self._keep_root:
            give_up_root()
        self._wake, self._wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._ring.set_filter(self._program)
        except OSError as error:
            if error.errno != errno.ENOMEM or self._program == self._everything:
                raise
            self._look_here()
            self._note("the kernel has no room for this filter (net.core.optmem_max); each packet is looked at here")
            self._ring.set_filter(self._everything)
        size_bytes = self._ring_bytes or RING_BYTES
        while True:
            try:
                self._ring.make(size_bytes)
                return
            except UsageError:
                if self._ring_bytes is not None or size_bytes <= _LEAST_RING_BYTES:
                    raise
            size_bytes //= 2

    def _look_here(self) -> None:
        """Ask the filter here, for each packet, since the kernel cannot."""
        if self._wanted is not None and self._wanted.asks_the_kernel:
            raise UsageError(
                f"the filter {quoted(self.text)} is more than the kernel can be asked at once",
                remedy="--direction instead of inbound and outbound leaves the rest to us",
            )
        self._here = self._wanted

    def begin(self) -> None:
        """Receive from now on."""
        assert self._ring is not None, "it is not open"
        alone = self.source.interfaces[0].index if len(self.source.interfaces) == 1 else 0
        try:
            self._ring.start(alone, promiscuous=self._promiscuous)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.ENXIO):
                raise
            self.gone = self.source.name  # since it was chosen
        self._begun_s = time.monotonic()

    def stop(self) -> None:
        """Let `batches` give what was captured by now, and end; also for signal handlers and other threads."""
        self._stopped = True
        if self._wakes >= 0:
            try:
                os.write(self._wakes, b"!")
            except BlockingIOError:
                pass  # it was told before

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was said."""
        return self._stopped

    def batches(self) -> Iterator[list[Row]]:
        """Give packets as they come, many at a time, until the count, the duration, or `stop`."""
        for rows in self._batches():
            if self._count is not None and self._captured + len(rows) >= self._count:
                rows = rows[: self._count - self._captured]
                self._captured += len(rows)
                self._ended_s = time.monotonic()
                yield rows
                return
            self._captured += len(rows)
            yield rows

    def _batches(self) -> Iterator[list[Row]]:
        ring, flows = self._ring, self._flows
        assert ring is not None, "it is not open"
        if not self._begun_s:
            self.begin()
        poll = select.poll()
        poll.register(ring, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        if flows is not None:
            poll.register(flows, select.POLLIN)
        held: deque[_Batch] = deque()
        end_s = None if self._duration_s is None else self._begun_s + self._duration_s
        tick_s = self._begun_s + _TICK_S
        while not self._stopped and not self.gone:
            now_s = time.monotonic()
            if end_s is not None and now_s >= end_s:
                break
            if now_s >= tick_s:
                tick_s = now_s + _TICK_S
                if not self._look_after(ring):
                    break
            until_s = min([tick_s, *([held[0].until_s] if held else []), *([end_s] if end_s is not None else [])])
            ready = poll.poll(max(0.0, until_s - now_s) * 1000 + 0.5)
            if flows is not None and any(fd == flows.fileno() for fd, _ in ready):
                flows.receive()
                if flows.is_over:
                    poll.unregister(flows)
                    self._note("the process that looks for owners ended: from here on they are not known")
                    flows = None
                elif flows.nobody_left:
                    end_s = min(end_s or now_s + _GRACE_S, now_s + _GRACE_S)
                    flows.nobody_left = False
            if any(fd == ring.fileno() and events & select.POLLERR for fd, events in ready) and not self._error(ring):
                break
            yield from self._take(ring, held)
        yield from self._finish(ring, held)
        self._ended_s = time.monotonic()

    def _finish(self, ring: PacketRing, held: deque[_Batch]) -> Iterator[list[Row]]:
        """Let nothing more in, and give what is there; the last block comes when its time is over."""
        ring.set_filter([Instruction(0x06, 0, 0, 0)])
        until_s = time.monotonic() + 4 * RETIRE_MS / 1000
        poll = select.poll()
        poll.register(ring, select.POLLIN)
        while (left_s := until_s - time.monotonic()) > 0:
            poll.poll(left_s * 1000)
            ring.error()
            yield from self._take(ring, held)
        if self._flows is not None and held:
            time.sleep(RETIRE_MS / 1000)
            self._flows.receive()
        while held:
            yield from self._release(held.popleft())

    def _take(self, ring: PacketRing, held: deque[_Batch]) -> Iterator[list[Row]]:
        for packets in ring.blocks():
            if self._here is not None:
                matches = self._here.matches
                packets = [each for each in packets if matches(each.data, each.size_bytes)]
            if self._flows is None:
                yield [_new(Row, (packet, None, False)) for packet in packets]
                continue
            see = self._flows.see
            rows = [_new(Row, (packet, *see(packet))) for packet in packets]
            # A flow is waited for where its owner is written: at its first packet, or at each, if that decides.
            every = self._follow is not None
            waiting = list(
                {id(flow): flow for _, flow, first in rows if flow and flow.unanswered and (first or every)}.values()
            )
            held.append(_Batch(rows, waiting, time.monotonic() + HOLD_S))
            yield from self._due(held)
        if held:
            yield from self._due(held)

    def _due(self, held: deque[_Batch]) -> Iterator[list[Row]]:
        """Give the batches about which nothing more is to be waited for."""
        assert self._flows is not None
        self._flows.receive()
        now_s = time.monotonic()
        while held and (
            held[0].until_s <= now_s or len(held) > _MOST_HELD or not any(flow.unanswered for flow in held[0].waiting)
        ):
            yield from self._release(held.popleft())

    def _release(self, batch: _Batch) -> Iterator[list[Row]]:
        rows = batch.rows
        if self._follow is not None:
            for row in rows:
                flow = row.flow
                if flow is not None and not flow.is_followed and (flow.unknown or flow.unanswered):
                    self._undecided += 1
            wanted = [row for row in rows if row.flow is not None and row.flow.is_followed]
            self._not_followed += len(rows) - len(wanted)
            rows = wanted
        if rows:
            yield rows

    def _error(self, ring: PacketRing) -> bool:
        """Tell what became of the interface; False where it ended."""
        ring.error()
        if len(self.source.interfaces) != 1:
            return True
        name = self.source.interfaces[0].name
        if self._exists(self.source.interfaces[0].index):
            self._note(f"{name} went down; the capture waits for it")
            return True
        self.gone = name
        return False

    def _look_after(self, ring: PacketRing) -> bool:
        """Once a second: let no counter run over, and see whether there is still anything to capture on."""
        ring.statistics()
        chosen = self.source.interfaces
        lost = {each.name for each in chosen if not self._exists(each.index)}
        if chosen and len(lost) == len(chosen):
            self.gone = self.source.name
            return False
        for name in sorted(lost - self._lost):
            self._note(f"{name} went away; the capture goes on without it")
        self._lost = lost
        return True

    @staticmethod
    def _exists(index: int) -> bool:
        try:
            return bool(socket.if_indextoname(index))
        except OSError:
            return False

    def statistics(self) -> LiveStatistics:
        """What was counted by now."""
        dropped = 0 if self._ring is None else self._ring.statistics().dropped
        duration_s = (self._ended_s or time.monotonic()) - self._begun_s if self._begun_s else 0.0
        flows = self._flows
        return LiveStatistics(
            self._captured,
            dropped,
            self._not_followed,
            self._undecided,
            0 if flows is None else flows.asked_in_vain,
            0 if flows is None else flows.forgotten,
            duration_s,
        )

    def received_packets(self) -> int:
        """How many packets the kernel let pass, dropped ones included."""
        return 0 if self._ring is None else self._ring.statistics().received

    def close(self) -> None:
        """Let go of everything. A second time does nothing; `statistics` still answers."""
        if self._ring is not None:
            self._ring.close()
        if self._flows is not None:
            self._flows.close()
        for fd in (self._wake, self._wakes):
            if fd >= 0:
                os.close(fd)
        self._wake = self._wakes = -1
