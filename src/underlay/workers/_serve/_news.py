"""What a group tells on stderr: one line when it listens, one for each worker that is lost, one when it cannot go on.

It knows the words and to whom they go; what happens it is told. No line is said
twice, and none of it is about a worker that was asked to end.
"""

from __future__ import annotations

import sys

from ._supervisor import Cause, Policy

__all__ = ["News", "say"]


class News:
    """The lines of one group."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def why(self, cause: Cause, sentence: str) -> str:
        """Say in words why a worker is given up; ``sentence`` is its own, or empty."""
        match cause:
            case Cause.SLOW:
                return f"did not listen within {self._policy.start_s:g} s (--start-timeout) and is stopped"
            case Cause.SILENT:
                return f"gave no sign of life for {self._policy.health_s:g} s (--health) and is stopped"
        return f"lost one of its threads{_in_brackets(sentence)} and is stopped"

    def ended(self, how: str, sentence: str, *, has_listened: bool) -> str:
        """Say in words how a worker ended by itself."""
        return f"{how}{'' if has_listened else ' before it listened'}{_in_brackets(sentence)}"

    def lost(self, pid: int, what: str, pause_s: float) -> None:
        """A worker is lost: tell why, and when the next starts."""
        then = f"the next starts in {pause_s:g} s" if pause_s else "the next starts now"
        say(f"worker {pid} {what}; {then}")

    def killed(self, pid: int, *, at_once: bool) -> None:
        """A worker is killed: too slow to stop, or by a further signal."""
        why = "was told to stop once more" if at_once else f"did not stop in {self._policy.kill_after_s:g} s"
        say(f"worker {pid} {why} and is killed")


def say(sentence: str) -> None:
    """Print a line of ours, where there is somewhere to print."""
    if sys.stderr is not None:
        print(f"underlay: {sentence}", file=sys.stderr, flush=True)


def _in_brackets(sentence: str) -> str:
    return f" ({sentence})" if sentence else ""
