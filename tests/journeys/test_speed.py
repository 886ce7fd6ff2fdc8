"""`underlay.tools.speed` and Debian's iperf3 at either end: both count the same bytes, in each protocol and direction.

What the two ends tell each other must be equal to the byte. What the sender counts and what the receiver counts may
differ by what was on its way when the test ended, since iperf3's protocol has no other end than the client's word on
the control connection, which does not wait for the data: of TCP that is at most what both kernels' buffers hold, of UDP
what the receiver's buffer holds, and what was lost. A server that sends by TCP goes on until it hears that word,
while its client reads on and counts no more: that has no bound, and is more on a busy machine. A receiver never counts
more than was sent, but that a stock program since 3.16 does not count the block that each of its streams was at in the
end: `has_threads` says why.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
from tests.tools.speed._buffer_locks import NEEDS_BUFFER_LOCKS

from underlay.errors import UnderlayError
from underlay.tools.speed import Direction, Result, Settings, Way, _client, _session, measure
from underlay.tools.speed._sockets import Target, set_up

from ._iperf3 import (
    free_port,
    has_threads,
    in_flight_bytes,
    our_server,
    report_of,
    stock_client,
    stock_server,
    unread_datagrams_bytes,
)

# Bounded, so that a shared machine loses few.
UDP_RATE = 20_000_000
SECONDS = 0.3

GRID = [
    (protocol, direction, parallel)
    for protocol in ("tcp", "udp")
    for direction, parallel in (
        (Direction.NORMAL, 1),
        (Direction.REVERSE, 1),
        (Direction.BIDIRECTIONAL, 1),
        (Direction.NORMAL, 3),
    )
]
on_the_grid = pytest.mark.parametrize(
    ("protocol", "direction", "parallel"), GRID, ids=[f"{p}-{d.value}-P{n}" for p, d, n in GRID]
)


def check_counts(result: Result, told: dict[str, Any] | None = None) -> None:
    """Hold both ends' counts against each other; ``told`` is of the other end, where that is a stock program."""
    settings = result.settings
    assert len(result.streams) == settings.parallel * len(result.ways)
    assert result.is_complete
    block_bytes = settings.length_bytes if told is not None and has_threads(told) else 0
    for stream in result.streams:
        assert stream.sent_bytes is not None
        assert stream.received_bytes is not None
        # Such a program leaves out the block that it was sending; we leave out nothing.
        assert stream.received_bytes <= stream.sent_bytes + (0 if result.sends(stream.way) else block_bytes)
    for total in result.totals:
        assert total.sent_bytes is not None
        assert total.received_bytes is not None
        assert total.received_bytes > 0
        unread = total.sent_bytes - total.received_bytes
        if settings.is_udp:
            assert total.lost is not None
            lost_bytes = total.lost * settings.length_bytes
            # Each number up to the highest was read or is lost; the loopback brings none twice, or out of order.
            assert total.received_bytes + lost_bytes == (total.packets or 0) * settings.length_bytes
            # A datagram that is in the buffer takes more room there than it has bytes; one is in the sender's hands.
            assert unread <= lost_bytes + unread_datagrams_bytes(settings.parallel) + settings.length_bytes
            assert total.received_bytes % settings.length_bytes == 0
        else:
            if total.way is Way.UP:
                # A block that such a program was reading has left the buffers.
                half_read_bytes = block_bytes * settings.parallel if result.sends(total.way) else 0
                assert unread <= in_flight_bytes(settings.parallel) + half_read_bytes
            assert total.retransmissions is not None


def summed(told: dict[str, Any], way: Way, result: Result, *, what: str) -> int:
    """iperf3's own sum: `what` is sent or received."""
    back = "_bidir_reverse" if way is Way.DOWN and result.settings.direction is Direction.BIDIRECTIONAL else ""
    return int(told["end"][f"sum_{what}{back}"]["bytes"])


@on_the_grid
def test_our_client_and_a_stock_server_count_the_same(protocol: Any, direction: Direction, parallel: int) -> None:
    rate = UDP_RATE if protocol == "udp" else 0
    settings = Settings(protocol=protocol, direction=direction, parallel=parallel, time_s=SECONDS, rate_bits_per_s=rate)
    with stock_server("-1") as (port, child):
        result = measure("127.0.0.1", settings, port=port)
        told = report_of(child)
    check_counts(result, told)
    for total in result.totals:
        # A stock server prints what it did itself; of the other side it prints 0.
        if total.way is Way.UP:
            assert summed(told, Way.UP, result, what="received") == total.received_bytes
        else:
            # With threads it prints its counts while the last block of each stream is still being sent.
            late_bytes = settings.parallel * result.settings.length_bytes if has_threads(told) else 0
            assert total.sent_bytes is not None
            assert 0 <= total.sent_bytes - summed(told, Way.DOWN, result, what="sent") <= late_bytes
    assert result.peer_cpu is not None
    assert result.peer_cpu.percent > 0


