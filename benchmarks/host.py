"""What a packet costs in a user-space host, beside reading and building its headers alone in the same run.

    python benchmarks/host.py
    python benchmarks/host.py --rounds 15

Each line is the quickest of the rounds in µs, and its ratio to the reference above it: parsing, or building, the
headers that such a packet has. TCP is cut off at the door, so that this is the host alone. It knows `underlay.stack`
and `underlay.wire`; no frame leaves the process.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from underlay import wire
from underlay.stack import Host

CALLS = 20_000
BATCH = 32  # frames that are polled at once, as a loop's turn does
OUR_MAC, THEIR_MAC = wire.parse_mac("02:00:00:00:00:01"), wire.parse_mac("02:00:00:00:00:02")
NOW = 1.0


def make_host(ethernet: bool) -> tuple[Host, int, bytes, bytes, bytes]:
    """Make a host with one interface: the host, the interface, both addresses, and what stands before a packet."""
    host = Host("bench", rng=random.Random(1))
    here, there = wire.parse_ip("10.0.0.1"), wire.parse_ip("10.0.0.2")
    interface = host.add_interface(["10.0.0.1/24"], mac=OUR_MAC if ethernet else None)
    if not ethernet:
        return host, interface, here, there, b""
    question = wire.build_arp(wire.ARP_REQUEST, THEIR_MAC, there, bytes(6), here)
    host.receive_frame(interface, wire.build_ethernet(OUR_MAC, THEIR_MAC, wire.ETHERTYPE_ARP, question), NOW)
    host.handle_timers(NOW)
    host.poll_frames(NOW)
    return host, interface, here, there, wire.build_ethernet(OUR_MAC, THEIR_MAC, wire.ETHERTYPE_IPV4)


def cases(ethernet: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield a name and what is to be measured under it; a name with "reference" is what those below it are held to."""
    host, interface, here, there, link = make_host(ethernet)
    payload = bytes(1460)
    tcp = wire.build_tcp_header(there, here, 1, 2, 3, 4, wire.ACK, 100, payload)
    frame = link + wire.build_ipv4(there, here, wire.PROTOCOL_TCP, len(tcp) + len(payload)) + tcp + payload
    start = len(link)

    def parse() -> None:
        if ethernet:
            wire.parse_ethernet(frame)
        wire.parse_ipv4(frame, start)

    yield "reference: parse the headers", parse
    host._input._tcp = _Door()
    yield "receive a segment", lambda: host.receive_frame(interface, frame, NOW)
    yield "receive a segment, offload", lambda: host.receive_frame(interface, frame, NOW, checksum_valid=True)

    yield "reference: build header and frame", lambda: wire.Frame(wire.build_ipv4(here, there, 6, 1480) + tcp, payload)
    send = polled(host, lambda: host._output.send(here, there, wire.PROTOCOL_TCP, tcp, payload, NOW))
    yield "send a segment", send

    small = bytes(64)
    datagram = wire.build_udp(there, here, 5, 9, small) + small
    udp = link + wire.build_ipv4(there, here, wire.PROTOCOL_UDP, len(datagram)) + datagram
    ping = wire.build_icmp4(wire.ICMP4_ECHO_REQUEST, 0, 1, small)
    echo = link + wire.build_ipv4(there, here, wire.PROTOCOL_ICMP, len(ping)) + ping
    socket = host.udp.open()
    socket.bind(here, 9)

    def parse_udp() -> None:
        if ethernet:
            wire.parse_ethernet(udp)
        wire.parse_ipv4(udp, start)
        wire.parse_udp(udp, start + 20, None, pseudo=wire.pseudo_header_sum(there, here, 17, 72))

    def receive() -> None:
        host.receive_frame(interface, udp, NOW)
        socket.receive_from()

    yield "reference: parse a datagram's headers", parse_udp
    yield "receive a datagram of 64 bytes", receive
    yield "send a datagram of 64 bytes", polled(host, lambda: socket.send_to(small, (there, 5), NOW))
    yield "answer an echo of 64 bytes", polled(host, lambda: host.receive_frame(interface, echo, NOW))
    yield "ask for the next deadline", host.next_deadline


class _Door:
    """Where TCP would be."""

    def receive_segment(self, *arguments: object, checksum_valid: bool = False, ip_options: bytes = b"") -> None:
        """Take a segment and do nothing about it."""


def polled(host: Host, work: Callable[[], object]) -> Callable[[], None]:
    """Do the work, and poll the frames after every batch."""
    done = 0

    def both() -> None:
        nonlocal done
        work()
        done += 1
        if not done % BATCH:
            host.poll_frames(NOW)

    return both


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured (default 7)")
    rounds = parser.parse_args().rounds
    gc.disable()
    measured = [(ethernet, name, work) for ethernet in (True, False) for name, work in cases(ethernet)]
    best_us = [float("inf")] * len(measured)
    for _ in range(rounds):  # interleaved, so that a noisy moment hurts all alike
        for index, (_, _, work) in enumerate(measured):
            best_us[index] = min(best_us[index], timeit.timeit(work, number=CALLS) / CALLS * 1e6)
    reference_us = 1.0
    for (ethernet, name, _), us in zip(measured, best_us, strict=True):
        if name.startswith("reference"):
            reference_us = us
        print(f"{'Ethernet' if ethernet else 'point-to-point':16}{name:40}{us:8.2f} µs {us / reference_us:6.2f} ×")


if __name__ == "__main__":
    main()
