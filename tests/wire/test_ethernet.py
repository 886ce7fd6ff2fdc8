"""Ethernet frames: tags, padding and check sequence, as scapy and Linux have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.wire import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    EthernetHeader,
    build_ethernet,
    check_fcs,
    ethernet_fcs,
    format_mac,
    parse_ethernet,
)

from . import _captured as captured
from ._given import MACS, PAYLOADS, U16, changed, refused
from ._oracle import l2, raw

TYPES = U16.filter(lambda value: value != 0x8100)


@given(MACS, MACS, TYPES, PAYLOADS, st.none() | U16)
def test_a_frame_is_built_and_read_back(
    destination: bytes, source: bytes, ethertype: int, payload: bytes, vlan: int | None
) -> None:
    frame = build_ethernet(destination, source, ethertype, payload, vlan=vlan)
    for start, data in ((0, frame), (3, memoryview(b"abc" + frame))):
        header = parse_ethernet(data, start)
        assert header == EthernetHeader(destination, source, ethertype, vlan, 14 if vlan is None else 18)
        assert data[start + header.header_bytes :] == payload


@given(MACS, MACS, TYPES, PAYLOADS, st.none() | U16)
def test_a_frame_is_the_same_as_scapys(
    destination: bytes, source: bytes, ethertype: int, payload: bytes, vlan: int | None
) -> None:
    ether = l2.Ether(dst=format_mac(destination), src=format_mac(source), type=ethertype)
    if vlan is not None:
        ether.type = 0x8100
        ether /= l2.Dot1Q(prio=vlan >> 13, dei=vlan >> 12 & 1, vlan=vlan & 0xFFF, type=ethertype)
    assert build_ethernet(destination, source, ethertype, payload, vlan=vlan) == bytes(ether / raw(payload))


@given(MACS, U16)
def test_a_tag_tells_identifier_and_priority(mac: bytes, vlan: int) -> None:
    header = parse_ethernet(build_ethernet(mac, mac, ETHERTYPE_IPV4, vlan=vlan))
    assert header.vlan_id is not None
    assert header.vlan_id | header.priority << 13 | (vlan & 0x1000) == vlan
    untagged = parse_ethernet(build_ethernet(mac, mac, ETHERTYPE_IPV4))
    assert (untagged.vlan_id, untagged.priority) == (None, 0)


def test_a_second_tag_is_the_payloads_matter() -> None:
    inner = build_ethernet(bytes(6), bytes(6), 0x8100, b"\x00\x05\x08\x00", vlan=7)
    assert parse_ethernet(inner)[2:] == (0x8100, 7, 18)


@given(PAYLOADS, st.none() | U16)
def test_padding_fills_up_to_60_bytes_with_zeros(payload: bytes, vlan: int | None) -> None:
    plain = build_ethernet(captured.MAC, captured.PEER_MAC, ETHERTYPE_ARP, payload, vlan=vlan)
    padded = build_ethernet(captured.MAC, captured.PEER_MAC, ETHERTYPE_ARP, payload, vlan=vlan, pad=True)
    assert len(padded) == max(60, len(plain))
    assert padded == plain + bytes(len(padded) - len(plain))


@given(PAYLOADS, st.booleans(), st.integers(0, 59 * 8 - 1))
def test_one_flipped_bit_is_found_by_the_check_sequence(payload: bytes, pad: bool, bit: int) -> None:
    frame = build_ethernet(captured.MAC, captured.PEER_MAC, 0x0800, payload, pad=pad, fcs=True)
    assert check_fcs(frame)
    assert ethernet_fcs(frame[:-4]) == frame[-4:]
    place = bit // 8 % len(frame)
    assert not check_fcs(changed(frame, place, frame[place] ^ 1 << bit % 8))


def test_the_check_sequence_stands_low_byte_first() -> None:
    # The residue of CRC-32: over data and check sequence it is the same for every frame, if the order is right.
    frame = build_ethernet(captured.MAC, captured.PEER_MAC, 0x0800, b"any", fcs=True)
    assert ethernet_fcs(frame) == (0x2144DF1C).to_bytes(4, "little")
    assert not check_fcs(b"1234")


def test_what_is_too_short_names_the_header_or_the_tag() -> None:
    frame = build_ethernet(bytes(6), bytes(6), 0x0800, vlan=1)
    with refused("ethernet.header"):
        parse_ethernet(frame, 0, 13)
    for end in range(14, 18):
        with refused("ethernet.vlan"):
            parse_ethernet(frame, 0, end)


@pytest.mark.parametrize(
    ("destination", "ethertype", "vlan", "key"),
    [
        (b"12345", 0x0800, None, "ethernet.address"),
        (bytes(6), 0x10000, None, "ethernet.ethertype"),
        (bytes(6), 0x0800, 0x10000, "ethernet.vlan"),
    ],
)
def test_what_does_not_fit_is_refused(destination: bytes, ethertype: int, vlan: int | None, key: str) -> None:
    with refused(key):
        build_ethernet(destination, bytes(6), ethertype, vlan=vlan)


def test_an_802_3_length_is_left_to_the_reader() -> None:
    assert parse_ethernet(build_ethernet(bytes(6), bytes(6), 38)).ethertype == 38


@pytest.mark.parametrize("frame", captured.FRAMES.values(), ids=captured.FRAMES)
def test_the_kernels_frames_are_read(frame: bytes) -> None:
    header = parse_ethernet(frame)
    assert (header.source, header.vlan, header.header_bytes) == (captured.MAC, None, 14)
    assert build_ethernet(*header[:3], frame[14:]) == frame