@on_the_grid
def test_a_stock_client_and_our_server_count_the_same(protocol: Any, direction: Direction, parallel: int) -> None:
    # Its seconds are whole ones; of datagrams some bytes are as good a test.
    words = ["-P", str(parallel), *(["-u", "-b", str(UDP_RATE), "-n", "1M"] if protocol == "udp" else ["-t", "1"])]
    words += {Direction.NORMAL: [], Direction.REVERSE: ["-R"], Direction.BIDIRECTIONAL: ["--bidir"]}[direction]
    with our_server() as ours:
        told = stock_client(ours.port, *words)
        result = ours.result()
    assert (result.settings.protocol, result.settings.direction, result.settings.parallel) == (
        protocol,
        direction,
        parallel,
    )
    check_counts(result, told)
    for total in result.totals:
        assert summed(told, total.way, result, what="sent") == total.sent_bytes
        assert summed(told, total.way, result, what="received") == total.received_bytes
    assert told["end"]["cpu_utilization_percent"]["remote_total"] == pytest.approx(result.cpu.percent)


@pytest.mark.parametrize("direction", Direction, ids=lambda d: d.value)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_both_ends_of_ours_agree_on_each_figure(protocol: Any, direction: Direction) -> None:
    rate = UDP_RATE if protocol == "udp" else 0
    settings = Settings(
        protocol=protocol, direction=direction, parallel=2, time_s=SECONDS, rate_bits_per_s=rate, length_bytes=16_384
    )
    with our_server() as ours:
        here = measure("127.0.0.1", settings, port=ours.port)
        there = ours.result()
    check_counts(here)
    for mine, theirs in zip(here.streams, there.streams, strict=True):
        assert (mine.number, mine.way) == (theirs.number, theirs.way)
        assert (mine.sent_bytes, mine.received_bytes) == (theirs.sent_bytes, theirs.received_bytes)
        assert mine.retransmissions == theirs.retransmissions
        assert mine.lost == theirs.lost
    assert here.congestion == there.peer_congestion
    assert [interval.way for interval in here.intervals[: len(here.ways)]] == (
        [Way.UP, Way.DOWN] if direction is Direction.BIDIRECTIONAL else list(here.ways)
    )
    assert sum(interval.size_bytes for interval in here.intervals if here.sends(interval.way)) == sum(
        total.sent_bytes or 0 for total in here.totals if here.sends(total.way)
    )


