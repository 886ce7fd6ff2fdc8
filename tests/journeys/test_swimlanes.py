"""The pictures of docs/models.md come from real runs, and say in words what they show in colour."""

from __future__ import annotations

import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from benchmarks.lanes_svg import Call, Lane, Recording, Request, draw
from benchmarks.swimlanes import parse

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CONNECTION = "TCP:[127.0.0.1:7799->127.0.0.1:40000]"


def parsed(line: str) -> Call:
    (call,) = parse(iter([line]), until_s=20.0)
    return call


def test_a_read_names_its_connection_and_how_much_it_copied() -> None:
    call = parsed(f'10.5 recvfrom(7<{CONNECTION}>, ""..., 65536, 0, NULL, NULL) = 1024 <0.000012>')
    assert call == Call("recvfrom", 10.5, 0.000012, CONNECTION, "1024")
    assert call.kind == "read"


def test_an_errno_is_kept_by_name() -> None:
    line = f"10.5 recvfrom(7<{CONNECTION}>, 0x7f00, 65536, 0, NULL, NULL) = -1 EAGAIN (Resource …) <0.000007>"
    assert parsed(line).outcome == "EAGAIN"
    assert parsed(line).kind == "again"


def test_a_signal_wait_has_no_descriptor() -> None:
    line = "10.5 rt_sigtimedwait([IO RT_31], {si_signo=SIGRT_31, si_int=3}, NULL, 8) = 63 (SIGRT_31) <0.004000>"
    assert parsed(line) == Call("rt_sigtimedwait", 10.5, 0.004, "", "63")
    assert parsed(line).kind == "wait"


def test_a_call_that_never_returned_lasts_to_the_end() -> None:
    call = parsed("10.5 accept4(5<TCP:[127.0.0.1:7799]>, ")
    assert (call.name, call.end_s, call.outcome) == ("accept4", 20.0, "")
    assert call.waits


def test_what_is_no_call_is_passed_over() -> None:
    lines = ["--- SIGTERM {si_signo=SIGTERM} ---", "+++ exited with 0 +++", ""]
    assert list(parse(iter(lines), until_s=20.0)) == []


def recording(*calls: Call) -> Recording:
    return Recording(
        "epoll_et", 0.0, 0.01, (Lane("main thread", calls),), (Request("A", 0.004, 0.006),), {"40000": "A"}
    )


def test_the_drawing_is_well_formed_and_tells_in_words_who_waited() -> None:
    root = ET.fromstring(
        draw(
            recording(
                Call("epoll_wait", 0.0, 0.005, "EPOLL:[4]", "1"),
                Call("recvfrom", 0.0051, 0.00001, CONNECTION, "10"),
                Call("sendto", 0.0052, 0.00001, CONNECTION, "10"),
            )
        )
    )
    words = " ".join(root.itertext())
    assert "Model epoll-et" in words
    assert "main thread: waits in epoll_wait" in words


def test_the_crossings_lead_to_who_read_and_from_who_sent() -> None:
    without = draw(recording(Call("epoll_wait", 0.0, 0.005, "", "1"))).count('class="flow"')
    both = draw(
        recording(Call("recvfrom", 0.0051, 0.00001, CONNECTION, "9"), Call("sendto", 0.0052, 0.00001, CONNECTION, "9"))
    )
    assert without == 0
    assert both.count('class="flow"') == 2


def test_many_refusals_are_counted_in_a_note() -> None:
    asks = [Call("recvfrom", i / 1000, 0.00001, CONNECTION, "EAGAIN") for i in range(9)]
    assert "9 × recvfrom = EAGAIN" in draw(recording(*asks))


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed (apt install strace)")
def test_a_real_run_shows_the_call_in_which_its_model_waits(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "swimlanes.py"), "--io", "epoll,signal", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    for model, wait in (("epoll", "waits in epoll_wait"), ("signal", "waits for a signal")):
        drawn = (tmp_path / f"lanes-{model}.svg").read_text()
        assert wait in drawn
        assert drawn.count('class="flow"') == 8  # four requests, each noticed and answered


def test_without_strace_one_sentence_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "swimlanes.py"), "--out", str(tmp_path)],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "swimlanes: strace is not installed; install it (apt install strace)\n"
