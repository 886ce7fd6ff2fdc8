"""strace shows that each model is what its name says: one example, twenty round trips, some idling.

It knows system calls and reads them off a trace of `examples/echo.py` under `underlay run`,
between the line that tells the port and the signal that ends the program.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import ROOT, why_missing

ECHO = ROOT / "examples" / "echo.py"

ROUND_TRIPS = 20
CLIENTS = 2

# How long both clients are silent at the end, so that whoever waits is seen waiting.
IDLE_S = 0.3

# Calls that can wait for a descriptor or for a notice about one, on the architectures of
# Linux: x86 has select and epoll_wait, others only the variants with a signal mask.
WAITS = {
    "select": {"select", "pselect6"},
    "poll": {"poll", "ppoll"},
    "epoll": {"epoll_wait", "epoll_pwait", "epoll_pwait2"},
    "epoll_et": {"epoll_wait", "epoll_pwait", "epoll_pwait2"},
    "signal": {"rt_sigtimedwait"},
    "uring": {"io_uring_enter"},
    "nonblocking": set[str](),
    "blocking": set[str](),
}
ALL_WAITS = set[str]().union(*WAITS.values())

TRANSFERS = {"recvfrom", "recvmsg", "sendto", "sendmsg", "read", "readv", "accept", "accept4"}

LINE = re.compile(r"^(?P<thread>\d+) +(?:<\.\.\. )?(?P<name>\w+)(?P<rest>\(| resumed>).*$")

# poll and its like with a timeout of nothing ask, they do not wait.
ASKS = re.compile(r", 0\) += |\{tv_sec=0, tv_n?u?sec=0\}")

# The descriptors of the listener and of connections, and those that a poll() is for.
SERVES = re.compile(r"\d+ +(?:accept4?|recvfrom|sendto)\((\d+),")
POLLED = re.compile(r"\bfd=(\d+)")


@dataclass(frozen=True, slots=True)
class Call:
    """One line of a trace: a call, or one half of a call that another thread interrupted."""

    thread: int
    name: str
    line: str

    @property
    def waits(self) -> bool:
        return self.name in ALL_WAITS and not ASKS.search(self.line)

    @property
    def begins(self) -> bool:
        return "resumed>" not in self.line


def traced(model: str) -> list[Call]:
    """The calls of the echo example under the model; skips where strace or the model is missing."""
    if reason := why_missing(model):
        pytest.skip(reason)
    if reason := why_no_strace():
        pytest.skip(reason)
    return list(_trace(model))


@functools.cache
def why_no_strace() -> str | None:
    if shutil.which("strace") is None:
        return "strace is not installed; try: apt install strace"
    probe = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return f"strace may not trace here: {probe.stderr.strip()}" if probe.returncode else None


@functools.cache
def _trace(model: str) -> tuple[Call, ...]:
    with tempfile.TemporaryDirectory() as directory:
        trace = Path(directory) / "trace"
        program = [sys.executable, "-m", "underlay", "run", "--io", model, str(ECHO)]
        with subprocess.Popen(
            # Strings long enough to recognise, no signals' names shortened away.
            ["strace", "-f", "-s", "32", "-o", str(trace), *program],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as tracer:
            try:
                assert tracer.stdout is not None
                told = tracer.stdout.readline()
                assert told, f"the example ended before it listened: see {program}"
                port = int(told.rpartition(":")[2])
                _talk(port)
                # strace's first line names the process that it started.
                os.kill(int(trace.read_text().split(maxsplit=1)[0]), signal.SIGTERM)
                assert tracer.wait(30) == 0
            finally:
                tracer.kill()
        return tuple(_window(trace.read_text().splitlines()))


def _talk(port: int) -> None:
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CLIENTS)]
    for number in range(ROUND_TRIPS):
        for client in clients:
            sent = b"%04d" % number
            client.sendall(sent)
            assert client.recv(100) == sent
    time.sleep(IDLE_S)
    for client in clients:
        client.close()
    # The program is to see the ends of both before the signal comes.
    time.sleep(IDLE_S)


def _window(lines: list[str]) -> list[Call]:
    start = next(i for i, line in enumerate(lines) if 'write(1, "listening' in line)
    end = next(i for i, line in enumerate(lines) if "--- SIGTERM" in line)
    found = (LINE.match(line) for line in lines[start + 1 : end])
    return [Call(int(m["thread"]), m["name"], m.string) for m in found if m]


def counts(calls: list[Call]) -> Counter[str]:
    """How often each call was begun."""
    return Counter(call.name for call in calls if call.begins)


@pytest.mark.parametrize("model", ["select", "poll", "epoll", "epoll_et", "signal", "uring"])
def test_a_model_waits_in_its_own_call_and_in_no_other(model: str) -> None:
    calls = traced(model)
    waited_in = Counter(call.name for call in calls if call.waits)
    assert waited_in and set(waited_in) <= WAITS[model], waited_in
    assert len({call.thread for call in calls}) == 1, "one thread serves everybody"


def test_blocking_waits_in_recv_with_a_thread_for_each_client() -> None:
    calls = traced("blocking")
    # The thread that waits for signals may come to its poll() only when the example already listens.
    waits = [call for call in calls if call.waits]
    assert {call.name for call in waits} <= WAITS["poll"]
    served = {found[1] for call in calls if (found := SERVES.match(call.line))}
    assert served and not [call.line for call in waits if served & set(POLLED.findall(call.line))]
    stuck = "<unfinished ...>"
    receiving = {c.thread for c in calls if c.name == "recvfrom" and c.line.endswith(stuck)}
    accepting = {c.thread for c in calls if c.name.startswith("accept") and c.line.endswith(stuck)}
    assert len(receiving) == CLIENTS, "each client has a thread that waits in recv()"
    assert len(accepting) == 1 and not accepting & receiving
    again = [c.line for c in calls if c.name == "recvfrom" and "EAGAIN" in c.line]
    assert len(again) < ROUND_TRIPS, "recv() was tried instead of waited in"


def test_nonblocking_tries_again_and_again_and_never_waits() -> None:
    calls = traced("nonblocking")
    refused = [c for c in calls if c.name == "recvfrom" and "EAGAIN" in c.line]
    assert len(refused) > 5 * ROUND_TRIPS * CLIENTS
    assert not [call.line for call in calls if call.waits]
    assert len({call.thread for call in calls}) == 1


def test_select_and_poll_and_level_triggered_epoll_never_ask_for_edges() -> None:
    for model in ("select", "poll", "epoll"):
        assert not [call for call in traced(model) if "EPOLLET" in call.line]


def test_epoll_et_asks_for_edges_of_every_client() -> None:
    added = [c.line for c in traced("epoll_et") if c.name == "epoll_ctl" and "EPOLLIN" in c.line]
    assert len(added) >= CLIENTS
    assert all("EPOLLET" in line for line in added), added


def test_signal_makes_every_client_send_a_real_time_signal() -> None:
    calls = traced("signal")
    asked = [call.line for call in calls if call.name == "fcntl"]
    assert sum("F_SETSIG" in line for line in asked) >= CLIENTS
    # strace writes O_ASYNC by its older name, FASYNC.
    assert sum("F_SETFL" in line and "ASYNC" in line for line in asked) >= CLIENTS
    came = [c for c in calls if c.name == "rt_sigtimedwait" and "si_signo=SIGRT" in c.line]
    assert len(came) >= ROUND_TRIPS


def test_uring_moves_bytes_by_no_call_but_io_uring_enter() -> None:
    calls = traced("uring")
    assert not [call.line for call in calls if call.name in TRANSFERS]
    entered = counts(calls)["io_uring_enter"]
    # Each round trip needs a wake-up; sends ride along with the next wait.
    assert ROUND_TRIPS <= entered <= 3 * ROUND_TRIPS * CLIENTS + 20


def test_the_readiness_models_receive_by_recv_and_send_by_send() -> None:
    for model in ("select", "poll", "epoll", "epoll_et", "signal", "nonblocking"):
        seen = counts(traced(model))
        assert seen["recvfrom"] >= ROUND_TRIPS * CLIENTS, model
        assert seen["sendto"] >= ROUND_TRIPS * CLIENTS, model
