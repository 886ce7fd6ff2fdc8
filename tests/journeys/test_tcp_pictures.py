"""The pictures and the capture of docs/tcp.md are what the code draws and does now, and they show all of it.

To make them anew: ``python benchmarks/tcp_states.py`` and ``python benchmarks/tcp_life.py --out docs/figures``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from benchmarks import tcp_states
from benchmarks.tcp_ladder_svg import draw
from benchmarks.tcp_life import ANSWER, CLIENT, REQUEST, SERVER, Event, Life, parsed, transcript, write

from underlay.stack import TRANSITIONS, State
from underlay.trace import read_pcapng

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures"
PAGE = (ROOT / "docs" / "tcp.md").read_text()
REMEDY = "is not what the code gives now; look whether it should, then: python benchmarks/"


@pytest.fixture(scope="module")
def played() -> list[Event]:
    return Life().play()


def states(events: list[Event], side: int) -> list[str]:
    return [each.text for each in events if each.kind == "state" and each.side == side]


# --- the diagram ---


def test_the_committed_diagram_is_drawn_from_the_table_as_it_is_now() -> None:
    assert (FIGURES / "tcp-states.svg").read_text() == tcp_states.draw(), f"tcp-states.svg {REMEDY}tcp_states.py"


def test_the_diagram_has_every_state_and_every_way_once() -> None:
    root = ET.fromstring((FIGURES / "tcp-states.svg").read_text())
    texts = ["".join(each.itertext()) for each in root.findall(".//{*}text")]
    for state in State:
        assert texts.count(state.name) == (2 if state is State.CLOSED else 1), state
    drawn = sorted(each.attrib["data-way"] for each in root.findall(".//{*}g") if "data-way" in each.attrib)
    assert drawn == sorted(f"{state.name} {event.name} {to.name}" for (state, event), to in TRANSITIONS.items())


def test_each_arrow_of_the_diagram_bears_the_name_of_its_event() -> None:
    root = ET.fromstring((FIGURES / "tcp-states.svg").read_text())
    labels = sorted(each.text or "" for each in root.findall(".//{*}text") if each.get("class") == "label")
    arrows, common = tcp_states.ways()
    assert labels == sorted(way.event.value for way in arrows)
    legend = " ".join("".join(each.itertext()) for each in root.findall(".//{*}text") if each.get("class") == "small")
    assert all(event.value in legend for event in common)


def test_what_the_played_connection_did_is_drawn_thick() -> None:
    drawn = (FIGURES / "tcp-states.svg").read_text()
    for side in ("client", "server"):
        assert len(re.findall(f'<g data-way="[^"]*"><line class="{side}"', drawn)) == 6


# --- the connection ---


def test_the_connection_passes_the_states_of_a_client_that_closes_first(played: list[Event]) -> None:
    opened = ["SYN_SENT", "ESTABLISHED"]
    assert states(played, CLIENT) == [*opened, "FIN_WAIT_1", "FIN_WAIT_2", "TIME_WAIT", "CLOSED"]
    assert states(played, SERVER) == ["LISTEN", "SYN_RECEIVED", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK", "CLOSED"]


def test_one_segment_is_lost_and_sent_again_before_any_timeout(played: list[Event]) -> None:
    sent = [each for each in played if each.kind == "sent" and re.search(r"seq 1449:2897", each.text)]
    assert [each.lost for each in sent] == [True, False]
    # As soon as three segments behind it are known to have arrived: one round trip, no 200 ms.
    third = [each for each in played if each.kind == "arrived" and "sack 1 {2897:7194}" in each.text]
    assert [each.when_s for each in third] == [sent[1].when_s]


@pytest.mark.parametrize("lose", range(6))
def test_whichever_segment_is_lost_the_connection_comes_to_the_same_end(lose: int) -> None:
    events = Life(lose).play()
    assert sum(each.lost for each in events) == (1 if lose else 0)
    assert states(events, CLIENT)[-2:] == ["TIME_WAIT", "CLOSED"]
    assert states(events, SERVER)[-1] == "CLOSED"


def test_two_runs_are_the_same_to_the_byte(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write(tmp_path)]
    second = [path.read_bytes() for path in write(tmp_path)]
    assert first == second


@pytest.mark.parametrize("name", ["tcp-life.pcapng", "tcp-life.txt", "tcp-life.svg"])
def test_the_committed_files_are_what_the_connection_gives_now(name: str, tmp_path: Path) -> None:
    made = {path.name: path.read_bytes() for path in write(tmp_path)}
    assert (FIGURES / name).read_bytes() == made[name], f"{name} {REMEDY}tcp_life.py --out docs/figures"


def test_the_capture_holds_each_segment_once_and_says_which_was_lost(played: list[Event]) -> None:
    links, frames = read_pcapng(FIGURES / "tcp-life.pcapng")
    assert [(link.name, link.is_ethernet) for link in links] == [("client", False), ("server", False)]
    sent = [each for each in played if each.kind == "sent"]
    assert [frame.comment for frame in frames] == ["dropped: loss" if each.lost else "" for each in sent]
    data: dict[str, dict[int, bytes]] = {"client": {}, "server": {}}
    for frame in frames:
        segment = parsed(frame.data)
        data[frame.link][segment.seq] = bytes(segment.payload)
    assert b"".join(data["client"][seq] for seq in sorted(data["client"])) == REQUEST
    assert b"".join(data["server"][seq] for seq in sorted(data["server"])) == ANSWER


def test_tshark_finds_no_fault_in_the_capture() -> None:
    tshark = shutil.which("tshark")
    if tshark is None:
        pytest.skip("tshark is not installed; remedy: apt install tshark")
    checks = [part for name in ("ip", "tcp") for part in ("-o", f"{name}.check_checksum:TRUE")]
    fields = [part for name in ("ip.checksum.status", "tcp.checksum.status", "_ws.malformed") for part in ("-e", name)]
    done = subprocess.run(
        [tshark, "-r", str(FIGURES / "tcp-life.pcapng"), *checks, "-T", "fields", "-E", "separator=|", *fields],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # 1 is good; nothing is malformed.
    assert done.stdout.splitlines() == ["1|1|"] * len(read_pcapng(FIGURES / "tcp-life.pcapng")[1])


# --- the ladder ---


def test_the_ladder_shows_each_segment_and_each_change_of_state(played: list[Event]) -> None:
    root = ET.fromstring(draw(played))
    texts = ["".join(each.itertext()) for each in root.findall(".//{*}text")]
    changes = [each.text for each in played if each.kind == "state"]
    assert [text.removeprefix("→ ") for text in texts if text.startswith("→ ")] == changes
    sent = [each for each in played if each.kind == "sent"]
    assert sum(bool(re.match(r"\[[A-Z.]+\] ", text)) for text in texts) == len(sent)
    arrows = [each for each in root.findall(".//{*}path") if each.get("class", "").startswith("head-")]
    assert len(arrows) == sum(not each.lost for each in sent)
    assert texts.count("✕") == 1


# --- the page ---


def test_the_page_quotes_only_what_was_on_the_wire() -> None:
    lines = (FIGURES / "tcp-life.txt").read_text()
    quoted = re.findall(r"`((?:ack|seq|win|sack|mss|wscale) [^`]*\d[^`]*)`", PAGE)
    assert len(quoted) > 5
    assert [each for each in quoted if each not in lines] == []


def test_the_page_names_only_files_and_functions_that_there_are() -> None:
    stack = {path.name: path.read_text() for path in (ROOT / "src/underlay/stack").glob("*.py")}
    everything = "\n".join(stack.values())
    files = re.findall(r"`(?:stack/)?(_\w+\.py)`", PAGE)
    assert files and [name for name in files if name not in stack] == []
    names = re.findall(r"`(_?[a-z]\w*_\w+)`", PAGE)
    assert names and [name for name in names if not re.search(rf"\b{name}\b", everything)] == []


# --- the commands ---


def test_the_command_prints_the_transcript_of_another_loss() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/tcp_life.py"), "--lose", "5"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == transcript(Life(5).play())


def test_the_command_writes_a_capture_and_a_ladder_where_it_is_told(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/tcp_life.py"), "--lose", "1", "--out", str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(path) for path in write(tmp_path / "new", 1)]
    assert (tmp_path / "new" / "tcp-life.svg").read_text() == draw(Life(1).play())


def test_the_command_draws_the_diagram_where_it_is_told(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/tcp_states.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'tcp-states.svg'}\n"
    assert (tmp_path / "tcp-states.svg").read_text() == tcp_states.draw()
