"""Knows how to run a load generator in a process of its own and read what it saw.

It does not know what is under load, nor what the figures will be used for. A `Load` is used as a
context manager, so that no generator outlives its caller; the kernel ends it too should the caller
be killed (`_load_process.py`).
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ._load_contract import COARSE_SHIFT, FINE_SHIFT, LoadError
from ._load_process import end_group, spawn

__all__ = ["Histogram", "Load", "LoadError", "LoadWindow", "Target"]

# A server's output is looked after this often; at 2 GB/s, which a loop of print() does not reach, 500 MB gather.
MEANWHILE_S = 0.25

KINDS = ("tcp-echo", "udp-echo", "tls-echo", "http", "https")


@dataclass(frozen=True)
class Target:
    """What to load and how: kind of dialogue, address, bytes per request, path of a GET."""

    kind: str
    host: str
    port: int
    size_bytes: int = 1024
    path: str = "/"


class Histogram:
    """Latencies as counts in buckets: 256 ns wide below 67 ms, 65.5 µs above.

    >>> histogram = Histogram({39: 99, 40: 1}, {})
    >>> round(histogram.percentile_us(50), 1)
    10.1
    """

    def __init__(self, fine: Mapping[int, int], coarse: Mapping[int, int]) -> None:
        self.buckets: dict[int, int] = {}  # the bucket's middle in ns → how many
        for shift, counts in ((FINE_SHIFT, fine), (COARSE_SHIFT, coarse)):
            for bucket, n in counts.items():
                middle_ns = (bucket << shift) + (1 << shift) // 2
                self.buckets[middle_ns] = self.buckets.get(middle_ns, 0) + n

    @property
    def total(self) -> int:
        """Count all latencies."""
        return sum(self.buckets.values())

    def add(self, other: Histogram) -> None:
        """Add another histogram's counts."""
        for middle_ns, n in other.buckets.items():
            self.buckets[middle_ns] = self.buckets.get(middle_ns, 0) + n

    def percentile_us(self, percent: float) -> float:
        """Give the latency in µs that `percent` of the requests did not exceed.

        NaN when there were none.
        """
        rank = self.total * percent / 100
        seen = 0
        for middle_ns in sorted(self.buckets):
            seen += self.buckets[middle_ns]
            if seen >= rank:
                return middle_ns / 1000
        return float("nan")


@dataclass(frozen=True)
class LoadWindow:
    """What one window saw; `cpu_s` is the CPU time of the generator itself."""

    requests: int
    seconds: float
    cpu_s: float
    latency: Histogram
    errors: Mapping[str, int]
    alive: int

    @property
    def busy(self) -> float:
        """Tell how much of its one core the generator used, 0 to 1.

        Near 1 it was the bottleneck, not the server.
        """
        return self.cpu_s / self.seconds if self.seconds else 0.0


class Load:
    """A running generator.

    >>> with Load(Target("tcp-echo", "127.0.0.1", 9000)) as load:  # doctest: +SKIP
    ...     load.connect(100)
    ...     print(load.run(1.0).requests)
    """

    def __init__(self, target: Target, *, meanwhile: Callable[[], None] | None = None) -> None:
        self.target = target
        self._meanwhile = meanwhile  # called a few times each second while the generator is awaited
        self._received = b""

    def __enter__(self) -> Self:
        package_parent = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
        self._process = spawn(
            # -P: the current directory may hold a file that is called as a module of the standard library.
            [sys.executable, "-P", "-m", f"{__package__}._load_worker"],
            environment={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
        )
        try:
            self._ask(
                10.0,
                do="open",
                kind=self.target.kind,
                host=self.target.host,
                port=self.target.port,
                size_bytes=self.target.size_bytes,
                path=self.target.path,
            )
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def connect(self, count: int) -> None:
        """Open `count` further connections, each proven by an exchange: the server accepted it."""
        # A batch is given up after REPLY_S without a sign of life, and that stops the rest.
        self._ask(30.0 + count * 0.05, do="connect", count=count)

    def check(self) -> None:
        """Verify one exchange on each connection."""
        self._ask(120.0, do="check")

    def run(self, seconds: float, *, spin: bool = False) -> LoadWindow:
        """Load for `seconds` and give what was seen once the last reply is in.

        With `spin` the generator never sleeps, so that its own waking up is in no latency; it takes
        one core then.
        """
        answer = self._ask(seconds + 60.0, do="run", seconds=seconds, spin=spin)
        return LoadWindow(
            requests=answer["requests"],
            seconds=answer["seconds"],
            cpu_s=answer["cpu_s"],
            latency=Histogram(
                {int(bucket): n for bucket, n in answer["fine"].items()},
                {int(bucket): n for bucket, n in answer["coarse"].items()},
            ),
            errors=answer["errors"],
            alive=answer["alive"],
        )

    def close(self) -> None:
        """End the generator."""
        end_group(self._process, grace_s=0.0)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass

    def _ask(self, timeout_s: float, **command: object) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise LoadError("the load generator ended unexpectedly") from None
        line = self._read_line(timeout_s)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LoadError(str(answer["error"]))
        result: dict[str, Any] = answer["ok"]
        return result

    def _read_line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            if self._meanwhile is not None:
                self._meanwhile()
            left_s = max(0.0, deadline - time.monotonic())
            if not poller.poll(min(left_s, MEANWHILE_S) * 1000):
                if left_s > MEANWHILE_S:
                    continue
                raise LoadError(f"the load generator gave no answer within {timeout_s:.0f} s")
            piece = os.read(fd, 1 << 16)
            if not piece:
                raise LoadError("the load generator ended unexpectedly")
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return line
