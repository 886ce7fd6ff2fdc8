"""Use of `underlay path` that is wrong is one sentence and exit status 2; use that is only odd works."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time

import pytest

from underlay.cli import main
from underlay.errors import UnderlayError, UsageError
from underlay.tools.path import Trace, trace


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--port 0 127.0.0.1", "the port is 0; give 1 to 65535"),
        ("--port 70000 127.0.0.1", "the port is 70000"),
        ("--icmp --port 80 127.0.0.1", "ICMP has no ports"),
        ("--flows 0 127.0.0.1", "the number of flows is 0; give 1 to 64"),
        ("-i 0 127.0.0.1", "the interval in seconds is 0; give 0.01 to 3600"),
        ("-i nan 127.0.0.1", "the interval in seconds is nan"),
        ("--timeout inf 127.0.0.1", "the time-out in seconds is inf"),
        ("-c 99999999999 127.0.0.1", "the number of rounds is 99999999999; give 1 to 1000000000"),
        ("-c -1 127.0.0.1", "argument -c/--count: it takes a word behind it, and none that begins with -"),
        ("-c 0 127.0.0.1", "the number of rounds is 0; give 1 to 1000000000"),
        ("--max-hops 256 127.0.0.1", "the number of hops is 256"),
        ("--silent-hops 0 127.0.0.1", "the number of silent hops is 0"),
        ("--source-port 65536 127.0.0.1", "the source port is 65536"),
        ("--source nowhere 127.0.0.1", "'nowhere' is no address"),
        ("--source ::1 127.0.0.1", "has no IPv6 address"),
        ("-4 --source ::1 127.0.0.1", "::1 is no IPv4 address"),
        ("--source 203.0.113.1 127.0.0.1", "203.0.113.1 is no address of this machine"),
        ("-6 127.0.0.1", "has no IPv6 address"),
        ("no.such.host.invalid", "'no.such.host.invalid' has no address here"),
        ("x..y", "has no address here"),
        ("224.0.0.1", "224.0.0.1 is many hosts"),
        ("255.255.255.255", "is many hosts"),
        ("ff02::1", "is many hosts"),
        ("0.0.0.0", "0.0.0.0 is no host"),
        ("fe80::1", "fe80::1 may be on any link; say on which, as in fe80::1%eth0"),
        ("::", ":: is no host"),
        ("::ffff:127.0.0.1", "is an IPv4 address as IPv6 writes it; give 127.0.0.1"),
        ("--flows 64 -i 0.1 127.0.0.1", "the interval in seconds is 0.1; give 0.16 to 3600"),
        ("--udp --tcp 127.0.0.1", "not allowed with argument"),
        ("--live 127.0.0.1", "--live is for --json"),
        ("", "HOST"),
        ("a b", "unrecognized arguments: b"),
    ],
)
def test_it_is_one_sentence(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["path", *words.split()]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("underlay: ") and errors.count("\n") == 1
    assert says in errors


def test_the_port_that_is_taken_is_named_and_not_that_of_the_first_flow() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is taken here"):
            trace("127.0.0.1", source="127.0.0.1", source_port=port - 1, flows=2)


def test_more_flows_than_descriptors_are_one_sentence_and_leave_none_open() -> None:
    before = os.listdir("/proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)) + 5, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        for _ in range(3):
            os.close(held.pop())
        with pytest.raises(UnderlayError, match="no more sockets for the probes: too many open files"):
            trace("127.0.0.1", flows=20)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir("/proc/self/fd") == before


def test_a_protocol_that_is_none_is_wrong_use_of_the_library_too() -> None:
    with pytest.raises(UsageError, match="there are no probes by 'sctp'"):
        trace("127.0.0.1", protocol="sctp")  # type: ignore[arg-type]


def test_whoever_takes_long_over_each_report_gets_the_last_one_too() -> None:
    # Between two reports it sends and listens, however late the second is asked for.
    count = 0
    with Trace("127.0.0.1", rounds=5, interval_s=0.01, names=False) as measurement:
        for _ in measurement.run(0.001):
            time.sleep(0.005)
            count += 1
        assert count > 1
        assert measurement.report().hops[0].answered == 5


def test_the_help_has_examples_and_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["path", "--help"]) == 0
    output = capsys.readouterr().out
    assert "examples:" in output and "Exit status: 0" in output
    assert max(map(len, output.splitlines())) <= 80
