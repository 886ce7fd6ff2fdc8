"""Which processes talk: asked once for each flow, while the packets wait a moment or go on without.

This file knows where a packet has its addresses and ports, a table of the flows seen lately, and the questions to the
process that looks into others (``_owner_process.py``). It never waits for an answer. It refuses to know what is done
with one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections import OrderedDict
from typing import Final, NamedTuple

from ...errors import UnderlayError, UsageError
from ...wire import PROTOCOL_TCP, PROTOCOL_UDP
from .._printable import masked
from . import _owner_process as answers
from ._link_types import ETHERNET, LINUX_SLL
from ._ring import CapturedPacket

__all__ = ["Flow", "Flows", "Owner", "flow_key", "must_be_near"]

MOST_FLOWS: Final = 65_536
"""How many flows are remembered; the oldest is forgotten first, and asked about again."""

# Starting an interpreter takes 50 ms; on a busy machine more.
_START_S: Final = 10.0
_END_S: Final = 1.0
_TRANSPORTS: Final = frozenset((PROTOCOL_TCP, PROTOCOL_UDP))
_TAGS: Final = frozenset((b"\x81\x00", b"\x88\xa8"))
_MOST_TAGS: Final = 3
_LINK_LOCAL: Final = b"\xfe\x80"


class Owner(NamedTuple):
    """Who has a socket; one of them, where several share it."""

    pid: int
    name: str
    """What /proc/PID/comm says, at most 15 bytes."""

    def __str__(self) -> str:
        return f"{self.name}[{self.pid}]"


class Flow:
    """What is known of the two ends of a flow; ``unanswered`` counts questions that are under way.

    ``unknown`` counts ends on this machine about which nothing was found.
    """

    __slots__ = ("is_followed", "receiver", "sender", "unanswered", "unknown")

    def __init__(self) -> None:
        self.sender: Owner | None = None
        """Of the flow's first packet."""
        self.receiver: Owner | None = None
        self.unanswered = self.unknown = 0
        self.is_followed = False

    def __str__(self) -> str:
        """Who talks to whom; empty where nobody is known."""
        if self.sender is None and self.receiver is None:
            return ""
        if self.receiver is None:
            return f"from {self.sender}"
        if self.sender is None:
            return f"to {self.receiver}"
        return f"{self.sender} > {self.receiver}"


def must_be_near(pid: int) -> None:
    """Raise ``UsageError`` unless there is such a process and its network is this one."""
    try:
        theirs = os.stat(f"/proc/{pid}/ns/net")
    except FileNotFoundError:
        raise UsageError(f"there is no process {pid}", remedy="`pgrep -a NAME` finds one") from None
    except PermissionError:
        return  # then it is at least there
    ours = os.stat("/proc/thread-self/ns/net")
    if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
        raise UsageError(
            f"process {pid} is in another network namespace, whose packets are not seen from here",
            remedy=f"`nsenter --net=/proc/{pid}/ns/net underlay capture …` captures there",
        )


def flow_key(link_type: int, data: bytes) -> bytes | None:
    """Give protocol, addresses and ports as they stand in a packet of TCP or UDP; None for any other.

    A fragment has ports only if it is the first, and is left out like all that is rare: extension headers of IPv6.
    """
    if link_type == ETHERNET:
        # Nearly always: IPv4 without options and no fragment.
        if data[12:15] == b"\x08\x00\x45" and len(data) >= 38 and data[23] in _TRANSPORTS:
            return None if data[20] & 0x3F or data[21] else data[23:24] + data[26:38]
        kind, place = data[12:14], 14
    elif link_type == LINUX_SLL:
        kind, place = data[14:16], 16
    else:
        place = 0
        kind = b"\x86\xdd" if data[:1] and data[0] >> 4 == 6 else b"\x08\x00"
    for _ in range(_MOST_TAGS):
        if kind not in _TAGS:
            break
        kind, place = data[place + 2 : place + 4], place + 4
    if kind == b"\x08\x00":
        if len(data) < place + 24 or data[place + 9] not in _TRANSPORTS or data[place + 6] & 0x3F or data[place + 7]:
            return None
        ports = place + (data[place] & 15) * 4
        return data[place + 9 : place + 10] + data[place + 12 : place + 20] + data[ports : ports + 4]
    if kind == b"\x86\xdd" and len(data) >= place + 44 and data[place + 6] in _TRANSPORTS:
        return data[place + 6 : place + 7] + data[place + 8 : place + 44]
    return None


