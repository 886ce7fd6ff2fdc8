"""Knows how to find every process that descends from one of ours, wherever it went, and how to end it.

A program may fork, leave its session (setsid(2)) and let its parent end; neither process groups nor the tree of
parents leads to it then. But the environment that it was started with stays readable in /proc/<pid>/environ, so a
variable with a value of ours marks the whole family: proc_pid_environ(5).

This file doubles as the program of the guard, which ends the family should the comparison itself be killed; so it
imports nothing of underlay. It does not know what the processes do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from types import TracebackType
from typing import Self

# The kernel ends a killed process within milliseconds, unless it waits for a disk.
END_S = 2.0

_VARIABLE = "UNDERLAY_COMPARISON"


def marked(variable: str, value: str) -> list[int]:
    """Give the ids of the living processes, but for this one, that were started with this variable at this value.

    >>> marked("UNDERLAY_NOBODY_HAS_THIS", "1")
    []
    """
    entry = f"{variable}={value}".encode()
    found = []
    with contextlib.suppress(OSError):  # no /proc: no Linux
        for name in os.listdir("/proc"):
            if not name.isdecimal() or int(name) == os.getpid():
                continue
            try:
                with open(f"/proc/{name}/environ", "rb") as environ:
                    if entry in environ.read().split(b"\0"):
                        found.append(int(name))
            except OSError:  # it ended, or is another user's
                continue
    return found


def end_marked(variable: str, value: str) -> None:
    """Kill those processes, and those that they start meanwhile, until none is left."""
    deadline = time.monotonic() + END_S
    while (pids := marked(variable, value)) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


class Guard:
    """Ends all that is started within it, should this process be killed before it could do so itself.

    A small process that reads a pipe of ours; its end means that we are gone. The children that the kernel kills with
    us (`_load_process.py`) are only our own, not theirs.
    """

    def __enter__(self) -> Self:
        mark = uuid.uuid4().hex
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, _VARIABLE, mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that what kills our group does not kill it as well
        )
        os.environ[_VARIABLE] = mark
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.environ.pop(_VARIABLE, None)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Wait until the pipe on stdin ends, and then end the family named on the command line."""
    while os.read(0, 1):
        pass
    end_marked(*sys.argv[1:3])


if __name__ == "__main__":
    main()
