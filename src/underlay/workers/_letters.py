"""Calls that are on their way to workers elsewhere, and who waits for the answer of each.

This file knows that an answer, a death or a break of the way ends the waiting. It refuses to know any engine.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from ._pool import WorkerDied

__all__ = ["Letters"]


@dataclass
class _Letter:
    answer: Future[bytes] = field(default_factory=Future)
    last_sign_s: float | None = None


class Letters:
    """The calls on their way. A lane posts and waits; another thread brings answers, or says why there will be none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._some = threading.Condition(self._lock)
        self._open: dict[str, _Letter] = {}
        self._over = ""

    def post(self, call_id: str) -> Future[bytes]:
        """Note a call; its answer comes in the future. Raises ``WorkerDied`` where none will come any more."""
        with self._lock:
            if self._over:
                raise WorkerDied(self._over)
            letter = self._open[call_id] = _Letter()
            self._some.notify_all()
            return letter.answer

    def answer(self, call_id: str, packed: bytes) -> None:
        """Bring the answer of a call; one that nobody waits for is dropped."""
        if (letter := self._take(call_id)) is not None:
            letter.answer.set_result(packed)

    def fail(self, call_id: str, how: str) -> None:
        """Say that a call will have no answer."""
        if (letter := self._take(call_id)) is not None:
            letter.answer.set_exception(WorkerDied(how))

    def fail_all(self, how: str) -> None:
        """Say that no call will have an answer, now and later."""
        with self._lock:
            self._over = self._over or how
            letters = list(self._open)
            self._some.notify_all()
        for call_id in letters:
            self.fail(call_id, how)

    def sign_of_life(self, call_id: str) -> None:
        """A worker says that it is still at a call."""
        with self._lock:
            if (letter := self._open.get(call_id)) is not None:
                letter.last_sign_s = time.monotonic()

    def fail_silent(self, silence_s: float) -> None:
        """Give up calls whose workers said that they began, and nothing since."""
        latest = time.monotonic() - silence_s
        with self._lock:
            silent = [
                call_id
                for call_id, letter in self._open.items()
                if letter.last_sign_s is not None and letter.last_sign_s < latest
            ]
        for call_id in silent:
            self.fail(call_id, f"its worker gave no sign of life for {silence_s:g} s")

    def wait_for_some(self) -> bool:
        """Wait until a call is on its way; False when it is all over."""
        with self._lock:
            while not self._open and not self._over:
                self._some.wait()
            return not self._over

    def _take(self, call_id: str) -> _Letter | None:
        with self._lock:
            return self._open.pop(call_id, None)
