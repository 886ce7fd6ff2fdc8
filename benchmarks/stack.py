"""How fast the user-space stack is beside the kernel's own: throughput, round trips, idle connections.

    python benchmarks/stack.py
    python benchmarks/stack.py --rounds 3 --seconds 0.7 --markdown docs/figures/stack.md
    python benchmarks/stack.py --only tun,ping

In each round each cell is measured once, in turn, next to its reference: the same two programs over a pair of veths
between two namespaces, which is the kernel talking to itself at the same MTU, with the same offloads. Ratios are taken
within a round; the median and the range over the rounds are shown. Where PyTCP (PyPI) is installed, another TCP/IP
stack in Python, it is measured too, on a TAP without offload. Needs root and /dev/net/tun.

It knows how to set two hosts up. It refuses to know how the stack works.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import importlib.util
import json
import os
import re
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from underlay.errors import UnderlayError, UsageError  # noqa: E402
from underlay.link import Namespace, Rtnetlink, TunTap  # noqa: E402
from underlay.tools._compare import describe_machine  # noqa: E402

PROGRAMS = ROOT / "benchmarks" / "stack_programs.py"
PORT = 7000
STACK, KERNEL = "10.9.0.2", "10.9.0.1"
# A program that says nothing for so long hangs.
PATIENCE_S = 30

CELLS = {
    "tun": ("tun, super-frames of up to 64 KiB", "tun", True, 1500),
    "tap": ("tap, super-frames of up to 64 KiB", "tap", True, 1500),
    "mtu1500": ("tun, MTU 1500 without offload", "tun", False, 1500),
    "busy": ("tun, busy_poll=3000", "tun", True, 1500),
}
# Further words of the stack's network in a cell.
WORDS = {"busy": ",busy_poll=3000"}
KINDS = {
    "push": "kernel to stack",
    "pull": "stack to kernel",
    "ask": "64 B round trip",
    "ping": "ping -A",
    "ping2ms": "ping -i 0.002",
}
# `ping -A` sends the next when the last is answered; with an interval the stack's process has gone to sleep in between.
PINGS = {"ping": ("-A",), "ping2ms": ("-i", "0.002")}


@dataclass(frozen=True)
class Sample:
    """One figure of one round: of the stack, or of the kernel in its place."""

    round: int
    cell: str
    kind: str
    subject: str
    value: float
    """Bits per second, or microseconds for ask and the pings."""


class Pair:
    """Two hosts and a cable: a server on one, clients on the other."""

    def __init__(self, clients: Namespace, server: subprocess.Popen[bytes], ends: Sequence[Namespace]) -> None:
        self.clients = clients
        self.server = server
        self.ends = ends

    def client(self, *words: str) -> str:
        """Run a client to its end and give its output."""
        child = self.clients.popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, errors = child.communicate(timeout=PATIENCE_S)
        if child.returncode:
            raise UnderlayError(f"{' '.join(words[:4])} failed: {os.fsdecode(errors).strip().splitlines()[-1:]}")
        return os.fsdecode(output)

    def close(self) -> None:
        """End the server and let the namespaces go."""
        self.server.kill()
        self.server.communicate()
        for namespace in self.ends:
            namespace.close()


def _listening(server: subprocess.Popen[bytes]) -> None:
    assert server.stdout is not None and server.stderr is not None
    if server.stdout.readline() != b"listening\n":
        raise UnderlayError(f"the server did not start: {os.fsdecode(server.stderr.read()).strip()}")


@contextmanager
def stack_pair(kind: str, *, offload: bool, mtu_bytes: int, words: str = "") -> Iterator[Pair]:
    """The server on a stack of its own, the clients on the kernel at the other end of the device."""
    namespace = Namespace.create()
    net = f"{kind}:{STACK}/24,mtu={mtu_bytes}" + ("" if offload else ",offload=no") + words
    run = [sys.executable, "-m", "underlay", "run", "--net", net]
    child = namespace.popen(
        [*run, str(PROGRAMS), "serve", STACK, str(PORT)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    pair = Pair(namespace, child, [namespace])  # type: ignore[arg-type]
    try:
        _listening(pair.server)
        yield pair
    finally:
        pair.close()


@contextmanager
def pytcp_pair(*, mtu_bytes: int) -> Iterator[Pair]:
    """The same server on PyTCP, with the kernel at the other end of its TAP."""
    namespace = Namespace.create()
    # PyTCP opens a device that stands already and does not configure it.
    device = namespace.run(lambda: TunTap.open("bench7", tap=True, offload=False, mtu_bytes=mtu_bytes))
    device.set_persistent(True)
    device.close()

    def bring_up() -> None:
        with Rtnetlink() as kernel:
            link = kernel.link("bench7")
            kernel.add_address(link.index, f"{KERNEL}/24")
            kernel.set_up(link.index)

    namespace.run(bring_up)
    program = ROOT / "benchmarks" / "stack_pytcp.py"
    child = namespace.popen(
        [sys.executable, "-O", str(program), "bench7", f"{STACK}/24", str(PORT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    pair = Pair(namespace, child, [namespace])  # type: ignore[arg-type]
    try:
        _listening(pair.server)
        yield pair
    finally:
        pair.close()


@contextmanager
def kernel_pair(*, offload: bool, mtu_bytes: int) -> Iterator[Pair]:
    """The same with a pair of veths, and asyncio's standard loop on the kernel's stack."""
    here, there = Namespace.create(), Namespace.create()

    def configure(name: str, address: str) -> None:
        with Rtnetlink() as kernel:
            link = kernel.link(name)
            kernel.set_mtu(link.index, mtu_bytes)
            kernel.add_address(link.index, f"{address}/24")
            kernel.set_up(link.index)

    def make() -> None:
        with Rtnetlink() as kernel:
            kernel.create_veth("bench0", "bench1", peer_namespace_fd=there.fd)
        configure("bench0", KERNEL)

    here.run(make)
    there.run(lambda: configure("bench1", STACK))
    if not offload:
        for namespace, name in ((here, "bench0"), (there, "bench1")):
            namespace.run(lambda name=name: _no_offload(name))  # type: ignore[misc]
    child = there.popen(
        [sys.executable, str(PROGRAMS), "serve", STACK, str(PORT)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    pair = Pair(here, child, [here, there])  # type: ignore[arg-type]
    try:
        _listening(pair.server)
        yield pair
    finally:
        pair.close()


# linux/ethtool.h: ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO, and the ioctl of linux/sockios.h.
_OFFLOADS = (0x17, 0x1F, 0x24, 0x2C)
_SIOCETHTOOL = 0x8946


def _no_offload(name: str) -> None:
    """Switch checksums and segmentation by the device off, as ``ethtool -K`` does: each packet is cut by TCP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in _OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", command, 0), 8)
            try:
                fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), ctypes.addressof(value)))
            except OSError as error:
                raise UnderlayError(f"{name}: offload {command:#x} cannot be switched off: {error.strerror}") from error


