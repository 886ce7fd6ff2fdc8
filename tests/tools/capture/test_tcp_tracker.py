"""What the tracker says of segments, one trace at a time; that tshark says the same is another file's matter."""

from __future__ import annotations

import pytest

from underlay.tools.capture import NOTE_NAMES, FlowTracker, Note, Notes
from underlay.tools.capture import _tcp_tracker as tracker_module
from underlay.wire import ACK, FIN, PSH, RST, SYN

CLIENT, SERVER = (bytes([10, 9, 0, 1]), 4000), (bytes([10, 9, 0, 2]), 80)
MS = 1_000_000


class Trace:
    """Two ends, whose sequence numbers begin at 1000 and 5000; each segment comes a millisecond after the last."""

    def __init__(self, **options: int) -> None:
        self.tracker = FlowTracker(**options)
        self.time_ns = 0

    def see(
        self,
        seq: int,
        ack: int = 0,
        flags: int = ACK,
        size: int = 0,
        *,
        server: bool = False,
        window: int = 1000,
        scale: int | None = None,
        after_ms: float = 1,
        port: int = 4000,
        sack: tuple[tuple[int, int], ...] = (),
        mss: int | None = None,
    ) -> Notes:
        self.time_ns += round(after_ms * MS)
        client = (CLIENT[0], port)
        key = (*SERVER, *client) if server else (*client, *SERVER)
        base, other = (5000, 1000) if server else (1000, 5000)
        return self.tracker.see(
            key, self.time_ns, base + seq & 0xFFFF_FFFF, (other + ack & 0xFFFF_FFFF) if flags & ACK else 0,
            flags, window, size, scale,
            tuple((other + one & 0xFFFF_FFFF, other + two & 0xFFFF_FFFF) for one, two in sack), mss,
        )  # fmt: skip

    def client(self, seq: int, ack: int, size: int = 0, flags: int = ACK, **more: object) -> set[str]:
        return set(self.see(seq, ack, flags, size, **more).names)  # type: ignore[arg-type]

    def server(self, seq: int, ack: int, size: int = 0, flags: int = ACK, **more: object) -> set[str]:
        return set(self.see(seq, ack, flags, size, server=True, **more).names)  # type: ignore[arg-type]

    def open(self, *, window: int = 1000, scales: tuple[int | None, int | None] = (None, None)) -> Trace:
        assert set(self.see(0, 0, SYN, window=window, scale=scales[0]).names) == {"handshake 1/3"}
        assert self.server(0, 1, 0, SYN | ACK, window=window, scale=scales[1]) == {"handshake 2/3"}
        assert self.client(1, 1, window=window) == {"handshake 3/3"}
        return self


def test_a_connection_opens_speaks_and_closes() -> None:
    trace = Trace().open()
    assert trace.client(1, 1, 100, ACK | PSH) == set()
    assert trace.server(1, 101) == set()
    assert trace.client(101, 1, 0, ACK | FIN) == {"close"}
    assert trace.server(1, 102, 0, ACK | FIN) == {"close"}
    assert trace.client(102, 2) == {"closed"}
    assert trace.client(102, 2) == {"duplicate ack"}  # it is said once


def test_a_connection_that_one_side_closed_is_not_closed() -> None:
    trace = Trace().open()
    assert trace.client(1, 1, 0, ACK | FIN) == {"close"}
    assert trace.server(1, 2) == set()
    assert trace.server(1, 2, 50) == set()
    assert trace.client(2, 51) == set()


def test_a_reset_is_one_and_its_zero_window_means_nothing() -> None:
    trace = Trace()
    trace.see(0, 0, SYN)
    assert trace.server(0, 1, 0, RST | ACK, window=0) == {"reset"}
    assert Trace().client(1, 1, 0, RST, window=0) == {"reset"}


def test_the_handshake_is_complete_only_once_and_only_by_its_opener() -> None:
    trace = Trace()
    trace.see(0, 0, SYN)
    assert trace.client(1, 1) == {"duplicate ack"} - {"duplicate ack"}
    trace.server(0, 1, 0, SYN | ACK)
    assert "handshake 3/3" not in trace.server(1, 1)
    assert "handshake 3/3" in trace.client(1, 1, 10)
    assert "handshake 3/3" not in trace.client(11, 1, 10)


def test_data_that_was_seen_before_is_a_retransmission() -> None:
    trace = Trace().open()
    trace.client(1, 1, 100)
    assert trace.client(1, 1, 100, after_ms=300) == {"retransmission"}


