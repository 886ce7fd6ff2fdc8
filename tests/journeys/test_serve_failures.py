"""What `underlay serve` does, and says, when workers crash, hang or never listen, and when it is asked for nonsense."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ._groups import MAIN, PATIENCE_S, Group, gone, pids, speak, write


def test_a_worker_that_is_killed_by_a_further_signal_is_not_said_to_have_been_slow(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    write(tmp_path, "app.py", deaf + MAIN)
    with Group(tmp_path, "app:main", "--workers", "1", "--kill-after", "600", "--drain", "0") as group:
        (worker,) = pids(group, 1)
        group.process.send_signal(signal.SIGTERM)
        group.until(lambda s: [row["state"] for row in s["workers"]] == ["stopping"])
        assert group.stops() == (0, f"underlay: worker {worker} was told to stop once more and is killed\n")


def test_a_killed_worker_is_replaced_and_its_address_stays_open(tmp_path: Path) -> None:
    write(tmp_path, "app.py", MAIN)
    with Group(tmp_path, "app:main", "--workers", "1", "--backoff", "0.1") as group:
        (old,) = pids(group, 1)
        place = group.place
        os.kill(old, signal.SIGKILL)
        # Nobody accepts until the next worker is there; but nobody is refused either.
        answer = speak(place)
        assert int(answer.split()[0]) != old
        assert group.ready(1)["crashes"] == 1
        status, said = group.stops()
        assert status == 0
        assert said.startswith(f"underlay: worker {old} was ended by SIGKILL; the next starts in 0.1 s\n")


def test_a_crash_loop_starts_ever_more_slowly_and_says_so_once_for_each(tmp_path: Path) -> None:
    write(tmp_path, "app.py", "import os\nif os.path.exists('broken'):\n    raise SystemExit(7)\n" + MAIN)
    with Group(tmp_path, "app:main", "--workers", "1", "--backoff", "0.1", "--backoff-most", "1") as group:
        (first,) = pids(group, 1)
        write(tmp_path, "broken", "")
        os.kill(first, signal.SIGKILL)
        status = group.until(lambda s: s["crashes"] >= 4)
        said = [line for line in group.errors.read_text().splitlines() if "the next starts" in line]
        assert f"worker {first} was ended by SIGKILL; the next starts in " in said[0]
        assert all("ended with status 7 before it listened; the next starts in " in line for line in said[1:])
        pauses_s = [float(line.split(" in ")[-1].split()[0]) for line in said[:4]]
        assert pauses_s == [0.1, 0.2, 0.4, 0.8]
        assert len(status["workers"]) <= 1
        assert group.stops()[0] == 0


def test_a_restart_with_broken_code_fails_at_the_first_crash_and_the_old_workers_serve_on(tmp_path: Path) -> None:
    write(tmp_path, "app.py", MAIN)
    with Group(tmp_path, "app:main", "--workers", "2", "--backoff", "600", "--backoff-most", "600") as group:
        before = pids(group, 2)
        write(tmp_path, "app.py", BROKEN + MAIN)
        for _ in range(2):
            done = group.command("restart")
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith("underlay: the restart failed: worker ")
            assert f" ended with status 1 ({MISSING}) before it listened; the old workers serve on" in done.stderr
            assert done.stderr.count("\n") == 1
        assert pids(group, 2) == before
        write(tmp_path, "app.py", MAIN)
        assert group.command("restart").returncode == 0
        assert group.stops()[0] == 0


def test_a_restart_that_takes_longer_than_its_timeout_is_no_success(tmp_path: Path) -> None:
    write(tmp_path, "app.py", MAIN)
    with Group(tmp_path, "app:main", "--workers", "1") as group:
        before = pids(group, 1)
        write(tmp_path, "app.py", "import time\ntime.sleep(1000)\n")
        done = group.command("restart", "--timeout", "0.2")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("underlay: no answer to restart from the group at ")
        waits = subprocess.Popen([*group.words[:6], "restart"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        group.until(lambda s: any(row["generation"] == 3 for row in s["workers"]))
        assert [row["pid"] for row in group.ask("status")["workers"] if row["state"] == "ready"] == before
        assert group.stops()[0] == 0
        said = waits.communicate(timeout=PATIENCE_S)[1]
        assert (waits.returncode, said.count("\n")) == (1, 1)
        assert said == "underlay: the restart was not done, because the group ends\n"


def test_the_death_of_the_supervisor_leaves_no_worker(tmp_path: Path) -> None:
    write(tmp_path, "app.py", "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + MAIN)
    with Group(tmp_path, "app:main", "--workers", "3") as group:
        workers = pids(group, 3)
        group.process.kill()
        gone(workers)
    with Group(tmp_path, "app:main", "--workers", "1") as group:  # the dead one's control socket is in nobody's way
        pids(group, 1)


def test_a_blocked_loop_is_replaced_where_somebody_looks(tmp_path: Path) -> None:
    write(tmp_path, "app.py", MAIN.replace("os._exit(3)", "import time; time.sleep(1000)"))
    with Group(tmp_path, "app:main", "--workers", "1", "--health", "1", "--kill-after", "0.2") as group:
        (old,) = pids(group, 1)
        with socket.create_connection(group.place) as sock:
            sock.sendall(b"die\n")
            gone([old])
        assert pids(group, 1) != [old]
        said = group.errors.read_text()
        assert said.count(f"worker {old} gave no sign of life for 1 s (--health) and is stopped; the next starts ") == 1


def test_a_worker_that_does_not_listen_in_time_is_replaced_and_a_line_says_so(tmp_path: Path) -> None:
    # The first start is good; what comes in its place sleeps.
    slow = """
