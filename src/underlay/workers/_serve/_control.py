"""The control socket: how one asks a running group, or tells it something.

A Unix stream socket that only its owner can open (0600). One line of JSON asks,
one line answers; a restart is answered when it is done.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from typing import cast

from ...errors import UnderlayError, UsageError

__all__ = ["WORDS", "Control", "request"]

# What can be asked of a group.
WORDS = ("status", "restart", "more", "fewer", "stop")
# A question is one word; whoever sends more is no client of ours.
_MOST_BYTES = 1024
# An answer holds a line for each worker.
_MOST_ANSWER_BYTES = 1_048_576

# A person asks, and a script or two; whoever leaves more conversations open leaks them, and loses the oldest.
_MOST_CLIENTS = 64

Answer = dict[str, object]


class Control:
    """The group's end. Whoever runs it watches ``sock`` and the clients' sockets, and calls `read` for these."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.sock = _listen(path)
        self._identity = os.stat(path).st_ino
        self.clients: dict[socket.socket, None] = {}  # the oldest first

    def accept(self) -> socket.socket | None:
        """Take the next client, if there is one."""
        try:
            client, _ = self.sock.accept()
        except OSError:
            return None
        client.setblocking(False)
        self.clients[client] = None
        return client

    @property
    def surplus(self) -> socket.socket | None:
        """The oldest client, where there are too many: it is to be forgotten."""
        return next(iter(self.clients)) if len(self.clients) > _MOST_CLIENTS else None

    def read(self, client: socket.socket) -> str | None:
        """What the client asks; None where it left, or makes no sense, and is to be forgotten."""
        try:
            data = client.recv(_MOST_BYTES)
            word = json.loads(data)["ask"] if data else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            word = None
        return word if word in WORDS else None

    def answer(self, client: socket.socket, answer: Answer) -> None:
        """Answer, and end the conversation."""
        if client in self.clients:
            with contextlib.suppress(OSError):
                client.setblocking(True)
                client.settimeout(1.0)  # a client that doesn't read must not hold the group up
                client.sendall(json.dumps(answer).encode() + b"\n")
        self.forget(client)

    def forget(self, client: socket.socket) -> None:
        """Close a client's connection."""
        self.clients.pop(client, None)
        client.close()

    def close(self) -> None:
        """End all conversations, and remove the socket from the file system."""
        for client in list(self.clients):
            self.forget(client)
        self.sock.close()
        with contextlib.suppress(OSError):
            if os.stat(self.path).st_ino == self._identity:
                os.unlink(self.path)


def request(path: str, word: str, timeout_s: float = 0.0) -> Answer:
    """Ask the group whose control socket is ``path``; ``word`` is one of ``WORDS``.

    Raises ``UsageError`` where nobody listens there, ``UnderlayError`` where the answer does not come, not
    within ``timeout_s`` seconds (0: no limit), or says that what was asked for failed.

    >>> request("/nowhere/serve.sock", "status")
    Traceback (most recent call last):
    underlay.errors.UsageError: there is no control socket /nowhere/serve.sock; the group is started with --control PATH
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout_s or None)
        _connect(sock, path)
        sock.sendall(json.dumps({"ask": word}).encode() + b"\n")
        with sock.makefile("rb") as file:
            try:
                line = file.readline(_MOST_ANSWER_BYTES)
            except ConnectionError:
                line = b""
            except TimeoutError:
                raise UnderlayError(
                    f"no answer to {word} from the group at {path} within {timeout_s:g} s",
                    remedy="what was asked for may still be done, as status tells",
                ) from None
    if not line:
        raise UnderlayError(f"the group at {path} ended before it answered", remedy="its own output says why")
    answer = cast("Answer", json.loads(line))
    if "failed" in answer:
        raise UnderlayError(str(answer["failed"]))
    return answer


def _connect(sock: socket.socket, path: str) -> None:
    refusals: dict[type[OSError], str] = {
        FileNotFoundError: f"there is no control socket {path}; the group is started with --control PATH",
        PermissionError: f"the control socket {path} is another user's; ask as that user",
        ConnectionRefusedError: f"nobody listens at {path}; its group has ended",
    }
    try:
        sock.connect(path)
    except OSError as error:
        what, _, remedy = refusals.get(type(error), f"{path} is no control socket: {error}; check the path").partition(
            "; "
        )
        raise UsageError(what, remedy=remedy) from error


def _listen(path: str) -> socket.socket:
    """Listen at ``path``, with mode 0600; a socket that a dead group left there is removed."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise UsageError(f"{path} exists and is no socket", remedy="name another path with --control")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except PermissionError:
                raise UsageError(f"{path} is another user's", remedy="name another path with --control") from None
            else:
                raise UsageError(f"another group is controlled at {path}", remedy="name another path with --control")
    sock = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)  # so that there is no moment at which somebody else could open it
    try:
        sock.bind(path)
        sock.listen()
    except OSError as error:
        sock.close()
        raise UsageError(f"no control socket can be made at {path}: {error.strerror or error}") from error
    finally:
        os.umask(mask)
    sock.setblocking(False)
    return sock