def test_a_syn_or_fin_comes_again_as_a_retransmission() -> None:
    trace = Trace()
    trace.see(0, 0, SYN)
    assert set(trace.see(0, 0, SYN, after_ms=1000).names) == {"handshake 1/3", "retransmission"}
    trace = Trace().open()
    trace.client(1, 1, 0, ACK | FIN)
    assert trace.client(1, 1, 0, ACK | FIN, after_ms=300) == {"close", "retransmission"}


def test_what_was_acknowledged_already_comes_again_in_vain() -> None:
    trace = Trace().open()
    trace.client(1, 1, 100)
    trace.server(1, 101)
    assert trace.client(1, 1, 100, after_ms=300) == {"spurious retransmission"}


def test_an_answer_to_duplicate_acks_is_a_fast_retransmission() -> None:
    trace = Trace().open()
    for number in range(4):
        trace.client(1 + 100 * number, 1, 100)
    trace.server(1, 101)
    assert [trace.see(1, 101, server=True).duplicate_acks for _ in range(3)] == [1, 2, 3]
    assert trace.client(101, 1, 100) == {"fast retransmission"}


def sent() -> Trace:
    """A client that has sent segments of 100 bytes, of which the server has the first."""
    trace = Trace()
    trace.see(0, 0, SYN, mss=100)
    trace.see(0, 1, SYN | ACK, server=True, mss=100)
    trace.see(1, 1)
    for number in range(8):
        assert trace.client(1 + 100 * number, 1, 100) == set()
    assert trace.server(1, 101) == set()
    return trace


def test_an_ack_whose_sack_brings_news_is_a_duplicate_whatever_its_window() -> None:
    trace = sent()
    assert trace.server(1, 101, window=900, sack=((201, 301),)) == {"duplicate ack"}
    assert trace.see(1, 101, server=True, window=800, sack=((201, 401),)).duplicate_acks == 2
    assert trace.client(101, 1, 100) == {"fast retransmission"}


@pytest.mark.parametrize(
    "sack",
    [
        ((201, 301),),  # as before
        ((211, 291),),  # part of it
        ((1, 101), (201, 301)),  # what came twice, RFC 2883 §4.1: acknowledged
        ((231, 261), (201, 301)),  # and §4.2: told of
        ((301, 201),),  # none at all
    ],
)
def test_an_ack_whose_sack_brings_none_may_open_the_window(sack: tuple[tuple[int, int], ...]) -> None:
    trace = sent()
    assert trace.server(1, 101, window=900, sack=((201, 301),)) == {"duplicate ack"}
    assert trace.server(1, 101, window=800, sack=sack) == {"window update"}


def test_news_are_of_the_whole_connection_as_a_sack_has_room_for_a_few_blocks_only() -> None:
    trace = sent()
    trace.server(1, 101, window=900, sack=((201, 301), (401, 501)))
    trace.server(1, 101, window=800, sack=((601, 701),))
    assert trace.server(1, 101, window=700, sack=((401, 501),)) == {"window update"}
    assert trace.server(1, 101, window=600, sack=((401, 601),)) == {"duplicate ack"}


def test_two_segments_more_that_are_there_ask_for_the_one_before_them_at_once() -> None:
    trace = sent()
    trace.server(1, 101, sack=((201, 401),))
    assert trace.client(101, 1, 100) == {"retransmission"}
    trace = sent()
    trace.server(1, 101, sack=((201, 301), (401, 511)))
    assert trace.client(101, 1, 100) == {"fast retransmission"}


def test_each_hole_is_asked_for_and_what_is_there_is_not() -> None:
    trace = sent()
    for end in (301, 401):
        trace.server(1, 101, sack=((201, end), (601, 701)))
    assert trace.client(101, 1, 100) == {"fast retransmission"}
    assert trace.client(401, 1, 100) == {"fast retransmission"}
    assert trace.client(301, 1, 100) == {"retransmission"}


def test_what_is_acknowledged_behind_a_hole_does_not_ask_for_what_comes_after_it() -> None:
    trace = sent()
    trace.server(1, 101, sack=((201, 601),))
    assert trace.server(1, 601) == set()
    assert trace.client(601, 1, 100, after_ms=1) == {"retransmission"}


