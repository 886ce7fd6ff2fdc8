"""Packets written by the batch: whole blocks, right counts, also where the disk is full in the middle of one."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from underlay.trace import CaptureReader, PacketFile, ReadPacket

DATA = bytes(range(256))


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        yield fd
    finally:
        os.close(fd)


def packets(path: Path) -> list[ReadPacket]:
    with open(path, "rb") as file:
        return list(CaptureReader(file))


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with opened(path) as fd:
        file = PacketFile(fd, snap_bytes=100)
        eth0, tun0 = file.add_interface("eth0", 1, "tcp port 80"), file.add_interface("tun0", 101)
        file.add(eth0, 10**18 + 7, DATA[:99], 1500, "in", "curl[7] > nginx[9]")
        file.add(tun0, 10**18 + 8, DATA[:4], 4, "out")
        file.add(tun0, 10**18 + 9, b"", 0)
        file.close({eth0: (5, 2)})
    one, two, three = packets(path)
    assert (one.interface.name, one.time_ns, one.data, one.size_bytes) == ("eth0", 10**18 + 7, DATA[:99], 1500)
    assert (one.direction, one.comment) == ("in", "curl[7] > nginx[9]")
    assert (two.interface.link_type, two.direction, two.comment, two.data) == (101, "out", "", DATA[:4])
    assert (three.direction, three.data) == ("", b"")
    assert (file.written_packets, file.unwritten_packets, file.written_bytes) == (3, 0, path.stat().st_size)
    with open(path, "rb") as opened_file:
        reader = CaptureReader(opened_file)
        list(reader)
        assert tuple(reader.counts[0]) == (5, 2)


def test_nothing_is_written_before_it_is_asked_for_or_much(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with opened(path) as fd:
        file = PacketFile(fd)
        number = file.add_interface("lo", 1)
        file.add(number, 1, DATA, 256)
        assert path.stat().st_size == 0
        for _ in range(5000):
            file.add(number, 1, DATA, 256)
        assert path.stat().st_size > 1 << 20
        file.flush()
        assert len(packets(path)) == 5001


@contextmanager
def no_file_longer_than(size_bytes: int) -> Iterator[None]:
    """Let the kernel take a part of a write: setrlimit(2), RLIMIT_FSIZE."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room_bytes", [0, 10, 60, 300, 301, 500, 2000, 4000])
def test_a_full_disk_leaves_whole_blocks_and_right_counts(room_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with opened(path) as fd, no_file_longer_than(room_bytes):
        file = PacketFile(fd)
        number = file.add_interface("lo", 1)
        for _ in range(20):
            file.add(number, 1, DATA, 256)
        with pytest.raises(OSError) as caught:
            file.flush()
        assert caught.value.errno == errno.EFBIG
        file.add(number, 1, DATA, 256)
        file.flush()
        file.close({number: (1, 1)})  # nothing more is tried
    assert path.stat().st_size == file.written_bytes <= room_bytes
    if room_bytes >= 60:
        assert len(packets(path)) == file.written_packets
    assert file.written_packets + file.unwritten_packets == 21


def test_what_the_reader_left_is_a_broken_pipe() -> None:
    here, there = os.pipe()
    os.close(here)
    file = PacketFile(there)
    with pytest.raises(BrokenPipeError):
        file.flush()
    os.close(there)
