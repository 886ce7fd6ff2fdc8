"""A condition between processes: who has the mutex waits, without it, until another says that something changed.

This file knows who waits and whom a notice is for. It refuses to know what has changed.

A notice is for who waits longest and lives. It stands in that one's row of the table, so that it is not lost when
another is woken, and not given to a dead one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ._deadline import deadline
from ._mutex import AsyncMutex, Mutex, settled
from ._parties import Parties
from ._shared import slices
from ._threads import awaited

_WAITS, _NOTIFIED = 1, 2
_TURN = 3  # the word of the state, after those of the mutex


class Condition(Mutex):
    """A mutex whose holder can wait for a notice. As ``threading.Condition``, between processes.

    With a ``name`` it is the one that other processes of this user have by that name, or a new one; what that raises,
    `Mutex` says.

    >>> from underlay import ipc
    >>> condition = ipc.Condition()
    >>> with condition:
    ...     condition.notify()  # nobody waits
    ...     condition.wait(timeout_s=0)
    False
    >>> condition.close()
    """

    def wait(self, *, timeout_s: float | None = None) -> bool:
        """Release the mutex, wait for a notice, and get it again; False when the time was over.

        Raises `HolderDied` with the mutex held, as `acquire` does; ``UsageError`` where this thread has it not.
        """
        row = self._enter()
        try:
            for slice_s in slices(timeout_s):
                if self._notified(row, slice_s):
                    break
        finally:
            # `acquire` may raise, with the mutex held: the row goes all the same.
            try:
                self.acquire()
            finally:
                notified = self._end(row)
        return notified

    def _enter(self) -> int:
        self._check()
        self._must_hold("wait")
        self._state[_TURN] += 1
        row = self._waiting.enter(_WAITS, turn=self._state[_TURN])
        self.release()
        return row

    def _notified(self, row: int, slice_s: float) -> bool:
        seen = self._watched[0]
        if self._waiting.state(row) == _NOTIFIED:
            return True
        self._sleep(seen, slice_s)
        return self._waiting.state(row) == _NOTIFIED

    def _end(self, row: int) -> bool:
        notified = self._waiting.state(row) == _NOTIFIED
        self._waiting.leave(row)
        return notified

    def wait_for(self, predicate: Callable[[], bool], *, timeout_s: float | None = None) -> bool:
        """Wait until something is so; whether it is."""
        until_s = None if timeout_s is None else deadline(timeout_s)
        while not (result := predicate()):
            left_s = None if until_s is None else until_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                break
            self.wait(timeout_s=left_s)
        return result

    def notify(self, number: int = 1) -> None:
        """Wake so many of those that wait, who waits longest first. Raises ``UsageError`` without the mutex."""
        self._notify(number, "notify")

    def _notify(self, number: int, call: str) -> None:
        self._check()
        self._must_hold(call)
        waiting, left = self._waiting, number
        for row in waiting.rows(_WAITS):
            if not left:
                break
            if waiting.is_dead(row):
                waiting.leave(row)
            else:
                waiting.set_state(row, _NOTIFIED)
                left -= 1
        if left < number:
            self._wake()

    def notify_all(self) -> None:
        """Wake all that wait. Raises ``UsageError`` where this thread has not the mutex."""
        self._notify(len(self._parties), "notify_all")

    @property
    def _waiting(self) -> Parties:
        return Parties(self._parties)

    @property
    def aio(self) -> AsyncCondition:
        """The same for asyncio: ``async with condition.aio: await condition.aio.wait()``; all its calls are awaited."""
        if not isinstance(self._aio, AsyncCondition):
            self._aio = AsyncCondition(self)
        return self._aio


class AsyncCondition(AsyncMutex):
    """A condition for asyncio, all of whose calls are awaited: `notify` and `notify_all`, too. Else as `AsyncMutex`.

    >>> import asyncio
    >>> from underlay import ipc
    >>> async def main():
    ...     condition = ipc.Condition()
    ...     async with condition.aio:
    ...         await condition.aio.notify_all()  # nobody waits
    ...     condition.close()
    >>> asyncio.run(main())
    """

    def __init__(self, condition: Condition) -> None:
        super().__init__(condition)
        self._condition = condition

    async def wait(self) -> bool:
        """Release the mutex, wait for a notice, and get it again, also when the task is cancelled."""
        condition = self._condition
        row = await settled(self._run(condition._enter))
        self._turn.release()
        try:
            await awaited(lambda slice_s: condition._notified(row, slice_s) or None)
        finally:
            await self._again()
            notified = await settled(self._run(lambda: condition._end(row)))
        return notified

    async def _again(self) -> None:
        await settled(asyncio.ensure_future(self.acquire()))

    async def wait_for(self, predicate: Callable[[], bool]) -> bool:
        """Wait until something is so."""
        while not (result := predicate()):
            await self.wait()
        return result

    async def notify(self, number: int = 1) -> None:
        """Wake so many of those that wait."""
        await settled(self._run(lambda: self._condition.notify(number)))

    async def notify_all(self) -> None:
        """Wake all that wait."""
        await settled(self._run(self._condition.notify_all))
