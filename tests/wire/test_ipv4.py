"""The IPv4 header: built as scapy does, read back, and refused by the name of the field that is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.wire import PROTOCOL_TCP, WireError, build_ipv4, checksum, format_ip, parse_ipv4

from . import _captured as captured
from ._given import BYTE, IPV4, U16, changed, refused
from ._oracle import inet, raw

HERE, THERE = captured.IP, captured.PEER_IP
VALID = build_ipv4(HERE, THERE, PROTOCOL_TCP, 8) + bytes(8)


def repaired(header: bytes) -> bytes:
    """The same header with the right checksum."""
    header = header[:10] + bytes(2) + header[12:]
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:]


def with_options(options: bytes) -> bytes:
    return repaired(build_ipv4(HERE, THERE, PROTOCOL_TCP, 0, options=bytes(len(options)))[:20] + options)


# No operation, record route for one router, router alert: our bytes, and how scapy is asked for them.
OPTIONS = {
    b"\x01": inet.IPOption_NOP,
    b"\x07\x07\x04\0\0\0\0": lambda: inet.IPOption_RR(routers=["0.0.0.0"]),
    b"\x94\x04\0\0": inet.IPOption_Router_Alert,
}
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "ttl": BYTE,
        "identification": U16,
        "dont_fragment": st.booleans(),
        "more_fragments": st.booleans(),
        "fragment_offset_bytes": st.integers(0, 8000).map(lambda eighths: eighths * 8),
        "dscp": st.integers(0, 63),
        "ecn": st.integers(0, 3),
    },
)


@given(IPV4, IPV4, BYTE, st.integers(0, 1500), FIELDS, st.lists(st.sampled_from(list(OPTIONS)), max_size=5))
def test_a_header_is_built_as_scapy_does_and_read_back(
    source: bytes, destination: bytes, protocol: int, payload_bytes: int, fields: dict[str, int], chosen: list[bytes]
) -> None:
    options = b"".join(chosen)
    header = build_ipv4(source, destination, protocol, payload_bytes, options=options, **fields)  # type: ignore[arg-type]
    padded = options + bytes(-len(options) % 4)
    packet = header + bytes(payload_bytes)
    parsed = parse_ipv4(memoryview(b"link" + packet + b"padding"), 4)
    flags = 2 * fields.get("dont_fragment", 1) + fields.get("more_fragments", 0)
    assert parsed == (
        source,
        destination,
        protocol,
        fields.get("ttl", 64),
        fields.get("identification", 0),
        flags & 2 != 0,
        flags & 1 != 0,
        fields.get("fragment_offset_bytes", 0),
        fields.get("dscp", 0),
        fields.get("ecn", 0),
        padded,
        20 + len(padded),
        len(packet),
    )
    assert {type(parsed.dont_fragment), type(parsed.more_fragments)} == {bool}
    theirs = inet.IP(
        src=format_ip(source),
        dst=format_ip(destination),
        proto=protocol,
        ttl=fields.get("ttl", 64),
        id=fields.get("identification", 0),
        flags=flags,
        frag=fields.get("fragment_offset_bytes", 0) // 8,
        tos=fields.get("dscp", 0) << 2 | fields.get("ecn", 0),
        options=[OPTIONS[option]() for option in chosen],
    )
    assert packet == bytes(theirs / raw(bytes(payload_bytes)))


def test_the_kernels_header_is_read() -> None:
    header = parse_ipv4(captured.SYN, 14)
    assert header == (HERE, THERE, PROTOCOL_TCP, 64, 0x8D49, True, False, 0, 0, 0, b"", 20, 60)
    assert build_ipv4(HERE, THERE, PROTOCOL_TCP, 40, identification=0x8D49) == captured.SYN[14:34]


def test_the_kernels_router_alert_is_read() -> None:
    header = parse_ipv4(captured.IGMP_REPORT, 14)
    assert (header.options.hex(), header.header_bytes, header.ttl, header.dscp) == ("94040000", 24, 1, 48)


def test_padding_behind_the_packet_is_no_part_of_it() -> None:
    header = parse_ipv4(VALID + bytes(20))
    assert header.total_bytes == 28


@pytest.mark.parametrize(
    ("packet", "field", "pointer"),
    [
        (VALID[:19], "header", None),
        (changed(VALID, 0, 0x65), "version", 0),
        (changed(VALID, 0, 0x44), "ihl", 0),
        (changed(VALID, 0, 0x48), "ihl", 0),  # 32 bytes of 28
        (changed(VALID, 3, 19), "total_length", 2),
        (changed(VALID, 3, 29), "total_length", 2),
        (changed(VALID, 0, 0x46)[:2] + b"\0\x17" + VALID[4:], "total_length", 2),  # 23 bytes hold no 24
        (changed(VALID, 8, 63), "checksum", None),
        (repaired(changed(changed(VALID[:20], 6, 0x1F), 7, 0xFF)) + bytes(8), "fragment_offset", 6),
        (with_options(b"\x01\x01\x01\x07"), "options", 23),  # no length
        (with_options(b"\x07\x00\x01\x01"), "options", 21),
        (with_options(b"\x01\x07\x01\x01"), "options", 22),
        (with_options(b"\x01\x07\x04\x01"), "options", 22),  # one byte too long
    ],
)
def test_each_malformed_header_names_its_field(packet: bytes, field: str, pointer: int | None) -> None:
    with pytest.raises(WireError) as caught:
        parse_ipv4(packet)
    assert (caught.value.key, caught.value.pointer) == (f"ipv4.{field}", pointer)


def test_end_of_options_hides_what_follows() -> None:
    assert parse_ipv4(with_options(b"\x00\x07\x00\x00")).options == b"\x00\x07\x00\x00"


@given(st.integers(0, 19), st.integers(1, 255))
def test_a_changed_byte_never_passes_as_the_same_header(place: int, flip: int) -> None:
    with pytest.raises(WireError):
        parse_ipv4(changed(VALID, place, VALID[place] ^ flip))


def test_a_checksum_that_nobody_wants_is_not_looked_at() -> None:
    assert parse_ipv4(changed(VALID, 10, VALID[10] ^ 1), verify=False).total_bytes == 28


def test_a_header_whose_words_sum_to_ffff_has_checksum_zero() -> None:
    plain = build_ipv4(HERE, THERE, 6, 0)
    identification = int.from_bytes(plain[10:12], "big")  # what the checksum was takes its place
    header = build_ipv4(HERE, THERE, 6, 0, identification=identification)
    assert header[10:12] == bytes(2)
    assert parse_ipv4(header).identification == identification


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"payload_bytes": 65516}, "total_length"),
        ({"ttl": 256}, "ttl"),
        ({"ttl": -1}, "ttl"),
        ({"protocol": 256}, "protocol"),
        ({"identification": 65536}, "identification"),
        ({"dscp": 64}, "dscp"),
        ({"ecn": 4}, "ecn"),
        ({"fragment_offset_bytes": 7}, "fragment_offset"),
        ({"fragment_offset_bytes": 65536}, "fragment_offset"),
        ({"options": bytes(41)}, "ihl"),
        ({"source": bytes(16)}, "address"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], field: str) -> None:
    arguments = {"source": HERE, "destination": THERE, "protocol": 6, "payload_bytes": 0} | changes
    with refused(f"ipv4.{field}"):
        build_ipv4(**arguments)  # type: ignore[arg-type]
