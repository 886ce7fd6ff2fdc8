"""ARP packets, as scapy and Linux have them."""

from __future__ import annotations

import pytest
from hypothesis import given

from underlay.wire import ARP_REQUEST, ArpPacket, build_arp, format_ip, format_mac, parse_arp

from . import _captured as captured
from ._given import IPV4, MACS, U16, changed, refused
from ._oracle import l2

VALID = build_arp(ARP_REQUEST, captured.MAC, captured.IP, bytes(6), captured.PEER_IP)


@given(U16, MACS, IPV4, MACS, IPV4)
def test_a_packet_is_built_as_scapy_does_and_read_back(
    operation: int, sender_mac: bytes, sender_ip: bytes, target_mac: bytes, target_ip: bytes
) -> None:
    packet = ArpPacket(operation, sender_mac, sender_ip, target_mac, target_ip)
    data = build_arp(*packet)
    assert parse_arp(data) == packet
    assert parse_arp(memoryview(b"link" + data + b"padding"), 4) == packet
    assert data == bytes(
        l2.ARP(
            hwlen=6,
            plen=4,
            op=operation,
            hwsrc=format_mac(sender_mac),
            psrc=format_ip(sender_ip),
            hwdst=format_mac(target_mac),
            pdst=format_ip(target_ip),
        )
    )


def test_the_kernels_request_is_read() -> None:
    asked = bytes([10, 9, 0, 3])
    assert parse_arp(captured.ARP, 14) == ArpPacket(ARP_REQUEST, captured.MAC, captured.IP, bytes(6), asked)


@pytest.mark.parametrize(
    ("place", "value", "field"),
    [
        (1, 6, "hardware_type"),
        (2, 0x86, "protocol_type"),
        (4, 8, "hardware_length"),
        (5, 16, "protocol_length"),
    ],
)
def test_what_is_not_ipv4_over_ethernet_is_refused(place: int, value: int, field: str) -> None:
    with refused(f"arp.{field}"):
        parse_arp(changed(VALID, place, value))


def test_a_packet_cut_short_is_refused() -> None:
    with refused("arp.header"):
        parse_arp(VALID, 0, 27)


def test_what_does_not_fit_is_refused() -> None:
    with refused("arp.operation"):
        build_arp(0x10000, bytes(6), bytes(4), bytes(6), bytes(4))
    with refused("arp.hardware_length"):
        build_arp(1, bytes(6), bytes(4), bytes(5), bytes(4))
    with refused("arp.protocol_length"):
        build_arp(1, bytes(6), bytes(16), bytes(6), bytes(4))
