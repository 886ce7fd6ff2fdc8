"""Starts `underlay serve` as a person would, puts a load on it, and sees that nothing of it stays.

It knows the command line, the control socket's answers and /proc. It refuses to know how the group works.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, cast

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

# What takes longer hangs; nothing is measured by it.
PATIENCE_S = 60

# A server: it answers each line with its process id.
MAIN = """
import asyncio, os

async def answer(reader, writer):
    try:
        while line := await reader.readline():
            if line == b"die\\n":
                os._exit(3)
            writer.write(b"%d %s" % (os.getpid(), line))
    finally:
        writer.close()

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        await server.serve_forever()
"""

ALL_IS_WELL = ("underlay: listening on ", "underlay: restart done, ")


class Row(TypedDict):
    """What the tests read of a worker."""

    pid: int
    state: str
    generation: int
    connections: int
    threads: int


class Status(TypedDict):
    """What the tests read of a group."""

    pid: int
    wanted: int
    crashes: int
    next_start_s: float
    listening: list[str]
    workers: list[Row]


class Group:
    """A running `underlay serve`; a context manager that leaves no process behind."""

    def __init__(self, folder: Path, *words: str | Path) -> None:
        self.control = folder / "serve.sock"
        self.output = folder / "output"
        self.errors = folder / "errors"
        self.folder = folder
        self.words = [sys.executable, "-m", "underlay", "serve", "--control", str(self.control), *map(str, words)]

    def __enter__(self) -> Group:
        with open(self.output, "w") as output, open(self.errors, "w") as errors:
            self.process = subprocess.Popen(self.words, cwd=self.folder, stdout=output, stderr=errors)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()  # the workers die with it
        self.process.wait()

    def ask(self, word: str) -> Status:
        """Ask by the command, and return its JSON."""
        done = self.command(word, "--json")
        assert done.returncode == 0, done.stderr + self.errors.read_text()
        return cast("Status", json.loads(done.stdout))

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command that speaks to the control socket."""
        return subprocess.run(
            [*self.words[:6], *words], cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def until(self, holds: Callable[[Status], bool]) -> Status:
        """Ask until the status is as it should be."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"it ended: {self.errors.read_text()}"
            done = self.command("status", "--json")  # refused until the group has made its socket
            if done.returncode == 0 and holds(status := cast("Status", json.loads(done.stdout))):
                return status
            time.sleep(0.05)
        pytest.fail(f"never so in {PATIENCE_S} s: {done.stdout}{done.stderr}{self.errors.read_text()}")

    def ready(self, workers: int) -> Status:
        """Wait until exactly so many workers run, and all are ready."""
        return self.until(lambda s: [row["state"] for row in s["workers"]] == ["ready"] * workers)

    @property
    def place(self) -> tuple[str, int]:
        """Where it listens."""
        host, _, port = self.ask("status")["listening"][0].rpartition(":")
        return host, int(port)

    def ends(self) -> tuple[int, str]:
        """Wait for its end; the status and what it said on stderr, but for the lines that all is well."""
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it still runs: {self.errors.read_text()}")
        lines = self.errors.read_text().splitlines(keepends=True)
        return status, "".join(line for line in lines if not line.startswith(ALL_IS_WELL))

    def stops(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send the signal and wait for the end."""
        self.process.send_signal(number)
        return self.ends()


def is_alive(pid: int) -> bool:
    """Whether there is such a process, other than one that only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: list[int]) -> None:
    """Wait until none of the processes is there."""
    deadline = time.monotonic() + PATIENCE_S
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, [pid for pid in pids if is_alive(pid)]
        time.sleep(0.02)


@dataclass
class Load:
    """What came of the requests so far."""

    answered: int = 0
    connections: int = 0
    lost: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def until_answered(self, count: int) -> None:
        """Wait until so many more have been answered."""
        goal = self.answered + count
        deadline = time.monotonic() + PATIENCE_S
        while self.answered < goal:
            assert time.monotonic() < deadline, f"{self.answered} of {goal}; lost: {self.lost[:3]}"
            time.sleep(0.01)


def _answer(sock: socket.socket, host: str, close: bool) -> bytes:
    """Make one HTTP request and return the whole answer."""
    end = "close" if close else "keep-alive"
    sock.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: {end}\r\n\r\n".encode())
    data = b""
    while True:
        head, separator, body = data.partition(b"\r\n\r\n")
        # uvicorn sends it in chunks, the last of which is empty (RFC 9112, 7.1).
        end_of_body = b"0\r\n\r\n" if b"chunked" in head else b"hello\n"
        if separator and body.endswith(end_of_body):
            return data
        part = sock.recv(65536)
        if not part:
            raise ConnectionError(f"the server closed after {len(data)} bytes of an answer")
        data += part


@contextlib.contextmanager
def load(place: tuple[str, int], clients: int, per_connection: int) -> Iterator[Load]:
    """Within the block so many clients ask without pause; none ever asks twice for what it did not get.

    Each connection carries ``per_connection`` requests and is then closed by the client.
    """
    result = Load()
    lock = threading.Lock()

    def client() -> None:
        while not result._stop.is_set():
            asked = 0
            try:
                with socket.create_connection(place, timeout=PATIENCE_S) as sock:
                    for asked in range(1, per_connection + 1):
                        found = _answer(sock, place[0], close=asked == per_connection)
                        assert found.startswith(b"HTTP/1.1 200 "), found
                        with lock:
                            result.answered += 1
                        if result._stop.is_set():
                            break
                with lock:
                    result.connections += 1
            except (OSError, AssertionError) as error:
                with lock:
                    result.lost.append(f"request {asked} of a connection: {error!r}")

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield result
    finally:
        result._stop.set()
        for thread in threads:
            thread.join()


def write(folder: Path, name: str, text: str) -> None:
    """Put a program into the folder."""
    (folder / name).write_text(text)


def pids(group: Group, workers: int) -> list[int]:
    """Wait for so many ready workers, and return their process ids."""
    return [row["pid"] for row in group.ready(workers)["workers"]]


def speak(place: tuple[str, int], line: bytes = b"hello\n") -> bytes:
    """Send a line on a connection of its own, and return the answer."""
    with socket.create_connection(place, timeout=PATIENCE_S) as sock, sock.makefile("rb") as file:
        sock.sendall(line)
        return file.readline()
