"""The supervising process: carries out what the state machine decides, and tells it what happens.

One thread and one selector: signals, the workers' calls, the control socket and
deadlines all end up as events of ``_supervisor``. It runs nothing of the program,
so that it has nothing that could block or crash it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from .._say import say
from ._channel import Call, Reply, is_call, receive, send
from ._child import Child
from ._control import Control
from ._listeners import Listeners
from ._news import News
from ._proc import connections, usage
from ._program import Program
from ._status import SCHEMA, Row, Status
from ._supervisor import (
    Action,
    Ask,
    Beat,
    Begin,
    Ceased,
    Connections,
    Drain,
    Event,
    Exited,
    Failing,
    Finish,
    GiveUp,
    Kill,
    Policy,
    Ready,
    Resize,
    Restart,
    Start,
    State,
    Stop,
    Supervisor,
    Tick,
    Unusable,
)
from ._worker import Order

__all__ = ["Group", "Options"]

# How often the connections of draining workers are counted: a tenth of what a person notices as a pause.
_COUNT_PAUSE_S = 0.1

_SIGNALS: dict[signal.Signals, Event | None] = {
    signal.SIGTERM: Stop(gently=True),
    signal.SIGINT: Stop(gently=False),
    signal.SIGHUP: Restart(),
    signal.SIGTTIN: Resize(+1),
    signal.SIGTTOU: Resize(-1),
    signal.SIGCHLD: None,  # only to look
}
_WORDS: dict[str, Event] = {
    "restart": Restart(),
    "more": Resize(+1),
    "fewer": Resize(-1),
    "stop": Stop(gently=True),
}


@dataclass(frozen=True)
class Options:
    """What the group is started with."""

    program: Program
    workers: int = 1
    by: str = "process"
    share: str = "inherit"
    control: str = ""
    executor: str = ""
    policy: Policy = field(default_factory=Policy)


class Group:
    """Workers of one program, under supervision."""

    def __init__(self, options: Options, environment: Mapping[str, str]) -> None:
        self._options = options
        self._environment = environment
        # By thread, one process holds them all: a restart replaces that process, code and all.
        self._threads = options.workers if options.by == "thread" else 0
        self._supervisor = Supervisor(options.policy)
        self._news = News(options.program.title, options.policy)
        self._listeners = Listeners(options.share)
        self._children: dict[int, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._control = Control(options.control) if options.control else None
        self._waiting: dict[socket.socket, int] = {}  # clients that asked for a restart, and for which generation
        self._told_of = 0  # the generation of which all workers have listened
        self._signals = socket.socketpair()
        self._status: int | None = None
        self._count_at = 0.0
        self._places: list[object] = []  # kept when nobody listens there any more, to count connections by
        self._sentences: set[str] = set()

    def run(self) -> int:
        """Supervise until told to stop; return the exit status."""
        previous = self._take_signals()
        try:
            if self._control is not None:
                self._selector.register(self._control.sock, selectors.EVENT_READ, self._welcome)
            self._happens(Begin())
            while self._status is None:
                self._turn()
            return self._status
        finally:
            for child in self._children.values():  # only after an error of ours
                child.process.kill()
                child.process.wait()
                child.close()
            self._listeners.close()
            if self._control is not None:
                self._control.close()
            self._selector.close()
            signal.set_wakeup_fd(-1)
            for number, handler in previous.items():
                signal.signal(number, handler)
            for end in self._signals:
                end.close()

    # --- what happens -----------------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic()
        wakes = [self._supervisor.next_wake(now)]
        if any(worker.state is State.DRAINING and worker.has_ceased for worker in self._supervisor):
            wakes.append(self._count_at)
        times = [at for at in wakes if at is not None]
        timeout_s = max(0.0, min(times) - now) if times else None
        for key, _ in self._selector.select(timeout_s):
            cast("Callable[[], None]", key.data)()
        self._reap()
        self._count()
        self._happens(Tick())
        self._tell()

    def _tell(self) -> None:
        """Tell, and answer whoever waits, that all workers are there, or that a new one is lost."""
        supervisor = self._supervisor
        if supervisor.is_settled and not supervisor.stopping and supervisor.generation > self._told_of:
            self._told_of = supervisor.generation
            places = [_place(place) for place in self._places]
            noun = "thread" if self._threads else "worker"
            self._news.listens(places, self._threads or supervisor.wanted, noun, self._options.control)
        for client, generation in list(self._waiting.items()):
            if supervisor.stopping:
                answer: dict[str, object] = {"failed": "the restart was not done, because the group ends"}
            elif supervisor.failed_generation >= generation:
                what = self._news.restart_failed()
                remedy = "the old workers serve on, and a new one is tried ever more slowly until the next restart"
                answer = {"failed": f"{what}; {remedy}"}
            elif supervisor.is_settled:
                answer = dict(self.status())
            else:
                continue
            del self._waiting[client]
            self._answer(client, answer)

    def _happens(self, event: Event) -> None:
        if isinstance(event, Resize) and self._threads:
            self._threads = max(1, self._threads + event.by)
            event = Restart()
        if isinstance(event, Restart):
            self._news.restarts()
        if isinstance(event, Stop):
            self._news.goes_on()
        self._do_all(self._supervisor.on(event, time.monotonic()))

    def _do_all(self, actions: list[Action]) -> None:
        for action in actions:
            self._do(action)
        if self._supervisor.stopping:
            self._listeners.close()

    def _take_signals(self) -> dict[signal.Signals, signal._HANDLER]:
        ours, theirs = self._signals
        ours.setblocking(False)
        theirs.setblocking(False)
        previous = {
            number: signal.signal(number, lambda *_: None)
            for number in _SIGNALS
            # A shell ignores it for what runs in the background, so that Ctrl-C is for others (POSIX.1-2017, XCU 2.11).
            if not (number == signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN)
        }
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._selector.register(ours, selectors.EVENT_READ, self._signalled)
        return previous

    def _signalled(self) -> None:
        for number in self._signals[0].recv(4096):
            event = _SIGNALS.get(signal.Signals(number))
            if event is not None:
                self._happens(event)

    def _reap(self) -> None:
        """See which workers have ended; only then what they still had to say is read."""
        for number, child in list(self._children.items()):
            if child.process.poll() is None:
                continue
            self._hear(number, child)
            self._listen_no_more(child)
            child.close()
            del self._children[number]
            self._gone(number, child)

    def _gone(self, number: int, child: Child) -> None:
        worker = self._supervisor.workers.get(number)
        was_stopping = bool(self._supervisor.stopping)
        is_surprise = worker is not None and not worker.is_expected_to_end and not was_stopping
        actions = self._supervisor.on(Exited(number), time.monotonic())
        if is_surprise:
            how, status = child.how_it_ended(), child.process.returncode
            loss = self._news.ended(how, status, child.sentence, has_listened=child.has_listened)
            self._news.lost(child.pid, loss, self._supervisor.pause_s)
        if self._supervisor.has_never_listened and not was_stopping:
            self._news.never_listened()
        self._do_all(actions)

    def _count(self) -> None:
        """Count the connections of draining workers, now and then."""
        now = time.monotonic()
        draining = [
            (worker.number, self._children[worker.number].pid)
            for worker in self._supervisor
            if worker.state is State.DRAINING and worker.has_ceased and worker.number in self._children
        ]
        if not draining or now < self._count_at:
            return
        self._count_at = now + _COUNT_PAUSE_S
        found = connections([pid for _, pid in draining], self._places)
        for number, pid in draining:
            self._happens(Connections(number, found[pid]))

    # --- what workers say -------------------------------------------------------------------------------------

    def _hear(self, number: int, child: Child) -> None:
        while True:
            try:
                call, descriptors = receive(child.calls)
            except BlockingIOError:
                return
            if call is None or not is_call(call):
                self._listen_no_more(child)
                for descriptor in descriptors:
                    os.close(descriptor)
                return
            self._answer_worker(number, child, cast("Call", call), descriptors)

    def _answer_worker(self, number: int, child: Child, call: Call, descriptors: list[int]) -> None:
        match call["say"]:
            case "bind" if not descriptors:  # the kernel found no number for it in this process: recvmsg(2), MSG_CTRUNC
                send(child.calls, Reply(outcome="error", errno=errno.EMFILE))
            case "bind":
                reply, lent = self._listeners.bind(call, descriptors.pop())
                self._places = self._listeners.places()
                send(child.calls, reply, *([] if lent is None else [lent]))
            case "give_back":
                self._listeners.give_back(call)
            case "is_kept":
                send(child.calls, Reply(is_kept=self._listeners.is_kept(call["path"])))
            case "broke":
                child.sentence = call["sentence"]
                send(child.calls, Reply(is_new=child.has_listened or self._news.is_new(call["digest"])))
            case "ready":
                child.has_listened = True
                self._news.goes_on()
                self._happens(Ready(number))
            case "beat":
                self._happens(Beat(number))
            case "ceased":
                self._happens(Ceased(number, call["completely"]))
            case "failing":
                self._happens(Failing(number))
            case "unusable":
                child.sentence = call["sentence"]
                if not self._supervisor.has_ever_been_ready and child.sentence not in self._sentences:
                    self._sentences.add(child.sentence)
                    say(child.sentence)
                self._happens(Unusable(number))
        for descriptor in descriptors:
            os.close(descriptor)

    def _listen_no_more(self, child: Child) -> None:
        with contextlib.suppress(KeyError):  # its end was seen before
            self._selector.unregister(child.calls)

    # --- what is to be done -----------------------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        match action:
            case Start(number):
                self._start(number)
            case GiveUp(number, cause):
                child = self._children[number]
                self._news.lost(child.pid, self._news.given_up(cause, child.sentence), self._supervisor.pause_s)
            case Drain(number):
                self._children[number].command({"do": "drain", "is_last": bool(self._supervisor.stopping)})
            case Ask(number):
                self._children[number].signal(signal.SIGTERM)
            case Kill(number, at_once):
                child = self._children[number]
                self._news.killed(child.pid, at_once=at_once)
                child.signal(signal.SIGKILL)
            case Finish(status):
                self._status = status

    def _start(self, number: int) -> None:
        if self._supervisor.crashes:
            self._news.goes_on()
        order = Order(
            program=self._options.program.name,
            arguments=list(self._options.program.arguments),
            is_module=self._options.program.is_module,
            calls=-1,
            commands=-1,
            share=self._options.share,
            threads=self._threads,
            executor=self._options.executor,
            supervisor=os.getpid(),
            # Three signs of life may be late before the worker is given up.
            beat_s=self._options.policy.health_s / 4,
        )
        try:
            child = Child(order, self._environment)
        except OSError as error:  # no memory, no process: as if it had crashed at once
            say(f"no worker could be started: {error.strerror or error}")
            self._happens(Exited(number))
            return
        self._children[number] = child
        self._selector.register(child.calls, selectors.EVENT_READ, lambda: self._hear(number, child))

    # --- the control socket -----------------------------------------------------------------------------------

    def _welcome(self) -> None:
        assert self._control is not None
        if (client := self._control.accept()) is not None:
            self._selector.register(client, selectors.EVENT_READ, lambda: self._asked(client))
        if (oldest := self._control.surplus) is not None:
            self._part_from(oldest)

    def _asked(self, client: socket.socket) -> None:
        assert self._control is not None
        if client not in self._control.clients:
            return  # it was parted from in this very turn
        word = self._control.read(client)
        if word is None or client in self._waiting:
            self._part_from(client)
        elif word == "restart":
            if not self._supervisor.stopping:
                self._happens(Restart())
            self._waiting[client] = self._supervisor.generation
        else:
            if word in _WORDS:
                self._happens(_WORDS[word])
            self._answer(client, dict(self.status()))

    def _part_from(self, client: socket.socket) -> None:
        assert self._control is not None
        self._waiting.pop(client, None)
        self._selector.unregister(client)
        self._control.forget(client)

    def _answer(self, client: socket.socket, answer: dict[str, object]) -> None:
        assert self._control is not None
        self._selector.unregister(client)
        self._control.answer(client, answer)

    def status(self) -> Status:
        """The group's state now, as the control socket tells it."""
        now = time.monotonic()
        known = [
            (worker, self._children[worker.number]) for worker in self._supervisor if worker.number in self._children
        ]
        found = connections([child.pid for _, child in known], self._places)
        rows = []
        for worker, child in known:
            used = usage(child.pid)
            rows.append(
                Row(
                    number=worker.number,
                    pid=child.pid,
                    state=worker.state.value,
                    generation=worker.generation,
                    since_s=now - worker.since,
                    threads=child.threads,
                    connections=found[child.pid],
                    cpu_s=used.cpu_s if used else 0.0,
                    rss_bytes=used.rss_bytes if used else 0,
                )
            )
        return Status(
            schema=SCHEMA,
            pid=os.getpid(),
            program=self._options.program.title,
            by=self._options.by,
            share=self._options.share,
            wanted=self._threads or self._supervisor.wanted,
            generation=self._supervisor.generation,
            crashes=self._supervisor.crashes,
            next_start_s=max(0.0, self._supervisor.not_before - now),
            stopping=bool(self._supervisor.stopping),
            listening=[_place(place) for place in self._places],
            workers=rows,
        )


def _place(place: object) -> str:
    if isinstance(place, (tuple, list)) and len(place) > 1:
        host = f"[{place[0]}]" if ":" in str(place[0]) else place[0]
        return f"{host}:{place[1]}"
    if isinstance(place, bytes):
        return os.fsdecode(place)
    return str(place).replace("\0", "@")  # an abstract name, as ss(8) writes it: unix(7)
