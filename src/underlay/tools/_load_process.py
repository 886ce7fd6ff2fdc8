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
from collections.abc import Callable

# <linux/prctl.h>: the signal that the kernel sends this process when the thread that started it
# ends.
PR_SET_PDEATHSIG = 1


def tie_to_parent() -> Callable[[], None]:
    """Give a `preexec_fn` that asks the kernel to kill the child when its parent dies."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def tie() -> None:
        if hasattr(libc, "prctl"):
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return tie


def end_group(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """End a child and its process group: SIGTERM, `grace_s` seconds, then SIGKILL."""
    if grace_s > 0 and process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            pass
    # The leader may be gone while its children still run: the group lives as long as one member
    # does.
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
