"""What routers append to ICMP errors is read as RFC 4884 and RFC 4950 lay it out, or refused with the reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.wire import IcmpExtension, MplsLabel, WireError, build_icmp_extensions, parse_icmp_extensions

# Taken from RFC 4950 §3 by hand: version 2, one object of 8 bytes, class 1, type 1: label 16001, EXP 0, S, TTL 1.
ONE_LABEL = bytes.fromhex("2000 0000 0008 0101 03e81101")


def test_a_label_is_read() -> None:
    (extension,) = parse_icmp_extensions(ONE_LABEL)
    assert extension.labels == (MplsLabel(16001, 0, True, 1),)


def test_a_stack_is_read_outermost_first() -> None:
    payload = bytes.fromhex("05dc1a40 00064140")
    assert IcmpExtension(1, 1, payload).labels == (MplsLabel(24001, 5, False, 64), MplsLabel(100, 0, True, 64))


def test_an_entry_that_was_cut_short_is_left_out() -> None:
    assert len(IcmpExtension(1, 1, bytes(7)).labels) == 1


def test_another_object_has_no_labels() -> None:
    assert IcmpExtension(2, 1, bytes(8)).labels == ()


@pytest.mark.parametrize(
    ("structure", "field"),
    [
        ("200000", "header"),
        ("1000 0000", "version"),
        ("2000 1234 0008 0101 03e81101", "checksum"),
        ("2000 0000 0003 0101", "length"),
        ("2000 0000 0009 0101 03e81101", "length"),
        ("2000 0000 0000 0101 03e81101", "length"),
        ("2000 0000 0008", "object"),
    ],
)
def test_what_is_none_is_refused(structure: str, field: str) -> None:
    with pytest.raises(WireError) as refused:
        parse_icmp_extensions(bytes.fromhex(structure))
    assert refused.value.key == f"icmp_extension.{field}"


extensions = st.builds(IcmpExtension, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=40))


@given(st.lists(extensions, max_size=5))
def test_what_is_built_is_read_again(objects: list[IcmpExtension]) -> None:
    assert parse_icmp_extensions(build_icmp_extensions(objects)) == tuple(objects)


@given(st.lists(extensions, min_size=1, max_size=3), st.data())
def test_a_changed_bit_is_seen_by_the_checksum(objects: list[IcmpExtension], data: st.DataObject) -> None:
    structure = bytearray(build_icmp_extensions(objects))
    structure[data.draw(st.integers(0, len(structure) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    # Without a checksum, or with one that becomes none, nothing is seen.
    if structure[2:4] != b"\0\0":
        with pytest.raises(WireError):
            parse_icmp_extensions(bytes(structure))


@given(st.binary(max_size=200))
def test_nothing_but_a_wire_error_comes_of_noise(noise: bytes) -> None:
    for structure in (noise, b"\x20\0\0\0" + noise):
        try:
            for extension in parse_icmp_extensions(structure):
                assert len(extension.labels) <= len(extension.payload) // 4
        except WireError:
            pass


@pytest.mark.parametrize(
    "extension", [IcmpExtension(256, 1, b""), IcmpExtension(1, -1, b""), IcmpExtension(1, 1, bytes(0xFFFF - 3))]
)
def test_an_object_that_no_header_can_tell_of_is_not_built(extension: IcmpExtension) -> None:
    with pytest.raises(WireError) as caught:
        build_icmp_extensions([extension])
    assert caught.value.key == "icmp_extension.object"
