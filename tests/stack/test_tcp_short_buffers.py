"""No delayed acknowledgment is waited for where a buffer is shorter than a segment: who pushes, who answers at once."""

from __future__ import annotations

import pytest

from underlay.stack import Events, TcpConfig, TcpOptions

from ._tcp_pair import Pair
from ._tcp_script import accepted

NO_QUICK_ACKS = TcpConfig(timestamps=False, sack=False, window_scaling=False, quick_acks=0)
FULL = bytes(1460)


@pytest.mark.parametrize("flags", [".", "P."])
@pytest.mark.parametrize("size", [100, 1460])
def test_who_has_read_all_that_was_pushed_acknowledges_it_at_once(flags: str, size: int) -> None:
    """Linux: ICSK_ACK_PUSHED. Less than a full segment counts as pushed."""
    talk, connection = accepted(NO_QUICK_ACKS)
    talk.say(".", 1, 1, FULL)
    talk.say(".", 1461, 1, FULL)
    talk.expect(". 1:1 ack 2921")
    assert connection.receive(5000, talk.now) == 2 * FULL
    talk.say(flags, 2921, 1, bytes(size))
    talk.expect()
    connection.receive(size - 1, talk.now)
    talk.expect()
    connection.receive(1, talk.now)
    talk.expect(*[f". 1:1 ack {2921 + size}"] if flags == "P." or size < 1460 else [])


def test_an_answer_takes_the_acknowledgment_of_what_was_read_along() -> None:
    talk, connection = accepted(NO_QUICK_ACKS)
    for turn in range(3):
        talk.say("P.", 1 + 5 * turn, 1 + 6 * turn, b"query")
        talk.expect()
        assert connection.receive(10, talk.now) == b"query"
        connection.send(b"answer", talk.now)
        talk.expect(f"P. {1 + 6 * turn}:{7 + 6 * turn} ack {6 + 5 * turn}")
    # By now an answer is expected, also one that is written later; but not to a second short segment.
    talk.say("P.", 16, 19, b"query")
    connection.receive(10, talk.now)
    talk.expect()
    talk.say("P.", 21, 19, b"query")
    connection.receive(10, talk.now)
    talk.expect(". 19:19 ack 26")


def test_a_program_that_waits_for_room_is_not_held_back_by_nagle() -> None:
    """Linux: tcp_sendmsg() pushes what there is before it waits; nothing more could come to fill the segment."""
    talk, connection = accepted(options=TcpOptions(send_buffer_bytes=1000))
    assert connection.send(bytes(500), talk.now) == 500
    talk.expect("P. 1:501 ack 1")
    assert connection.send(bytes(400), talk.now) == 400
    talk.expect()
    assert connection.send(bytes(500), talk.now) == 100
    talk.expect("P. 501:1001 ack 1")
    assert connection.send(bytes(500), talk.now) == 0
    talk.say(".", 1, 1001)
    assert talk.told(connection) & Events.WRITABLE
    assert connection.send(bytes(10), talk.now) == 10
    talk.expect("P. 1001:1011 ack 1")
    assert connection.send(bytes(990), talk.now) == 990
    talk.expect()
    assert connection.send(b"x", talk.now) == 0
    talk.expect("P. 1011:2001 ack 1")


def crowded(
    *, send_buffer_bytes: int, write_bytes: int, receive_buffer_bytes: int | None = None, total_bytes: int = 400_000
) -> tuple[float, int]:
    """Send through a loopback's long segments; give the time that it took, and how many data segments went."""
    pair = Pair(delay_s=0.0001)
    pair.a.mtu_bytes = pair.b.mtu_bytes = 65535
    client, server = pair.open(
        options=TcpOptions(send_buffer_bytes=send_buffer_bytes),
        server_options=TcpOptions(receive_buffer_bytes=receive_buffer_bytes),
    )
    assert client.info().send_mss > send_buffer_bytes or receive_buffer_bytes is not None
    began = pair.now
    sent = came = 0

    def step() -> bool:
        nonlocal sent, came
        while sent < total_bytes:
            taken = client.send(bytes(min(write_bytes, total_bytes - sent)), pair.now)
            sent += taken
            if not taken:
                break
            pair.a.layer.flush(pair.now)
        while data := server.receive(1 << 20, pair.now):
            came += len(data)
        pair.a.layer.flush(pair.now)
        pair.b.layer.flush(pair.now)
        return came == total_bytes

    assert pair.run(600, until=step)
    return pair.now - began, sum(packet.size > 0 for packet in pair.packets)


@pytest.mark.parametrize("write_bytes", [1000, 10_000, 16_384, 100_000])
@pytest.mark.parametrize("send_buffer_bytes", [4000, 16_384, 60_000])
def test_a_send_buffer_shorter_than_a_segment_waits_for_no_delayed_acknowledgment(
    send_buffer_bytes: int, write_bytes: int
) -> None:
    """As Linux: who has read all of what was pushed acknowledges it, and who finds no room holds nothing back."""
    took_s, segments = crowded(send_buffer_bytes=send_buffer_bytes, write_bytes=write_bytes)
    # A buffer in each round trip of 0.2 ms; twice that, because room is told when a third of it is free.
    assert took_s < 2 * 0.0002 * (400_000 / send_buffer_bytes + 2)
    assert segments < 3 * 400_000 / min(send_buffer_bytes, 16_384)


@pytest.mark.parametrize("receive_buffer_bytes", [3000, 20_000, 60_000])
def test_a_receive_buffer_shorter_than_a_segment_waits_for_no_delayed_acknowledgment(
    receive_buffer_bytes: int,
) -> None:
    took_s, _ = crowded(send_buffer_bytes=1 << 20, write_bytes=100_000, receive_buffer_bytes=receive_buffer_bytes)
    assert took_s < 2 * 0.0002 * (400_000 / receive_buffer_bytes + 2)
