"""A program at a terminal, as a person sees it there, or before a pipe that nobody reads.

It knows pseudo-terminals (pty(7)) and pipes. It refuses to know what any program draws.
"""

from __future__ import annotations

import codecs
import os
import pty
import select
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

# A program that says nothing for so long hangs; nothing is measured by it.
PATIENCE_S = 60


@contextmanager
def unread_pipe() -> Iterator[tuple[int, Callable[[], None]]]:
    """A pipe's end to give a program as its stdout, and what fills it: nobody reads the other end."""
    unread, output = os.pipe()

    def fill() -> None:
        # Another open of it, since not to wait is a matter of the open file, which the program has too: open(2).
        full = os.open(f"/proc/self/fd/{output}", os.O_WRONLY | os.O_NONBLOCK)
        try:
            while True:
                os.write(full, bytes(1))
        except BlockingIOError:
            pass
        finally:
            os.close(full)

    try:
        yield output, fill
    finally:
        os.close(output)
        os.close(unread)


class Terminal:
    """A program on a terminal of 80 columns; the `with` block's end is the program's at the latest."""

    def __init__(
        self, arguments: Sequence[str], folder: Path | None, environment: Mapping[str, str], *, rows: int = 24
    ) -> None:
        self._master, slave = pty.openpty()
        environment = {**environment, "TERM": "xterm", "COLUMNS": "80", "LINES": f"{rows}"}
        environment.pop("NO_COLOR", None)
        self.child = subprocess.Popen(
            arguments, cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.child.kill()
        self.child.wait()
        if self._master >= 0:
            os.close(self._master)

    def read(self, until: Callable[[str], bool] = lambda seen: False) -> None:
        """Read until that is so, or the program has ended."""
        while not until(self.seen):
            assert select.select([self._master], [], [], PATIENCE_S)[0], f"it says no more after\n{self.seen}"
            try:
                data = os.read(self._master, 65536)
            except OSError:  # EIO: nobody has the other end any more
                return
            if not data:
                return
            self.seen += self._decoder.decode(data)

    @property
    def has_a_cursor(self) -> bool:
        """Whether one is shown, as far as was read (console_codes(4), DECTCEM)."""
        return self.seen.rfind("\x1b[?25h") >= self.seen.rfind("\x1b[?25l")

    def end(self) -> int:
        """Its exit status."""
        self.read()
        status = self.child.wait(PATIENCE_S)
        os.close(self._master)
        self._master = -1
        return status