class Flows:
    """The flows seen lately, and who is at their ends; with ``follow`` the family of that process is told apart.

    ``interface`` is the only one whose packets will be seen, or empty.

    ``asked_in_vain`` counts questions that found no room on the way, ``forgotten`` flows that made room for others.
    """

    def __init__(
        self, link_type: int, loopbacks: tuple[int, ...], follow: int | None = None, interface: str = ""
    ) -> None:
        self._link_type = link_type
        self._loopbacks = frozenset(loopbacks)
        # Ordered, because a dict whose first entries were deleted is searched from its beginning for the first.
        self._flows: OrderedDict[bytes, Flow] = OrderedDict()
        self._asked: dict[int, tuple[Flow, bool]] = {}
        self._number = 0
        self.asked_in_vain = self.forgotten = 0
        self.nobody_left = False
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    # -I: neither the environment nor the current directory says what a privileged process imports.
                    [sys.executable, "-I", answers.__file__, str(theirs.fileno()), str(follow or 0), interface],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    cwd="/",
                )
            except BaseException:
                self._channel.close()
                raise
        self._channel.settimeout(_START_S)
        try:
            is_ready = bool(self._channel.recv(4096))
        except TimeoutError:
            is_ready = False
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if not is_ready:
            self.close()
            raise UnderlayError("the process that looks for owners did not start", remedy="--no-owners does without it")
        self._channel.setblocking(False)

    def fileno(self) -> int:
        """The descriptor, for poll(2): readable when there are answers."""
        return self._channel.fileno()

    def see(self, packet: CapturedPacket) -> tuple[Flow | None, bool]:
        """Give the flow of a packet, and whether this is its first; None for one without ports."""
        key = flow_key(self._link_type, packet.data)
        if key is None:
            return None, False
        flow = self._flows.get(key)
        if flow is not None:
            return flow, False
        flow = Flow()
        half = (len(key) - 5) // 2
        source, destination = key[1 : 1 + half], key[1 + half : 1 + 2 * half]
        ports = key[-4:-2], key[-2:]
        if len(self._flows) >= MOST_FLOWS:
            for _ in range(2):  # its two directions
                self._flows.popitem(last=False)
            self.forgotten += 1
        self._flows[key] = self._flows[key[:1] + destination + source + ports[1] + ports[0]] = flow
        is_loopback = packet.interface in self._loopbacks
        if is_loopback or packet.direction == "out":
            self._ask(flow, True, key[0], packet.interface, source, ports[0], destination, ports[1])
        if is_loopback or packet.direction == "in":
            self._ask(flow, False, key[0], packet.interface, destination, ports[1], source, ports[0])
        return flow, True

    def _ask(
        self,
        flow: Flow,
        is_sender: bool,
        protocol: int,
        interface: int,
        here: bytes,
        port: bytes,
        there: bytes,
        other_port: bytes,
    ) -> None:
        self._number = self._number % 0xFFFF_FFFF + 1  # 0 is no question
        family = 4 if len(here) == 4 else 6
        index = interface if here[:2] == _LINK_LOCAL and family == 6 else 0
        question = answers.QUESTION.pack(
            self._number,
            family,
            protocol,
            index,
            here.ljust(16, b"\0"),
            int.from_bytes(port, "big"),
            there.ljust(16, b"\0"),
            int.from_bytes(other_port, "big"),
        )
        try:
            self._channel.send(question)
        except OSError:  # it is busy, or was killed: packets do not wait for it
            self.asked_in_vain += 1
            flow.unknown += 1
            return
        flow.unanswered += 1
        self._asked[self._number] = (flow, is_sender)

    def receive(self) -> None:
        """Take the answers that are there."""
        while True:
            try:
                answer = self._channel.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                answer = b""
            if len(answer) < answers.ANSWER.size:  # it ended; nothing more will be known
                for flow, _ in self._asked.values():
                    flow.unanswered -= 1
                    flow.unknown += 1
                self._asked.clear()
                return
            number, pid, _, is_followed = answers.ANSWER.unpack_from(answer)
            if number == 0:
                self.nobody_left |= pid == answers.NOBODY
                continue
            asked = self._asked.pop(number, None)
            if asked is None:
                continue
            flow, is_sender = asked
            flow.unanswered -= 1
            flow.is_followed |= bool(is_followed)
            if pid:
                name = masked(answer[answers.ANSWER.size :].decode(errors="replace"))
                owner = Owner(pid, name)
                if is_sender:
                    flow.sender = owner
                else:
                    flow.receiver = owner
            else:
                flow.unknown += 1

    @property
    def is_over(self) -> bool:
        """Whether the process that answers has ended, so that its descriptor need not be watched."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End the process that answers. A second time does nothing; what was counted stays."""
        if self._channel.fileno() < 0:
            return
        self._channel.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            # It is root's, and we may be no longer: then it ends by itself, once it sees that nobody asks any more.
            with contextlib.suppress(PermissionError):
                self._process.kill()
                self._process.wait()
