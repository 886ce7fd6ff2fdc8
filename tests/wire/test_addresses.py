"""Addresses turn into text and back; text that is none is refused with the reason."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given

from underlay.wire import format_ip, format_mac, multicast_mac, parse_ip, parse_mac, solicited_node

from . import _captured as captured
from ._given import IPV4, IPV6, MACS


@given(IPV4 | IPV6)
def test_an_address_is_written_and_read_back(address: bytes) -> None:
    assert parse_ip(format_ip(address)) == address


@given(MACS)
def test_a_mac_address_is_written_and_read_back(address: bytes) -> None:
    assert parse_mac(format_mac(address)) == address
    assert parse_mac(format_mac(address).replace(":", "-").upper()) == address


@given(IPV6)
def test_an_ipv6_address_is_written_as_the_standard_library_does(address: bytes) -> None:
    if address[:12] != bytes(10) + b"\xff\xff":
        assert format_ip(address) == str(ipaddress.IPv6Address(address))


def test_a_mapped_address_is_written_with_its_dots() -> None:
    assert format_ip(bytes(10) + b"\xff\xff\x0a\x09\x00\x02") == "::ffff:10.9.0.2"
    assert parse_ip("::ffff:10.9.0.2") == bytes(10) + b"\xff\xff\x0a\x09\x00\x02"


@pytest.mark.parametrize("text", ["", "10.9.0", "10.9.0.256", "1:2", "fe80::1%eth0", "10.9.0.2/24", "010.9.0.2"])
def test_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_ip(text)


@pytest.mark.parametrize("text", ["", "02:00:5e:10:00", "2:0:5e:10:0:1", "02:00:5e:10:00:0g", "02005e100001", " " * 17])
def test_text_that_is_no_mac_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no MAC address"):
        parse_mac(text)


@pytest.mark.parametrize("address", [b"", b"12345", bytes(17)])
def test_bytes_of_another_length_are_no_address(address: bytes) -> None:
    with pytest.raises(ValueError, match="4 or 16 bytes"):
        format_ip(address)
    with pytest.raises(ValueError, match="6 bytes"):
        format_mac(address)


def test_groups_have_the_link_addresses_to_which_linux_sends() -> None:
    assert multicast_mac(captured.IGMP_REPORT[30:34]) == captured.IGMP_REPORT[:6]
    assert multicast_mac(captured.MLD_REPORT[38:54]) == captured.MLD_REPORT[:6]
    assert multicast_mac(bytes([239, 129, 2, 3])) == parse_mac("01:00:5e:01:02:03")


def test_a_neighbor_is_looked_for_in_the_group_to_which_linux_sends() -> None:
    frame = captured.NEIGHBOR_SOLICITATION
    assert solicited_node(parse_ip("fd00::2")) == frame[38:54]
    assert multicast_mac(frame[38:54]) == frame[:6]
