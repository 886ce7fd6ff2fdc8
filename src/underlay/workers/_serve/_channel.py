"""What a worker and its supervisor say to each other, and how: JSON messages over two socket pairs.

``calls`` carries what the worker says: requests that are answered (with a
descriptor, if need be) and notices that are not. ``commands`` carries what the
supervisor wants. Both keep message boundaries (SOCK_SEQPACKET), and both end by
themselves when either side dies.
"""

from __future__ import annotations

import json
import socket
import threading
from typing import TypedDict

__all__ = ["MOST_SENTENCE_CHARACTERS", "Call", "Calls", "Command", "Reply", "is_call", "pair", "receive", "send"]

# A message holds one address and a few words; a Unix path has at most 108 bytes (unix(7)).
MOST_BYTES = 4096
# A character takes up to 12 bytes in JSON (two escapes of a surrogate pair).
MOST_SENTENCE_CHARACTERS = 300


class Call(TypedDict, total=False):
    """What a worker says; ``say`` tells which fields there are."""

    say: str  # bind, give_back, is_kept, broke; ready, beat, ceased, failing, unusable
    family: int
    proto: int
    address: object  # as bind(2) takes it in Python, a tuple as a list
    turn: int  # of several binds to port 0 of one address, which
    path: str
    completely: bool
    sentence: str
    digest: str  # of a traceback


# What each call brings, and of which type.
_Fields = dict[str, type | tuple[type, ...]]
_BIND: _Fields = {"family": int, "proto": int, "address": (str, list), "turn": int}
_FIELDS: dict[str, _Fields] = {
    "bind": _BIND,
    "give_back": _BIND,
    "is_kept": {"path": str},
    "ready": {},
    "beat": {},
    "ceased": {"completely": bool},
    "failing": {},
    "unusable": {"sentence": str},
    "broke": {"sentence": str, "digest": str},
}


def is_call(message: dict[str, object]) -> bool:
    """Whether a message is one that a worker sends. The program has the descriptor too, and may write what it likes.

    >>> is_call({"say": "ceased", "completely": True}), is_call({"say": "ceased"}), is_call({"say": ["ready"]})
    (True, False, False)
    """
    say, address = message.get("say"), message.get("address")
    fields = _FIELDS.get(say) if isinstance(say, str) else None
    if fields is None or not all(isinstance(message.get(name), kind) for name, kind in fields.items()):
        return False
    return not isinstance(address, list) or all(isinstance(part, (str, int)) for part in address)


class Reply(TypedDict, total=False):
    """What the supervisor answers to a request."""

    outcome: str  # bound: your socket was bound; kept: here is one; again: bind to `address`; error
    address: object
    errno: int
    is_kept: bool
    is_new: bool  # this traceback has not been shown


class Command(TypedDict, total=False):
    """What the supervisor wants of a worker."""

    do: str  # drain
    is_last: bool  # nobody listens afterwards


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends, both closed by exec unless passed on."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: Call | Reply | Command, *descriptors: int) -> bool:
    """Send one message; False where the other side is gone or does not read."""
    data = json.dumps(message).encode()
    try:
        if descriptors:
            socket.send_fds(end, [data], descriptors)
        else:
            end.send(data)
    except OSError:  # EPIPE, ECONNRESET; EAGAIN from a worker that has stopped reading
        return False
    return True


def receive(end: socket.socket) -> tuple[dict[str, object] | None, list[int]]:
    """Receive one message and its descriptors; None where the other side is gone, or raves. Raises BlockingIOError."""
    try:
        data, descriptors, _, _ = socket.recv_fds(end, MOST_BYTES, 1)
    except ConnectionError:
        return None, []
    try:
        message = json.loads(data) if data else None
    except (ValueError, RecursionError):  # the program wrote to a descriptor that isn't its own
        message = None
    return (message if isinstance(message, dict) else None), descriptors


class Calls:
    """The worker's end of ``calls``; any thread may use it."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lock = threading.Lock()

    def notice(self, message: Call) -> None:
        """Say something that needs no answer."""
        with self._lock:
            send(self._end, message)

    def ask(self, message: Call, *descriptors: int) -> tuple[Reply | None, int | None]:
        """Ask, and wait for the answer; None where the supervisor is gone."""
        with self._lock:
            if not send(self._end, message, *descriptors):
                return None, None
            found, received = receive(self._end)
        return (None if found is None else Reply(**found)), (received[0] if received else None)  # type: ignore[typeddict-item]
