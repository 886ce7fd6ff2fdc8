"""Answers of sock_diag are read to their end and no further, whatever stands in them."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.link._netlink import DONE, HEADER, Netlink
from underlay.tools.ports import Socket, State
from underlay.tools.ports._diag import BY_FAMILY, list_inet, read_dead
from underlay.tools.ports._unix_diag import list_unix


def message(kind: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, 0, 1, 0) + body


def inet(port: int, *, attributes: bytes = b"") -> bytes:
    ends = struct.pack("!HH4s12x4s12x", port, 0, b"\x7f\0\0\1", bytes(4)) + struct.pack("=IQ", 0, port)
    body = struct.pack("=4B", socket.AF_INET, 10, 0, 0) + ends + struct.pack("=5I", 0, 0, 128, 0, 5)
    return message(BY_FAMILY, body + attributes)


class Kernel(Netlink):
    """Gives what it was given, and fails when it is asked for more."""

    def __init__(self, *parts: bytes) -> None:
        super().__init__(socket.NETLINK_ROUTE)
        self.close()
        self.parts = list(parts)
        self._socket = self  # type: ignore[assignment]

    def send(self, data: bytes) -> int:
        return len(data)

    def recv(self, size: int) -> bytes:
        return self.parts.pop(0)


def listed(*parts: bytes) -> list[Socket]:
    return list_inet(Kernel(*parts), "tcp", 4, list(State), {})


END = message(DONE, bytes(4))


def test_messages_of_different_lengths_are_all_read() -> None:
    long, longer = b"\x08\0\x0f\0" + bytes(4), b"\x08\0\x0f\0" + bytes(4) + b"\x0c\0\x15\0" + bytes(8)
    each = [inet(1), inet(2), inet(3, attributes=long), inet(4, attributes=longer), inet(5), inet(6)]
    found = listed(b"".join(each[:4]), b"".join(each[4:]), END)
    assert [sock.local for sock in found] == [f"127.0.0.1:{port}" for port in range(1, 7)]
    assert {sock.send_queue for sock in found} == {128}


def test_a_dump_that_ends_behind_the_last_socket_is_asked_for_no_more() -> None:
    assert [sock.local_port for sock in listed(inet(1) + inet(2) + END)] == [1, 2]
    assert [sock.local_port for sock in listed(inet(1), inet(2) + END)] == [1, 2]
    unix = message(BY_FAMILY, struct.pack("=BBBxIQ", socket.AF_UNIX, socket.SOCK_STREAM, 1, 9, 9))
    assert [sock.inode for sock in list_unix(Kernel(unix + END), list(State), {})] == [9]


def test_a_dump_that_fails_in_its_middle_is_an_error_and_no_shorter_list() -> None:
    with pytest.raises(OSError) as caught:
        listed(inet(1) + message(DONE, struct.pack("=i", -errno.ENOBUFS)))
    assert caught.value.errno == errno.ENOBUFS


def test_a_message_of_another_kind_is_passed_over() -> None:
    assert [
        sock.local_port for sock in listed(message(99, bytes(200)) + inet(1) + message(98, b"") + inet(2), END)
    ] == [1, 2]


@given(st.lists(st.binary(min_size=0, max_size=120), max_size=6), st.integers(0, 400))
def test_a_part_that_is_rubbish_or_cut_off_comes_to_an_end(bodies: list[bytes], cut: int) -> None:
    part = (inet(7) + b"".join(message(BY_FAMILY, bytes(4) + body) for body in bodies))[: 88 + cut]
    try:
        found = listed(part, END)
    except (KeyError, ValueError):
        return  # no state and no address of the kernel's
    assert found[0].local_port == 7


@given(st.binary(max_size=400))
def test_a_message_of_a_death_that_is_rubbish_is_no_socket(body: bytes) -> None:
    try:
        read_dead(message(BY_FAMILY, body))
    except (KeyError, ValueError):
        pass
