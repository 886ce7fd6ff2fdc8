"""The pytest plugin: one item for all seeds, options, what a failure says and leaves.

It knows what a person types and reads. Exploring and shrinking by themselves are in `test_explore.py` and
`test_shrink.py`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from underlay.sim import _determinism, _elsewhere, _failure, _plugin, _progress, _twice
from underlay.trace import read_pcapng

# pytester forgets what a run within this process imported, and a probe cannot be declared twice.
__all__ = ["_determinism", "_elsewhere", "_failure", "_plugin", "_progress", "_twice"]

pytest_plugins = ["pytester"]

# The plugin comes by its entry point where underlay is installed since it has one.
INSTALLED = any(each.value == "underlay.sim._plugin" for each in entry_points(group="pytest11"))
PLUGIN = [
    *([] if INSTALLED else ["-p", "underlay.sim._plugin"]),
    *("-W", "error", "-o", "asyncio_default_fixture_loop_scope=function"),
]

Run = Callable[..., pytest.RunResult]

HEAD = """
import asyncio, logging, os, pytest
from pathlib import Path
from underlay import sim

def note(file, text):
    with Path(file).open("a") as opened:
        opened.write(text)
"""

# A client asks 20 times; what the link loses decides whether it is done in time.
UNLUCKY = (
    HEAD
    + """
async def echo(reader, writer):
    try:
        while data := await reader.read(1000):
            writer.write(data)
    except OSError:
        pass
    writer.close()

async def serve():
    logging.getLogger("app").info("the server %s", "listens")
    async with await asyncio.start_server(echo, port=7) as server:
        await server.serve_forever()

@sim.test(seeds=30)
async def test_unlucky(world):
    world.host("server", start=serve)
    async with world.host("client"):
        await asyncio.sleep(1)
        reader, writer = await asyncio.open_connection("server", 7)
        writer.write(b"hello")
        answer = await reader.read(5)
        print("the answer is", answer)
        writer.close()
        assert world.seed != 17, "unlucky"
"""
)


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run pytest on a file of tests, with the plugin."""

    def run(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=text)
        return pytester.runpytest_inprocess(*PLUGIN, *options)

    return run


def written(pytester: pytest.Pytester, name: str) -> str:
    return (pytester.path / name).read_text()


def test_all_seeds_are_one_item(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        HEAD
        + """
seeds = []

@sim.test(seeds=5)
async def test_it(world):
    seeds.append(world.seed)

def test_they_were_all_run():
    assert seeds == [0, 1, 2, 3, 4]
"""
    )
    result.assert_outcomes(passed=2)


def test_the_number_of_seeds_may_be_overridden(run: Run, pytester: pytest.Pytester) -> None:
    text = HEAD + "@sim.test(seeds=5)\nasync def test_it(world):\n    note('seeds', f'{world.seed} ')\n"
    run(text, "--underlay-seeds", "3").assert_outcomes(passed=1)
    run(text, "--underlay-seed", "17").assert_outcomes(passed=1)
    assert written(pytester, "seeds") == "0 1 2 17 "
    assert not (pytester.path / ".underlay").exists()  # what passes leaves nothing


def test_fixtures_parameters_and_classes_are_as_ever(run: Run) -> None:
    result = run(
        HEAD
        + """
@pytest.fixture
def name(tmp_path):
    assert tmp_path.exists()
    yield "server"

@pytest.mark.parametrize("loss", [0.0, 0.1])
@sim.test(seeds=2)
async def test_it(world, name, loss):
    world.host(name)
    assert name in world.hosts and loss in (0.0, 0.1)

class TestInAClass:
    @sim.test(seeds=2, loss=0.5)
    async def test_it(self, world, name):
        assert isinstance(self, TestInAClass) and world.internet.conditions.loss == 0.5
"""
    )
    result.assert_outcomes(passed=3)


def test_a_failure_shows_the_assertion_the_seed_and_the_command(run: Run, pytester: pytest.Pytester) -> None:
    result = run(UNLUCKY)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*async def test_unlucky(world):*",
            '>*assert world.seed != 17, "unlucky"*',
            "E*AssertionError: unlucky*",
            "E*assert 17 != 17*",
            "E*seed 17: pytest test_it.py::test_unlucky --underlay-seed 17",
            "*underlay: seed 17*",
            "seed     17 (after 17 that passed)",
            "replay   pytest test_it.py::test_unlucky --underlay-seed 17",
            "folder   .underlay/test_unlucky-seed-17",
            "         capture.pcapng, faults.json, report.md, seed.txt, timeline.txt, timeline/",
        ]
    )
    shown = result.stdout.str()
    assert "_schedule.py" not in shown and "base_events.py" not in shown
    assert shown.count("the answer is") == 2  # in the source, and what the replay printed: not what 17 others did


