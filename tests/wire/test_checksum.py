"""The Internet checksum equals what RFC 1071 does by hand, for every length, parity and way of splitting."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from underlay.wire import checksum, pseudo_header_sum
from underlay.wire._checksum import words_sum

from . import _captured as captured
from ._given import IP_PAIRS, U16

RFC_1071_EXAMPLE = bytes.fromhex("0001f203f4f5f6f7")  # §3


def by_hand(data: bytes, initial: int = 0) -> int:
    """RFC 1071 §4.1, in its own steps."""
    total = initial
    for place in range(0, len(data) - 1, 2):
        total += data[place] << 8 | data[place + 1]
    if len(data) & 1:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_the_example_of_rfc_1071_sums_to_ddf2() -> None:
    assert checksum(RFC_1071_EXAMPLE) == 0xFFFF - 0xDDF2


def test_nothing_and_zeros_have_the_checksum_ffff() -> None:
    assert checksum(b"") == checksum(bytes(7)) == checksum(bytes(5000)) == 0xFFFF


def test_what_sums_to_ffff_has_the_checksum_zero() -> None:
    assert checksum(b"\xff\xff") == 0
    assert checksum(b"\xff\xff" * 3000) == 0
    assert checksum(b"", 0xFFFF) == 0


@given(st.binary(max_size=3000), st.integers(0, 1 << 40))
def test_it_equals_the_sum_by_hand(data: bytes, initial: int) -> None:
    expected = by_hand(data, initial)
    assert checksum(data, initial) == expected
    assert checksum(bytearray(data), initial) == expected
    assert checksum(memoryview(b"!" + data)[1:], initial) == expected


@given(st.integers(1000, 1100) | st.integers(60_000, 65_535), st.integers(1, 255))
def test_a_long_run_equals_the_sum_by_hand_on_both_sides_of_where_it_is_split(size: int, step: int) -> None:
    data = bytes(place * step & 0xFF for place in range(size))
    assert checksum(data) == by_hand(data)


@given(st.binary(max_size=50), st.binary(max_size=2000))
def test_a_sum_may_be_continued_at_an_even_offset(first: bytes, second: bytes) -> None:
    first = first + first
    assert checksum(second, words_sum(first)) == checksum(first + second)


@given(st.binary(max_size=60))
def test_over_data_with_its_own_checksum_it_is_zero(data: bytes) -> None:
    data = data + data
    assert checksum(data + checksum(data).to_bytes(2, "big")) == 0


@given(IP_PAIRS, st.sampled_from([6, 17, 58]), U16)
def test_the_pseudo_header_sums_as_its_bytes_do(pair: tuple[bytes, bytes], protocol: int, size: int) -> None:
    source, destination = pair
    if len(source) == 4:  # RFC 9293 §3.1
        header = source + destination + bytes([0, protocol]) + size.to_bytes(2, "big")
    else:  # RFC 8200 §8.1
        header = source + destination + size.to_bytes(4, "big") + bytes([0, 0, 0, protocol])
    assert checksum(b"", pseudo_header_sum(source, destination, protocol, size)) == by_hand(header)


def test_the_kernels_own_checksums_are_right() -> None:
    assert checksum(captured.SYN[14:34]) == 0
    assert checksum(captured.PING[34:]) == 0
    assert checksum(captured.SYN[34:], pseudo_header_sum(captured.IP, captured.PEER_IP, 6, 40)) == 0
