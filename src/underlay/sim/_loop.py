"""The event loop of one simulated host: asyncio as ever, where waiting is to hand the time back to the world.

This file knows what a loop does at one instant, and that threads, descriptors and processes are not to be had. It
refuses to know when the next instant is: that is `World`'s.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import signal
import sys
from _thread import get_ident as _get_ident
from asyncio import events
from asyncio.events import _set_running_loop
from asyncio.sslproto import SSLProtocol
from asyncio.tasks import _unregister_task
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Sized
from concurrent.futures import Executor
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple, Unpack, cast
from weakref import WeakValueDictionary

from ..errors import UnderlayError
from ..loop._bridge import FIRST_NUMBER
from ..loop._io_stack import StackLoop
from ..loop._reactor import READ, WRITE
from ..loop._transport import StreamTransport
from ._bridge import SimBridge
from ._names import look_up
from ._refusals import USE_A_HOST, refusal
from ._unix import bound

if TYPE_CHECKING:
    from ..loop._stack_names import Names
    from ..loop._stack_socket import StackSocket
    from ._entry import Entry
    from ._host import Host

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

# Turns of one loop at one instant. A program that calls itself soon for ever makes no time pass; a million turns are
# seconds of a real machine's.
MOST_TURNS: Final = 1_000_000

# What it costs a host to hand a call to a thread and its result back, unless told otherwise: two switches of threads
# and a write to the loop's pipe, as the design's figures have them.
THREAD_COST_S: Final = 50e-6

# Of turns with callbacks that wait anyway, one in eight looks at the sockets; a power of two less one.
_LOOKS_EVERY: Final = 7


class SimPoller:
    """A ``Poller`` that watches a host's own sockets, and none of the real machine's; nobody waits by it."""

    def __init__(self, bridge: SimBridge) -> None:
        self._bridge = bridge

    def add(self, fd: int, events: int) -> None:
        """Watch a socket of the host's."""
        if fd < FIRST_NUMBER:
            raise refusal(
                f"a simulated host was asked to watch the descriptor {fd} of the real machine",
                "pipes, files and sockets made outside of the simulation would make a run impossible to repeat",
            )
        self._bridge.watch(fd, events)

    modify = add

    def remove(self, fd: int) -> None:
        """Forget it."""
        if fd >= FIRST_NUMBER:
            try:
                self._bridge.watch(fd, 0)
            except OSError:
                pass  # it is closed, and forgotten already

    def wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Never called: `SimLoop.turn` asks the bridge itself."""
        raise NotImplementedError

    def close(self) -> None:
        """There is nothing."""


class SimLoop(StackLoop):
    """asyncio on a simulated host. It is run by its world, never by itself."""

    _transports: WeakValueDictionary[int, StreamTransport]
    _thread_id: int | None
    _asyncgens: Sized

    def __init__(self, bridge: SimBridge, host: Host) -> None:
        self._host = host
        # The function by which the program began, as long as it has not returned, and whether it is to go on.
        self.entry: Entry | None = None
        self.is_stopped = False
        super().__init__(bridge, owns_network=False, poller=SimPoller(bridge))
        self.time = bridge.now  # type: ignore[method-assign]
        self.create_future = partial(SimFuture, loop=self)  # type: ignore[method-assign]
        self._tasks: InOrder[asyncio.Task[Any]] = InOrder()
        self.set_task_factory(_make_task)
        self.signal_callbacks: dict[int, tuple[Callable[..., object], tuple[object, ...]]] = {}
        self._ready_in_turn = self._ready
        self._ready_outside = self._ready = _Waking(host)

    # Nobody writes to a loop from another thread, so there is no pipe to be woken by.

    def _make_self_pipe(self) -> None:
        self._internal_fds = 0

    def _close_self_pipe(self) -> None:
        pass

    def _write_to_self(self) -> None:
        self._host.wake()

    # --- one instant ----------------------------------------------------------------------------------------

    def turn(self) -> float | None:
        """Do all that can be done without time passing; give the seconds until a timer is due, None for never."""
        bridge, host = self._bridge, self._host
        ready = self._ready_in_turn
        if self._ready_outside:
            ready.extend(self._ready_outside)
            self._ready_outside.clear()
        self._ready = ready
        self._thread_id = _get_ident()
        _set_running_loop(self)
        try:
            for number in range(MOST_TURNS):
                # `ReactorLoop._run_once`, but that callbacks which wait go before a look at the sockets: at one instant
                # nothing comes but from the host itself. Now and then it looks all the same, lest a program that spins
                # until it is told something is never told.
                if (not ready or not ~number & _LOOKS_EVERY) and (found := bridge.ready()):
                    self._queue_sockets(found)
                if self._scheduled:
                    self._queue_due_timers()
                if not ready:
                    bridge.settle()
                    if found := bridge.ready():  # the host may have sent itself something
                        self._queue_sockets(found)
                    if not ready:
                        return self._next_timer_s(None) if self._scheduled else None
                if self._debug:
                    self._run_ready_and_time_it()
                else:
                    for _ in range(len(ready)):
                        handle = ready.popleft()
                        if not handle._cancelled:
                            try:
                                handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
                            except (SystemExit, KeyboardInterrupt):
                                raise
                            except BaseException as error:
                                self._report_callback(handle, error)
                if host.is_busy or self.is_stopped:
                    return None
        finally:
            _set_running_loop(None)
            self._thread_id = None
            self._ready = self._ready_outside
        raise UnderlayError(
            f"the program on {self._host.name} ran {MOST_TURNS:,} turns of its loop at one instant",
            remedy="it calls itself again and again without awaiting time or the network; asyncio.sleep(0) is neither",
        )

    def _queue_sockets(self, found: list[tuple[int, int]]) -> None:
        for fd, mask in found:
            if mask == READ:  # nearly all of them
                if fd in self._readers:
                    self._ready_in_turn.append(self._readers[fd])
                continue
            if mask & ~WRITE and fd in self._readers:
                self._ready_in_turn.append(self._readers[fd])
            if mask & ~READ and fd in self._writers:
                self._ready_in_turn.append(self._writers[fd])

    def end(self) -> list[asyncio.Task[Any]]:
        """The machine is off: nothing runs any more. Gives the tasks that had not ended, for `bury`."""
        tasks = self.tasks()
        for transport in list(self._transports.values()):
            transport._sock, transport._closing = None, True  # it was not closed, and that is no news
            protocol = transport.get_protocol()
            if isinstance(protocol, SSLProtocol) and protocol._app_transport is not None:
                protocol._app_transport._closed = True
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.close()
        return tasks

    def bury(self, tasks: list[asyncio.Task[Any]]) -> None:
        """Let go of tasks that will never end, now, and not whenever garbage is collected, in another's turn."""
        _set_running_loop(self)
        try:
            for task in tasks:
                coroutine: object = task.get_coro()
                try:
                    if isinstance(coroutine, Coroutine | Generator):  # None of an eager task that never waited
                        coroutine.close()
                except Exception:
                    pass  # a `finally` block on a machine that is off: whatever it says is no news
        finally:
            _set_running_loop(None)
        if self.entry is not None:
            self.entry.bury()

    def note_task(self, task: asyncio.Task[Any]) -> None:
        """It begins here."""
        self._tasks.add(task)

    def forget_task(self, task: asyncio.Task[Any]) -> None:
        """It does nothing here any more, whatever it says of itself."""
        _unregister_task(task)
        self._tasks.discard(task)

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Those that have not ended, in the order in which they began; `asyncio.all_tasks` asks those of all loops."""
        if sys.version_info >= (3, 14):  # `_order.py` tells why
            return sorted(asyncio.all_tasks(self), key=_begun)
        return [task for task in self._tasks if not task.done()]

    @property
    def has_turn(self) -> bool:
        """Whether it is its program that is calling, in a coroutine or in its main function."""
        return self.is_running() or (self.entry is not None and self.entry.is_here)

    def stop(self) -> None:
        """Let the function go on that runs it; where none does, as asyncio.run ends by it: the program fails."""
        if self.entry is not None:
            self.is_stopped = True
            self._host.wake()
            return
        self._host.world.fail(RuntimeError(f"the program on {self._host.name} stopped its loop before it had ended"))

    def run_forever(self) -> None:
        """Wait until it is stopped: the world runs it. Refused where a coroutine asks for it."""
        if self.entry is None or not self.entry.is_here:
            raise UnderlayError(
                f"a program on the simulated host {self._host.name} ran its own loop",
                remedy="within a coroutine await what is to be done; the function that the host was given may run it",
            )
        self.entry.wait_for_loop()

    def run_until_complete(self, future: Any) -> Any:
        """As ever; see `run_forever`."""
        if self.entry is not None and self.entry.is_here:
            self.entry.check_alive()
        return super().run_until_complete(future)

    def close(self) -> None:
        """Its process has ended. What its main function closes is as new for whatever that runs next."""
        if self.entry is not None and self.entry.is_here:
            self.entry.check_alive()
            return
        super().close()

    def call_at(
        self, when: float, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> events.TimerHandle:
        """As ever; and from another host's code, let the world know that there is work."""
        if self._thread_id is None:
            self._host.wake()
        return super().call_at(when, callback, *args, context=context)

    @property
    def names(self) -> Names:
        """Who answers ``getaddrinfo``."""
        return self._names

    def socket_of(self, number: int) -> StackSocket:
        """The host's socket of that number; EBADF where there is none."""
        return self._bridge.socket(number)

    # --- names ----------------------------------------------------------------------------------------------

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """As ``socket.getaddrinfo``, by the world's names."""
        return look_up(self._host, host, port, family, type, proto, flags)

    def getaddrinfo_now(self, host: Any, port: Any, family: int, type: int, proto: int, flags: int) -> Any:
        """The same for ``socket.getaddrinfo`` itself."""
        return look_up(self._host, host, port, family, type, proto, flags)

    async def create_unix_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: Any = None,
        *,
        sock: Any = None,
        **options: Any,
    ) -> asyncio.AbstractServer:
        """As ever; but asyncio would look for a file of that name on the real machine, and remove it."""
        if path is not None and sock is None:
            name = os.fsencode(path)
            if not name.startswith(b"\0"):
                self._host.unix_names.pop(name, None)  # asyncio removes a socket of that name, whoever listens on it
            sock = bound(os.fspath(path))
            path = None
        if sys.version_info >= (3, 13):
            options["cleanup_socket"] = False
        return await super().create_unix_server(protocol_factory, path, sock=sock, **options)

    # --- pipes, signals and processes ------------------------------------------------------------------------------

    async def connect_read_pipe(self, protocol_factory: Any, pipe: Any) -> Any:
        """Refused: a pipe is the real machine's."""
        raise self._pipe_refused(pipe)

    async def connect_write_pipe(self, protocol_factory: Any, pipe: Any) -> Any:
        """Refused: a pipe is the real machine's."""
        raise self._pipe_refused(pipe)

    def _pipe_refused(self, pipe: object) -> UnderlayError:
        name = getattr(pipe, "name", pipe)
        return refusal(
            f"{name!r} of the real machine was made a pipe of the simulated host {self._host.name}",
            "use streams of Unix sockets within a host, and TCP to another",
        )

    def add_signal_handler(self, sig: int, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts) -> None:
        """Call it when the program sends itself that signal; nobody else can."""
        if inspect.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)  # type: ignore[attr-defined]
        self._check_closed()
        if sig in (signal.SIGKILL, signal.SIGSTOP):
            raise RuntimeError(f"sig {sig:d} cannot be caught")
        self.signal_callbacks[sig] = callback, args

    def remove_signal_handler(self, sig: int) -> bool:
        """Forget it; False where there is none."""
        self._check_signal(sig)  # type: ignore[attr-defined]
        return self.signal_callbacks.pop(sig, None) is not None

    async def _make_subprocess_transport(self, *args: object, **kwargs: object) -> asyncio.SubprocessTransport:
        raise refusal(
            f"a process was started on the simulated host {self._host.name}",
            USE_A_HOST,
        )

    # --- asynchronous generators ----------------------------------------------------------------------------

    @property
    def has_generators(self) -> bool:
        """Whether some began, and have not ended."""
        return bool(len(self._asyncgens))

    def note_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """It began here."""
        self._asyncgen_firstiter_hook(generator)  # type: ignore[attr-defined]

    def close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Nobody goes on with it."""
        self._asyncgen_finalizer_hook(generator)  # type: ignore[attr-defined]

    # --- threads --------------------------------------------------------------------------------------------

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Call it here and now; what came of it is told after what a thread would have cost."""
        self._check_closed()
        future: asyncio.Future[_T] = self.create_future()
        cost_s = self._host.thread_cost_s
        with self._host.busy.thread() as took_s:
            result: _T | None = None
            failure: BaseException | None = None
            try:
                result = func(*args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                failure = error
        self.call_later(cost_s + took_s(), _tell, future, result, failure)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There are no threads to wait for."""


class InOrder(WeakValueDictionary[int, _T]):
    """A set as asyncio keeps for tasks and generators, weak too, but in the order in which they began."""

    def add(self, each: _T) -> None:
        """Have it."""
        self[id(each)] = each

    def discard(self, each: _T) -> None:
        """Have it no more."""
        self.pop(id(each), None)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.values()))


class _Waking(deque[events.Handle]):
    """Callbacks that were queued while the loop has no turn, by another host's code (a test's shared Event)."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host

    def append(self, handle: events.Handle, /) -> None:
        super().append(handle)
        self._host.wake()