def measure(pair: Pair, kind: str, seconds: float) -> float:
    """One figure: bits per second, or the median of microseconds."""
    if kind in PINGS:
        count = max(50, int(seconds * 500))
        told = pair.client("ping", "-c", str(count), *PINGS[kind], STACK)
        return statistics.median(float(found) * 1e3 for found in re.findall(r"time=([\d.]+) ms", told))
    told = pair.client(sys.executable, str(PROGRAMS), kind, STACK, str(PORT), str(seconds))
    value: float = next(iter(json.loads(told).values()))
    return value


def one_round(number: int, cells: Sequence[str], kinds: Sequence[str], seconds: float) -> Iterator[Sample]:
    """Measure every cell and kind, the stack and the kernel one after the other."""
    for cell in cells:
        _, device, offload, mtu_bytes = CELLS[cell]
        with (
            stack_pair(device, offload=offload, mtu_bytes=mtu_bytes, words=WORDS.get(cell, "")) as ours,
            kernel_pair(offload=offload, mtu_bytes=mtu_bytes) as theirs,
        ):
            for kind in kinds:
                for subject, pair in (("stack", ours), ("kernel", theirs)):
                    yield Sample(number, cell, kind, subject, measure(pair, kind, seconds))
        if not offload and importlib.util.find_spec("pytcp") is not None:
            with pytcp_pair(mtu_bytes=mtu_bytes) as another:
                for kind in kinds:
                    yield Sample(number, cell, kind, "pytcp", measure(another, kind, seconds))


