"""A network of a test's own for captures: a namespace, and cables in it.

It knows how to make links and to run what is to be captured. It refuses to know what is expected of a capture.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from tests._kernel import needs_program, new_namespace

from underlay.link import Namespace

LIMIT_S = 60
BURST = Path(__file__).with_name("_burst.py")
_T = TypeVar("_T")


class Net:
    """A namespace with its loopback up."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root may capture; remedy: run the tests as root")
        self.namespace: Namespace = new_namespace()
        self.started: list[subprocess.Popen[str]] = []

    def do(self, work: Callable[[], _T]) -> _T:
        return self.namespace.run(work)

    def ip(self, *words: str) -> None:
        """Say something to ip(8) here."""
        program = needs_program("ip")
        done = self.do(lambda: subprocess.run([program, *words], capture_output=True, text=True, check=False))
        assert done.returncode == 0, done.stderr

    def start(
        self, *argv: str | Path, stdout: int = subprocess.PIPE, env: dict[str, str] | None = None, **more: object
    ) -> subprocess.Popen[str]:
        """Start a program here."""
        child = self.do(
            lambda: subprocess.Popen(  # type: ignore[call-overload]
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "COLUMNS": "80", **(env or {})},
                **more,
            )
        )
        self.started.append(child)
        return child  # type: ignore[no-any-return]

    def capture(self, *words: str | Path, **more: object) -> subprocess.Popen[str]:
        """Start the command, and come back when it captures."""
        child = self.start(sys.executable, "-m", "underlay", "capture", *words, **more)  # type: ignore[arg-type]
        assert child.stderr is not None
        line = child.stderr.readline()
        if "capturing on" not in line:
            pytest.fail(line + "".join(part or "" for part in child.communicate(timeout=LIMIT_S)))
        return child

    def burst(self, packets: int, size_bytes: int = 64, port: int = 9999) -> None:
        """Send datagrams to ourselves as quickly as we can; somebody listens to them, so that no ICMP answers."""
        import socket

        with self.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sink:
            sink.bind(("127.0.0.1", port))
            child = self.start(sys.executable, BURST, "127.0.0.1", str(port), str(packets), str(size_bytes))
            output, errors = child.communicate(timeout=LIMIT_S)
            assert output == f"{packets}\n", errors

    def close(self) -> None:
        for child in self.started:
            if child.poll() is None:
                child.kill()
            child.communicate()
        self.namespace.close()


@contextmanager
def network() -> Iterator[Net]:
    net = Net()
    try:
        yield net
    finally:
        net.close()


def end(child: subprocess.Popen[str], number: int = signal.SIGINT, *, expect: int = 0) -> tuple[str, str]:
    """Send a signal, as Ctrl-C does, and give what it said."""
    if child.poll() is None:
        child.send_signal(number)
    output, errors = child.communicate(timeout=LIMIT_S)
    assert child.returncode == expect, f"{child.returncode}\n{output}{errors}"
    return output, errors


def run(*argv: str | Path, expect: Sequence[int] = (0,)) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, check=False, timeout=LIMIT_S,
        env={**os.environ, "COLUMNS": "80"}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode in expect, f"{done.returncode}\n{done.stdout}{done.stderr}"
    return done
