"""Goodput of a bulk transfer over links that lose, reorder, double and damage frames.

    python benchmarks/loss_grid.py             the whole grid, beside the golden table
    python benchmarks/loss_grid.py --update    the same, and it becomes the golden table and docs/figures/loss-grid.md
    python benchmarks/loss_grid.py --kernels   one cell, 1 % loss and 20 ms, beside two Linux kernels; needs root

The grid runs in virtual time, so that it says the same on each machine. With ``--kernels`` the reference is two Linux
kernels, each in a network namespace of its own, joined through TUN devices by the same virtual wire in real time. In
each round both do the same, one after the other, our stack in real time too, in the same loop of frames; ratios are
taken within a round, and their median and range are shown. Both use the same congestion control, which for the
kernel's sockets is set by TCP_CONGESTION, whatever the system's default is. No offload: loss hits frames of 1,500
bytes at both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402
from tests._kernel import kernel_pair  # noqa: E402
from tests.stack._grid import CELLS, PORT, QUEUE_FRAMES, RATE_BITS_PER_S, Cell, Figure, measure, transfer  # noqa: E402

from underlay.tools._compare import describe_machine  # noqa: E402

GOLDEN = ROOT / "tests" / "stack" / "golden_loss_grid.json"
PAGE = ROOT / "docs" / "figures" / "loss-grid.md"
KERNELS_PAGE = ROOT / "docs" / "figures" / "loss-kernels.md"
# What the cell beside the kernels is to reach of them.
TARGET = 0.80
# A transfer of the kernels that takes longer hangs.
LIMIT_S = 120.0
# The same congestion control by the kernel's name (tcp(7), TCP_CONGESTION).
KERNEL_NAMES = {"cubic": b"cubic", "newreno": b"reno"}


def grid(*, update: bool) -> int:
    """Measure all cells, print them beside the golden ones; write them if asked."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    figures: dict[str, Figure] = {}
    print(f"{'cell':48} {'Mbit/s':>8} {'least':>8} {'most':>8} {'again %':>8} {'RTOs':>6} {'golden':>8} {'ratio':>6}")
    for cell in CELLS:
        figure = figures[cell.name] = measure(cell)
        was = golden.get(cell.name, {}).get("goodput_mbit_s")
        print(
            f"{cell.name:48} {figure.goodput_mbit_s:8.3f} {figure.least_mbit_s:8.3f} {figure.greatest_mbit_s:8.3f} "
            f"{figure.retransmitted_percent:8.2f} {figure.timeouts:6.1f} "
            + (f"{was:8.3f} {figure.goodput_mbit_s / was:6.2f}" if was else f"{'-':>8} {'-':>6}"),
            flush=True,
        )
    if update:
        GOLDEN.write_text(json.dumps({name: each.as_json() for name, each in figures.items()}, indent=1) + "\n")
        PAGE.write_text(page(figures))
        print(f"written: {GOLDEN.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")
    return 0


def page(figures: dict[str, Figure]) -> str:
    """Set the grid as a table: a row for each link, a column for each congestion control."""
    rows: dict[tuple[str, float], dict[str, Figure]] = {}
    for cell in CELLS:
        rows.setdefault((cell.link, cell.rtt_s), {})[cell.congestion] = figures[cell.name]
    kinds = ["cubic", "newreno"]
    lines = [
        f"Made by `python benchmarks/loss_grid.py --update`: a bulk transfer over a bottleneck of "
        f"{RATE_BITS_PER_S // 1_000_000} Mbit/s with a queue of {QUEUE_FRAMES} frames, in virtual time. "
        "What the link does it does in both directions. Median of several seeds (least–greatest), in Mbit/s; "
        "*again*: segments sent more than once.",
        "",
        "| link | RTT | " + " | ".join(f"{kind} Mbit/s | again" for kind in kinds) + " |",
        "|---|---:|" + "---:|" * (2 * len(kinds)),
    ]
    for (link, rtt_s), by_kind in rows.items():
        parts = [
            f"{figure.goodput_mbit_s:.3g} ({figure.least_mbit_s:.3g}–{figure.greatest_mbit_s:.3g}) "
            f"| {figure.retransmitted_percent:.2g} %"
            for figure in (by_kind[kind] for kind in kinds)
        ]
        lines.append(f"| {link} | {rtt_s * 1000:g} ms | " + " | ".join(parts) + " |")
    return "\n".join(lines) + "\n"


