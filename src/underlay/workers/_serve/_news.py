"""What a group tells on stderr: a line when it listens, one for each worker that is lost, one when none ever listened.

It knows the words; what happens it is told. None of it is about a worker that was
asked to end and did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import plural
from .._say import say
from ._supervisor import Cause, Policy

__all__ = ["Loss", "News"]

# A program that fails in more ways than that fails in a new way each time, which is shown each time.
_MOST_SHOWN = 64


@dataclass(frozen=True)
class Loss:
    """Why a worker is lost, as the rest of a sentence that begins with its name, and what mends it."""

    what: str
    remedy: str
    has_listened: bool = True


class News:
    """The lines of one group."""

    def __init__(self, program: str, policy: Policy) -> None:
        self._program = program
        self._policy = policy
        # While no worker has ever listened: lines that wait, because one sentence may stand for all of them.
        self._waiting: list[str] = []
        self._waits = True
        self._losses = 0
        self._last: Loss | None = None
        self._last_line = ""
        self._has_told_of_listening = False
        self._are_equal = True
        self._shown: set[str] = set()

    def given_up(self, cause: Cause, sentence: str) -> Loss:
        """Put into words why a worker is given up; ``sentence`` is its own, or empty."""
        policy = self._policy
        match cause:
            case Cause.SLOW:
                what = f"did not listen within {policy.start_s:g} s (--start-timeout) and is stopped"
                return Loss(what, "give it longer, if it needs longer")
            case Cause.SILENT:
                return Loss(f"gave no sign of life for {policy.health_s:g} s (--health) and is stopped", "")
        return Loss(f"lost one of its threads{_in_brackets(sentence)} and is stopped", _remedy(0, sentence))

    def ended(self, how: str, status: int, sentence: str, *, has_listened: bool) -> Loss:
        """Put into words how a worker ended by itself."""
        return Loss(f"{how}{_in_brackets(sentence)}", _remedy(status, sentence), has_listened)

    def lost(self, pid: int, loss: Loss, pause_s: float) -> None:
        """A worker is lost: tell why, and when the next starts."""
        then = f"the next starts in {pause_s:g} s" if pause_s else "the next starts now"
        self._last_line = f"worker {pid} {loss.what}{'' if loss.has_listened else ' before it listened'}"
        line = f"{self._last_line}; {then}"
        self._losses += 1
        self._are_equal = self._are_equal and self._last in (None, loss)
        self._last = loss
        if self._waits:
            self._waiting.append(line)
        else:
            say(line)

    def goes_on(self) -> None:
        """Another worker starts, or listens, or somebody stops the group: what waits to be told is told."""
        self._waits = False
        for line in self._waiting:
            say(line)
        self._waiting.clear()

    def never_listened(self) -> None:
        """The group ends because no worker ever listened: one sentence for all of them, where they are equal."""
        if self._last is None:  # none could even be started, as is said already
            return
        which = "its worker" if self._losses == 1 else f"each of its {self._losses} workers"
        if not self._are_equal:
            which = f"the last of its {self._losses} workers"
            self.goes_on()
        say(f"{self._program} never listened: {which} {self._last.what}; {self._last.remedy}")

    def is_new(self, traceback: str) -> bool:
        """Whether a traceback, by its digest, has not been shown since `restarts`."""
        is_new = traceback not in self._shown
        if len(self._shown) < _MOST_SHOWN:
            self._shown.add(traceback)
        return is_new

    def restarts(self) -> None:
        """The program may be another one now: its tracebacks are shown again."""
        self._shown.clear()

    def listens(self, places: Sequence[str], count: int, noun: str, control: str) -> None:
        """All workers listen for the first time, or all are new after a restart: tell it once."""
        if self._has_told_of_listening:
            say(f"restart done, {plural(count, f'new {noun}')}")
            return
        self._has_told_of_listening = True
        where = f", control {control}" if control else ""
        say(f"listening on {', '.join(places) or 'nowhere'}, {plural(count, noun)}{where}")

    def restart_failed(self) -> str:
        """Say why a restart is not done: the last worker lost was a new one."""
        return f"the restart failed: {self._last_line}" if self._last_line else "the restart failed"

    def killed(self, pid: int, *, at_once: bool) -> None:
        """A worker is killed: too slow to stop, or by a further signal."""
        why = "was told to stop once more" if at_once else f"did not stop in {self._policy.kill_after_s:g} s"
        say(f"worker {pid} {why} and is killed")


def _in_brackets(sentence: str) -> str:
    return f" ({sentence})" if sentence else ""


def _remedy(status: int, sentence: str) -> str:
    if sentence:
        return "mend that, then start it again"
    return "its own output should say why" if status else "a server listens, and serves until SIGTERM"
