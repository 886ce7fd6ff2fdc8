"""IGMPv2 messages, as scapy and Linux have them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from underlay.wire import IGMP_V2_REPORT, IPV4_ROUTER_ALERT, IgmpMessage, build_igmp, checksum, format_ip, parse_igmp

from . import _captured as captured
from ._given import BYTE, IPV4, changed, refused
from ._oracle import igmp

GROUP = bytes([224, 0, 0, 251])


@given(BYTE, IPV4, BYTE)
def test_a_message_is_built_and_read_back(kind: int, group: bytes, time: int) -> None:
    message = build_igmp(kind, group, time)
    if any(message[:2] + group):
        assert parse_igmp(memoryview(b"ip" + message), 2) == IgmpMessage(kind, time, group)


@given(st.sampled_from([0x11, 0x12, 0x16, 0x17]), IPV4, BYTE)
def test_a_message_is_the_same_as_scapys(kind: int, group: bytes, time: int) -> None:
    message = build_igmp(kind, group, time)
    assert message == bytes(igmp.IGMP(type=kind, mrcode=time, gaddr=format_ip(group)))


def test_the_kernels_report_is_read_and_built() -> None:
    assert parse_igmp(captured.IGMP_REPORT, 38) == (IGMP_V2_REPORT, 0, GROUP)
    assert build_igmp(IGMP_V2_REPORT, GROUP) == captured.IGMP_REPORT[38:]
    assert captured.IGMP_REPORT[34:38] == IPV4_ROUTER_ALERT


def test_the_checksum_of_a_longer_message_covers_all_of_it() -> None:
    query = bytes([0x11, 100, 0, 0]) + bytes(4) + bytes([2, 125, 0, 0])  # IGMPv3 (RFC 9776 §4.1)
    query = query[:2] + checksum(query).to_bytes(2, "big") + query[4:]
    assert parse_igmp(query) == (0x11, 100, bytes(4))
    with refused("igmp.checksum"):
        parse_igmp(query, 0, 8)


@given(st.integers(0, 7), st.integers(1, 255))
def test_any_changed_byte_breaks_the_checksum(place: int, flip: int) -> None:
    message = build_igmp(IGMP_V2_REPORT, GROUP)
    with refused("igmp.checksum"):
        parse_igmp(changed(message, place, message[place] ^ flip))
    assert parse_igmp(changed(message, 2, 0), verify=False).group == GROUP


def test_what_is_too_short_wrong_or_does_not_fit_is_refused() -> None:
    with refused("igmp.header"):
        parse_igmp(bytes(7))
    with refused("igmp.checksum"):
        parse_igmp(bytes(8))
    with refused("igmp.group"):
        build_igmp(IGMP_V2_REPORT, bytes(16))
    with refused("igmp.type"):
        build_igmp(256, GROUP)
    with refused("igmp.type"):
        build_igmp(0x11, GROUP, 256)