def test_what_was_seen_is_no_news_however_soon_it_comes_again() -> None:
    trace = Trace().open()
    for number in (0, 1, 2, 4):
        trace.client(1 + 100 * number, 1, 100)
    assert trace.client(101, 1, 100, after_ms=0.1) == {"retransmission"}
    assert trace.client(151, 1, 100, after_ms=0.1) == {"retransmission"}  # cut otherwise
    assert trace.client(301, 1, 100, after_ms=0.1) == {"out of order"}
    assert trace.client(301, 1, 100, after_ms=0.1) == {"retransmission"}
    trace = Trace().open()
    trace.client(1, 1, 100)
    trace.client(301, 1, 100)
    assert trace.client(51, 1, 100) == {"out of order"}  # half of it is new


def test_what_was_seen_goes_round_with_the_numbers_and_takes_no_more_room_than_it_may() -> None:
    trace = Trace()
    for number in range(12):  # 6 GiB, of which nobody is seen to acknowledge anything
        assert trace.client(1 + (number << 29), 1, 1 << 29) == set()
    end = 1 + (12 << 29)
    assert trace.client(end - 1000, 1, 100) == {"retransmission"}
    for number in range(1, 2000):
        assert trace.client(end + 200 * number, 1, 100) == {"gap before"}
    last = end + 200 * 1999
    assert trace.client(last - 200, 1, 100) == {"retransmission"}
    assert trace.client(last - 100, 1, 100) == {"out of order"}
    for number in range(2000):
        trace.server(1, last, sack=((last + 200 * number + 100, last + 200 * number + 101),))
    (flow,) = trace.tracker._flows.values()
    assert max(len(side.sacked) for side in flow.sides) == tracker_module._MOST_STRETCHES
    assert max(len(side.seen) for side in flow.sides) <= tracker_module._MOST_STRETCHES


def test_stretches_that_are_let_go_are_counted() -> None:
    trace, most = Trace().open(), tracker_module._MOST_STRETCHES
    for number in range(most):  # the first touches what the handshake left
        trace.client(1 + 200 * number, 1, 100)
    assert trace.tracker.statistics().stretches_let_go == 0
    for number in range(most, most + 7):
        trace.client(1 + 200 * number, 1, 100)
    assert trace.tracker.statistics().stretches_let_go == 7
    for number in range(most + 3):
        trace.server(1, 1, sack=((200 * number + 1, 200 * number + 101),))
    assert trace.tracker.statistics().stretches_let_go == 10


def test_an_answer_that_comes_late_is_a_plain_retransmission() -> None:
    trace = Trace().open()
    for number in range(4):
        trace.client(1 + 100 * number, 1, 100)
    for _ in range(4):
        trace.server(1, 101)
    assert trace.client(101, 1, 100, after_ms=21) == {"retransmission"}


def test_a_hole_is_a_gap_and_what_fills_it_soon_was_overtaken() -> None:
    trace = Trace().open()  # its first round trip took 2 ms
    trace.client(1, 1, 100)
    assert trace.client(201, 1, 100) == {"gap before"}
    assert trace.client(101, 1, 100, after_ms=1) == {"out of order"}
    assert trace.client(401, 1, 100) == {"gap before"}
    assert trace.client(301, 1, 100, after_ms=5) == {"retransmission"}


def test_an_ack_for_what_was_never_seen_says_so_once() -> None:
    trace = Trace().open()
    trace.client(1, 1, 100)
    assert trace.server(1, 301) == {"acknowledges unseen"}
    assert trace.server(1, 301, 10) == set()


def test_a_receiver_that_is_full_and_asked_and_free_again() -> None:
    trace = Trace().open()
    assert trace.client(1, 1, 1000) == {"window full"}
    assert trace.server(1, 1001, window=0) == {"zero window"}
    assert trace.client(1001, 1, 1) == {"zero window probe", "window full"} - {"window full"}
    assert trace.server(1, 1001, window=0) == {"zero window", "zero window probe ack"}
    assert trace.server(1, 1001, window=500) == {"window update"}


def test_a_probe_whose_byte_was_taken_opens_the_window() -> None:
    trace = Trace().open()
    trace.client(1, 1, 1000)
    trace.server(1, 1001, window=0)
    trace.client(1001, 1, 1)
    assert trace.server(1, 1002, window=500) == {"window update"}
    assert trace.client(1002, 1, 100) == set()


