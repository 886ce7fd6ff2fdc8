"""One worker: what runs in a process that the group started, around the unmodified program.

Before the program it sees to it that the process dies with its supervisor, and
that sockets share their addresses. Beside it runs one thread, which waits for
commands and asks the loops for signs of life. After it, it says what went wrong
where that is one sentence.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import NoReturn, TypedDict

from ...errors import UnderlayError, UsageError
from ._channel import MOST_SENTENCE_CHARACTERS, Call, Calls, receive
from ._program import Program
from ._sharing import Sharing
from ._threads import Threads
from ._traceback import digest, in_one_line, without_our_frames

__all__ = ["Order", "main"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Long enough to cost nothing, short enough that SIGTERM, which interrupts no join(), is not felt to be late.
_JOIN_S = 0.1


class Order(TypedDict):
    """What a worker is told as it starts."""

    program: str
    arguments: list[str]
    is_module: bool
    calls: int  # descriptors
    commands: int
    share: str
    threads: int  # 0: the program runs in the main thread
    executor: str  # the words that describe the one for the loops' default calls, or ""
    supervisor: int  # its process id
    beat_s: float  # 0: nobody looks


def main() -> NoReturn:
    """Run the program that the first argument orders, and end the process with its status."""
    order: Order = json.loads(sys.argv[1])
    _die_with(order["supervisor"])
    for descriptor in (order["calls"], order["commands"]):
        os.set_inheritable(descriptor, False)  # what the program starts has nothing to say to the supervisor
    calls = Calls(socket.socket(fileno=order["calls"]))
    worker = _Worker(order, calls)
    sys.exit(worker.run())


def _die_with(supervisor: int) -> None:
    """Have the kernel kill this process when its supervisor dies, however it does: prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:  # it died before the call
        os._exit(1)


def _use_executor(words: str) -> None:
    """Have event loops call in the executor that ``words`` describe what they would call in threads of their own."""
    from .._default import install_words  # few need it, and each worker would pay for it

    # uvloop's loops, too, where they are there already: the program may import them later.
    with contextlib.suppress(ImportError):
        importlib.import_module("uvloop")
    install_words(words)


class _Worker:
    def __init__(self, order: Order, calls: Calls) -> None:
        self._order = order
        self._calls = calls
        self._commands = socket.socket(fileno=order["commands"])
        self._sharing = Sharing(calls, order["share"], self._listens)
        self._listening: set[int] = set()  # threads of which something listens
        self._is_ready = False
        self._is_asked = False
        self._failure: BaseException | None = None

    def run(self) -> int:
        """Run the program; return the exit status."""
        self._sharing.install()
        threading.Thread(target=self._obey, name="underlay-worker", daemon=True).start()
        try:
            order = self._order
            if order["executor"]:
                _use_executor(order["executor"])
            run = Program(order["program"], tuple(order["arguments"]), order["is_module"]).load()
            if self._order["threads"]:
                return self._run_threads(run)
            run()
        except KeyboardInterrupt:
            return 130
        except UnderlayError as error:
            return self._give_up(str(error), error)
        except SystemExit as error:
            if not self._is_refused() or self._is_clean(error):
                raise
            return self._give_up(self._sharing.refusal_sentence(), error)
        except BaseException as error:
            if isinstance(error, OSError) and self._is_refused():
                return self._give_up(self._sharing.refusal_sentence(), error)
            self._tell(error)
            return 1
        return 0

    def _is_refused(self) -> bool:
        """Whether the program has not come further than to an address that it could not have."""
        return self._sharing.refusal is not None and not self._is_ready

    def _tell(self, error: BaseException) -> None:
        """Show the program's traceback, as Python would; once where many workers have the same."""
        error.__traceback__ = frames = without_our_frames(error)
        sentence = in_one_line(error)[:MOST_SENTENCE_CHARACTERS]
        reply, _ = self._calls.ask(Call(say="broke", sentence=sentence, digest=digest(error)))
        is_known = reply is not None and not reply.get("is_new", True)
        # A hook of the program's own, such as a collector of errors, hears of each.
        if not is_known or sys.excepthook is not sys.__excepthook__:
            sys.excepthook(type(error), error, frames)

    def _run_threads(self, run: Callable[[], object]) -> int:
        threads = Threads(self._order["threads"], run, lambda: self._sharing.loops, self._one_ended)
        signal.signal(signal.SIGTERM, lambda *_: self._ask(threads))
        signal.signal(signal.SIGINT, lambda *_: self._ask(threads))
        threads.start()
        while threads.is_any_alive(_JOIN_S):
            pass
        if self._failure is None:
            return 0
        if self._is_refused():
            return self._give_up(self._sharing.refusal_sentence(), self._failure)
        return 1

    def _ask(self, threads: Threads) -> None:
        self._is_asked = True
        threads.ask()

    def _one_ended(self, failure: BaseException | None) -> None:
        self._failure = self._failure or failure
        if isinstance(failure, SystemExit):
            if isinstance(failure.code, str) and sys.stderr is not None:
                print(failure.code, file=sys.stderr, flush=True)  # as Python does in the main thread
        elif failure is not None and not (isinstance(failure, OSError) and self._is_refused()):
            self._tell(failure)
        if not self._is_asked:
            self._calls.notice(Call(say="failing"))

    def _give_up(self, sentence: str, error: BaseException) -> int:
        self._calls.notice(Call(say="unusable", sentence=sentence[:MOST_SENTENCE_CHARACTERS]))
        return getattr(error, "exit_status", UsageError.exit_status)

    @staticmethod
    def _is_clean(error: BaseException) -> bool:
        return isinstance(error, SystemExit) and error.code in (None, 0)

    def _listens(self) -> None:
        """Say that this worker is ready, once all its threads listen."""
        self._listening.add(threading.get_ident())
        if not self._is_ready and len(self._listening) >= max(1, self._order["threads"]):
            self._is_ready = True
            self._calls.notice(Call(say="ready"))

    def _obey(self) -> None:
        """Wait for commands until the supervisor is gone, and pass on the loops' signs of life in between."""
        # Signals are the program's, whose handlers run in the main thread; it might wait in a call that only they end.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._commands.settimeout(self._order["beat_s"] or None)
        while True:
            try:
                command, _ = receive(self._commands)
            except TimeoutError:
                self._look_for_life()
                continue
            if command is None:
                return  # the kernel ends this process
            if command["do"] == "drain":
                self._sharing.cease(bool(command.get("is_last")), self._ceased)

    def _ceased(self, completely: bool) -> None:
        self._calls.notice(Call(say="ceased", completely=completely))

    def _look_for_life(self) -> None:
        """Have each loop sign; only when the last has done so is it a beat."""
        loops = list(self._sharing.loops.values())
        if not loops:
            self._calls.notice(Call(say="beat"))  # it has no loop that could be blocked
            return

        def sign(at: int) -> None:
            if at == len(loops):
                self._calls.notice(Call(say="beat"))
                return
            with contextlib.suppress(RuntimeError):  # closed: the program ends
                loops[at].call_soon_threadsafe(sign, at + 1)

        sign(0)
