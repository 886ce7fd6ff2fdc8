"""What `benchmarks/ipc.py` measures: each way between processes, behind the same few functions.

It knows how each is made and called at its quickest. It refuses to know how anything is measured.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from underlay import ipc

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

# Sends so many; receives so many.
OneWay: TypeAlias = "tuple[Callable[[bytes, int], None], Callable[[int], None]]"
# Calls and gets an answer; waits for a call and answers.
BothWays: TypeAlias = "tuple[Callable[[bytes], None], Callable[[bytes], None]]"
Send: TypeAlias = "Callable[[bytes], object]"
Receive: TypeAlias = "Callable[[], object]"


class MissingPackageError(Exception):
    """What is compared needs a package that is not there."""


# What a process has to do before it may end, that what it sent last goes out; of the carriers that are open now.
_before_the_end: list[Callable[[], None]] = []


def flush() -> None:
    """Let all that this process sent go out."""
    for each in _before_the_end:
        each()


@contextlib.contextmanager
def flushed_by(last: Callable[[], None]) -> Iterator[None]:
    """While it is open, a process that ends does this first; so does this one at the end of it."""
    _before_the_end.append(last)
    try:
        yield
    finally:
        _before_the_end.remove(last)
        last()


@dataclass(frozen=True)
class Carrier:
    """One way between processes: how to make one direction, which other it is held against, and what it can carry."""

    make: Callable[[int], AbstractContextManager[tuple[Send, Receive]]]
    bare: str = ""
    package: str = ""
    max_message_bytes: int = 1 << 30
    share: float = 1.0
    batch: Callable[[int], AbstractContextManager[OneWay]] | None = None
    round_trip_only: bool = False

    @property
    def one_way_only(self) -> bool:
        """Whether it has no round trip of its own."""
        return self.batch is not None

    def check(self) -> None:
        """Raise `MissingPackageError` where its package is not installed."""
        if self.package:
            try:
                importlib.import_module(self.package)
            except ImportError:
                raise MissingPackageError(f"{self.package} is not installed (pip install underlay[bench])") from None

    @contextlib.contextmanager
    def one_way(self, size_bytes: int) -> Iterator[OneWay]:
        """A channel, and what both of its sides do."""
        if self.batch is not None:
            with self.batch(size_bytes) as made:
                yield made
            return
        with self.make(size_bytes) as (send, receive):

            def send_all(message: bytes, count: int) -> None:
                for _ in range(count):
                    send(message)

            def receive_all(count: int) -> None:
                for _ in range(count):
                    receive()

            yield send_all, receive_all

    @contextlib.contextmanager
    def both_ways(self, size_bytes: int) -> Iterator[BothWays]:
        """Two channels, and what both sides do."""
        with self.make(size_bytes) as (call, wait), self.make(size_bytes) as (answer, hear):

            def there_and_back(message: bytes) -> None:
                call(message)
                hear()

            def back(message: bytes) -> None:
                wait()
                answer(message)

            yield there_and_back, back


# --- ours ---


def channel(kind: str, **options: Any) -> Callable[[int], AbstractContextManager[tuple[Send, Receive]]]:
    """A channel's two methods."""

    @contextlib.contextmanager
    def make(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
        receiver, sender = ipc.pair(kind, **options)
        with receiver, sender:
            yield sender.send, receiver.receive

    return make


def batches(kind: str) -> Callable[[int], AbstractContextManager[OneWay]]:
    """A channel's methods for many messages at once, 100 of them."""

    @contextlib.contextmanager
    def make(size_bytes: int) -> Iterator[OneWay]:
        receiver, sender = ipc.pair(kind)

        def send(message: bytes, count: int) -> None:
            while count:
                now = min(count, 100)
                sender.send_many([message] * now)
                count -= now

        def receive(count: int) -> None:
            while count:
                count -= len(receiver.receive_many(min(count, 100)))

        with receiver, sender:
            yield send, receive

    return make


@contextlib.contextmanager
def slots_in_place(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
    """A slot whose message is already where it is to be: its number is all that crosses, and one byte is touched."""
    receiver, sender = ipc.pair("slots")

    def send(message: bytes) -> None:
        with sender.lend(size_bytes) as slot:
            slot[0] = 1

    def receive() -> None:
        with receiver.borrow() as view:
            view[0]

    with receiver, sender:
        yield send, receive


@contextlib.contextmanager
def slots_filled(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
    """A slot that is filled by a copy of the whole message and read where it is."""
    receiver, sender = ipc.pair("slots")

    def send(message: bytes) -> None:
        with sender.lend(size_bytes) as slot:
            slot[:] = message

    def receive() -> None:
        with receiver.borrow() as view:
            view[0]

    with receiver, sender:
        yield send, receive


# --- bare system calls, from Python ---


@contextlib.contextmanager
def bare_pipe(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
    """write(2) and read(2) until a whole message has gone or come; no message knows where it ends."""
    reader, writer = os.pipe()

    def send(message: bytes) -> None:
        written = os.write(writer, message)
        while written < size_bytes:
            written += os.write(writer, memoryview(message)[written:])

    def receive() -> None:
        got = len(os.read(reader, size_bytes))
        while got < size_bytes:
            got += len(os.read(reader, size_bytes - got))

    try:
        yield send, receive
    finally:
        os.close(reader)
        os.close(writer)


def bare_socket(kind: int) -> Callable[[int], AbstractContextManager[tuple[Send, Receive]]]:
    """send(2) and recv(2) on a pair of Unix sockets."""

    @contextlib.contextmanager
    def make(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
        left, right = socket.socketpair(socket.AF_UNIX, kind)

        def receive() -> None:
            got = len(right.recv(size_bytes))
            while got < size_bytes:
                got += len(right.recv(size_bytes - got))

        with left, right:
            yield left.sendall, receive

    return make


@contextlib.contextmanager
def bare_eventfd(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
    """An eventfd that is written and read: the least that waking another process costs; it carries nothing."""
    descriptor = os.eventfd(0)
    try:
        yield (lambda message: os.eventfd_write(descriptor, 1)), (lambda: os.eventfd_read(descriptor))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def bare_tcp(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
    """send(2) and recv(2) on a TCP connection of the machine with itself, without Nagle's delay."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        left = socket.create_connection(server.getsockname())
        right, _ = server.accept()
    left.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive() -> None:
        got = len(right.recv(size_bytes))
        while got < size_bytes:
            got += len(right.recv(size_bytes - got))

    with left, right:
        yield left.sendall, receive


# --- what people use instead ---


@contextlib.contextmanager
def multiprocessing_pipe(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
    """multiprocessing.Pipe, with bytes."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver, sender:
        yield sender.send_bytes, receiver.recv_bytes


@contextlib.contextmanager
def multiprocessing_queue(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
    """multiprocessing.Queue; its thread is started in the process that sends."""
    queue: Queue[bytes] = multiprocessing.Queue()

    def last() -> None:
        queue.close()
        queue.join_thread()

    with flushed_by(last):
        yield queue.put, queue.get


@contextlib.contextmanager
def faster_fifo(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
    """The package faster-fifo, without pickle, with as much room as our ring has for small messages."""
    module: Any = importlib.import_module("faster_fifo")
    queue = module.Queue(max(1 << 20, 8 * size_bytes), loads=bytes, dumps=bytes)

    def send(message: bytes) -> None:
        queue.put(message, timeout=30.0)

    def receive() -> None:
        queue.get(timeout=30.0)

    try:
        yield send, receive
    finally:
        queue.close()


@contextlib.contextmanager
def pyzmq(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
    """The package pyzmq: PUSH and PULL over ipc://; each side makes its socket in the process that uses it."""
    zmq: Any = importlib.import_module("zmq")
    address = f"ipc://@underlay-benchmark-{os.getpid()}-{os.urandom(4).hex()}"
    sockets: dict[str, Any] = {}

    def socket_of(name: str) -> Any:
        context = zmq.Context()
        made = sockets[name] = context.socket(getattr(zmq, name))
        (made.bind if name == "PUSH" else made.connect)(address)
        return made

    def send(message: bytes) -> None:
        (sockets.get("PUSH") or socket_of("PUSH")).send(message)

    def receive() -> None:
        (sockets.get("PULL") or socket_of("PULL")).recv()

    def last() -> None:
        for each in sockets.values():
            each.context.destroy(linger=1000)
        sockets.clear()

    with flushed_by(last):
        yield send, receive


BARE_UNIX, BARE_PACKETS = "bare Unix stream socket", "bare Unix seqpacket socket"
CARRIERS: dict[str, Carrier] = {
    "bare pipe": Carrier(bare_pipe),
    BARE_UNIX: Carrier(bare_socket(socket.SOCK_STREAM)),
    BARE_PACKETS: Carrier(bare_socket(socket.SOCK_SEQPACKET), max_message_bytes=4096),
    "bare TCP": Carrier(bare_tcp),
    "bare eventfd": Carrier(bare_eventfd, round_trip_only=True),
    "pipe": Carrier(channel("pipe"), "bare pipe"),
    "fifo": Carrier(channel("fifo"), "bare pipe"),
    "unix": Carrier(channel("unix"), BARE_UNIX),
    "seqpacket": Carrier(channel("seqpacket"), BARE_PACKETS, max_message_bytes=4096),
    "mqueue": Carrier(channel("mqueue"), "bare pipe", max_message_bytes=4096),
    "sysv": Carrier(channel("sysv"), "bare pipe", max_message_bytes=4096),
    "tcp": Carrier(channel("tcp"), "bare TCP"),
    "ring": Carrier(channel("ring"), "bare eventfd"),
    "ring, futex": Carrier(channel("ring", wakeup="futex"), "bare eventfd"),
    "ring, spin": Carrier(channel("ring", wakeup="spin"), "bare eventfd"),
    "ring, 100 at once": Carrier(channel("ring"), batch=batches("ring")),
    "ring-many": Carrier(channel("ring-many"), "bare eventfd"),
    "slots, copied twice": Carrier(channel("slots"), "bare eventfd"),
    "slots, filled": Carrier(slots_filled, "bare eventfd"),
    "slots, in place": Carrier(slots_in_place, "bare eventfd"),
    "multiprocessing.Pipe": Carrier(multiprocessing_pipe, "bare pipe"),
    "multiprocessing.Queue": Carrier(cast("Any", multiprocessing_queue), "bare pipe", share=0.5),
    "faster-fifo": Carrier(faster_fifo, "bare pipe", package="faster_fifo"),
    "pyzmq": Carrier(pyzmq, "bare pipe", package="zmq"),
}
