"""The listening sockets that outlive the workers: held by the supervisor, lent to each worker that binds their address.

A worker that binds sends its own socket. The first one's is bound here, so that
each option that the program set stays, and an error is the one that bind(2) gave;
it is kept, and whoever binds the same address later gets it. Since the socket
that listens is never closed, no connection in its queue is lost when a worker goes.
With SO_REUSEPORT each worker has a socket of its own, and only the address is kept.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass

from ._channel import Call, Reply

__all__ = ["SHARES", "Listeners"]

# How the workers share a port.
SHARES = ("inherit", "reuse_port")


@dataclass(frozen=True)
class _Key:
    family: int
    proto: int
    address: tuple[object, ...] | str
    turn: int


class Listeners:
    """What is held, by the address that the program named."""

    def __init__(self, share: str) -> None:
        self._share = share
        self._kept: dict[_Key, socket.socket] = {}
        self._addresses: dict[_Key, object] = {}  # with SO_REUSEPORT: where the first worker was bound
        self._paths: dict[str, tuple[int, int]] = {}  # device and inode of what a Unix socket left in the file system

    def bind(self, call: Call, descriptor: int) -> tuple[Reply, int | None]:
        """Bind the worker's socket, or lend it the one that is held; takes ``descriptor`` over."""
        try:
            theirs = socket.socket(fileno=descriptor)
        except OSError as error:  # it is no socket
            os.close(descriptor)
            return Reply(outcome="error", errno=error.errno or errno.ENOTSOCK), None
        key = _key(call)
        if key in self._kept:
            theirs.close()
            return Reply(outcome="kept"), self._kept[key].fileno()
        if key in self._addresses:
            theirs.close()
            return Reply(outcome="again", address=self._addresses[key]), None
        address = key.address
        try:
            theirs.bind(address)
        except (OSError, OverflowError) as error:
            theirs.close()
            number = (error.errno if isinstance(error, OSError) else None) or errno.EINVAL
            return Reply(outcome="error", errno=number), None
        if isinstance(address, str):
            self._remember_path(address)
        if self._share == "reuse_port" and not isinstance(address, str):
            self._addresses[key] = theirs.getsockname()
            theirs.close()
        else:
            self._kept[key] = theirs
        return Reply(outcome="bound"), None

    def give_back(self, call: Call) -> None:
        """Forget an address that a client wanted for a connection: nobody listens there."""
        self._addresses.pop(_key(call), None)
        if (sock := self._kept.pop(_key(call), None)) is not None:
            sock.close()

    def is_kept(self, path: str) -> bool:
        """Whether ``path`` is that of a Unix socket held here, which a worker must not remove."""
        return os.path.abspath(path) in self._paths

    def places(self) -> list[object]:
        """The addresses that are shared, as getsockname() tells them."""
        return [*(sock.getsockname() for sock in self._kept.values()), *self._addresses.values()]

    def close(self) -> None:
        """Listen no more, and remove what Unix sockets left in the file system."""
        for sock in self._kept.values():
            sock.close()
        self._kept.clear()
        for path, identity in self._paths.items():
            with contextlib.suppress(OSError):
                if _identity(path) == identity:  # nobody else has put his own there
                    os.unlink(path)
        self._paths.clear()

    def _remember_path(self, path: str) -> None:
        if not path.startswith("\0"):  # an abstract name leaves nothing
            with contextlib.suppress(OSError):
                self._paths[os.path.abspath(path)] = _identity(path)


def _key(call: Call) -> _Key:
    address = call["address"]
    if isinstance(address, list):
        return _Key(call["family"], call["proto"], tuple(address), call["turn"])
    return _Key(call["family"], call["proto"], str(address), 0)


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino
