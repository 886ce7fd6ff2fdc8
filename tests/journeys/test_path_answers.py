"""`underlay path` and the answers of routers that a test plays itself: short, labelled, late, doubled, forged, broken.

The kernel under test is a namespace whose only way out is a TUN device; at the other end a thread sees every probe and
answers as the test says, ICMP made byte by byte. Routers that quote only what RFC 792 asks for, or append labels, are
not to be had from Linux. Nothing here asserts time: what is late is answered when the probe was given up.
"""

from __future__ import annotations

import os
import random
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from underlay.link import TunTap
from underlay.tools.path import Ending, Report, Trace, Verdict, trace
from underlay.wire import (
    ICMP4_DESTINATION_UNREACHABLE,
    ICMP4_TIME_EXCEEDED,
    PROTOCOL_ICMP,
    PROTOCOL_TCP,
    Frame,
    IcmpExtension,
    build_icmp4,
    build_icmp_extensions,
    build_ipv4,
    format_ip,
    parse_ip,
)

from .._kernel import KernelPeer, kernel_peer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make namespaces; remedy: run as root")

HERE = "10.9.0.1"
TARGET = "10.50.0.5"
HOPS = ["10.50.0.1", "10.50.0.2", "10.50.0.3", "10.50.0.4", TARGET]
LEAST_QUOTE = 28  # RFC 792: the header, and 64 bits behind it
# Nothing but what a test holds back takes so long, also on a machine that is busy.
TIMEOUT_S = 2.0
SHORT_S = 0.5

Answerer = Callable[[int, bytes], list[bytes]]
"""What comes back for a probe: its time to live and itself go in, packets come out."""


def router(ttl: int) -> str:
    """Who is at this distance."""
    return HOPS[min(ttl, len(HOPS)) - 1]


RANDOM = random.Random(7).randbytes(64)


def error(
    ttl: int, quote: bytes, *, kind: int | None = None, code: int | None = None, rest: int = 0, more: bytes = b""
) -> bytes:
    """The ICMP error of whoever is at this distance, about a packet of which this is the beginning."""
    reached = ttl >= len(HOPS)
    kind = kind if kind is not None else ICMP4_DESTINATION_UNREACHABLE if reached else ICMP4_TIME_EXCEEDED
    code = code if code is not None else 3 if reached else 0
    message = build_icmp4(kind, code, rest, quote + more)
    return build_ipv4(parse_ip(router(ttl)), parse_ip(HERE), PROTOCOL_ICMP, len(message)) + message


def honest(ttl: int, probe: bytes) -> list[bytes]:
    """What a router of today does."""
    return [error(ttl, probe)]


@contextmanager
def routers(answerer: Answerer) -> Iterator[KernelPeer]:
    """Play the routers between the kernel and TARGET."""
    with kernel_peer(offload=False, kernel_address=f"{HERE}/24") as peer:
        peer.add_route("10.50.0.0/16", "10.9.0.2")
        ended_here, ends = os.pipe()
        watched: list[TunTap | int] = [peer.device, ended_here]

        def play() -> None:
            while True:
                ready, _, _ = select.select(watched, [], [])
                if ended_here in ready:
                    return
                for received in peer.device.receive():
                    packet = bytes(received.data)
                    if packet[0] >> 4 == 4 and format_ip(packet[16:20]) == TARGET:
                        for answer in answerer(packet[8], packet):
                            peer.device.send(Frame(answer))

        player = threading.Thread(target=play, name="routers")
        player.start()
        try:
            yield peer
        finally:
            os.close(ends)
            player.join()
            os.close(ended_here)


def measure(peer: KernelPeer, protocol: str = "udp", rounds: int = 4, timeout_s: float = TIMEOUT_S) -> Report:
    return peer.namespace.run(
        lambda: trace(
            TARGET,
            protocol=protocol,  # type: ignore[arg-type]
            rounds=rounds,
            interval_s=0.02,
            timeout_s=timeout_s,
            names=False,
        )
    )


