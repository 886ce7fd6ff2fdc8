"""`underlay serve` runs unmodified servers in several workers, and restarts them under load, losing no request."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

import underlay.loop
from underlay.errors import ModelUnavailable

from ._groups import EXAMPLES, MAIN, PATIENCE_S, Group, gone, load, pids, speak, write


@pytest.mark.parametrize(
    ("program", "per_connection"),
    [
        pytest.param("http_aiohttp.py", 1, id="http_aiohttp-one_request"),
        pytest.param("asgi_app.py", 10, id="asgi_app-keep_alive"),
        pytest.param("http_aiohttp.py", 10, id="http_aiohttp-keep_alive", marks=pytest.mark.long),
        pytest.param("asgi_app.py", 1, id="asgi_app-one_request", marks=pytest.mark.long),
    ],
)
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


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        # By itself uvicorn would take uvloop, which cannot stop only accepting (docs/serve.md).
        pytest.param(["--by", "process"], ["--loop", "asyncio"], id="process"),
        pytest.param(["--by", "thread"], ["--loop", "asyncio"], id="thread", marks=pytest.mark.long),
        pytest.param(["--io", "epoll-et"], [], id="model", marks=pytest.mark.long),
    ],
)
def test_a_module_serves_as_with_dash_m_and_is_restarted_under_load(
    tmp_path: Path, ours: list[str], theirs: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--workers", "2", *ours, "-m", "uvicorn", "asgi_app:app", "--app-dir", EXAMPLES, "--port", port]
    processes = 1 if "thread" in ours else 2
    with Group(tmp_path, *words, "--log-level", "warning", *theirs) as group:
        before = pids(group, processes)
        assert group.place == ("127.0.0.1", port)
        with load(group.place, clients=4, per_connection=1) as result:
            result.until_answered(50)
            group.ask("restart")
            after = pids(group, processes)
            result.until_answered(50)
        gone(before)
        assert result.lost == []
        assert group.stops() == (0, "")
        gone(after)


def test_a_modules_own_words_stay_as_they_are(tmp_path: Path) -> None:
    said = "import json, sys\nopen('said', 'w').write(json.dumps([__name__, __spec__.name, *sys.argv]))\n"
    write(tmp_path, "app.py", said + MAIN + "asyncio.run(main())\n")
    with Group(tmp_path, "--workers", "1", "-mapp", "--workers", "7", "--", "-m", "x") as group:
        group.ready(1)
        assert json.loads((tmp_path / "said").read_text()) == [
            *("__main__", "app", str(tmp_path / "app.py"), "--workers", "7", "--", "-m", "x")
        ]
        assert group.command("status").stdout.startswith("-m app at 127.0.0.1:")
        assert group.stops()[0] == 0


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
        table = group.command("status").stdout.splitlines()
        assert "3 workers wanted, by thread" in table[1]
        assert (table[3].split()[3], table[4].split()[3]) == ("threads", "3")
        assert max(map(len, table)) <= 80
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


@pytest.mark.parametrize(
    "model", ["epoll-et", *(pytest.param(name, marks=pytest.mark.long) for name in ("uring", "uvloop"))]
)
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


def test_workers_are_watched_where_that_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "app.py", MAIN.replace("os._exit(3)", "__import__('time').sleep(0.3)"))
    with Group(tmp_path, "app:main", "--workers", "1", "--watch", "--watch-threshold", "100ms") as group:
        group.ready(1)
        with socket.create_connection(group.place, timeout=PATIENCE_S) as sock, sock.makefile("rb") as file:
            sock.sendall(b"die\n")
            file.readline()
        group.stops()
        said = group.errors.read_text()
    assert "app.py" in said
    assert "sleep(0.3)" in said


@pytest.mark.parametrize("by", ["process", "thread"])
@pytest.mark.parametrize("model", [[], ["--io", "uvloop"]], ids=["standard", "uvloop"])
def test_workers_call_in_the_executor_that_is_named(tmp_path: Path, by: str, model: list[str]) -> None:
    if model:
        pytest.importorskip("uvloop")
    write(tmp_path, "app.py", MAIN.replace("(os.getpid(),", "(await asyncio.to_thread(own),") + OWN)
    words = ["--executor", "process,max_workers=1", "--by", by, *model]
    with Group(tmp_path, "app:main", "--workers", "1", *words) as group:
        (worker,) = pids(group, 1)
        called_in = int(speak(group.place).split()[0])
        assert called_in not in (worker, group.process.pid)
        assert group.stops() == (0, "")
        gone([called_in])


OWN = """
def own():
    return os.getpid()
"""
