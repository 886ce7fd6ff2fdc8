"""A place of a test's own: a network namespace in which sockets are made and `underlay ports` is asked.

It knows how work and commands get there, as root and as a user without rights. It refuses to know what is tested.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
from tests._kernel import new_namespace

from underlay.link import Namespace
from underlay.tools.ports import Socket, list_sockets

_T = TypeVar("_T")

LIMIT_S = 60
NOBODY = 65534

_MODULES = ["_cli", "_close", "_records", "_table", "_watch", "_why", "_why_words"]


class Place:
    """A namespace; descriptors that are made in it stay valid in the whole process."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace

    def do(self, work: Callable[[], _T]) -> _T:
        """Call it there, in a thread of its own."""
        return self.namespace.run(work)

    def sockets(self, *words: str, owners: bool = True, info: bool = False) -> list[Socket]:
        """What `list_sockets` tells there."""
        return self.do(lambda: list_sockets(*words, owners=owners, info=info))

    def settled(self, *words: str) -> list[Socket]:
        """What is told when no connection is on its way to another state: an acknowledgment may be delayed by 40 ms."""
        deadline = time.monotonic() + LIMIT_S
        while found := self.sockets("state:fin-wait-1,closing,last-ack,syn-sent,syn-received", owners=False):
            assert time.monotonic() < deadline, found
            time.sleep(0.01)
        return self.sockets(*words)

    def server(self, address: str = "127.0.0.1", port: int = 0, *, reuse: bool = False) -> socket.socket:
        """A TCP listener, with SO_REUSEADDR or without."""

        def listen() -> socket.socket:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            sock.bind((address, port))
            sock.listen()
            return sock

        return self.do(listen)

    def connect(self, server: socket.socket) -> tuple[socket.socket, socket.socket]:
        """A connection to it: the client's end and the server's."""

        def make() -> socket.socket:
            client = socket.socket(server.family)
            client.connect(server.getsockname())
            return client

        client = self.do(make)
        accepted, _ = server.accept()
        return client, accepted

    def leave_in_time_wait(self, *, reuse: bool) -> int:
        """Serve one client, hang up first, and give the port that stays in TIME-WAIT."""
        with self.server(reuse=reuse) as server:
            client, accepted = self.connect(server)
            with client:
                accepted.close()
                assert client.recv(1) == b""
            port = port_of(server)
        assert [sock.state for sock in self.settled(f"local:{port}", "state:time-wait")] != []
        return port

    def bind(self, port: int, address: str = "127.0.0.1", *, reuse: bool = False, kind: int = 1) -> int:
        """What really happens to a program's bind: 0, or the errno."""

        def work() -> int:
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
                try:
                    sock.bind((address, port))
                except OSError as error:
                    return error.errno or -1
                return 0

        return self.do(work)

    def command(self, *words: str, nobody: bool = False) -> subprocess.CompletedProcess[str]:
        """Run `underlay ports` there to its end."""
        argv = arguments(*words, nobody=nobody)
        environment = {**os.environ, "COLUMNS": "80"}
        return self.do(
            lambda: subprocess.run(
                argv,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        )


def arguments(*words: str, nobody: bool = False) -> list[str]:
    """What starts `underlay ports`, as this user or as one without rights."""
    if not nobody:
        return [sys.executable, "-W", "error", "-m", "underlay", "ports", *words]
    # Without rights Python itself may be out of reach: everything is imported before they are given up.
    code = "".join(f"import underlay.tools.ports.{name}\n" for name in _MODULES)
    code += "import os, sys, json, pwd, ipaddress, locale, gettext, textwrap, encodings.idna\n"
    code += "from underlay.cli import entry\n"
    code += f"os.setgroups([]); os.setresgid(*[{NOBODY}] * 3); os.setresuid(*[{NOBODY}] * 3)\n"
    # exec(2) makes a process readable in /proc again; here there is none: PR_SET_DUMPABLE.
    code += "import ctypes; ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\nentry()"
    return [sys.executable, "-W", "error", "-c", code, "ports", *words]


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


@contextmanager
def place() -> Iterator[Place]:
    """Make one, or skip the test with the reason."""
    with new_namespace() as namespace:
        yield Place(namespace)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do that; remedy: run the tests as root")
