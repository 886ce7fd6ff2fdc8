"""The IPv6 header and its extension headers: built as scapy does, walked to the right transport, and bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.wire import (
    IPV6_DESTINATION_OPTIONS,
    IPV6_FRAGMENT,
    IPV6_HOP_BY_HOP,
    IPV6_NO_NEXT_HEADER,
    IPV6_ROUTER_ALERT,
    IPV6_ROUTING,
    MAX_IPV6_EXTENSIONS,
    PROTOCOL_ICMP6,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    ExtensionProblem,
    IPv6Extension,
    IPv6Fragment,
    IPv6Header,
    WireError,
    build_ipv6,
    build_ipv6_extensions,
    build_ipv6_fragment_header,
    check_ipv6_extensions,
    format_ip,
    parse_ip,
    parse_ipv6,
)

from . import _captured as captured
from ._given import BYTE, IPV6, U16, U32, changed, refused
from ._oracle import inet6, raw

HERE, THERE = parse_ip("fd00::1"), parse_ip("fd00::2")
KINDS = {IPV6_HOP_BY_HOP, IPV6_ROUTING, IPV6_FRAGMENT, IPV6_DESTINATION_OPTIONS}
TRANSPORTS = BYTE.filter(lambda kind: kind not in KINDS)


def extension(kind: int, content: bytes) -> IPv6Extension:
    """One extension header with this content behind its two first bytes, filled up with zeros."""
    size = -(-(len(content) + 2) // 8) * 8
    return IPv6Extension(kind, (bytes([0, size // 8 - 1]) + content).ljust(size, b"\0"))


def packet(extensions: list[IPv6Extension], transport: int = PROTOCOL_UDP, payload: bytes = b"") -> bytes:
    chain = build_ipv6_extensions(extensions, transport)
    first = extensions[0].protocol if extensions else transport
    return build_ipv6(HERE, THERE, first, len(chain) + len(payload)) + chain + payload


@given(IPV6, IPV6, TRANSPORTS, st.integers(0, 1500), BYTE, BYTE, st.integers(0, 0xFFFFF))
def test_a_header_is_built_as_scapy_does_and_read_back(
    source: bytes, destination: bytes, transport: int, size: int, hop_limit: int, traffic_class: int, flow_label: int
) -> None:
    header = build_ipv6(
        source, destination, transport, size, hop_limit=hop_limit, traffic_class=traffic_class, flow_label=flow_label
    )
    parsed = parse_ipv6(memoryview(b"link" + header + bytes(size) + b"padding"), 4)
    assert parsed == IPv6Header(
        source, destination, transport, hop_limit, traffic_class, flow_label, size, (), transport, 40, None, 40 + size
    )
    assert parsed.dscp << 2 | parsed.ecn == traffic_class
    theirs = inet6.IPv6(
        src=format_ip(source), dst=format_ip(destination), nh=transport, hlim=hop_limit, tc=traffic_class, fl=flow_label
    )
    assert header + bytes(size) == bytes(theirs / raw(bytes(size)))


EXTENSIONS = st.lists(
    st.tuples(st.sampled_from([IPV6_ROUTING, IPV6_DESTINATION_OPTIONS]), st.binary(max_size=30)),
    max_size=MAX_IPV6_EXTENSIONS - 1,
)


@given(EXTENSIONS, st.booleans(), TRANSPORTS, st.binary(max_size=20))
def test_the_chain_leads_to_the_transport_behind_it(
    chosen: list[tuple[int, bytes]], hop_by_hop: bool, transport: int, payload: bytes
) -> None:
    extensions = [extension(IPV6_HOP_BY_HOP, b"")] if hop_by_hop else []
    extensions += [extension(kind, content) for kind, content in chosen]
    data = packet(extensions, transport, payload)
    header = parse_ipv6(memoryview(b"link" + data + b"padding"), 4)
    assert header.transport == transport
    assert data[header.header_bytes :] == payload
    assert header.total_bytes == len(data)
    assert [kind for kind, _ in header.extensions] == [kind for kind, _ in extensions]
    # What came in goes out again.
    again = build_ipv6(HERE, THERE, header.next_header, header.payload_bytes)
    assert again + build_ipv6_extensions(header.extensions, header.transport) + payload == data


def test_scapys_chain_of_every_kind_is_read() -> None:
    theirs = bytes(
        inet6.IPv6(src="fd00::1", dst="fd00::2")
        / inet6.IPv6ExtHdrHopByHop(options=[inet6.RouterAlert()])
        / inet6.IPv6ExtHdrDestOpt(options=[inet6.PadN(optdata=bytes(4))])
        / inet6.IPv6ExtHdrRouting(addresses=["fd00::3"], segleft=0)
        / inet6.IPv6ExtHdrFragment(offset=0, m=0, id=7)
        / inet6.ICMPv6EchoRequest()
    )
    header = parse_ipv6(theirs)
    kinds = [IPV6_HOP_BY_HOP, IPV6_DESTINATION_OPTIONS, IPV6_ROUTING, IPV6_FRAGMENT]
    assert [kind for kind, _ in header.extensions] == kinds
    assert (header.transport, header.header_bytes) == (PROTOCOL_ICMP6, len(theirs) - 8)
    assert header.fragment is None  # its own only fragment (RFC 6946) is a whole packet
    assert check_ipv6_extensions(header) is None


@given(TRANSPORTS, U32, st.integers(0, 1000), st.booleans(), st.binary(max_size=24))
def test_a_fragment_header_is_built_as_scapy_does_and_read_back(
    transport: int, identification: int, eighths: int, more: bool, payload: bytes
) -> None:
    ours = build_ipv6_fragment_header(transport, identification, eighths * 8, more)
    theirs = inet6.IPv6ExtHdrFragment(nh=transport, offset=eighths, m=int(more), id=identification)
    assert ours == bytes(theirs)
    header = parse_ipv6(build_ipv6(HERE, THERE, IPV6_FRAGMENT, 8 + len(payload)) + ours + payload)
    assert (header.transport, header.header_bytes) == (transport, 48)
    if eighths or more:
        assert header.fragment == IPv6Fragment(transport, identification, eighths * 8, more)
    else:
        assert header.fragment is None


def test_behind_a_fragment_header_nothing_is_read() -> None:
    # The destination options are announced, but their bytes are in another fragment.
    fragment = IPv6Extension(IPV6_FRAGMENT, build_ipv6_fragment_header(0, 1, 8, True))
    header = parse_ipv6(packet([fragment], IPV6_DESTINATION_OPTIONS, b"\x11\xff"))
    assert (header.transport, header.header_bytes) == (IPV6_DESTINATION_OPTIONS, 48)


def test_the_kernels_report_is_found_behind_its_router_alert() -> None:
    header = parse_ipv6(captured.MLD_REPORT, 14)
    assert (header.transport, header.header_bytes, header.hop_limit) == (PROTOCOL_ICMP6, 48, 1)
    assert build_ipv6_extensions(header.extensions, 0) == IPV6_ROUTER_ALERT.data
    assert check_ipv6_extensions(header) is None


PLAIN = packet([], PROTOCOL_TCP, bytes(20))
HOP = extension(IPV6_HOP_BY_HOP, b"")
OPTIONS = extension(IPV6_DESTINATION_OPTIONS, b"")


@pytest.mark.parametrize(
    ("data", "field", "pointer"),
    [
        (PLAIN[:39], "header", None),
        (changed(PLAIN, 0, 0x45), "version", 0),
        (changed(PLAIN, 5, 21), "payload_length", 4),
        (packet([OPTIONS, HOP]), "extension_order", 40),
        (packet([HOP, OPTIONS, HOP]), "extension_order", 48),
        (packet([OPTIONS] * (MAX_IPV6_EXTENSIONS + 1)), "extensions", 40 + 8 * (MAX_IPV6_EXTENSIONS - 1)),
        (build_ipv6(HERE, THERE, IPV6_HOP_BY_HOP, 0), "extension_length", 40),  # a jumbogram, or nothing
        (packet([HOP], IPV6_ROUTING, bytes(7)), "extension_length", 48),
        (packet([HOP], IPV6_DESTINATION_OPTIONS, b"\0\1" + bytes(6)), "extension_length", 49),
        (packet([], IPV6_FRAGMENT, bytes(7)), "extension_length", 40),
        (packet([], IPV6_FRAGMENT, build_ipv6_fragment_header(17, 1, 65528, True) + bytes(8)), "fragment_offset", 42),
    ],
)
def test_each_malformed_packet_names_its_field(data: bytes, field: str, pointer: int | None) -> None:
    with pytest.raises(WireError) as caught:
        parse_ipv6(b"link" + data, 4)
    assert (caught.value.key, caught.value.pointer) == (f"ipv6.{field}", pointer)


@pytest.mark.parametrize(
    ("extensions", "problem"),
    [
        ([extension(IPV6_DESTINATION_OPTIONS, b"\x01\x04" + bytes(4))], None),
        ([extension(IPV6_DESTINATION_OPTIONS, b"\x1e\x04" + bytes(4))], None),  # unknown, to be skipped
        ([extension(IPV6_DESTINATION_OPTIONS, b"\x5e\x04" + bytes(4))], ("ipv6.option", 42, None, False)),
        ([extension(IPV6_DESTINATION_OPTIONS, b"\x9e\x04" + bytes(4))], ("ipv6.option", 42, 2, True)),
        ([HOP, extension(IPV6_DESTINATION_OPTIONS, b"\xde\x04" + bytes(4))], ("ipv6.option", 50, 2, False)),
        ([extension(IPV6_HOP_BY_HOP, b"\xc2\x04" + bytes(4))], ("ipv6.option", 42, 2, False)),  # jumbogram
        ([extension(IPV6_HOP_BY_HOP, b"\x01\x05" + bytes(4))], ("ipv6.option_length", 43, 0, False)),
        ([extension(IPV6_HOP_BY_HOP, bytes(5) + b"\x01")], ("ipv6.option_length", 47, 0, False)),
        ([extension(IPV6_HOP_BY_HOP, bytes(14))], ("ipv6.padding", 49, None, False)),
        ([extension(IPV6_HOP_BY_HOP, b"\x1e\x00" * 9 + bytes(4))], ("ipv6.options", 58, None, False)),
        ([extension(IPV6_ROUTING, b"\x00\x01" + bytes(20))], ("ipv6.routing_type", 42, 0, False)),
        ([extension(IPV6_ROUTING, b"\x00\x00" + bytes(20))], None),
    ],
)
def test_what_an_extension_asks_for_is_judged_as_rfc_8200_demands(
    extensions: list[IPv6Extension], problem: tuple[str, int, int | None, bool] | None
) -> None:
    header = parse_ipv6(packet(extensions))  # a router reads it without complaint
    assert check_ipv6_extensions(header) == (None if problem is None else ExtensionProblem(*problem))


@given(st.binary(max_size=60), st.sampled_from(sorted(KINDS - {IPV6_FRAGMENT})))
def test_any_content_of_an_extension_is_judged_without_error(content: bytes, kind: int) -> None:
    data = packet([extension(kind, content)])
    problem = check_ipv6_extensions(parse_ipv6(data))
    assert problem is None or 40 <= problem.pointer < len(data)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"source": bytes(4)}, "address"),
        ({"payload_bytes": 65536}, "payload_length"),
        ({"next_header": 256}, "next_header"),
        ({"hop_limit": 256}, "hop_limit"),
        ({"flow_label": 1 << 20}, "flow_label"),
        ({"traffic_class": 256}, "flow_label"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], field: str) -> None:
    arguments = {"source": HERE, "destination": THERE, "next_header": IPV6_NO_NEXT_HEADER, "payload_bytes": 0} | changes
    with refused(f"ipv6.{field}"):
        build_ipv6(**arguments)  # type: ignore[arg-type]


@given(U16)
def test_a_fragment_offset_is_a_multiple_of_8(offset: int) -> None:
    if offset % 8:
        with refused("ipv6.fragment_offset"):
            build_ipv6_fragment_header(17, 1, offset, False)
    else:
        assert int.from_bytes(build_ipv6_fragment_header(17, 1, offset, True)[2:4], "big") == offset + 1
    with refused("ipv6.identification"):
        build_ipv6_fragment_header(17, 1 << 32, 0, False)
