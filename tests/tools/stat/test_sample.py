"""The files of /proc are read as their pages say, on this kernel and on others, and what is missing is None."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.errors import UnderlayError, UsageError
from underlay.tools.stat import CpuTicks, Watch, process_usage, read_processes, read_sample
from underlay.tools.stat import _watch as watch_module

STAT = """cpu  100 20 30 400 5 6 7 8 9 10
cpu0 50 10 15 200 2 3 3 4 4 5
cpu3 50 10 15 200 3 3 4 4 5 5
intr 12345 0 1 2
ctxt 67890
btime 1700000000
processes 321
procs_running 4
procs_blocked 2
softirq 100 1 2 3 4 5 6 7 8 9 10
"""
MEMINFO = "MemTotal: 1000 kB\nMemFree: 400 kB\nMemAvailable: 700 kB\nBuffers: 50 kB\nCached: 300 kB\n" \
    "SReclaimable: 20 kB\nSwapTotal: 100 kB\nSwapFree: 90 kB\nHugePages_Total: 0\n"  # fmt: skip
VMSTAT = "pgpgin 10\npgpgout 20\npswpin 3\npswpout 4\npgmajfault 5\nnr_new_thing 6\n"
DEV = "Inter-| Receive | Transmit\n face |bytes ...\n" \
    "  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\neth0:1:17 18 0 0 0 0 0 0 19 20 0 0 0 0 0 0\n"  # fmt: skip


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine with two of four processors."""
    files = {
        "stat": STAT,
        "meminfo": MEMINFO,
        "vmstat": VMSTAT,
        "uptime": "1234.56 2000.00\n",
        "pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=111\nfull avg10=0.00 total=222\n",
        "pressure/io": "some avg10=0.00 avg60=0.00 avg300=0.00 total=333\n",
        "thread-self/net/dev": DEV,
        "thread-self/net/sockstat": "sockets: used 40\nTCP: inuse 5 orphan 1 tw 7 alloc 9 mem 2\nUDP: inuse 3 mem 2\n",
        "thread-self/net/sockstat6": "TCP6: inuse 2\nUDP6: inuse 1\n",
        "thread-self/net/snmp": "Tcp: RtoMin OutSegs RetransSegs\nTcp: -1 1000 12\nUdp: InDatagrams\nUdp: 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_each_value_is_the_one_its_page_names(proc: Path) -> None:
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    sample = read_sample(proc)
    assert sample.uptime_s == 1234.56
    assert sample.cpu == CpuTicks(100, 20, 30, 400, 5, 6, 7, 8, 9, 10)
    assert sample.cpus.keys() == {0, 3}
    assert (sample.running, sample.blocked, sample.forks) == (4, 2, 321)
    assert (sample.interrupts, sample.context_switches) == (12345, 67890)
    assert (sample.softirqs["hi"], sample.softirqs["rcu"], len(sample.softirqs)) == (1, 10, 10)
    memory = sample.memory
    assert (memory.cached_bytes, memory.swap_used_bytes, memory.available_bytes) == (320 << 10, 10 << 10, 700 << 10)
    assert (sample.paged_in_bytes, sample.swapped_out_bytes) == (10 << 10, 4 * page_bytes)
    assert sample.pressure_us == {"cpu_some": 111, "cpu_full": 222, "io_some": 333}
    assert sample.interfaces is not None
    assert (sample.interfaces["eth0"].received_bytes, sample.interfaces["eth0"].sent_bytes) == (1, 9)
    assert (sample.interfaces["eth0"].received_dropped, sample.interfaces["eth0"].sent_dropped) == (4, 12)
    assert sample.interfaces["eth0:1"].sent_packets == 20
    assert sample.sockets is not None
    assert (sample.sockets.used, sample.sockets.tcp, sample.sockets.udp) == (40, 7, 4)
    assert (sample.sockets.tcp_time_wait, sample.sockets.tcp_orphans) == (7, 1)
    assert (sample.tcp_sent_segments, sample.tcp_retransmitted_segments) == (1000, 12)


@pytest.mark.parametrize(
    ("gone", "what"),
    [
        ("pressure/cpu", "pressure_us"),
        ("thread-self/net/dev", "interfaces"),
        ("thread-self/net/sockstat", "sockets"),
        ("thread-self/net/snmp", "tcp_sent_segments"),
    ],
)
def test_a_file_that_this_kernel_lacks_is_none_of_its_values(proc: Path, gone: str, what: str) -> None:
    (proc / gone).unlink()
    (proc / "pressure/io").unlink(missing_ok=True)
    assert getattr(read_sample(proc), what) is None


@pytest.mark.parametrize("file", ["thread-self/net/dev", "thread-self/net/sockstat", "thread-self/net/snmp"])
@pytest.mark.parametrize("text", ["", "x", "a: b\n", "Tcp: A\nTcp: 1 2\n", "h\nh\neth0: 1\n", "TCP: inuse\n"])
def test_a_file_of_another_layout_is_none_of_its_values(proc: Path, file: str, text: str) -> None:
    (proc / file).write_text(text)
    read_sample(proc)


def test_an_old_kernel_has_fewer_columns_and_a_new_one_may_have_more(proc: Path) -> None:
    (proc / "stat").write_text(STAT.replace("8 9 10\ncpu0", "8\ncpu0"))
    assert read_sample(proc).cpu == CpuTicks(100, 20, 30, 400, 5, 6, 7, 8, 0, 0)
    (proc / "stat").write_text(STAT.replace("9 10\ncpu0", "9 10 11 12\ncpu0"))
    assert read_sample(proc).cpu.guest_nice == 10


def test_without_proc_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "read_sample", lambda: read_sample(tmp_path))
    with pytest.raises(
        UnderlayError, match=r"/proc does not tell what .*/stat: no such file or directory; is it mounted"
    ):
        list(Watch().readings())


