"""Runs a program as a person would, on a model of their choice, and watches how it ends.

It knows how to start one, where it says that it listens, which descriptors and threads it holds,
and how to ask it to stop. It refuses to know what any program does.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import underlay.loop

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

# A program that takes longer to say that it listens, or to stop, hangs; nothing is measured by it.
PATIENCE_S = 30

# "standard" is python itself, without underlay: it shows that a failure is the model's.
MODELS = ("standard", *underlay.loop.MODELS)


def need(model: str) -> None:
    """Skip the test, with the reason, where this machine can't offer the model."""
    if model != "standard" and not (row := underlay.loop.model(model)).available:
        pytest.skip(f"{model}: {row.reason}; {row.remedy}")


def command(model: str, *program: str | Path) -> list[str]:
    """Return the command line that runs a program (SCRIPT or -m MODULE, arguments) on a model.

    Every warning is an error: one at import stops the program, and one in a destructor (a socket
    or a transport left open) prints to standard error, where `Program.stop` finds it.
    """
    words = [sys.executable, "-W", "error"]
    if model != "standard":
        words += ["-m", "underlay", "run", "--io", model]
    return [*words, *map(str, program)]


class Program:
    """A running server that has said where it listens; a context manager that leaves none behind.

    >>> with Program("epoll", EXAMPLES / "echo.py") as program:  # doctest: +SKIP
    ...     program.place
    ...     program.stop(signal.SIGTERM)
    """

    def __init__(self, model: str, *program: str | Path) -> None:
        self.command = command(model, *program)

    def __enter__(self) -> Program:
        self.process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        try:
            self.address = self.line("listening on ")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    @property
    def place(self) -> tuple[str, int]:
        """Host and port of the address."""
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    def line(self, beginning: str) -> str:
        """Wait for the next line of output, which must begin so, and return the rest of it."""
        assert self.process.stdout is not None
        found = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not found.endswith(b"\n"):  # unbuffered: a byte at a time, and only this line
                assert selector.select(PATIENCE_S), f"no line in {PATIENCE_S} s: {self.command}"
                byte = self.process.stdout.read(1)
                if not byte:
                    _, noise = self.process.communicate(timeout=PATIENCE_S)
                    status = self.process.returncode
                    pytest.fail(f"ended with {status} instead of listening:\n{noise.decode()}")
                found += byte
        text = found.decode().rstrip("\n")
        assert text.startswith(beginning), text
        return text.removeprefix(beginning)

    def stop(self, number: signal.Signals) -> None:
        """Send the signal; the program must end with status 0 and not a word."""
        self.process.send_signal(number)
        try:
            more, noise = self.process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still runs {PATIENCE_S} s after {number.name}; it {self.waits_in()}")
        status = self.process.returncode
        assert (status, more, noise) == (0, b"", b""), f"{status}\n{(more + noise).decode()}"

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Within the block the program gets no processor, so that what comes meanwhile comes at once."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def waits_in(self) -> str:
        """Return what its threads wait in, as the kernel names it, for a failure's message."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return "waits in " + ", ".join((task / "wchan").read_text() or "user space" for task in tasks)

    def descriptors(self) -> list[str]:
        """Return what each descriptor of the program refers to, such as "socket:[123]"."""
        found = []
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                found.append(os.readlink(link))
            except FileNotFoundError:
                pass  # closed since it was listed
        return found

    def threads(self) -> int:
        """Return how many threads it has."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))


def shows_its_model(model: str, program: Program) -> None:
    """Check the model by what it cannot do without: its descriptor, or a thread per connection."""
    held = program.descriptors()
    holds_epoll = "anon_inode:[eventpoll]" in held
    holds_ring = "anon_inode:[io_uring]" in held
    assert holds_ring == (model == "uring"), held
    if model != "uring":
        assert holds_epoll == (model in ("standard", "epoll", "epoll_et")), held
    if model == "blocking":
        assert program.threads() > 1


def finish(model: str, program: Sequence[str | Path]) -> str:
    """Run a program that ends by itself, which must be with status 0 and nothing on stderr."""
    done = subprocess.run(command(model, *program), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, ""), f"{done.returncode}\n{done.stderr}"
    return done.stdout
