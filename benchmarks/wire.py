"""What parsing and building IPv4 and TCP headers costs, beside bare `struct` in the same run.

    python benchmarks/wire.py
    python benchmarks/wire.py --rounds 15

Each line is the quickest of the rounds in µs, and its ratio to unpacking the twenty bytes of an IPv4 header, the
least that plain Python can do about a header. It knows `underlay.wire` alone.
"""

from __future__ import annotations

import argparse
import struct
import sys
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from underlay import wire

HERE, THERE = bytes([10, 9, 0, 1]), bytes([10, 9, 0, 2])
HERE6, THERE6 = wire.parse_ip("fd00::1"), wire.parse_ip("fd00::2")
CALLS = 20_000


def cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield a name and what is to be measured under it."""
    bare = struct.Struct("!BBHHHBBH4s4s").unpack_from
    header = wire.build_ipv4(HERE, THERE, wire.PROTOCOL_TCP, 1480)
    packet = memoryview(header + bytes(1480))
    packet6 = memoryview(wire.build_ipv6(HERE6, THERE6, wire.PROTOCOL_TCP, 1440) + bytes(1440))
    yield "reference: struct alone", lambda: bare(packet, 0)
    yield "parse IPv4", lambda: wire.parse_ipv4(packet)
    yield "build IPv4", lambda: wire.build_ipv4(HERE, THERE, 6, 1480, identification=7)
    yield "parse IPv6", lambda: wire.parse_ipv6(packet6)
    yield "build IPv6", lambda: wire.build_ipv6(HERE6, THERE6, 6, 1440)
    payload = bytes(range(256)) * 256
    segments: list[tuple[str, dict[str, object], bytes]] = [
        ("no options", {}, b""),
        ("timestamps", {"timestamp": (1, 2)}, b""),
        ("timestamps and 2 SACK blocks", {"timestamp": (1, 2), "sack": ((1, 2), (3, 4))}, b""),
        ("SYN", {"mss": 1460, "window_scale": 7, "sack_permitted": True, "timestamp": (1, 2)}, b""),
        ("timestamps, 1448 B", {"timestamp": (1, 2)}, payload[:1448]),
    ]
    for name, options, data in segments:

        def build(options: dict[str, object] = options, data: bytes = data, offload: bool = False) -> bytes:
            return wire.build_tcp_header(HERE, THERE, 1, 2, 3, 4, 16, 5, data, offload=offload, **options)  # type: ignore[arg-type]

        segment = memoryview(build() + data)
        size = len(segment)

        def parse(segment: memoryview = segment) -> object:
            return wire.parse_tcp(segment)

        def verify(segment: memoryview = segment, size: int = size) -> object:
            return wire.parse_tcp(segment, pseudo=wire.pseudo_header_sum(HERE, THERE, 6, size))

        yield f"parse TCP, {name}", parse
        yield f"parse and verify TCP, {name}", verify
        yield f"build TCP, {name}", build
        if data:
            yield f"build TCP, {name}, checksum offloaded", lambda build=build: build(offload=True)  # type: ignore[misc]
    for size in (64, 1460, 65535):
        yield f"checksum of {size} B", lambda data=payload[:size]: wire.checksum(data)  # type: ignore[misc]


def main() -> None:
    """Measure in interleaved rounds, so that a noisy moment hurts all alike, and print the quickest of each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="how often each is measured (default: 9)")
    rounds = parser.parse_args().rounds
    measured = list(cases())
    best_us = dict.fromkeys((name for name, _ in measured), float("inf"))
    for _ in range(rounds):
        for name, call in measured:
            calls = CALLS // 20 if "65535" in name else CALLS
            best_us[name] = min(best_us[name], timeit.timeit(call, number=calls) / calls * 1e6)
    reference_us = best_us[measured[0][0]]
    for name, us in best_us.items():
        print(f"{name:<60} {us:8.3f} µs  {us / reference_us:7.1f} ×")


if __name__ == "__main__":
    main()