def test_the_replay_command_replays(run: Run, pytester: pytest.Pytester) -> None:
    result = run(UNLUCKY)
    (command,) = re.findall(r"replay   pytest (.*)", result.stdout.str())
    again = run(UNLUCKY, *command.split())
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["seed     17", "replay   pytest *"])


def test_the_command_is_right_from_another_folder(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]")
    below = pytester.mkdir("below")
    pytester.makepyfile(test_it=UNLUCKY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(below)
        result = pytester.runpytest_inprocess(*PLUGIN, "../test_it.py")
    result.stdout.fnmatch_lines(["replay   pytest ../test_it.py::test_unlucky --underlay-seed 17"])


def test_a_failure_leaves_a_folder(run: Run, pytester: pytest.Pytester) -> None:
    run(UNLUCKY)
    folder = ".underlay/test_unlucky-seed-17"
    assert written(pytester, f"{folder}/seed.txt").splitlines() == [
        "17",
        "test_it.py::test_unlucky",
        "pytest test_it.py::test_unlucky --underlay-seed 17",
    ]
    report = written(pytester, f"{folder}/report.md")
    assert "$ pytest test_it.py::test_unlucky --underlay-seed 17" in report and "assert 17 != 17" in report
    assert json.loads(written(pytester, f"{folder}/faults.json"))["applied"] == []
    timeline = written(pytester, f"{folder}/timeline.txt")
    for line in (
        r" 0\.000000  server +host +begins process 1, at 10\.0\.0\.1",
        r" 0\.000000  server +log +INFO app: the server listens",
        r" 1\.000000  client +tcp +10\.0\.0\.2:\d+ connects to 10\.0\.0\.1:7",
        r" 1\.\d+  server +tcp +10\.0\.0\.1:7 is called by 10\.0\.0\.2",
        r" 1\.\d+  client +tcp +10\.0\.0\.2:\d+ sends its FIN to 10\.0\.0\.1:7",
    ):
        assert re.search(line, timeline), f"{line}\n{timeline}"
    assert "server" not in written(pytester, f"{folder}/timeline/client.txt")
    links, frames = read_pcapng(pytester.path / folder / "capture.pcapng")
    assert [link.name for link in links] == ["client | server"]
    assert not any(link.is_ethernet for link in links)
    assert all(1_893_456_001 <= frame.time_ns / 1e9 < 1_893_456_060 for frame in frames)


def test_the_capture_opens_in_tshark(run: Run, pytester: pytest.Pytester) -> None:
    run(UNLUCKY)
    file = pytester.path / ".underlay/test_unlucky-seed-17/capture.pcapng"
    try:
        done = subprocess.run(
            ["tshark", "-r", file, "-T", "fields", "-e", "frame.interface_name", "-e", "tcp.dstport"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except FileNotFoundError:
        pytest.skip("tshark is not installed; remedy: apt-get install tshark")
    assert done.stdout.splitlines()[0] == "client | server\t7"


def test_a_test_has_one_folder_and_all_tests_have_so_many(run: Run, pytester: pytest.Pytester) -> None:
    text = HEAD + "@sim.test\nasync def test_{0}(world):\n    assert world.seed == 99\n"
    run(text.format("a"), "--underlay-seed", "1")
    run(text.format("a"), "--underlay-seed", "2")
    assert [each.name for each in pytester.path.glob(".underlay/*-seed-*")] == ["test_a-seed-2"]
    run("".join(text.format(name) for name in "abc"), "-o", "underlay_keep=2")
    assert sorted(each.name for each in pytester.path.glob(".underlay/*-seed-*")) == ["test_b-seed-0", "test_c-seed-0"]
    assert "*" in written(pytester, ".underlay/.gitignore").splitlines()


def test_the_folder_may_be_elsewhere(run: Run, pytester: pytest.Pytester) -> None:
    run(UNLUCKY, "--underlay-seed", "17", "--underlay-dir", "left")
    assert (pytester.path / "left/test_unlucky-seed-17/report.md").exists()
    run(UNLUCKY, "--underlay-seed", "17", "-o", "underlay_dir=found")
    assert (pytester.path / "found/test_unlucky-seed-17/report.md").exists()


def test_a_skip_is_a_skip_and_an_expected_failure_is_one(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        HEAD
        + """
@sim.test
async def test_skip(world):
    if world.seed == 3:
        pytest.skip("not with this")

@pytest.mark.xfail(strict=True)
@sim.test
async def test_xfail(world):
    assert world.seed < 3
"""
    )
    result.assert_outcomes(skipped=1, xfailed=1)
    assert not (pytester.path / ".underlay").exists()


def test_a_failure_that_its_replay_does_not_repeat_is_told(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        HEAD
        + """
ran = []

@sim.test
async def test_it(world):
    ran.append(1)
    assert len(ran) != 3, "the third"
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*the third*", "seed     2 *", "note     its replay did not fail like this*"])


# --- several processes ----------------------------------------------------------------------------------------------


def test_seeds_are_explored_in_several_processes_and_the_lowest_that_fails_is_told(run: Run) -> None:
    result = run(UNLUCKY.replace("!= 17", "not in (17, 18, 29)"), "--underlay-jobs", "2")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">*assert world.seed not in*", "E*assert 17 not in*", "replay * --underlay-seed 17"])


def test_children_have_a_fixed_hash_seed_and_get_fixtures_and_parameters(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        HEAD
        + """
class TestIt:
    @pytest.mark.parametrize("word", ["a [b] c"])
    @sim.test(seeds=4)
    async def test_it(self, world, tmp_path, word):
        note("seen", f"{os.environ.get('PYTHONHASHSEED')} {tmp_path.exists()} {word}|")
""",
        "--underlay-jobs=2",
    )
    result.assert_outcomes(passed=1)
    assert written(pytester, "seen") == "0 True a [b] c|" * 4


def test_what_cannot_be_handed_over_is_explored_here_and_that_is_said(run: Run) -> None:
    result = run(HEAD + "@sim.test\nasync def test_it(world, monkeypatch, capsys):\n    pass\n", "--underlay-jobs=2")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_it.py::test_it*in one process: *capsys cannot be pickled*"])


def test_a_failure_of_other_processes_alone_is_told_with_its_traceback(run: Run) -> None:
    result = run(
        HEAD
        + """
import multiprocessing

@sim.test
async def test_it(world):
    assert multiprocessing.parent_process() is None or world.seed < 4, "not at home"
""",
        "--underlay-jobs=2",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "AssertionError: not at home*",
            "replay   PYTHONHASHSEED=0 pytest *--underlay-seed 4",
            "note     its replay did not fail*",
        ]
    )


def test_a_process_that_dies_is_told_in_a_sentence(run: Run) -> None:
    result = run(HEAD + "@sim.test\nasync def test_it(world):\n    os._exit(3)\n", "--underlay-jobs=2")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*a process that explored seeds died*"])


def test_any_executor_may_explore(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

class Executor(ThreadPoolExecutor):
    def submit(self, function, *args, **kwargs):
        Path("submitted").touch()
        return super().submit(function, *args, **kwargs)

def pytest_underlay_executor(config):
    return Executor(1)
"""
    )
    result = run(UNLUCKY)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["replay * --underlay-seed 17"])
    assert (pytester.path / "submitted").exists()


# --- faults ---------------------------------------------------------------------------------------------------------

# What `World.chaos` does, with faults of which one matters.
CHAOS = (
    HEAD
    + """
from underlay.sim import Pause, Partition

async def chaos(world, matters):
    rng = world.rng_for("chaos")
    times = sorted(rng.uniform(0, 10) for _ in range(20))
    drawn = [
        world.faults.draw(at_s, Partition(("db",), ("api",)) if number in matters else Pause("other"))
        for number, at_s in enumerate(times)
    ]
    for each in drawn:
        await asyncio.sleep(each.at_s - world.now)
        if world.faults.is_wanted(each.number):
            with world.faults.caused_by(each.number):
                each.fault.apply(world)

def is_cut(world):
    return world.internet.way("db", "api").is_cut

@sim.test(seeds=1)
async def test_one(world):
    for name in ("db", "api", "other"):
        world.host(name)
    await chaos(world, [13])
    assert not is_cut(world)

@sim.test(seeds=1)
async def test_drawn(world):
    for name in ("db", "api", "other"):
        world.host(name)
    schedule = world.chaos("partition", "pause", "crash", "clock", every=2, each=1, most=20, duration=100)
    assert len(schedule.faults) == 20
    for _ in range(1000):
        await asyncio.sleep(0.1)
        assert world.hosts["db"].boots < 2, "db was restarted"

@sim.test(seeds=1)
async def test_none(world):
    for name in ("db", "api", "other"):
        world.host(name)
    await chaos(world, [])
    assert False
"""
)


def test_twenty_faults_are_shrunk_to_the_one_that_matters(run: Run, pytester: pytest.Pytester) -> None:
    result = run(CHAOS, "-k", "test_one")
    result.stdout.re_match_lines(
        [
            r"faults   20 faults, 1 needed: at [\d.]+ s partition db \| api \(found in \d+ runs\)",
            r" +pytest test_it.py::test_one --underlay-seed 0 --underlay-faults 13",
        ]
    )
    folder = ".underlay/test_one-seed-0"
    told = json.loads(written(pytester, f"{folder}/faults.json"))
    assert told["needed"] == [13] and len(told["drawn"]) == 20
    assert "1 needed: at " in written(pytester, f"{folder}/report.md")
    assert re.search(
        r"db +fault  partition db \| api \(drawn, number 13\)", written(pytester, f"{folder}/timeline.txt")
    )


def test_faults_that_the_world_drew_are_shrunk_too(run: Run, pytester: pytest.Pytester) -> None:
    result = run(CHAOS, "-k", "test_drawn")
    result.stdout.re_match_lines(
        [r"faults   20 faults, 1 needed: at [\d.]+ s crash db, until [\d.]+ s \(found in \d+ runs\)"]
    )
    (command,) = re.findall(r"^ +pytest (.*--underlay-faults.*)", result.stdout.str(), re.MULTILINE)
    run(CHAOS, *command.split()).assert_outcomes(failed=1)


def test_a_failure_may_be_replayed_with_some_faults_alone(run: Run) -> None:
    run(CHAOS, "-k", "test_one", "--underlay-seed=0", "--underlay-faults=13").assert_outcomes(failed=1)
    run(CHAOS, "-k", "test_one", "--underlay-seed=0", "--underlay-faults=12,14").assert_outcomes(passed=1)


def test_a_failure_that_needs_no_fault_says_so(run: Run) -> None:
    result = run(CHAOS, "-k", "test_none")
    result.stdout.fnmatch_lines(["faults   20 faults, none needed: it fails without any (found in 1 run)"])


def test_shrinking_is_bounded(run: Run) -> None:
    result = run(CHAOS, "-k", "test_one", "-o", "underlay_shrink_runs=2")
    result.stdout.fnmatch_lines(["faults   20 faults, * (found in 2 runs, the most that are made; fewer may do)"])
    assert "faults   " not in run(CHAOS, "-k", "test_one", "-o", "underlay_shrink_runs=0").stdout.str()


# --- determinism ----------------------------------------------------------------------------------------------------


def test_what_makes_a_test_differ_from_run_to_run_is_named(run: Run) -> None:
    result = run(
        HEAD
        + """
runs = []

@sim.test
async def test_differs(world):
    runs.append(1)
    async with world.host("a"):
        await asyncio.sleep(len(runs))

@sim.test
async def test_does_not(world):
    async with world.host("a"):
        await asyncio.sleep(world.rng_for("x").random())

@sim.test
async def test_fails_twice_alike(world):
    assert world.seed != 7, "each time"
""",
        "--underlay-check-determinism",
        "--underlay-seed=7",
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*seed 7 does not give the same run twice: the runs differ from event*"])
    result.stdout.fnmatch_lines(["E*each time", "replay * --underlay-seed 7"])


def test_a_test_that_differs_by_the_order_of_a_set_is_named_though_one_process_has_one_order(run: Run) -> None:
    result = run(
        HEAD
        + """
@sim.test
async def test_differs(world):
    async with world.host("a"):
        for name in {"one", "two", "three", "four", "five"}:
            await asyncio.sleep(len(name))

@sim.test
async def test_does_not(world):
    async with world.host("a"):
        for name in sorted({"one", "two", "three", "four", "five"}):
            await asyncio.sleep(len(name))

@pytest.mark.parametrize("unpicklable", [lambda: 1])
@sim.test
async def test_is_of_this_process(world, unpicklable):
    await asyncio.sleep(1)
""",
        "--underlay-check-determinism",
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*seed 0 does not give the same run in two processes; if a set is gone through, sort*",
            "underlay: runs that repeat, here and in two processes: 1",
            "underlay: runs that repeat here, and could be tried in no other process: 1",
            "underlay: *test_is_of_this_process* in one process: *",
        ]
    )


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--underlay-seeds=0", "'0' is not a number of at least 1"),
        ("--underlay-seed=x", "'x' is no seed; a seed is a number such as 17"),
        ("--underlay-faults=1,x", "'1,x' are no numbers of faults"),
    ],
)
def test_an_option_that_cannot_be_is_refused_in_a_sentence(run: Run, option: str, said: str) -> None:
    result = run(HEAD, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str() + result.stdout.str()
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


def test_a_mistake_in_the_configuration_is_told(run: Run) -> None:
    result = run(UNLUCKY, "-o", "underlay_capture_limit=much")
    assert "underlay_capture_limit" in result.stdout.str() + result.stderr.str()


def test_underlay_needs_no_pytest(tmp_path: Path) -> None:
    code = "import sys, underlay, underlay.sim as sim; sim.World; sim.test; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=60)


def test_the_plugin_does_not_import_the_simulator_before_a_test_does(tmp_path: Path) -> None:
    code = "import sys, underlay.sim._plugin; assert not {'asyncio', 'underlay.stack', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=60)
