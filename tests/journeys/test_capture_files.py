"""What a person does with the files of `underlay capture`: reads, filters and writes them anew; bad ones, too."""

from __future__ import annotations

import io
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests._kernel import needs_program
from tests.tools.capture._net import LIMIT_S

from underlay.cli import main
from underlay.tools.capture._link_types import ETHERNET, LINUX_SLL
from underlay.trace import CaptureReader, PacketFile

from ._capture import capture, packets


def test_a_file_that_stands_there_is_lost_only_to_one_that_can_be_read(tmp_path: Path) -> None:
    """Neither a filter that is none nor a file that is no capture costs what was written before."""
    empty, before, new = tmp_path / "empty.pcapng", tmp_path / "before.pcapng", tmp_path / "new.pcapng"
    fd = os.open(empty, os.O_WRONLY | os.O_CREAT)
    PacketFile(fd).flush()
    os.close(fd)
    before.write_text("precious")
    for path in (before, new):
        capture("-r", empty, "-w", path, "tcp prot 80", expect=2)
        capture("-r", os.devnull, "-w", path, expect=1)
    assert before.read_text() == "precious" and not new.exists()
    assert capture("-r", empty, "-w", before).stderr.startswith(f"underlay: {before}: 0 packets")
    assert packets(before) == []
    size_bytes = before.stat().st_size
    with open(before, "rb") as stdin:
        argv = [sys.executable, "-m", "underlay", "capture", "-r", "-", "-w", str(before)]
        done = subprocess.run(argv, stdin=stdin, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 2 and "cannot be read and written at once" in done.stderr
    assert before.stat().st_size == size_bytes


def test_ctrl_c_ends_it_while_an_enormous_filter_is_compiled(tmp_path: Path) -> None:
    """libpcap takes minutes for thousands of hosts, in which no handler of Python's runs."""
    text = " or ".join(f"host 10.{number // 250}.{number % 250}.1" for number in range(3000))
    words = [sys.executable, "-m", "underlay", "capture", "-r", os.devnull, text]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            until_s = time.monotonic() + LIMIT_S
            while "libpcap" not in Path(f"/proc/{child.pid}/maps").read_text():
                assert child.poll() is None and time.monotonic() < until_s
                time.sleep(0.02)
            time.sleep(0.3)
            child.send_signal(signal.SIGINT)
            output, errors = child.communicate(timeout=LIMIT_S)
        finally:
            child.kill()
    assert (child.returncode, output, errors) == (-signal.SIGINT, "", "")


def test_what_was_dropped_stands_in_a_file_of_a_file_too(tmp_path: Path) -> None:
    path, anew = tmp_path / "dropped.pcapng", tmp_path / "anew.pcapng"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    for dropped in (500, 40):  # two sections, as one behind the other with `cat`
        file = PacketFile(fd)
        file.add_interface("lo", 1)
        file.add(0, 1, bytes(60), 60)
        file.close({0: (1 + dropped, dropped)})
    os.close(fd)
    done = capture("-r", path, "-w", anew, "--json")
    assert f"{path}: 540 packets were dropped when it was captured, as it says" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["dropped_packets"] == 540
    with open(anew, "rb") as opened:
        reader = CaptureReader(opened)
        assert len(list(reader)) == 2 and tuple(reader.counts[0]) == (542, 540) and reader.dropped_packets == 540
    capture("-r", path, "-w", anew, "-c", "1")  # it was not read to where it says so
    with open(anew, "rb") as opened:
        reader = CaptureReader(opened)
        assert len(list(reader)) == 1 and reader.counts == {} and reader.dropped_packets is None


def write_packets(
    path: Path, count: int, interface: str = "lo", counts: dict[int, tuple[int, int]] | None = None, then: bytes = b""
) -> None:
    """Make a file of so many packets, a nanosecond apart, with counts of the kernel's and something behind it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    file = PacketFile(fd)
    file.add_interface(interface, 1)
    for number in range(1, count + 1):
        file.add(0, number, bytes(60), 60)
    file.close(counts)
    os.write(fd, then)
    os.close(fd)


def test_what_comes_through_a_pipe_is_shown_as_it_comes(tmp_path: Path) -> None:
    """At its other end may be a running capture: of another machine, by ssh."""
    path = tmp_path / "one.pcapng"
    write_packets(path, 1, "far0")
    argv = [sys.executable, "-m", "underlay", "capture", "-r", "-"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(path.read_bytes())
            child.stdin.flush()
            assert select.select([child.stdout], [], [], LIMIT_S)[0]  # and no end is in sight
            assert b" far0 LLC " in child.stdout.readline()
            output, _ = child.communicate(timeout=LIMIT_S)
            assert (child.returncode, output) == (0, b"")
        finally:
            child.kill()


def test_a_file_that_is_not_whole_on_a_disk_that_is_full_is_told_of_both(tmp_path: Path) -> None:
    path = tmp_path / "cut.pcapng"
    write_packets(path, 1, then=struct.pack("<II", 6, 8))
    done = capture("-r", path, "-w", "/dev/full", expect=1)
    assert "/dev/full takes no more: no space left on device" in done.stderr and "Traceback" not in done.stderr
    assert "is not whole: a block says it has 8 bytes" in done.stderr
    assert "/dev/full: 0 packets, 0 bytes; 1 are not in it\n" in done.stderr
    done = capture("-r", path, expect=1)
    assert done.stdout.count("\n") == 1 and "is not whole: a block says it has 8 bytes" in done.stderr


# A datagram that says every byte there is, and on what links: with its header, and without.
EVERY_BYTE = bytes.fromhex("4500011c 4ea60000 40112e29 7f000001 7f000001 d64204d2 01080000") + bytes(range(256))
MAC = bytes(range(12))
LINKS = {
    "Ethernet": (1, MAC + b"\x08\x00"),
    "Ethernet with two tags": (1, MAC + bytes.fromhex("88a80007 81000008 0800")),
    "Ethernet without IP": (1, MAC + bytes.fromhex("88b5")),
    "raw IP": (101, b""),
    "cooked": (113, bytes.fromhex("0000 0304 0006 000000000000 0000 0800")),
    "cooked, version 2": (276, bytes.fromhex("0800 0000 00000001 0304 00 06 0000000000000000")),
    "BSD loopback": (0, b"\x02\x00\x00\x00"),
}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("kept", [284, 33])
def test_bytes_are_shown_as_tcpdump_shows_them(link: str, kept: int, tmp_path: Path) -> None:
    path = tmp_path / "bytes.pcapng"
    link_type, header = LINKS[link]
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    file = PacketFile(fd)
    file.add_interface("", link_type)
    file.add(0, 1, header + EVERY_BYTE[:kept], len(header + EVERY_BYTE))
    file.flush()
    os.close(fd)
    done = subprocess.run([needs_program("tcpdump"), "-nXr", path], capture_output=True, text=True, check=True)
    theirs = [line for line in done.stdout.splitlines() if line.startswith("\t0x")]
    ours = capture("-r", path, "-X").stdout.splitlines()
    assert [line.rstrip() for line in ours[1:]] == [line.rstrip() for line in theirs]
    assert len(theirs) == -(-kept // 16)
    assert max(len(line.expandtabs()) for line in ours[1:]) <= 80
    packet = json.loads(capture("-r", path, "-X", "--json").stdout.splitlines()[0])
    assert bytes.fromhex(packet["bytes"]) == EVERY_BYTE[:kept]


def test_what_a_full_disk_kept_out_of_a_file_of_a_file_is_counted(tmp_path: Path) -> None:
    path, anew = tmp_path / "many.pcapng", tmp_path / "anew.pcapng"
    write_packets(path, 30_000)  # more than are written at once
    argv = [sys.executable, "-m", "underlay", "capture", "-r", str(path), "-w", str(anew), "--json"]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=LIMIT_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
    )  # fmt: skip
    summary = json.loads(done.stdout.splitlines()[-1])
    written, unwritten = len(packets(anew)), summary["captured_packets"] - len(packets(anew))
    assert 0 < written < summary["captured_packets"] < 30_000
    assert (summary["written_packets"], summary["unwritten_packets"]) == (written, unwritten)
    assert f"; {unwritten} are not in it; the rest of {path} was not read\n" in done.stderr


def test_a_time_that_no_file_can_say_is_the_nearest_and_counted(tmp_path: Path) -> None:
    path, anew = tmp_path / "late.pcapng", tmp_path / "anew.pcapng"
    write_packets(path, 1, "lo")
    data = path.read_bytes()
    # The same packet's time in 2^63 seconds: the interface gets an if_tsresol of 1 s, and the packet all bits.
    packet = data.rindex(struct.pack("<I", 6), 0, len(data) - 60)
    resolution = data.index(bytes.fromhex("0900 0100"))
    late = bytearray(data)
    late[resolution + 4] = 0
    late[packet + 12 : packet + 20] = b"\xff" * 8
    path.write_bytes(late)
    done = capture("-r", path, "-w", anew, "--json")
    assert json.loads(done.stdout.splitlines()[-1])["moved_times"] == 1
    assert f"{anew}: 1 packet with the nearest time that a file can say, 1970 to 2554" in done.stderr
    assert [packet.time_ns for packet in packets(anew)] == [(1 << 64) - 1]


@pytest.mark.parametrize("words", [[], ["--json"], ["-w", "anew.pcapng"]], ids=" ".join)
def test_a_file_that_refuses_a_read_is_one_sentence_and_what_was_read_is_shown(
    words: list[str], tmp_path: Path
) -> None:
    # Another process's memory, from address 0 on, refuses as a disk does that fails (EIO).
    argv = [sys.executable, "-m", "underlay", "capture", "-r", "/proc/self/mem", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=LIMIT_S, cwd=tmp_path)
    assert done.returncode == 1 and not (tmp_path / "anew.pcapng").exists()
    assert "underlay: /proc/self/mem cannot be read to its end: input/output error\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pipe_that_somebody_made_non_blocking_is_waited_for_at_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "many.pcapng"
    write_packets(path, 2000)
    argv = [sys.executable, "-m", "underlay", "capture", "-r", "-"]
    reading, writing = os.pipe(), os.pipe()
    for end in (reading[0], writing[1]):
        os.set_blocking(end, False)
    with subprocess.Popen(argv, stdin=reading[0], stdout=writing[1], stderr=subprocess.PIPE) as child:
        os.close(reading[0])
        os.close(writing[1])
        with os.fdopen(writing[0], "rb") as output, os.fdopen(reading[1], "wb") as stdin:

            def write() -> None:
                time.sleep(0.3)  # it has nothing to read by then
                stdin.write(path.read_bytes())
                stdin.close()

            threading.Thread(target=write).start()
            time.sleep(1)  # it has more to say by then than the pipe holds
            lines = output.read().splitlines()
        assert (child.wait(LIMIT_S), len(lines)) == (0, 2000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [[], ["--json"], ["-w", "anew.pcapng"]], ids=" ".join)
def test_a_signal_ends_the_reading_of_a_pipe_in_order(words: list[str], number: int, tmp_path: Path) -> None:
    path = tmp_path / "one.pcapng"
    write_packets(path, 1, "far0")
    argv = [sys.executable, "-m", "underlay", "capture", "-r", "-", "--print" if "-w" in words else "-X", *words]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as child:
        try:
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(path.read_bytes())
            child.stdin.flush()
            first = child.stdout.readline()  # and now it waits for more
            child.send_signal(number)
            # Not by communicate(), which would close stdin, and end the reading so.
            assert child.wait(LIMIT_S) == 0
            output, errors = first + child.stdout.read(), child.stderr.read().decode()  # type: ignore[union-attr]
        finally:
            child.kill()
    assert b"far0" in first and "Traceback" not in errors
    if "-w" in words:
        assert len(packets(tmp_path / "anew.pcapng")) == 1
        assert "underlay: anew.pcapng: 1 packets, " in errors and "; the rest of stdin was not read\n" in errors
    else:
        assert "underlay: 1 packets were read; stdin may have more\n" in errors
    if "--json" in words:
        assert json.loads(output.splitlines()[-1])["captured_packets"] == 1


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_ctrl_c_ends_the_reading_in_order_and_a_second_one_at_once(times: int, unbuffered: str, tmp_path: Path) -> None:
    path = tmp_path / "many.pcapng"
    write_packets(path, 20_000)
    argv = [sys.executable, "-m", "underlay", "capture", "-r", str(path)]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as child:
        try:
            assert child.stdout is not None and child.stderr is not None
            child.stdout.readline()  # it soon waits for room in the pipe
            for _ in range(times):
                time.sleep(0.3)
                child.send_signal(signal.SIGINT)
            if times == 2:
                assert child.wait(LIMIT_S) == 130
                return
            count = 1 + child.stdout.read().count(b"\n")
            assert child.wait(LIMIT_S) == 0
            # A write that the signal cut in two was ended.
            assert child.stderr.read().decode() == f"underlay: {count} packets were read; {path} may have more\n"
        finally:
            child.kill()


def test_a_pipe_of_packets_that_somebody_made_non_blocking_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "many.pcapng"
    write_packets(path, 5000)
    unread, output = os.pipe()
    os.set_blocking(output, False)
    argv = [sys.executable, "-m", "underlay", "capture", "-r", str(path), "-w", "-"]
    with subprocess.Popen(argv, stdout=output, stderr=subprocess.PIPE) as child, os.fdopen(unread, "rb") as reader:
        os.close(output)
        time.sleep(0.5)  # it has filled the pipe by then
        assert len(list(CaptureReader(io.BytesIO(reader.read())))) == 5000
        assert child.wait(LIMIT_S) == 0


def test_a_fifo_that_nobody_opens_for_reading_is_waited_for_no_longer_than_until_a_signal(tmp_path: Path) -> None:
    path, fifo = tmp_path / "one.pcapng", tmp_path / "fifo"
    write_packets(path, 1, "lo")
    os.mkfifo(fifo)
    argv = [sys.executable, "-m", "underlay", "capture", "-r", str(path), "-w", str(fifo)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as child:
        try:
            asleep, until_s = 0, time.monotonic() + LIMIT_S
            while asleep < 5:  # for so long nothing else lets it sleep: proc_pid_stat(5)
                assert child.poll() is None and time.monotonic() < until_s
                state = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]
                asleep = asleep + 1 if state == "S" else 0
                time.sleep(0.05)
            child.send_signal(signal.SIGTERM)
            assert child.wait(LIMIT_S) == -signal.SIGTERM
        finally:
            child.kill()


def test_whose_reader_left_is_told_what_is_in_the_file(tmp_path: Path) -> None:
    path, anew = tmp_path / "many.pcapng", tmp_path / "anew.pcapng"
    write_packets(path, 30_000, counts={0: (30_005, 5)})
    unread, output = os.pipe()
    os.close(unread)
    argv = [sys.executable, "-m", "underlay", "capture", "-r", str(path), "-w", str(anew), "--print"]
    done = subprocess.run(argv, stdout=output, stderr=subprocess.PIPE, text=True, check=False, timeout=LIMIT_S)
    os.close(output)
    assert done.returncode == 141
    assert f"underlay: {anew}: {len(packets(anew))} packets, " in done.stderr
    assert f"; the rest of {path} was not read\n" in done.stderr


def test_a_strange_file_steers_no_terminal_and_is_written_anew(tmp_path: Path) -> None:
    """An interface, a comment and times such as no program writes."""
    path, anew = tmp_path / "strange.pcapng", tmp_path / "anew.pcapng"
    ping = bytes.fromhex("4500002100010000400126ca0a0900010a09000208008f340007000168656c6c6f")

    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)

    def option(code: int, value: bytes) -> bytes:
        return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)

    data = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    for number, (resolution, offset_s) in enumerate([(0, 2**62), (6, -(2**62)), (0xFF, 0)]):
        options = option(2, b"ev\x1b[2Jil\n") + option(9, bytes([resolution])) + option(14, struct.pack("<q", offset_s))
        data += block(1, struct.pack("<HHI", 101, 0, 65535) + options)
        head = struct.pack("<5I", number, 0xFFFF_FFFF, 0xFFFF_FFFF, len(ping), 0xFFFF_FFFF)
        data += block(6, head + ping + bytes(-len(ping) % 4) + option(1, b"\x1b]0;x\x07"))
    path.write_bytes(data)
    lines = capture("-r", path).stdout.splitlines()
    assert len(lines) == 3 and all(line.isprintable() for line in lines)
    assert all("ev?[2Jil?" in line for line in lines)
    for row in map(json.loads, capture("-r", path, "--json").stdout.splitlines()[:3]):
        assert row["size_bytes"] == 0xFFFF_FFFF
    capture("-r", path, "-w", anew)
    assert [packet.data for packet in packets(anew)] == [ping] * 3


@pytest.mark.parametrize("text", ["inbound", "outbound and tcp", "not ifindex 7"])
def test_what_only_a_running_capture_knows_is_not_asked_of_a_file_that_has_not_got_it(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "file.pcapng"
    _write(path, ETHERNET, bytes(14))
    done = capture("-r", path, text, expect=2)
    assert done.stderr.startswith(f"underlay: the filter {text!r} asks for what only a running capture knows; inbound,")
    done = capture("-r", path, f"{text} and", expect=2)
    assert "is not one, says libpcap: " in done.stderr  # which may name either first


def test_of_cooked_packets_a_file_has_which_way_each_went(tmp_path: Path) -> None:
    path = tmp_path / "cooked.pcapng"
    came, went = (struct.pack("!HHH8sH", kind, 1, 6, bytes(8), 0x88B5) + bytes(46) for kind in (0, 4))
    _write(path, LINUX_SLL, came, went)
    for text, wanted in (("inbound", came), ("outbound", went)):
        capture("-r", path, "-w", tmp_path / text, text)
        assert [packet.data for packet in packets(tmp_path / text)] == [wanted]


def _write(path: Path, link_type: int, *data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        file = PacketFile(fd)
        file.add_interface("made-up", link_type)
        for each in data:
            file.add(0, 10**18, each, len(each))
        file.close()
    finally:
        os.close(fd)


def test_a_wild_filter_costs_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("(" * 500, "tcp and " * 300, "\udcff", "ether host zz", "port 99999", "len >", "not " * 5000 + "tcp"):
        assert main(["capture", "-r", os.devnull, text]) in (1, 2)  # 1: it is a filter, and that file no capture
        assert capsys.readouterr().err.startswith("underlay: ")
