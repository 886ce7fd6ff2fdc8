"""Play one TCP connection from SYN to TIME_WAIT in virtual time, and write down what happened, for docs/tcp.md.

    python benchmarks/tcp_life.py --out docs/figures     # tcp-life.pcapng, tcp-life.txt, tcp-life.svg
    python benchmarks/tcp_life.py --lose 4               # lose another segment of the answer, and only read
    python benchmarks/tcp_life.py --lose 0               # lose none

This file knows the two programs, the wire between them and which segment is lost; how a segment is written in a line,
as tcpdump does it. Time and chance are fixed, so that each run is the same to the byte. It refuses to know TCP: what
it writes down is what two `underlay.stack.Host`s did. The picture is ``tcp_ladder_svg.py``'s.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from underlay.link import FRAME, Delay, Impairment, Passage, Rate, VirtualWire  # noqa: E402
from underlay.stack import Events, Host, State, TcpConnection, TcpListener, UdpSocket  # noqa: E402
from underlay.trace import PcapngWriter  # noqa: E402
from underlay.wire import ACK, FIN, PSH, RST, SYN, TcpSegment, parse_ip, parse_ipv4, parse_tcp  # noqa: E402

CLIENT: Final = 0
SERVER: Final = 1
NAMES: Final = ("client", "server")
ADDRESSES: Final = ("10.9.0.1", "10.9.0.2")
PORT: Final = 80

REQUEST: Final = b"GET / HTTP/1.0\r\n\r\n"
_BODY: Final = b"".join(b"line %4d of the answer\n" % number for number in range(1, 299))
ANSWER: Final = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(_BODY) + _BODY
"""7,193 bytes: five segments of at most 1,448."""

_START: Final = 1000.0  # the hosts' clock; not 0, so that nobody takes 0 for "never"
_EPOCH_S: Final = 1_767_225_600.0 - _START  # the capture begins with the year 2026
_DELAY_S: Final = 0.020  # each way
_BITS_PER_S: Final = 10e6
_THINK_S: Final = (
    0.050  # what a program takes for its turn: longer than a round trip, so that one thing follows another
)
_LONGEST_S: Final = 300.0

_PARTS: Final = {
    (SERVER, "listen"): "The handshake",
    (CLIENT, "send"): "The request",
    (SERVER, "send"): "The answer",
    (CLIENT, "close"): "The end",
}


class LoseOne(Impairment):
    """Lose the frame that carries data for the ``at``-th time, counted from 1; 0 loses none."""

    name = "loss"

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def apply(self, passage: Passage, *, is_ethernet: bool) -> Sequence[Passage]:
        """Lose the frame, or not."""
        self.seen += 1
        if self._at and len(parsed(passage.frame.to_bytes()).payload):
            self._at -= 1
            if not self._at:
                self.affected += 1
                return ()
        return (passage,)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to one side: its program's ``call``, a segment ``sent`` or ``arrived``, or a ``state``.

    `text` is the call, the state's name or the segment's line; `segment` counts the segments from 0 in the order in
    which they were sent, and is -1 where there is none.
    """

    when_s: float
    side: int
    kind: str
    text: str
    segment: int = -1
    lost: bool = False
    part: str = ""
    """The heading of what begins here."""


def parsed(packet: bytes) -> TcpSegment:
    """The TCP segment in an IPv4 packet."""
    return parse_tcp(packet, parse_ipv4(packet).header_bytes)


