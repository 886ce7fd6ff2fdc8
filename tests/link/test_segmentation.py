"""A super-frame becomes the segments it stands for: together they are the same bytes, each of them is whole."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.link import finished, segments
from underlay.wire import Frame, checksum, pseudo_header_sum

ETHERNET = bytes.fromhex("02000000000102000000000208 00")
TAGGED = bytes.fromhex("0200000000010200000000028100000708 00")
TCP, UDP = 6, 17
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80


def super_frame(
    payload: bytes,
    segment_bytes: int,
    *,
    version: int = 4,
    protocol: int = TCP,
    link: bytes = b"",
    flags: int = ACK,
    seq: int = 1000,
    options: bytes = b"",
    in_head: bool = False,
) -> Frame:
    """Build one with its checksum left open."""
    length = (8 if protocol == UDP else 20 + len(options)) + len(payload)
    if version == 4:
        source, destination = bytes([10, 9, 0, 1]), bytes([10, 9, 0, 2])
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 0xFFFE, 0, 64, protocol, 0, source, destination)
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    else:
        source, destination = bytes(15) + b"\1", bytes(15) + b"\2"
        ip = struct.pack("!IHBB16s16s", 6 << 28, length, protocol, 64, source, destination)
    pseudo = pseudo_header_sum(source, destination, protocol, length) % 0xFFFF
    if protocol == UDP:
        transport = struct.pack("!HHHH", 1, 2, length, pseudo)
    else:
        offset = (20 + len(options)) << 2
        transport = struct.pack("!HHIIBBHHH", 1, 2, seq, 7, offset, flags, 100, pseudo, 0) + options
    head = link + ip + transport
    field = 6 if protocol == UDP else 16
    start = len(link) + len(ip)
    return (
        Frame(head + payload, b"", segment_bytes, start, field)
        if in_head
        else Frame(head, payload, segment_bytes, start, field)
    )


def verify(data: bytes, *, link: bytes, version: int, protocol: int) -> tuple[bytes, bytes]:
    """Check lengths and checksums of one frame; give its transport header and payload."""
    assert data.startswith(link)
    packet = data[len(link) :]
    assert packet[0] >> 4 == version
    if version == 4:
        assert struct.unpack_from("!H", packet, 2)[0] == len(packet)
        assert checksum(packet[:20]) % 0xFFFF == 0
        source, destination, start = packet[12:16], packet[16:20], 20
    else:
        assert struct.unpack_from("!H", packet, 4)[0] == len(packet) - 40
        source, destination, start = packet[8:24], packet[24:40], 40
    transport = packet[start:]
    pseudo = pseudo_header_sum(source, destination, protocol, len(transport))
    assert checksum(transport, pseudo) % 0xFFFF == 0
    if protocol == UDP:
        assert struct.unpack_from("!H", transport, 4)[0] == len(transport)
        return transport[:8], transport[8:]
    header_bytes = (transport[12] >> 4) * 4
    return transport[:header_bytes], transport[header_bytes:]


@given(
    payload=st.binary(max_size=700),
    segment_bytes=st.integers(1, 300),
    version=st.sampled_from([4, 6]),
    protocol=st.sampled_from([TCP, UDP]),
    link=st.sampled_from([b"", ETHERNET, TAGGED]),
    seq=st.sampled_from([0, 1000, 0xFFFF_FFF0]),
    options=st.sampled_from([b"", bytes.fromhex("0101080a0000000100000002")]),
    in_head=st.booleans(),
)
def test_the_segments_are_whole_and_are_together_what_the_super_frame_was(
    payload: bytes,
    segment_bytes: int,
    version: int,
    protocol: int,
    link: bytes,
    seq: int,
    options: bytes,
    in_head: bool,
) -> None:
    frame = super_frame(
        payload,
        segment_bytes,
        version=version,
        protocol=protocol,
        link=link,
        seq=seq,
        options=options,
        in_head=in_head,
    )
    pieces = segments(frame, is_ethernet=bool(link))
    assert pieces is not None
    assert len(pieces) == max(1, -(-len(payload) // segment_bytes))
    joined = b""
    for number, piece in enumerate(pieces):
        assert (piece.segment_bytes, piece.checksum_start) == (0, 0)
        header, part = verify(piece.to_bytes(), link=link, version=version, protocol=protocol)
        if protocol == TCP:
            assert struct.unpack_from("!I", header, 4)[0] == (seq + len(joined)) & 0xFFFF_FFFF
            assert header[20:] == options
        if version == 4:
            assert struct.unpack_from("!H", piece.head, len(link) + 4)[0] == (0xFFFE + number) & 0xFFFF
        joined += part
    assert joined == payload


def test_only_the_last_segment_ends_the_stream_and_only_the_first_says_that_the_window_was_reduced() -> None:
    pieces = segments(super_frame(bytes(25), 10, flags=ACK | FIN | PSH | CWR), is_ethernet=False)
    assert pieces is not None
    assert [piece.head[33] for piece in pieces] == [ACK | CWR, ACK, ACK | FIN | PSH]
    pieces = segments(super_frame(bytes(20), 10, flags=ACK | FIN | PSH | CWR), is_ethernet=False)
    assert pieces is not None
    assert [piece.head[33] for piece in pieces] == [ACK | CWR, ACK | FIN | PSH]


def test_a_single_segment_keeps_all_its_flags() -> None:
    pieces = segments(super_frame(bytes(5), 10, flags=ACK | FIN | PSH | CWR), is_ethernet=False)
    assert pieces is not None
    assert [piece.head[33] for piece in pieces] == [ACK | FIN | PSH | CWR]


def test_the_payloads_are_views_of_what_was_given() -> None:
    payload = bytes(2000)
    pieces = segments(super_frame(payload, 1000), is_ethernet=False)
    assert pieces is not None
    for piece in pieces:
        assert isinstance(piece.payload, memoryview) and piece.payload.obj is payload


@given(payload=st.binary(max_size=60), protocol=st.sampled_from([TCP, UDP]), in_head=st.booleans())
def test_an_open_checksum_is_finished(payload: bytes, protocol: int, in_head: bool) -> None:
    frame = super_frame(payload, 0, protocol=protocol, in_head=in_head)
    pieces = finished(frame, is_ethernet=False)
    assert pieces is not None and len(pieces) == 1
    assert verify(pieces[0].to_bytes(), link=b"", version=4, protocol=protocol)[1] == payload
    assert pieces[0].checksum_start == 0


@given(payload=st.binary(max_size=60), split=st.integers(28, 88))
def test_an_open_checksum_is_finished_wherever_head_and_payload_part(payload: bytes, split: int) -> None:
    whole = super_frame(payload, 0, protocol=UDP)
    data = whole.to_bytes()
    pieces = finished(whole._replace(head=data[:split], payload=data[split:]), is_ethernet=False)
    assert pieces is not None and len(pieces) == 1
    assert verify(pieces[0].to_bytes(), link=b"", version=4, protocol=UDP)[1] == payload


@pytest.mark.parametrize(("head_bytes", "fits"), [(37, False), (38, True)])
def test_the_field_of_the_checksum_must_lie_in_the_head(head_bytes: int, fits: bool) -> None:
    frame = Frame(bytes(head_bytes), b"more", checksum_start=20, checksum_offset=16)
    assert (finished(frame, is_ethernet=False) is not None) == fits


def test_a_checksum_of_udp_that_comes_out_as_zero_is_written_as_all_ones() -> None:
    for word in range(0x10000):
        frame = super_frame(struct.pack("!H", word), 0, protocol=UDP)
        pieces = finished(frame, is_ethernet=False)
        assert pieces is not None
        (written,) = struct.unpack_from("!H", pieces[0].head, 26)
        assert written != 0
        if written == 0xFFFF:
            return
    raise AssertionError("no payload of two bytes has the checksum zero")


def test_a_frame_that_is_complete_passes_as_it_is() -> None:
    frame = Frame(b"anything", b"at all")
    assert finished(frame, is_ethernet=True) == [frame]


GOOD = super_frame(bytes(100), 10)


@pytest.mark.parametrize(
    "frame",
    [
        GOOD._replace(head=GOOD.head[:30]),
        GOOD._replace(head=b"\x05" + GOOD.head[1:]),
        GOOD._replace(head=b"\x60" + GOOD.head[1:]),
        GOOD._replace(checksum_start=10),
        GOOD._replace(checksum_offset=4),
        GOOD._replace(head=GOOD.head[:32] + b"\x40" + GOOD.head[33:]),
        GOOD._replace(head=GOOD.head[:32] + b"\xf0" + GOOD.head[33:]),
        GOOD._replace(head=b""),
        GOOD._replace(segment_bytes=0, checksum_start=30),
    ],
    ids=["cut", "version", "short-v6", "start", "offset", "tcp-short", "tcp-long", "empty", "field-outside"],
)
def test_headers_that_contradict_each_other_are_refused(frame: Frame) -> None:
    assert finished(frame, is_ethernet=False) is None


@given(
    head=st.binary(max_size=120),
    payload=st.binary(max_size=50),
    segment_bytes=st.integers(0, 70),
    start=st.integers(0, 130),
    offset=st.sampled_from([0, 6, 16]),
    is_ethernet=st.booleans(),
)
def test_no_frame_whatever_is_in_it_raises(
    head: bytes, payload: bytes, segment_bytes: int, start: int, offset: int, is_ethernet: bool
) -> None:
    finished(Frame(head, payload, segment_bytes, start, offset), is_ethernet=is_ethernet)
