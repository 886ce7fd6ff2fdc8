"""A lock that many readers or one writer have.

This file knows who has it and who waits. It refuses to know what is read and written.

All of it stands in the table, a row for each that has it or is a writer and waits; so a dead one is taken off and
nothing else has to be put right.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

from ._errors import HolderDied
from ._guard import Guarded
from ._parties import Parties
from ._shared import DAMAGED, slices
from ._threads import awaited

_READS, _WRITES, _WILL_WRITE = 1, 2, 3


class ReadWriteLock(Guarded):
    """Many read, or one writes. A writer that waits comes before readers that come later.

    A reader that dies is taken off. After a writer's death whoever comes gets `HolderDied`, until one says
    `mark_consistent`; or ``recover`` is called, where the next writer has it. Who reads must not ask once more while it
    reads: a writer that waits in between would wait for ever for it. With a ``name`` it is the one that other processes
    of this user have by that name, or a new one; what that raises, `Mutex` says.

    >>> from underlay import ipc
    >>> lock = ipc.ReadWriteLock()
    >>> with lock.reading():
    ...     pass
    >>> with lock.writing(timeout_s=1):
    ...     pass
    >>> lock.close()
    """

    def __init__(self, *, recover: Callable[[], object] | None = None, name: str | None = None) -> None:
        super().__init__(name=name)
        self.recover = recover

    def _died_inside(self, state: memoryview, parties: memoryview) -> int:
        table = Parties(parties)
        return int(state[DAMAGED]) or next(map(table.process, table.rows(_WRITES)), 0)

    recover: Callable[[], object] | None = None

    @contextlib.contextmanager
    def reading(self, *, timeout_s: float | None = None) -> Iterator[None]:
        """Read, beside other readers. Raises ``TimeoutError`` and `HolderDied`, and then has it not."""
        row = self._wait(_READS, timeout_s)
        try:
            self._look(row)
            yield
        finally:
            self._release(row)

    @contextlib.contextmanager
    def writing(self, *, timeout_s: float | None = None) -> Iterator[None]:
        """Write, alone. Raises ``TimeoutError`` and `HolderDied`, and then has it not."""
        row = self._wait(_WRITES, timeout_s)
        try:
            self._look(row)
            yield
        finally:
            self._release(row)

    def mark_consistent(self) -> None:
        """What it guards is in order again after a writer's death."""
        self._check()
        self._state[DAMAGED] = 0

    # --- how it is got and given back ---

    def _wait(self, state: int, timeout_s: float | None) -> int:
        claim = self._claim(state)
        try:
            if self._get(claim, state):
                return claim[0]
            for slice_s in slices(timeout_s):
                if self._get(claim, state, slice_s):
                    return claim[0]
        except BaseException:
            self._give_up(claim)
            raise
        self._give_up(claim)
        what = "read" if state == _READS else "written"
        raise TimeoutError(f"{self} could not be {what} within {timeout_s:g} s: others have it")

    def _claim(self, state: int) -> list[int]:
        """The row of a writer that waits, or none yet."""
        if state == _READS:
            self._check()
            return []
        with self._guard():
            return [self._table.enter(_WILL_WRITE, keep=_WRITES)]

    def _get(self, claim: list[int], state: int, slice_s: float = 0) -> bool:
        """Sleep a little; whether it is ours."""
        self._check()
        seen = self._watched[0]
        if self._try(claim, state):
            return True
        self._sleep(seen, slice_s)
        if self._watched[0] == seen:
            self._bury()  # nobody gives anything back: perhaps nobody is there any more who could
        return self._try(claim, state)

    def _bury(self) -> None:
        with self._guard():
            table = self._table
            for row in table.dead():
                if table.state(row) == _WRITES:
                    self._state[DAMAGED] = table.process(row)
                table.leave(row)

    def _try(self, claim: list[int], state: int) -> bool:
        with self._guard():
            table = self._table
            if self._hinder(table.states(), state):
                return False
            if claim:
                table.set_state(claim[0], _WRITES)
            else:
                claim.append(table.enter(_READS, keep=_WRITES))
            return True

    @staticmethod
    def _hinder(others: list[int], state: int) -> bool:
        if state == _READS:
            return _WRITES in others or _WILL_WRITE in others
        return _WRITES in others or _READS in others

    def _give_up(self, claim: list[int]) -> None:
        if claim:
            self._release(claim[0])

    def _release(self, row: int) -> None:
        with self._guard():
            self._table.leave(row)
            self._wake()

    def _look(self, row: int) -> None:
        if not self._state[DAMAGED]:
            return
        if self.recover is None or self._table.state(row) != _WRITES:
            raise HolderDied(
                f"process {self._state[DAMAGED]} died while it wrote under {self}: that may be half done",
                remedy="put it in order and call mark_consistent(), or give recover=",
            )
        self.recover()
        self.mark_consistent()

    @property
    def aio(self) -> AsyncReadWriteLock:
        """The same for asyncio: ``async with lock.aio.reading():`` and ``writing()``."""
        return AsyncReadWriteLock(self)


class AsyncReadWriteLock:
    """A read-write lock for asyncio: ``async with lock.aio.reading():``, or ``writing()``; time-outs are asyncio's."""

    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Read, beside other readers. Raises `HolderDied`."""
        async with self._having(_READS):
            yield

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write, alone. Raises `HolderDied`."""
        async with self._having(_WRITES):
            yield

    @contextlib.asynccontextmanager
    async def _having(self, state: int) -> AsyncIterator[None]:
        lock = self._lock
        claim = lock._claim(state)
        try:
            await awaited(lambda slice_s: lock._get(claim, state, slice_s) or None)
            lock._look(claim[0])
            yield
        finally:
            lock._give_up(claim)
