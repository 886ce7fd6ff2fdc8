"""The command `underlay speed`: what it prints, where, and how it ends; stock iperf3 is at the other end, or itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from underlay.cli import main

from ._iperf3 import PATIENCE_S, free_port, start_stock_client, stock_client, stock_server, until_listening
from ._screen import Terminal, unread_pipe

SPEED = [sys.executable, "-m", "underlay", "speed"]


def client(port: int, *words: str, expect: int = 0) -> str:
    done = subprocess.run(
        [*SPEED, f"127.0.0.1:{port}", *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout if not expect else done.stdout + done.stderr


@contextlib.contextmanager
def server(*words: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run the command as a server; with ``--json`` it does not say where, so its port is chosen before."""
    port = free_port()
    child = subprocess.Popen(
        [*SPEED, "--server", f"127.0.0.1:{port}", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until_listening(port)
        yield port, child
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()


def test_a_pipe_gets_plain_lines_of_80_columns_for_each_kind_of_test() -> None:
    with stock_server() as (port, _):
        for words in (
            ["-n", "1M"],
            ["-n", "1M", "-P", "3", "-R"],
            ["-u", "-t", "0.3", "-b", "5M", "--bidir", "-P", "2"],
        ):
            printed = client(port, *words)
            assert "\x1b" not in printed
            assert max(map(len, printed.splitlines())) <= 80
            assert f"the server at 127.0.0.1:{port} by" in printed
            assert "CPU, of one processor:" in printed


def test_json_is_one_object_with_its_schema_first_and_nothing_beside() -> None:
    with stock_server("-1") as (port, child):
        told: dict[str, Any] = json.loads(client(port, "--json", "-t", "0.5", "-i", "0.1", "-P", "2"))
        stock = json.loads(child.communicate(timeout=PATIENCE_S)[0])
    assert next(iter(told)) == "schema"
    assert (told["schema"], told["role"], told["complete"]) == ("underlay.speed/1", "client", True)
    assert told["test"]["parallel"] == 2
    assert [stream["stream"] for stream in told["streams"]] == [1, 3]
    assert told["totals"][0]["received_bytes"] == stock["end"]["sum_received"]["bytes"]
    assert sum(interval["size_bytes"] for interval in told["intervals"]) == told["totals"][0]["sent_bytes"]
    assert told["cpu"]["there"]["user_percent"] >= 0


def test_json_is_one_object_too_where_nobody_answers() -> None:
    told = json.loads(client(free_port(), "--json", expect=1).splitlines()[0])
    assert (told["schema"], told["role"], told["complete"]) == ("underlay.speed/1", "client", False)
    assert "connection refused" in told["error"]


def test_a_server_prints_one_object_a_line_for_each_test_and_for_each_that_broke() -> None:
    with server("--json", "-i", "0.1") as (port, child):
        stock_client(port, "-n", "1M")
        killed = start_stock_client(port, "-t", "30", "-b", "1M", "-i", "0.2")
        assert killed.stdout is not None
        intervals = (line for line in killed.stdout if "bits/sec" in line)
        assert next(intervals) != next(intervals)
        killed.kill()
        killed.communicate()
        client(port, "-n", "1M")
        child.send_signal(signal.SIGINT)
        output, errors = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, errors) == (0, f"underlay: listening on 127.0.0.1:{port}; Ctrl-C ends it\n")
    told = [json.loads(line) for line in output.splitlines()]
    assert [each["complete"] for each in told] == [True, False, True]
    assert all(next(iter(each)) == "schema" for each in told)
    assert "error" in told[1]
    assert told[1]["intervals"]


def test_a_server_says_where_it_listens_and_what_each_client_did() -> None:
    with server() as (port, child):
        stock_client(port, "-n", "1M")
        child.send_signal(signal.SIGTERM)
        output, errors = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == f"listening on 127.0.0.1:{port}; Ctrl-C ends it"
    assert re.match(r"the client at 127\.0\.0\.1:\d+ by TCP, 1 stream", lines[1])
    assert any(line.startswith("up ") for line in lines)


@pytest.mark.parametrize(("number", "is_testing"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_server_whose_output_nobody_reads_is_ended_by_one_signal(number: signal.Signals, is_testing: bool) -> None:
    port = free_port()
    with unread_pipe() as (output, fill):
        words = [*SPEED, "--server", f"127.0.0.1:{port}"]
        child = subprocess.Popen(words, stdout=output, stderr=subprocess.PIPE)
        try:
            until_listening(port)
            fill()
            if is_testing:
                other = start_stock_client(port, "-t", "30", "-b", "1M")
                _until_connected(port, 2)
            child.send_signal(number)
            _, errors = child.communicate(timeout=PATIENCE_S)
            assert (child.returncode, errors) == (-number, b"")
            if is_testing:
                other.communicate(timeout=PATIENCE_S)  # it was told
        finally:
            child.kill()
            child.communicate()


def test_a_server_that_is_stopped_in_the_midst_of_a_test_says_that_it_was_itself() -> None:
    with server() as (port, child):
        other = start_stock_client(port, "-t", "30", "-b", "1M")
        assert child.stdout is not None
        while not child.stdout.readline().startswith("up "):
            pass
        child.send_signal(signal.SIGTERM)
        output, _ = child.communicate(timeout=PATIENCE_S)
        other.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0
    assert re.search(
        r"^this server was stopped in the midst of the test of the client at 127\.0\.0\.1:\d+$", output, re.M
    )


def test_a_server_of_json_says_beside_its_output_where_it_listens() -> None:
    with subprocess.Popen(
        [*SPEED, "--server", "127.0.0.1:0", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        found = re.fullmatch(r"underlay: listening on 127\.0\.0\.1:(\d+); Ctrl-C ends it\n", child.stderr.readline())
        assert found is not None
        client(int(found[1]), "-n", "1K")
        child.send_signal(signal.SIGTERM)
        output, _ = child.communicate(timeout=PATIENCE_S)
    assert json.loads(output)["complete"]


def test_one_test_is_enough_for_a_server_that_is_told_so_and_its_status_is_the_tests() -> None:
    with server("--one-off") as (port, child):
        stock_client(port, "-n", "1K")
        child.communicate(timeout=PATIENCE_S)
        assert child.returncode == 0
    with server("--one-off") as (port, child):
        stock_client(port, "--sctp", fails=True)
        child.communicate(timeout=PATIENCE_S)
        assert child.returncode == 1


@pytest.mark.parametrize("words", [[], ["-u"]], ids=["tcp", "udp"])
def test_a_server_without_descriptors_for_the_streams_says_so_to_its_client(words: list[str]) -> None:
    with server("--one-off") as (port, child):
        most = len(os.listdir(f"/proc/{child.pid}/fd")) + 6
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (most, most))
        command = [*SPEED, f"127.0.0.1:{port}", "-P", "20", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        output, errors = child.communicate(timeout=PATIENCE_S)
    why = f"underlay: the server at 127.0.0.1:{port} broke the test off: it could not make a stream"
    assert (done.returncode, done.stderr) == (1, f"{why} (too many open files)\n")
    assert (child.returncode, errors) == (1, "")
    assert "no streams for the client at 127.0.0.1:" in output


def test_silent_connections_keep_nobody_out_where_descriptors_are_few() -> None:
    with server() as (port, child):
        most = len(os.listdir(f"/proc/{child.pid}/fd")) + 6
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (most, most))
        with contextlib.ExitStack() as silent:
            for _ in range(20):
                silent.enter_context(socket.create_connection(("127.0.0.1", port)))
            client(port, "-n", "1K")


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["text", "json"])
def test_ctrl_c_shows_what_there_was_and_ends_with_130(words: tuple[str, ...]) -> None:
    with stock_server() as (port, _):
        child = subprocess.Popen(
            [*SPEED, f"127.0.0.1:{port}", "-t", "30", "-i", "0.2", "-b", "1M", "-l", "1000", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        if words:  # nothing is printed before the end: wait for its streams
            _until_connected(port, 2)
        else:
            assert child.stdout is not None
            while not child.stdout.readline().startswith("up "):
                pass
        child.send_signal(signal.SIGINT)
        output, errors = child.communicate(timeout=PATIENCE_S)
        assert (child.returncode, errors) == (130, "")
        if words:
            if output:  # the test had begun
                assert json.loads(output)["error"] == "interrupted"
        else:
            assert "The test was broken off" in output
        # A stock server heard of it, and is free again.
        client(port, "-n", "1K")


def _until_connected(port: int, count: int) -> None:
    for _ in range(PATIENCE_S * 100):
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        if sum(int(line[1].split(":")[1], 16) == port and line[3] == "01" for line in lines) >= count:
            return
        signal.sigtimedwait([], 0.01)
    raise AssertionError("the client did not connect")


def test_a_terminal_shows_a_graph_that_grows_and_leaves_its_last_state() -> None:
    with stock_server("-1") as (port, _):
        words = [*SPEED, f"127.0.0.1:{port}", "-t", "1", "-i", "0.1", "-b", "10M", "-l", "1000"]
        with Terminal(words, None, {**os.environ, "PYTHONIOENCODING": "utf-8"}) as terminal:
            terminal.read(lambda seen: "Mbit/s" in seen)
            assert terminal.has_a_cursor  # whatever ends or stops it now leaves a shell its own
            assert terminal.end() == 0
    printed = terminal.seen
    graphs = re.findall(r"up   ([▁▂▃▄▅▆▇█]+) +[\d.,]+ Mbit/s", printed)
    assert len(graphs[0]) == 1
    assert len(graphs[-1]) >= 9
    assert [len(graph) for graph in graphs] == sorted(len(graph) for graph in graphs)
    assert "Verdict" in printed.rsplit(graphs[-1], 1)[1]


def test_an_encoding_that_has_no_micro_gets_the_same_lines_without() -> None:
    with stock_server("-1") as (port, _):
        done = subprocess.run(
            [*SPEED, f"127.0.0.1:{port}", "-n", "1K"],
            capture_output=True,
            timeout=PATIENCE_S,
            check=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
    assert b"rtt us" in done.stdout


def test_who_is_sent_away_ends_with_1_and_one_sentence() -> None:
    with server() as (port, _):
        first = start_stock_client(port, "-t", "30", "-b", "1M")
        assert first.stdout is not None
        while "connected to" not in first.stdout.readline():
            pass
        said = client(port, expect=1)
        assert said == f"underlay: the server at 127.0.0.1:{port} is busy running a test; try again later\n"
        first.kill()
        first.communicate()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "no server is named; `underlay speed HOST` tests the way to it, --server is one"),
        (["--one-off", "x"], "--one-off is about a server; add --server, or leave it out"),
        (["--server", "-u"], "--udp is the client's to choose; leave it out where --server stands"),
        (["--server", "-t", "3"], "--time is the client's to choose; leave it out where --server stands"),
        (["x", "-p", "0"], "port 0 is no server's; it lets a server's kernel choose: see what that listens on"),
        (["x:0"], "port 0 is no server's; it lets a server's kernel choose: see what that listens on"),
        (["x:0", "-p", "2"], "two ports, 0 and 2; leave one of them out"),
        (["x:1", "-p", "2"], "two ports, 1 and 2; leave one of them out"),
        ([":1"], "':1' has no host; write it like 10.0.0.1, [::1]:5201 or lab.example:5201"),
        (["x", "-u", "-Z"], "-Z, -C, -M and -N are about TCP; leave them out, or -u"),
        (["7903"], "'7903' is a number and no host; -p 7903 names the port"),
        (["--server", "7903"], "'7903' is a number and no host; -p 7903 names the port"),
        (["x", "-t", "0"], None),
        (["x", "-P", "0"], "0 parallel streams are not possible; a test has 1 to 128"),
        (["x", "-n", "0"], "a test of no bytes measures nothing; -n and -k take 1 or more"),
        (["x", "-u", "-l", "65508"], "a datagram of 65508 bytes is not possible; it has 16 to 65507"),
        (["x", "-n", "8193T"], "no test moves so much, or so fast; sizes and rates are up to 9,007,199,254,740,992"),
        (["x", "--connect-timeout", "1e300"], "nobody is connected to within 1e+300 s; give up to 86400 s"),
        (["127.0.0.1:1", "-B", "a" * 70], f"{'a' * 70!r} is no address; --bind takes an address of this machine"),
        (["127.0.0.1", "-C", "nosuch"], None),
        (["x", "-t", "-1"], None),
        (["x", "-t", "nan"], None),
        (["x", "-t", "1", "-n", "1"], None),
        (["x", "-R", "--bidir"], None),
        (["x", "-b", "10Q"], None),
        (["x", "-i", "0.01"], None),
        (["x", "-p", "65536"], None),
        (["x", "-S", "0x1g"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_the_asking_is_one_sentence_and_status_2(
    words: list[str], sentence: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if "nosuch" in words:
        with stock_server() as (port, _):
            status = main(["speed", *words, "-p", str(port)])
    else:
        status = main(["speed", *words])
    told = capsys.readouterr()
    assert status == 2
    assert told.out == ""
    assert told.err.count("\n") == 1
    if sentence is not None:
        assert told.err == f"underlay: {sentence}\n"


def test_a_port_that_is_taken_names_who_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    with stock_server() as (port, child):
        assert main(["speed", "--server", f"127.0.0.1:{port}"]) == 2
        told = capsys.readouterr().err
        assert f"the port is in use by iperf3 (pid {child.pid}); end it, or choose another port" in told
