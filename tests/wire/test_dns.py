"""DNS messages: the same bytes as scapy, names read safely, and errors that name the field."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.wire import (
    DNS_A,
    DNS_AAAA,
    DNS_CNAME,
    DNS_NAME_ERROR,
    DNS_NS,
    DNS_PTR,
    DnsMessage,
    DnsQuestion,
    DnsRecord,
    WireError,
    build_dns_answer,
    build_dns_query,
    parse_dns,
    parse_ip,
    reverse_name,
)

from ._given import IPV4, IPV6, U16, refused
from ._oracle import dns

# Labels of any bytes, written as the module writes them; dots in them and all.
LABELS = st.binary(min_size=1, max_size=63)
HOSTS = st.lists(st.text("abcz09-_", min_size=1, max_size=20), min_size=1, max_size=5).map(".".join)


def written(label: bytes) -> str:
    """The label as text, escaped as RFC 1035 §5.1 has it, by hand."""
    text = ""
    for byte in label:
        char = chr(byte)
        text += f"\\{char}" if char in ".\\" else char if 0x21 <= byte <= 0x7E else f"\\{byte:03d}"
    return text


def header(*counts: int, flags: int = 0x8180) -> bytes:
    return struct.pack("!HHHHHH", 7, flags, *counts, *[0] * (4 - len(counts)))


def question(name: bytes) -> bytes:
    """A message with one question for the name in these bytes."""
    return header(1) + name + b"\0\1\0\1"


@given(st.lists(LABELS, max_size=6))
def test_any_name_is_written_and_read_back(labels: list[bytes]) -> None:
    name = ".".join(map(written, labels)) or "."
    if sum(len(label) + 1 for label in labels) + 1 > 255:
        with refused("dns.name"):
            build_dns_query(1, name)
        return
    query = build_dns_query(1, name)
    assert query[12:-4] == b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    assert parse_dns(query).questions == (DnsQuestion(name, DNS_A),)
    if labels:
        assert build_dns_query(1, name + ".") == query


@given(U16, HOSTS, st.sampled_from([DNS_A, DNS_AAAA, DNS_PTR]), st.booleans())
def test_a_query_is_the_same_as_scapys(identification: int, name: str, kind: int, recursion: bool) -> None:
    theirs = dns.DNS(id=identification, rd=int(recursion), qd=[dns.DNSQR(qname=name, qtype=kind)])
    ours = build_dns_query(identification, name, kind, recursion_desired=recursion)
    assert ours == bytes(theirs)
    message = parse_dns(memoryview(b"udp" + ours), 3)
    assert message == DnsMessage(
        identification, False, 0, False, False, recursion, False, 0, (DnsQuestion(name, kind),), (), (), ()
    )


TTLS = st.integers(0, 0x7FFF_FFFF)
RECORDS = st.one_of(
    st.builds(DnsRecord, HOSTS, st.just(DNS_A), TTLS, IPV4, st.just(1)),
    st.builds(DnsRecord, HOSTS, st.just(DNS_AAAA), TTLS, IPV6, st.just(1)),
    st.builds(DnsRecord, HOSTS, st.sampled_from([DNS_CNAME, DNS_NS, DNS_PTR]), TTLS, HOSTS, st.just(1)),
    st.builds(DnsRecord, HOSTS, st.just(16), TTLS, st.binary(max_size=20), U16),
)


@given(U16, HOSTS, st.lists(RECORDS, max_size=8), st.integers(0, 15))
def test_an_answer_is_built_and_read_back(identification: int, name: str, answers: list[DnsRecord], rcode: int) -> None:
    query = parse_dns(build_dns_query(identification, name))
    response = build_dns_answer(query, answers, rcode=rcode)
    assert parse_dns(response) == DnsMessage(
        identification, True, 0, True, False, True, True, rcode, query.questions, tuple(answers), (), ()
    )


@given(st.lists(RECORDS.filter(lambda record: record.type != 16), max_size=5))
def test_scapy_reads_what_is_built(answers: list[DnsRecord]) -> None:
    theirs = dns.DNS(build_dns_answer(parse_dns(build_dns_query(1, "example.org")), answers))
    assert (theirs.id, theirs.ancount, theirs.qd[0].qname) == (1, len(answers), b"example.org.")
    for ours, record in zip(answers, theirs.an, strict=True):
        assert (record.rrname, record.type, record.ttl) == (ours.name.encode() + b".", ours.type, ours.ttl_s)
        if isinstance(ours.value, str):
            assert record.rdata == ours.value.encode() + b"."
        else:
            assert parse_ip(record.rdata) == ours.value


def test_names_that_repeat_are_compressed() -> None:
    query = parse_dns(build_dns_query(7, "www.example.org"))
    answers = [
        DnsRecord("www.example.org", DNS_CNAME, 60, "host.example.org"),
        DnsRecord("host.example.org", DNS_A, 60, b"\x0a\x09\x00\x02"),
    ]
    response = build_dns_answer(query, answers)
    tail = response[len(header(1)) + 17 + 4 :]
    first = "c00c 0005 0001 0000003c 0007 04686f7374 c010"
    second = "c02d 0001 0001 0000003c 0004 0a090002"
    assert tail.hex() == (first + second).replace(" ", "")
    assert parse_dns(response).answers == tuple(answers)


def test_the_flags_of_an_answer_are_read() -> None:
    message = parse_dns(header(0, flags=0x8000 | 5 << 11 | 0x0400 | 0x0200 | 0x0100 | 0x0080 | DNS_NAME_ERROR))
    assert message[:8] == (7, True, 5, True, True, True, True, DNS_NAME_ERROR)
    assert parse_dns(header(0, flags=0))[:8] == (7, False, 0, False, False, False, False, 0)


def test_each_section_gets_its_records() -> None:
    record = b"\0\0\x10\0\1\0\0\0\1\0\1!"  # the root's TXT record of one byte
    sections = [parse_dns(header(0, *counts) + record * 3 + b"x")[9:] for counts in ((1, 1, 1), (3, 0, 0), (0, 1, 2))]
    assert [[len(section) for section in message] for message in sections] == [[1, 1, 1], [3, 0, 0], [0, 1, 2]]


def test_a_ttl_with_its_highest_bit_is_zero() -> None:
    assert parse_dns(header(0, 1) + b"\0\0\x10\0\1\x80\0\0\1\0\0").answers[0].ttl_s == 0


def test_an_address_of_another_class_is_left_as_bytes() -> None:
    record = parse_dns(header(0, 1) + b"\0\0\1\0\3\0\0\0\1\0\2ch").answers[0]
    assert (record.value, record.dns_class) == (b"ch", 3)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (b"\xc0\x0c", "to itself"),
        (b"\x01a\xc0\x0c", "to the labels that it ends"),
        (b"\xc0\x0e\xc0\x0c", "forward"),
        (b"\x01a\xc0\x0e", "to itself behind a label"),
        (b"\xc0", "ends within a pointer"),
        (b"\xff\xff", "beyond the message"),
        (b"\x40" + b"a" * 64 + b"\0", "a label of 64 bytes, or of another kind"),
        (b"\x80\0", "a label of another kind"),
        (b"\x05abc", "ends within a label"),
        (b"\x03abc", "no end"),
        (b"", "nothing"),
        ((b"\x3f" + b"a" * 63) * 4 + b"\0", "257 bytes"),
        ((b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + b"\0", "256 bytes"),
    ],
)
def test_a_name_that_loops_or_does_not_end_is_refused(name: bytes, why: str) -> None:
    message = question(name) if "end" not in why and "nothing" not in why else header(1) + name
    with refused("dns.name"):
        parse_dns(message)


def test_the_longest_name_is_read() -> None:
    longest = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    assert len(longest) == 255
    assert len(parse_dns(question(longest)).questions[0].name) == 253
    assert build_dns_query(7, parse_dns(question(longest)).questions[0].name)[12:-4] == longest


def test_a_pointer_may_lead_into_the_middle_of_a_name_and_to_another_pointer() -> None:
    message = header(3) + b"\1a\1b\0" + b"\0\1\0\1" + b"\1c\xc0\x0e" + b"\0\1\0\1" + b"\1d\xc0\x15" + b"\0\1\0\1"
    assert [asked.name for asked in parse_dns(message).questions] == ["a.b", "c.b", "d.c.b"]


def test_a_pointer_to_a_lone_pointer_is_followed_while_it_leads_back() -> None:
    message = header(3) + b"\1a\0" + b"\0\1\0\1" + b"\xc0\x0c" + b"\0\1\0\1" + b"\xc0\x13" + b"\0\1\0\1"
    assert [asked.name for asked in parse_dns(message).questions] == ["a", "a", "a"]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (header(0)[:11], "header"),
        (header(513), "count"),
        (header(65535, 65535, 65535, 65535), "count"),
        (header(1) + b"\0\0\1\0", "question"),
        (header(0, 1) + b"\0\0\1\0\1\0\0\0\1\0", "record"),
        (header(0, 1) + b"\0\0\x10\0\1\0\0\0\1\0\2x", "rdlength"),
        (header(0, 1) + b"\0\0\1\0\1\0\0\0\1\0\3abc", "rdlength"),
        (header(0, 1) + b"\0\0\x1c\0\1\0\0\0\1\0\4abcd", "rdlength"),
        (header(0, 1) + b"\0\0\5\0\1\0\0\0\1\0\4\1a\0x", "rdlength"),
        (header(0, 1) + b"\0\0\5\0\1\0\0\0\1\0\2\1a\0", "rdlength"),
        (header(0, 1) + b"\0\0\5\0\1\0\0\0\1\0\0", "name"),
    ],
)
def test_each_malformed_message_names_its_field(message: bytes, field: str) -> None:
    with pytest.raises(WireError) as caught:
        parse_dns(message)
    assert caught.value.key == f"dns.{field}"


@pytest.mark.parametrize("name", ["a..b", ".a", "..", "bü.example", "a\\", "a\\2", "\\999", "a" * 64, "a." * 128, ""])
def test_text_that_is_no_name_is_refused(name: str) -> None:
    with refused("dns.name"):
        build_dns_query(1, name)


def test_what_does_not_fit_is_refused() -> None:
    query = parse_dns(build_dns_query(1, "a"))
    with refused("dns.header"):
        build_dns_query(65536, "a")
    with refused("dns.header"):
        build_dns_query(1, "a", 65536)
    for record in (DnsRecord("a", 65536, 1, b""), DnsRecord("a", 16, -1, b""), DnsRecord("a", 16, 1, bytes(65536))):
        with refused("dns.record"):
            build_dns_answer(query, [record])
    with refused("dns.rdlength"):
        build_dns_answer(query, [DnsRecord("a", DNS_A, 1, bytes(16))])


def test_a_name_beyond_the_reach_of_pointers_is_written_in_full() -> None:
    filler = [DnsRecord(".", 16, 1, bytes(20_000))]
    answers = [*filler, DnsRecord("far.example", DNS_A, 1, bytes(4)), DnsRecord("far.example", DNS_A, 2, bytes(4))]
    response = build_dns_answer(parse_dns(build_dns_query(1, "near.example")), answers)
    assert parse_dns(response).answers == tuple(answers)


@given(IPV4 | IPV6)
def test_a_reverse_name_holds_the_address_backwards(address: bytes) -> None:
    name = reverse_name(address)
    assert parse_dns(build_dns_query(1, name, DNS_PTR)).questions[0].name == name
    if len(address) == 4:
        assert bytes(int(part) for part in name.split(".")[3::-1]) == address
        assert name.endswith(".in-addr.arpa")
    else:
        assert bytes.fromhex("".join(name.split(".")[31::-1])) == address
        assert name.endswith(".ip6.arpa")
