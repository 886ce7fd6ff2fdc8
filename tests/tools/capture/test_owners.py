"""Whose packets they are: found for sockets of each kind, for those that are gone in a moment, and never waited for."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from underlay.tools.capture import Flow, Live, LiveStatistics, Owner
from underlay.tools.capture import _owner_process as process
from underlay.tools.capture import _owners as module
from underlay.tools.capture._filter import Instruction
from underlay.tools.capture._owners import Flows, flow_key
from underlay.tools.capture._ring import CapturedPacket
from underlay.wire import (
    ACK,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    SYN,
    build_ipv4,
    build_ipv6,
    build_tcp_header,
    build_udp,
    parse_ip,
)

from ._net import Net, network
from ._programs import run_in_kernel

LOOPBACK = 1
RAW = 101


@pytest.fixture
def net() -> Iterator[Net]:
    with network() as made:
        yield made


def packet(one: tuple[str, int], other: tuple[str, int], protocol: int = PROTOCOL_TCP) -> CapturedPacket:
    source, target = parse_ip(one[0]), parse_ip(other[0])
    if protocol == PROTOCOL_TCP:
        head = build_tcp_header(source, target, one[1], other[1], 1, 1, ACK, 1, b"")
    else:
        head = build_udp(source, target, one[1], other[1], b"")
    build = build_ipv4 if len(source) == 4 else build_ipv6
    data = build(source, target, protocol, len(head)) + head
    return CapturedPacket(0, LOOPBACK, "in", data, len(data))


def settled(flows: Flows, flow: Flow | None) -> Flow:
    assert flow is not None
    until_s = time.monotonic() + 20
    while flow.unanswered and time.monotonic() < until_s:
        flows.receive()
        time.sleep(0.005)
    assert not flow.unanswered
    return flow


@contextlib.contextmanager
def flows_in(net: Net, follow: int | None = None) -> Iterator[Flows]:
    flows = net.do(lambda: Flows(RAW, (LOOPBACK,), follow))
    try:
        yield flows
    finally:
        flows.close()


ME = Owner(os.getpid(), Path("/proc/self/comm").read_text().strip())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_both_ends_of_a_connection_and_of_datagrams(net: Net, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = net.do(lambda: socket.create_server((address, 0), family=family))
    with flows_in(net) as flows, server, net.do(lambda: socket.socket(family)) as client:
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        with accepted, net.do(lambda: socket.socket(family, socket.SOCK_DGRAM)) as datagrams:
            ends = client.getsockname()[:2], server.getsockname()[:2]
            flow, first = flows.see(packet(*ends))
            assert first and str(settled(flows, flow)) == f"{ME} > {ME}"
            assert flows.see(packet(ends[1], ends[0])) == (flow, False)  # the other direction is the same flow
            datagrams.bind((address, 0))
            flow, _ = flows.see(packet(datagrams.getsockname()[:2], (address, 9), PROTOCOL_UDP))
            found = settled(flows, flow)
            assert (found.sender, found.receiver) == (ME, None)


def test_a_socket_for_both_families_is_found_by_an_ipv4_packet(net: Net) -> None:
    with (
        flows_in(net) as flows,
        net.do(lambda: socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)) as server,
        net.do(lambda: socket.socket()) as client,
    ):
        port = server.getsockname()[1]
        client.connect(("127.0.0.1", port))
        flow, _ = flows.see(packet(client.getsockname(), ("127.0.0.1", port)))
        found = settled(flows, flow)  # nobody has accepted it: it is its listener's
        assert (found.sender, found.receiver) == (ME, ME)


def test_a_packet_that_is_passed_on_is_not_of_a_listener_on_all_addresses(net: Net) -> None:
    with flows_in(net) as flows, net.do(lambda: socket.create_server(("0.0.0.0", 0))) as server:
        port = server.getsockname()[1]
        flow, _ = flows.see(packet(("192.0.2.1", 5), ("192.0.2.2", port)))
        found = settled(flows, flow)
        assert (found.sender, found.receiver) == (None, None)
        flow, _ = flows.see(packet(("127.0.0.1", 5), ("127.0.0.1", port)))
        assert settled(flows, flow).receiver == ME


def test_nobody_is_nobody(net: Net) -> None:
    with flows_in(net) as flows:
        flow, _ = flows.see(packet(("127.0.0.1", 5), ("127.0.0.1", 6)))
        found = settled(flows, flow)
        assert (found.sender, found.receiver, str(found), found.unknown) == (None, None, "", 2)


# It stays for as long as a busy machine may take to look; when it is asked about, it is long gone.
BRIEF = """
import socket, sys, time
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    sock.sendall(b"hello")
    assert sock.recv(100) == b"hello"
    time.sleep(0.5)
"""

SERVER = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        sock, _ = server.accept()
        with sock:
            sock.sendall(sock.recv(100))
"""