# --- processes -------------------------------------------------------------------------------------------


def process(proc: Path, pid: int, name: str, *, ticks: int = 100, started: int = 7, io: str | None = None) -> None:
    folder = proc / str(pid)
    folder.mkdir(exist_ok=True)
    fields = [
        "S",
        "1",
        *["0"] * 5,
        "11",
        "0",
        "12",
        "0",
        str(ticks),
        "50",
        *["0"] * 4,
        "3",
        "0",
        str(started),
        "0",
        "9",
    ]
    (folder / "stat").write_bytes(f"{pid} ({name}) {' '.join(fields)} 0 0\n".encode())
    if io is not None:
        (folder / "io").write_text(io)


def test_too_many_open_files_are_not_said_of_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(watch_module, "read_sample", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        next(Watch().readings())


def test_a_process_is_read_whatever_it_calls_itself(tmp_path: Path) -> None:
    process(tmp_path, 5, "a) R 1 (b", io="rchar: 1\nread_bytes: 4096\nwrite_bytes: 8192\n")
    (found,) = read_processes(proc=tmp_path)
    assert (found.pid, found.name, found.state, found.threads) == (5, "a) R 1 (b", "S", 3)
    assert (found.user_ticks, found.system_ticks, found.started_ticks) == (100, 50, 7)
    assert (found.minor_faults, found.major_faults) == (11, 12)
    assert found.resident_bytes == 9 * os.sysconf("SC_PAGE_SIZE")
    assert (found.read_bytes, found.written_bytes) == (4096, 8192)


def test_a_name_that_would_write_to_the_terminal_does_not(tmp_path: Path) -> None:
    process(tmp_path, 5, "\x1b[2J\n")
    assert read_processes(proc=tmp_path)[0].name == "?[2J?"


def test_a_number_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    process(tmp_path, 5, "first", ticks=1000)
    before = read_processes(proc=tmp_path)
    process(tmp_path, 5, "second", ticks=ticks_per_s, started=8)
    (usage,) = process_usage(before, read_processes(proc=tmp_path), 2.0)
    assert usage.user_percent == 50  # its own second of two, and nothing of the other's


def test_the_busiest_come_first_and_what_may_not_be_read_is_none(tmp_path: Path) -> None:
    for pid in (5, 6, 7):
        process(tmp_path, pid, f"p{pid}")
    before = read_processes(proc=tmp_path)
    for pid, ticks in ((5, 101), (6, 150), (7, 120)):
        process(tmp_path, pid, f"p{pid}", ticks=ticks)
    usages = process_usage(before, read_processes(proc=tmp_path), 1.0)
    assert [usage.pid for usage in usages] == [6, 7, 5]
    assert usages[0].read_bytes_per_s is None


@given(st.binary(max_size=60))
def test_noise_in_place_of_a_process_raises_nothing(noise: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "5").mkdir()
        (Path(folder) / "5" / "stat").write_bytes(noise)
        (Path(folder) / "5" / "io").write_bytes(noise)
        read_processes(proc=Path(folder))


# --- wrong use -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("0", "an interval of 0 s; give 0.01 to"),
        ("nan", "an interval of nan s"),
        ("1 0", "0 rows; give 1 or more"),
        ("--pid 999999999", "there is no process 999999999"),
        ("--pid -1", "there is no process -1"),
        ("--top -1", "busiest processes; give"),
        ("--top 0", "the 0 busiest processes; give 1 or more"),
        ("2000000", "an interval of 2000000 s; give 0.01 to 1000000"),
        ("1 --live", "--live takes a terminal"),
        ("one", "argument INTERVAL: 'one' is no number"),
        ("--wide --json", "not allowed with argument"),
    ],
)
def test_wrong_use_is_one_sentence(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    from underlay.cli import main

    assert main(["stat", *words.split()]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("underlay: ") and errors.count("\n") == 1
    assert says in errors


def test_a_process_that_is_not_there_is_wrong_use_of_the_library_too() -> None:
    with pytest.raises(UsageError):
        Watch(pids=[999_999_999])


def test_the_help_has_examples_and_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    from underlay.cli import main

    assert main(["stat", "--help"]) == 0
    output = capsys.readouterr().out
    assert "examples:" in output and "Exit status: 0" in output
    assert max(map(len, output.splitlines())) <= 80
