"""The command `underlay path` on a chain of machines: what it prints, what it takes, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from .._chain import Chain, Node, chain
from ._machine import PATIENCE_S
from ._screen import Terminal

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make namespaces; remedy: run as root")


@pytest.fixture(scope="module")
def net() -> Iterator[Chain]:
    """A chain of three routers that answer everything; who changes it changes it back."""
    with chain(3) as made:
        yield made


# Another user may be unable to read this Python's own files, so all is imported before.
AS_USER = """
import contextlib, io, os, sys
import underlay.tools.path._cli
from underlay.cli import main

if user := sys.argv[1]:
    with contextlib.redirect_stdout(io.StringIO()):
        main(["path", "-n", "-c", "1", "127.0.0.1"])
    os.setgroups([])
    os.setresgid(int(user), int(user), int(user))
    os.setresuid(int(user), int(user), int(user))
sys.exit(main(sys.argv[2:]))
"""


def cli(
    node: Node, *words: str, user: int | None = None, expect: int = 0
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run `underlay path` on a machine of the chain."""
    done = node.namespace.run(
        lambda: subprocess.run(
            [sys.executable, "-c", AS_USER, "" if user is None else str(user), "path", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_it_takes_no_right(net: Chain, protocol: str) -> None:
    found = cli(net.client, f"--{protocol}", "--json", "-c", "2", "-i", "0.02", net.address(4), user=NOBODY)
    assert [hop["address"] for hop in json.loads(found.stdout)["hops"]] == net.hops()


@pytest.mark.parametrize("version", [4, 6])
def test_icmp_takes_no_right_where_users_may_ping_and_one_sentence_where_they_may_not(net: Chain, version: int) -> None:
    words = ("--icmp", "--json", "-c", "2", "-i", "0.02", net.address(4, version))
    refused = cli(net.client, *words, user=NOBODY, expect=2)
    assert refused.stderr.count("\n") == 1
    assert "ping_group_range" in refused.stderr
    net.client.set_sysctl("net.ipv4.ping_group_range", "0 2147483647")
    try:
        found = cli(net.client, *words, user=NOBODY)
    finally:
        net.client.set_sysctl("net.ipv4.ping_group_range", "1 0")
    assert [hop["address"] for hop in json.loads(found.stdout)["hops"]] == net.hops(version)


@pytest.mark.parametrize(
    ("words", "user"), [(["--icmp"], NOBODY), (["--tcp"], NOBODY), (["--tcp", "--source-port", "99"], 0)]
)
def test_root_of_sudo_is_given_up_once_the_sockets_are_open(
    net: Chain, monkeypatch: pytest.MonkeyPatch, words: list[str], user: int
) -> None:
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    monkeypatch.setenv("SUDO_GID", str(NOBODY))
    program = AS_USER.replace(
        "sys.exit(main(sys.argv[2:]))", "main(sys.argv[2:]); sys.exit(os.getresuid() != (%d,) * 3)"
    )
    done = net.client.namespace.run(
        lambda: subprocess.run(
            [sys.executable, "-c", program % user, "", "path", *words, "-c", "3", "-i", "0.02", "-n", net.address(4)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert all(address in done.stdout for address in net.hops())


def test_the_report_is_plain_text_of_80_columns_that_calls_a_limit_a_limit(net: Chain) -> None:
    net.routers[1].set_sysctl("net.ipv4.icmp_ratelimit", "1000")
    try:
        found = cli(net.client, "-n", "-c", "100", "-i", "0.01", "--timeout", "1", net.address(4)).stdout
    finally:
        net.routers[1].set_sysctl("net.ipv4.icmp_ratelimit", "0")
    assert found.isascii() and "\x1b" not in found
    assert max(map(len, found.splitlines())) <= 80
    assert "rate-limited: it answered" in found
    rows = [line.split() for line in found.splitlines() if line[:3].strip().isdecimal()]
    assert [row[:3] for row in rows] == [[str(ttl), "0.0", "100"] for ttl in (1, 2, 3, 4)]


def test_a_host_without_a_route_is_one_sentence(net: Chain) -> None:
    found = cli(net.client, "198.51.100.1", expect=1)
    assert found.stderr == "underlay: this machine has no route to 198.51.100.1; see `ip route`\n"


def test_live_json_is_an_object_a_line_and_ends_well_by_ctrl_c(net: Chain) -> None:
    child = net.client.namespace.run(
        lambda: subprocess.Popen(
            [sys.executable, "-m", "underlay", "path", "--json", "--live", "-i", "0.05", net.address(4)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    assert child.stdout is not None
    first = json.loads(child.stdout.readline())
    child.send_signal(signal.SIGINT)
    rest, errors = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, errors) == (0, "")
    objects = [first, *map(json.loads, rest.splitlines())]
    assert all(each["schema"] == "underlay.path/1" for each in objects)
    assert objects[-1]["interrupted"]
    assert [hop["address"] for hop in objects[-1]["hops"]] == net.hops()


def test_ctrl_c_in_a_report_prints_what_is_known_and_ends_with_130(net: Chain) -> None:
    child = net.client.namespace.run(
        lambda: subprocess.Popen(
            [sys.executable, "-c", INTERRUPT_ITSELF, "path", "-n", "-r", "-c", "1000", "-i", "0.05", net.address(4)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, errors) == (130, "")
    assert "Interrupted: this is what was measured so far." in output
    assert net.address(4) in output


# Ctrl-C when the first report is due, whenever that is.
INTERRUPT_ITSELF = """
import os, signal, sys
from underlay.cli import main
from underlay.tools.path._schedule import Schedule

begin = Schedule._begin_round

def begin_and_interrupt(self, now_ns):
    begin(self, now_ns)
    if self.rounds_sent == 3:
        os.kill(os.getpid(), signal.SIGINT)

Schedule._begin_round = begin_and_interrupt
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("rows", [24, 6])
def test_the_live_view_ends_by_ctrl_c_with_its_table_on_the_screen(rows: int) -> None:
    words = [sys.executable, "-m", "underlay", "path", "-n", "-i", "0.05", "127.0.0.1"]
    with Terminal(words, None, os.environ, rows=rows) as terminal:
        terminal.read(lambda seen: "is 1 hop away" in seen)
        assert terminal.has_a_cursor  # whatever ends or stops it now leaves a shell its own
        terminal.child.send_signal(signal.SIGINT)
        assert terminal.end() == 0
    assert "Traceback" not in terminal.seen
    assert terminal.seen.rstrip().endswith("127.0.0.1 is 1 hop away.")