def serving(net: Net) -> tuple[subprocess.Popen[str], int]:
    server = net.start(sys.executable, "-c", SERVER)
    assert server.stdout is not None
    return server, int(server.stdout.readline())


def test_who_is_gone_when_the_packet_is_asked_about_was_seen_when_it_began(net: Net) -> None:
    server, port = serving(net)
    with flows_in(net) as flows:
        ended = [net.start(sys.executable, "-c", BRIEF, str(port)) for _ in range(2)]
        assert [child.wait(30) for child in ended] == [0, 0]
        # Who they were stands in what is left of the server's ends.
        for each in connections(net, port):
            flow, _ = flows.see(packet(each, ("127.0.0.1", port)))
            found = settled(flows, flow)
            assert found.sender is not None and found.sender.pid in {child.pid for child in ended}
            assert found.receiver is not None and found.receiver.pid == server.pid


def connections(net: Net, port: int) -> list[tuple[str, int]]:
    """Give the peers of what is left of connections to a port; proc_net_tcp(5)."""
    with net.do(lambda: open("/proc/thread-self/net/tcp")) as file:
        rows = [line.split() for line in file.read().splitlines()[1:]]
    found = []
    for row in rows:
        if int(row[1].split(":")[1], 16) == port and row[3] == "06":
            found.append(("127.0.0.1", int(row[2].split(":")[1], 16)))
    assert found, rows
    return found


PARENT = """
import subprocess, sys, time
time.sleep(0.3)
for _ in range(3):
    subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], check=True)
"""


def test_a_family_is_followed_and_nobody_else_until_it_is_gone(net: Net) -> None:
    server, port = serving(net)
    parent = net.start(sys.executable, "-c", PARENT, str(port), BRIEF)

    def capture() -> tuple[list[str], LiveStatistics]:
        flows = {}
        with Live(["lo"], f"tcp port {port}", follow=parent.pid) as live:
            live.begin()
            other = net.start(sys.executable, "-c", BRIEF, str(port))
            for rows in live.batches():
                flows.update({id(row.flow): row.flow for row in rows})
            assert other.wait(30) == 0
            return [str(flow) for flow in flows.values()], live.statistics()

    owners, told = net.do(capture)
    # A packet that waited in vain for its owner is left out, but each connection's end comes long after its beginning.
    assert len(owners) == 3
    assert not any(f"[{parent.pid}]" in each for each in owners)  # its children speak, not itself
    assert told.captured_packets >= 3 and told.not_followed_packets >= 8
    assert server.poll() is None


def test_a_process_that_answers_no_more_is_not_waited_for(net: Net) -> None:
    with flows_in(net) as flows:
        flow, _ = flows.see(packet(("127.0.0.1", 5), ("127.0.0.1", 6)))
        flows._process.send_signal(signal.SIGKILL)
        settled(flows, flow)
        flows._process.wait(10)
        assert flows.is_over
        flow, first = flows.see(packet(("127.0.0.1", 5), ("127.0.0.1", 7)))
        assert first and flow is not None and not flow.unanswered
        assert flows.asked_in_vain == flow.unknown == 2


def test_questions_that_find_no_room_are_counted_and_packets_go_on(net: Net) -> None:
    with flows_in(net) as flows:
        flows._process.send_signal(signal.SIGSTOP)
        for port in range(1, 3000):
            flows.see(packet(("127.0.0.1", port), ("127.0.0.1", 7)))
        assert flows.asked_in_vain > 0
        flows._process.send_signal(signal.SIGCONT)


