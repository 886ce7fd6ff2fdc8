"""Neighbor discovery: the five messages and four options, as scapy and Linux have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.wire import (
    PROTOCOL_ICMP6,
    IcmpMessage,
    NdMessage,
    NdOptions,
    NeighborAdvertisement,
    NeighborSolicitation,
    PrefixInformation,
    Redirect,
    RouterAdvertisement,
    RouterSolicitation,
    WireError,
    build_nd,
    format_ip,
    format_mac,
    parse_icmp6,
    parse_ip,
    parse_ipv6,
    parse_nd,
    pseudo_header_sum,
)

from . import _captured as captured
from ._given import BYTE, IPV6, MACS, U16, U32, refused
from ._oracle import inet6

PREFIXES = st.builds(PrefixInformation, IPV6, st.integers(0, 128), st.booleans(), st.booleans(), U32, U32)
OPTIONS = st.builds(
    NdOptions, st.none() | MACS, st.none() | MACS, st.none() | U32, st.lists(PREFIXES, max_size=3).map(tuple)
)
UNICAST = IPV6.filter(lambda address: address[0] != 0xFF)
MESSAGES: st.SearchStrategy[NdMessage] = st.one_of(
    st.builds(RouterSolicitation, OPTIONS),
    st.builds(RouterAdvertisement, BYTE, st.booleans(), st.booleans(), U16, U32, U32, OPTIONS),
    st.builds(NeighborSolicitation, UNICAST, OPTIONS),
    st.builds(NeighborAdvertisement, UNICAST, st.booleans(), st.booleans(), st.booleans(), OPTIONS),
    st.builds(Redirect, UNICAST, IPV6, OPTIONS),
)
HERE, THERE = parse_ip("fe80::1"), parse_ip("ff02::2")


def scapys(message: NdMessage) -> bytes:
    """The same message by scapy, with its checksum."""
    packet = inet6.IPv6(src=format_ip(HERE), dst=format_ip(THERE), hlim=255)
    if isinstance(message, RouterSolicitation):
        packet /= inet6.ICMPv6ND_RS()
    elif isinstance(message, RouterAdvertisement):
        packet /= inet6.ICMPv6ND_RA(
            chlim=message.hop_limit,
            M=int(message.managed),
            O=int(message.other),
            prf=0,
            routerlifetime=message.router_lifetime_s,
            reachabletime=message.reachable_time_ms,
            retranstimer=message.retransmit_timer_ms,
        )
    elif isinstance(message, NeighborSolicitation):
        packet /= inet6.ICMPv6ND_NS(tgt=format_ip(message.target))
    elif isinstance(message, NeighborAdvertisement):
        packet /= inet6.ICMPv6ND_NA(
            tgt=format_ip(message.target),
            R=int(message.router),
            S=int(message.solicited),
            O=int(message.override),
        )
    else:
        packet /= inet6.ICMPv6ND_Redirect(tgt=format_ip(message.target), dst=format_ip(message.destination))
    source_mac, target_mac, mtu_bytes, prefixes = message.options
    if source_mac is not None:
        packet /= inet6.ICMPv6NDOptSrcLLAddr(lladdr=format_mac(source_mac))
    if target_mac is not None:
        packet /= inet6.ICMPv6NDOptDstLLAddr(lladdr=format_mac(target_mac))
    if mtu_bytes is not None:
        packet /= inet6.ICMPv6NDOptMTU(mtu=mtu_bytes)
    for prefix in prefixes:
        packet /= inet6.ICMPv6NDOptPrefixInfo(
            prefixlen=prefix.prefix_bits,
            L=int(prefix.on_link),
            A=int(prefix.autonomous),
            validlifetime=prefix.valid_lifetime_s,
            preferredlifetime=prefix.preferred_lifetime_s,
            prefix=format_ip(prefix.prefix),
        )
    return bytes(packet)[40:]


@given(MESSAGES)
def test_a_message_is_built_as_scapy_does_and_read_back(message: NdMessage) -> None:
    data = build_nd(HERE, THERE, message)
    assert data == scapys(message)
    pseudo = pseudo_header_sum(HERE, THERE, PROTOCOL_ICMP6, len(data))
    for view in (data, memoryview(data)):
        parsed = parse_nd(parse_icmp6(view, pseudo=pseudo))
        assert type(parsed) is type(message)
        assert parsed == message


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (captured.NEIGHBOR_SOLICITATION, NeighborSolicitation(parse_ip("fd00::2"), NdOptions(captured.MAC))),
        (captured.DAD_SOLICITATION, NeighborSolicitation(parse_ip("fd00::1"))),  # its nonce is passed over
        (captured.ROUTER_SOLICITATION, RouterSolicitation(NdOptions(captured.MAC))),
    ],
)
def test_the_kernels_messages_are_read(frame: bytes, expected: NdMessage) -> None:
    header = parse_ipv6(frame, 14)
    pseudo = pseudo_header_sum(header.source, header.destination, header.transport, header.payload_bytes)
    message = parse_nd(parse_icmp6(frame, 54, pseudo=pseudo))
    assert (message, header.hop_limit) == (expected, 255)
    if message.options != NdOptions():
        assert build_nd(header.source, header.destination, message) == frame[54:]


TARGET = parse_ip("fe80::2")


@pytest.mark.parametrize(
    ("message", "field", "pointer"),
    [
        (IcmpMessage(135, 1, 0, TARGET), "code", 1),
        (IcmpMessage(132, 0, 0, TARGET), "type", 0),
        (IcmpMessage(138, 0, 0, TARGET), "type", 0),
        (IcmpMessage(135, 0, 0, TARGET[:15]), "header", None),
        (IcmpMessage(136, 0, 0, b""), "header", None),
        (IcmpMessage(134, 0, 0, bytes(7)), "header", None),
        (IcmpMessage(137, 0, 0, bytes(31)), "header", None),
        (IcmpMessage(135, 0, 0, THERE), "target", 8),
        (IcmpMessage(136, 0, 0, THERE), "target", 8),
        (IcmpMessage(133, 0, 0, b"\1\0" + bytes(6)), "option", 9),
        (IcmpMessage(133, 0, 0, b"\1\2" + bytes(6)), "option", 9),
        (IcmpMessage(133, 0, 0, b"\1\1" + bytes(5)), "option", 8),
        (IcmpMessage(135, 0, 0, TARGET + b"\xfe\1" + bytes(6) + b"\xfe\0" + bytes(6)), "option", 33),
        (IcmpMessage(135, 0, 0, TARGET + b"\1\2" + bytes(14)), "link_layer_address", 25),
        (IcmpMessage(135, 0, 0, TARGET + b"\2\2" + bytes(14)), "link_layer_address", 25),
        (IcmpMessage(133, 0, 0, b"\5\2" + bytes(14)), "mtu", 9),
        (IcmpMessage(133, 0, 0, b"\3\3" + bytes(22)), "prefix_information", 9),
        (IcmpMessage(133, 0, 0, b"\3\4\x81" + bytes(29)), "prefix_length", 10),
    ],
)
def test_each_malformed_message_names_its_field(message: IcmpMessage, field: str, pointer: int | None) -> None:
    with pytest.raises(WireError) as caught:
        parse_nd(message)
    assert (caught.value.key, caught.value.pointer) == (f"nd.{field}", pointer)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (NeighborSolicitation(bytes(4)), "target"),
        (NeighborSolicitation(bytes(24)), "target"),
        (Redirect(bytes(16), bytes(8)), "target"),
        (RouterSolicitation(NdOptions(source_mac=b"12345")), "link_layer_address"),
        (RouterSolicitation(NdOptions(mtu_bytes=1 << 32)), "option"),
        (
            RouterSolicitation(NdOptions(prefixes=(PrefixInformation(bytes(8), 64, True, True, 1, 1),))),
            "prefix_information",
        ),
        (RouterSolicitation(NdOptions(prefixes=(PrefixInformation(bytes(16), 64, True, True, -1, 1),))), "option"),
        (RouterAdvertisement(256, False, False, 0, 0, 0), "router_lifetime"),
        (RouterAdvertisement(0, False, False, 65536, 0, 0), "router_lifetime"),
        (RouterAdvertisement(0, False, False, 0, 1 << 32, 0), "option"),
    ],
)
def test_what_does_not_fit_is_refused(message: NdMessage, field: str) -> None:
    with refused(f"nd.{field}"):
        build_nd(HERE, THERE, message)
