"""The app of Celery that an executor makes, and the one task that it, or an app of somebody's own, has.

This file knows both ends' common words: the task's name and arguments, the queues, how it is configured.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

from . import _celery_folder
from ._packages import package
from ._pickling import perform
from ._signed import Seal, key_from

__all__ = ["SIGN_OF_LIFE_S", "TASK", "make_app", "register", "reply_queue", "serve_celery"]

TASK = "underlay.workers.call"
# How often a worker that nobody watches says that it is still at a call.
SIGN_OF_LIFE_S = 2.0
# How often a folder is looked into: a call takes two looks, and kombu's own second would be what it takes.
_POLLING_S = 0.01

App = Any  # Celery has no types of its own


def make_app(words: Mapping[str, object]) -> App:
    """Make the app of an executor, the same on both ends."""
    celery = package("celery", "the executor celery")
    kombu = package("kombu", "the executor celery")
    _celery_folder.register()
    app = celery.Celery("underlay.workers", set_as_current=False, autofinalize=True)
    queue = str(words["queue"])
    app.conf.update(
        broker_url=words["broker"] or f"{_celery_folder.NAME}://",
        result_backend=None,
        task_serializer="json",
        accept_content=["json"],  # what is pickled is inside, signed
        task_default_queue=queue,
        task_queues=[kombu.Queue(queue, kombu.Exchange(queue, type="direct"), routing_key=queue)],
        task_acks_late=False,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        broker_heartbeat=0,  # a worker at a long call answers none
        broker_connection_retry=False,
        broker_connection_retry_on_startup=False,
    )
    if words["folder"] is not None:
        app.conf.broker_transport_options = {"folder": words["folder"], "polling_interval": _POLLING_S}
    return app


def reply_queue(name: str) -> Any:
    """The queue by which answers come back; it goes with the executor."""
    return package("kombu", "the executor celery").Queue(name, durable=False, auto_delete=True)


def register(app: App, seal: Seal) -> None:
    """Give the app the task that performs signed calls."""

    def call(call_id: str, sealed: str, replies: str, wants_signs: bool) -> None:
        packed = seal.open("call", call_id, sealed)  # Forged: Celery logs it, and goes on
        done = threading.Event()
        signs = None
        if wants_signs:
            _reply(app, replies, call_id, seal, b"")
            signs = threading.Thread(target=_give_signs, args=(app, replies, call_id, seal, done), daemon=True)
            signs.start()
        try:
            answer = perform(packed)
        finally:
            done.set()
        if signs is not None:
            signs.join()
        _reply(app, replies, call_id, seal, answer)

    app.task(call, name=TASK, ignore_result=True, acks_late=False, serializer="json")


def _give_signs(app: App, replies: str, call_id: str, seal: Seal, done: threading.Event) -> None:
    while not done.wait(SIGN_OF_LIFE_S):
        _reply(app, replies, call_id, seal, b"")


def _reply(app: App, replies: str, call_id: str, seal: Seal, content: bytes) -> None:
    body = {"id": call_id, "answer": seal.close("answer", call_id, content)}
    with app.producer_or_acquire() as producer:
        producer.publish(body, exchange="", routing_key=replies, serializer="json", delivery_mode="transient")


def serve_celery(app: App, key_file: str | os.PathLike[str]) -> None:
    """Let the workers of a Celery app run calls that are signed with the key in ``key_file``.

    Called where the app's tasks are defined. The executor names the same key:
    ``workers.executor("celery", app=app, key_file=...)``. Raises ``UsageError`` for a key that others may read.
    """
    register(app, Seal(key_from(key_file)))
