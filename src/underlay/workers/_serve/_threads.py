"""Several runs of one program in one process, each in a thread with an event loop of its own.

Signals come to the main thread alone, and a program in another thread may not
handle any; but it should still end as it would by SIGTERM. So in these threads
``signal.signal`` and what ``add_signal_handler`` does with it only note the
handler, and `Threads.ask` calls it, in its thread. A program that has none has its
tasks cancelled, which is what asyncio makes of Ctrl-C.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType

__all__ = ["Threads"]

_Handler = Callable[[int, FrameType | None], object]


class Threads:
    """The threads that run the program."""

    def __init__(
        self,
        count: int,
        run: Callable[[], object],
        loops: Callable[[], Mapping[int, asyncio.AbstractEventLoop]],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._run = run
        self._loops = loops
        self._on_end = on_end
        self._handlers: dict[int, dict[int, object]] = {}  # of each thread, by the signal
        self._threads = [threading.Thread(target=self._work, name=f"worker-{n + 1}", daemon=True) for n in range(count)]

    def start(self) -> None:
        """Begin to run the program in each thread."""
        self._note_handlers()
        for thread in self._threads:
            thread.start()

    def is_any_alive(self, wait_s: float) -> bool:
        """Wait so long for the first that is alive, and say whether one still is."""
        for thread in self._threads:
            if thread.is_alive():
                thread.join(wait_s)
                break
        return any(thread.is_alive() for thread in self._threads)

    def ask(self, number: int = signal.SIGTERM) -> None:
        """End each program as the signal would."""
        for thread, loop in dict(self._loops()).items():
            handlers = self._handlers.get(thread, {})
            try:
                if callable(handler := handlers.get(number)):
                    if hasattr(loop, "_handle_signal") and number in getattr(loop, "_signal_handlers", {}):
                        loop.call_soon_threadsafe(loop._handle_signal, number)
                    else:
                        loop.call_soon_threadsafe(handler, number, None)
                else:
                    loop.call_soon_threadsafe(_cancel_all, loop)
            except RuntimeError:
                pass  # closed: it has ended

    def _work(self) -> None:
        try:
            self._run()
        except (SystemExit, asyncio.CancelledError, KeyboardInterrupt) as end:
            is_failure = isinstance(end, SystemExit) and end.code not in (None, 0)
            self._on_end(end if is_failure else None)
        except BaseException as error:
            self._on_end(error)
        else:
            self._on_end(None)

    def _note_handlers(self) -> None:
        """Let the threads believe that they handle signals."""
        real_signal, real_wakeup, real_interrupt = signal.signal, signal.set_wakeup_fd, signal.siginterrupt
        real_get = signal.getsignal

        def is_ours() -> bool:
            return threading.current_thread() in self._threads

        def of_this_thread() -> dict[int, object]:
            return self._handlers.setdefault(threading.get_ident(), {})

        def note(number: int, handler: object) -> object:
            if not is_ours():
                return real_signal(number, handler)  # type: ignore[arg-type]
            before = of_this_thread().get(number, signal.SIG_DFL)
            of_this_thread()[number] = handler
            return before

        def getsignal(number: int) -> object:
            return of_this_thread().get(number, signal.SIG_DFL) if is_ours() else real_get(number)

        def set_wakeup_fd(fd: int, *, warn_on_full_buffer: bool = True) -> int:
            return -1 if is_ours() else real_wakeup(fd, warn_on_full_buffer=warn_on_full_buffer)

        def siginterrupt(number: int, flag: bool) -> None:
            if not is_ours():
                real_interrupt(number, flag)

        signal.signal = note  # type: ignore[assignment]
        signal.getsignal = getsignal  # type: ignore[assignment]
        signal.set_wakeup_fd = set_wakeup_fd
        signal.siginterrupt = siginterrupt


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