@pytest.mark.parametrize(("protocol", "rate"), [("tcp", 0), ("udp", UDP_RATE // 10)])
def test_more_streams_than_threads_are_counted_alike_and_the_clock_is_still_looked_at(protocol: Any, rate: int) -> None:
    settings = Settings(
        protocol=protocol,
        direction=Direction.BIDIRECTIONAL,
        parallel=12,
        time_s=SECONDS,
        rate_bits_per_s=rate,
        length_bytes=1000,
    )
    with our_server() as ours:
        here = measure("127.0.0.1", settings, port=ours.port, interval_s=0.1)
        there = ours.result()
    check_counts(here)
    for mine, theirs in zip(here.streams, there.streams, strict=True):
        assert (mine.sent_bytes, mine.received_bytes) == (theirs.sent_bytes, theirs.received_bytes)
    with our_server() as ours:
        told = stock_client(ours.port, "-t", "1", "-P", "12", *(["-u", "-b", "1M"] if protocol == "udp" else []))
        check_counts(ours.result(), told)
    assert len(told["end"]["streams"]) == 12


@pytest.mark.parametrize("zero_copy", [False, True], ids=["send", "sendfile"])
@pytest.mark.parametrize("parallel", [3, 12])
def test_a_test_of_so_many_bytes_sends_exactly_those(zero_copy: bool, parallel: int) -> None:
    settings = Settings(size_bytes=3_000_001, parallel=parallel, zero_copy=zero_copy)
    with stock_server("-1") as (port, child):
        result = measure("127.0.0.1", settings, port=port)
        told = report_of(child)
    assert result.totals[0].sent_bytes == 3_000_001
    received = result.totals[0].received_bytes
    assert received is not None
    assert told["end"]["sum_received"]["bytes"] == received <= 3_000_001


def test_a_stock_server_sends_so_many_bytes_when_asked_for_them() -> None:
    with stock_server("-1") as (port, _):
        result = measure("127.0.0.1", Settings(size_bytes=5_000_000, direction=Direction.REVERSE), port=port)
    assert result.totals[0].received_bytes is not None
    assert result.totals[0].received_bytes >= 5_000_000


@pytest.mark.parametrize("parallel", ["", "-P 3", "-P 12"])
@pytest.mark.parametrize("way", ["", "-R"])
@pytest.mark.parametrize("end", ["-n 5M", "-n 100K", "-n 3000001", "-k 40"])
def test_our_server_ends_a_stock_clients_test_by_bytes_or_blocks(end: str, way: str, parallel: str) -> None:
    with our_server() as ours:
        told = stock_client(ours.port, *end.split(), *way.split(), *parallel.split())
        result = ours.result()
    assert told["end"]["sum_received"]["bytes"] == result.totals[0].received_bytes
    # A stock client without threads counts each read as a block, and ends before.
    if (end, way) != ("-k 40", "-R") or has_threads(told):
        assert (result.totals[0].sent_bytes or 0) >= result.settings.wanted_bytes > 0


@pytest.mark.parametrize("direction", [Direction.NORMAL, Direction.REVERSE], ids=lambda d: d.value)
def test_datagrams_of_a_number_of_blocks_are_all_counted(direction: Direction) -> None:
    settings = Settings(protocol="udp", blocks=20, length_bytes=1000, rate_bits_per_s=1_000_000, direction=direction)
    with our_server() as ours:
        result = measure("127.0.0.1", settings, port=ours.port)
    assert (result.totals[0].sent_bytes, result.totals[0].received_bytes) == (20_000, 20_000)
    assert (result.totals[0].packets, result.totals[0].lost) == (20, 0)


@pytest.mark.parametrize("counters", [False, True], ids=["32-bit", "64-bit"])
def test_a_stock_server_reads_both_widths_of_our_datagrams_numbers(counters: bool) -> None:
    settings = Settings(
        protocol="udp", time_s=SECONDS, length_bytes=500, rate_bits_per_s=1_000_000, udp_counters_64bit=counters
    )
    with stock_server("-1") as (port, child):
        result = measure("127.0.0.1", settings, port=port)
        told = report_of(child)
    assert told["end"]["sum_received"]["lost_packets"] == result.totals[0].lost == 0
    assert told["end"]["sum_received"]["packets"] == result.totals[0].packets


def test_a_stock_client_counts_our_datagrams_with_both_widths_of_their_numbers() -> None:
    for words in ([], ["--udp-counters-64bit"]):
        with our_server() as ours:
            told = stock_client(ours.port, "-u", "-k", "20", "-l", "500", "-R", *words)
        assert (told["end"]["sum"]["packets"], told["end"]["sum"]["lost_packets"]) == (20, 0)


@pytest.mark.parametrize("protocol", ["tcp", pytest.param("udp", marks=pytest.mark.long)])
def test_what_is_omitted_counts_at_neither_end(protocol: Any) -> None:
    rate = 8_000_000
    settings = Settings(protocol=protocol, time_s=SECONDS, omit_s=1, rate_bits_per_s=rate, length_bytes=1000)
    with stock_server("-1") as (port, child):
        result = measure("127.0.0.1", settings, port=port, interval_s=0.25)
        told = report_of(child)
    total = result.totals[0]
    assert told["end"]["sum_received"]["bytes"] == total.received_bytes
    counted = [interval for interval in result.intervals if not interval.is_omitted]
    assert sum(interval.size_bytes for interval in counted) == total.sent_bytes
    assert any(interval.is_omitted for interval in result.intervals)


@pytest.mark.long
def test_our_server_omits_what_a_stock_client_omits() -> None:
    with our_server() as ours:
        told = stock_client(ours.port, "-t", "1", "-O", "1", "-b", "8M", "-l", "1000")
        result = ours.result()
    assert told["end"]["sum_received"]["bytes"] == result.totals[0].received_bytes
    assert any(interval.is_omitted for interval in result.intervals)


def test_the_options_of_tcp_reach_the_kernel_at_both_ends() -> None:
    settings = Settings(
        time_s=0.2,
        mss_bytes=1000,
        window_bytes=65_536,
        no_delay=True,
        congestion="reno",
        tos=0x10,
        zero_copy=True,
        length_bytes=8192,
    )
    with stock_server("-1") as (port, child):
        result = measure("127.0.0.1", settings, port=port)
        told = report_of(child)
    assert (result.congestion, result.peer_congestion) == ("reno", "reno")
    assert result.notes == ()
    assert told["start"]["tcp_mss"] == 1000
    assert told["start"]["sock_bufsize"] == 65_536
    assert told["start"]["test_start"]["blksize"] == 8192
    assert told["start"]["test_start"]["tos"] == 0x10


@NEEDS_BUFFER_LOCKS
def test_the_window_that_a_stock_client_wants_is_the_streams_from_their_handshake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Were it set afterwards, the client would send what there is no room for.
    inherited: list[int] = []

    def spy(sock: socket.socket, settings: Settings) -> None:
        inherited.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
        set_up(sock, settings)

    monkeypatch.setattr(_session, "set_up", spy)
    with our_server() as ours:
        told = stock_client(ours.port, "-n", "200K", "-w", "16K", "-P", "2")
        result = ours.result()
        stock_client(ours.port, "-n", "200K")
        ours.result()
    # The kernel doubles what is asked for: socket(7).
    assert inherited[:2] == [32_768, 32_768]
    assert inherited[2] > 32_768
    assert result.totals[0].received_bytes == told["end"]["sum_received"]["bytes"]
    assert result.notes == ()


def test_the_mss_that_a_stock_client_wants_is_told_in_our_handshake_and_not_after_its_test() -> None:
    with our_server() as ours:
        told = stock_client(ours.port, "-n", "100K", "-M", "1000", "-R")
        assert ours.result().settings.mss_bytes == 1000
        assert told["start"]["tcp_mss"] == 1000
        # The window of a stream is its segments times what the handshake told, less 12 bytes of time stamps: RFC 7323.
        result = measure("127.0.0.1", Settings(size_bytes=100_000, mss_bytes=1000), port=ours.port)
        window = result.streams[0].largest_window_bytes
        assert window is not None
        assert window % 988 == 0
        result = measure("127.0.0.1", Settings(size_bytes=100_000), port=ours.port)
        window = result.streams[0].largest_window_bytes
        assert window is not None
        assert window % 988 != 0


def test_a_congestion_control_that_only_the_client_has_is_noted_by_the_server() -> None:
    with our_server() as ours:
        # The client's own kernel is asked first; a bare client is not.
        told = stock_client(ours.port, "-n", "1K", "-C", "cubic")
        assert told["end"]["receiver_tcp_congestion"] == ours.result().congestion == "cubic"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", ""])
def test_either_family_is_served_and_from_the_address_that_is_asked_for(host: str) -> None:
    with our_server(host) as ours:
        target = host or "::1"
        for protocol in ("tcp", "udp"):
            settings = Settings(protocol=protocol, size_bytes=10_000, length_bytes=1000)
            result = measure(target, settings, port=ours.port, source=target if host else "")
            assert result.totals[0].received_bytes == 10_000
        if not host:
            assert measure("127.0.0.1", settings, port=ours.port).totals[0].received_bytes == 10_000


def test_each_address_of_a_host_is_tried_until_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with our_server() as ours:
        places = [("127.0.0.1", free_port()), ("127.0.0.1", ours.port)]
        targets = [Target(socket.AF_INET, place) for place in places]
        monkeypatch.setattr(_client, "resolve", lambda place, family: targets)
        assert measure("a.host", Settings(size_bytes=1000), port=ours.port).totals[0].received_bytes == 1000


def test_no_sender_of_ours_is_ever_ahead_of_its_rate() -> None:
    for protocol, length in (("udp", 1000), ("tcp", 10_000)):
        settings = Settings(
            protocol=protocol,  # type: ignore[arg-type]
            direction=Direction.BIDIRECTIONAL,
            rate_bits_per_s=8_000_000,
            length_bytes=length,
            parallel=2,
            time_s=SECONDS,
        )
        with our_server() as ours:
            result = measure("127.0.0.1", settings, port=ours.port)
        for stream in result.streams:
            assert stream.sent_bytes is not None
            assert stream.sender_s is not None
            # What is due by then, and the one that is sent as soon as it is due.
            assert stream.sent_bytes <= 1_000_000 * stream.sender_s + length


def test_nobody_at_that_port_is_one_sentence() -> None:
    port = free_port()
    with pytest.raises(UnderlayError) as caught:
        measure("127.0.0.1", port=port)
    assert str(caught.value) == (
        f"cannot connect to 127.0.0.1:{port}: connection refused; is the server running, and on this port?"
    )
