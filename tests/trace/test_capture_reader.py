"""Capture files of any program are read, and those of none are refused after what was whole in them."""

from __future__ import annotations

import io
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests._kernel import needs_program

from underlay.trace import CaptureFormatError, CaptureReader, PcapngWriter, ReadPacket

PING = bytes.fromhex("450000210001400040 0126ca 0a090001 0a090002 0800 8f34 0007 0001 68656c6c6f".replace(" ", ""))


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, link_type: int = 101, *options: tuple[int, bytes]) -> bytes:
    body = struct.pack(order + "HHI", link_type, 0, 65535) + b"".join(option(order, *each) for each in options)
    return block(order, 1, body + option(order, 0, b""))


def packet(
    order: str, number: int, ticks: int, data: bytes = PING, size: int | None = None, *options: tuple[int, bytes]
) -> bytes:
    head = struct.pack(
        order + "IIIII", number, ticks >> 32, ticks & 0xFFFF_FFFF, len(data), len(data) if size is None else size
    )
    tail = b"".join(option(order, *each) for each in options) + (option(order, 0, b"") if options else b"")
    return block(order, 6, head + data + bytes(-len(data) % 4) + tail)


def read(data: bytes) -> list[ReadPacket]:
    return list(CaptureReader(io.BytesIO(data)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_and_each_clock(order: str) -> None:
    data = section(order)
    data += interface(order, 1, (2, b"eth0"))  # microseconds, where nothing is said
    data += interface(order, 101, (9, b"\x09"), (14, struct.pack(order + "q", 1000)))
    data += interface(order, 113, (9, b"\x81"))  # halves of a second
    data += packet(order, 0, 5_000_001)
    data += packet(order, 1, 7, PING, 1500, (2, struct.pack(order + "I", 2)), (1, b"one"), (1, b"two"))
    data += packet(order, 2, 3)
    one, two, three = read(data)
    assert (one.interface.name, one.interface.link_type, one.time_ns, one.data) == ("eth0", 1, 5_000_001_000, PING)
    assert (two.time_ns, two.size_bytes, two.direction, two.comment) == (1_000_000_000_007, 1500, "out", "one; two")
    assert (three.time_ns, three.interface.link_type) == (1_500_000_000, 113)


def test_a_second_section_has_interfaces_and_a_byte_order_of_its_own() -> None:
    data = section("<") + interface("<", 1) + packet("<", 0, 1) + section(">") + interface(">", 101) + packet(">", 0, 2)
    assert [each.interface.link_type for each in read(data)] == [1, 101]
    with pytest.raises(CaptureFormatError, match="an interface that there is not"):
        read(section("<") + interface("<") + section("<") + packet("<", 0, 1))


def test_simple_and_obsolete_packets_and_unknown_blocks() -> None:
    data = section("<") + interface("<") + block("<", 0xBAD, b"whatever")
    data += block("<", 3, struct.pack("<I", len(PING)) + PING)
    data += block("<", 2, struct.pack("<HHIIII", 0, 0, 0, 9, len(PING), len(PING)) + PING)
    simple, old = read(data)
    assert (simple.data, simple.time_ns) == (PING, 0)
    assert (old.data, old.time_ns) == (PING, 9000)


@pytest.mark.parametrize(("magic", "order", "ns"), [
    (0xA1B2C3D4, "<", 1000), (0xA1B2C3D4, ">", 1000), (0xA1B23C4D, "<", 1), (0xA1B23C4D, ">", 1),
])  # fmt: skip
def test_the_older_pcap(magic: int, order: str, ns: int) -> None:
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 0x1000_0001)
    data += struct.pack(order + "IIII", 5, 7, len(PING), 99) + PING
    (one,) = read(data)
    assert (one.time_ns, one.interface.link_type, one.size_bytes, one.data) == (5 * 10**9 + 7 * ns, 1, 99, PING)


ONE = section("<") + interface("<")
BROKEN = {
    "it is empty": b"",
    "it ends within its first four bytes": b"\n\r\r",
    "it is neither pcapng nor pcap": b"hello, world",
    "a section has no byte order": b"\n\r\r\n" + bytes(24),
    "a block says it has 8 bytes": section("<") + struct.pack("<II", 6, 8),
    "a block says it has 4294967292 bytes": section("<") + struct.pack("<II", 6, 0xFFFF_FFFC),
    "a block says it has 33 bytes": section("<") + struct.pack("<II", 6, 33) + bytes(30),
    "a block's two lengths differ": section("<")[:-4] + bytes(4),
    "a block is too short for what it is": section("<") + block("<", 6, b"1234"),
    "an interface that there is not": section("<") + packet("<", 0, 1),
    "a packet says it has 200 bytes": ONE + block("<", 6, struct.pack("<5I", 0, 0, 0, 200, 200)),
    "an option is longer than its block": ONE + block("<", 6, struct.pack("<5IHH", 0, 0, 0, 0, 0, 1, 9)),
    "it is pcap of version 7": struct.pack("<IHHiIII", 0xA1B2C3D4, 7, 4, 0, 0, 65535, 1),
    "a packet says it has 300000 bytes": struct.pack("<IHHiIII4I", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1, 0, 0, 300_000, 0),
}  # fmt: skip


@pytest.mark.parametrize("reason", BROKEN)
def test_what_is_broken_is_named(reason: str) -> None:
    with pytest.raises(CaptureFormatError) as caught:
        read(BROKEN[reason])
    assert reason in str(caught.value)


def test_a_packet_is_no_shorter_than_what_was_kept_of_it() -> None:
    """tcpdump calls such a file broken; what we write of it should be none."""
    (one,) = read(section("<") + interface("<") + packet("<", 0, 1, PING, 5))
    assert (one.size_bytes, one.data) == (len(PING), PING)
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    (one,) = read(head + struct.pack("<IIII", 5, 7, len(PING), 5) + PING)
    assert (one.size_bytes, one.data) == (len(PING), PING)


def test_what_stands_before_the_break_is_given() -> None:
    whole = section("<") + interface("<") + packet("<", 0, 1) * 3
    for cut in range(len(whole) - 1, len(whole) - len(packet("<", 0, 1)), -1):
        found = []
        with pytest.raises(CaptureFormatError, match="in the middle"):
            for each in CaptureReader(io.BytesIO(whole[:cut])):
                found.append(each)
        assert len(found) == 2


class Dribble(io.BytesIO):
    """A pipe that gives one byte at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 1))


def test_a_pipe_that_gives_little_at_once_is_read_whole() -> None:
    whole = section("<") + interface("<") + packet("<", 0, 1) * 3
    assert len(list(CaptureReader(Dribble(whole)))) == 3


@given(st.data())
def test_any_bytes_are_a_format_error_or_packets(data: st.DataObject) -> None:
    whole = bytearray(section("<") + interface("<", 101, (2, b"x")) + packet("<", 0, 1, PING, None, (1, b"c")) * 2)
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except CaptureFormatError:
        pass


def test_what_editcap_makes_of_our_file_is_read_the_same(tmp_path: Path) -> None:
    editcap = needs_program("editcap")
    ours, theirs = tmp_path / "ours.pcapng", tmp_path / "theirs.pcap"
    with PcapngWriter(ours) as writer:
        writer.record("tun0", "in", PING, 1.5, "")
        writer.record("tun0", "in", PING, 2.000001, "")
    for kind in ("pcap", "nsecpcap", "pcapng"):
        subprocess.run([editcap, "-F", kind, ours, theirs], check=True, capture_output=True)
        with open(theirs, "rb") as file:
            assert [each.time_ns for each in CaptureReader(file)] == [1_500_000_000, 2_000_001_000]
