"""The UDP header: its checksum's zero, its length, and equality with scapy."""

from __future__ import annotations

import pytest
from hypothesis import given

from underlay.wire import PROTOCOL_UDP, Frame, build_udp, format_ip, parse_udp, pseudo_header_sum

from . import _captured as captured
from ._given import IP_PAIRS, PAYLOADS, U16, changed, refused
from ._oracle import inet, inet6, raw

HERE, THERE = captured.IP, captured.PEER_IP


def theirs(source: bytes, destination: bytes, source_port: int, destination_port: int, payload: bytes) -> bytes:
    network = inet.IP if len(source) == 4 else inet6.IPv6
    packet = network(src=format_ip(source), dst=format_ip(destination))
    data = bytes(packet / inet.UDP(sport=source_port, dport=destination_port) / raw(payload))
    return data[20:] if len(source) == 4 else data[40:]


@given(IP_PAIRS, U16, U16, PAYLOADS)
def test_a_header_is_built_as_scapy_does_and_read_back(
    pair: tuple[bytes, bytes], source_port: int, destination_port: int, payload: bytes
) -> None:
    source, destination = pair
    datagram = build_udp(source, destination, source_port, destination_port, payload) + payload
    assert datagram == theirs(source, destination, source_port, destination_port, payload)
    pseudo = pseudo_header_sum(source, destination, PROTOCOL_UDP, len(datagram))
    header = parse_udp(memoryview(b"ip" + datagram), 2, pseudo=pseudo, require_checksum=True)
    assert header == (source_port, destination_port, len(datagram), int.from_bytes(datagram[6:8], "big"))
    assert header.checksum != 0


@given(IP_PAIRS, U16, U16, PAYLOADS)
def test_an_offloaded_checksum_completes_to_the_same(
    pair: tuple[bytes, bytes], source_port: int, destination_port: int, payload: bytes
) -> None:
    source, destination = pair
    head = build_udp(source, destination, source_port, destination_port, payload, offload=True)
    frame = Frame(b"network" + head, payload, checksum_start=7, checksum_offset=6).with_checksum()
    assert frame.to_bytes()[7:] == build_udp(source, destination, source_port, destination_port, payload) + payload


def test_the_kernels_datagram_is_read() -> None:
    header = parse_udp(captured.UDP, 34, pseudo=pseudo_header_sum(HERE, THERE, PROTOCOL_UDP, 13))
    assert header == (54012, 53, 13, 0xD4BB)
    assert build_udp(HERE, THERE, 54012, 53, b"hello") == captured.UDP[34:42]


def test_a_checksum_that_comes_out_as_zero_is_sent_as_ffff() -> None:
    plain = build_udp(HERE, THERE, 1, 2, bytes(2))
    payload = plain[6:8]  # what the checksum was makes the sum 0xFFFF
    datagram = build_udp(HERE, THERE, 1, 2, payload) + payload
    assert datagram[6:8] == b"\xff\xff"
    assert parse_udp(datagram, pseudo=pseudo_header_sum(HERE, THERE, PROTOCOL_UDP, 10)).checksum == 0xFFFF


def test_no_checksum_is_accepted_over_ipv4_and_refused_over_ipv6() -> None:
    datagram = build_udp(HERE, THERE, 1, 2, b"data")[:6] + bytes(2) + b"data"
    pseudo = pseudo_header_sum(HERE, THERE, PROTOCOL_UDP, 12)
    assert parse_udp(datagram, pseudo=pseudo).checksum == 0
    with refused("udp.checksum"):
        parse_udp(datagram, pseudo=pseudo, require_checksum=True)
    with refused("udp.checksum"):
        parse_udp(datagram, require_checksum=True)


@pytest.mark.parametrize("extra", [0, 1, 2, 7])
def test_a_datagram_shorter_than_its_packet_is_verified_over_its_own_length(extra: int) -> None:
    datagram = build_udp(HERE, THERE, 1, 2, b"data") + b"data" + b"\xff" * extra
    pseudo = pseudo_header_sum(HERE, THERE, PROTOCOL_UDP, len(datagram))
    assert parse_udp(datagram, pseudo=pseudo).length_bytes == 12
    with refused("udp.checksum"):
        parse_udp(changed(datagram, 11, 0), pseudo=pseudo)


@pytest.mark.parametrize("length", [0, 7, 13, 0xFFFF])
def test_a_length_below_the_header_or_beyond_the_data_is_refused(length: int) -> None:
    datagram = build_udp(HERE, THERE, 1, 2, b"data")[:4] + length.to_bytes(2, "big") + b"\0\0data"
    with refused("udp.length"):
        parse_udp(datagram)


def test_what_is_too_short_or_does_not_fit_is_refused() -> None:
    with refused("udp.header"):
        parse_udp(bytes(7))
    with refused("udp.length"):
        build_udp(HERE, THERE, 1, 2, bytes(65528))
    with refused("udp.port"):
        build_udp(HERE, THERE, 1, 65536, b"")
