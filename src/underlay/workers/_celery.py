"""The kind ``celery``: a call is a task of Celery, and runs in one of its workers.

Without a broker it is a folder of this machine that only its owner may enter,
and the executor starts the workers, as it does on a broker that is named. With ``app=`` the workers are those of
that app, wherever they run.

Only as many calls are handed to the broker as there are workers to take them; the rest
waits here, where it can be taken back. A worker acknowledges a call before it
begins (``acks_late`` is off): a call whose worker dies is not run again by another, for it may
have done something already; it raises ``BrokenExecutor``. Answers come back through the broker,
by a queue of the executor's own, so no result backend is needed and no result is left in one.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ._celery_folder import NAME as FOLDER_SCHEME
from ._celery_task import TASK, make_app, reply_queue
from ._contract import EngineUnavailable, Kind, reason_of
from ._letters import Letters
from ._packages import package
from ._pool import PoolExecutor
from ._signed import Forged, Seal, key_from
from ._worker_process import WorkerProcess

__all__ = ["KIND", "make", "require"]

KIND = Kind(
    "celery",
    runs_in="workers of Celery",
    parallel=True,
    crosses_machines=True,
    pickles=True,
    cancels_waiting=True,
    sees_death=True,
    needs="celery, cloudpickle",
)
# Schemes of kombu's that need no server, and therefore don't reach a worker that this executor starts.
_UNREACHABLE = {
    "memory": "is in the memory of this process",
    "filesystem": "is of folders that both ends must be told by other options",
    FOLDER_SCHEME: "is what the executor makes itself",
}
# A broker answers its greeting within a round trip; who needs longer is not there.
_CONNECT_TIMEOUT_S = 4.0
# How long the thread that brings answers waits in one go: only the end of the executor waits for it.
_DRAIN_S = 0.2
# Five signs of life that did not come (see _celery_task.SIGN_OF_LIFE_S).
_SILENCE_S = 10.0

App = Any  # Celery has no types of its own


class _CeleryLane:
    def __init__(self, engine: _CeleryEngine) -> None:
        self._engine = engine

    def call(self, packed: bytes) -> bytes:
        return self._engine.call(packed)

    def close(self) -> None:
        """The worker is the engine's."""


class _CeleryEngine:
    """One app of Celery, its workers where they are ours, and the thread that brings answers."""

    def __init__(self, app: App, seal: Seal, queue: str, worker_words: dict[str, object] | None, folder: Path | None):
        self._app = app
        self._seal = seal
        self._queue = queue
        self._replies = f"{queue}.replies.{uuid.uuid4().hex}"
        self._worker_words = worker_words
        self._folder = folder
        self._letters = Letters()
        self._workers: list[WorkerProcess] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def open_lane(self) -> _CeleryLane:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._bring_answers, name="underlay-celery-answers", daemon=True)
                thread.start()
                self._thread = thread
            if self._worker_words is not None:  # one lane, one worker
                self._workers.append(WorkerProcess("_celery_worker", self._worker_words, ended=self._worker_ended))
        return _CeleryLane(self)

    def call(self, packed: bytes) -> bytes:
        call_id = uuid.uuid4().hex
        answer = self._letters.post(call_id)
        arguments = [call_id, self._seal.close("call", call_id, packed), self._replies, self._worker_words is None]
        try:
            self._app.send_task(
                TASK, arguments, task_id=call_id, queue=self._queue, ignore_result=True, serializer="json", retry=False
            )
        except Exception as error:
            self._letters.fail(call_id, f"the broker refused the call: {error}")
        return answer.result()

    def _worker_ended(self, worker: WorkerProcess) -> None:
        self._letters.fail_all(worker.how_it_ended())

    def _bring_answers(self) -> None:
        kombu = package("kombu", "the executor celery")
        try:
            with self._app.connection_for_read() as connection:
                queue = reply_queue(self._replies)
                with kombu.Consumer(
                    connection.default_channel,
                    [queue],
                    callbacks=[self._on_reply],
                    accept=["json"],
                    no_ack=True,
                    on_decode_error=_drop,  # raised otherwise, here
                ):
                    while self._letters.wait_for_some():
                        try:
                            connection.drain_events(timeout=_DRAIN_S)
                        except TimeoutError:
                            pass
                        if self._worker_words is None:
                            self._letters.fail_silent(_SILENCE_S)
                queue.bind(connection.default_channel).delete()
                if self._worker_words is not None:
                    kombu.Queue(self._queue).bind(connection.default_channel).delete()
        except Exception as error:
            self._letters.fail_all(f"the way to the broker broke: {error}")

    def _on_reply(self, body: object, message: object) -> None:
        if not isinstance(body, dict):
            return  # a stranger's
        call_id = str(body.get("id"))
        try:
            content = self._seal.open("answer", call_id, str(body.get("answer")))
        except Forged:
            return  # nobody waits for what a stranger says
        if content:
            self._letters.answer(call_id, content)
        else:
            self._letters.sign_of_life(call_id)

    def close(self) -> None:
        self._letters.fail_all("the executor was shut down")
        with self._lock:
            workers, self._workers = self._workers, []
            thread = self._thread
        for worker in workers:
            worker.close()
        if thread is not None:
            thread.join()
        self._app.pool.force_close_all()
        if self._worker_words is not None:
            self._app.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _drop(message: object, error: Exception) -> None:
    """Pass over what is no JSON in the queue of answers, and was not opened: it is a stranger's."""


