"""`underlay ports --watch` in namespaces of the tests' own: what it tells while connections come and go for real."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.tools.ports._place import LIMIT_S, Place, arguments, needs_root, place, port_of


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as found:
        yield found


class Watching:
    """A running `underlay ports --watch`, whose lines are read as they come."""

    def __init__(self, where: Place, *words: str, nobody: bool = False) -> None:
        argv = arguments("--watch", *words, nobody=nobody)
        self.child: subprocess.Popen[str] = where.do(
            lambda: subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        assert self.child.stderr is not None
        self.sources = self.child.stderr.readline()  # it watches from now on

    def until(self, text: str) -> list[str]:
        """The lines up to one that has this in it."""
        assert self.child.stdout is not None
        lines: list[str] = []
        while not lines or text not in lines[-1]:
            line = self.child.stdout.readline()
            assert line, f"it ended: {lines}"
            lines.append(line)
        return lines

    def end(self) -> tuple[int, str]:
        self.child.send_signal(signal.SIGINT)
        rest, errors = self.child.communicate(timeout=LIMIT_S)
        assert errors == ""
        return self.child.returncode, rest


def test_a_watch_tells_what_opens_changes_and_closes(here: Place) -> None:
    watching = Watching(here, "proto:tcp", "--interval", "0.2")
    try:
        with here.server() as server:
            [line] = watching.until(f"127.0.0.1:{port_of(server)}")
            assert re.match(r"\d\d:\d\d:\d\d\.\d{3} \+ tcp  127\.0\.0\.1:\d+ +\* +LISTEN  ", line)
            assert f"({os.getpid()})" in line
            client, accepted = here.connect(server)
            with client, accepted:
                port = port_of(client)
                watching.until(f"127.0.0.1:{port} ")
                accepted.close()
                [*_, line] = watching.until("FIN-WAIT-2")
                assert re.search(r" ~ tcp .* (ESTABLISHED|FIN-WAIT-1) to FIN-WAIT-2", line)
            watching.until("TIME-WAIT")
        [*_, line] = watching.until(" - tcp ")
    finally:
        status, rest = watching.end()
    assert status == 0
    assert re.search(r"\d+ opened, \d+ changed, \d+ closed, \d+ came and went between two looks\n$", rest)


def come_and_go(here: Place, server: socket.socket, count: int, then: Callable[[socket.socket], object]) -> set[int]:
    """Connect so often and close, and do something with what was accepted; the ports of the clients."""
    ports = set()
    for _ in range(count):
        client, accepted = here.connect(server)
        ports.add(port_of(client))
        client.close()
        then(accepted)
    return ports


def test_a_watch_misses_no_connection_that_came_and_went_between_two_looks(here: Place) -> None:
    with here.server() as server:
        watching = Watching(here, "--json", "proto:tcp", f"local:{port_of(server)}", "--interval", "3600")
        try:
            ports = come_and_go(here, server, 50, lambda accepted: accepted.close())
            seen: set[int] = set()
            assert watching.child.stdout is not None
            while seen < ports:
                told = json.loads(watching.child.stdout.readline())
                assert told["schema"] == "underlay.ports/1"
                assert told["socket"]["local_port"] == port_of(server)
                seen.add(told["socket"]["peer_port"])
        finally:
            status, rest = watching.end()
        assert status == 0
        assert json.loads(rest.splitlines()[-1])["lost_messages"] == 0


def test_a_watch_says_of_no_connection_that_it_is_over_while_its_peer_has_not_closed_it(here: Place) -> None:
    with here.server() as server, ExitStack() as kept:
        watching = Watching(here, "--json", "proto:tcp", f"peer:{port_of(server)}", "--interval", "3600")
        try:
            ports = come_and_go(here, server, 20, kept.enter_context)
            seen: set[int] = set()
            assert watching.child.stdout is not None
            while seen < ports:
                told = json.loads(watching.child.stdout.readline())
                if told["socket"]["state"] == "fin-wait-2":
                    seen.add(told["socket"]["local_port"])
        finally:
            _, rest = watching.end()
        assert json.loads(rest.splitlines()[-1])["summary"]["passed"] == 0


CONNECT = """
import socket, sys

for _ in sys.stdin:
    ports = []
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as client:
            ports.append(client.getsockname()[1])
    print(*ports, flush=True)
"""
# What others do on the machine may fill the buffers of the tracepoint, and then nothing is told that is not certain.
TRIES = 20


def told_of(watching: Watching, ports: set[int]) -> list[dict[str, object] | None]:
    """Who is said to have, or to have had, the connections of these ports."""
    assert watching.child.stdout is not None
    found: list[dict[str, object] | None] = []
    waited = set(ports)
    while waited:
        told = json.loads(watching.child.stdout.readline())
        if told["change"] in ("opened", "passed") and told["socket"]["local_port"] in waited:
            waited.remove(told["socket"]["local_port"])
            # One that a look found before it was over has an owner.
            found += told["socket"]["owners"] or [told["connected_by"]]
    return found


@needs_root
def test_a_watch_tells_who_connected_what_was_over_before_it_could_look(here: Place) -> None:
    with here.server() as server:
        port = port_of(server)
        watching = Watching(here, "--json", "proto:tcp", f"peer:{port}", "--interval", "3600")
        if "no tracepoint: " in watching.sources:
            watching.end()
            pytest.skip("no tracepoint; remedy: a kernel with CONFIG_PERF_EVENTS and tracefs")
        argv = [sys.executable, "-c", CONNECT, str(port)]
        child = here.do(
            lambda: subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        )
        try:
            assert child.stdin is not None and child.stdout is not None
            for _ in range(TRIES):
                child.stdin.write("\n")
                ports = set(map(int, child.stdout.readline().split()))
                assert len(ports) == 5
                found = told_of(watching, ports)
                for who in filter(None, found):
                    assert (who["pid"], who["user"]) == (child.pid, "root")
                    assert "import socket, sys" in str(who["command"])
                if None not in found:
                    return
            pytest.fail(f"the last try: {found}")
        finally:
            child.communicate()
            watching.end()


@needs_root
def test_a_watch_says_what_it_hears(here: Place) -> None:
    watching = Watching(here, "proto:tcp")
    watching.end()
    assert "the ends of TCP and UDP sockets by the kernel's messages" in watching.sources
    assert "TCP's states by a tracepoint" in watching.sources or "no tracepoint: " in watching.sources
    watching = Watching(here, "proto:tcp", "--interval", "0.1", nobody=True)
    with here.server() as server:
        watching.until(f"127.0.0.1:{port_of(server)}")
    watching.end()
    assert "(no tracepoint: only root may hear of it)" in watching.sources
    assert "the rest by looking every 0.1 s" in watching.sources
    watching = Watching(here, "proto:unix")
    watching.end()
    assert watching.sources == "underlay: watching everything by looking every 1 s; Ctrl-C ends it\n"
