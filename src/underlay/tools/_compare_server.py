"""Knows how to run a script on a model, find the port it listens on, and end it with nothing left.

The port is found from outside, because the script is not ours: the sockets among the descriptors of its
process tree (/proc/<pid>/fd) are looked up in the kernel's tables (/proc/<pid>/net/tcp and its kin, see
proc_pid_net(5)). It does not know the load, nor what is measured.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from ._compare_measure import process_tree
from ._leftovers import end_marked, marked
from ._load_process import end_group, spawn, uninterrupted

# What `asyncio` programs listen with is there within a second; frameworks import for several.
LISTEN_S = 15.0

# A program may open several ports one after the other; this long we look for a second one.
SETTLE_S = 0.05

# A program that listens on another port or protocol than the load needs gets this much time for it.
ELSEWHERE_S = 2.0

# Time for a SIGTERM handler to close connections and remove the script's own files.
GRACE_S = 2.0

# How much of what the script printed is kept to explain a failure...
TAIL_BYTES = 8192
# ...and how much may gather before the rest is thrown away.
OUTPUT_BYTES = 1 << 20

_VARIABLE = "UNDERLAY_SERVER"

# `python -c` puts the current directory first on sys.path (unless told not to); there underlay's own takes its place.
_RUN = (
    f"import sys; sys.path[: not sys.flags.safe_path] = [{str(Path(__file__).resolve().parents[2])!r}]; "
    "from underlay.cli import entry; entry()"
)

# <net/tcp_states.h>; a UDP socket that isn't connected is in state CLOSE.
_TCP_LISTEN = "0A"
_UDP_OPEN = "07"
# <linux/net.h>: __SO_ACCEPTCON, among the flags of a Unix socket.
_UNIX_LISTEN = "00010000"


class ServerError(Exception):
    """The script can't be loaded; the message is one sentence that says why."""


class AddressInUse(ServerError):
    """The script's port is taken by another process."""


@dataclass(frozen=True, order=True)
class Endpoint:
    """Where a script listens, as an address to connect to."""

    port: int
    host: str


@dataclass(frozen=True)
class Program:
    """What to run: a script's path, or a module's name with `is_module`, and its own arguments."""

    name: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False

    def command(self, model: str) -> list[str]:
        """Give the command line that runs it on a model."""
        what = ["-m", self.name] if self.is_module else [self.name]
        # Not `-m underlay`: it looks in the current directory first, where a file may be called as a module of ours.
        return [sys.executable, "-c", _RUN, "run", "--io", model, *what, *self.arguments]


