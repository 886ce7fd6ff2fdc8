"""What a captured packet costs, beside tcpdump: CPU time per packet, and how many of a burst are dropped.

    sudo python benchmarks/capture.py
    sudo python benchmarks/capture.py --packets 50000 --rounds 5

In each round every program captures a burst of the same datagrams on the loopback of a namespace of its own, one after
the other, so that a noisy moment hurts all alike. CPU time is that of the capturing processes (user and system),
without what they take to start, measured by a capture of nothing. It knows how programs are started and asked to end;
the packets that they print are thrown away, and how many were dropped is what they say at their end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from tests.tools.capture import _burst

from underlay.link import Namespace, Rtnetlink
from underlay.trace import CaptureReader

ROOT = Path(__file__).resolve().parents[1]
PORT = 9999
LIMIT_S = 60
# After the last packet, so long until a capture is asked to end.
REST_S = 0.3


def commands(folder: Path) -> dict[str, list[str]]:
    """Name each way to capture, and say how it is started; those whose program is missing are left out."""
    ours = [sys.executable, "-m", "underlay", "capture", "-i", "lo"]
    found = {
        "tcpdump -w": ["tcpdump", "-i", "lo", "-U", "-w", str(folder / "tcpdump.pcap"), "udp"],
        "underlay -w, no owners": [*ours, "--no-owners", "-w", str(folder / "bare.pcapng"), "udp"],
        "underlay -w": [*ours, "-w", str(folder / "owners.pcapng"), "udp"],
        "tcpdump, lines": ["tcpdump", "-i", "lo", "-n", "udp"],
        "underlay, lines": [*ours, "udp"],
        "underlay, JSON": [*ours, "--json", "udp"],
    }
    return {name: words for name, words in found.items() if shutil.which(words[0])}


def captured(words: list[str], send: Callable[[], None], namespace: Namespace) -> tuple[float, str]:
    """Run one capture while something is sent; give its CPU time in seconds and what it said."""
    with tempfile.TemporaryFile("w+") as said, open(os.devnull, "wb") as nowhere:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        child = namespace.run(
            lambda: subprocess.Popen(words, stdout=nowhere, stderr=said, env=environment, start_new_session=True)
        )
        until_s = time.monotonic() + LIMIT_S
        while True:  # until it says that it listens
            said.seek(0)
            text = said.read()
            if "listening on" in text or "capturing on" in text:
                break
            if child.poll() is not None or time.monotonic() > until_s:
                raise SystemExit(f"{words[0]} did not start: {text}")
            time.sleep(0.01)
        send()
        time.sleep(REST_S)
        child.send_signal(signal.SIGINT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        return usage.ru_utime + usage.ru_stime, said.read()


def dropped(text: str) -> int:
    """Read the count that each of them says at its end: "N packets dropped by kernel", "N dropped by the kernel"."""
    for line in text.splitlines():
        if "dropped by" in line:
            words = line.split(" dropped by")[0].replace(" packets", "").split()
            return int(words[-1])
    raise SystemExit(f"it did not say what was dropped: {text}")


def main() -> None:
    """Measure in interleaved rounds, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packets", type=int, default=200_000, help="in a burst (default: 200000)")
    parser.add_argument("--size", type=int, default=64, help="bytes of each datagram (default: 64)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Namespace.create() as namespace:
        folder = Path(name)
        folder.chmod(0o777)  # tcpdump writes as a user of its own

        def up() -> socket.socket:
            with Rtnetlink() as kernel:
                kernel.set_up(kernel.link("lo").index)
            sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sink.bind(("127.0.0.1", PORT))
            return sink

        def burst() -> None:
            namespace.run(lambda: _burst.send("127.0.0.1", PORT, args.packets, args.size))

        ways = commands(folder)
        costs_us: dict[str, list[float]] = {way: [] for way in ways}
        lost: dict[str, list[int]] = {way: [] for way in ways}
        with namespace.run(up):
            for _ in range(args.rounds):
                for way, words in ways.items():
                    start_s, _ = captured(words, lambda: None, namespace)
                    total_s, text = captured(words, burst, namespace)
                    kept = args.packets - dropped(text)
                    costs_us[way].append((total_s - start_s) / max(kept, 1) * 1e6)
                    lost[way].append(args.packets - kept)
        owners = folder / "owners.pcapng"
        with open(owners, "rb") as file:
            in_file = sum(1 for _ in CaptureReader(file))
        if in_file + lost["underlay -w"][-1] != args.packets:
            raise SystemExit(f"{in_file} packets in the file and {lost['underlay -w'][-1]} dropped are not all")
    print(f"{args.packets} datagrams of {args.size} bytes at once, median of {args.rounds}")
    print(f"{'':<24} {'µs/packet':>10} {'packets/s':>10} {'dropped':>10}")
    for way in ways:
        cost_us = statistics.median(costs_us[way])
        print(f"{way:<24} {cost_us:>10.2f} {1e6 / cost_us:>10.0f} {statistics.median(lost[way]):>10.0f}")


if __name__ == "__main__":
    main()
