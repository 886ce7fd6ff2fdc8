"""The meters against what is known: this process, children that do a known amount, sockets that we opened.

CPU time and counts are compared with an independent source, never with a limit in seconds.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from underlay.tools._compare_measure import cpu_s, memory_bytes, process_tree, switches
from underlay.tools._compare_server import Endpoint, listening, parse_endpoint
from underlay.tools._compare_syscalls import CannotCount, Counter, PerfCounter, StraceCounter


def test_cpu_time_of_a_process_is_its_own_clock() -> None:
    before = time.process_time()
    seen = cpu_s([os.getpid()])
    after = time.process_time()
    assert before <= seen <= after


def test_cpu_time_counts_threads_that_have_ended() -> None:
    def burn() -> None:
        sum(range(300_000))

    before = cpu_s([os.getpid()])
    thread = threading.Thread(target=burn)
    thread_before = time.process_time()
    thread.start()
    thread.join()
    assert cpu_s([os.getpid()]) - before >= (time.process_time() - thread_before) * 0.5


def test_the_cpu_time_of_a_process_that_is_gone_is_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert cpu_s([gone.pid]) == 0


@contextmanager
def child(code: str) -> Iterator[subprocess.Popen[str]]:
    """Run code that prints a line when it is ready and does its work for each line that it gets."""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        process.stdin.close()
        process.stdout.close()
        process.kill()
        process.wait()


def turn(process: subprocess.Popen[str]) -> None:
    """Let a child do its work once and wait until it has."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    process.stdout.readline()


def test_a_tree_has_the_grandchildren_and_parents_come_first() -> None:
    code = (
        "import subprocess, sys\n"
        "inner = 'print(1, flush=True); input()'\n"
        "p = subprocess.Popen([sys.executable, '-c', inner], stdin=subprocess.PIPE)\n"
        "input()\n"
    )
    with child(code) as process:  # the line it waits for is the grandchild's
        tree = process_tree(process.pid)
        assert len(tree) == 2
        assert tree[0] == process.pid
        assert tree == [pid for pid in process_tree(os.getpid()) if pid in tree]


CALLS = 1000
CALLING = f"""
import os, sys
print("ready", flush=True)
for line in sys.stdin:
    for _ in range({CALLS}):
        os.getppid()
    print("done", flush=True)
"""


@pytest.mark.parametrize("make", [PerfCounter, StraceCounter])
def test_system_calls_are_counted_one_by_one(make: Callable[[list[int]], Counter]) -> None:
    with child(CALLING) as process:
        try:
            counter = make([process.pid])
        except CannotCount as reason:
            pytest.skip(str(reason))
        turn(process)
        calls = counter.stop()
    assert CALLS < calls < CALLS + 50  # the reading and writing of two lines


@pytest.mark.parametrize("make", [PerfCounter, StraceCounter])
def test_system_calls_of_threads_that_begin_later_count_too(
    make: Callable[[list[int]], Counter],
) -> None:
    code = f"""
import os, sys, threading
print("ready", flush=True)
for line in sys.stdin:
    thread = threading.Thread(target=lambda: [os.getppid() for _ in range({CALLS})])
    thread.start()
    thread.join()
    print("done", flush=True)
"""
    with child(code) as process:
        try:
            counter = make([process.pid])
        except CannotCount as reason:
            pytest.skip(str(reason))
        turn(process)
        assert counter.stop() > CALLS


def test_a_process_that_waits_a_hundred_times_gives_way_a_hundred_times() -> None:
    code = """
import sys, time
print("ready", flush=True)
for line in sys.stdin:
    for _ in range(100):
        time.sleep(0.0001)
    print("done", flush=True)
"""
    with child(code) as process:
        before = switches([process.pid])
        turn(process)
        after = switches([process.pid])
    assert after.voluntary - before.voluntary >= 100


def test_memory_that_a_process_takes_is_seen() -> None:
    code = """
import sys
print("ready", flush=True)
held = []
for line in sys.stdin:
    held.append(bytearray(b"x" * (32 << 20)))
    print("done", flush=True)
"""
    with child(code) as process:
        before = memory_bytes([process.pid])
        turn(process)
        grown = memory_bytes([process.pid]) - before
    assert 31 << 20 <= grown <= 66 << 20  # the bytes, and perhaps their copy


@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET, "0.0.0.0")],
)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_listening_socket_is_found_where_it_can_be_connected_to(
    family: socket.AddressFamily, host: str, kind: socket.SocketKind
) -> None:
    protocol = "tcp" if kind is socket.SOCK_STREAM else "udp"
    with socket.socket(family, kind) as sock:
        try:
            sock.bind((host, 0))
        except OSError as error:
            pytest.skip(f"no {host} here: {error}")
        if protocol == "tcp":
            assert not [e for e in listening([os.getpid()], "tcp") if e.port == sock.getsockname()[1]]
            sock.listen()
        wanted = Endpoint(sock.getsockname()[1], "127.0.0.1" if host == "0.0.0.0" else host)
        assert wanted in listening([os.getpid()], protocol)
    assert wanted not in listening([os.getpid()], protocol)


def test_a_socket_of_another_process_is_not_ours() -> None:
    with child("print('ready', flush=True); input()") as process, socket.create_server(("", 0)) as sock:
        port = sock.getsockname()[1]
        assert port not in [endpoint.port for endpoint in listening([process.pid], "tcp")]


@pytest.mark.skipif(sys.byteorder != "little", reason="the sample is of a little-endian machine")
@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0100007F:1F90", "127.0.0.1", 8080),
        ("00000000:0050", "127.0.0.1", 80),
        ("00000000000000000000000001000000:1F90", "::1", 8080),
        ("00000000000000000000000000000000:1F90", "::1", 8080),
        ("0000000000000000FFFF00000100007F:1F90", "::ffff:127.0.0.1", 8080),
    ],
)
def test_addresses_of_the_kernels_table_are_read(text: str, host: str, port: int) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint.port == port
    assert socket.getaddrinfo(endpoint.host, None) == socket.getaddrinfo(host, None)