class Life:
    """Two hosts, their programs, the wire and the time; `play` fills `events`."""

    def __init__(self, lose: int = 2) -> None:
        self.events: list[Event] = []
        self._now = _START
        self._wire = VirtualWire(
            "wire",
            forward=[Rate(_BITS_PER_S), Delay(_DELAY_S)],
            backward=[LoseOne(lose), Rate(_BITS_PER_S), Delay(_DELAY_S)],
            is_ethernet=False,
        )
        self._hosts = tuple(Host(name, rng=random.Random(name)) for name in NAMES)
        self._interfaces = tuple(
            host.add_interface([f"{address}/24"], mac=None)
            for host, address in zip(self._hosts, ADDRESSES, strict=True)
        )
        self._listener: TcpListener | None = None
        self._connections: list[TcpConnection | None] = [None, None]
        self._states = [State.CLOSED, State.CLOSED]
        self._turns: list[tuple[float, Callable[[], None]]] = []
        self._wanted = len(ANSWER)
        self._count = 0
        self._flying: tuple[deque[int], deque[int]] = (deque(), deque())
        self._isn: list[int] = [0, 0]
        self._first_ts: list[int] = [0, 0]

    def play(self, writer: PcapngWriter | None = None) -> list[Event]:
        """Let it happen, up to the end of TIME_WAIT; `writer` gets each segment once, when it is sent."""

        def hear(link: str, direction: str, data: bytes, now: float | None, comment: str) -> None:
            if writer is not None and direction == "out":
                writer.record(NAMES[int(link[-1])], direction, data, now, comment)
            self._hear(int(link[-1]), direction, data, comment)

        with FRAME.listening(hear):
            self._call(SERVER, "listen", self._listen)
            self._turn(_THINK_S, lambda: self._call(CLIENT, "connect", self._connect))
            self._run()
        return self.events

    # --- the programs ---

    def _listen(self) -> None:
        self._listener = self._hosts[SERVER].tcp.listen(parse_ip(ADDRESSES[SERVER]), PORT, self._now)

    def _connect(self) -> None:
        self._connections[CLIENT] = self._hosts[CLIENT].tcp.connect(parse_ip(ADDRESSES[SERVER]), PORT, self._now)

    def _accept(self) -> None:
        assert self._listener is not None
        self._connections[SERVER] = self._listener.accept(self._now)

    def _on_events(self, side: int, socket: TcpConnection | TcpListener | UdpSocket, events: Events) -> None:
        if isinstance(socket, TcpListener):
            self._call(SERVER, "accept", self._accept)
        elif isinstance(socket, TcpConnection):
            if events & Events.CONNECTED and side == CLIENT:
                self._turn(_THINK_S, lambda: self._send(side, socket, REQUEST))
            if events & Events.READABLE:
                while data := socket.receive(65536, self._now):
                    if side == SERVER:
                        self._turn(_THINK_S, lambda: self._send(side, socket, ANSWER))
                    else:
                        self._wanted -= len(data)
                        if not self._wanted:
                            self._turn(_THINK_S, lambda: self._close(side, socket))
                if data == b"" and side == SERVER:
                    self._turn(_THINK_S, lambda: self._close(side, socket))

    def _send(self, side: int, connection: TcpConnection, data: bytes) -> None:
        self._call(side, "send", lambda: connection.send(data, self._now), f"send({len(data)} bytes)")

    def _close(self, side: int, connection: TcpConnection) -> None:
        self._call(side, "close", lambda: connection.close(self._now))

    # --- time ---

    def _turn(self, after_s: float, what: Callable[[], None]) -> None:
        self._turns.append((self._now + after_s, what))

    def _run(self) -> None:
        while True:
            for side, host in enumerate(self._hosts):
                self._flush(side)
                for socket, events in host.poll_events():
                    self._on_events(side, socket, events)
                self._flush(side)
            dues = [due for due, _ in self._turns]
            dues += [due for host in self._hosts if (due := host.next_deadline()) is not None]
            if (arrival := self._wire.next_deadline()) is not None:
                dues.append(arrival)
            if not dues:
                return
            self._now = max(self._now, min(dues))
            if self._now > _START + _LONGEST_S:
                raise RuntimeError("the connection does not come to an end")
            for port, frame in self._wire.poll_deliveries(self._now):
                self._hosts[port].receive_frame(self._interfaces[port], frame.to_bytes(), self._now)
                self._look(port)
                self._flush(port)
            for side, host in enumerate(self._hosts):
                host.handle_timers(self._now)
                self._look(side)
            ripe = [each for each in self._turns if each[0] <= self._now]
            self._turns = [each for each in self._turns if each[0] > self._now]
            for _, what in ripe:
                what()

    def _flush(self, side: int) -> None:
        for _, frame in self._hosts[side].poll_frames(self._now):
            self._wire.send(side, frame, self._now)

    # --- writing down ---

    def _call(self, side: int, name: str, what: Callable[[], object], text: str = "") -> None:
        self._note(side, "call", text or f"{name}()", part=_PARTS.get((side, name), ""))
        what()
        self._look(side)

    def _look(self, side: int) -> None:
        """Note the side's state if it has changed."""
        connection, listener = self._connections[side], self._listener
        if connection is not None:
            state = connection.state
        elif side == CLIENT or listener is None:
            state = State.CLOSED
        elif listener.waiting:
            state = listener.waiting[0].state
        else:
            # A handshake that is under way has no connection yet.
            state = State.SYN_RECEIVED if listener.requests else State.LISTEN
        if state is not self._states[side]:
            if self._states[side] is State.TIME_WAIT:
                self._note(side, "call", "(2 MSL are over)", part="A minute later")
            self._states[side] = state
            self._note(side, "state", state.name)

    def _hear(self, side: int, direction: str, data: bytes, comment: str) -> None:
        segment = parsed(data)
        if direction == "out":
            if segment.flags & SYN:
                self._isn[side] = segment.seq
                self._first_ts[side] = segment.timestamp[0] if segment.timestamp is not None else 0
            lost = comment.startswith("dropped")
            if not lost:
                self._flying[side].append(self._count)
            self._note(side, "sent", self._line(side, segment), self._count, lost=lost)
            self._count += 1
        else:
            number = self._flying[1 - side].popleft()
            text = next(each.text for each in self.events if each.kind == "sent" and each.segment == number)
            self._note(side, "arrived", text, number)

    def _note(self, side: int, kind: str, text: str, segment: int = -1, *, lost: bool = False, part: str = "") -> None:
        when_s = round(self._now - _START - _THINK_S, 6) + 0.0  # no -0.0
        self.events.append(Event(when_s, side, kind, text, segment, lost, part))

    def _line(self, side: int, segment: TcpSegment) -> str:
        """A segment as tcpdump writes it, its numbers counted from each side's first, without NOPs."""
        flags, size = segment.flags, len(segment.payload)
        letters = "".join(
            letter for bit, letter in ((FIN, "F"), (SYN, "S"), (RST, "R"), (PSH, "P"), (ACK, ".")) if flags & bit
        )
        seq = (segment.seq - self._isn[side]) & 0xFFFF_FFFF
        ours, theirs = self._isn[side], self._isn[1 - side]
        parts = [f"Flags [{letters}]"]
        if size:
            parts.append(f"seq {seq}:{seq + size}")
        elif flags & (SYN | FIN | RST):
            parts.append(f"seq {(segment.seq - ours) & 0xFFFF_FFFF}")
        if flags & ACK:
            parts.append(f"ack {(segment.ack - theirs) & 0xFFFF_FFFF}")
        parts.append(f"win {segment.window}")
        options = list(self._options(side, segment, theirs))
        if options:
            parts.append(f"options [{','.join(options)}]")
        return ", ".join([*parts, f"length {size}"])

    def _options(self, side: int, segment: TcpSegment, theirs: int) -> Iterator[str]:
        if segment.mss is not None:
            yield f"mss {segment.mss}"
        if segment.sack_permitted:
            yield "sackOK"
        if segment.timestamp is not None and segment.flags & SYN:
            value, echo = segment.timestamp
            other = self._first_ts[1 - side] if segment.flags & ACK else 0
            yield f"TS val {(value - self._first_ts[side]) & 0xFFFF_FFFF} ecr {(echo - other) & 0xFFFF_FFFF}"
        if segment.window_scale is not None:
            yield f"wscale {segment.window_scale}"
        if segment.sack:
            blocks = "".join(
                f"{{{(left - theirs) & 0xFFFF_FFFF}:{(right - theirs) & 0xFFFF_FFFF}}}" for left, right in segment.sack
            )
            yield f"sack {len(segment.sack)} {blocks}"


