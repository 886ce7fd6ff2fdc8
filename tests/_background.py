"""Commands that run beside the tests, on the processors that tests which run one after another leave idle.

Worker processes take them from the end of a list, and who asks for a result that nobody has begun with runs the
command itself: so nothing waits longer than it would without the workers, and they meet in the middle. It knows
processes and a folder of files, in which whoever creates the claim of a command is the one that runs it. It does not
know what a command shows.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# The tests and what runs beside them wait half of their time, for each other, for a time to pass or a process to start:
# with one worker, `time make test` showed a load of one on two processors.
WORKERS = 2

# How often who waits for a worker looks; a tenth of what the shortest command takes.
LOOK_EVERY_S = 0.02

# How often a worker looks whether the tests have died, which would leave it to itself.
LOOK_FOR_TESTS_EVERY_S = 1.0

# What an interrupted command may take to end its own children before it is killed.
ENDS_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments, run in the repository's root; no environment means the caller's."""

    arguments: list[str]
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class Background:
    """A list of commands by name, their workers, and a folder of their own for what they read and write."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="underlay-background-"))
        self._commands: dict[str, Command] = {}
        self._workers: list[subprocess.Popen[bytes]] = []

    def add(self, name: str, command: Command) -> None:
        """Put a command at the end of the list. Of one name, the first is kept; after `begin`, who asks runs it."""
        self._commands.setdefault(name, command)

    def begin(self) -> None:
        """Start the workers, if there is something to do."""
        if not self._commands:
            return
        listed = [{"name": name, **asdict(command)} for name, command in self._commands.items()]
        (self.folder / "commands").write_text(json.dumps(listed))
        for _ in range(WORKERS):
            # A session of its own: Ctrl-C reaches it through `end`, once, which also waits for it.
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests._background", str(self.folder), str(os.getpid())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._workers.append(worker)

    def result(self, name: str) -> Done:
        """How the command ended: at once if it has, else when a worker is through with it, else by running it.

        Raises KeyError if no command has that name.
        """
        command = self._commands[name]
        told = self.folder / f"{name}.done"
        if _claim(self.folder, name):
            _run(self.folder, name, command)
        while not told.exists():
            # One was killed, or failed itself, with the claim in its hand.
            if all(worker.poll() is not None for worker in self._workers) and not told.exists():
                _run(self.folder, name, command)
                break
            time.sleep(LOOK_EVERY_S)
        return Done(**json.loads(told.read_text()))

    def end(self) -> None:
        """End the workers and what they run, and remove the folder."""
        running = [worker for worker in self._workers if worker.poll() is None]
        for worker in running:
            worker.send_signal(signal.SIGINT)
        for worker in running:
            try:
                worker.wait(2 * ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@functools.cache
def background() -> Background:
    """The one of this test run; `conftest.py` begins it when all tests are collected, and ends it."""
    return Background()


def _claim(folder: Path, name: str) -> bool:
    try:
        os.close(os.open(folder / f"{name}.claim", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _run(folder: Path, name: str, command: Command, wanted: Callable[[], bool] = lambda: True) -> None:
    """Run it to its end; if that is cut short, here or because it is wanted no more, it may end its own children."""
    with subprocess.Popen(
        command.arguments,
        cwd=ROOT,
        env=command.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C reaches it once, from here: a second would come into what it does because of the first.
        start_new_session=True,
    ) as child:
        try:
            while True:
                try:
                    stdout, stderr = child.communicate(timeout=LOOK_FOR_TESTS_EVERY_S)
                    break
                except subprocess.TimeoutExpired:
                    if not wanted():
                        raise KeyboardInterrupt from None
        except BaseException:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                child.kill()
            raise
    new = folder / f"{name}.new"
    new.write_text(json.dumps(asdict(Done(child.returncode, stdout, stderr))))
    new.rename(folder / f"{name}.done")


def main(folder: Path, tests_pid: int) -> None:
    """Work through the list from its end, while the tests that want it still run."""

    def wanted() -> bool:
        return os.getppid() == tests_pid

    try:
        for told in reversed(json.loads((folder / "commands").read_text())):
            name = told.pop("name")
            if wanted() and _claim(folder, name):
                _run(folder, name, Command(**told), wanted)
    finally:
        if not wanted():
            shutil.rmtree(folder, ignore_errors=True)  # nobody else will


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit(130)  # ended by SIGINT, as a shell tells it