class Server:
    """A script running on a model, as a context manager that leaves no process behind.

    >>> with Server(Program("echo.py"), "epoll") as server:  # doctest: +SKIP
    ...     endpoint = server.find_endpoint("tcp")
    """

    def __init__(self, program: Program, model: str, environment: Mapping[str, str] | None = None) -> None:
        self.program = program
        self.model = model
        self._mark = uuid.uuid4().hex
        self._environment = {**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1", _VARIABLE: self._mark}
        self._earlier = b""  # the end of what the script printed before the file was last emptied

    def __enter__(self) -> Self:
        # Without a name in the file system, so that nothing is left should we be killed.
        self._output: BinaryIO = tempfile.TemporaryFile()
        # The child shares this open file, and with it the flag: what it writes goes to the end, also to a new one.
        fcntl.fcntl(self._output, fcntl.F_SETFL, os.O_APPEND)
        self._process = spawn(
            self.program.command(self.model),
            environment=self._environment,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Give the ids of the process and of those that it started."""
        return process_tree(self._process.pid)

    def allow_descriptors(self, count: int) -> None:
        """Raise the soft limit of open files to `count` where the hard limit has room for it."""
        try:
            for pid in self.pids:
                soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                if soft < count:
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(count, hard), hard))
        except (OSError, ValueError):
            return  # the load will meet the limit and say so

    def find_endpoint(self, protocol: str, port: int | None = None, within_s: float = LISTEN_S) -> Endpoint:
        """Wait until the script listens (`protocol` is "tcp" or "udp") and give where.

        Raises ServerError when it ends, doesn't listen in time, or listens on several ports and
        `port` doesn't say which one is meant.
        """
        deadline = time.monotonic() + within_s
        while not (found := self._endpoints(protocol, port)):
            self.trim()
            if (status := self._process.poll()) is not None:
                raise self._ended(status)
            now = time.monotonic()
            if self._listens_elsewhere(protocol):
                deadline = min(deadline, now + ELSEWHERE_S)
            if now > deadline:
                raise self._silent(protocol, port, within_s)
            time.sleep(0.01)
        time.sleep(SETTLE_S)
        found = self._endpoints(protocol, port) or found
        # A name such as `localhost` makes asyncio listen on IPv4 and IPv6; either will do.
        v4 = [endpoint for endpoint in found if ":" not in endpoint.host]
        ports = sorted({endpoint.port for endpoint in v4 or found})
        if len(ports) > 1:
            listed = ", ".join(map(str, ports[:-1])) + f" and {ports[-1]}"
            raise ServerError(
                f"it listens on the {protocol.upper()} ports {listed}; "
                f"say which is to be loaded, as in --load KIND:{ports[0]}"
            )
        return min(v4 or found)

    def reason(self) -> str:
        """Give the last error that the script printed; if it has ended, else its last line; else ''."""
        lines = [line.strip() for line in self.tail().splitlines() if line.strip()]
        for line in reversed(lines):
            if re.match(r"([\w.]+(Error|Exception|Unavailable|Cannot)\b|underlay: )", line):
                return line.removeprefix("underlay: ")
        return lines[-1] if lines and self.exit_status() is not None else ""

    def tail(self) -> str:
        """Give the end of what the script printed, on stdout and stderr."""
        if self._output.closed:
            return ""
        return (self._earlier + self._written())[-TAIL_BYTES:].decode(errors="replace")

    def trim(self) -> None:
        """Keep only the end of what the script printed, so that a talkative one does not fill the disk."""
        if os.fstat(self._output.fileno()).st_size > OUTPUT_BYTES:
            self._earlier = self._written()
            os.ftruncate(self._output.fileno(), 0)

    def _written(self) -> bytes:
        # The child shares the file's offset, so that a seek of ours would move its next write.
        fd = self._output.fileno()
        return os.pread(fd, TAIL_BYTES, max(0, os.fstat(fd).st_size - TAIL_BYTES))

    def exit_status(self) -> int | None:
        """Give the exit status, or None while it runs."""
        return self._process.poll()

    def close(self) -> None:
        """End the script and its children: SIGTERM first, SIGKILL if they don't obey in time."""
        with uninterrupted():
            family = self.pids
            end_group(self._process, grace_s=GRACE_S)
            for pid in family[1:]:  # those that left the group, by setsid(2)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            end_marked(_VARIABLE, self._mark)  # those whose parents ended before them
            self._output.close()

    def _listens_elsewhere(self, protocol: str) -> bool:
        pids = self.pids
        if unix_paths(pids):
            return True
        return bool(listening(pids, "tcp") or (protocol == "tcp" and listening(pids, "udp")))

    def _endpoints(self, protocol: str, port: int | None) -> list[Endpoint]:
        found = listening(self.pids, protocol)
        return [endpoint for endpoint in found if port is None or endpoint.port == port]

    def _ended(self, status: int) -> ServerError:
        reason = self.reason()
        if re.search(r"address already in use", self.tail(), re.IGNORECASE):
            match = re.search(r"\('[^']*', (\d+)", reason)
            which = f"its port {match[1]}" if match else "its port"
            return AddressInUse(
                f"{which} is in use; end the program that holds it (`ss -tulnp` names it), "
                "or let the script take another port"
            )
        if status == 0 and marked(_VARIABLE, self._mark):
            return ServerError("it went into the background; let it stay in the foreground, so that it can be measured")
        said = f": {reason}" if reason else ", without a word"
        return ServerError(f"it ended {how_it_ended(status)} before it listened{said}")

    def _silent(self, protocol: str, port: int | None, within_s: float) -> ServerError:
        other = {"tcp": "udp", "udp": "tcp"}[protocol]
        elsewhere = listening(self.pids, protocol)
        if port is not None and elsewhere:
            return ServerError(f"it listens on {protocol.upper()} port {elsewhere[0].port}, not {port}")
        if found := listening(self.pids, other):
            return ServerError(
                f"it listens on {other.upper()} port {found[0].port} only; say --load {other}-echo to load that"
            )
        if paths := unix_paths(self.pids):
            return ServerError(
                f"it listens on the Unix socket {paths[0]} only; let it open a TCP or UDP port, which can be loaded"
            )
        said = f"; its last words: {self.reason()}" if self.reason() else ""
        return ServerError(
            f"it didn't listen on any {protocol.upper()} port within {within_s:.0f} s; is it a server?{said}"
        )


def how_it_ended(status: int) -> str:
    """Say an exit status as the end of a sentence.

    >>> how_it_ended(3), how_it_ended(-11)
    ('with status 3', 'by SIGSEGV')
    """
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:  # the real-time signals have no names
        return f"by signal {-status}"


def listening(pids: Sequence[int], protocol: str) -> list[Endpoint]:
    """Give where these processes listen ("tcp") or receive from anyone ("udp")."""
    inodes = {inode for pid in pids for inode in _socket_inodes(pid)}
    state = _TCP_LISTEN if protocol == "tcp" else _UDP_OPEN
    found: set[Endpoint] = set()
    for table in (protocol, f"{protocol}6"):
        try:
            lines = Path(f"/proc/{pids[0]}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == state and fields[9] in inodes:
                found.add(parse_endpoint(fields[1]))
    return sorted(found)


def unix_paths(pids: Sequence[int]) -> list[str]:
    """Give the paths of the Unix sockets on which these processes listen. Source: unix(7), /proc/net/unix."""
    inodes = {inode for pid in pids for inode in _socket_inodes(pid)}
    try:
        lines = Path(f"/proc/{pids[0]}/net/unix").read_text(errors="replace").splitlines()[1:]
    except OSError:
        return []
    rows = (line.split(maxsplit=7) for line in lines)
    return sorted(row[7] for row in rows if len(row) == 8 and row[3] == _UNIX_LISTEN and row[6] in inodes)


def _socket_inodes(pid: int) -> set[str]:
    inodes: set[str] = set()
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return inodes
    for descriptor in descriptors:
        try:
            name = os.readlink(f"/proc/{pid}/fd/{descriptor}")
        except OSError:
            continue
        if name.startswith("socket:["):
            inodes.add(name[8:-1])
    return inodes


def parse_endpoint(text: str) -> Endpoint:
    """Read an address of /proc/net/tcp: words of 32 bits in the machine's byte order, the port in hex.

    The wildcard address becomes the loopback address, where it can be connected to.

    >>> parse_endpoint("0100007F:1F90")
    Endpoint(port=8080, host='127.0.0.1')
    """
    address, _, port = text.partition(":")
    words = [int(address[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(address), 8)]
    packed = ipaddress.ip_address(b"".join(words))
    if packed.is_unspecified:
        packed = ipaddress.ip_address("127.0.0.1" if packed.version == 4 else "::1")
    return Endpoint(int(port, 16), str(packed))
