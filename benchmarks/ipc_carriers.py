"""What `benchmarks/ipc.py` measures: each way between processes, behind the same few functions.

It knows how each is made and called at its quickest. It refuses to know how anything is measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import signal
import socket
import sys
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


def slots(*, filled: bool) -> Callable[[int], AbstractContextManager[tuple[Send, Receive]]]:
    """A slot that is read where it is: filled by a copy of the whole message, or with that already in its place.

    Where it is there already, its number is all that crosses, and one byte is touched.
    """

    @contextlib.contextmanager
    def make(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
        receiver, sender = ipc.pair("slots")

        def fill(message: bytes) -> None:
            with sender.lend(size_bytes) as slot:
                slot[:] = message

        def touch(message: bytes) -> None:
            with sender.lend(size_bytes) as slot:
                slot[0] = 1

        def receive() -> None:
            with receiver.borrow() as view:
                view[0]

        with receiver, sender:
            yield fill if filled else touch, receive

    return make


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


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of the C library, that raises ``OSError`` where it says less than nothing."""

    def checked(found: Any, *_: Any) -> Any:
        if found < 0:
            raise OSError(ctypes.get_errno(), name)
        return found

    made = ctypes.CDLL(None, use_errno=True)[name]
    made.restype, made.argtypes, made.errcheck = result, arguments, checked
    return made


def _plain(function: Any) -> Any:
    """The same, without the check, which is a call of Python's in each call."""
    plain = ctypes.CDLL(None, use_errno=True)[function.__name__]
    plain.restype, plain.argtypes = function.restype, function.argtypes
    return plain


_int, _long, _size, _bytes, _address = (
    ctypes.c_int,
    ctypes.c_long,
    ctypes.c_size_t,
    ctypes.c_char_p,
    ctypes.c_void_p,
)


