"""What a person does with `underlay capture`: watch, write, read again, stop; with tshark and tcpdump beside it."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from tests._kernel import needs_program
from tests.tools.capture._net import LIMIT_S, Net, end, network, run

from underlay.cli import main
from underlay.trace import CaptureReader, PacketFile

from ._capture import capture, packets
from ._machine import ROOT
from ._screen import unread_pipe

NOBODY = 65534
BURST_PACKETS = 200_000


@pytest.fixture
def net() -> Iterator[Net]:
    with network() as made:
        yield made


TALKS = 3
"""How often is talked where an owner is to be found: a busy machine may be late once."""


def talk(net: Net) -> int:
    """Open a connection, say something, close it; and one that is refused. Give the port."""
    with (
        net.do(lambda: socket.create_server(("127.0.0.1", 0))) as server,
        net.do(lambda: socket.socket()) as client,
    ):
        port: int = server.getsockname()[1]
        client.connect(("127.0.0.1", port))
        accepted, _ = server.accept()
        with accepted:
            client.sendall(b"hello")
            accepted.recv(100)
            time.sleep(0.3)  # so that its owner is found, on a busy machine too
            client.close()
            assert accepted.recv(1) == b""
    with net.do(lambda: socket.socket()) as refused, pytest.raises(ConnectionRefusedError):
        refused.connect(("127.0.0.1", port))
    return port


def test_a_person_watches_a_connection(net: Net) -> None:
    child = net.capture("-i", "lo", "tcp")
    port, *_ = (talk(net) for _ in range(TALKS))
    time.sleep(0.3)
    output, errors = end(child)
    lines = output.splitlines()
    assert all(line.split()[1:3] == ["lo", "TCP"] for line in lines)
    notes = [
        line.rpartition("[")[2].partition("]")[0] for line in lines if f"> 127.0.0.1:{port}" in line or "[" in line
    ]
    assert "handshake 1/3" in lines[0] and f"> 127.0.0.1:{port}  SYN, seq 0" in lines[0]
    assert any(f"[{os.getpid()}]" in line for line in lines)  # whose sockets both are
    assert "handshake 2/3" in lines[1] and "handshake 3/3" in lines[2]
    assert "close" in notes and "closed" in notes and "reset" in notes
    assert f"{len(lines)} packets captured in" in errors
    assert "0 dropped by the kernel" in errors
    assert "\x1b" not in output + errors


def test_a_burst_is_seen_or_counted_as_dropped(net: Net, tmp_path: Path) -> None:
    """200,000 packets as quick as a processor sends them; a small ring, so that there may be drops to count."""
    path = tmp_path / "burst.pcapng"
    child = net.capture("-i", "lo", "--ring-size", "4", "-w", path, "udp port 9999")
    net.burst(BURST_PACKETS)
    time.sleep(0.2)
    _, errors = end(child)
    words = errors.splitlines()
    told = next(line for line in words if "packets captured in" in line).split()
    captured, dropped = int(told[1]), int(told[told.index("dropped") - 1])
    assert captured + dropped == BURST_PACKETS
    with open(path, "rb") as file:
        reader = CaptureReader(file)
        numbers = [struct.unpack_from("!I", packet.data, 42)[0] for packet in reader]
        assert tuple(reader.counts[0]) == (BURST_PACKETS, dropped)
    assert len(numbers) == captured
    assert numbers == sorted(set(numbers)) and numbers[-1] < BURST_PACKETS  # each once, in order
    assert f"{path}: {captured} packets, {path.stat().st_size} bytes" in errors


@pytest.mark.parametrize("interface", ["lo", "any"])
def test_others_open_the_file_without_a_warning(net: Net, interface: str, tmp_path: Path) -> None:
    tshark, tcpdump, capinfos = map(needs_program, ("tshark", "tcpdump", "capinfos"))
    path = tmp_path / "seen.pcapng"
    child = net.capture("-i", interface, "-w", path)
    for _ in range(TALKS):
        talk(net)
    time.sleep(0.3)
    end(child)
    count = len(packets(path))
    assert count >= 10
    env = {**os.environ, "HOME": str(tmp_path)}
    names = ("frame.interface_name", "frame.comment", "_ws.malformed")
    done = subprocess.run(
        [tshark, "-r", path, "-T", "fields", *(word for name in names for word in ("-e", name))],
        capture_output=True, text=True, check=False, env=env,
    )  # fmt: skip
    assert done.returncode == 0
    # What it says of root is about itself.
    assert [line for line in done.stderr.splitlines() if "Running as user" not in line] == []
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == count and {row[0] for row in rows} == {"lo"} and {row[2] for row in rows} == {""}
    assert any(f"[{os.getpid()}]" in row[1] for row in rows)
    done = subprocess.run([tcpdump, "-nr", path], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == count
    assert done.stderr.startswith("reading from file") and done.stderr.count("\n") == 1
    done = subprocess.run([capinfos, "-M", path], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0 and done.stderr.count("Running as") * 1 >= done.stderr.count("\n") - 1
    assert f"Number of packets:   {count}" in done.stdout


def test_it_is_read_again_and_filtered_and_written_anew(net: Net, tmp_path: Path) -> None:
    path, part = tmp_path / "all.pcapng", tmp_path / "part.pcapng"
    child = net.capture("-i", "lo", "-w", path, "--print")
    port = talk(net)
    net.burst(5)
    time.sleep(0.3)
    output, _ = end(child)
    again = capture("-r", path)
    assert again.stdout == output
    assert again.stderr == ""
    only = capture("-r", path, "udp port 9999")
    assert only.stdout.count("\n") == 5 and "UDP" in only.stdout
    done = capture("-r", path, "-w", part, f"tcp port {port}")
    assert done.stdout == "" and done.stderr.startswith(f"underlay: {part}: ")
    assert [each for each in packets(path) if each.data[23] == 6] == packets(part)
    assert capture("-r", path, "-c", "2").stdout == "".join(output.splitlines(keepends=True)[:2])


def test_packets_go_down_a_pipe_as_they_come(net: Net) -> None:
    child = net.capture("-i", "lo", "-w", "-", "udp", stdout=subprocess.PIPE)
    net.burst(3)
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    assert child.stdout is not None
    assert len(list(CaptureReader(child.stdout.buffer))) == 3  # type: ignore[attr-defined]
    end(child)


def test_json_lines_have_a_schema_and_end_with_a_summary(net: Net) -> None:
    child = net.capture("-i", "lo", "--json", "tcp")
    port = talk(net)
    time.sleep(0.3)
    output, _ = end(child)
    *rows, summary = map(json.loads, output.splitlines())
    assert {row["schema"] for row in [*rows, summary]} == {"underlay.capture/1"}
    assert next(iter(rows[0])) == "schema"
    assert rows[0]["tcp"]["flags"] == ["SYN"] and rows[0]["destination_port"] == port
    assert rows[0]["notes"] == ["handshake 1/3"] and rows[0]["flow"] == 0
    assert (summary["type"], summary["captured_packets"], summary["dropped_packets"]) == ("summary", len(rows), 0)
    assert summary["connections"] == 2
    page = (ROOT / "docs" / "capture.md").read_text()
    assert [key for row in (rows[0], summary) for key in row if f"`{key}`" not in page and f'"{key}"' not in page] == []


def test_a_count_and_a_duration_end_it_without_a_signal(net: Net) -> None:
    child = net.capture("-i", "lo", "-c", "4", "udp")
    net.burst(20)
    output, errors = child.communicate(timeout=LIMIT_S)
    assert (child.returncode, output.count("\n")) == (0, 4)
    assert "4 packets captured" in errors
    child = net.capture("-i", "lo", "--duration", "0.3", "udp")
    output, errors = child.communicate(timeout=LIMIT_S)
    assert (child.returncode, output) == (0, "") and "0 packets captured" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_that_asks_it_to_end_ends_it_in_order(net: Net, number: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    child = net.capture("-i", "lo", "-w", path, "udp")
    net.burst(10)
    _, errors = end(child, number)  # at once: what is in the ring comes too
    assert "10 packets captured" in errors and len(packets(path)) == 10


def test_a_second_signal_ends_a_capture_whose_output_nobody_reads(net: Net) -> None:
    with unread_pipe() as (output, fill):
        child = net.capture("-i", "lo", "--json", "udp", stdout=output)
        fill()
        net.burst(10)
        child.send_signal(signal.SIGTERM)  # now it waits for room in the pipe, before or after it heard of that
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=LIMIT_S)
    assert child.returncode == -signal.SIGTERM


def test_what_cannot_be_is_one_sentence_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.pcapng"
    fd = os.open(empty, os.O_WRONLY | os.O_CREAT)
    PacketFile(fd).flush()
    os.close(fd)
    wrong: list[tuple[list[str | Path], str]] = [
        (["tcp", "prot", "80"], "says libpcap: can't parse filter expression: syntax error"),
        (["-r", empty, "tcp prot"], "says libpcap"),
        (["-i", "nope0"], "there is no interface 'nope0' here"),
        (["-c", "0"], "--count must be at least 1"),
        (["-r", empty, "-X", "-w", tmp_path / "x"], "-X is about lines, and -w prints none; add --print"),
        (["-r", empty, "-w", ""], "-r and -w name a file, and an empty word is no name; - is stdin, or stdout"),
        (["-r", empty, "x" * 20_000], "…' (20000 letters) is not one, says libpcap: "),
        (["--duration", "nan"], "--duration is in seconds"),
        (["--ring-size", "0"], "--ring-size is in MiB"),
        (["-s", "0"], "--snap-length is in bytes"),
        (["--follow", "4194305"], "there is no process 4194305"),
        (["--follow", "1", "--no-owners"], "--follow looks for owners"),
        (["-r", "/nowhere.pcapng"], "/nowhere.pcapng cannot be read: no such file or directory"),
        (["-r", tmp_path], "cannot be read: is a directory"),
        (["-r", empty, "-i", "lo"], "-i is about a running capture"),
        (["-r", empty, "-w", empty], "cannot be read and written at once"),
        (["-w", "-", "--json"], "stdout cannot take the packets and lines as well"),
        (["--direction", "up"], "invalid choice"),
    ]
    for words, said in wrong:
        assert main(["capture", *map(str, words)]) == 2
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.startswith("underlay: ") and errors.count("\n") == 1, errors
        assert said in errors


def test_an_interface_of_a_name_of_any_bytes_is_one_like_others(net: Net, tmp_path: Path) -> None:
    """The kernel forbids only white space, "/" and ":" (dev_valid_name() in net/core/dev.c)."""
    ip, odd = needs_program("ip"), b"\xff\x1b[2J"
    made = [ip.encode(), b"link", b"add", b"name", odd, b"type", b"veth", b"peer", b"name", b"p0"]
    net.do(lambda: subprocess.run(made, check=True))
    net.do(lambda: subprocess.run([ip.encode(), b"link", b"set", odd, b"up"], check=True))
    path = tmp_path / "a.pcapng"
    program = [sys.executable, "-m", "underlay", "capture"]
    for words in (["-D"], ["-i", os.fsdecode(odd), "--duration", "0.1"], ["-i", "lo", "--duration", "0.1", "-w", path]):
        child = net.start(*program, *words)
        output, errors = child.communicate(timeout=LIMIT_S)
        assert child.returncode == 0, errors
        assert all(line.isprintable() for line in (output + errors).splitlines())
        assert "\\xff\\x1b[2J" in output + errors or "lo" in words
    net.ip("link", "set", "p0", "up")
    child = net.capture("-i", os.fsdecode(odd), "-w", path, "ether proto 0x88b5")
    with net.do(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as sock:
        sock.bind(("p0", 0))
        sock.send(bytes(12) + b"\x88\xb5" + bytes(46))
    end(child)
    assert [packet.interface.name for packet in packets(path)] == ["?\x1b[2J"]


def test_a_file_that_cannot_be_written_is_told_before_anything_is_captured(net: Net, tmp_path: Path) -> None:
    for path, said in (
        (Path("/nowhere/a.pcapng"), "make its directory first"),
        (tmp_path, "is a directory; name a file"),
    ):
        child = net.start(sys.executable, "-m", "underlay", "capture", "-i", "lo", "-w", path)
        output, errors = child.communicate(timeout=LIMIT_S)
        assert (child.returncode, output, errors.count("\n")) == (2, "", 1) and said in errors


def test_without_the_right_one_sentence_says_what_gives_it() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may become nobody; remedy: run the tests as root")
    readable = run("env", sys.executable, "-c", "print(1)").stdout
    assert readable
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY], capture_output=True, text=True, check=False, timeout=LIMIT_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "underlay: capturing takes CAP_NET_RAW, which this user has not; `sudo` before the command gives it\n"
    )


AS_NOBODY = f"""
import os, sys
from underlay.cli import main
from underlay.tools.capture import _cli
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
sys.exit(main(["capture"]))
"""


def test_root_is_given_up_for_the_user_who_called_sudo(net: Net, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    path = Path("/tmp") / f"underlay-sudo-{os.getpid()}.pcapng"
    try:
        child = net.capture("-i", "lo", "-w", path, env={"SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY)})
        status = Path(f"/proc/{child.pid}/status").read_text()
        ids = {line.split(":")[0]: line.split()[1:] for line in status.splitlines()}
        assert ids["Uid"] == ids["Gid"] == [str(NOBODY)] * 4
        assert ids["Groups"] == [str(NOBODY)]
        assert {ids[name][0].strip("0") for name in ("CapInh", "CapPrm", "CapEff")} == {""}
        for _ in range(TALKS):
            talk(net)
        time.sleep(0.3)
        end(child)
        assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY)
        assert any(f"[{os.getpid()}]" in packet.comment for packet in packets(path))  # of root's process, still found
    finally:
        path.unlink(missing_ok=True)


AS_SUDO = f"""
import os, sys
os.environ.update(SUDO_UID="{NOBODY}", SUDO_GID="{NOBODY}")
from underlay.tools.capture import Live
with Live(["lo"], keep_root=False) as live:
    live.begin()
    print(live._flows._process.pid, flush=True)
    sys.stdin.readline()