def kernel_transfer(cell: Cell, seed: int) -> float:
    """Let two kernels do the cell's transfer; give its goodput in Mbit/s, from connect() to the last byte read."""
    chance = random.Random(f"kernels; {cell.name}; {seed}")
    data = chance.randbytes(cell.size_bytes)
    with kernel_pair(forward=cell.lane(chance), backward=cell.lane(chance)) as (left, right):
        kind = KERNEL_NAMES[cell.congestion]
        listener = right.namespace.run(lambda: socket.create_server(("10.9.0.2", PORT)))
        near = left.namespace.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        with listener, near:
            for each in (listener, near):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, kind)
                each.settimeout(LIMIT_S)
            began = time.monotonic()
            near.connect(("10.9.0.2", PORT))
            far, _ = listener.accept()
            with far:
                far.settimeout(LIMIT_S)

                def send() -> None:
                    with contextlib.suppress(OSError):  # the other end sees what is missing
                        near.sendall(data)
                        near.shutdown(socket.SHUT_WR)

                sender = threading.Thread(target=send)
                sender.start()
                parts = []
                while part := far.recv(65536):
                    parts.append(part)
                seconds = time.monotonic() - began
                sender.join()
        sent = left.device.statistics()
        if b"".join(parts) != data or sent.received_bytes > 1500 * sent.received_frames:
            raise RuntimeError("the kernels' transfer was not what it was to be")
    return cell.size_bytes * 8 / seconds / 1e6


def sleep_until(due: float) -> float:
    """Wait in real time."""
    patience_s = due - time.monotonic()
    if patience_s > 0:
        time.sleep(patience_s)
    return time.monotonic()


def spread(values: Sequence[float]) -> str:
    """Say a median and its range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def kernels(rounds: int, size_bytes: int, *, write: bool) -> int:
    """Compare one cell with two kernels."""
    machine = describe_machine()
    lines = [
        f"Measured by `python benchmarks/loss_grid.py --kernels --rounds {rounds}` on {time.strftime('%Y-%m-%d')}: "
        f"{machine['processor']}, {machine['cores']} cores, {machine['kernel']}, {machine['python']}. "
        f"1 % loss in both directions, 20 ms, bottleneck {RATE_BITS_PER_S // 1_000_000} Mbit/s, "
        f"{size_bytes / 1e6:g} MB a transfer, no offload; median of the rounds (least–greatest).",
        "",
        "| congestion control | two kernels, Mbit/s | ours, real time | ours, virtual time | ours ÷ kernels |",
        "|---|---:|---:|---:|---:|",
    ]
    worst = float("inf")
    done: dict[str, list[tuple[float, float, float]]] = {"cubic": [], "newreno": []}
    for number in range(rounds):
        for kind, rates in done.items():
            cell = Cell(0.01, 0.020, "cubic" if kind == "cubic" else "newreno", size_bytes, 1)
            theirs = kernel_transfer(cell, number)
            ours = transfer(cell, number, wait=sleep_until, start=time.monotonic()).goodput_mbit_s
            virtual = transfer(cell, number).goodput_mbit_s
            rates.append((theirs, ours, virtual))
            print(f"round {number + 1}, {kind}: kernels {theirs:.2f}, ours {ours:.2f}, virtual {virtual:.2f} Mbit/s")
    for kind, rates in done.items():
        theirs_all, ours_all, virtual_all = zip(*rates, strict=True)
        ratios = [ours / theirs for theirs, ours, _ in rates]
        worst = min(worst, statistics.median(ratios))
        lines.append(
            f"| {kind} | {spread(theirs_all)} | {spread(ours_all)} | {spread(virtual_all)} | {spread(ratios)} |"
        )
    text = "\n".join(lines) + "\n"
    print("\n" + text)
    print(f"target: {TARGET:.2f} of the kernels; the lesser median is {worst:.2f}")
    if write:
        KERNELS_PAGE.write_text(text)
        print(f"written: {KERNELS_PAGE.relative_to(ROOT)}")
    return 0 if worst >= TARGET else 1


def main() -> int:
    """Do what the command line asks; 1 when a target is missed, 2 when it cannot be measured here."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="write the golden table, or what --kernels measured")
    parser.add_argument("--kernels", action="store_true", help="compare 1 %% loss and 20 ms with two Linux kernels")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of --kernels (default: 7)")
    parser.add_argument("--bytes", type=int, default=8_000_000, help="of each transfer of --kernels (default: 8000000)")
    arguments = parser.parse_args()
    if not arguments.kernels:
        return grid(update=arguments.update)
    try:
        return kernels(arguments.rounds, arguments.bytes, write=arguments.update)
    except pytest.skip.Exception as reason:
        print(f"loss_grid: {reason}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
