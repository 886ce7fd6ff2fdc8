"""A barrier: so many processes or threads wait until all of them are there.

This file knows rounds and who is in one. It refuses to know what they do between two.

Who has arrived stands in a row of the table with the number of the round, and the round is over when its number is
counted on: one word, so that nobody's death leaves it half done.
"""

from __future__ import annotations

import itertools
import threading
from typing import Final

from ..errors import UsageError
from ._errors import BrokenBarrier
from ._guard import Guarded
from ._parties import Parties
from ._shared import MOST_PARTIES, SLICE_S, slices
from ._threads import awaited

_PARTIES, _ROUND, _BROKEN, _RESETS = range(4)


class Barrier(Guarded):
    """So many wait until all are there, again and again. As ``threading.Barrier``, between processes.

    Where a process dies that waits, or that was there in a round before and has neither closed it nor exited, the
    others get `BrokenBarrier` within a second. One that dies before it ever came is known to nobody: give a time-out.
    With a ``name`` it is the one that other processes of this user have by that name, for as many, or a new one. Raises
    ``UsageError`` where it is for less than one or too many, or others have it for another number; else as `Mutex`.

    >>> from underlay import ipc
    >>> barrier = ipc.Barrier(1)
    >>> barrier.wait()
    0
    >>> barrier.close()
    """

    def __init__(self, parties: int, *, name: str | None = None) -> None:
        if not 1 <= parties <= MOST_PARTIES:
            raise UsageError(f"a barrier cannot be for {parties}", remedy=f"it is for 1 to {MOST_PARTIES}")
        self._wanted = parties
        super().__init__(name=name)

    def _make(self) -> None:
        super()._make()
        self._state[_PARTIES] = self._wanted

    def _must_fit(self) -> None:
        super()._must_fit()
        if self._state[_PARTIES] != self._wanted:
            raise UsageError(
                f"{self} that others have is for {self._state[_PARTIES]}, and not for {self._wanted}",
                remedy="say the same number, or take another name",
            )

    @property
    def parties(self) -> int:
        """How many have to come."""
        self._check()
        return int(self._state[_PARTIES])

    @property
    def broken(self) -> bool:
        """Whether it is broken, until somebody calls `reset`."""
        self._check()
        return bool(self._state[_BROKEN])

    @property
    def n_waiting(self) -> int:
        """How many wait at this moment."""
        with self._guard():
            return 0 if self._state[_BROKEN] else self._table.states().count(self._state[_ROUND] + 1)

    def wait(self, *, timeout_s: float | None = None) -> int:
        """Wait until all are there; a number that is each one's own, from 0.

        Raises `BrokenBarrier`: also where the time is over, which breaks it for all.
        """
        index, current = self._arrive(threading.get_native_id())
        try:
            for slice_s in slices(timeout_s):
                if self._passed(current, slice_s):
                    return index
        except BrokenBarrier:
            raise
        except BaseException:
            self._break(current)
            raise
        if self._break(current):
            raise self._is_broken(f"not all came within {timeout_s:g} s")
        return index

    def _arrive(self, thread: int) -> tuple[int, tuple[int, int]]:
        with self._guard():
            state, table = self._state, self._table
            if state[_BROKEN]:
                raise self._is_broken("it was broken before")
            current = state[_ROUND], state[_RESETS]
            row = table.find(thread)
            if row is None:
                table.enter(current[0] + 1, thread=thread)
            else:
                table.set_state(row, current[0] + 1)
            arrived = table.states().count(current[0] + 1)
            if arrived == state[_PARTIES]:
                state[_ROUND] += 1
                self._wake()
            return arrived - 1, current

    def _passed(self, current: tuple[int, int], slice_s: float) -> bool:
        """Sleep a little; whether the round is over."""
        self._check()
        state = self._state
        seen = self._watched[0]
        if self._over(current):
            return True
        self._sleep(seen, slice_s)
        if self._over(current):
            return True
        if slice_s >= SLICE_S or self._watched[0] == seen:
            with self._guard():
                dead = next(self._table.dead(), None)
                if dead is not None and state[_ROUND] == current[0]:
                    died = self._table.process(dead)
                    self._call_off()
                    raise self._is_broken(f"process {died} died")
        return False

    def _over(self, current: tuple[int, int]) -> bool:
        state = self._state
        if state[_ROUND] != current[0]:
            return True
        if state[_BROKEN] or state[_RESETS] != current[1]:
            raise self._is_broken("one of the others died, or waited too long, or called it off")
        return False

    def _break(self, current: tuple[int, int]) -> bool:
        with self._guard():
            if (self._state[_ROUND], self._state[_RESETS]) != current:
                return False
            self._call_off()
            return True

    def _call_off(self) -> None:
        self._state[_BROKEN] = 1
        self._wake()

    def abort(self) -> None:
        """Break it: who waits, or comes, gets `BrokenBarrier`."""
        with self._guard():
            self._call_off()

    def reset(self) -> None:
        """Make it whole and empty again; who waits at this moment gets `BrokenBarrier`."""
        with self._guard():
            for row in range(len(self._parties) // 4):
                self._table.leave(row)
            self._state[_RESETS] += 1
            self._state[_BROKEN] = 0
            self._wake()

    def _leave(self) -> None:
        # Who exits while it is waited for by a thread of its own stays in the table, as a dead one.
        with self._guard():
            table: Parties = self._table
            for row in table.of_this_process():
                if table.state(row) != self._state[_ROUND] + 1:
                    table.leave(row)

    def _forget(self, thread: int) -> None:
        with self._guard():
            row = self._table.find(thread)
            if row is not None:
                self._table.leave(row)

    def _is_broken(self, why: str) -> BrokenBarrier:
        return BrokenBarrier(f"{self} is broken: {why}", remedy="call reset() once all are well again")

    @property
    def aio(self) -> AsyncBarrier:
        """The same for asyncio: ``await barrier.aio.wait()``; each task counts as one that comes."""
        return AsyncBarrier(self)


# Threads have numbers of up to 2**22 (proc(5), pid_max).
_FIRST_TASK: Final = 1 << 30
_tasks = itertools.count()


class AsyncBarrier:
    """A barrier for asyncio: `wait` is awaited, and each task counts as one that comes; else see `Barrier`."""

    def __init__(self, barrier: Barrier) -> None:
        self._barrier = barrier

    async def wait(self) -> int:
        """Wait until all are there; a number that is each one's own. A task that is cancelled breaks it for all."""
        who = _FIRST_TASK + next(_tasks) % _FIRST_TASK
        index, current = self._barrier._arrive(who)
        try:
            await awaited(lambda slice_s: self._barrier._passed(current, slice_s) or None)
        except BrokenBarrier:
            raise
        except BaseException:
            self._barrier._break(current)
            raise
        finally:
            self._barrier._forget(who)
        return index
