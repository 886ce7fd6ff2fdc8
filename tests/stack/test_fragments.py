"""Pieces of a packet come in any order, twice and over each other: the packet is whole, or counted as dropped."""

from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.stack import HostConfig
from underlay.stack._fragmentation import fragment4, fragment6
from underlay.stack._fragments import Reassembler
from underlay.stack._host_config import Drops
from underlay.wire import parse_ipv4, parse_ipv6

SOURCE4, TARGET4 = b"\x0a\0\0\1", b"\x0a\0\0\2"
SOURCE6, TARGET6 = bytes(15) + b"\x09", bytes(15) + b"\x0a"


def reassembler(*, refuse: bool = False, **limits: float) -> tuple[Reassembler, Drops]:
    drops = Drops()
    return Reassembler(HostConfig(**limits), drops, "ip", overlaps_refused=refuse), drops  # type: ignore[arg-type]


@given(
    data=st.binary(min_size=1, max_size=3000),
    cuts=st.sets(st.integers(1, 374), max_size=20),
    repeats=st.lists(st.integers(0, 20), max_size=10),
    seed=st.integers(0, 2**32),
    refuse=st.booleans(),
)
def test_pieces_in_any_order_and_number_make_the_packet_once(
    data: bytes, cuts: set[int], repeats: list[int], seed: int, refuse: bool
) -> None:
    edges = [0, *sorted(cut * 8 for cut in cuts if cut * 8 < len(data)), len(data)]
    pieces = [(start, data[start:end], end < len(data)) for start, end in itertools.pairwise(edges)]
    parts, _ = reassembler(refuse=refuse)
    order = pieces + [pieces[index % len(pieces)] for index in repeats]
    random.Random(seed).shuffle(order)
    made = [
        whole
        for start, piece, more in order
        if (whole := parts.add("key", start, piece, more=more, first=None, now=0.0)) is not None
    ]
    # Copies that come after the packet was made may begin, or even be, another one: it is the same packet again.
    assert made and set(made) == {data}


@given(
    data=st.binary(min_size=64, max_size=512),
    ranges=st.lists(st.tuples(st.integers(0, 63), st.integers(1, 40)), min_size=1, max_size=40),
    refuse=st.booleans(),
)
def test_true_pieces_that_overlap_give_the_packet_or_a_counted_drop(
    data: bytes, ranges: list[tuple[int, int]], refuse: bool
) -> None:
    parts, drops = reassembler(refuse=refuse)
    covered: set[int] = set()
    whole = None
    for start, units in ranges:
        begin, end = start * 8, min((start + units) * 8, len(data))
        if begin >= len(data) or whole is not None:
            continue
        covered |= set(range(begin, end))
        whole = parts.add("key", begin, data[begin:end], more=end < len(data), first=None, now=0.0)
        if whole is not None:
            assert whole == data
            assert len(covered) == len(data)
    if whole is None and len(covered) == len(data):
        assert refuse and drops["ip.fragment_overlap"] == 1
    assert parts.bytes >= 0
    assert len(parts) == (0 if whole is not None else 1 if covered else 0)


def test_ipv4_keeps_what_came_first_where_two_pieces_differ() -> None:
    parts, drops = reassembler()
    assert parts.add("key", 8, b"B" * 8, more=True, first=None, now=0.0) is None
    assert parts.add("key", 0, b"a" * 24, more=True, first=None, now=0.0) is None
    assert parts.add("key", 24, b"end", more=False, first=None, now=0.0) == b"a" * 8 + b"B" * 8 + b"a" * 8 + b"end"
    assert drops == {"ip.fragment_overlap": 1}


def test_ipv6_discards_the_whole_packet_for_an_overlap_and_what_comes_of_it_later() -> None:
    parts, drops = reassembler(refuse=True)
    parts.add("key", 8, b"B" * 8, more=True, first=None, now=0.0)
    parts.add("key", 0, b"a" * 16, more=True, first=None, now=0.0)
    assert parts.add("key", 0, b"a" * 8, more=True, first=None, now=0.0) is None
    assert parts.add("key", 16, b"end", more=False, first=None, now=0.0) is None
    assert drops == {"ip.fragment_overlap": 1, "ip.fragment_refused": 2}
    assert parts.bytes == 0
    assert parts.expire(60.0) == []


def test_pieces_that_disagree_about_the_end_are_refused() -> None:
    parts, drops = reassembler()
    parts.add("key", 16, b"end", more=False, first=None, now=0.0)
    assert parts.add("key", 24, b"beyond", more=False, first=None, now=0.0) is None
    assert drops == {"ip.fragment_ends_differ": 1}


def test_an_end_before_what_has_come_already_is_refused() -> None:
    parts, drops = reassembler()
    parts.add("key", 16, b"x" * 24, more=True, first=None, now=0.0)
    assert parts.add("key", 24, b"end", more=False, first=None, now=0.0) is None
    assert drops == {"ip.fragment_ends_differ": 1}


