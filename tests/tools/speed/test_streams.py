"""A stream counts what it moves: numbers that are missing, overtaken, doubled, or no numbers at all."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from underlay.tools.speed import Settings, _movers, _streams
from underlay.tools.speed._movers import close_all, start
from underlay.tools.speed._sockets import set_up
from underlay.tools.speed._streams import Budget, Stream, make_stream, stop_receiving

if TYPE_CHECKING:
    from typing_extensions import Buffer

PATIENCE_S = 10
UDP = Settings(protocol="udp", length_bytes=100)
# A buffer with room for eight blocks, as the kernel gives it without a window only after a while.
BLOCKS = Settings(length_bytes=10_000, window_bytes=100_000)


@pytest.fixture(params=["a thread each", "a thread for many"], autouse=True)
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let a stream have a thread of its own, or be moved with others."""
    how = str(request.param)
    if how == "a thread for many":
        monkeypatch.setattr(_movers, "_MOST_THREADS", 0)
        # A crew of one is moved alone.
        monkeypatch.setattr(_movers, "_move_one", many)
    return how


def many(crew: Sequence[Stream]) -> None:
    (_movers._send_many if crew[0].is_sender else _movers._receive_many)(crew)


@contextmanager
def connected(kind: type[socket.socket] = socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets that exchange datagrams, the first of a kind."""
    with kind(socket.AF_INET, socket.SOCK_DGRAM) as here, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        for sock in (here, there):
            sock.bind(("127.0.0.1", 0))
        here.connect(there.getsockname())
        there.connect(here.getsockname())
        yield here, there


@pytest.fixture
def receiver() -> Iterator[tuple[Stream, socket.socket]]:
    """A receiver of datagrams that runs, and the socket that they come from."""
    with connected() as (here, there):
        set_up(here, UDP)
        stream = make_stream(1, here, UDP, is_sender=False)
        start([stream])
        yield stream, there
        close_all([stream])


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
    return here, there


@contextmanager
def receiving(settings: Settings) -> Iterator[tuple[Stream, socket.socket]]:
    """A receiver of TCP that runs, and the socket that its bytes come from."""
    here, there = tcp_pair()
    set_up(here, settings)
    stream = make_stream(1, here, settings, is_sender=False)
    start([stream])
    try:
        with there:
            there.settimeout(PATIENCE_S)
            yield stream, there
    finally:
        close_all([stream])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert condition()


def datagram(number: int, at_s: float = 0.0) -> bytes:
    return struct.pack("!III", int(at_s), round(at_s % 1 * 1e6), number).ljust(100, b"\0")


def until_read(stream: Stream) -> None:
    """End the stream as a server does, so that all that has come is counted."""
    stop_receiving([stream], time.monotonic() + PATIENCE_S)


@pytest.mark.parametrize(
    ("numbers", "highest", "lost", "out_of_order"),
    [
        ([1, 2, 3], 3, 0, 0),
        ([1, 4, 5], 5, 2, 0),
        ([3], 3, 2, 0),
        ([1, 3, 2, 4], 4, 0, 1),
        ([1, 5, 2, 3], 5, 1, 2),
        # That one came twice cannot be told from one that came late: iperf3 says so of itself.
        ([1, 2, 2], 2, 0, 1),
        ([0xFFFFFFFF], 0xFFFFFFFF, 0xFFFFFFFE, 0),
    ],
)
def test_gaps_in_the_numbers_are_losses_until_the_late_ones_come(
    receiver: tuple[Stream, socket.socket], numbers: list[int], highest: int, lost: int, out_of_order: int
) -> None:
    stream, there = receiver
    for number in numbers:
        there.send(datagram(number))
    until_read(stream)
    assert (stream.packets, stream.lost, stream.out_of_order) == (highest, lost, out_of_order)
    assert stream.bytes == 100 * len(numbers)


def test_a_receiver_reads_what_comes_whatever_rate_was_asked_for() -> None:
    with receiving(Settings(rate_bits_per_s=8, length_bytes=1000)) as (stream, there):
        there.sendall(bytes(100_000))
        there.shutdown(socket.SHUT_WR)
        stream.wait_for_end(PATIENCE_S)
        assert (stream.bytes, stream.has_ended) == (100_000, True)


def mark_bytes(stream: Stream) -> int:
    """What is to have come before a call that waits for it returns: socket(7)."""
    return stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


@pytest.mark.parametrize("size", [1, 9_999, 10_000, 10_001, 95_000])
@pytest.mark.parametrize("how", ["the test stops", "the sender closes", "the sender only waits"])
def test_what_is_less_than_a_block_is_counted_however_it_ends(threads: str, size: int, how: str) -> None:
    with receiving(BLOCKS) as (stream, there):
        there.sendall(bytes(80_000))
        until(lambda: stream.bytes == 80_000)
        # Of several streams in one thread poll(2) tells, which waits for the mark without end.
        until(lambda: mark_bytes(stream) == (10_000 if threads == "a thread each" else 1))
        there.sendall(bytes(size))
        if how == "the test stops":
            until_read(stream)
            # Or poll(2), by which it sees whether more is coming, would overlook less than a block.
            assert mark_bytes(stream) == 1
        elif how == "the sender closes":
            there.shutdown(socket.SHUT_WR)
            stream.wait_for_end(PATIENCE_S)
        else:
            until(lambda: stream.bytes == 80_000 + size)
        assert stream.bytes == 80_000 + size
        assert stream.has_ended == (how != "the sender only waits")
        assert stream.failure is None


def test_a_receiver_of_large_blocks_is_woken_by_one_of_the_usual_size(
    threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Smaller here than it is, so that the kernel gives a buffer with room for eight.
    monkeypatch.setattr(_streams, "TCP_BLOCK_BYTES", 10_000)
    with receiving(replace(BLOCKS, length_bytes=50_000)) as (stream, there):
        there.sendall(bytes(80_000))
        until(lambda: stream.bytes == 80_000)
        until(lambda: mark_bytes(stream) == (10_000 if threads == "a thread each" else 1))


@pytest.mark.parametrize(
    "settings",
    [
        replace(BLOCKS, size_bytes=1 << 20),
        replace(BLOCKS, blocks=10),
        replace(BLOCKS, rate_bits_per_s=10**9),
        replace(BLOCKS, parallel=3),
        replace(BLOCKS, window_bytes=10_000),
    ],
    ids=["bytes end it", "blocks end it", "a rate", "others beside it", "a small window"],
)
def test_each_piece_wakes_a_receiver_where_it_is_waited_for_or_blocks_would_cost_more(settings: Settings) -> None:
    with receiving(settings) as (stream, there):
        there.sendall(bytes(80_000))
        until(lambda: stream.bytes == 80_000)
        # Here it looks for room, if it ever does; when it has read more it has done so.
        there.sendall(b"x")
        until(lambda: stream.bytes == 80_001)
        assert mark_bytes(stream) == 1


def test_what_is_too_short_for_a_number_is_not_counted_as_data(receiver: tuple[Stream, socket.socket]) -> None:
    stream, there = receiver
    for said in (b"", b"6789", bytes(11), datagram(1), datagram(2)[:12]):
        there.send(said)
    until_read(stream)
    assert (stream.not_ours, stream.packets, stream.bytes) == (3, 2, 112)


def test_jitter_is_a_sixteenth_of_each_change_of_transit_whatever_the_clocks_say(
    receiver: tuple[Stream, socket.socket],
) -> None:
    # RFC 1889, A.8. The second says that it left 1,600 s after the first, and comes at once.
    stream, there = receiver
    there.send(datagram(1, 0.0))
    there.send(datagram(2, 1600.0))
    until_read(stream)
    assert stream.jitter_s == pytest.approx(100, abs=1)


def test_a_budget_gives_what_it_has_and_no_more_once_it_counts() -> None:
    budget = Budget(100)
    assert budget.take(70) == 70
    budget.give_back(70)
    budget.begin()
    assert [budget.take(60), budget.take(60), budget.take(60)] == [60, 40, 0]
    budget.give_back(5)
    assert budget.take(60) == 5


def test_several_senders_share_a_budget_to_the_byte() -> None:
    budget = Budget(1_000_000)
    budget.begin()
    taken: list[int] = []

    def take() -> None:
        while size := budget.take(777):
            taken.append(size)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 1_000_000


def test_a_block_that_the_kernel_took_in_part_is_ended_on_the_same_stream() -> None:
    class Slow(socket.socket):
        def send(self, data: Buffer, flags: int = 0) -> int:
            return super().send(memoryview(data)[:400], flags)

    budget = Budget(2000)
    budget.begin()
    settings = Settings(length_bytes=1000)
    streams: list[Stream] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for kind in (Slow, socket.socket):
            sock = kind(socket.AF_INET, socket.SOCK_STREAM)
            sock.connect(listener.getsockname())
            stream = make_stream(len(streams), sock, settings, is_sender=True)
            stream.budget = budget
            streams.append(stream)
        slow, other = streams
        slow_step, step = slow.stepper(), other.stepper()
        assert slow_step()
        while step():
            pass
        while slow_step():
            pass
    close_all(streams)
    assert (slow.bytes, other.bytes) == (1000, 1000)


def test_a_sender_whose_peer_reads_nothing_stops_when_told() -> None:
    here, other = tcp_pair()
    settings = Settings(length_bytes=1 << 20)
    set_up(here, settings)
    stream = make_stream(1, here, settings, is_sender=True)
    start([stream])
    while not stream.bytes:
        time.sleep(0.01)
    stream.is_stopped = True
    stream.wait_for_end(PATIENCE_S)
    assert stream.has_ended
    sent = stream.bytes
    close_all([stream])
    received = 0
    with other:
        other.settimeout(PATIENCE_S)
        while data := other.recv(1 << 20):
            received += len(data)
    assert received == sent


@pytest.mark.parametrize("rate_bits_per_s", [0, 10**12], ids=["as fast as it goes", "at a rate"])
def test_datagrams_are_numbered_from_one_and_say_when_they_were_sent(rate_bits_per_s: int) -> None:
    settings = Settings(protocol="udp", length_bytes=100, rate_bits_per_s=rate_bits_per_s)
    with connected() as (here, there):
        stream = make_stream(1, here, settings, is_sender=True)
        step = stream.stepper()
        begun_us = time.monotonic_ns() // 1000
        while stream.packets < 100:
            assert step()
        ended_us = time.monotonic_ns() // 1000
        came = [struct.unpack_from("!III", there.recv(200)) for _ in range(stream.packets)]
    assert stream.bytes == 100 * stream.packets
    assert [number for _, _, number in came] == list(range(1, stream.packets + 1))
    assert all(microseconds < 1_000_000 for _, microseconds, _ in came)
    times_us = [seconds * 1_000_000 + microseconds for seconds, microseconds, _ in came]
    assert [begun_us, *times_us, ended_us] == sorted([begun_us, *times_us, ended_us])


def test_a_sender_that_nothing_paces_sends_no_datagram_after_it_was_stopped() -> None:
    class Stopping(socket.socket):
        def send(self, data: Buffer, flags: int = 0) -> int:
            stream.is_stopped = stream.packets == 2
            return super().send(data, flags)

    with connected(Stopping) as (here, there):
        stream = make_stream(1, here, Settings(protocol="udp", length_bytes=100, rate_bits_per_s=0), is_sender=True)
        stream.stepper()()
        assert stream.packets == 3
        assert [struct.unpack_from("!III", there.recv(200))[2] for _ in range(3)] == [1, 2, 3]
        there.setblocking(False)
        with pytest.raises(BlockingIOError):
            there.recv(200)


def test_a_stream_that_breaks_keeps_the_reason_and_tells_who_waits() -> None:
    here, other = tcp_pair()
    # A reset: socket(7), SO_LINGER of no time.
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
    stream = make_stream(1, here, Settings(length_bytes=1000), is_sender=False)
    ended = threading.Event()
    stream.on_end = ended.set
    start([stream])
    other.close()
    assert ended.wait(PATIENCE_S)
    assert isinstance(stream.failure, ConnectionResetError)
    close_all([stream])


def test_a_stream_for_which_there_is_no_memory_breaks_and_tells_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def stepper() -> Callable[[], bool]:
        raise MemoryError

    here, there = tcp_pair()
    with here, there:
        ended: list[bool] = []
        stream = make_stream(1, here, Settings(length_bytes=10_000), is_sender=False)
        stream.on_end = lambda: ended.append(True)
        monkeypatch.setattr(stream, "stepper", stepper)
        start([stream])
        until(lambda: stream.has_ended)
        assert getattr(stream.failure, "errno", None) == errno.ENOMEM
        until(lambda: ended == [True])


def test_what_is_read_byte_by_byte_is_left_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_streams, "END_PATIENCE_S", 0.05)
    with receiving(Settings(length_bytes=1)) as (stream, there):
        there.settimeout(0.1)
        with pytest.raises(TimeoutError):
            while True:
                there.sendall(bytes(1 << 20))
        assert not stream.has_ended
        stop_receiving([stream], time.monotonic())
        assert (stream.has_ended, stream.failure) == (True, None)
