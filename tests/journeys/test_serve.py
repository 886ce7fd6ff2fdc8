"""`underlay serve` runs unmodified servers in several workers, and restarts them under load, losing no request."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import underlay.loop
from underlay.errors import ModelUnavailable

from ._groups import EXAMPLES, PATIENCE_S, Group, gone, load, write

# Programs of the tests' own.
MAIN = """
import asyncio, os

async def answer(reader, writer):
    try:
        while line := await reader.readline():
            if line == b"die\\n":
                os._exit(3)
            writer.write(b"%d %s" % (os.getpid(), line))
    finally:
        writer.close()

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        await server.serve_forever()
"""


def pids(group: Group, workers: int) -> list[int]:
    return [row["pid"] for row in group.ready(workers)["workers"]]


def speak(place: tuple[str, int], line: bytes = b"hello\n") -> bytes:
    with socket.create_connection(place, timeout=PATIENCE_S) as sock, sock.makefile("rb") as file:
        sock.sendall(line)
        return file.readline()


@pytest.mark.parametrize("program", ["http_aiohttp.py", "asgi_app.py"])
@pytest.mark.parametrize("per_connection", [1, 10], ids=["one_request", "keep_alive"])
def test_a_rolling_restart_under_load_loses_no_request(tmp_path: Path, program: str, per_connection: int) -> None:
    with Group(tmp_path, "--workers", "4", EXAMPLES / program) as group:
        before = pids(group, 4)
        with load(group.place, clients=8, per_connection=per_connection) as result:
            result.until_answered(200)
            group.ask("restart")
            after = pids(group, 4)  # waits until the last old one is gone, connections and all
            result.until_answered(200)
        assert not set(before) & set(after)
        gone(before)
        assert result.lost == []
        assert group.stops() == (0, "")
        gone(after)


def test_a_hangup_restarts_the_workers_one_after_the_other(tmp_path: Path) -> None:
    write(tmp_path, "app.py", MAIN)
    with Group(tmp_path, "app:main", "--workers", "2") as group:
        before = pids(group, 2)
        place = group.place
        group.process.send_signal(signal.SIGHUP)
        group.until(lambda s: len(s["workers"]) == 2 and all(row["generation"] == 2 for row in s["workers"]))
        gone(before)
        assert int(speak(place).split()[0]) not in before
        assert group.stops() == (0, "")


def test_a_connection_that_lasts_is_served_until_it_ends_while_new_ones_go_to_the_new_worker(tmp_path: Path) -> None:
    write(tmp_path, "app.py", MAIN)
    with Group(tmp_path, "app:main", "--workers", "1") as group:
        (old,) = pids(group, 1)
        with socket.create_connection(group.place, timeout=PATIENCE_S) as sock, sock.makefile("rwb", 0) as file:
            file.write(b"one\n")
            assert file.readline() == b"%d one\n" % old
            group.ask("restart")
            assert int(speak(group.place).split()[0]) != old
            file.write(b"two\n")
            assert file.readline() == b"%d two\n" % old
            rows = {row["pid"]: row for row in group.ask("status")["workers"]}
            assert (rows[old]["state"], rows[old]["connections"]) == ("draining", 1)
        gone([old])
        assert group.stops() == (0, "")


def test_a_connection_that_outlasts_the_drain_is_ended_and_a_worker_that_does_not_stop_is_killed(
    tmp_path: Path,
) -> None:
    write(tmp_path, "app.py", "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + MAIN)
    with Group(tmp_path, "app:main", "--workers", "1", "--drain", "0.2", "--kill-after", "0.2") as group:
        (old,) = pids(group, 1)
        with socket.create_connection(group.place, timeout=PATIENCE_S) as sock:
            sock.sendall(b"one\n")
            sock.recv(100)
            group.ask("restart")
            gone([old])
            assert sock.recv(100) == b""
        assert f"worker {old} did not stop in 0.2 s and is killed" in group.errors.read_text()
        assert len(pids(group, 1)) == 1


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


def test_a_group_says_where_it_listens_and_when_a_restart_is_done(tmp_path: Path) -> None:
    write(tmp_path, "app.py", MAIN)
    with Group(tmp_path, "app:main", "--workers", "2") as group:
        group.ready(2)
        host, port = group.place
        group.ask("restart")
        group.ask("more")
        pids(group, 3)
        group.stops()
    first = f"underlay: listening on {host}:{port}, 2 workers, control {group.control}\n"
    assert group.errors.read_text() == first + "underlay: restart done, 2 new workers\n"


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


def test_a_terminate_in_the_middle_of_a_restart_ends_all(tmp_path: Path) -> None:
    write(tmp_path, "app.py", MAIN)
    with Group(tmp_path, "app:main", "--workers", "3") as group:
        known = pids(group, 3)
        group.process.send_signal(signal.SIGHUP)
        known += [row["pid"] for row in group.until(lambda s: len(s["workers"]) > 3)["workers"]]
        assert group.stops() == (0, "")
        gone(known)
        assert not group.control.exists()


def test_a_terminate_lets_connections_end_and_an_interrupt_does_not(tmp_path: Path) -> None:
    write(tmp_path, "app.py", MAIN)
    for number, is_served in ((signal.SIGTERM, True), (signal.SIGINT, False)):
        with Group(tmp_path, "app:main", "--workers", "2") as group:
            pids(group, 2)
            place = group.place
            with socket.create_connection(place, timeout=PATIENCE_S) as sock, sock.makefile("rwb", 0) as file:
                file.write(b"one\n")
                file.readline()
                group.process.send_signal(number)
                if is_served:
                    group.until(lambda s: [row["state"] for row in s["workers"]] == ["draining"])
                    with pytest.raises(ConnectionRefusedError):
                        socket.create_connection(place, timeout=PATIENCE_S)
                    file.write(b"two\n")
                    assert file.readline().endswith(b" two\n")
                else:
                    assert file.read() == b""
            assert group.ends() == (0, "")


def test_more_and_fewer_by_signals_and_by_the_command(tmp_path: Path) -> None:
    write(tmp_path, "app.py", MAIN)
    with Group(tmp_path, "app:main", "--workers", "1") as group:
        first = pids(group, 1)
        group.process.send_signal(signal.SIGTTIN)
        pids(group, 2)
        group.ask("more")
        pids(group, 3)
        group.process.send_signal(signal.SIGTTOU)
        pids(group, 2)
        group.ask("fewer")
        assert pids(group, 1) == first
        assert group.ask("stop")["wanted"] == 1
        assert group.ends() == (0, "")


@pytest.mark.parametrize("share", ["inherit", "reuse_port"])
def test_port_0_is_the_same_for_all_and_both_families_are_shared(tmp_path: Path, share: str) -> None:
    program = MAIN.replace('"127.0.0.1", 0', '["127.0.0.1", "::1"], 0')
    write(tmp_path, "app.py", program)
    with Group(tmp_path, "app:main", "--workers", "3", "--share", share) as group:
        status = group.ready(3)
        assert sorted(place.rpartition(":")[0] for place in status["listening"]) == ["127.0.0.1", "[::1]"]
        for place in status["listening"]:
            host, _, port = place.rpartition(":")
            for _ in range(5):
                assert speak((host.strip("[]"), int(port))).endswith(b" hello\n")
        group.ask("restart")
        assert group.ready(3)["listening"] == status["listening"]
        assert group.stops() == (0, "")


def test_a_unix_socket_stays_where_it_is_through_a_restart_and_goes_with_the_group(tmp_path: Path) -> None:
    program = MAIN.replace('start_server(answer, "127.0.0.1", 0)', "start_unix_server(answer, 'app.sock')")
    write(tmp_path, "app.py", program)
    path = tmp_path / "app.sock"
    with Group(tmp_path, "app:main", "--workers", "2") as group:
        before = pids(group, 2)
        inode = path.stat().st_ino
        group.ask("restart")
        gone(before)
        assert path.stat().st_ino == inode
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"hello\n")
            assert sock.recv(100).endswith(b" hello\n")
            assert sum(row["connections"] for row in group.ask("status")["workers"]) == 1
        assert group.stops() == (0, "")
    assert not path.exists()


def test_workers_by_thread_share_one_process_which_a_restart_replaces(tmp_path: Path) -> None:
    write(tmp_path, "app.py", "import threading\n" + MAIN.replace("os.getpid()", "threading.get_native_id()"))
    with Group(tmp_path, "app:main", "--workers", "3", "--by", "thread") as group:
        (row,) = group.ready(1)["workers"]
        assert row["threads"] == 3
        place = group.place
        assert int(speak(place).split()[0]) != row["pid"]  # not the main thread, to which signals come
        group.ask("restart")
        gone([row["pid"]])
        assert speak(place).endswith(b" hello\n")
        group.ask("more")
        assert group.until(lambda s: [row["threads"] for row in s["workers"]] == [4])["wanted"] == 4
        assert group.stops() == (0, "")


def test_an_unmodified_script_that_handles_signals_runs_in_threads(tmp_path: Path) -> None:
    with Group(tmp_path, "--workers", "2", "--by", "thread", EXAMPLES / "http_aiohttp.py") as group:
        (before,) = pids(group, 1)
        with load(group.place, clients=4, per_connection=3) as result:
            result.until_answered(50)
            group.ask("restart")
            pids(group, 1)
            result.until_answered(50)
        gone([before])
        assert result.lost == []
        assert group.stops() == (0, "")


@pytest.mark.parametrize("model", ["epoll-et", "uring", "uvloop"])
def test_workers_run_on_the_model_that_is_named(tmp_path: Path, model: str) -> None:
    try:
        underlay.loop.resolve(model)
    except ModelUnavailable as reason:
        pytest.skip(str(reason))
    with Group(tmp_path, "--workers", "2", "--io", model, EXAMPLES / "http_aiohttp.py") as group:
        before = pids(group, 2)
        with load(group.place, clients=4, per_connection=1) as result:
            result.until_answered(100)
            group.ask("restart")
            pids(group, 2)
            result.until_answered(100)
        gone(before)
        assert result.lost == []
        assert group.stops() == (0, "")
    write(tmp_path, "app.py", MAIN.replace("os.getpid()", "len(type(asyncio.get_running_loop()).__name__)"))
    name = {"epoll-et": "EpollEtLoop", "uring": "UringLoop", "uvloop": "Loop"}[model]
    with Group(tmp_path, "--workers", "1", "--io", model, "app:main") as group:
        group.ready(1)
        assert speak(group.place) == b"%d hello\n" % len(name)


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


def test_the_control_socket_is_its_owners_and_the_table_fits_80_columns(tmp_path: Path) -> None:
    write(tmp_path, "app.py", MAIN)
    with Group(tmp_path, "app:main", "--workers", "2") as group:
        workers = pids(group, 2)
        assert stat.S_IMODE(group.control.stat().st_mode) == 0o600
        table = group.command("status").stdout
        assert max(map(len, table.splitlines())) <= 80
        assert all(str(pid) in table for pid in workers)
        for nonsense in (b"\xff" * 100, b"[" * 1000, b"[]", b'{"ask": []}', b'{"ask": {"status": 1}}'):
            with socket.socket(socket.AF_UNIX) as stranger:  # is shown the door, and harms nobody
                stranger.connect(str(group.control))
                stranger.sendall(nonsense)
                assert stranger.recv(100) == b""
        with contextlib.ExitStack() as silent:  # who asks nothing, however often, keeps nobody from asking
            for _ in range(100):
                silent.enter_context(socket.socket(socket.AF_UNIX)).connect(str(group.control))
            assert json.loads(group.command("status", "--json").stdout)["schema"] == "underlay.serve/1"
        second = subprocess.run(group.words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert second.stderr.startswith("underlay: another group is controlled at ")


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


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing_here:main"], "there is no module nothing_here; is it installed, or in this directory?"),
        (["app:mian"], "app:mian: there is no 'mian' in app; did you mean 'main'?"),
        (["app:PORT"], "app:PORT is 'int', which cannot be called; name a coroutine function"),
        (["app:one"], "app:one cannot be called without arguments (missing a required argument: 'x')"),
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
        (["--timeout", "1", "app:main"], "--timeout is for the answer of a running group; say it with restart"),
        (["--drain", "-1", "app:main"], "serve: argument --drain: -1 is no number of seconds"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_the_asking_is_one_sentence_and_status_2(tmp_path: Path, words: list[str], sentence: str) -> None:
    write(tmp_path, "app.py", "PORT = 1\ndef one(x): ...\n" + MAIN)
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


def test_a_client_in_a_worker_may_bind_before_it_connects(tmp_path: Path) -> None:
    write(
        tmp_path,
        "app.py",
        MAIN.replace(
            'writer.write(b"%d %s" % (os.getpid(), line))',
            """
            port = writer.get_extra_info("sockname")[1]
            r, w = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
            writer.write(b"from %s\\n" % w.get_extra_info("sockname")[0].encode())
            w.close()
            """,
        ),
    )
    with Group(tmp_path, "app:main", "--workers", "2") as group:
        group.ready(2)
        for _ in range(5):
            assert speak(group.place) == b"from 127.0.0.2\n"
        assert group.stops() == (0, "")
