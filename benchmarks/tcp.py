"""What TCP costs a segment: two layers in one process, without IP, links and kernel between them.

    python benchmarks/tcp.py
    python benchmarks/tcp.py --rounds 9 --profile

Each line is the quickest of the rounds in µs for one segment of 1448 B (or one super segment): sending it from the
program's bytes on, receiving it up to the program's bytes, and taking one acknowledgment. The ratio is to parsing and
building its header with `underlay.wire` alone, in the same run.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import sys
import timeit
from collections.abc import Iterator
from pathlib import Path as FilePath
from time import perf_counter

sys.path.insert(0, str(FilePath(__file__).resolve().parents[1] / "src"))

from underlay import stack, wire

HERE, THERE = bytes([10, 9, 0, 1]), bytes([10, 9, 0, 2])
CHUNK = bytes(65536)


class Side:
    """One TcpLayer whose packets wait in a list."""

    def __init__(self, address: bytes, seed: int, offload: bool) -> None:
        self.address = address
        self.offload = offload
        self.packets: list[tuple[bytes, bytes | memoryview]] = []
        self.layer = stack.TcpLayer(self, random.Random(seed), lambda socket, events: None)

    def path(self, destination: bytes, source: bytes | None = None, /) -> stack.Path | None:
        """Every address is reached over a link of 1500 B."""
        return stack.Path(self.address, 1500, self.offload)

    def is_unicast(self, address: bytes, /) -> bool:
        """There are no others."""
        return True

    def send(
        self, source: bytes, destination: bytes, protocol: int, head: bytes, payload: bytes | memoryview, now: float,
        *, segment_bytes: int = 0, checksum_offset: int = 0, ttl: int = 64, ecn: int = 0, dscp: int = 0,
        dont_fragment: bool = True, options: bytes = b"",
    ) -> None:  # fmt: skip
        """Keep the packet."""
        self.packets.append((head, payload))

    def send_tcp(self, packet: stack.TcpPacket, now: float, /) -> None:
        """Never called: the path takes bytes."""
        raise NotImplementedError

    def taken(self) -> list[bytes]:
        """Give what was sent since the last call, as bytes."""
        packets, self.packets = self.packets, []
        return [head + bytes(payload) for head, payload in packets]


def transfer(total_bytes: int, *, offload: bool, checksum_valid: bool, together: int) -> tuple[float, float, float]:
    """Move bytes one way; give µs a segment for sending and receiving, and µs an acknowledgment.

    `together` segments are received between two flushes, as from a link that gives several frames at once.
    """
    one, two = Side(HERE, 1, offload), Side(THERE, 2, offload)
    now = 1000.0
    listener = two.layer.listen(THERE, 80, now)
    client = one.layer.connect(THERE, 80, now)

    def deliver(packets: list[bytes], to: Side) -> None:
        source, destination = (HERE, THERE) if to is two else (THERE, HERE)
        for data in packets:
            to.layer.receive_segment(source, destination, data, 0, len(data), now, checksum_valid=checksum_valid)
        to.layer.flush(now)

    for _ in range(3):
        deliver(one.taken(), two)
        deliver(two.taken(), one)
    server = listener.accept(now)
    assert server is not None
    sent = got = segments = acknowledgments = 0
    sending = receiving = acknowledging = 0.0
    while got < total_bytes:
        now += 0.00005
        begin = perf_counter()
        while sent < total_bytes:
            taken = client.send(CHUNK, now)
            sent += taken
            if taken < len(CHUNK):
                break
        one.layer.flush(now)
        sending += perf_counter() - begin
        packets = one.taken()
        segments += len(packets)
        begin = perf_counter()
        for first in range(0, len(packets), together):
            deliver(packets[first : first + together], two)
            while chunk := server.receive(262_144, now):
                got += len(chunk)
        receiving += perf_counter() - begin
        answers = two.taken()
        acknowledgments += len(answers)
        begin = perf_counter()
        deliver(answers, one)
        one.layer.handle_timers(now)
        acknowledging += perf_counter() - begin
        two.layer.handle_timers(now)
    return sending / segments * 1e6, receiving / segments * 1e6, acknowledging / max(acknowledgments, 1) * 1e6


def reference_us() -> float:
    """Give what parsing and building one header with timestamps costs."""
    head = wire.build_tcp_header(HERE, THERE, 1, 2, 3, 4, wire.ACK, 5, timestamp=(6, 7), offload=True)
    data = head + bytes(1448)

    def both() -> None:
        wire.build_tcp_header(HERE, THERE, 1, 2, 3, 4, wire.ACK, 5, timestamp=(6, 7), offload=True)
        wire.parse_tcp(data)

    return timeit.timeit(both, number=20_000) / 20_000 * 1e6


def cases() -> Iterator[tuple[str, int, bool, bool, int]]:
    """Yield name, bytes, offload, checksum_valid and how many segments come together."""
    yield "1448 B, checksums by the link, 16 together", 30_000_000, False, True, 16
    yield "1448 B, checksums by the link, one by one", 30_000_000, False, True, 1
    yield "1448 B, checksums by us, one by one", 30_000_000, False, False, 1
    yield "super segments", 200_000_000, True, True, 1


def main() -> None:
    """Measure in interleaved rounds and print the quickest of each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--profile", action="store_true", help="also print where the time of the first case goes")
    arguments = parser.parse_args()
    best = {name: (float("inf"),) * 3 for name, *_ in cases()}
    reference = float("inf")
    for _ in range(arguments.rounds):
        reference = min(reference, reference_us())
        for name, total_bytes, offload, valid, together in cases():
            costs = transfer(total_bytes, offload=offload, checksum_valid=valid, together=together)
            old = best[name]
            best[name] = min(old[0], costs[0]), min(old[1], costs[1]), min(old[2], costs[2])
    print(f"{'reference: one header parsed and built':<62} {reference:6.2f} µs")
    for name, costs in best.items():
        for what, us in zip(("send", "receive", "acknowledgment"), costs, strict=True):
            print(f"{name + ': ' + what:<62} {us:6.2f} µs  {us / reference:5.1f} ×")
    if arguments.profile:
        profile = cProfile.Profile()
        profile.enable()
        transfer(30_000_000, offload=False, checksum_valid=True, together=16)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(15)


if __name__ == "__main__":
    main()