def test_a_scaled_window_is_full_at_its_scaled_size_and_the_handshakes_is_not_scaled() -> None:
    trace = Trace().open(scales=(2, 3))
    assert trace.client(1, 1, 1000) == {"window full"}  # the SYN ACK's, as it stands
    trace.server(1, 1001)
    assert trace.client(1001, 1, 1000) == set()
    assert trace.client(2001, 1, 7000) == {"window full"}
    assert trace.see(1, 8001 + 1000, server=True).window_bytes == 8000


def test_a_scale_that_one_side_does_not_want_is_not_used() -> None:
    trace = Trace().open(scales=(7, None))
    assert trace.client(1, 1, 1000) == {"window full"}
    assert trace.see(1001, 1).window_bytes == 1000


def test_without_the_handshake_nothing_is_known_to_be_full() -> None:
    trace = Trace()
    trace.server(1, 1)
    assert trace.client(1, 1, 1000) == set()


def test_a_keep_alive_repeats_the_byte_before_and_is_answered() -> None:
    trace = Trace().open()
    trace.client(1, 1, 100)
    trace.server(1, 101)
    assert trace.client(100, 1, 0, after_ms=1000) == {"keep-alive"}
    assert trace.server(1, 101) == {"keep-alive ack"}
    assert trace.client(100, 1, 1, after_ms=1000) == {"keep-alive"}


def test_new_data_behind_a_byte_that_was_sent_is_no_retransmission() -> None:
    trace = Trace().open()
    trace.client(1, 1, 100)
    assert trace.client(100, 1, 50, after_ms=300) == set()


def test_the_same_ports_again_are_another_connection() -> None:
    trace = Trace().open()
    again = trace.see(900_000, 0, SYN)
    assert (again.flow, set(again.names)) == (1, {"handshake 1/3", "ports reused"})
    assert trace.see(900_001, 1).flow == 1


def test_numbers_go_round() -> None:
    trace = Trace()
    near = 0xFFFF_FFFF - 1000 - 50  # relative to 1000, so that data crosses the end
    trace.see(near, 0, SYN)
    trace.server(0, near - 4000 + 1, 0, SYN | ACK)
    assert trace.client(near + 1, 1, 100) == {"handshake 3/3"}
    assert trace.see(near + 101, 1, ACK, 100).relative_seq == 101
    assert trace.client(near + 1, 1, 100, after_ms=300) == {"retransmission"}


def test_relative_numbers_count_from_the_first_that_was_seen() -> None:
    trace = Trace()
    first = trace.see(700, 300, ACK, 10)
    assert (first.relative_seq, first.relative_ack) == (1, 1)
    assert trace.see(300, 710, server=True).relative_ack == 11


def test_what_a_server_sends_before_it_was_acknowledged_is_new() -> None:
    trace = Trace()
    trace.see(0, 0, SYN)
    trace.server(0, 1, 0, SYN | ACK)
    assert trace.server(1, 1, 100) == set()  # a SYN acknowledges nothing, not 0


def test_both_directions_of_one_address_and_port_pair_are_one_connection() -> None:
    tracker = FlowTracker()
    one = tracker.see((*CLIENT, *SERVER), 0, 1, 0, SYN, 1, 0, None)
    two = tracker.see((*SERVER, *CLIENT), 0, 1, 2, SYN | ACK, 1, 0, None)
    assert one.flow == two.flow == 0


def test_a_socket_connected_to_itself_is_survived() -> None:
    tracker = FlowTracker()
    for flags in (SYN, SYN | ACK, ACK, ACK | FIN, ACK):
        tracker.see((*CLIENT, *CLIENT), 0, 1, 2, flags, 1, 0, None)
    assert tracker.statistics().flows == 1


def test_flows_are_bounded_and_who_was_silent_longest_is_let_go_and_counted() -> None:
    trace = Trace(most_flows=3)
    for port in (1, 2, 3):
        trace.see(0, 0, SYN, port=port)
    trace.see(1, 1, port=1)  # so that 2 is the oldest
    trace.see(0, 0, SYN, port=4)
    told = trace.tracker.statistics()
    assert (told.flows, told.flows_let_go) == (4, 1)
    assert trace.see(1, 1, port=1).flow == 0
    assert trace.see(1, 1, port=2).flow == 4  # it is as if it were new
    with pytest.raises(ValueError, match="at least one"):
        FlowTracker(0)


def test_each_note_has_a_name_of_its_own() -> None:
    bits = [value for name, value in vars(Note).items() if name.isupper()]
    assert sorted(bits) == sorted(NOTE_NAMES) and len(set(NOTE_NAMES.values())) == len(bits)