def test_a_packet_that_became_whole_has_no_time_to_be_over() -> None:
    parts, _ = reassembler()
    parts.add("key", 0, b"x" * 8, more=True, first=None, now=0.0)
    assert parts.add("key", 8, b"end", more=False, first=None, now=0.0) == b"x" * 8 + b"end"
    assert parts.next_deadline() is None
    parts.add("key", 0, b"x" * 8, more=True, first=None, now=50.0)
    assert parts.expire(60.0) == []
    assert parts.next_deadline() == 110.0


def test_a_piece_that_is_no_multiple_of_8_or_ends_behind_64_kib_is_malformed() -> None:
    parts, drops = reassembler()
    parts.add("key", 0, b"short", more=True, first=None, now=0.0)
    parts.add("key", 65_528, b"x" * 16, more=False, first=None, now=0.0)
    parts.add("key", 0, b"", more=True, first=None, now=0.0)
    assert drops == {"ip.fragment_malformed": 3}
    assert len(parts) == 0


def test_a_packet_that_waits_too_long_is_given_up_once() -> None:
    parts, drops = reassembler(reassembly_timeout_s=30.0)
    parts.add("old", 0, b"a" * 8, more=True, first=None, now=5.0)
    parts.add("new", 0, b"a" * 8, more=True, first=None, now=6.0)
    parts.add("old", 16, b"a" * 8, more=True, first=None, now=20.0)
    assert parts.next_deadline() == 35.0
    assert [expired.key for expired in parts.expire(35.0)] == ["old"]
    assert parts.expire(35.0) == []
    assert drops == {"ip.reassembly_timeout": 1}
    assert parts.next_deadline() == 36.0


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 8000), st.integers(1, 100)), max_size=300))
def test_memory_stays_within_its_limits_whatever_comes(pieces: list[tuple[int, int, int]]) -> None:
    parts, _ = reassembler(reassembly_bytes=10_000, reassembly_packets=8, reassembly_fragments=16)
    for key, offset, units in pieces:
        parts.add(key, offset * 8, bytes(units * 8), more=True, first=None, now=0.0)
        assert parts.bytes <= 10_000
        assert len(parts) <= 8
        kept = sum(len(piece) + 64 for packet in parts._packets.values() for piece in packet.pieces)
        assert parts.bytes == kept
        assert all(len(packet.pieces) <= 16 for packet in parts._packets.values())


def test_a_packet_in_too_many_pieces_is_refused() -> None:
    parts, drops = reassembler(reassembly_fragments=4)
    for piece in range(6):
        parts.add("key", piece * 16, bytes(8), more=True, first=None, now=0.0)
    assert drops == {"ip.fragments_too_many": 1, "ip.fragment_refused": 1}
    assert parts.bytes == 0


@given(data=st.binary(min_size=1, max_size=5000), mtu_bytes=st.integers(68, 1500), offset=st.integers(0, 100))
def test_ipv4_fragments_fit_the_path_and_come_together_again(data: bytes, mtu_bytes: int, offset: int) -> None:
    parts, _ = reassembler()
    whole = None
    packets = list(
        fragment4(
            SOURCE4, TARGET4, 17, data, mtu_bytes, identification=7, ttl=9, traffic_class=0xB9,
            first_offset_bytes=offset * 8, more_follow=False,
        )
    )  # fmt: skip
    assert len(packets) == 1 or len(packets) == -(-len(data) // ((mtu_bytes - 20) // 8 * 8))
    for packet in packets:
        assert len(packet) <= mtu_bytes
        header = parse_ipv4(packet)
        assert (header.identification, header.ttl, header.dscp, header.ecn) == (7, 9, 0xB9 >> 2, 1)
        assert header.total_bytes == len(packet)
        whole = parts.add(
            "key",
            header.fragment_offset_bytes - offset * 8,
            packet[20:],
            more=header.more_fragments,
            first=None,
            now=0.0,
        )
    assert whole == data


@given(data=st.binary(min_size=1453, max_size=6000), mtu_bytes=st.integers(1280, 1500))
def test_ipv6_fragments_fit_the_path_and_come_together_again(data: bytes, mtu_bytes: int) -> None:
    parts, _ = reassembler(refuse=True)
    whole = None
    for packet in fragment6(SOURCE6, TARGET6, 17, data, mtu_bytes, identification=7, hop_limit=9, traffic_class=2):
        assert len(packet) <= mtu_bytes
        header = parse_ipv6(packet)
        assert header.fragment is not None
        assert (header.transport, header.hop_limit, header.fragment.identification) == (17, 9, 7)
        whole = parts.add(
            "key",
            header.fragment.offset_bytes,
            packet[header.header_bytes :],
            more=header.fragment.more_fragments,
            first=None,
            now=0.0,
        )
    assert whole == data
