"""The TCP header: options as Linux lays them out, the same bytes as scapy, and errors that name the option."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.wire import (
    ACK,
    CWR,
    ECE,
    FIN,
    PROTOCOL_TCP,
    PSH,
    RST,
    SYN,
    TCP_CHECKSUM_OFFSET,
    URG,
    Frame,
    TcpSegment,
    WireError,
    build_tcp_header,
    format_ip,
    parse_tcp,
    pseudo_header_sum,
)

from . import _captured as captured
from ._given import BYTE, IP_PAIRS, PAYLOADS, U16, U32, changed, refused
from ._oracle import inet, inet6, raw

HERE, THERE = captured.IP, captured.PEER_IP
PLAIN = build_tcp_header(HERE, THERE, 4000, 80, 1, 2, ACK, 502)

FIELDS = st.tuples(U16, U16, U32, U32, BYTE, U16)
BLOCKS = st.lists(st.tuples(U32, U32), max_size=6)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "urgent_pointer": U16,
        "mss": U16,
        "window_scale": BYTE,
        "sack_permitted": st.booleans(),
        "timestamp": st.tuples(U32, U32),
        "sack": BLOCKS,
    },
)


def with_options(options: bytes) -> bytes:
    """A header whose options are these bytes, as they are; its checksum is wrong."""
    assert len(options) % 4 == 0
    return PLAIN[:12] + bytes([(20 + len(options)) << 2]) + PLAIN[13:] + options


def fitting(options: dict[str, object]) -> int:
    """How many SACK blocks fit beside the other options, counted by hand."""
    used = 4 * ("mss" in options) + 4 * ("window_scale" in options)
    used += 12 if "timestamp" in options else 4 * bool(options.get("sack_permitted"))
    return (40 - used - 4) // 8


@given(IP_PAIRS, FIELDS, OPTIONS, PAYLOADS)
def test_a_segment_is_built_and_read_back(
    pair: tuple[bytes, bytes],
    fields: tuple[int, int, int, int, int, int],
    options: dict[str, object],
    payload: bytes,
) -> None:
    head = build_tcp_header(*pair, *fields, payload, **options)  # type: ignore[arg-type]
    assert 20 <= len(head) <= 60 and len(head) % 4 == 0
    pseudo = pseudo_header_sum(*pair, PROTOCOL_TCP, len(head) + len(payload))
    expected = TcpSegment(
        *fields,
        options.get("urgent_pointer", 0),  # type: ignore[arg-type]
        options.get("mss"),  # type: ignore[arg-type]
        options.get("window_scale"),  # type: ignore[arg-type]
        bool(options.get("sack_permitted")),
        tuple(options.get("sack", ())[: fitting(options)]),  # type: ignore[index]
        options.get("timestamp"),  # type: ignore[arg-type]
        payload,
    )
    assert parse_tcp(head + payload, pseudo=pseudo) == expected
    within = memoryview(b"network" + head + payload + b"padding")
    assert parse_tcp(within, 7, len(within) - 7, pseudo=pseudo) == expected


def scapys_options(options: dict[str, object]) -> list[tuple[str, object]]:
    """Lay the options out as tcp_options_write() of Linux does, for scapy."""
    nop: tuple[str, object] = ("NOP", None)
    chosen: list[tuple[str, object]] = []
    if "mss" in options:
        chosen.append(("MSS", options["mss"]))
    if "timestamp" in options:
        chosen += [("SAckOK", b"")] if options.get("sack_permitted") else [nop, nop]
        chosen.append(("Timestamp", options["timestamp"]))
    elif options.get("sack_permitted"):
        chosen += [nop, nop, ("SAckOK", b"")]
    if "window_scale" in options:
        chosen += [nop, ("WScale", options["window_scale"])]
    blocks = options.get("sack", [])
    assert isinstance(blocks, list)
    edges = [edge for block in blocks[: fitting(options)] for edge in block]
    if edges:
        chosen += [nop, nop, ("SAck", tuple(edges))]
    return chosen


@given(IP_PAIRS, FIELDS, OPTIONS, PAYLOADS)
def test_a_header_is_the_same_as_scapys(
    pair: tuple[bytes, bytes],
    fields: tuple[int, int, int, int, int, int],
    options: dict[str, object],
    payload: bytes,
) -> None:
    source_port, destination_port, seq, ack, flags, window = fields
    network = inet.IP if len(pair[0]) == 4 else inet6.IPv6
    theirs = network(src=format_ip(pair[0]), dst=format_ip(pair[1])) / inet.TCP(
        sport=source_port,
        dport=destination_port,
        seq=seq,
        ack=ack,
        flags=flags,
        window=window,
        urgptr=options.get("urgent_pointer", 0),
        options=scapys_options(options),
    )
    head = build_tcp_header(*pair, *fields, payload, **options)  # type: ignore[arg-type]
    assert head + payload == bytes(theirs / raw(payload))[20 if len(pair[0]) == 4 else 40 :]


def test_the_kernels_syn_is_read_and_built() -> None:
    segment = parse_tcp(captured.SYN, 34, pseudo=pseudo_header_sum(HERE, THERE, PROTOCOL_TCP, 40))
    assert segment == TcpSegment(0x8514, 80, 0x339789E4, 0, SYN, 64240, 0, 1460, 10, True, (), (0xE91BF476, 0), b"")
    rebuilt = build_tcp_header(
        HERE,
        THERE,
        *segment[:6],
        mss=segment.mss,
        window_scale=segment.window_scale,
        sack_permitted=segment.sack_permitted,
        timestamp=segment.timestamp,
    )
    assert rebuilt == captured.SYN[34:]


@given(IP_PAIRS, OPTIONS, PAYLOADS)
def test_an_offloaded_checksum_completes_to_the_same(
    pair: tuple[bytes, bytes], options: dict[str, object], payload: bytes
) -> None:
    fields = 1, 2, 3, 4, ACK, 5
    head = build_tcp_header(*pair, *fields, payload, offload=True, **options)  # type: ignore[arg-type]
    frame = Frame(b"link" + head, payload, checksum_start=4, checksum_offset=TCP_CHECKSUM_OFFSET)
    complete = build_tcp_header(*pair, *fields, payload, **options)  # type: ignore[arg-type]
    assert frame.with_checksum().to_bytes() == b"link" + complete + payload


def test_an_offloaded_super_segment_holds_the_sum_over_its_whole_length() -> None:
    payload = bytes(60_000)
    head = build_tcp_header(HERE, THERE, 1, 2, 3, 4, ACK, 5, payload, timestamp=(1, 2), offload=True)
    pseudo = HERE + THERE + bytes([0, PROTOCOL_TCP]) + (32 + 60_000).to_bytes(2, "big")
    folded = sum(int.from_bytes(pseudo[place : place + 2], "big") for place in range(0, 12, 2))
    folded = (folded & 0xFFFF) + (folded >> 16)
    assert head[16:18] == folded.to_bytes(2, "big")


def test_a_super_segments_own_checksum_is_right() -> None:
    payload = bytes(range(256)) * 240
    head = build_tcp_header(HERE, THERE, 1, 2, 3, 4, ACK, 5, payload)
    segment = head + payload
    pseudo = pseudo_header_sum(HERE, THERE, PROTOCOL_TCP, len(segment))
    assert parse_tcp(segment, pseudo=pseudo).payload == payload
    with refused("tcp.checksum"):
        parse_tcp(segment[:-1] + b"\0", pseudo=pseudo)


def test_a_memoryview_gives_a_payload_that_is_not_copied() -> None:
    data = bytearray(PLAIN + b"payload")
    payload = parse_tcp(memoryview(data)).payload
    data[-1:] = b"D"
    assert payload == b"payloaD"


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ({"timestamp": (1, 2)}, "0101080a 00000001 00000002"),
        ({"timestamp": (1, 2), "sack": [(3, 4)]}, "0101080a 00000001 00000002 0101050a 00000003 00000004"),
        ({"sack_permitted": True}, "01010402"),
        ({"mss": 536}, "02040218"),
        ({"window_scale": 14}, "0103030e"),
        ({"sack": [(1, 2), (3, 4)]}, "01010512 00000001 00000002 00000003 00000004"),
    ],
)
def test_options_are_laid_out_as_linux_does(arguments: dict[str, object], options: str) -> None:
    head = build_tcp_header(HERE, THERE, 1, 2, 3, 4, ACK, 5, **arguments)  # type: ignore[arg-type]
    assert head[20:].hex(" ", 4) == options


def test_three_sack_blocks_fit_beside_a_timestamp_and_four_without() -> None:
    blocks = [(place, place + 1) for place in range(5)]
    for timestamp, fit in (((1, 2), 3), (None, 4)):
        head = build_tcp_header(HERE, THERE, 1, 2, 3, 4, ACK, 5, sack=blocks, timestamp=timestamp)
        assert parse_tcp(head).sack == tuple(blocks[:fit])
        assert len(head) <= 60


@pytest.mark.parametrize("kind", [0, 9, 19, 28, 29, 34, 253, 255])
def test_an_unknown_option_is_passed_over_by_its_length(kind: int) -> None:
    if kind == 0:
        options = bytes(4)
    else:
        options = bytes([kind, 5, 8, 10, 0, 3, 3, 7])
    segment = parse_tcp(with_options(options) + b"payload")
    assert segment.window_scale == (7 if kind else None)
    assert segment[7:12] == (None, segment.window_scale, False, (), None)
    assert segment.payload == b"payload"


def test_the_end_of_options_hides_what_follows() -> None:
    assert parse_tcp(with_options(b"\x00\x02\x00\xff")).mss is None


def test_of_two_options_of_one_kind_the_last_counts() -> None:
    assert parse_tcp(with_options(b"\x02\x04\x00\x01\x02\x04\x00\x02")).mss == 2


def test_a_timestamp_is_read_wherever_it_stands() -> None:
    option = b"\x08\x0a\0\0\0\1\0\0\0\2"
    for options in (b"\1\1" + option, option + b"\1\1", b"\1" + option + b"\0", option + b"\0\0"):
        assert parse_tcp(with_options(options)).timestamp == (1, 2)


@pytest.mark.parametrize(
    ("options", "field", "pointer"),
    [
        (b"\x02\x00\x05\xb4", "mss", 21),
        (b"\x02\x01\x05\xb4", "mss", 21),
        (b"\x02\x03\x05\x01", "mss", 21),
        (b"\x02\x05\x05\xb4", "mss", 21),  # beyond the header
        (b"\x01\x01\x01\x02", "mss", 23),  # no length
        (b"\x03\x02\x01\x01", "window_scale", 21),
        (b"\x01\x01\x01\x03", "window_scale", 23),
        (b"\x04\x03\x01\x01", "sack_permitted", 21),
        (b"\x05\x02\x01\x01", "sack", 21),
        (b"\x05\x09" + bytes(10), "sack", 21),
        (b"\x05\x0e" + bytes(14), "sack", 21),
        (b"\x08\x09" + bytes(10), "timestamps", 21),
        (b"\x01\x01\x08\x0b" + bytes(8), "timestamps", 23),
        (b"\x01\x01\x08\x00" + bytes(8), "timestamps", 23),
        (b"\xfd\x00\x00\x00", "option", 21),
        (b"\xfd\x01\x00\x00", "option", 21),
        (b"\xfd\xff\x00\x00", "option", 21),
        (b"\x01\x01\x01\xfd", "option", 23),
    ],
)
def test_a_malformed_option_is_named(options: bytes, field: str, pointer: int) -> None:
    with pytest.raises(WireError) as caught:
        parse_tcp(b"network" + with_options(options), 7)
    assert (caught.value.key, caught.value.pointer) == (f"tcp.{field}", pointer)


@pytest.mark.parametrize(
    ("segment", "field"),
    [
        (PLAIN[:19], "header"),
        (changed(PLAIN, 12, 0x40), "data_offset"),
        (changed(PLAIN, 12, 0x00), "data_offset"),
        (changed(PLAIN, 12, 0x60), "data_offset"),
        (changed(PLAIN, 12, 0x80), "data_offset"),
        (changed(PLAIN, 12, 0xF0) + bytes(39), "data_offset"),
    ],
)
def test_a_header_that_does_not_fit_the_data_is_refused(segment: bytes, field: str) -> None:
    with refused(f"tcp.{field}"):
        parse_tcp(segment)


@given(st.integers(0, 26), st.integers(1, 255))
def test_any_changed_byte_breaks_the_checksum(place: int, flip: int) -> None:
    segment = build_tcp_header(HERE, THERE, 4000, 80, 1, 2, ACK, 502, b"payload") + b"payload"
    pseudo = pseudo_header_sum(HERE, THERE, PROTOCOL_TCP, len(segment))
    with refused("tcp.checksum"):
        parse_tcp(changed(segment, place, segment[place] ^ flip), pseudo=pseudo)


def test_reserved_bits_are_passed_over() -> None:
    # RFC 9293 §3.1: they "must be ignored in received segments".
    assert parse_tcp(changed(PLAIN, 12, 0x5F)).window == 502


def test_each_control_bit_has_its_place() -> None:
    assert FIN | SYN | RST | PSH | ACK | URG | ECE | CWR == 0xFF
    head = build_tcp_header(HERE, THERE, 1, 2, 3, 4, URG | PSH, 5, urgent_pointer=9)
    theirs = inet.TCP(head)
    assert (str(theirs.flags), theirs.urgptr) == ("PU", 9)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"source_port": 65536}, "source_port"),
        ({"destination_port": -1}, "destination_port"),
        ({"seq": 1 << 32}, "seq"),
        ({"ack": -1}, "ack"),
        ({"flags": 256}, "flags"),
        ({"window": 65536}, "window"),
        ({"urgent_pointer": 65536}, "urgent_pointer"),
        ({"mss": 65536}, "mss"),
        ({"window_scale": 256}, "window_scale"),
        ({"window_scale": -1}, "window_scale"),
        ({"sack": [(1, 1 << 32)]}, "sack"),
        ({"timestamp": (1 << 32, 0)}, "timestamps"),
        ({"timestamp": (0, -1), "mss": 1}, "timestamps"),
        ({"window": 65536, "mss": 1}, "window"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], field: str) -> None:
    fields: dict[str, object] = {"source_port": 1, "destination_port": 2, "seq": 3, "ack": 4, "flags": 5, "window": 6}
    with refused(f"tcp.{field}"):
        build_tcp_header(HERE, THERE, **(fields | changes))  # type: ignore[arg-type]
