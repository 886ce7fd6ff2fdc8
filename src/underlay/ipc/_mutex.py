"""A mutex between processes: one at a time has it, and its death while it has it is told to the next.

This file knows who has it and what follows from a death. It refuses to know what is guarded.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from ..errors import UsageError
from . import _robust
from ._errors import HolderDied
from ._shared import DAMAGED, Shared, slices
from ._threads import SLICE_S

Result = TypeVar("Result")
_held_for_ever: list[mmap.mmap] = []
# The words of the state.
_DAMAGED, _HOLDER, _THREAD = DAMAGED, 1, 2


class Mutex(Shared):
    """One thread of one process at a time has it; whoever gets it after its holder died inside is told: `HolderDied`.

    What it guards may then be half done. ``recover`` is called, where it is given, with the mutex held, to put that in
    order; it is this process's own and does not go along to another one. With a ``name`` it is the one that other
    processes of this user have by that name, or a new one. Raises then ``UsageError`` for a name that cannot be or by
    which others have something else, `NameTaken` where a file lies there that is none of ours, and `FolderLocked`.

    >>> from underlay import ipc
    >>> mutex = ipc.Mutex()
    >>> with mutex:
    ...     pass  # nobody else is here
    >>> mutex.close()
    """

    def __init__(self, *, recover: Callable[[], object] | None = None, name: str | None = None) -> None:
        super().__init__(name=name)
        self.recover = recover

    def _make(self) -> None:
        _robust.create(self._at)

    def _died_inside(self, state: memoryview, parties: memoryview) -> int:
        return int(state[_DAMAGED] or state[_HOLDER])

    recover: Callable[[], object] | None = None
    _aio: AsyncMutex | None = None

    def acquire(self, *, timeout_s: float | None = None) -> bool:
        """Get it; wait while another has it. False when the time was over.

        Raises `HolderDied` with the mutex held, where a holder died inside and nobody said `mark_consistent` since;
        ``UsageError`` where this thread has it already.
        """
        if not self._lock(timeout_s):
            return False
        if self._state[_DAMAGED]:
            if self.recover is None:
                raise self._holder_died()
            try:
                self.recover()
            except BaseException:
                self.release()
                raise
            self.mark_consistent()
        return True

    def _lock(self, timeout_s: float | None) -> bool:
        if self.held:
            raise UsageError(f"this thread has {self} already", remedy="release it first")
        try:
            got = _robust.lock(self._at, 0)
            if got is _robust.Got.BUSY:
                for slice_s in slices(timeout_s):
                    got = _robust.lock(self._at, slice_s)
                    if got is not _robust.Got.BUSY:
                        break
                else:
                    return False
        except BaseException:
            _robust.let_go(self._at)
            raise
        state = self._state
        if got is _robust.Got.HOLDER_DIED:
            # The damage is noted first: should we die here, too, the next one is told of both.
            state[_DAMAGED] = state[_HOLDER] or 1
            _robust.make_consistent(self._at)
        state[_HOLDER] = os.getpid()
        state[_THREAD] = threading.get_ident()
        return True

    def release(self) -> None:
        """Give it back. Raises ``UsageError`` where this thread does not have it."""
        self._check()
        self._must_hold("release")
        self._state[_HOLDER] = 0
        _robust.unlock(self._at)

    def mark_consistent(self) -> None:
        """What it guards is in order again after a holder's death. Raises ``UsageError`` without it."""
        self._check()
        self._must_hold("mark_consistent")
        self._state[_DAMAGED] = 0

    @property
    def held(self) -> bool:
        """Whether this thread has it."""
        self._check()
        state = self._state
        return bool(state[_HOLDER] == os.getpid() and state[_THREAD] == threading.get_ident())

    def _must_hold(self, call: str) -> None:
        if not self.held:
            if self._aio is not None and self._aio._has_it():
                raise UsageError(f"a task has {self}, and not this thread", remedy=f"await aio.{call}()")
            raise UsageError(f"this thread does not have {self}", remedy="acquire it first")

    def _holder_died(self) -> HolderDied:
        return HolderDied(
            f"process {self._state[_DAMAGED]} died while it had {self}: what it guards may be half done",
            remedy="put that in order and call mark_consistent(), or give recover=",
        )

    def __enter__(self) -> Mutex:
        try:
            self.acquire()
        except HolderDied as died:
            self.release()  # there is no body that could do it; whoever comes next is told, too
            died.remedy = "give recover=, or call acquire() in place of the with: then it is held, to be put in order"
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def aio(self) -> AsyncMutex:
        """The same for asyncio: ``async with mutex.aio:``, or ``await mutex.aio.acquire()`` and ``release()``."""
        if self._aio is None:
            self._aio = AsyncMutex(self)
        return self._aio

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        if self.held:
            # Nobody can release it any more: whoever waits is told when this process ends. Until then it stays mapped,
            # for glibc's list of what this thread has goes through it, and the next mutex would be written beside it.
            _held_for_ever.append(self._map)
            self._closed = True
            os.close(self._descriptor)
        else:
            super().__del__()

    def close(self) -> None:
        """Let go of it in this process. Raises ``UsageError`` where this thread has it."""
        if not self.closed:
            if self.held:
                raise UsageError(f"this thread has {self}", remedy="release it before it is closed")
            if self._aio is not None:
                self._aio._end()
        super().close()


