"""Names of addresses by reverse look-up, beside everything else: a few threads ask, and nobody waits for them.

A thread is there while there is something to ask: nobody has to say when names are wanted no more.

The system's own resolver is asked, so that /etc/hosts counts too. What comes back was written by whoever owns the
address: anything that is no host name (RFC 1123 §2.1) is as good as no name, so that none of it reaches a terminal.

This file knows names and threads. It refuses to know who answers at these addresses.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["Names", "system_name"]

_THREADS: Final = 4
# A path has far fewer hops; an attacker who invents them gets no more look-ups than this.
_MOST: Final = 256
# Letters, digits, hyphens and dots, and the underscore that many use: RFC 1123 §2.1, RFC 2181 §11. RFC 1035: 255.
_IS_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253})")


def system_name(address: str) -> str | None:
    """Ask the system's resolver for the name of an address; None where it has none. It may take many seconds."""
    try:
        return socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]
    except (OSError, UnicodeError):
        return None


class Names:
    """Looks names up, at most ``_MOST`` of them; ``skipped`` counts addresses beyond."""

    def __init__(self, resolve: Callable[[str], str | None] = system_name) -> None:
        self._resolve = resolve
        self._known: dict[str, str | None] = {}
        self._asked: set[str] = set()
        self._lock = threading.Lock()
        self._wanted: deque[str] = deque()
        self._threads = 0
        self.skipped = 0

    def __call__(self, address: str) -> str | None:
        """Give the name if it is known by now, and see to it that it will be."""
        if address not in self._asked:
            if len(self._asked) >= _MOST:
                self.skipped += 1
                return None
            self._asked.add(address)
            with self._lock:
                self._wanted.append(address)
                begin = self._threads < _THREADS
                self._threads += begin
            if begin:
                # A daemon: a name server that keeps silent must not keep the program from ending.
                try:
                    threading.Thread(target=self._work, name="underlay-names", daemon=True).start()
                except RuntimeError:  # no further thread is allowed: the others ask, or the path has no names
                    with self._lock:
                        self._threads -= 1
        return self._known.get(address)

    def wait(self, most_s: float) -> None:
        """Wait until nobody asks any more, or the time is over."""
        until = time.monotonic() + most_s
        while self._threads and time.monotonic() < until:
            time.sleep(0.01)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._threads -= 1
                    return
                address = self._wanted.popleft()
            try:
                name = self._resolve(address)
            except Exception:  # somebody else's function: no failure of it is worth more than the name
                name = None
            self._known[address] = name if name is not None and _IS_NAME.fullmatch(name) else None
