"""A program of its own that says whose sockets are at the ends of a connection.

Started by ``_owners.py``, in a process that keeps the right to look into others while the one that reads strangers'
packets gives up all it has. It knows sock_diag(7) (which socket, by its inode) and /proc/PID/fd (which process has
it), answers on the socket that it inherits, and ends when the other end is closed. It refuses to know packets, but for
one kind, and imports nothing but the standard library: it runs with the rights of root and without the user's
environment.

*A connection may be over before its first packet is asked about*: packets wait in the ring for some milliseconds, and
a small request on a loopback takes two. So this process sees by itself, at once, the packets that begin something (a
SYN, a query to port 53), and looks whose they are while their sockets are there; the question comes later.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import OrderedDict

# The question: number, family (4 or 6), protocol, index of the interface for link-local addresses or 0, then address
# and port here and there. The answer: number, process or 0, user or -1, whether it or another that has the socket is
# followed; then the process's name. Number 0 is no question: "ready", and "nobody is left to follow".
QUESTION = struct.Struct("=IBBI16sH16sH")
ANSWER = struct.Struct("=IIiB")
READY, NOBODY = 0, 1

# linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = 1
_NO_COOKIE = b"\xff" * 8
_TCP = 6
_UDP = 17
_MESSAGE_BYTES = 16 + 4 + 48 + 20
_OWNER = struct.Struct("=II")  # of struct inet_diag_msg: user, inode
_ANSWER_S = 0.5  # the kernel answers within the system call; only a lost answer would make us wait

# How often the family of a process is looked at: a child that lives shorter and leaves children is missed.
_FAMILY_S = 0.02
_ENDED_S = 5.0
# Looking through all of /proc takes its time; not more than a quarter of a processor goes into it.
_SHARE = 4
# Addresses come and go; what was asked about one is believed for so long.
_ADDRESS_S = 1.0
_LINK_LOCAL = b"\xfe\x80"
_MOST_WAITING = 4096
_MOST_KNOWN = 65_536
_YOUNG = 16
_LIKELY = 4
_MOST_GENERATIONS = 64
_MANY = 1000
# How many beginnings are remembered until they are asked about, and how many are taken at once.
_MOST_BEGUN = 8192
_MOST_AT_ONCE = 64

# Classic BPF (linux/filter.h) on packets without a link header: TCP with SYN and without ACK, UDP to port 53; no later
# fragment. Each line: code, jump if true, jump if false, value.
_BEGINNINGS = (
    (0x30, 0, 0, 0),  # 0: the version
    (0x54, 0, 0, 0xF0),
    (0x15, 0, 13, 0x40),  # 2: IPv4, or on to 16
    (0x28, 0, 0, 6),
    (0x45, 21, 0, 0x1FFF),  # 4: a later fragment
    (0xB1, 0, 0, 0),  # 5: the header's length
    (0x30, 0, 0, 9),
    (0x15, 0, 4, 6),  # 7: TCP, or on to 12
    (0x50, 0, 0, 13),
    (0x54, 0, 0, 0x12),
    (0x15, 14, 15, 0x02),  # 10
    (0x06, 0, 0, 0),
    (0x15, 0, 13, 17),  # 12: UDP
    (0x48, 0, 0, 2),
    (0x15, 10, 11, 53),  # 14
    (0x06, 0, 0, 0),
    (0x15, 0, 9, 0x60),  # 16: IPv6
    (0x30, 0, 0, 6),
    (0x15, 0, 3, 6),  # 18: TCP, or on to 22
    (0x30, 0, 0, 53),
    (0x54, 0, 0, 0x12),
    (0x15, 3, 4, 0x02),  # 21
    (0x15, 0, 3, 17),  # 22: UDP
    (0x28, 0, 0, 42),
    (0x15, 0, 1, 53),  # 24
    (0x06, 0, 0, 128),
    (0x06, 0, 0, 0),  # 26
)
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_ETH_P_ALL = 3  # linux/if_ether.h


Ends = tuple[int, int, bytes, int, bytes, int]
"""Family, protocol, address and port here, address and port there."""


class _Kernel:
    """Asks which socket an address pair has."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        self._socket.settimeout(_ANSWER_S)
        self._sequence = 0
        self._local: dict[tuple[int, bytes], bool] = {}
        self._forget_s = 0.0

    def find(self, index: int, ends: Ends) -> tuple[int, int] | None:
        """Give a socket's inode and user; None: there is none, or nobody has it any more.

        A connection that its server has not accepted, or closed already, is its listener's. A wildcard's listener is
        found for any address there is, so that one that is not of this machine, as of a packet passed on, is not asked
        about.
        """
        if not self._is_local(ends[0], ends[2]):
            return None
        found = self._find(index, ends)
        if found is None and ends[1] == _TCP:
            found = self._find(index, (*ends[:4], bytes(16), 0))
        return found

    def _is_local(self, family: int, address: bytes) -> bool:
        """Whether the address is of this machine: whether a socket may be bound to it."""
        now_s = time.monotonic()
        if now_s >= self._forget_s or len(self._local) > _MOST_KNOWN:
            self._local.clear()
            self._forget_s = now_s + _ADDRESS_S
        known = self._local.get((family, address))
        if known is None:
            kind, packed = (socket.AF_INET, address[:4]) if family == 4 else (socket.AF_INET6, address)
            try:
                with socket.socket(kind, socket.SOCK_DGRAM) as sock:
                    sock.bind((socket.inet_ntop(kind, packed), 0))
                known = True
            except OSError:
                known = address[:2] == _LINK_LOCAL  # this one needs an interface: it is believed
            self._local[family, address] = known
        return known

    def _find(self, index: int, ends: Ends) -> tuple[int, int] | None:
        family, protocol, here, port, there, other_port = ends
        if protocol == _UDP:
            # udp_dump_one() of net/ipv4/udp_diag.c: "src and dst are swapped for historical reasons".
            here, port, there, other_port = there, other_port, here, port
        self._sequence += 1
        request = struct.pack(
            "=IHHIIBBBBI2s2s16s16sI8s",
            72, _SOCK_DIAG_BY_FAMILY, _REQUEST, self._sequence, 0,
            socket.AF_INET if family == 4 else socket.AF_INET6, protocol, 0, 0, 0xFFFF_FFFF,
            port.to_bytes(2, "big"), other_port.to_bytes(2, "big"), here, there, index, _NO_COOKIE,
        )  # fmt: skip
        try:
            self._socket.sendto(request, (0, 0))
            while True:
                message = self._socket.recv(4096)
                if len(message) >= 12 and int.from_bytes(message[8:12], sys.byteorder) == self._sequence:
                    break
        except OSError:
            return None
        if len(message) < _MESSAGE_BYTES or int.from_bytes(message[4:6], sys.byteorder) != _SOCK_DIAG_BY_FAMILY:
            return None
        user, inode = _OWNER.unpack_from(message, 80)
        return (inode, user) if inode else None


