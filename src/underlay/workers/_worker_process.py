"""A worker's process: started with words that nobody else can read, and gone when we are.

The words go through the process's standard input, which stays open: when the
executor's process ends, however that is, the other end sees it closed, and ends too.
This file knows both sides of that. It refuses to know what a worker does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

__all__ = ["WorkerProcess", "adopted", "remove_folder"]

# Where underlay is: `underlay run` may have found it by a path that is not the program's.
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# A worker ends as soon as its standard input is closed, by one call; what takes longer hangs.
_PATIENCE_S = 5.0
# What is said before a standard input is closed on purpose. The parent's id would not tell: a process that is killed
# closes its files before its children get another parent.
_GOODBYE = b"."


class WorkerProcess:
    """A process that runs ``main()`` of a module of this room."""

    def __init__(
        self,
        module: str,
        words: Mapping[str, object],
        *,
        pass_fds: Sequence[int] = (),
        ended: Callable[[WorkerProcess], None] | None = None,
    ) -> None:
        # Not -m, which would import underlay by the path of a new Python, and not this one's.
        path = sys.path if _ROOT in sys.path else [*sys.path, _ROOT]
        code = f"import sys; sys.path[:] = {path!r}; from {__package__}.{module} import main; main()"
        flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        environment = {name: value for name, value in os.environ.items() if name != "UNDERLAY_EXECUTOR"}
        self._process = subprocess.Popen(
            [sys.executable, *flags, "-c", code], stdin=subprocess.PIPE, pass_fds=pass_fds, env=environment
        )
        self._closing = False
        self._reaping = threading.Lock()
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(dict(words)).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # it died at once; whoever waits for it sees that
        if ended is not None:
            threading.Thread(target=self._watch, args=(ended,), name=f"{module}-watch", daemon=True).start()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def how_it_ended(self, timeout_s: float = _PATIENCE_S) -> str:
        """Say how it ended, as the end of a sentence."""
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return f"the worker {self.pid} hung up"
        if status < 0:
            try:
                name = signal.Signals(-status).name
            except ValueError:
                name = f"signal {-status}"
            return f"the worker {self.pid} was killed by {name}"
        return f"the worker {self.pid} ended with status {status}"

    def _watch(self, ended: Callable[[WorkerProcess], None]) -> None:
        self._process.wait()
        if not self._closing:
            ended(self)

    def close(self) -> None:
        """End the process; it is gone afterwards."""
        self._closing = True
        try:
            if self._process.stdin is not None:
                self._process.stdin.write(_GOODBYE)
                self._process.stdin.close()
        except OSError:
            pass
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def adopted(clear_away: Callable[[Mapping[str, object]], object] | None = None) -> dict[str, object]:
    """In the worker: read the words, and end with the process that started this one.

    ``clear_away(words)`` is called where that was killed, and cannot do it any more.
    """
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 65536)
        if not piece:
            os._exit(0)
        line += piece
    lifeline = os.dup(0)  # calls find an empty standard input
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    # Ctrl-C at a terminal reaches every process there; the one that started us decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    words: dict[str, object] = json.loads(line)

    def end_with_it() -> None:
        try:
            if os.read(lifeline, 1) != _GOODBYE and clear_away is not None:
                clear_away(words)
            sys.stdout.flush()
        finally:
            os._exit(0)

    threading.Thread(target=end_with_it, name="lifeline", daemon=True).start()
    return words


def remove_folder(words: Mapping[str, object]) -> None:
    """Remove the folder that the words name, if any."""
    if words["folder"] is not None:
        shutil.rmtree(str(words["folder"]), ignore_errors=True)
