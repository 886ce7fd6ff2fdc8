"""`underlay sim`: what it prints, its exit status, and each mistake in a sentence.

It knows the command within this process. On a terminal, and interrupted, it is in tests/journeys.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from underlay.cli import main
from underlay.trace import read_pcapng

SCENARIO = """
import asyncio

async def serve():
    async with await asyncio.start_server(lambda reader, writer: writer.close(), port=7) as server:
        await server.serve_forever()

async def main(world):
    world.link(world.host("client"), world.host("server", start=serve), delay="20ms", loss=0.01)
    async with world.host("client"):
        await asyncio.sleep(1)
        _, writer = await asyncio.open_connection("server", 7)
        writer.close()
        print("it printed")
        world.partition("server", to="client")
        world.host("server").crash()
        assert world.seed != 7, "unlucky"
"""

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a scenario, in the folder in which we are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "80")

    def write(text: str) -> str:
        (tmp_path / "scenario.py").write_text(text)
        return "scenario.py"

    yield write
    sys.modules.pop("scenario", None)


def test_it_shows_hosts_and_ways_and_ends_with_0(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", write(SCENARIO)]) == 0
    said = capsys.readouterr()
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert lines[0] == "it printed"
    assert lines[1].startswith("seed 0, 1.") and lines[1].endswith("s of virtual time, ended")
    assert any(line.startswith("server 10.0.0.2 down 1 0 ") for line in lines)
    assert any(line.startswith("server → client 20 ms, loss 1 % cut ") for line in lines)
    assert any(line.startswith("last fault: at 1.") and line.endswith(" s crash server") for line in lines)
    assert max(map(len, said.out.splitlines())) <= 80 and "\x1b" not in said.out
    assert said.err == ""


def test_a_scenario_that_fails_is_told_with_its_seed_and_its_own_lines(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sim", write(SCENARIO), "--seed", "7"]) == 1
    said = capsys.readouterr()
    assert "failed" in said.out
    assert 'assert world.seed != 7, "unlucky"' in said.err and "_schedule.py" not in said.err
    assert said.err.splitlines()[-1].startswith("underlay: seed 7 fails at 1.")
    assert said.err.endswith("AssertionError: unlucky; `underlay sim scenario.py --seed 7` repeats it\n")


def test_a_program_that_fails_fails_the_scenario(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    text = "import asyncio\nasync def work():\n    raise LookupError('in it')\n"
    text += "async def scenario(world):\n    world.host('a', start=work)\n    await asyncio.sleep(1)\n"
    assert main(["sim", write(text)]) == 1
    assert "fails at 0 s: LookupError: in it" in capsys.readouterr().err


def test_json_is_all_that_it_prints(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", write(SCENARIO), "--json", "--seed", "3"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert (told["status"], told["error"], told["seed"]) == ("ended", None, 3)
    assert [host["name"] for host in told["hosts"]] == ["client", "server"]
    assert told["ways"][0]["conditions"] == {"delay_s": 0.02, "loss": 0.01}
    assert [fault["kind"] for fault in told["faults"]["applied"]] == ["link", "partition", "crash"]
    assert "it printed" in said.err
    assert main(["sim", "scenario.py", "--json", "--seed", "7"]) == 1
    assert json.loads(capsys.readouterr().out)["error"] == "AssertionError: unlucky"


def test_one_seed_gives_the_same_picture_each_time(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(SCENARIO)
    pictures = []
    for seed in ("1", "1", "2"):
        main(["sim", file, "--json", "--seed", seed])
        pictures.append(capsys.readouterr().out)
    assert pictures[0] == pictures[1] != pictures[2]


def test_it_records(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(SCENARIO)
    for _ in range(2):  # a recording may be made again
        assert main(["sim", file, "--record", "seen"]) == 0
    links, frames = read_pcapng("seen/capture.pcapng")
    assert [link.name for link in links] == ["client | server"] and frames
    assert "crash server" in Path("seen/timeline.txt").read_text()
    Path("full").mkdir()
    Path("full/of").touch()
    assert main(["sim", file, "--record", "full"]) == 2
    assert capsys.readouterr().err == "underlay: full is there, and is no recording; name a new folder\n"


LONG = """
async def main(world):
    world.link(world.host("a-host-with-a-name-of-its-own-that-is-long"), world.host("another-of-a-name-that-is-long"),
               delay="20ms", jitter="5ms", rate="10mbit", loss=0.01)
    world.partition("a-host-with-a-name-of-its-own-that-is-long")
