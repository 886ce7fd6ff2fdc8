"""One situation, played twice: on sockets of the kernel's on loopback, and on sockets of the user-space stack.

The kernel is the oracle: what it answers is right. A situation is a function that is handed a `Net` and gives what
it saw, without numbers that differ from run to run (ports, times). It refuses to know what the situations are.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from underlay.loop import stack_loop
from underlay.loop._io_stack import StackLoop
from underlay.loop._stack_socket import StackSocket

HOST = "127.0.0.1"
# Nothing here waits for longer, and most wait for nothing.
LIMIT_S = 5.0


class Net:
    """Where a situation makes its sockets; `tell` says what a call gave, or why not."""

    def __init__(self, ends: ExitStack, loop: StackLoop | None) -> None:
        self._ends = ends
        self._loop = loop

    def make(self, *arguments: int) -> socket.socket:
        """A socket with a time-out, closed at the end."""
        sock = self._ends.enter_context(socket.socket(*arguments))
        assert isinstance(sock, StackSocket) == (self._loop is not None)
        sock.settimeout(LIMIT_S)
        return sock

    def free_port(self) -> int:
        """A port that nobody has, at any address: the kernel is shared, and chooses for one address only.

        It is below those that the kernel gives to others meanwhile (net.ipv4.ip_local_port_range).
        """
        while True:
            port = random.randrange(10_000, 32_000)
            with (
                socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as stream,
                socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagrams,
            ):
                try:
                    stream.bind(("::", port))
                    datagrams.bind(("::", port))
                except OSError:
                    continue
            return port

    def tcp(self) -> socket.socket:
        """Of IPv4."""
        return self.make(socket.AF_INET, socket.SOCK_STREAM)

    def udp(self, address: str | None = None) -> socket.socket:
        """Of IPv4; bound, where an address is given."""
        sock = self.make(socket.AF_INET, socket.SOCK_DGRAM)
        if address is not None:
            sock.bind((address, self.free_port()))
        return sock

    def udp6(self, address: str | None = None, *, only: bool | None = None) -> socket.socket:
        """Of IPv6."""
        sock = self.make(socket.AF_INET6, socket.SOCK_DGRAM)
        if only is not None:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
        if address is not None:
            sock.bind((address, self.free_port()))
        return sock

    def listener(self, host: str = HOST) -> socket.socket:
        """A TCP socket that listens at a port of its own."""
        sock = self.make(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        sock.bind((host, self.free_port()))
        sock.listen()
        return sock

    def accept(self, listener: socket.socket) -> socket.socket:
        """The next connection."""
        sock = self._ends.enter_context(listener.accept()[0])
        sock.settimeout(LIMIT_S)
        return sock

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a TCP connection: the one that connected first."""
        listener, client = self.listener(), self.tcp()
        client.connect(listener.getsockname())
        return client, self.accept(listener)

    def waiting(self, sock: socket.socket) -> socket.socket:
        """The same without a time-out: only so do MSG_WAITALL and MSG_DONTWAIT reach the kernel, out of Python."""
        sock.settimeout(None)
        return sock

    def settle(self) -> None:
        """Let what was sent arrive: with the kernel it has."""
        if self._loop is not None:
            for _ in range(6):
                self._loop._bridge.settle()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds."""
        end_s = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end_s, "it never came true"
            self.settle()
            time.sleep(0.001)


def tell(call: Callable[[], object]) -> object:
    """What a call gives; for an error its type, errno and text, except where the text is one of C functions."""
    try:
        given = call()
    except socket.gaierror as error:
        return "gaierror", error.errno
    except OSError as error:
        if isinstance(error, TimeoutError) and error.errno is None:
            return "TimeoutError"
        return type(error).__name__, errno.errorcode.get(error.errno or 0), error.strerror
    except TypeError as error:
        return type(error).__name__  # its words name functions of C
    except (BufferError, ValueError, OverflowError) as error:
        return type(error).__name__, str(error)
    return bytes(given) if isinstance(given, bytearray) else given


def each(*calls: Callable[[], object]) -> list[object]:
    """What one after another gives."""
    return [tell(call) for call in calls]


def set_on(sock: socket.socket, *options: int) -> socket.socket:
    """The same socket, with these options of SOL_SOCKET."""
    for option in options:
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
    return sock


Situation = Callable[[Net], object]


@contextmanager
def _net(loop: StackLoop | None) -> Iterator[Net]:
    with ExitStack() as ends:
        yield Net(ends, loop)


def kernel(situation: Situation) -> object:
    """What the kernel's sockets say."""
    with _net(None) as net:
        return situation(net)


def stack(situation: Situation) -> object:
    """What the stack's say."""

    async def main() -> object:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, StackLoop)
        with _net(loop) as net:
            return situation(net)

    with asyncio.Runner(loop_factory=lambda: stack_loop("lo")) as runner:
        return runner.run(main())


def names(situations: Sequence[Situation]) -> list[str]:
    """For ``pytest.mark.parametrize``."""
    return [situation.__name__.replace("_", " ") for situation in situations]
