"""ICMP messages, as scapy and Linux have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.wire import ICMP4_ECHO_REQUEST, build_icmp4, parse_icmp4

from . import _captured as captured
from ._given import BYTE, PAYLOADS, U16, U32, changed, refused
from ._oracle import inet, raw


@given(BYTE, BYTE, U32, PAYLOADS)
def test_a_message_is_built_and_read_back(kind: int, code: int, rest: int, body: bytes) -> None:
    message = build_icmp4(kind, code, rest, body)
    if any(message):
        assert parse_icmp4(message) == (kind, code, rest, body)
        assert parse_icmp4(memoryview(b"ip" + message + b"!"), 2, 2 + len(message)) == (kind, code, rest, body)


@given(st.sampled_from([0, 8]), U16, U16, PAYLOADS)
def test_an_echo_is_the_same_as_scapys(kind: int, identifier: int, sequence: int, body: bytes) -> None:
    ours = build_icmp4(kind, 0, identifier << 16 | sequence, body)
    assert ours == bytes(inet.ICMP(type=kind, id=identifier, seq=sequence) / raw(body))
    message = parse_icmp4(ours, verify=False)
    assert (message.identifier, message.sequence) == (identifier, sequence)


@given(BYTE, U16, PAYLOADS)
def test_an_unreachable_is_the_same_as_scapys(code: int, mtu: int, body: bytes) -> None:
    assert build_icmp4(3, code, mtu, body) == bytes(inet.ICMP(type=3, code=code, nexthopmtu=mtu) / raw(body))


def test_the_kernels_ping_is_read_and_built() -> None:
    message = parse_icmp4(captured.PING, 34)
    assert (message.identifier, message.sequence) == (0x034E, 1)
    assert message == (ICMP4_ECHO_REQUEST, 0, 0x034E0001, bytes(range(8)))
    assert build_icmp4(*message) == captured.PING[34:]


def test_a_message_of_zeros_has_no_right_checksum() -> None:
    with refused("icmp4.checksum"):
        parse_icmp4(bytes(8))


@given(st.integers(0, 11), st.integers(1, 255))
def test_any_changed_byte_breaks_the_checksum(place: int, flip: int) -> None:
    message = build_icmp4(8, 0, 1, b"body")
    with refused("icmp4.checksum"):
        parse_icmp4(changed(message, place, message[place] ^ flip))
    assert parse_icmp4(changed(message, 11, 0), verify=False).body == b"bod\0"


@pytest.mark.parametrize(("kind", "code", "rest"), [(256, 0, 0), (0, 256, 0), (0, 0, 1 << 32), (-1, 0, 0)])
def test_what_does_not_fit_is_refused(kind: int, code: int, rest: int) -> None:
    with refused("icmp4.type"):
        build_icmp4(kind, code, rest)
    with refused("icmp4.header"):
        parse_icmp4(bytes(7))