def idle(connections: int) -> str:
    """What idle connections cost: resident bytes each at the server's end, and wake-ups of the loop in a second."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "stack_idle.py"), str(connections)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UnderlayError(f"the idle connections failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout.strip()


def figure(kind: str, value: float) -> str:
    """Write a value with its unit."""
    if kind == "ask" or kind in PINGS:
        return f"{value:,.0f} µs"
    return f"{value / 1e9:.2f} Gbit/s" if value >= 1e9 else f"{value / 1e6:.0f} Mbit/s"


def rows(samples: Sequence[Sample]) -> Iterator[tuple[str, str, str, str, str, str]]:
    """The table: cell, kind, the stack's median, the kernel's, the ratio with its range, PyTCP's median."""
    for cell, kind in dict.fromkeys((sample.cell, sample.kind) for sample in samples):
        mine = {s.round: s.value for s in samples if (s.cell, s.kind, s.subject) == (cell, kind, "stack")}
        theirs = {s.round: s.value for s in samples if (s.cell, s.kind, s.subject) == (cell, kind, "kernel")}
        others = [s.value for s in samples if (s.cell, s.kind, s.subject) == (cell, kind, "pytcp")]
        ratios = [mine[number] / theirs[number] for number in mine if number in theirs]
        yield (
            CELLS[cell][0],
            KINDS[kind],
            figure(kind, statistics.median(mine.values())),
            figure(kind, statistics.median(theirs.values())),
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
            figure(kind, statistics.median(others)) if others else "",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="the measured window of each figure")
    parser.add_argument("--only", default="", help=f"cells and kinds, of {', '.join([*CELLS, *KINDS])}")
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections to count the cost of, 0 for none")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table for the docs")
    arguments = parser.parse_args(argv)
    words = arguments.only.split(",") if arguments.only else []
    cells = [cell for cell in CELLS if cell in words] or list(CELLS)
    kinds = [kind for kind in KINDS if kind in words] or list(KINDS)
    samples: list[Sample] = []
    try:
        for number in range(arguments.rounds):
            for sample in one_round(number, cells, kinds, arguments.seconds):
                samples.append(sample)
                if sys.stderr.isatty():
                    print(
                        f"\r\033[Kround {number + 1}: {sample.cell} {sample.kind}", end="", file=sys.stderr, flush=True
                    )
        quiet = idle(arguments.idle) if arguments.idle else ""
    except UsageError as error:
        print(f"stack.py: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    table = list(rows(samples))
    print(f"{'':<51} {'stack':>12} {'kernel':>12}  {'ratio':<18} {'PyTCP':>10}")
    for cell, kind, mine, theirs, ratio, other in table:
        print(f"{cell:<34} {kind:<16} {mine:>12} {theirs:>12}  {ratio:<18} {other:>10}".rstrip())
    print(quiet)
    if arguments.json:
        report = {"machine": describe_machine(), "samples": [asdict(sample) for sample in samples]}
        arguments.json.write_text(json.dumps(report, indent=1))
    if arguments.markdown:
        machine = describe_machine()
        command = f"python benchmarks/stack.py --rounds {arguments.rounds} --seconds {arguments.seconds:g}"
        lines = [
            f"Measured by `{command}` on {time.strftime('%Y-%m-%d')}: {machine['processor']}, "
            f"{machine['cores']} cores, {machine['kernel']}, {machine['python']}.",
            "",
            "| link | what | stack | kernel's veth | ratio, least–greatest | PyTCP |",
            "|---|---|---:|---:|---:|---:|",
            *(f"| {' | '.join(row)} |" for row in table),
            "",
            quiet,
        ]
        arguments.markdown.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