@contextlib.contextmanager
def bare_mqueue(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
    """mq_send(3) and mq_receive(3) through ctypes, which wait; Python has no words for them."""
    name = f"/underlay-benchmark-{os.getpid()}-{os.urandom(4).hex()}".encode()
    attributes = (_long * 8)(0, 10, size_bytes)  # struct mq_attr: flags, messages, bytes each
    queue = _function("mq_open", _int, _bytes, _int, _int, _address)(
        name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, ctypes.addressof(attributes)
    )
    _function("mq_unlink", _int, _bytes)(name)
    put = _plain(_function("mq_send", _int, _int, _bytes, _size, ctypes.c_uint))
    get = _plain(_function("mq_receive", ctypes.c_ssize_t, _int, _address, _size, _address))
    room = ctypes.create_string_buffer(size_bytes)
    at, view = ctypes.addressof(room), memoryview(room)
    try:
        yield (
            lambda message: put(queue, message, size_bytes, 0),
            lambda: view[: get(queue, at, size_bytes, None)].tobytes(),
        )
    finally:
        os.close(queue)


@contextlib.contextmanager
def bare_sysv(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
    """msgsnd(2) and msgrcv(2) through ctypes, which wait; Python has no words for them."""
    queue = _function("msgget", _int, _int, _int)(0, 0o600)  # IPC_PRIVATE
    put = _plain(_function("msgsnd", _int, _int, _bytes, _size, _int))
    get = _plain(_function("msgrcv", ctypes.c_ssize_t, _int, _address, _size, _long, _int))
    room = ctypes.create_string_buffer(8 + size_bytes)
    at, view, kind = ctypes.addressof(room), memoryview(room)[8:], (1).to_bytes(8, sys.byteorder)
    try:
        yield (
            lambda message: put(queue, kind + message, size_bytes, 0),
            lambda: view[: get(queue, at, size_bytes, 0, 0)].tobytes(),
        )
    finally:
        _function("msgctl", _int, _int, _int, _address)(queue, 0, None)  # IPC_RMID


@contextlib.contextmanager
def bare_signal(size_bytes: int) -> Iterator[tuple[Send, Receive]]:
    """sigqueue(3) through ctypes and read(2) of a signalfd(2), with a value of eight bytes."""
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a signal would kill this process: it has threads that do not block it")
    number = next(each for each in range(signal.SIGRTMIN, signal.SIGRTMAX) if each not in _signals_in_use)
    _signals_in_use.add(number)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    signals = (ctypes.c_uint64 * 16)(1 << (number - 1))
    reader = _function("signalfd", _int, _int, _address, _int)(-1, ctypes.addressof(signals), 0)
    put = _plain(_function("sigqueue", _int, _int, _int, ctypes.c_uint64))
    said_out, said_in = os.pipe()
    receiver = 0

    def send(message: bytes) -> None:
        nonlocal receiver
        receiver = receiver or int(os.read(said_out, 20))
        while put(receiver, number, int.from_bytes(message, "little")):
            os.sched_yield()  # as many are pending as there may be

    def receive() -> None:
        nonlocal receiver
        if not receiver:
            receiver = os.getpid()
            os.write(said_in, str(receiver).encode())
        int.from_bytes(os.read(reader, 128)[48 : 48 + size_bytes], "little")  # ssi_ptr of struct signalfd_siginfo

    try:
        yield send, receive
    finally:
        for each in (reader, said_out, said_in):
            os.close(each)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _signals_in_use.discard(number)


_signals_in_use: set[int] = set()


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
    # By fork, as the processes here are made; otherwise it starts helpers, from Python 3.14 on by default.
    queue: Queue[bytes] = multiprocessing.get_context("fork").Queue()

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


BARE_MQUEUE, BARE_SYSV, BARE_SIGNAL = "bare POSIX message queue", "bare System V queue", "bare signals"
BARE_UNIX, BARE_PACKETS = "bare Unix stream socket", "bare Unix seqpacket socket"
CARRIERS: dict[str, Carrier] = {
    # Each reference right before what is held against it: so a noisy moment hurts both.
    "bare pipe": Carrier(bare_pipe),
    "pipe": Carrier(channel("pipe"), "bare pipe"),
    "fifo": Carrier(channel("fifo"), "bare pipe"),
    BARE_UNIX: Carrier(bare_socket(socket.SOCK_STREAM)),
    "unix": Carrier(channel("unix"), BARE_UNIX),
    BARE_PACKETS: Carrier(bare_socket(socket.SOCK_SEQPACKET), max_message_bytes=4096),
    "seqpacket": Carrier(channel("seqpacket"), BARE_PACKETS, max_message_bytes=4096),
    BARE_MQUEUE: Carrier(bare_mqueue, max_message_bytes=4096),
    "mqueue": Carrier(channel("mqueue"), BARE_MQUEUE, max_message_bytes=4096),
    BARE_SYSV: Carrier(bare_sysv, max_message_bytes=4096),
    "sysv": Carrier(channel("sysv"), BARE_SYSV, max_message_bytes=4096),
    BARE_SIGNAL: Carrier(bare_signal, max_message_bytes=7),
    "signal": Carrier(channel("signal"), BARE_SIGNAL, max_message_bytes=7),
    "bare TCP": Carrier(bare_tcp),
    "tcp": Carrier(channel("tcp"), "bare TCP"),
    "bare eventfd": Carrier(bare_eventfd, round_trip_only=True),
    "ring": Carrier(channel("ring"), "bare eventfd"),
    "ring, futex": Carrier(channel("ring", wakeup="futex"), "bare eventfd"),
    "ring, spin": Carrier(channel("ring", wakeup="spin"), "bare eventfd"),
    "ring, 100 at once": Carrier(channel("ring"), batch=batches("ring")),
    "ring-many": Carrier(channel("ring-many"), "bare eventfd"),
    "slots, copied twice": Carrier(channel("slots"), "bare eventfd"),
    "slots, filled": Carrier(slots(filled=True), "bare eventfd"),
    "slots, in place": Carrier(slots(filled=False), "bare eventfd"),
    "multiprocessing.Pipe": Carrier(multiprocessing_pipe, "bare pipe"),
    "multiprocessing.Queue": Carrier(cast("Any", multiprocessing_queue), "bare pipe", share=0.5),
    "faster-fifo": Carrier(faster_fifo, "bare pipe", package="faster_fifo"),
    "pyzmq": Carrier(pyzmq, "bare pipe", package="zmq"),
}