def check_whole(report: Report, rounds: int = 4) -> None:
    """Every hop was found, and every probe answered."""
    assert [hop.address for hop in report.hops] == HOPS
    assert [(hop.sent, hop.answered) for hop in report.hops] == [(rounds, rounds)] * len(HOPS)


@pytest.mark.parametrize("protocol", ["udp", "icmp", "tcp"])
def test_routers_that_quote_all_are_found(protocol: str) -> None:
    with routers(honest) as peer:
        check_whole(measure(peer, protocol))


@pytest.mark.parametrize("protocol", ["udp", "icmp", "tcp"])
def test_routers_that_quote_as_little_as_rfc_792_allows_are_told_apart_all_the_same(protocol: str) -> None:
    with routers(lambda ttl, probe: [error(ttl, probe[:LEAST_QUOTE])]) as peer:
        report = measure(peer, protocol)
    check_whole(report)
    assert report.unassigned == 0


def test_a_short_quote_that_is_padded_for_labels_is_a_short_quote() -> None:
    labels = build_icmp_extensions([IcmpExtension(1, 1, bytes.fromhex("00064140"))])

    def answer(ttl: int, probe: bytes) -> list[bytes]:
        return [error(ttl, probe[:LEAST_QUOTE].ljust(128, b"\0"), rest=32 << 16, more=labels)]

    with routers(answer) as peer:
        report = measure(peer)
    check_whole(report)
    assert [hop.mpls for hop in report.hops] == [(100,)] * len(HOPS)


def test_an_answer_that_may_be_for_either_of_two_probes_is_for_none() -> None:
    # Router 1 holds its answers until the probe to hop 2 came, and both quote no byte that tells them apart.
    held: list[bytes] = []

    def answer(ttl: int, probe: bytes) -> list[bytes]:
        if ttl == 1 and not held:
            held.append(error(1, probe[:LEAST_QUOTE]))
            return []
        if ttl == 2 and len(held) == 1:
            held.append(b"")
            return [held[0], error(2, probe[:LEAST_QUOTE])]
        return [error(ttl, probe[:LEAST_QUOTE])]

    with routers(answer) as peer:
        report = measure(peer, timeout_s=SHORT_S)
    assert report.unassigned == 2
    assert [hop.address for hop in report.hops] == HOPS
    assert [hop.sent - hop.answered for hop in report.hops] == [1, 1, 0, 0, 0]