class _Processes:
    """Knows which processes have a socket, as far as this process may look."""

    def __init__(self, family: _Family | None) -> None:
        self._family = family
        self._holders: OrderedDict[int, dict[int, bytes]] = OrderedDict()
        self._in_vain: set[int] = set()
        self._recent: OrderedDict[int, None] = OrderedDict()  # who speaks will speak again
        self._next_s = 0.0

    def names(self, inode: int) -> dict[int, bytes]:
        """Give the processes that had it when it was looked for, and their names."""
        return self._holders.get(inode, {})

    def is_settled(self, inode: int) -> bool:
        """Whether its processes were found, or the last look through all of them was in vain."""
        return inode in self._holders or inode in self._in_vain

    def look_at_likely(self, inode: int) -> None:
        """Look for one socket where it most likely is, at once: it may be gone in a millisecond."""
        if inode not in self._holders:
            family = () if self._family is None else self._family.pids
            likely = [*family, *reversed(self._recent)]
            self._look_at([pid for pid in likely[:_LIKELY] if _size(pid) <= _MANY], {inode}, {inode})

    def look(self, wanted: set[int]) -> None:
        """Look through processes until the wanted are found; all of them only if it is time to."""
        begun_s = time.monotonic()
        missing = set(wanted)
        # The youngest first, since they may be gone soonest: a few are always looked at.
        pids = sorted((int(entry) for entry in _entries("/proc") if entry.isdecimal()), reverse=True)
        young = [pid for pid in pids[:_YOUNG] if _size(pid) <= _MANY]
        self._look_at(young, wanted, missing)
        if missing and begun_s >= self._next_s:
            # Who has many descriptors takes long, and comes last.
            self._look_at(sorted(set(pids).difference(young), key=_size), wanted, missing)
            self._in_vain = missing
            now_s = time.monotonic()
            self._next_s = now_s + (now_s - begun_s) * (_SHARE - 1)
        while len(self._holders) > _MOST_KNOWN:
            self._holders.popitem(last=False)

    def _look_at(self, pids: list[int], wanted: set[int], missing: set[int]) -> None:
        for pid in pids:
            if not missing:
                break
            name = None
            for fd in _entries(f"/proc/{pid}/fd"):
                link = _link(f"/proc/{pid}/fd/{fd}")
                if link.startswith("socket:[") and (inode := int(link[8:-1])) in wanted:
                    if name is None:
                        name = _name(pid)
                        if self._family is not None:
                            self._family.ask(pid)
                        self._recent[pid] = None
                        self._recent.move_to_end(pid)
                        if len(self._recent) > _YOUNG:
                            self._recent.popitem(last=False)
                    self._holders.setdefault(inode, {})[pid] = name
                    missing.discard(inode)


