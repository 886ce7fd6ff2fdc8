"""A folder as a broker of Celery: one file is one message.

kombu has such a transport, ``filesystem``. This one differs in what an executor cannot do without:

- a message is written aside and renamed, so nobody reads half of one, and taken by a rename, so two never take one;
  kombu's is read while it is written, and a worker that does ends;
- everything stays in the folder; kombu's moves what is read to the machine's folder for temporary files;
- a queue is known by its name alone; kombu's keeps a table in a file that two workers spoil when they start together.

This file knows kombu's virtual transports, to which four methods are all there is to a broker.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Iterator
from queue import Empty
from typing import Any

from ._packages import package

__all__ = ["NAME", "register"]

# The scheme of its URL.
NAME = "underlay-folder"

_numbers = itertools.count()


class Folder:
    """The messages of all queues; every method may be called by several processes at once."""

    def __init__(self, path: str) -> None:
        self._path = path

    def put(self, queue: str, content: str) -> None:
        """Add a message to a queue; whoever sees it sees it whole."""
        # The clock is the machine's, so the order is that of all processes; 20 digits are 3,000 years.
        name = f"{time.monotonic_ns():020d}-{os.getpid()}-{next(_numbers)}"
        aside = os.path.join(self._path, f".{name}")
        with open(aside, "x", encoding="utf-8") as file:
            file.write(content)
        os.rename(aside, os.path.join(self._path, f"{name}@{queue}"))

    def get(self, queue: str) -> str | None:
        """Take the oldest message of a queue, or None where there is none."""
        for name in self._messages(queue):
            taken = os.path.join(self._path, f".taken-{os.getpid()}-{next(_numbers)}")
            try:
                os.rename(os.path.join(self._path, name), taken)
            except FileNotFoundError:
                continue  # somebody else has it
            with open(taken, encoding="utf-8") as file:
                content = file.read()
            os.unlink(taken)
            return content
        return None

    def size(self, queue: str) -> int:
        """How many messages wait in a queue."""
        return sum(1 for _ in self._messages(queue))

    def purge(self, queue: str) -> int:
        """Remove all messages of a queue, and say how many they were."""
        return sum(1 for _ in iter(lambda: self.get(queue), None))

    def _messages(self, queue: str) -> Iterator[str]:
        try:
            names = os.listdir(self._path)
        except FileNotFoundError:
            return  # the executor is over, and so is this process in a moment
        yield from sorted(name for name in names if name.endswith(f"@{queue}"))


@functools.cache
def _transport() -> type:
    virtual: Any = package("kombu.transport.virtual", "the executor celery")
    as_json: Any = package("kombu.utils.json", "the executor celery")

    class Channel(virtual.Channel):  # type: ignore[misc]
        @property
        def _folder(self) -> Folder:
            return Folder(self.connection.client.transport_options["folder"])

        def _put(self, queue: str, message: object, **kwargs: object) -> None:
            self._folder.put(queue, as_json.dumps(message))

        def _get(self, queue: str, timeout: float | None = None) -> object:
            content = self._folder.get(queue)
            if content is None:
                raise Empty
            return as_json.loads(content)

        def _size(self, queue: str) -> int:
            return self._folder.size(queue)

        def _purge(self, queue: str) -> int:
            return self._folder.purge(queue)

        def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> list[str]:
            return [routing_key]  # each queue has an exchange of its own, and both have its name

    class Transport(virtual.Transport):  # type: ignore[misc]
        driver_type = driver_name = NAME
        default_port = None

        def driver_version(self) -> str:
            return "1"

    Transport.Channel = Channel
    return Transport


def __getattr__(name: str) -> type:
    """Make the class when kombu asks for it (PEP 562): without kombu there is none."""
    if name == "Transport":
        return _transport()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register() -> None:
    """Tell kombu what the URL means."""
    package("kombu.transport", "the executor celery").TRANSPORT_ALIASES[NAME] = f"{__name__}:Transport"
