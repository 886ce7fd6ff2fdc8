"""Any bytes into any parser give a value or a WireError, never another exception.

Three kinds of bytes: arbitrary ones, valid messages cut short, and valid messages with some bytes changed, which
get past the first checks. With and without verification: a right checksum is no proof of good intent.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay import wire
from underlay.wire import WireError

from . import _captured as captured

HERE, THERE = captured.IP, captured.PEER_IP
V6_HERE, V6_THERE = wire.parse_ip("fd00::1"), wire.parse_ip("fd00::2")

Data = bytes | memoryview


def read_ipv6(data: Data, start: int, end: int) -> object:
    return wire.check_ipv6_extensions(wire.parse_ipv6(data, start, end))


def read_nd(data: Data, start: int, end: int) -> object:
    return wire.parse_nd(wire.parse_icmp6(data, start, end))


PARSERS: dict[str, Callable[[Data, int, int], object]] = {
    "ethernet": wire.parse_ethernet,
    "arp": wire.parse_arp,
    "ipv4": lambda data, start, end: wire.parse_ipv4(data, start, end, verify=False),
    "ipv4_verified": wire.parse_ipv4,
    "ipv6": read_ipv6,
    "icmp4": lambda data, start, end: wire.parse_icmp4(data, start, end, verify=False),
    "icmp4_verified": wire.parse_icmp4,
    "icmp6": lambda data, start, end: wire.parse_icmp6(data, start, end, pseudo=77),
    "nd": read_nd,
    "quoted": wire.parse_quoted_packet,
    "igmp": wire.parse_igmp,
    "udp": wire.parse_udp,
    "udp_verified": lambda data, start, end: wire.parse_udp(
        data, start, end, pseudo=end - start, require_checksum=True
    ),
    "tcp": wire.parse_tcp,
    "tcp_verified": lambda data, start, end: wire.parse_tcp(data, start, end, pseudo=77),
    "dns": wire.parse_dns,
}

EXTENSIONS = [
    wire.IPV6_ROUTER_ALERT,
    wire.IPv6Extension(wire.IPV6_ROUTING, bytes(24)[:1] + b"\2" + bytes(22)),
    wire.IPv6Extension(wire.IPV6_DESTINATION_OPTIONS, b"\0\1\x1e\3abc\1\5" + bytes(7)),
    wire.IPv6Extension(wire.IPV6_FRAGMENT, wire.build_ipv6_fragment_header(0, 1, 8, True)),
]
CHAIN = wire.build_ipv6_extensions(EXTENSIONS, 17)
QUERY = wire.parse_dns(wire.build_dns_query(7, "www.example.org"))

VALID = [
    *captured.FRAMES.values(),
    *(frame[14:] for frame in captured.FRAMES.values()),
    *(frame[34:] for frame in captured.FRAMES.values()),
    captured.NEIGHBOR_SOLICITATION[54:],
    wire.build_ethernet(bytes(6), bytes(6), 0x0800, b"payload", vlan=5),
    wire.build_ipv4(HERE, THERE, 6, 8, options=b"\x07\x07\x04\0\0\0\0\x01\x94\x04\0\0") + bytes(8),
    wire.build_ipv4(HERE, THERE, 6, 8, fragment_offset_bytes=64, more_fragments=True) + bytes(8),
    wire.build_ipv6(V6_HERE, V6_THERE, 0, len(CHAIN) + 8) + CHAIN + bytes(8),
    wire.build_tcp_header(HERE, THERE, 1, 2, 3, 4, 16, 5, timestamp=(1, 2), sack=[(1, 2), (3, 4)]),
    wire.build_tcp_header(HERE, THERE, 1, 2, 3, 4, 16, 5, sack=[(1, 2), (3, 4), (5, 6), (7, 8)]),
    wire.build_udp(HERE, THERE, 1, 2, b"payload") + b"payload",
    wire.build_nd(
        V6_HERE,
        V6_THERE,
        wire.RouterAdvertisement(
            64,
            True,
            False,
            1800,
            0,
            0,
            wire.NdOptions(bytes(6), None, 1500, (wire.PrefixInformation(bytes(16), 64, True, True, 1, 1),)),
        ),
    ),
    wire.build_dns_answer(
        QUERY,
        [
            wire.DnsRecord("www.example.org", wire.DNS_CNAME, 1, "host.example.org"),
            wire.DnsRecord("host.example.org", wire.DNS_A, 1, bytes(4)),
            wire.DnsRecord("host.example.org", wire.DNS_AAAA, 1, bytes(16)),
        ],
    ),
]

CHANGES = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6)


def copied(value: object) -> object:
    """The value with the views in it copied, so that it can be compared."""
    if isinstance(value, tuple):
        return type(value).__name__, [bytes(field) if isinstance(field, memoryview) else field for field in value]
    return value


def survives(parse: Callable[[Data, int, int], object], data: bytes) -> None:
    """A value or a WireError, the same for bytes, for a view, and in the midst of others."""
    outcomes = []
    for view, start in ((data, 0), (memoryview(data), 0), (b"\xff" * 7 + data + b"\xff" * 9, 7)):
        try:
            outcomes.append(copied(parse(view, start, start + len(data))))
        except WireError as error:
            assert error.header and error.field and error.reason
            assert error.pointer is None or 0 <= error.pointer < max(len(data), 1)
            outcomes.append((error.key, error.pointer))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=120))
def test_arbitrary_bytes_give_a_value_or_a_wire_error(name: str, data: bytes) -> None:
    survives(PARSERS[name], data)


@pytest.mark.parametrize("name", PARSERS)
def test_each_valid_message_cut_short_anywhere_gives_a_value_or_a_wire_error(name: str) -> None:
    for message in VALID:
        for end in range(len(message) + 1):
            survives(PARSERS[name], message[:end])


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=200)
@given(message=st.sampled_from(VALID), changes=CHANGES, extra=st.binary(max_size=10))
def test_changed_messages_give_a_value_or_a_wire_error(
    name: str, message: bytes, changes: list[tuple[int, int]], extra: bytes
) -> None:
    data = bytearray(message + extra)
    for place, value in changes:
        data[place % len(data)] = value
    survives(PARSERS[name], bytes(data))


@given(st.binary(max_size=40))
def test_any_tcp_options_give_a_value_or_a_wire_error(options: bytes) -> None:
    options = options.ljust(len(options) + 3 & ~3, b"\1")
    head = bytes(12) + bytes([20 + len(options) << 2]) + bytes(7) + options
    survives(wire.parse_tcp, head)


@given(st.binary(max_size=40))
def test_any_ipv4_options_give_a_value_or_a_wire_error(options: bytes) -> None:
    options = options.ljust(len(options) + 3 & ~3, b"\1")
    head = wire.build_ipv4(HERE, THERE, 6, 0, options=bytes(len(options)))[:20] + options
    survives(PARSERS["ipv4"], head)


@given(st.binary(max_size=100), st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_any_records_behind_a_dns_header_give_a_value_or_a_wire_error(records: bytes, counts: list[int]) -> None:
    survives(wire.parse_dns, bytes(4) + b"".join(count.to_bytes(2, "big") for count in counts) + records)


def test_a_message_of_pointers_to_the_longest_name_costs_no_more_than_its_limit_of_records() -> None:
    longest = (b"\1a" * 126) + b"\0"
    record = b"\xc0\x0c\0\x10\0\1\0\0\0\1\0\0"
    counts = (0).to_bytes(2, "big") + (512).to_bytes(2, "big") + bytes(4)
    message = bytes(4) + counts + longest + b"\0\x10\0\1\0\0\0\1\0\0" + record * 511
    assert len(wire.parse_dns(message).answers) == 512
    with pytest.raises(WireError):
        wire.parse_dns(bytes(4) + bytes(2) + (513).to_bytes(2, "big") + message[8:] + record)