class _Family:
    """A process and all that it started, from now on."""

    def __init__(self, pid: int) -> None:
        self.pids = {pid}
        self._ended: dict[int, float] = {}

    def knows(self, pid: int) -> bool:
        """Whether it is one of them, or was a moment ago: its connections are asked about later."""
        return pid in self.pids or pid in self._ended

    def ask(self, pid: int) -> None:
        """Take a process in if one of its ancestors is known; it may be younger than the last `update`."""
        line = [pid]
        while not self.knows(line[-1]):
            parent = _parent(line[-1])
            if parent <= 1 or len(line) > _MOST_GENERATIONS:
                return
            line.append(parent)
        self.pids.update(line)

    def update(self) -> None:
        """Find new children, and forget who ended."""
        asked: set[int] = set()
        while new := self.pids - asked:
            for pid in new:
                asked.add(pid)
                for task in _entries(f"/proc/{pid}/task"):
                    self.pids.update(_children(f"/proc/{pid}/task/{task}/children"))
        now_s = time.monotonic()
        living = {pid for pid in self.pids if _lives(pid)}
        # The number of a process that ended is another's in time.
        self._ended = {pid: end_s for pid, end_s in self._ended.items() if now_s - end_s < _ENDED_S}
        self._ended.update(dict.fromkeys(self.pids - living, now_s))
        self.pids = living


def _state(pid: int) -> list[str]:
    """Give the fields of proc_pid_stat(5) behind the name, which may hold anything: state, parent, …"""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _lives(pid: int) -> bool:
    return _state(pid)[:1] not in ([], ["Z"], ["X"])


def _parent(pid: int) -> int:
    fields = _state(pid)
    return int(fields[1]) if len(fields) > 1 else 0


def _children(path: str) -> list[int]:
    try:
        with open(path) as file:
            return [int(word) for word in file.read().split()]
    except (OSError, ValueError):
        return []


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _size(pid: int) -> int:
    """How many descriptors it has; before Linux 6.2 always 0 (proc_pid_fd(5))."""
    try:
        return os.stat(f"/proc/{pid}/fd").st_size
    except OSError:
        return 0


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _name(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read().rstrip(b"\n")
    except OSError:
        return b""


class _Beginnings:
    """Sees the packets that begin something, and whose sockets they are of."""

    def __init__(self, interface: str) -> None:
        code = b"".join(struct.pack("=HBBI", *each) for each in _BEGINNINGS)
        buffer = ctypes.create_string_buffer(code, len(code))
        self.socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_ALL)
        )
        self.socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_BEGINNINGS), ctypes.addressof(buffer))
        )
        if interface:
            try:
                self.socket.bind((interface, _ETH_P_ALL))
            except UnicodeEncodeError:  # its name is no UTF-8, which Python's bind() wants: those of all are seen
                pass
        self.found: OrderedDict[Ends, tuple[int, int]] = OrderedDict()
        """The inode and the user of a socket at its beginning."""

    def take(self, kernel: _Kernel, processes: _Processes) -> list[tuple[int, int]]:
        """Look up what began just now; give the inodes and users that are new."""
        new = []
        for _ in range(_MOST_AT_ONCE):
            try:
                packet, address = self.socket.recvfrom(128)
            except OSError:  # nothing more; or the interface went down, and comes again
                break
            ends = _ends(packet)
            if ends is None:
                continue
            try:
                index = socket.if_nametoindex(address[0]) if ends[2][:2] == _LINK_LOCAL else 0
            except OSError:  # the interface went away meanwhile, and took the sockets' addresses along
                continue
            for each in (ends, (ends[0], ends[1], ends[4], ends[5], ends[2], ends[3])):
                found = kernel.find(index, each)
                if found is not None:
                    while len(self.found) >= _MOST_BEGUN:
                        self.found.popitem(last=False)
                    self.found[each] = found
                    processes.look_at_likely(found[0])
                    new.append(found)
        return new