def transcript(events: Sequence[Event]) -> str:
    """The events in lines: times in seconds since the first SYN; ``=`` a state, ``>`` a segment as it is sent."""
    lines: list[str] = []
    for event in events:
        if event.part:
            lines += [*([""] if lines else []), f"# {event.part}"]
        name = NAMES[event.side]
        if event.kind == "sent":
            line = f"{name} > {NAMES[1 - event.side]}: {event.text}" + ("    (lost)" if event.lost else "")
        elif event.kind == "state":
            line = f"{name} = {event.text}"
        elif event.kind == "call":
            line = f"{name}: {event.text}"
        else:
            continue
        lines.append(f"{event.when_s:9.6f} {line}")
    return "\n".join(lines) + "\n"


def write(folder: Path, lose: int = 2) -> Iterator[Path]:
    """Write the capture, the transcript and the picture; give their paths."""
    from benchmarks.tcp_ladder_svg import draw

    pcapng = folder / "tcp-life.pcapng"
    with PcapngWriter(pcapng, epoch_s=_EPOCH_S) as writer:
        events = Life(lose).play(writer)
    yield pcapng
    for path, text in (
        (folder / "tcp-life.txt", transcript(events)),
        (folder / "tcp-life.svg", draw(events)),
    ):
        path.write_text(text)
        yield path


def main() -> int:
    """Write the files, or print the transcript where no folder is given."""
    parser = argparse.ArgumentParser(description="one TCP connection in virtual time, written down")
    parser.add_argument("--out", type=Path, help="the folder for tcp-life.pcapng, .txt and .svg; none: print only")
    parser.add_argument(
        "--lose", type=int, default=2, metavar="N", help="lose the answer's Nth segment (default: 2; 0: none)"
    )
    options = parser.parse_args()
    if options.out is None:
        print(transcript(Life(options.lose).play()), end="")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    for path in write(options.out, options.lose):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
