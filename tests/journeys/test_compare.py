"""`underlay compare` from a person's side: real scripts, real models, real interruptions.

Every run gets a mark in its environment, which all its children inherit, so that a test can look through
/proc for anything left behind; and a directory of its own for temporary files. What figures come out depends
on the machine and is not judged here.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from underlay.tools._compare_server import OUTPUT_BYTES, Program, Server

MARK = "UNDERLAY_TEST_MARK"
QUICK = ("--rounds", "1", "--duration", "0.1", "--connections", "3")

# The longest that a run of a test may take before it counts as hung.
LIMIT_S = 60


@dataclass
class Runner:
    """Starts compare with a mark, and looks for what it left."""

    environment: dict[str, str]
    directory: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self, *words: str) -> subprocess.Popen[str]:
        temporary = self.directory / "tmp"
        temporary.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "underlay", "compare", *words],
            cwd=self.directory,
            env={**self.environment, MARK: self.mark, "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words) as process:
            try:
                out, err = process.communicate(timeout=LIMIT_S)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def left(self) -> list[str]:
        """Give the command lines of living processes that carry the mark."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"{MARK}={self.mark}".encode() in environ.read_bytes().split(b"\0"):
                    command = (environ.parent / "cmdline").read_bytes()
                    found.append(command.replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something that will be, however long the machine takes."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, f"not seen within {LIMIT_S} s: {what}"
            time.sleep(0.02)

    def temporary_files(self) -> list[Path]:
        return list((self.directory / "tmp").rglob("*"))


@pytest.fixture
def compare(child_environment: dict[str, str], tmp_path: Path) -> Iterator[Runner]:
    runner = Runner(child_environment, tmp_path)
    yield runner
    assert runner.left() == []
    assert runner.temporary_files() == []


def example(root: Path, name: str) -> str:
    return str(root / "examples" / name)


def test_an_unmodified_script_is_compared_on_each_model(compare: Runner, root: Path) -> None:
    done = compare.run(
        *("--io", "epoll,asyncio,select", *QUICK, example(root, "echo.py")),
        *("--json", "report.json", "--html", "report.html"),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["epoll", "asyncio", "select"]
    assert "CPU µs per request" in done.stdout
    assert max(map(len, lines)) <= 80
    report = json.loads((compare.directory / "report.json").read_text())
    assert [model["name"] for model in report["models"]] == ["epoll", "asyncio", "select"]
    for model in report["models"]:
        assert model["failure"] is None
        assert model["errors"] == {}
        (only,) = model["rounds"]
        assert only["requests"] >= 3
        assert only["cpu_us_per_request"] > 0
        assert 0 < only["latency_p50_us"] <= only["latency_p99_us"] <= only["latency_p99_9_us"]
    page = (compare.directory / "report.html").read_text()
    assert page.count("<svg") == 3


@pytest.mark.parametrize(
    ("script", "load"),
    [
        ("echo_streams.py", "tcp-echo"),
        ("udp_echo.py", "udp-echo"),
        ("tls_echo.py", "tls-echo"),
        ("http_aiohttp.py", "http"),
        ("http_aiohttp.py", "http:/count"),
    ],
)
def test_each_kind_of_load_is_carried(compare: Runner, root: Path, script: str, load: str) -> None:
    done = compare.run("--io", "epoll", "--load", load, *QUICK, example(root, script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2].startswith("epoll ")
    assert done.stdout.splitlines()[2].endswith(" 0")  # errors


def test_the_scripts_own_arguments_follow_two_dashes(compare: Runner, root: Path) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    done = compare.run("--io", "epoll,poll", *QUICK, example(root, "echo.py"), "--", "--port", port)
    assert done.returncode == 0, done.stderr


def test_a_model_that_cannot_carry_the_load_says_why_and_the_others_go_on(compare: Runner, root: Path) -> None:
    done = compare.run(
        *("--io", "select,epoll", "--rounds", "2", "--duration", "0.1", "--connections", "1100"),
        example(root, "echo.py"),
    )
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "select — " in text
    assert "1023" in text or "1024" in text
    assert "epoll used the least CPU" in text or "\nepoll " in done.stdout


BAD = {
    "exits.py": "import sys\nsys.exit('nothing to serve')\n",
    "raises.py": "raise ValueError('out of luck')\n",
    "ends.py": "print('done')\n",
    "wrong.py": """
import asyncio
async def serve(reader, writer):
    while data := await reader.read(1000):
        writer.write(data.upper())
async def main():
    server = await asyncio.start_server(serve, '127.0.0.1', 0)
    await server.serve_forever()
asyncio.run(main())
""",
    "two.py": """
import asyncio
async def serve(reader, writer):
    writer.write(await reader.read(1000))
async def main():
    a = await asyncio.start_server(serve, '127.0.0.1', 0)
    b = await asyncio.start_server(serve, '127.0.0.1', 0)
    await asyncio.gather(a.serve_forever(), b.serve_forever())
asyncio.run(main())
""",
}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exits.py", "ended with status 1 before it listened: nothing to serve"),
        ("raises.py", "ended with status 1 before it listened: ValueError: out of luck"),
        ("ends.py", "ended with status 0 before it listened: done"),
        ("wrong.py", "tcp-echo fails there: the reply is no echo"),
        ("two.py", "say which is to be loaded, as in --load KIND:"),
    ],
)
def test_a_script_that_cannot_be_compared_is_told_in_one_sentence(compare: Runner, script: str, said: str) -> None:
    for name, code in BAD.items():
        (compare.directory / name).write_text(code)
    done = compare.run(*QUICK, script)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.startswith("underlay: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "load", "said"),
    [
        ("udp_echo.py", "tcp-echo", "say --load udp-echo"),
        ("tls_echo.py", "tcp-echo", "say --load tls-echo"),
        ("http_aiohttp.py", "tcp-echo", "say --load http"),
        ("echo.py", "http", "no HTTP answer"),
        ("http_aiohttp.py", "http:/nowhere", "404"),
        ("echo.py", "tcp-echo:1", "not 1"),
    ],
)
def test_the_wrong_load_is_recognised_and_the_right_one_named(
    compare: Runner, root: Path, script: str, load: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = compare.run("--load", load, *QUICK, example(root, script))
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_is_named(compare: Runner, root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = compare.run(*QUICK, example(root, "echo.py"), "--", "--port", port)
    assert done.returncode == 2
    assert f"its port {port} is in use" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(compare: Runner, root: Path) -> None:
    done = compare.run(example(root, "echo.py"), "--json", "no/such/place.json")
    assert done.returncode == 2
    assert "there is no directory no/such" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_comparison_shows_what_it_has(compare: Runner, root: Path, number: signal.Signals) -> None:
    with compare.start(
        *("--io", "epoll,poll", "--rounds", "99", "--duration", "0.1", "--connections", "3"),
        *(example(root, "echo.py"), "--json", "report.json"),
    ) as process:
        assert process.stderr is not None and process.stdout is not None
        while process.stderr.readline() != "round 2 of 99\n":  # so that round 1 has been measured
            pass
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, err
    assert "Interrupted: this is what was measured so far." in out
    report = json.loads((compare.directory / "report.json").read_text())
    assert report["interrupted"] is True
    assert all(model["rounds"] for model in report["models"])


def test_a_killed_comparison_takes_its_children_along(compare: Runner, root: Path) -> None:
    with compare.start("--duration", "50", "--io", "epoll", example(root, "echo.py")) as process:
        # the comparison, the server that is measured, the generator
        compare.wait_until(
            lambda: any("--io epoll" in line or "_load_worker" in line for line in compare.left()),
            "children at work",
        )
        process.kill()
        process.communicate()
        compare.wait_until(lambda: compare.left() == [], "their end")


def test_a_script_that_ignores_sigterm_and_has_children_is_ended_all_the_same(
    compare: Runner,
) -> None:
    (compare.directory / "stubborn.py").write_text(
        """
import asyncio, os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", sleeper])
subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=True)
async def serve(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    await server.serve_forever()
asyncio.run(main())
"""
    )
    done = compare.run("--io", "epoll", "--size", "100", *QUICK, "stubborn.py")
    assert done.returncode == 0, done.stderr


def test_the_current_directory_may_hold_files_called_as_modules(compare: Runner, root: Path) -> None:
    app = compare.directory / "app"
    app.mkdir()
    (app / "echo.py").write_text(Path(example(root, "echo.py")).read_text())
    for name in ("typing", "select", "json", "asyncio", "enum"):
        (compare.directory / f"{name}.py").write_text("raise RuntimeError('not the module that was meant')")
    environment = {**compare.environment, MARK: compare.mark}
    underlay = Path(sys.executable).with_name("underlay")
    done = subprocess.run(
        [underlay, "compare", "--io", "asyncio", *QUICK, "app/echo.py"],
        cwd=compare.directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stderr) == (0, "round 1 of 1\n")


FAMILY = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
if "background" in sys.argv and os.fork():
    os._exit(0)
sys.argv[1:] = []
exec(open(os.environ["ECHO"]).read())
"""


def test_a_killed_comparison_takes_along_what_its_children_have_started(compare: Runner, root: Path) -> None:
    (compare.directory / "family.py").write_text(FAMILY)
    compare.environment["ECHO"] = example(root, "echo.py")
    with compare.start("--duration", "50", "--io", "epoll", "family.py") as process:
        compare.wait_until(lambda: any("time.sleep(600)" in line for line in compare.left()), "a grandchild")
        process.kill()
        process.communicate()
        compare.wait_until(lambda: compare.left() == [], "their end")


def test_a_script_that_goes_into_the_background_is_told_so_and_ended(compare: Runner, root: Path) -> None:
    (compare.directory / "family.py").write_text(FAMILY)
    compare.environment["ECHO"] = example(root, "echo.py")
    done = compare.run("--io", "epoll", *QUICK, "family.py", "--", "background")
    assert done.returncode == 2
    assert "it went into the background; let it stay in the foreground" in done.stderr
    assert compare.left() == []


def test_a_script_that_listens_on_a_unix_socket_only_is_told_so(compare: Runner) -> None:
    (compare.directory / "unix.py").write_text(
        "import asyncio\n"
        "async def main():\n"
        "    server = await asyncio.start_unix_server(lambda reader, writer: None, 'app.sock')\n"
        "    await server.serve_forever()\n"
        "asyncio.run(main())\n"
    )
    done = compare.run("--io", "epoll", *QUICK, "unix.py")
    assert done.returncode == 2
    assert "listens on the Unix socket app.sock only; let it open a TCP or UDP port" in done.stderr


def test_what_a_talkative_script_prints_is_kept_only_at_its_end(
    child_environment: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "talk.py"
    script.write_text("import sys\nfor n in range(200_000): print('.' * 20, n)\nsys.stdin.read()\nprint('the end')")
    with Server(Program(str(script)), "asyncio", child_environment) as server:
        while server.exit_status() is None:
            server.trim()
            time.sleep(0.01)
        server.trim()
        assert os.fstat(server._output.fileno()).st_size <= OUTPUT_BYTES
        assert server.reason() == "the end"
