"""The handshake of two processes that meet under a name: who comes asks, who is there answers.

This file knows the words of it, their limits and their version, and visitors who say nothing or rubbish. It refuses to
know what is handed over, and what the sockets are: of this machine or of the network.

Each word is a JSON object after four bytes of length. The visitor speaks first: whoever only looks whether somebody is
there, or does not belong here, gets and costs nothing.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, cast

from ..errors import UnderlayError
from . import _life
from ._end import close_all
from ._errors import HandshakeFailed
from ._framing import LengthPrefix, LengthPrefixDecoder
from ._steps import Steps, Wait

VERSION: Final = 1
_FRAMING: Final = LengthPrefix(max_message_bytes=4096)  # terms and a few numbers have 200
# A visitor has its word out before we see it; who is still silent when so many more came is none.
_MOST_SILENT: Final = 16
# SCM_MAX_FD (unix(7)) is 253; no end has as many.
_MOST_DESCRIPTORS: Final = 32
# A visitor of the thread that would have to answer it looks so often whether it has to.
_OWN_SLICE_S: Final = 0.01


class Door:
    """A socket that listens, and the visitors who have not said yet what they want. It never waits."""

    def __init__(self, listening: socket.socket, admits: Callable[[socket.socket], bool]) -> None:
        self._listening = listening
        self._admits = admits
        self._silent: dict[socket.socket, LengthPrefixDecoder] = {}
        self.before_close: Callable[[int], None] | None = None
        """Is told of each descriptor that is about to be given back."""

    def waits(self) -> tuple[int, ...]:
        """The descriptors that become readable when there is somebody to `let_in`."""
        return (self._listening.fileno(), *(each.fileno() for each in self._silent))

    def let_in(self) -> socket.socket | None:
        """The next visitor whose word is understood, or None where there is none now. It expects `answer`."""
        for visitor in list(self._silent):
            if self._has_spoken(visitor):
                return visitor
        while True:
            try:
                visitor, _ = self._listening.accept()
            except (BlockingIOError, ConnectionError):
                return None
            visitor.setblocking(False)
            if not self._admits(visitor):
                visitor.close()
                continue
            self._silent[visitor] = _FRAMING.decoder()
            if self._has_spoken(visitor):
                return visitor
            if len(self._silent) > _MOST_SILENT:
                self._refuse(next(iter(self._silent)))

    def _has_spoken(self, visitor: socket.socket) -> bool:
        try:
            data = visitor.recv(_FRAMING.max_message_bytes)
            words = self._silent[visitor].feed(data)
        except BlockingIOError:
            return False
        except (OSError, UnderlayError):
            self._refuse(visitor)
            return False
        if not words:
            if not data:
                self._refuse(visitor)
            return False
        try:
            asked = _understood(words[0])
        except HandshakeFailed:
            self._refuse(visitor)
            return False
        if asked.get("version") != VERSION:
            answer(visitor, {"refused": f"it speaks version {VERSION} of the handshake"})
            self._refuse(visitor)
            return False
        if self.before_close is not None:
            self.before_close(visitor.fileno())
        del self._silent[visitor]
        return True

    def _refuse(self, visitor: socket.socket) -> None:
        if self.before_close is not None:
            self.before_close(visitor.fileno())
        self._silent.pop(visitor, None)
        visitor.close()

    def close(self) -> None:
        """Let nobody in any more."""
        with contextlib.closing(self._listening):
            if self.before_close is not None:
                self.before_close(self._listening.fileno())
            with contextlib.ExitStack() as refusing:
                for visitor in list(self._silent):
                    refusing.callback(self._refuse, visitor)


def answer(visitor: socket.socket, said: dict[str, object], descriptors: Sequence[int] = ()) -> bool:
    """Answer a visitor; whether it was still there."""
    word = _FRAMING.encode(json.dumps({"version": VERSION, **said}).encode())
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    try:
        # A socket's buffer is empty here and takes the whole of it.
        return visitor.sendmsg([word], rights, socket.MSG_NOSIGNAL) == len(word)
    except OSError:
        return False


def asking(
    connection: socket.socket, who: str, deadline_s: float, process: int = 0
) -> Steps[tuple[dict[str, object], list[int]]]:
    """What the process behind a connection answers, and the descriptors that it hands over.

    Raises ``ConnectionError`` where it went away, ``TimeoutError``, and `HandshakeFailed` where it speaks otherwise.
    """
    descriptors: list[int] = []
    pidfd = -1
    with contextlib.suppress(OSError):  # dead, which the connection tells; or in a namespace that we cannot see
        pidfd = os.pidfd_open(process)
    try:
        connection.setblocking(False)
        connection.sendall(_FRAMING.encode(json.dumps({"version": VERSION}).encode()))
        head = yield from _reading(connection, 4, descriptors, deadline_s, pidfd)
        length = int.from_bytes(head, "big")
        if length > _FRAMING.max_message_bytes:
            raise HandshakeFailed(
                f"{who} answered {head!r}, which begins no handshake", remedy="see what is there: it is none of ours"
            )
        said = _understood((yield from _reading(connection, length, descriptors, deadline_s, pidfd)))
        if "refused" in said or said.get("version") != VERSION:
            raise HandshakeFailed(
                f"{who} does not speak version {VERSION} of the handshake, but {said.get('version')!r}",
                remedy="run both with the same version of underlay",
            )
        return said, descriptors
    except BaseException:
        close_all(descriptors)
        raise
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _reading(
    connection: socket.socket, size_bytes: int, descriptors: list[int], deadline_s: float, pidfd: int
) -> Steps[bytes]:
    # Not a byte more: what follows may be messages.
    found = b""
    while len(found) < size_bytes:
        try:
            data, ancillary, flags, _ = connection.recvmsg(
                size_bytes - len(found), socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            yield from _waiting(connection, deadline_s, pidfd)
            continue
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                came = array.array("i")
                came.frombytes(content[: len(content) // 4 * 4])
                descriptors += came
        if flags & socket.MSG_CTRUNC:  # the kernel dropped some: recvmsg(2) says no more than that
            raise OSError(errno.EMFILE, f"no room for the descriptors of a channel: {os.strerror(errno.EMFILE)}")
        if not data:
            raise ConnectionResetError("it closed the connection instead of an answer")
        found += data
    return found


def _waiting(connection: socket.socket, deadline_s: float, pidfd: int) -> Steps[None]:
    answer_those_of_this_thread()
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    watched = (connection.fileno(), pidfd) if pidfd >= 0 else (connection.fileno(),)
    ready = yield Wait(min(left_s, _OWN_SLICE_S) if _of_this_thread() else left_s, watched)
    if ready == {pidfd}:
        raise ConnectionResetError("it died before it answered")


def _understood(word: bytes) -> dict[str, object]:
    try:
        said = json.loads(word)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise HandshakeFailed(
            f"{word[:40]!r} is no word of the handshake", remedy="see what is there: it is none of ours"
        )
    return cast(dict[str, object], said)


# --- who is asked by the very thread that would have to answer ---

_answerers: dict[int, tuple[object, int, Callable[[], object]]] = {}


def answers_here(key: object, let_in: Callable[[], object]) -> None:
    """This thread answers at a door, by this call: also while it is itself a visitor of that."""
    _answerers[id(key)] = (_life.process, threading.get_ident(), let_in)


def answers_no_more(key: object) -> None:
    """Nobody is let in by `answers_here` any more."""
    _answerers.pop(id(key), None)


def _of_this_thread() -> list[Callable[[], object]]:
    here = (_life.process, threading.get_ident())
    return [let_in for process, thread, let_in in list(_answerers.values()) if (process, thread) == here]


def answer_those_of_this_thread() -> None:
    """Let in whoever knocks at the doors of this thread."""
    for let_in in _of_this_thread():
        let_in()
