"""The framing of netlink: refusals are raised wherever they stand, and an answer to another request is passed over."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable

import pytest

from underlay.link._netlink import ACK, DONE, DUMP, ERROR, HEADER, Netlink, attribute, attributes

KIND = 77


def message(kind: int, body: bytes = b"", *, sequence: int = 1, flags: int = 0) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def code(number: int) -> bytes:
    return struct.pack("=i", -number)


class Kernel:
    """Answers with what it was given, a part for each receive."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.asked: list[bytes] = []

    def send(self, data: bytes) -> int:
        self.asked.append(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        return self.parts.pop(0)

    def close(self) -> None:
        assert self.parts == []


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Netlink]:
    def make(*parts: bytes) -> Netlink:
        found = Netlink(socket.NETLINK_ROUTE)
        found.close()
        monkeypatch.setattr(found, "_socket", Kernel(*parts))
        return found

    return make


def test_an_answer_is_its_body(answering: Callable[..., Netlink]) -> None:
    assert answering(message(KIND, b"abcd")).ask(KIND, 0, b"") == [b"abcd"]


def test_a_dump_ends_with_done_in_a_part_of_its_own_or_in_the_last(answering: Callable[..., Netlink]) -> None:
    first, second = message(KIND, b"1111"), message(KIND, b"2222")
    assert answering(first + second, message(DONE, code(0))).ask(KIND, DUMP, b"") == [b"1111", b"2222"]
    assert answering(first + second + message(DONE, code(0))).ask(KIND, DUMP, b"") == [b"1111", b"2222"]
    assert list(answering(first, second, message(DONE, code(0))).dump(KIND, b"")) == [first, second]


@pytest.mark.parametrize("kind", [ERROR, DONE])
def test_a_refusal_is_raised_with_its_errno(answering: Callable[..., Netlink], kind: int) -> None:
    with pytest.raises(OSError) as caught:
        answering(message(kind, code(errno.EPERM))).ask(KIND, ACK, b"")
    assert caught.value.errno == errno.EPERM
    with pytest.raises(FileNotFoundError):
        list(answering(message(kind, code(errno.ENOENT))).dump(KIND, b""))


def test_an_acknowledgment_is_an_error_of_0(answering: Callable[..., Netlink]) -> None:
    assert answering(message(ERROR, code(0))).ask(KIND, ACK, b"") == []


def test_what_is_left_of_an_earlier_request_is_passed_over(answering: Callable[..., Netlink]) -> None:
    old, new = message(KIND, b"old!", sequence=0), message(KIND, b"new!")
    assert answering(old, new).ask(KIND, 0, b"") == [b"new!"]
    assert list(answering(old, new, message(DONE, code(0))).dump(KIND, b"")) == [new]


def test_an_attribute_s_number_is_told_without_the_flag_of_nesting() -> None:
    nested = 0x8000
    assert list(attributes(attribute(7 | nested, b"x") + attribute(8, b""))) == [(7, b"x"), (8, b"")]


@pytest.mark.parametrize("data", [b"\x03\x00\x01\x00abcd", b"\x00\x00\x01\x00", b"\x04", b""])
def test_attributes_without_a_length_or_cut_off_end_the_rest(data: bytes) -> None:
    assert list(attributes(data)) == []