def test_labels_that_a_router_appends_are_shown() -> None:
    labels = build_icmp_extensions([IcmpExtension(1, 1, bytes.fromhex("05dc1040 00064140"))])

    def answer(ttl: int, probe: bytes) -> list[bytes]:
        quote = probe.ljust(128, b"\0")  # RFC 4884 §4.1
        return [error(ttl, quote, rest=len(quote) // 4 << 16, more=labels)] if ttl == 2 else [error(ttl, probe)]

    with routers(answer) as peer:
        report = measure(peer)
    check_whole(report)
    assert [hop.mpls for hop in report.hops] == [(), (24001, 100), (), (), ()]


@pytest.mark.parametrize("protocol", ["udp", "icmp"])
def test_an_answer_that_comes_twice_counts_once_and_as_a_duplicate(protocol: str) -> None:
    with routers(lambda ttl, probe: [error(ttl, probe)] * (2 if ttl == 3 else 1)) as peer:
        report = measure(peer, protocol)
    check_whole(report)
    assert [hop.duplicates for hop in report.hops] == [0, 0, 4, 0, 0]


@pytest.mark.parametrize("protocol", ["udp", pytest.param("icmp", marks=pytest.mark.long)])
def test_an_answer_after_the_time_out_is_late_and_its_probe_lost(protocol: str) -> None:
    # Hop 3 answers its first probe together with its second, when the first was given up.
    held: list[bytes] = []

    def answer(ttl: int, probe: bytes) -> list[bytes]:
        if ttl != 3 or len(held) == 2:
            return [error(ttl, probe)]
        held.append(error(ttl, probe))
        return [] if len(held) == 1 else held

    with routers(answer) as peer:
        report = peer.namespace.run(
            lambda: trace(TARGET, protocol=protocol, rounds=3, interval_s=1.0, timeout_s=SHORT_S, names=False)  # type: ignore[arg-type]
        )
    assert [hop.address for hop in report.hops] == HOPS
    assert [(hop.sent, hop.answered, hop.late) for hop in report.hops][2] == (3, 2, 1)
    assert sum(hop.duplicates for hop in report.hops) == 0


@pytest.mark.parametrize("protocol", ["udp", pytest.param("icmp", marks=pytest.mark.long)])
def test_a_router_that_says_late_that_it_finds_no_host_is_where_the_path_ends(protocol: str) -> None:
    # As Linux does: what comes while it looks for a neighbour waits, and is answered when that is over.
    held: list[bytes] = []

    def answer(ttl: int, probe: bytes) -> list[bytes]:
        if ttl <= 2:
            return [error(ttl, probe)]
        held.append(error(2, probe, kind=ICMP4_DESTINATION_UNREACHABLE, code=1))
        return held if ttl == 7 else []  # when those before it are given up

    with routers(answer) as peer:
        report = peer.namespace.run(
            lambda: trace(TARGET, protocol=protocol, rounds=2, interval_s=1.0, timeout_s=0.15, names=False)  # type: ignore[arg-type]
        )
    assert [hop.address for hop in report.hops] == [HOPS[0], HOPS[1], HOPS[1]]
    assert (report.ending, report.hops[2].note) == (Ending.UNREACHABLE, "host unreachable")
    assert report.ending_says.endswith(f"at hop 3, {HOPS[1]} says: host unreachable")
    assert (report.hops[2].answered, report.hops[2].late) == (0, 1)


@pytest.mark.parametrize("protocol", ["udp", "icmp", "tcp"])
def test_one_word_of_a_router_that_the_way_ends_hides_nothing_behind_it(protocol: str) -> None:
    said: list[int] = []

    def answer(ttl: int, probe: bytes) -> list[bytes]:
        if ttl == 3:
            return []
        if ttl == 5 and not said:
            said.append(ttl)
            return [error(2, probe, kind=ICMP4_DESTINATION_UNREACHABLE, code=1)]
        return [error(ttl, probe)]

    with routers(answer) as peer:
        report = peer.namespace.run(
            lambda: trace(TARGET, protocol=protocol, rounds=12, interval_s=0.05, timeout_s=SHORT_S, names=False)  # type: ignore[arg-type]
        )
    assert report.reached
    assert [hop.address for hop in report.hops] == [HOPS[0], HOPS[1], None, HOPS[3], HOPS[4]]


# --- what means harm -------------------------------------------------------------------------------------


def forged(probe: bytes) -> list[bytes]:
    """Errors about packets that we never sent, or sent otherwise, from hosts that are on no way of ours."""
    header, transport, data = probe[:20], probe[20:28], probe[28:]
    elsewhere = header[:16] + parse_ip("10.50.9.9") + header[20:]
    from_elsewhere = header[:12] + parse_ip("10.9.0.77") + header[16:]
    other_sequence = transport[:4] + random.Random(5).randbytes(4)
    other_ports = b"\x12\x34\x56\x78" + transport[4:]
    return [
        error(
            9, header + (other_sequence if probe[9] == PROTOCOL_TCP else transport) + bytes(len(data)), kind=11, code=0
        ),
        error(9, header + (other_sequence if probe[9] == PROTOCOL_TCP else transport) + RANDOM, kind=3, code=1),
        error(9, elsewhere + transport + data, kind=3, code=1),
        error(9, from_elsewhere + transport + data, kind=3, code=1),
        error(9, header + other_ports + data, kind=3, code=1),
    ]


def broken(probe: bytes) -> list[bytes]:
    """Errors that end too early, have lengths that lie, or are of kinds that say nothing of the way."""
    lying = bytes([0x4F]) + probe[1:]
    too_short = bytes([0x41]) + probe[1:]
    return [
        *(error(8, probe[:size], kind=11, code=0) for size in range(28)),
        error(8, lying, kind=11, code=0),
        error(8, too_short, kind=11, code=0),
        error(8, b"", kind=3, code=3),
        error(8, probe, kind=11, code=1),  # about reassembly
        error(8, probe, kind=4, code=0),  # source quench, which nobody heeds (RFC 6633)
        error(8, probe, kind=77, code=9),
    ]


@pytest.mark.parametrize("protocol", ["udp", "icmp", "tcp"])
@pytest.mark.parametrize("harm", [forged, broken])
def test_what_is_forged_or_broken_changes_nothing(protocol: str, harm: Callable[[bytes], list[bytes]]) -> None:
    with routers(lambda ttl, probe: [*harm(probe), error(ttl, probe)]) as peer:
        report = measure(peer, protocol)
    check_whole(report)
    assert all(hop.duplicates == 0 and hop.others == () and hop.verdict is Verdict.OK for hop in report.hops)
    if harm is forged and protocol == "udp":
        assert report.strays == 2 * 4 * len(HOPS)  # the kernel keeps the others away


def test_extensions_that_lie_change_nothing() -> None:
    noise = random.Random(11)

    def answer(ttl: int, probe: bytes) -> list[bytes]:
        quote = probe.ljust(128, b"\0")
        more = noise.choice([b"\x20", b"\x20\0\0\0\xff\xff\x01\x01", b"\x20\0\0\0\0\0\x01\x01", noise.randbytes(40)])
        return [error(ttl, quote, rest=noise.choice([32, 33, 255]) << 16, more=more)]

    with routers(answer) as peer:
        report = measure(peer, rounds=20)
    check_whole(report, 20)


def test_a_flood_of_answers_ends_with_the_probes() -> None:
    def answer(ttl: int, probe: bytes) -> list[bytes]:
        garbage = error(9, probe[:28] + os.urandom(8), kind=11, code=0)
        return [error(ttl, probe), *[garbage] * 100]

    with routers(answer) as peer:
        report = measure(peer, rounds=10)
    check_whole(report, 10)
    assert report.strays >= 100 * (10 * len(HOPS) - 1)  # the last ones come when all is done


def test_a_router_at_every_distance_that_is_another_each_time_is_bounded() -> None:
    # 16 addresses are told apart at one distance; more are somebody's invention.
    count = iter(range(10**6))

    def answer(ttl: int, probe: bytes) -> list[bytes]:
        if ttl != 2:
            return [error(ttl, probe)]
        packet = error(ttl, probe)
        source = parse_ip(f"10.60.0.{next(count) % 200 + 1}")
        header = build_ipv4(source, packet[16:20], PROTOCOL_ICMP, len(packet) - 20)
        return [header + packet[20:]]

    with routers(answer) as peer:
        report = measure(peer, rounds=40)
    second = report.hops[1]
    assert (second.sent, second.answered) == (40, 40)
    assert len(second.others) == 15
    assert second.others_left_out == 24


def test_a_name_that_would_write_to_the_terminal_is_no_name() -> None:
    asked: list[str] = []

    def resolve(address: str) -> str:
        asked.append(address)
        return "\x1b]0;owned\x07evil.example" if address == HOPS[0] else f"r{address[-1]}.example"

    def watch() -> Report:
        with Trace(TARGET, rounds=1, timeout_s=TIMEOUT_S, resolve=resolve) as measurement:
            *_, last = measurement.run()
        return last

    with routers(honest) as peer:
        report = peer.namespace.run(watch)
    assert [hop.name for hop in report.hops] == [None, "r2.example", "r3.example", "r4.example", "r5.example"]
    assert sorted(asked) == sorted(HOPS)
