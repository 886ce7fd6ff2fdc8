"""A frame's two pieces join, and what was left to the link can be done without one."""

from __future__ import annotations

from hypothesis import given

from underlay.wire import Frame, build_udp

from . import _captured as captured
from ._given import PAYLOADS


@given(PAYLOADS, PAYLOADS)
def test_the_pieces_join(head: bytes, payload: bytes) -> None:
    for frame in (Frame(head, payload), Frame(head, memoryview(payload))):
        assert frame.to_bytes() == head + payload
        assert type(frame.to_bytes()) is bytes
        assert frame.size_bytes == len(head + payload)


def test_a_frame_without_payload_is_not_copied() -> None:
    head = bytes(100)
    assert Frame(head).to_bytes() is head


def test_a_complete_frame_is_left_as_it_is() -> None:
    frame = Frame(b"head", b"payload", 1000)
    assert frame.with_checksum() is frame


def test_a_completed_frame_keeps_its_payload_and_its_segments() -> None:
    payload = memoryview(b"x" * 3000)
    done = Frame(bytes(40), payload, 1000, 20, 16).with_checksum()
    assert done.payload is payload
    assert (done.segment_bytes, done.checksum_start, done.checksum_offset) == (1000, 0, 0)


def test_an_udp_checksum_that_comes_out_as_zero_is_written_as_ffff() -> None:
    payload = build_udp(captured.IP, captured.PEER_IP, 1, 2, bytes(2))[6:8]
    head = build_udp(captured.IP, captured.PEER_IP, 1, 2, payload, offload=True)
    assert Frame(head, payload, 0, 0, 6).with_checksum().head[6:8] == b"\xff\xff"