def _without_passwords(url: str) -> str:
    """The URL of a broker, or several in a row, as it was written, with what may be secret left out.

    >>> _without_passwords("redis://127.0.0.1:1"), _without_passwords("redis://:a@b@h/0;amqp://me:c@i//?password=d")
    ('redis://127.0.0.1:1', 'redis://:**@h/0;amqp://me:**@i//?…')
    """
    shown = []
    for each in re.split(r";(?=[\w+.-]+://)", url):  # a password may have a semicolon
        scheme, separator, rest = each.partition("://")
        rest, query, _ = rest.partition("?")
        user, at, place = rest.rpartition("@")
        name, colon, _ = user.partition(":")
        shown.append(f"{scheme}{separator}{name}{colon and ':**'}{at}{place}{query and '?…'}")
    return ";".join(shown)


def _require_broker(app: App, broker: str | None = None) -> None:
    """Raise ``EngineUnavailable`` where nobody answers; ``broker`` is its URL as it was written."""
    try:
        connection = app.connection_for_write(connect_timeout=_CONNECT_TIMEOUT_S)
        shown = connection.as_uri() if broker is None else _without_passwords(broker)
    except Exception as error:
        # What is wrong with a URL is told with a part of it, which may be the password's; a scheme is none.
        what = str(error.args[0]) if isinstance(error, (KeyError, ImportError)) else "it cannot be read"
        raise UsageError(
            f"the broker's URL names none that Celery can use: {what}",
            remedy="write it as in amqp://user@host// or redis://host/0, and install what its scheme needs",
        ) from None
    try:
        with connection:
            connection.connect()
            connection.default_channel  # noqa: B018  Redis connects only then
    except Exception as error:
        raise EngineUnavailable(
            f"no broker answers at {shown}: {reason_of(error)}",
            remedy="start it, or leave broker= out for a folder of this machine",
        ) from error


def _require_url(broker: object) -> None:
    """Raise ``UsageError`` for what is no URL, or one of a broker that no other process reaches."""
    scheme = broker.partition("://")[0] if isinstance(broker, str) else ""
    if not scheme:
        raise UsageError(f"{broker!r:.40} is no URL of a broker", remedy="write it as in redis://host/0")
    if scheme in _UNREACHABLE:
        raise UsageError(
            f"the broker {scheme}:// {_UNREACHABLE[scheme]}, so the workers would not see it",
            remedy="leave broker= out for a folder of this machine",
        )


def require() -> None:
    """Raise ``UsageError`` where something is missing."""
    package("celery", "the executor celery")
    package("cloudpickle", "the executor celery")


def make(
    *,
    max_workers: int | None = None,
    broker: str | None = None,
    app: App = None,
    queue: str | None = None,
    key_file: str | os.PathLike[str] | None = None,
) -> PoolExecutor:
    """Make an executor on Celery, at most ``max_workers`` calls at a time; one per processor without it.

    Without more it starts its workers on this machine, with a private folder as the broker;
    ``broker`` is the URL of another. With ``app`` the workers are those of that Celery app, which
    have called `workers.serve_celery(app, key_file)`; ``queue`` is one that they serve. Raises ``EngineUnavailable``
    where no broker answers.
    """
    require()
    lanes = max_workers or os.cpu_count() or 1
    if app is not None:
        if broker is not None:
            raise UsageError("an app of Celery has a broker already", remedy="leave broker= out")
        if key_file is None:
            raise UsageError(
                "calls for an app's workers are signed, and there is no key",
                remedy="name one and the same file by key_file= here and in serve_celery()",
            )
        _require_broker(app)
        engine = _CeleryEngine(app, Seal(key_from(key_file)), queue or app.conf.task_default_queue, None, None)
        return PoolExecutor(KIND.name, engine, lanes)
    if key_file is not None or queue is not None:
        raise UsageError("key_file= and queue= are for the workers of an app=", remedy="leave them out")
    folder = None
    if broker is None:
        folder = Path(tempfile.mkdtemp(prefix="underlay-celery-"))  # mode 0700
    else:
        _require_url(broker)
    queue = f"underlay.{uuid.uuid4().hex}"
    key = secrets.token_bytes(32)
    words: dict[str, object] = {
        "broker": broker,
        "folder": None if folder is None else str(folder),
        "queue": queue,
        "key": key.hex(),
    }
    try:
        made = make_app(words)
        _require_broker(made, broker)
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return PoolExecutor(KIND.name, _CeleryEngine(made, Seal(key), queue, words, folder), lanes)