print("ended")
"""


def test_the_process_of_root_that_does_not_end_in_time_ends_by_itself(net: Net) -> None:
    """It cannot be killed by whoever gave up root; what it was asked may take it longer than we wait."""
    child = net.do(
        lambda: subprocess.Popen(
            [sys.executable, "-c", AS_SUDO],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
    )  # fmt: skip
    with child:
        assert child.stdin is not None and child.stdout is not None
        owners = int(child.stdout.readline())
        with open(f"/proc/{owners}/stat") as still_it:
            os.kill(owners, signal.SIGSTOP)
            try:
                output, errors = child.communicate("\n", timeout=LIMIT_S)
            finally:
                os.kill(owners, signal.SIGCONT)
            assert (child.returncode, output, errors) == (0, "ended\n", "")
            until_s = time.monotonic() + LIMIT_S
            while runs(still_it):
                assert time.monotonic() < until_s
                time.sleep(0.02)


def runs(file: TextIO) -> bool:
    """Whether the process of an open proc_pid_stat(5) is there and no zombie."""
    try:
        file.seek(0)
        return file.read().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False


def test_under_sudo_a_file_is_read_and_written_by_the_user_who_called_it(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may become another user; remedy: run the tests as root")
    path, secret = tmp_path / "roots.pcapng", tmp_path / "secret"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    PacketFile(fd).flush()
    os.close(fd)
    secret.mkdir(mode=0o700)
    env = {**os.environ, "SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY)}
    words = [sys.executable, "-m", "underlay", "capture", "-r", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env, timeout=LIMIT_S)
    assert (done.returncode, done.stderr) == (0, "")
    words += ["-w", str(secret / "a.pcapng")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env, timeout=LIMIT_S)
    assert done.returncode == 2 and "by the user who called sudo: choose a place of theirs" in done.stderr
    assert list(secret.iterdir()) == []


def test_options_may_stand_between_the_words_of_a_filter(tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "underlay", "capture", "tcp", "-r", os.devnull, "prot", "80", expect=[2])
    assert "the filter 'tcp prot 80' is not one" in done.stderr


def test_a_full_disk_ends_it_with_a_whole_file_and_the_count(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    child = net.capture("-i", "lo", "-w", path, "udp", preexec_fn=limit)
    net.burst(1000)
    _, errors = child.communicate(timeout=LIMIT_S)
    assert child.returncode == 1, errors
    assert "a.pcapng takes no more: file too large" in errors and "Traceback" not in errors
    found = packets(path)
    assert 0 < len(found) < 1000 and path.stat().st_size <= 5000
    assert f"{path}: {len(found)} packets" in errors and "are not in it" in errors
    child = net.capture("-i", "lo", "-w", path, "--print", "udp", preexec_fn=limit)
    net.burst(1000)
    output, errors = child.communicate(timeout=LIMIT_S)
    assert output.count("\n") >= len(packets(path)) > 0  # what a person was to see is seen
    child = net.capture("-i", "lo", "-w", "/dev/full", "udp")
    net.burst(10)
    _, errors = child.communicate(timeout=LIMIT_S)
    assert child.returncode == 1 and "/dev/full takes no more: no space left on device; make room" in errors
    child = net.capture("-i", "lo", "-w", "/dev/full", "--duration", "0.2", "udp port 9")
    _, errors = child.communicate(timeout=LIMIT_S)  # no packet came, and not even the file's head is in it
    assert child.returncode == 1 and "/dev/full takes no more: no space left on device" in errors
    with open("/dev/full", "w") as full:
        child = net.capture("-i", "lo", "udp", stdout=full.fileno())
        net.burst(10)
        _, errors = child.communicate(timeout=LIMIT_S)
        assert child.returncode == 1 and "stdout takes no more: no space left on device; make room" in errors
        assert "0 dropped by the kernel" in errors and errors.count("\n") == 2  # and what it began with, read before
        done = subprocess.run(
            [sys.executable, "-m", "underlay", "capture", "-r", path], stdout=full, stderr=subprocess.PIPE, text=True,
            check=False, timeout=LIMIT_S,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr == "underlay: stdout takes no more: no space left on device; make room, or write elsewhere\n"


def test_a_reader_that_left_before_the_summary_costs_no_count(net: Net, tmp_path: Path) -> None:
    unread, output = os.pipe()
    os.close(unread)
    child = net.capture("-i", "lo", "--json", "-w", tmp_path / "a", "--duration", "0.3", "udp port 9", stdout=output)
    os.close(output)
    _, errors = child.communicate(timeout=LIMIT_S)
    assert child.returncode == 141
    assert "0 packets captured" in errors and f"{tmp_path / 'a'}: 0 packets" in errors


def test_a_reader_that_leaves_ends_it_and_the_counts_are_told(net: Net, tmp_path: Path) -> None:
    """As `| head` does."""
    beside = tmp_path / "beside.pcapng"
    for words in (["-w", "-"], ["udp"], ["--json"], ["-w", beside, "--print"]):
        child = net.capture("-i", "lo", *words)
        assert child.stdout is not None
        child.stdout.close()
        net.burst(2000)
        assert child.wait(LIMIT_S) == 141
        assert child.stderr is not None
        errors = child.stderr.read()
        assert "Traceback" not in errors and " 0 dropped by the kernel" in errors
    with open(beside, "rb") as file:  # what it took is in it, and the counts
        reader = CaptureReader(file)
        assert 0 < len(list(reader)) <= 2000 and reader.dropped_packets == 0


def test_the_reader_of_a_named_pipe_that_leaves_is_told(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    child = net.capture("-i", "lo", "-w", path, "udp")
    os.close(reader)
    net.burst(10)
    _, errors = child.communicate(timeout=LIMIT_S)
    assert child.returncode == 1 and "Traceback" not in errors
    assert f"{path} takes no more: broken pipe" in errors and " 0 dropped by the kernel" in errors


@pytest.mark.long
def test_standard_descriptors_that_the_shell_closed_are_no_sockets_of_ours(net: Net) -> None:
    command = f"exec {sys.executable} -m underlay capture -i lo -c 2 udp"
    for closed in ("<&-", ">&-", "<&- >&-"):
        child = net.start("sh", "-c", f"{command} {closed}")
        assert child.stderr is not None and "capturing on" in child.stderr.readline()
        net.burst(5)
        output, errors = child.communicate(timeout=LIMIT_S)
        assert child.returncode == 0 and "2 packets captured" in errors
        assert output.count("\n") == (2 if closed == "<&-" else 0)
    child = net.start("sh", "-c", f"{command} -w - >&-")
    assert "there is no stdout to write to" in child.communicate(timeout=LIMIT_S)[1]
    assert child.returncode == 2


def test_an_interface_that_goes_away_ends_it_with_status_1(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    net.ip("link", "add", "name", "v0", "type", "veth", "peer", "name", "v1")
    net.ip("link", "set", "v0", "up")
    child = net.capture("-i", "v0", "-w", path)
    net.ip("link", "delete", "v0")
    _, errors = child.communicate(timeout=LIMIT_S)
    assert child.returncode == 1 and "v0 went away, and with it the capture" in errors
    packets(path)


def test_a_file_that_is_not_whole_is_read_as_far_as_it_goes(net: Net, tmp_path: Path) -> None:
    path, cut = tmp_path / "a.pcapng", tmp_path / "cut.pcapng"
    child = net.capture("-i", "lo", "-c", "10", "-w", path, "udp")
    net.burst(10)
    child.communicate(timeout=LIMIT_S)
    whole = path.read_bytes()
    place = whole.rindex(struct.pack("<I", 6), 0, len(whole) - 200)
    cut.write_bytes(whole[: place + 40])
    done = capture("-r", cut, expect=1)
    assert 0 < done.stdout.count("\n") < 10
    assert "is not whole: it ends in the middle of a packet" in done.stderr and done.stderr.count("\n") == 1
    for nonsense, said in ((b"", "is no capture: it is empty"), (b"PK\3\4" + bytes(500), "is neither pcapng nor pcap")):
        cut.write_bytes(nonsense)
        done = capture("-r", cut, expect=1)
        assert said in done.stderr and done.stdout == ""


def test_the_interfaces_are_listed() -> None:
    rows = [line.split() for line in capture("-D").stdout.splitlines()]
    assert rows[0] == ["name", "state", "link", "number"]
    assert ["lo", "up", "Ethernet", "1"] in rows and rows[-1][0] == "any"
    told = json.loads(capture("-D", "--json").stdout)
    assert (told["schema"], told["type"]) == ("underlay.capture/1", "interfaces")
    assert {"name": "lo", "state": "up", "link": "Ethernet", "number": 1} in told["interfaces"]


@pytest.mark.long
def test_the_benchmark_counts_all_packets_in_its_file() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may capture; remedy: run the tests as root")
    done = run(sys.executable, ROOT / "benchmarks" / "capture.py", "--packets", "2000", "--rounds", "1")
    assert done.stdout.startswith("2000 datagrams of 64 bytes at once, median of 1\n")
    rows = [line.rsplit(maxsplit=3) for line in done.stdout.splitlines()[2:]]
    ours = {row[0]: int(row[3]) for row in rows if row[0].startswith("underlay")}
    assert set(ours) == {"underlay -w, no owners", "underlay -w", "underlay, lines", "underlay, JSON"}