def test_what_was_not_asked_and_what_was_forgotten_is_told_at_the_end(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_FLOWS", 10)

    def work() -> tuple[LiveStatistics, LiveStatistics]:
        with Live(["lo"], "udp port 9") as live, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
            sink.bind(("127.0.0.1", 9))
            assert live._flows is not None
            live._flows._process.kill()
            live._flows._process.wait(10)
            live.begin()
            for port in range(20_001, 20_031):  # none of them twice
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.bind(("127.0.0.1", port))
                    sock.sendto(b"x", ("127.0.0.1", 9))
            time.sleep(0.05)
            live.stop()
            assert sum(map(len, live.batches())) == 30
            before = live.statistics()
        return before, live.statistics()

    before, after = net.do(work)
    assert before.unasked_owners == after.unasked_owners == 60
    assert before.forgotten_flows == after.forgotten_flows > 0


def test_flows_are_bounded_and_the_forgotten_are_counted(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FLOWS", 10)
    with flows_in(net) as flows:
        for port in range(1, 20):
            flows.see(packet(("127.0.0.1", port), ("127.0.0.1", 7)))
        assert len(flows._flows) <= 12 and flows.forgotten > 0
        assert flows.see(packet(("127.0.0.1", 1), ("127.0.0.1", 7)))[1]  # seen as if it were new


def test_the_process_that_answers_ends_with_us_and_does_not_end_by_ctrl_c(net: Net) -> None:
    flows = net.do(lambda: Flows(RAW, (LOOPBACK,)))
    flows._process.send_signal(signal.SIGINT)
    flow, _ = flows.see(packet(("127.0.0.1", 5), ("127.0.0.1", 6)))
    settled(flows, flow)
    assert flows._process.poll() is None
    flows.close()
    assert flows._process.returncode == 0


def test_what_is_no_question_is_not_answered_and_ends_nothing(net: Net) -> None:
    """The process that asks reads what strangers sent, and may be theirs one day; the one that answers is root's."""
    with flows_in(net) as flows:
        for nonsense in (b"x", bytes(process.QUESTION.size - 1), bytes([255]) * process.QUESTION.size, bytes(4000)):
            flows._channel.send(nonsense)
        flow, _ = flows.see(packet(("127.0.0.1", 5), ("127.0.0.1", 6)))
        settled(flows, flow)
        assert not flows.is_over


def test_a_beginning_on_an_interface_that_is_gone_is_passed_over() -> None:
    here, there = parse_ip("fe80::1"), parse_ip("fe80::2")
    head = build_tcp_header(here, there, 4000, 80, 1, 0, SYN, 1, b"")
    data = build_ipv6(here, there, PROTOCOL_TCP, len(head)) + head

    class Gone:
        """A socket whose interface went away before its name was asked for: packet(7) then gives an empty one."""

        left = 3

        def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int, int, int, bytes]]:
            self.left -= 1
            if self.left < 0:
                raise BlockingIOError
            return data[:size], ("", 0x86DD, 0, 1, b"")

    beginnings = process._Beginnings.__new__(process._Beginnings)
    beginnings.socket = Gone()  # type: ignore[assignment]
    kernel = process._Kernel()
    assert beginnings.take(kernel, process._Processes(None)) == []
    kernel._socket.close()


def test_the_key_of_a_flow_is_there_for_whole_packets_only() -> None:
    whole = packet(("127.0.0.1", 5), ("127.0.0.1", 6)).data
    assert flow_key(RAW, whole) is not None
    for size in range(24):
        assert flow_key(RAW, whole[:size]) is None
    fragment = whole[:6] + b"\x20\x01" + whole[8:]
    assert flow_key(RAW, fragment) is None
    ethernet = bytes(12) + b"\x08\x00" + whole
    assert flow_key(1, ethernet) == flow_key(RAW, whole)
    assert flow_key(1, bytes(12) + b"\x81\x00\x00\x05\x08\x00" + whole) == flow_key(RAW, whole)
    assert flow_key(113, bytes(14) + b"\x08\x00" + whole) == flow_key(RAW, whole)
    assert flow_key(113, bytes(14) + b"\x81\x00\x00\x05\x08\x00" + whole) == flow_key(RAW, whole)
    for size in range(20):
        flow_key(1, ethernet[:size])


def test_the_filter_of_beginnings_keeps_what_begins_something(net: Net) -> None:
    """It is written by hand, jump by jump; the kernel runs it here on packets of each kind."""
    program = [Instruction(*each) for each in process._BEGINNINGS]
    here, there, here6, there6 = parse_ip("10.9.0.1"), parse_ip("10.9.0.2"), parse_ip("fd00::1"), parse_ip("fd00::2")

    def tcp(flags: int, v6: bool = False, offset_bytes: int = 0) -> bytes:
        ends = (here6, there6) if v6 else (here, there)
        head = build_tcp_header(*ends, 4000, 80, 1, 1, flags, 1, b"")
        if v6:
            return build_ipv6(*ends, PROTOCOL_TCP, len(head)) + head
        return build_ipv4(*ends, PROTOCOL_TCP, len(head), fragment_offset_bytes=offset_bytes) + head

    def udp(port: int, v6: bool = False) -> bytes:
        ends = (here6, there6) if v6 else (here, there)
        head = build_udp(*ends, 4000, port, b"")
        return (build_ipv6 if v6 else build_ipv4)(*ends, PROTOCOL_UDP, len(head)) + head

    cases = [
        (tcp(2), True), (tcp(2, True), True), (tcp(0x12), False), (tcp(0x12, True), False), (tcp(0x10), False),
        (tcp(0x10, True), False), (tcp(0xC2), True), (udp(53), True), (udp(53, True), True), (udp(54), False),
        (udp(54, True), False), (tcp(2, offset_bytes=8), False), (b"\x00" * 60, False), (b"E", False),
        (build_ipv4(here, there, 1, 8) + bytes(8), False), (build_ipv6(here6, there6, 58, 8) + bytes(8), False),
    ]  # fmt: skip
    assert run_in_kernel(program, [data for data, _ in cases]) == [wanted for _, wanted in cases]
    for data, wanted in cases:
        if wanted:
            assert process._ends(data) is not None
    for size in range(60):
        process._ends(tcp(2)[:size])
        process._ends(tcp(2, True)[:size])
