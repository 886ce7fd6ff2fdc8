"""ICMPv6 messages and their checksum with a pseudo header, as scapy has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.wire import (
    ICMP6_ECHO_REQUEST,
    PROTOCOL_ICMP6,
    build_icmp6,
    format_ip,
    parse_icmp6,
    pseudo_header_sum,
)

from . import _captured as captured
from ._given import BYTE, IPV6, PAYLOADS, U16, U32, changed, refused
from ._oracle import inet6, raw


@given(IPV6, IPV6, BYTE, BYTE, U32, PAYLOADS)
def test_a_message_is_built_and_read_back(
    source: bytes, destination: bytes, kind: int, code: int, rest: int, body: bytes
) -> None:
    message = build_icmp6(source, destination, kind, code, rest, body)
    pseudo = pseudo_header_sum(source, destination, PROTOCOL_ICMP6, len(message))
    assert parse_icmp6(message, pseudo=pseudo) == (kind, code, rest, body)
    assert parse_icmp6(memoryview(b"ip" + message + b"!"), 2, 2 + len(message), pseudo=pseudo).body == body


@given(IPV6, IPV6, U16, U16, PAYLOADS)
def test_an_echo_is_the_same_as_scapys(
    source: bytes, destination: bytes, identifier: int, sequence: int, body: bytes
) -> None:
    echo = inet6.ICMPv6EchoRequest(id=identifier, seq=sequence, data=body)
    theirs = bytes(inet6.IPv6(src=format_ip(source), dst=format_ip(destination)) / echo)
    assert build_icmp6(source, destination, ICMP6_ECHO_REQUEST, 0, identifier << 16 | sequence, body) == theirs[40:]


@given(U32, PAYLOADS)
def test_a_too_big_is_the_same_as_scapys(mtu: int, body: bytes) -> None:
    source, destination = bytes(15) + b"\1", bytes(15) + b"\2"
    theirs = inet6.IPv6(src="::1", dst="::2") / inet6.ICMPv6PacketTooBig(mtu=mtu) / raw(body)
    assert build_icmp6(source, destination, 2, 0, mtu, body) == bytes(theirs)[40:]


def test_the_kernels_report_is_read_behind_its_hop_by_hop_options() -> None:
    packet = captured.MLD_REPORT
    pseudo = pseudo_header_sum(packet[22:38], packet[38:54], PROTOCOL_ICMP6, len(packet) - 62)
    assert parse_icmp6(packet, 62, pseudo=pseudo)[:3] == (143, 0, 1)


@given(st.integers(0, 11), st.integers(1, 255))
def test_any_changed_byte_breaks_the_checksum(place: int, flip: int) -> None:
    message = build_icmp6(bytes(16), bytes(16), 128, 0, 1, b"body")
    pseudo = pseudo_header_sum(bytes(16), bytes(16), PROTOCOL_ICMP6, len(message))
    with refused("icmp6.checksum"):
        parse_icmp6(changed(message, place, message[place] ^ flip), pseudo=pseudo)


@pytest.mark.parametrize(("kind", "code", "rest"), [(256, 0, 0), (0, 256, 0), (0, 0, 1 << 32), (-1, 0, 0)])
def test_what_does_not_fit_is_refused(kind: int, code: int, rest: int) -> None:
    with refused("icmp6.type"):
        build_icmp6(bytes(16), bytes(16), kind, code, rest)
    with refused("icmp6.header"):
        parse_icmp6(bytes(7))