"""


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_table_is_no_wider_than_the_terminal_and_names_are_cut_before_figures(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["sim", write(LONG)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    heads = [line.split() for line in lines if line.startswith((" host ", " way "))]
    assert heads == [
        ["host", "address", "state", "boots", "tcp", "sent", "packets", "in"],
        ["way", "like", "state", "packets", "arrived", "lost"],
    ]
    assert sum(line.count(" cut ") for line in lines) == 2


def test_the_table_says_all_that_a_way_is_like(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    words = 'delay="20ms", jitter="5ms", rate="10mbit", queue=50, reorder=0.1, mtu=1400'
    assert (
        main(["sim", write(f'async def main(world):\n    world.link(world.host("a"), world.host("b"), {words})\n')])
        == 0
    )
    assert "20-25 ms, 10 Mbit/s, queue 50, reorder 10 %, mtu 1400" in capsys.readouterr().out


def test_a_pipe_gets_whole_names_and_no_more_blanks_than_it_takes(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    assert main(["sim", write(LONG)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("a-host-with-a-name-of-its-own-that-is-long → another-of-a-name-that-is-long" in line for line in lines)
    assert lines == [line.rstrip() for line in lines]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_pipe_that_takes_ascii_only_gets_ascii(write: Write, options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "underlay", "sim", write(LONG), *options],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": ""},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert b"another-of-a-name-that-is-long" in done.stdout and done.stdout.isascii()


THREE = """
import asyncio

async def main(world):
    for one, other in (("client", "server"), ("client", "db")):
        async with world.host(one):
            world.host(other)
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(other, 9))
            transport.sendto(b"hello")
            await asyncio.sleep(1)
"""


@pytest.mark.parametrize(
    ("options", "links"),
    [
        ([], ["client | server", "client | db"]),
        (["--link", "db,client"], ["client | db"]),
        (["--link", "server"], ["client | server"]),
    ],
)
def test_it_captures_all_links_or_one(write: Write, options: list[str], links: list[str]) -> None:
    assert main(["sim", write(THREE), "--capture", "calls.pcapng", *options]) == 0
    assert [link.name for link in read_pcapng("calls.pcapng")[0]] == links


def test_a_capture_of_nothing_says_who_is_there(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", write(THREE), "--capture", "calls.pcapng", "--link", "db,clinet"]) == 2
    said = capsys.readouterr().err
    assert "calls.pcapng is empty: no packet passed between db and clinet; hosts are client, server, db\n" in said
    assert said.endswith("--link: there was no host 'clinet'; did you mean 'client'?\n")


def test_a_test_of_sim_may_be_the_scenario(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    text = "from underlay import sim\n@sim.test(delay='1s')\nasync def main(world):\n    world.host('a')\n"
    text += "    world.link('a', world.host('b'))\n"
    assert main(["sim", write(text), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ways"][0]["conditions"] == {"delay_s": 1.0}


def test_a_large_world_is_cut_and_that_is_said(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    text = "async def main(world):\n    for n in range(500):\n        world.host(f'host-{n}')\n"
    assert main(["sim", write(text)]) == 0
    out = capsys.readouterr().out
    assert "more hosts; --json tells all" in out and out.count("\n") < 80


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "scenario.py has no scenario; write async def main(world) in it"),
        ("def main(world): pass", "main in scenario.py is no coroutine function; write async def main(world)"),
        ("async def main(): pass", "main in scenario.py does not take a world alone; write async def main(world)"),
        ("async def main(world):", "scenario.py cannot be read: expected an indented block"),
        ("\nimport nowhere_at_all", "scenario.py cannot be loaded: ModuleNotFoundError: No module named 'nowhere_at"),
        ("raise SystemExit(3)", "scenario.py cannot be loaded: SystemExit: 3, at line 1; mend it"),
    ],
)
def test_a_file_without_a_scenario_is_refused_in_a_sentence(
    write: Write, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    assert main(["sim", write(text)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"underlay: {said}") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.py"], "nowhere.py does not exist; name a Python file"),
        (["."], ". is a directory; name a Python file"),
        (["scenario.py", "--seed", "x"], "'x' is no seed; a seed is a number such as 7"),
        (["scenario.py", "--link", "a,b,c", "--capture", "x"], "'a,b,c' is no link; write the names of its ends"),
        (["scenario.py", "--link", "a,b"], "--link says what to capture, and not where; add --capture FILE"),
        (["scenario.py", "--capture", "no/where"], "no/where cannot be written: No such file or directory"),
        (["scenario.py", "--pace", "0"], "'0' is no pace; write 1 for real time"),
    ],
)
def test_a_mistake_in_the_asking_ends_with_2(
    write: Write, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    write(SCENARIO)
    assert main(["sim", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
