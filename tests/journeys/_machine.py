"""A machine of a test's own: a network namespace in which programs run on the stack, and clients of the kernel's.

It knows how they are started and that nothing of them is left. It refuses to know what is tested.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .._kernel import DEVICE, needs_program, new_namespace

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE_S = 60

NEEDS_A_KERNEL = [
    pytest.mark.skipif(not DEVICE.exists(), reason=f"there is no {DEVICE}; remedy: modprobe tun"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make devices and namespaces; remedy: run as root"),
]

on_both_kinds = pytest.mark.parametrize("kind", ["tap", "tun"])

SLOW = """
import socket, sys, time

with socket.socket() as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.settimeout(20)
    sock.connect((sys.argv[1], int(sys.argv[2])))
    time.sleep(1)
    received = 0
    try:
        while data := sock.recv(65536):
            received += len(data)
    except ConnectionResetError:
        received = -1
    print(received)
"""


class Machine:
    """A namespace in which programs and their clients run."""

    def __init__(self) -> None:
        self.namespace = new_namespace()
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *argv: str | Path) -> subprocess.Popen[str]:
        """Start a program here."""
        child = self.namespace.run(
            lambda: subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        )
        self.started.append(child)
        return child

    def run(self, *argv: str | Path, expect: int = 0) -> str:
        """Run a client to its end and give its output."""
        child = self.start(needs_program(str(argv[0])), *argv[1:])
        output, errors = child.communicate(timeout=PATIENCE_S)
        assert child.returncode == expect, f"{argv} ended with {child.returncode}\n{output}{errors}"
        return output

    @contextmanager
    def serving(self, net: str, *program: str | Path, capture: Path | None = None) -> Iterator[subprocess.Popen[str]]:
        """Run a server on the stack until the block ends; then SIGINT must end it without a traceback of ours."""
        words = [] if capture is None else ["--capture", str(capture)]
        child = self.start(sys.executable, "-m", "underlay", "run", "--net", net, *words, *program)
        assert child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            assert selector.select(PATIENCE_S), "the program did not say that it listens"
        line = child.stdout.readline()
        if "listening on" not in line and "Running on" not in line:
            child.kill()
            pytest.fail(line + "".join(child.communicate()))
        yield child
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=PATIENCE_S)
        assert "underlay" not in errors.replace(str(ROOT), ""), errors

    def close(self) -> None:
        """Leave nothing running."""
        for child in self.started:
            if child.poll() is None:
                child.kill()
            child.communicate()
        self.namespace.close()


def interfaces() -> set[str]:
    import socket

    return {name for _, name in socket.if_nameindex()}
