"""Both programs of a speed test, stock iperf3 and ours, at either end, over the loopback.

It knows how they are started, that they are ready, and that nothing of them is left. It refuses to know what is tested.
"""

from __future__ import annotations

import json
import os
import queue
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from underlay.errors import UnderlayError
from underlay.tools.speed import Interval, Result, Server, Settings, Watcher

from .._kernel import needs_program

PATIENCE_S = 30


class Witness(Watcher):
    """Keeps what it is told, for a test that waits for it."""

    def __init__(self) -> None:
        self.began: queue.SimpleQueue[Settings] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self.failures: queue.SimpleQueue[tuple[UnderlayError, Result | None]] = queue.SimpleQueue()
        self.intervals: list[Interval] = []
        self.sent_away: list[str] = []

    def started(self, peer: str, settings: Settings) -> None:
        self.began.put(settings)

    def interval(self, interval: Interval) -> None:
        self.intervals.append(interval)

    def finished(self, result: Result) -> None:
        self.results.put(result)

    def broken(self, error: UnderlayError, result: Result | None) -> None:
        self.failures.put((error, result))

    def refused(self, peer: str) -> None:
        self.sent_away.append(peer)


class Ours:
    """A server of ours that runs, and who watches it."""

    def __init__(self, server: Server, witness: Witness) -> None:
        self.server = server
        self.port = server.port
        self.witness = witness

    def result(self) -> Result:
        return self.witness.results.get(timeout=PATIENCE_S)

    def failure(self) -> str:
        return str(self.witness.failures.get(timeout=PATIENCE_S)[0])


@contextmanager
def our_server(host: str = "127.0.0.1") -> Iterator[Ours]:
    """Run a server of ours in this process; when it ends, no thread and no descriptor of it is left."""
    before, threads = descriptors(), threading.active_count()
    witness = Witness()
    with Server(host, 0, interval_s=0.2, watcher=witness) as server, server.in_thread():
        yield Ours(server, witness)
    assert threading.active_count() == threads
    assert descriptors() == before


@contextmanager
def stock_server(*words: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run `iperf3 -s`; gives its port and its process."""
    program, port = needs_program("iperf3"), free_port()
    child = subprocess.Popen(
        [program, "-s", "-J", "-p", str(port), "-B", "127.0.0.1", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        until_listening(port)
        yield port, child
    finally:
        child.kill()
        child.communicate()


def stock_client(port: int, *words: str, fails: bool = False) -> dict[str, Any]:
    """Run `iperf3 -c` to its end, and give its JSON, in which a failure is too."""
    command = [needs_program("iperf3"), "-c", "127.0.0.1", "-p", str(port), "-J", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    told: dict[str, Any] = json.loads(done.stdout)
    assert fails == ("error" in told), told.get("error")
    return told


def start_stock_client(port: int, *words: str) -> subprocess.Popen[str]:
    """Start one that prints its lines at once, which the test ends."""
    command = [needs_program("iperf3"), "-c", "127.0.0.1", "-p", str(port), "--forceflush", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def report_of(child: subprocess.Popen[str]) -> dict[str, Any]:
    """The JSON of a server that ends after one test."""
    output, _ = child.communicate(timeout=PATIENCE_S)
    told: dict[str, Any] = json.loads(output)
    assert "error" not in told, told["error"]
    return told


def has_threads(told: dict[str, Any]) -> bool:
    """Whether the stock program that told this has a thread for each stream: iperf3 since 3.16.

    A client cancels such a thread at the end of a test wherever it is (pthread_cancel(3), of the asynchronous kind),
    and a receiver counts nothing after it, so that the block that was being written or read is not counted, though all
    of it may have been moved. A server closes its sockets under the threads, prints its counts, and only then tells
    them: a write that ends in between is in what it tells alone. One without threads counts each part of a block that
    the kernel took or gave, and does one thing after the other.
    """
    version = re.match(r"iperf (\d+)\.(\d+)", told["start"]["version"])
    assert version is not None, told["start"]["version"]
    return (int(version[1]), int(version[2])) >= (3, 16)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until_listening(port: int, process: int | str = "self") -> None:
    """Wait without connecting, which would be a test, for a port where that process is: proc(5), /proc/PID/net/tcp."""
    for _ in range(PATIENCE_S * 100):
        for name in ("tcp", "tcp6"):
            for line in Path(f"/proc/{process}/net/{name}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if int(local.split(":")[1], 16) == port and state == "0A":  # TCP_LISTEN
                    return
        time.sleep(0.01)
    raise AssertionError(f"nobody listens on port {port}")


def descriptors() -> set[str]:
    """What this process has open, by number and kind."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except OSError:
            pass  # the directory itself
    return found


def in_flight_bytes(streams: int) -> int:
    """The most that a sender's kernel took and the receiver's program had not read yet when a TCP test ended.

    That is what both kernels' buffers may hold: the largest of tcp_wmem and of tcp_rmem (tcp(7)).
    """
    sizes = [int(Path(f"/proc/sys/net/ipv4/tcp_{way}mem").read_text().split()[2]) for way in "rw"]
    return streams * sum(sizes)


def unread_datagrams_bytes(streams: int) -> int:
    """The most that a receiver of UDP had not read when the test ended: its buffer, rmem_default (socket(7))."""
    return streams * int(Path("/proc/sys/net/core/rmem_default").read_text())