def _ends(packet: bytes) -> Ends | None:
    """Give family, protocol, source and destination with their ports; the filter saw that they are there."""
    if len(packet) >= 28 and packet[0] >> 4 == 4:
        place = (packet[0] & 15) * 4
        source, destination = packet[12:16].ljust(16, b"\0"), packet[16:20].ljust(16, b"\0")
        family, protocol = 4, packet[9]
    elif len(packet) >= 48 and packet[0] >> 4 == 6:
        place, source, destination = 40, packet[8:24], packet[24:40]
        family, protocol = 6, packet[6]
    else:
        return None
    if len(packet) < place + 4:
        return None
    ports = struct.unpack_from("!HH", packet, place)
    return family, protocol, source, ports[0], destination, ports[1]


class _Server:
    """Answers questions, and looks at beginnings meanwhile."""

    def __init__(self, channel: socket.socket, followed: int, interface: str) -> None:
        self._channel = channel
        self._kernel = _Kernel()
        self._family = _Family(followed) if followed else None
        self._processes = _Processes(self._family)
        try:
            self._beginnings: _Beginnings | None = _Beginnings(interface)
        except OSError:  # the right to capture was handed to the other process alone; or the interface is gone
            self._beginnings = None
        self._waiting: list[tuple[int, int, int]] = []  # number, inode, user
        self._wanted: set[int] = set()  # the inodes of beginnings whose processes are to be found
        self._told_nobody = False

    def serve(self) -> None:
        """Answer until the other end is closed."""
        self._say(0, READY, -1, False)
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        if self._beginnings is not None:
            poll.register(self._beginnings.socket, select.POLLIN)
        while True:
            if self._wanted or self._waiting:
                poll.poll(1)
            else:
                poll.poll(None if self._family is None else _FAMILY_S * 1000)
            if self._beginnings is not None:
                self._wanted.update(inode for inode, _ in self._beginnings.take(self._kernel, self._processes))
            if not self._take_questions():
                return
            if self._family is not None:
                self._family.update()
                if not self._family.pids and not self._told_nobody:
                    self._told_nobody = True
                    self._say(0, NOBODY, -1, False)
            self._look()
            self._answer()

    def _take_questions(self) -> bool:
        """Look up all that is asked: a socket may be gone in a moment, and its number stays. False: nobody asks."""
        try:
            while len(self._waiting) < _MOST_WAITING:
                data = self._channel.recv(QUESTION.size, socket.MSG_DONTWAIT)
                if not data:
                    return False
                if len(data) != QUESTION.size:  # the other process reads what strangers sent: it is not trusted
                    continue
                number, family, protocol, index, here, port, there, other_port = QUESTION.unpack(data)
                ends = (family, protocol, here, port, there, other_port)
                found = self._kernel.find(index, ends)
                if found is None and self._beginnings is not None:  # it is over: who began it?
                    found = self._beginnings.found.get(ends)
                self._waiting.append((number, *(found or (0, -1))))
        except BlockingIOError:
            pass
        return True

    def _look(self) -> None:
        unknown = {inode for _, inode, _ in self._waiting if inode and not self._processes.names(inode)}
        unknown.update(inode for inode in self._wanted if not self._processes.names(inode))
        if unknown:
            self._processes.look(unknown)
        self._wanted = {inode for inode in self._wanted if not self._processes.is_settled(inode)}

    def _answer(self) -> None:
        undecided = []
        for number, inode, user in self._waiting:
            names = self._processes.names(inode) if inode else {}
            if inode and not self._processes.is_settled(inode):
                undecided.append((number, inode, user))
                continue
            pid = min(names, default=0)
            is_followed = self._family is not None and any(map(self._family.knows, names))
            user = user if user < 0x8000_0000 else -1
            self._say(number, pid, user, is_followed, names.get(pid, b""))
        self._waiting = undecided

    def _say(self, number: int, pid: int, user: int, is_followed: bool, name: bytes = b"") -> None:
        self._channel.send(ANSWER.pack(number, pid, user, is_followed) + name)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other process's matter
    try:
        _Server(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), sys.argv[3]).serve()
    except (BrokenPipeError, ConnectionResetError):
        pass
