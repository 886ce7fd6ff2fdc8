"""The packet that an ICMP error quotes is found, however short it was cut, and never believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.wire import (
    IPV6_DESTINATION_OPTIONS,
    IPV6_FRAGMENT,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    QuotedPacket,
    build_ipv4,
    build_ipv6,
    build_ipv6_fragment_header,
    parse_ip,
    parse_quoted_packet,
)

from . import _captured as captured
from ._given import changed, refused

V4 = build_ipv4(captured.IP, captured.PEER_IP, PROTOCOL_TCP, 1460)
HERE, THERE = parse_ip("fd00::1"), parse_ip("fd00::2")
V6 = build_ipv6(HERE, THERE, PROTOCOL_UDP, 1452)
PORTS = bytes(range(8))


@given(st.binary(max_size=40))
def test_the_transport_is_found_in_what_is_left_of_the_packet(more: bytes) -> None:
    for data in (V4 + PORTS + more, memoryview(V4 + PORTS + more)):
        quoted = parse_quoted_packet(data)
        assert quoted == QuotedPacket(captured.IP, captured.PEER_IP, PROTOCOL_TCP, PORTS + more)
    quoted = parse_quoted_packet(b"icmp" + V6 + PORTS + more + b"!", 4, 4 + 48 + len(more))
    assert quoted == QuotedPacket(HERE, THERE, PROTOCOL_UDP, PORTS + more)


def test_options_and_extensions_are_passed_over() -> None:
    v4 = build_ipv4(captured.IP, captured.PEER_IP, PROTOCOL_UDP, 8, options=b"\x94\x04\0\0")
    assert parse_quoted_packet(v4 + PORTS).transport == PORTS
    first = build_ipv6_fragment_header(IPV6_DESTINATION_OPTIONS, 1, 0, True)
    v6 = build_ipv6(HERE, THERE, IPV6_DESTINATION_OPTIONS, 1400) + bytes([IPV6_FRAGMENT, 0]) + bytes(6) + first
    assert parse_quoted_packet(v6 + PORTS)[2:] == (IPV6_DESTINATION_OPTIONS, PORTS)


def test_a_checksum_that_a_router_left_wrong_does_not_matter() -> None:
    assert parse_quoted_packet(changed(V4, 10, 0) + PORTS).protocol == PROTOCOL_TCP


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 40,
        V4 + PORTS[:7],
        V4[:19],
        changed(V4, 0, 0x44) + PORTS,
        changed(V4, 0, 0x4F) + PORTS,
        build_ipv4(captured.IP, captured.PEER_IP, 6, 8, fragment_offset_bytes=8) + PORTS,
        build_ipv4(captured.IP, captured.PEER_IP, 6, 8, fragment_offset_bytes=65528) + PORTS,
        V6[:39],
        V6 + PORTS[:7],
        build_ipv6(HERE, THERE, IPV6_FRAGMENT, 8) + build_ipv6_fragment_header(17, 1, 8, False) + PORTS,
        build_ipv6(HERE, THERE, IPV6_DESTINATION_OPTIONS, 8) + b"\x11\x01" + PORTS,
    ],
)
def test_what_names_no_transport_is_refused(data: bytes) -> None:
    with refused("icmp.quoted_packet"):
        parse_quoted_packet(b"icmp" + data, 4)
