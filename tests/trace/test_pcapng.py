"""A capture is what the links carried, and other programs read it: tshark and capinfos are asked where they are."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests._kernel import needs_program

from underlay.link import FRAME, Delay, Loss, VirtualWire
from underlay.trace import CapturedLink, PcapngWriter, capture, read_pcapng
from underlay.trace import _pcapng as module
from underlay.wire import Frame

# 10.9.0.1 → 10.9.0.2, ICMP echo request with "hello"
PING = bytes.fromhex("450000210001400040 0126ca 0a090001 0a090002 0800 8f34 0007 0001 68656c6c6f".replace(" ", ""))
ARP = bytes.fromhex(
    "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 0a090001 000000000000 0a090002".replace(" ", "")
)
IPV6 = bytes.fromhex("6000000000003b40" + "00" * 15 + "01" + "00" * 15 + "02")


def written(writer_options: dict[str, object], *records: tuple[str, str, bytes, float | None, str]) -> bytes:
    file = io.BytesIO()
    with PcapngWriter(file, **writer_options) as writer:  # type: ignore[arg-type]
        for record in records:
            writer.record(*record)
    return file.getvalue()


def test_a_capture_of_a_wire_shows_what_each_host_sees() -> None:
    file = io.BytesIO()
    wire = VirtualWire("w", forward=[Delay(0.010)], backward=[Loss(random.Random(0), 1)])
    with capture(file) as writer:
        wire.send(0, Frame(ARP[:14], ARP[14:]), 1.000000001)
        wire.send(1, Frame(ARP), 1.005)
        wire.poll_deliveries(2.0)
    assert not FRAME.listeners
    links, frames = read_pcapng(file.getvalue())
    assert links == [CapturedLink("w:0", True, 1, 0), CapturedLink("w:1", True, 2, 0)]
    assert [(frame.link, frame.direction, frame.time_ns, frame.comment) for frame in frames] == [
        ("w:0", "out", 1_000_000_001, ""),
        ("w:1", "out", 1_005_000_000, "dropped: loss"),
        ("w:1", "in", 2_000_000_000, ""),
    ]
    assert all(frame.data == ARP for frame in frames)
    assert (writer.statistics().written_frames, writer.statistics().written_bytes) == (3, len(file.getvalue()))


@given(
    records=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "link:0"]),
            st.sampled_from(["in", "out"]),
            st.binary(max_size=100),
            st.integers(0, 2**60).map(float),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30),
        ),
        max_size=20,
    )
)
def test_what_was_written_is_read_again(records: list[tuple[str, str, bytes, float | None, str]]) -> None:
    records = [(link, way, data, (at or 0) / 1e9, comment) for link, way, data, at, comment in records]
    links, frames = read_pcapng(written({}, *records))
    assert [(frame.link, frame.direction, frame.data, frame.comment) for frame in frames] == [
        (link, way, data, comment) for link, way, data, _, comment in records
    ]
    assert [frame.time_ns for frame in frames] == [round((at or 0) * 1e9) for _, _, _, at, _ in records]
    assert {link.name: link.seen for link in links} == {
        name: sum(record[0] == name for record in records) for name in {record[0] for record in records}
    }


def test_the_first_frame_tells_what_a_link_carries_unless_somebody_said_so() -> None:
    file = io.BytesIO()
    with PcapngWriter(file) as writer:
        writer.add_link("told", is_ethernet=False)
        writer.record("told", "in", ARP, 0.0, "")
        writer.record("ipv4", "in", PING, 0.0, "")
        writer.record("ipv6", "in", IPV6, 0.0, "")
        writer.record("ethernet", "in", ARP, 0.0, "")
        writer.record("empty", "in", b"", 0.0, "")
        writer.add_link("ethernet", is_ethernet=False)
    links, _ = read_pcapng(file.getvalue())
    kinds = {link.name: link.is_ethernet for link in links}
    assert kinds == {"told": False, "ipv4": False, "ipv6": False, "ethernet": True, "empty": True}


def test_a_frame_without_a_time_stands_at_the_clocks_and_one_with_it_at_the_epoch() -> None:
    options = {"clock": lambda: 7_000_000_001, "epoch_s": 1000.0}
    _, frames = read_pcapng(written(options, ("a", "in", PING, None, ""), ("a", "in", PING, 2.5, "")))
    assert [frame.time_ns for frame in frames] == [7_000_000_001, 1_002_500_000_000]


def test_a_time_before_the_epoch_stands_at_it() -> None:
    _, [frame] = read_pcapng(written({}, ("a", "in", PING, -5.0, "")))
    assert frame.time_ns == 0


def test_a_file_stays_within_its_limit_is_whole_and_tells_what_is_missing() -> None:
    records = [("a", "in", PING, float(number), "") for number in range(100)]
    for limit in range(100, 2000, 37):
        file = io.BytesIO()
        with PcapngWriter(file, limit_bytes=limit) as writer:
            for record in records:
                writer.record(*record)
        assert len(file.getvalue()) <= limit
        links, frames = read_pcapng(file.getvalue())
        told = writer.statistics()
        assert told.written_frames == len(frames)
        assert told.written_frames + told.unwritten_frames == 100
        assert links in ([], [CapturedLink("a", False, 100, 100 - len(frames))])
    assert len(frames) > 10


def test_the_limit_may_be_reached_to_the_byte() -> None:
    records = [("a", "in", PING, float(number), "") for number in range(3)]
    size = len(written({}, *records))
    assert len(read_pcapng(written({"limit_bytes": size}, *records))[1]) == 3
    assert len(read_pcapng(written({"limit_bytes": size - 1}, *records))[1]) == 2


def test_room_for_the_statistics_of_a_link_without_room_is_given_back() -> None:
    first = ("a", "in", PING, 0.0, "")
    size = len(written({}, first, first))
    file = io.BytesIO()
    with PcapngWriter(file, limit_bytes=size) as writer:
        writer.record(*first)
        for number in range(5):
            writer.record(f"another{number}", "in", PING, 0.0, "")
        writer.record(*first)
    assert len(read_pcapng(file.getvalue())[1]) == 2
    assert writer.statistics().unwritten_frames == 5


def test_links_without_number_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_LINKS", 3)
    file = io.BytesIO()
    with PcapngWriter(file) as writer:
        for number in range(5):
            writer.record(str(number), "in", PING, 0.0, "")
    links, frames = read_pcapng(file.getvalue())
    assert (len(links), len(frames), writer.statistics().unwritten_frames) == (3, 3, 2)


def test_the_statistics_of_a_link_tell_when_it_began_and_ended() -> None:
    data = written({}, ("a", "in", PING, 3.0, ""), ("a", "in", PING, 9.0, ""))
    block = data[data.rindex(struct.pack("<II", 5, 76)) :]
    interface, high, low = struct.unpack_from("<III", block, 8)
    assert (interface, high << 32 | low) == (0, 9_000_000_000)
    code, size, high, low = struct.unpack_from("<HHII", block, 20)
    assert (code, size, high << 32 | low) == (2, 8, 3_000_000_000)
    code, size, high, low = struct.unpack_from("<HHII", block, 32)
    assert (code, size, high << 32 | low) == (3, 8, 9_000_000_000)


def test_a_long_frame_is_cut_and_its_length_kept() -> None:
    _, [frame] = read_pcapng(written({"snap_bytes": 10}, ("a", "in", PING, 0.0, "")))
    assert (frame.data, frame.size_bytes) == (PING[:10], len(PING))


def test_links_that_nobody_wants_are_left_out() -> None:
    links, frames = read_pcapng(written({"links": {"b"}}, ("a", "in", PING, 0.0, ""), ("b", "in", PING, 0.0, "")))
    assert [link.name for link in links] == [frame.link for frame in frames] == ["b"]


def test_a_comment_without_end_is_cut() -> None:
    _, [frame] = read_pcapng(written({}, ("a", "in", PING, 0.0, "é" * 5000)))
    assert frame.comment == "é" * 500


class FullDisk(io.BytesIO):
    """Takes a few hundred bytes."""

    def write(self, data: object) -> int:
        assert isinstance(data, bytes)
        if self.tell() + len(data) > 400:
            raise OSError(28, os.strerror(28))
        return super().write(data)


def test_a_full_disk_ends_the_writing_and_close_says_so() -> None:
    writer = PcapngWriter(FullDisk())
    with FRAME.listening(writer.record):
        for number in range(10):
            FRAME("a", "in", PING, float(number), "")
        assert FRAME.listeners  # it did not raise into the watched
    told = writer.statistics()
    assert told.written_frames > 0 and told.written_frames + told.unwritten_frames == 10
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    writer.close()


@given(data=st.binary(max_size=80), cut=st.integers(0, 400))
def test_a_file_that_is_not_whole_is_a_value_error(data: bytes, cut: int) -> None:
    whole = written({}, ("a", "in", PING, 0.0, "note"), ("a", "in", PING, 1.0, ""))
    for broken in (data, whole[:cut], whole[:cut] + data):
        try:
            read_pcapng(broken)
        except ValueError:
            pass


def test_tshark_reads_times_interfaces_comments_directions_and_protocols(tmp_path: Path) -> None:
    tshark = needs_program("tshark")
    path = tmp_path / "both.pcapng"
    with PcapngWriter(path) as writer:
        writer.record("tun0", "out", PING, 1.000000001, "")
        writer.record("wire:0", "in", ARP, 2.5, "dropped: loss")
    fields = [
        "frame.time_epoch",
        "frame.interface_name",
        "frame.comment",
        "frame.packet_flags_direction",
        "_ws.col.Protocol",
    ]
    options = [word for name in fields for word in ("-e", name)]
    done = subprocess.run(
        [tshark, "-r", path, "-T", "fields", "-E", "separator=|", *options],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    first, second = (line.split("|") for line in done.stdout.splitlines())
    assert first == ["1.000000001", "tun0", "", "0x00000002", "ICMP"]
    assert second == ["2.500000000", "wire:0", "dropped: loss", "0x00000001", "ARP"]
    assert "Malformed" not in done.stdout


def test_capinfos_finds_the_file_whole(tmp_path: Path) -> None:
    capinfos = needs_program("capinfos")
    path = tmp_path / "both.pcapng"
    with PcapngWriter(path) as writer:
        writer.record("tun0", "out", PING, 1.0, "")
        writer.record("wire:0", "in", ARP, 2.5, "")
    done = subprocess.run([capinfos, "-M", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Number of packets:   2" in done.stdout
    assert "Number of interfaces in file: 2" in done.stdout
    assert done.stdout.count("Time precision = nanoseconds (9)") == 2
    assert "Encapsulation = Raw IP" in done.stdout and "Encapsulation = Ethernet" in done.stdout
    assert done.stdout.count("Number of stat entries = 1") == 2
