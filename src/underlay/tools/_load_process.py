"""Knows how to start a child that can't outlive us, and how to end it with all its own.

It does not know what the child does. Linux only where it must be: without prctl(2) a child is still
ended by every way that Python code can end, only not when the parent is killed by SIGKILL.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO

# <linux/prctl.h>: the signal that the kernel sends this process when the thread that started it
# ends.
PR_SET_PDEATHSIG = 1

# What a person, or a supervisor, ends us with.
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back for as long as a child is half started or half ended.

    Raised within `Popen`, a KeyboardInterrupt would leave a child that nobody knows of, or vanish in
    one of the callbacks after fork(2), whose exceptions are only printed.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTIONS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def tie_to_parent() -> Callable[[], None]:
    """Give a `preexec_fn` that asks the kernel to kill the child when its parent dies.

    It also gives the child back the signals that `uninterrupted` holds back in us.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def tie() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTIONS)
        if hasattr(libc, "prctl"):
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return tie


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    stdin: int = subprocess.DEVNULL,
    stdout: int | BinaryIO = subprocess.PIPE,
    stderr: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a child that leads a process group of its own and dies with us.

    Call it in an `__enter__`, not in an `__init__`: between the making of an object and its `with`
    Python may raise a KeyboardInterrupt, and nobody would end the child.
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with uninterrupted():
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                start_new_session=True,
                preexec_fn=tie_to_parent(),
            )
    except BaseException:  # a signal that was held back strikes as soon as it may
        if process is not None:
            end_group(process, grace_s=0)
        raise
    return process


def end_group(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """End a child and its process group: SIGTERM, `grace_s` seconds, then SIGKILL."""
    with uninterrupted():
        if grace_s > 0 and process.poll() is None:
            _signal_group(process.pid, signal.SIGTERM)
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                pass
        # The leader may be gone while its children still run: the group lives as long as one member does.
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 1.0
        while _signal_group(process.pid, 0) and time.monotonic() < deadline:
            time.sleep(0.005)


def _signal_group(group: int, number: int) -> bool:
    """Signal a process group; False if it has no member any more."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