import os, time
if os.path.exists("slow"):
    time.sleep(1000)
"""
    write(tmp_path, "app.py", slow + MAIN)
    with Group(tmp_path, "app:main", "--workers", "1", "--start-timeout", "5") as group:
        (old,) = pids(group, 1)
        write(tmp_path, "slow", "")
        os.kill(old, signal.SIGKILL)
        group.until(lambda s: s["crashes"] == 2)
        said = group.errors.read_text()
        assert said.count("did not listen within 5 s (--start-timeout) and is stopped; the next starts in ") == 1
        assert group.stops()[0] == 0


RAVING = """
import json, os, socket

def rave():
    channels = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        try:
            found = socket.socket(fileno=os.dup(descriptor))
        except OSError:
            continue
        if (found.family, found.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            channels.append(found)
    assert channels
    for channel in channels:
        channel.send(os.environ["NONSENSE"].encode())

async def main():
    rave()
    await asyncio.sleep(3600)
"""


@pytest.mark.parametrize(
    "nonsense",
    [
        "[" * 1000,
        "[1]",
        '{"say": "nothing"}',
        '{"say": []}',
        '{"say": "ceased"}',
        '{"say": "bind", "family": 2, "proto": 0, "address": [[1], 2], "turn": 0}',
        '{"say": "bind", "family": 2, "proto": 0, "address": ["127.0.0.1", 0], "turn": 0}',
    ],
)
def test_a_program_that_writes_to_descriptors_of_others_does_not_end_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nonsense: str
) -> None:
    monkeypatch.setenv("NONSENSE", nonsense)
    write(tmp_path, "app.py", "import asyncio\n" + RAVING)
    with Group(tmp_path, "app:main", "--workers", "1", "--kill-after", "1", "--start-timeout", "1") as group:
        # That the worker which raved is too slow to start is seen by a group that still lives.
        status, said = group.ends()
        assert (status, said.count("\n")) == (1, 1)
        assert said.startswith(
            "underlay: app:main never listened: its worker did not listen within 1 s (--start-timeout) and is stopped;"
        )


BROKEN = "from nowhere_at_all import x\n"


APPLICATIONS = """
class Asgi:
    async def __call__(self, scope, receive, send): ...
asgi = Asgi()
def wsgi(environ, start_response): ...
"""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing_here:main"], "there is no module nothing_here; is it installed, or in this directory?"),
        (["app:mian"], "app:mian: there is no 'mian' in app; did you mean 'main'?"),
        (["app:PORT"], "app:PORT is 'int', which cannot be called; name a coroutine function"),
        (["app:one"], "app:one cannot be called without arguments (missing a required argument: 'x')"),
        (
            ["app:asgi"],
            "app:asgi is an ASGI application, and no server; say `-m uvicorn app:asgi` in its place, or name",
        ),
        (["app:wsgi"], "app:wsgi is a WSGI application, and no server; name a function that serves it"),
        (["-m"], "-m needs the name of a module; an example: -m uvicorn asgi:app"),
        (["-m", "nothing_here", "app:main"], "there is no module nothing_here; is it installed for "),
        (["app:main", "-m", "uvicorn"], "serve runs one program, and not both app:main and -m uvicorn; leave one of"),
        ([], "serve needs a program; say module:function, as in app:main, a script, or -m with a module"),
        (["app"], "'app' names no program; say module:function, as in app:main, or a script, as in app.py"),
        (["..app:main"], "'..app:main' names no program; say module:function, as in app:main, or a script, as"),
        (["missing.py"], "there is no script missing.py; check the path"),
        (["statsu"], "'statsu' names no program, and no word for a running group; did you mean 'status'?"),
        (["status"], "status needs the control socket of a running group; say --control PATH"),
        (["--control", "none.sock", "status"], "there is no control socket none.sock; the group is started with"),
        (["--workers", "0", "app:main"], "--workers is 0; say a number from 1 to 1000"),
        (["app:main", "--port", "1"], "serve has no use for --port 1; what is the program's own comes after --"),
        (["--io", "epol", "app:main"], "there is no I/O model 'epol'; did you mean 'epoll'?"),
        (["--io", "signal", "app:main"], "the model signal has the kernel signal one process per listening socket"),
        (["--executor", "", "app:main"], "--executor needs a kind; an example: --executor process,max_workers=4"),
        (["--executor", "proces", "app:main"], "there is no kind of executor 'proces'; did you mean 'process'?"),
        (
            ["--watch-threshold", "1s", "app:main"],
            "--watch-threshold is for --watch, which isn't there; say --watch too",
        ),
        (["--watch", "app:mian"], "app:mian: there is no 'mian' in app; did you mean 'main'?"),
        (["--watch=rise", "app:main"], "--watch has no way 'rise'; say --watch, or --watch=raise"),
        (["--timeout", "1", "app:main"], "--timeout is for the answer of a running group; say it with restart"),
        (["--drain", "-1", "app:main"], "serve: argument --drain: -1 is no number of seconds"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_the_asking_is_one_sentence_and_status_2(tmp_path: Path, words: list[str], sentence: str) -> None:
    write(tmp_path, "app.py", "PORT = 1\ndef one(x): ...\n" + APPLICATIONS + MAIN)
    done = subprocess.run(
        [sys.executable, "-m", "underlay", "serve", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"underlay: {sentence}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("by", ["process", "thread"])
@pytest.mark.parametrize("share", ["inherit", "reuse_port"])
def test_a_taken_port_is_one_sentence_and_status_2(tmp_path: Path, by: str, share: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        write(tmp_path, "app.py", MAIN.replace('"127.0.0.1", 0', f'"127.0.0.1", {port}'))
        with Group(tmp_path, "app:main", "--workers", "3", "--by", by, "--share", share) as group:
            status, said = group.ends()
    assert status == 2
    last = said.splitlines()[-1]
    assert last.startswith(f"underlay: the program cannot listen at 127.0.0.1:{port}: Address already in use; end the")
    assert by == "thread" or said.count("\n") == 1


MISSING = "ModuleNotFoundError: No module named 'nowhere_at_all'"
MEND_THAT = "; mend that, then start it again"
TRACEBACK = 'Traceback (most recent call last):\n  File "{folder}/app.py", line '


@pytest.mark.parametrize(
    ("text", "program", "shown", "how"),
    [
        (
            BROKEN,
            ["app:main"],
            f"{TRACEBACK}1, in <module>\n    {BROKEN}{MISSING}\n",
            f"status 1 ({MISSING}){MEND_THAT}",
        ),
        (
            "def main(): raise OSError('no')",
            ["app:main"],
            f"{TRACEBACK}1, in main\n    def main(): raise OSError('no')\n",
            f"status 1 (OSError: no){MEND_THAT}",
        ),
        (
            "1 +",
            ["app.py"],
            '  File "app.py", line 1\n    1 +\n',
            "status 1 (SyntaxError: invalid syntax (app.py, line 1))",
        ),
        ("async def main(): pass", ["app:main"], "", "status 0; a server listens, and serves until SIGTERM"),
        ("", ["app.py"], "", "status 0; a server listens, and serves until SIGTERM"),
        ("import sys; sys.exit(7)", ["app.py"], "", "status 7; its own output should say why"),
    ],
    ids=["import", "call", "syntax", "returns", "script_returns", "exits"],
)
def test_a_program_that_never_listens_ends_the_group_with_one_traceback_one_sentence_and_status_1(
    tmp_path: Path, text: str, program: list[str], shown: str, how: str
) -> None:
    write(tmp_path, "app.py", text)
    # All three are gone before a second try of any of them: the pause is longer than the patience of this test.
    with Group(tmp_path, *program, "--workers", "3", "--backoff", "600", "--backoff-most", "600") as group:
        status, said = group.ends()
    assert status == 1, said
    assert said.startswith(shown.format(folder=tmp_path))
    assert said.count("Traceback") == shown.count("Traceback")
    last = said.splitlines()[-1]
    assert last.startswith(f"underlay: {program[0]} never listened: each of its 3 workers ended with {how}")
    assert said.count("underlay") == 1  # one line, and no frame of ours


def test_threads_that_never_listen_end_the_group_with_one_traceback_and_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, "app.py", "def main():\n    raise ValueError('no')\n")
    with Group(tmp_path, "app:main", "--workers", "3", "--by", "thread", "--backoff", "600") as group:
        status, said = group.ends()
    assert (status, said.count("Traceback"), said.count("underlay")) == (1, 1, 1)
    assert "underlay: app:main never listened: its worker lost one of its threads (ValueError: no)" in said


def test_a_program_of_which_some_first_workers_fail_goes_on_when_one_listens(tmp_path: Path) -> None:
    once = """
import os
try:
    os.mkdir("first")
except FileExistsError:
    pass
else:
    raise SystemExit(7)
"""
    write(tmp_path, "app.py", once + MAIN)
    with Group(tmp_path, "app:main", "--workers", "2") as group:
        group.ready(2)
        said = group.errors.read_text()
        assert said.count(" ended with status 7 before it listened; the next starts in ") == 1
        assert group.stops()[0] == 0


def test_a_program_that_broke_shows_one_traceback_for_each_restart(tmp_path: Path) -> None:
    write(tmp_path, "app.py", MAIN)
    with Group(tmp_path, "app:main", "--workers", "1", "--backoff", "0.1") as group:
        group.ready(1)
        write(tmp_path, "app.py", BROKEN + MAIN)
        for crashes in (3, 6):
            group.process.send_signal(signal.SIGHUP)
            group.until(lambda s, least=crashes: s["crashes"] >= least)  # type: ignore[misc]
        said = group.errors.read_text()
        assert said.count(f" ended with status 1 ({MISSING}) before it listened; the next starts in ") >= 6
        assert said.count("Traceback") == 2
        assert group.stops()[0] == 0