class AsyncMutex:
    """A mutex for asyncio: `acquire`, `release` and `mark_consistent` are awaited; ``async with mutex.aio:`` has it.

    The thread that has it is one of its own, so that one task at a time has it, and the calls of the mutex itself are
    refused meanwhile. Time-outs are asyncio's own.

    >>> import asyncio
    >>> from underlay import ipc
    >>> async def main():
    ...     mutex = ipc.Mutex()
    ...     async with asyncio.timeout(1), mutex.aio:
    ...         pass  # no other task and no other process is here
    ...     mutex.close()
    >>> asyncio.run(main())
    """

    def __init__(self, mutex: Mutex) -> None:
        self._mutex = mutex
        self._threads: ThreadPoolExecutor | None = None
        self._made_in = self._thread = 0
        self._turn: asyncio.Lock = asyncio.Lock()

    async def acquire(self) -> bool:
        """Get it; wait while another has it. Raises as `Mutex.acquire` does; a call that is cancelled has it not."""
        turn = self._turn
        await turn.acquire()
        try:
            while True:
                attempt = self._run(lambda: self._mutex.acquire(timeout_s=SLICE_S))
                try:
                    if await asyncio.shield(attempt):
                        return True
                except asyncio.CancelledError:
                    if await settled(attempt):
                        await settled(self._run(self._mutex.release))
                    raise
        except HolderDied as died:
            died.remedy = "put that in order and await aio.mark_consistent(), or give recover="
            raise  # with the mutex held
        except BaseException:
            turn.release()
            raise

    async def release(self) -> None:
        """Give it back."""
        await settled(self._run(self._mutex.release))
        self._turn.release()

    async def mark_consistent(self) -> None:
        """What it guards is in order again after a holder's death."""
        await settled(self._run(self._mutex.mark_consistent))

    def _run(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        """Do something in the thread that has the mutex."""
        if self._threads is None or self._made_in != os.getpid():
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="underlay.ipc", initializer=self._begin)
            self._made_in = os.getpid()
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _begin(self) -> None:
        self._thread = threading.get_ident()

    def _has_it(self) -> bool:
        """Whether the thread of this face has the mutex."""
        state = self._mutex._state
        return bool(state[_HOLDER] == os.getpid() == self._made_in and state[_THREAD] == self._thread)

    def _end(self) -> None:
        """End its thread."""
        if self._threads is not None and self._made_in == os.getpid():
            self._threads.shutdown()

    async def __aenter__(self) -> AsyncMutex:
        try:
            await self.acquire()
        except HolderDied as died:
            await self.release()
            died.remedy = (
                "give recover=, or await aio.acquire() in place of the with: then it is held, to be put in order"
            )
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()


async def settled(future: asyncio.Future[Result]) -> Result:
    """What a future gives, though the task be cancelled meanwhile; then that is raised once it is settled."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            if future.done() and future.cancelled():
                raise
            cancelled = error
        except BaseException:
            break
    result = future.result()
    if cancelled is not None:
        raise cancelled
    return result
