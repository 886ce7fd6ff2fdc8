"""DNS messages (RFC 1035): questions, and records of the kinds that a stub resolver needs.

This file knows the layout, names with their compression, and the values of A,
AAAA, CNAME, NS and PTR records. It refuses to know servers, caches, retries and
search lists, and passes other records on as bytes.

A name is text without the last dot, the root is ``"."``; bytes that are not
printable ASCII, dots and backslashes within a label are escaped as in a zone
file (RFC 1035 §5.1).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from ._errors import WireError, refuse_short

__all__ = [
    "DNS_A",
    "DNS_AAAA",
    "DNS_CNAME",
    "DNS_NAME_ERROR",
    "DNS_NS",
    "DNS_PTR",
    "DNS_SERVER_FAILURE",
    "DnsMessage",
    "DnsQuestion",
    "DnsRecord",
    "build_dns_answer",
    "build_dns_query",
    "parse_dns",
    "reverse_name",
]

# RFC 1035 §3.2.2, RFC 3596 §2.1.
DNS_A: Final = 1
DNS_NS: Final = 2
DNS_CNAME: Final = 5
DNS_PTR: Final = 12
DNS_AAAA: Final = 28
_INTERNET: Final = 1  # RFC 1035 §3.2.4

# RFC 1035 §4.1.1, response codes.
DNS_SERVER_FAILURE: Final = 2
DNS_NAME_ERROR: Final = 3

_MAX_NAME_BYTES: Final = 255  # RFC 1035 §2.3.4
_MAX_LABEL_BYTES: Final = 63
# No answer to a stub resolver comes near; it bounds the work that compressed names can ask for.
_MAX_RECORDS: Final = 512

_HEADER: Final = struct.Struct("!HHHHHH")
_QUESTION: Final = struct.Struct("!HH")
_RECORD: Final = struct.Struct("!HHIH")
_NAMES: Final = frozenset((DNS_CNAME, DNS_NS, DNS_PTR))
_ADDRESS_BYTES: Final = {DNS_A: 4, DNS_AAAA: 16}


class DnsQuestion(NamedTuple):
    """What is asked for."""

    name: str
    type: int
    dns_class: int = _INTERNET


class DnsRecord(NamedTuple):
    """One resource record; ``value`` is an address (A, AAAA), a name (CNAME, NS, PTR), or the bytes as they stand."""

    name: str
    type: int
    ttl_s: int
    value: bytes | str
    dns_class: int = _INTERNET


class DnsMessage(NamedTuple):
    """A query or a response."""

    identification: int
    is_response: bool
    opcode: int
    authoritative: bool
    truncated: bool
    """There is more than fits: ask again over TCP."""
    recursion_desired: bool
    recursion_available: bool
    rcode: int
    questions: tuple[DnsQuestion, ...]
    answers: tuple[DnsRecord, ...]
    authorities: tuple[DnsRecord, ...]
    additionals: tuple[DnsRecord, ...]


def parse_dns(data: bytes | memoryview, start: int = 0, end: int | None = None) -> DnsMessage:
    """Read the message in ``data[start:end]``; bytes behind its last record are passed over.

    >>> parse_dns(build_dns_query(7, "example.org")).questions
    (DnsQuestion(name='example.org', type=1, dns_class=1),)
    """
    message = bytes(data[start:end])
    if len(message) < 12:
        refuse_short("dns", len(message), 12)
    identification, flags, *counts = _HEADER.unpack_from(message)
    if sum(counts) > _MAX_RECORDS:
        raise WireError("dns", "count", f"{sum(counts)} questions and records, more than {_MAX_RECORDS}", 4)
    place = 12
    questions = []
    for _ in range(counts[0]):
        name, place = _parse_name(message, place)
        if place + 4 > len(message):
            raise WireError("dns", "question", "the message ends within it")
        questions.append(DnsQuestion(name, *_QUESTION.unpack_from(message, place)))
        place += 4
    sections = []
    for count in counts[1:]:
        records = []
        for _ in range(count):
            record, place = _parse_record(message, place)
            records.append(record)
        sections.append(tuple(records))
    return DnsMessage(
        identification, flags & 0x8000 != 0, flags >> 11 & 15, flags & 0x400 != 0, flags & 0x200 != 0,
        flags & 0x100 != 0, flags & 0x80 != 0, flags & 15, tuple(questions), *sections,
    )  # fmt: skip


def _parse_record(message: bytes, place: int) -> tuple[DnsRecord, int]:
    name, place = _parse_name(message, place)
    if place + 10 > len(message):
        raise WireError("dns", "record", "the message ends within it")
    kind, dns_class, ttl_s, size = _RECORD.unpack_from(message, place)
    place += 10
    if place + size > len(message):
        raise WireError("dns", "rdlength", f"{size} bytes, but {len(message) - place} are here")
    value: bytes | str = message[place : place + size]
    if kind in _NAMES:
        value, end = _parse_name(message, place)
        if end != place + size:
            raise WireError("dns", "rdlength", f"{size} bytes, but the name has {end - place}")
    elif dns_class == _INTERNET and size != _ADDRESS_BYTES.get(kind, size):
        raise WireError("dns", "rdlength", f"{size} bytes are no address")
    # RFC 2181 §8: a TTL with the highest bit set is to be taken for 0.
    return DnsRecord(name, kind, 0 if ttl_s >> 31 else ttl_s, value, dns_class), place + size


def _parse_name(message: bytes, place: int) -> tuple[str, int]:
    """Read a name; give it and the place behind it.

    A compression pointer must point before the labels that it ends (RFC 1035 §4.1.4: "a prior occurrence"), so
    each one leads further back and no loop is possible.
    """
    labels: list[str] = []
    size = 1  # the root's
    after = 0
    limit = place
    while True:
        if place >= len(message):
            raise WireError("dns", "name", "the message ends within it")
        length = message[place]
        if length >= 0xC0:
            if place + 2 > len(message):
                raise WireError("dns", "name", "the message ends within a compression pointer")
            target = (length & 0x3F) << 8 | message[place + 1]
            if target >= limit:
                raise WireError("dns", "name", "a compression pointer that does not lead back")
            after = after or place + 2
            place = limit = target
            continue
        if length > _MAX_LABEL_BYTES:
            raise WireError("dns", "name", f"0x{length:02x} is neither a label's length nor a pointer")
        if length == 0:
            return ".".join(labels) or ".", after or place + 1
        size += 1 + length
        if size > _MAX_NAME_BYTES:
            raise WireError("dns", "name", f"more than {_MAX_NAME_BYTES} bytes")
        label = message[place + 1 : place + 1 + length]
        if len(label) < length:
            raise WireError("dns", "name", "the message ends within a label")
        labels.append(_format_label(label))
        place += 1 + length


def _format_label(label: bytes) -> str:
    text = label.decode("latin-1")
    if text.isascii() and text.isprintable() and not {".", "\\", " "} & set(text):
        return text
    return "".join(
        f"\\{char}" if char in ".\\" else char if "!" <= char <= "~" else f"\\{ord(char):03d}" for char in text
    )


def _labels(name: str) -> list[bytes]:
    """Take a name apart, undoing the escapes."""
    if not name.isascii():
        raise WireError("dns", "name", f"{name!r} is not ASCII; encode it by IDNA first")
    labels = [bytearray()]
    place = 0
    while place < len(name):
        char = name[place]
        place += 1
        if char == ".":
            labels.append(bytearray())
            continue
        if char == "\\":
            digits = name[place : place + 3]
            if len(digits) == 3 and digits.isdigit() and int(digits) < 256:
                labels[-1].append(int(digits))
                place += 3
                continue
            char = name[place : place + 1]
            place += 1
            if not char or char.isdigit():
                raise WireError("dns", "name", f"{name!r} has a backslash that escapes nothing")
        labels[-1].append(ord(char))
    if not labels[-1]:  # the last dot, or the root
        labels.pop()
    if name != "." and not (labels and all(labels)):
        raise WireError("dns", "name", f"{name!r} has an empty label")
    return [] if name == "." else [bytes(label) for label in labels]


class _Writer:
    """A message in the making, which knows the names that it already holds."""

    def __init__(self) -> None:
        self.data = bytearray(12)
        self._known: dict[tuple[bytes, ...], int] = {}

    def name(self, name: str) -> None:
        labels = _labels(name)
        if sum(len(label) + 1 for label in labels) >= _MAX_NAME_BYTES:
            raise WireError("dns", "name", f"{name!r} has more than {_MAX_NAME_BYTES} bytes")
        for index, label in enumerate(labels):
            suffix = tuple(labels[index:])
            if suffix in self._known:
                self.data += (0xC000 | self._known[suffix]).to_bytes(2, "big")
                return
            if len(self.data) < 0x4000:  # as far as a pointer reaches
                self._known[suffix] = len(self.data)
            if len(label) > _MAX_LABEL_BYTES:
                raise WireError("dns", "name", f"{name!r} has a label of more than {_MAX_LABEL_BYTES} bytes")
            self.data.append(len(label))
            self.data += label
        self.data.append(0)

    def question(self, question: DnsQuestion) -> None:
        self.name(question.name)
        self.data += _QUESTION.pack(question.type, question.dns_class)

    def record(self, record: DnsRecord) -> None:
        self.name(record.name)
        place = len(self.data)
        self.data += _RECORD.pack(record.type, record.dns_class, record.ttl_s, 0)
        if isinstance(record.value, str):
            self.name(record.value)
        else:
            self.data += record.value
        size = len(self.data) - place - 10
        if size != _ADDRESS_BYTES.get(record.type, size):
            raise WireError("dns", "rdlength", f"{size} bytes are no address")
        self.data[place + 8 : place + 10] = size.to_bytes(2, "big")

    def finish(self, identification: int, flags: int, questions: int, answers: int) -> bytes:
        self.data[:12] = _HEADER.pack(identification, flags, questions, answers, 0, 0)
        return bytes(self.data)


def build_dns_query(identification: int, name: str, type: int = DNS_A, *, recursion_desired: bool = True) -> bytes:
    """Build a query with one question; `name` is ASCII (an internationalised one encoded by IDNA)."""
    writer = _Writer()
    try:
        writer.question(DnsQuestion(name, type))
        return writer.finish(identification, 0x100 if recursion_desired else 0, 1, 0)
    except struct.error as error:
        raise WireError("dns", "header", str(error)) from None


def build_dns_answer(
    query: DnsMessage, answers: Sequence[DnsRecord] = (), *, rcode: int = 0, authoritative: bool = True
) -> bytes:
    """Build the response to `query`, with its questions and these answers; names are compressed.

    How many bytes may be sent is the caller's matter (RFC 1035 §4.2.1: 512 over UDP).
    """
    writer = _Writer()
    flags = 0x8000 | query.opcode << 11 | authoritative << 10 | query.recursion_desired << 8 | 0x80 | rcode & 15
    try:
        for question in query.questions:
            writer.question(question)
        for record in answers:
            writer.record(record)
        return writer.finish(query.identification, flags, len(query.questions), len(answers))
    except (struct.error, OverflowError) as error:
        raise WireError("dns", "record", str(error)) from None


def reverse_name(address: bytes) -> str:
    """Give the name under which an address's PTR record stands (RFC 1035 §3.5, RFC 3596 §2.5).

    >>> reverse_name(bytes([10, 9, 0, 2]))
    '2.0.9.10.in-addr.arpa'
    """
    if len(address) == 4:
        return ".".join(map(str, reversed(address))) + ".in-addr.arpa"
    return ".".join(reversed(address.hex())) + ".ip6.arpa"