# --- tasks and futures -----------------------------------------------------------------------------------------------
# asyncio keeps them in sets, in the order of their hashes: addresses in memory, different in each process. Their
# numbers are the same in each run.

_numbers = itertools.count(1)


def restart_numbers() -> None:
    """Count tasks and futures from 1 again: a world begins."""
    global _numbers
    _numbers = itertools.count(1)


def next_number() -> int:
    """The next of the numbers by which asyncio's objects are hashed."""
    return next(_numbers)


class Numbered:
    """Something that is hashed by a number, which it gets when it is first hashed."""

    _number = 0

    def __hash__(self) -> int:
        if not self._number:
            self._number = next(_numbers)
        return self._number


class SimFuture(Numbered, asyncio.Future[Any]):
    """A future that is hashed by its number."""


class SimTask(Numbered, asyncio.Task[Any]):
    """A task that is hashed by its number: asyncio keeps all tasks in a set."""

    if sys.version_info >= (3, 14):
        begun: int | None = None

        def set_name(self, value: object, /) -> None:
            """As ever; what asyncio named it at its beginning is kept, see `_begun`."""
            self.begun = _begun(self)[0]
            super().set_name(value)


def _begun(task: asyncio.Task[Any]) -> tuple[int, str]:
    """When it began, among those of this process: asyncio numbers all tasks by their names, "Task-7".

    One that a library made past the loop's factory, and named itself, comes after them, by its name.
    """
    name = task.get_name()
    begun: int | None = getattr(task, "begun", None)
    if begun is None:
        kind, _, number = name.partition("-")
        begun = int(number) if kind == "Task" and number.isdecimal() else sys.maxsize
    return begun, name


def _make_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, _T] | Generator[Any, None, _T], **options: Any
) -> asyncio.Task[_T]:
    # From Python 3.14 on its name is among them; given later, it leaves asyncio's own to `_begun`. An eager task has
    # to have its name before, as its coroutine may ask for it.
    name = options.pop("name") if "name" in options and not options.get("eager_start") else None
    task = SimTask(cast("Coroutine[Any, Any, _T]", coro), loop=loop, **options)
    if name is not None:
        task.set_name(name)
    return task


def _tell(future: asyncio.Future[Any], result: object, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)
