"""What a message between two processes costs, over every kind of channel, beside what people use instead.

    python benchmarks/ipc.py
    python benchmarks/ipc.py --rounds 9 --json ipc.json
    python benchmarks/ipc.py --kinds ring slots "bare pipe" "multiprocessing.Queue" --cores 2

For each size and each number of cores it measures one-way messages per second, and round trips in µs. The other
process is forked anew for every measurement; all that is compared is measured in turns, round by round, so that a noisy
moment hurts all alike. Shown are the median of the rounds and their spread, and ratios of medians: the rate to that of
multiprocessing.Queue, the round trip to that of the bare system calls of the same kind, made from Python. Beside each
stands the CPU time of both processes, all threads and the kernel's part included: other programs on the machine
lengthen the one and hardly the other, so the ratio of CPU times is the one to trust on a busy machine. At the end it
says for each thing that is wanted whether it is reached, and in which form the channels were (`make compiled`).

It knows public interfaces alone, and where a channel's code came from. Packages that are not installed are passed over:
`pip install underlay[bench]`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "src")]

from benchmarks.ipc_carriers import CARRIERS, Carrier, MissingPackageError, flush  # noqa: E402

from underlay import ipc  # noqa: E402
from underlay.ipc import _channel  # noqa: E402
from underlay.tools._compare import describe_machine  # noqa: E402

# By what was measured, by carrier: the figure and the CPU time, round by round.
Figures: TypeAlias = dict[str, dict[str, list[tuple[float, float]]]]
# A signal carries seven bytes: they are measured of what carries no more.
SIZES = {"7 B": 7, "64 B": 64, "4 KiB": 4096, "1 MiB": 1 << 20}
# About a tenth of a second for a carrier that needs 10 µs; bytes count more than messages at 1 MiB.
MESSAGES = {7: 8000, 64: 8000, 4096: 4000, 1 << 20: 100}
ROUND_TRIPS = {7: 1500, 64: 1500, 4096: 1500, 1 << 20: 60}
PATIENCE_S = 30
REFERENCE = "multiprocessing.Queue"
# How many are sent before the first that counts: memory that is new, and threads that start, cost once.
WARM_UP = 20
# What is wanted: of a rate, at least so many times the reference's; of a round trip, at most so many times the CPU time
# of bare calls.
WANTED_RATES = {("one way, 64 B", "ring"): 10, ("one way, 64 B", "ring, 100 at once"): 10}
WANTED_RATES |= {("one way, 1 MiB", "slots, filled"): 20, ("one way, 1 MiB", "slots, in place"): 20}
WANTED_ROUND_TRIP = 1.5


@contextlib.contextmanager
def other_process(core: int, work: Callable[[], None]) -> Iterator[None]:
    """Another process, on that core, that does its part; it is waited for."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE_S)
            os.sched_setaffinity(0, {core})
            gc.disable()
            work()
            flush()
            code = 0
        finally:
            os._exit(code)
    # The other process is ended by it, this one gets an error.
    signal.alarm(PATIENCE_S + 5)
    try:
        yield
    finally:
        _, status = os.waitpid(pid, 0)
        signal.alarm(0)
    if status:
        raise RuntimeError(f"the other process ended with status {status}")


def rate(carrier: Carrier, size_bytes: int, cores: list[int], count: int) -> tuple[float, float]:
    """Messages a second from the first that is received to the last, by the receiver's clock; CPU µs for each."""
    report_out, report_in = os.pipe()
    with carrier.one_way(size_bytes) as (send, receive):
        message = os.urandom(size_bytes)

        def work() -> None:
            receive(WARM_UP)
            started_s, used_s = time.perf_counter(), time.process_time()
            receive(count)
            elapsed_s, used_s = time.perf_counter() - started_s, time.process_time() - used_s
            os.write(report_in, json.dumps([elapsed_s, used_s]).encode())

        with other_process(cores[-1], work):
            send(message, WARM_UP)
            used_s = time.process_time()
            send(message, count)
            # Whoever sends through a thread of its own has finished when all is received.
            elapsed_s, used_there_s = json.loads(os.read(report_out, 100) or "[NaN, NaN]")
            used_s = time.process_time() - used_s
    os.close(report_out)
    os.close(report_in)
    return count / elapsed_s, (used_s + used_there_s) / count * 1e6


def round_trip_us(carrier: Carrier, size_bytes: int, cores: list[int], count: int) -> tuple[float, float]:
    """µs for a message there and one of the same size back; CPU µs for it."""
    report_out, report_in = os.pipe()
    with carrier.both_ways(size_bytes) as (call, answer):
        message = os.urandom(size_bytes)

        def work() -> None:
            for _ in range(20):
                answer(message)
            used_s = time.process_time()
            for _ in range(count):
                answer(message)
            os.write(report_in, json.dumps(time.process_time() - used_s).encode())

        with other_process(cores[-1], work):
            for _ in range(20):
                call(message)
            started_s, used_s = time.perf_counter(), time.process_time()
            for _ in range(count):
                call(message)
            elapsed_s, used_s = time.perf_counter() - started_s, time.process_time() - used_s
            used_s += json.loads(os.read(report_out, 100) or "NaN")
    os.close(report_out)
    os.close(report_in)
    return elapsed_s / count * 1e6, used_s / count * 1e6


def measure(names: list[str], rounds: int, cores: list[int]) -> Figures:
    """All figures by what was measured, size and carrier."""
    figures: Figures = {}
    os.sched_setaffinity(0, {cores[0]})
    for size_name, size_bytes in SIZES.items():
        for number in range(rounds):
            for name in names:
                carrier = CARRIERS[name]
                if size_bytes > carrier.max_message_bytes or (size_bytes < 64 <= carrier.max_message_bytes):
                    continue
                for what, function, count in (
                    ("one way", rate, MESSAGES[size_bytes]),
                    ("round trip", round_trip_us, ROUND_TRIPS[size_bytes]),
                ):
                    if (what == "one way" and carrier.round_trip_only) or (
                        what == "round trip" and carrier.one_way_only
                    ):
                        continue
                    print(f"\r{size_name}, round {number + 1}: {name:<40}", end="", file=sys.stderr, flush=True)
                    gc.collect()
                    figure = function(carrier, size_bytes, cores, max(10, int(count * carrier.share)))
                    figures.setdefault(f"{what}, {size_name}", {}).setdefault(name, []).append(figure)
    print(f"\r{'':60}\r", end="", file=sys.stderr)
    return figures


def spread(values: list[float]) -> float:
    """Half the distance between the outer values, in parts of the median."""
    return (max(values) - min(values)) / 2 / statistics.median(values)


def table(figures: Figures) -> Iterator[str]:
    """What was measured, as lines."""
    for what, by_name in figures.items():
        one_way = what.startswith("one way")
        size_bytes = SIZES[what.partition(", ")[2]]
        yield ""
        unit = "messages/s" if one_way else "µs"
        yield f"{what:<28} {unit:>12} {'±':>5} {'GB/s' if one_way else '':>7} {'CPU µs':>9} {'±':>5}  ratio, of CPU, to"
        for name, pairs in by_name.items():
            wall, cpu = ([pair[each] for pair in pairs] for each in (0, 1))
            median, median_cpu = statistics.median(wall), statistics.median(cpu)
            against = REFERENCE if one_way else CARRIERS[name].bare
            ratio = ""
            if against in by_name and against != name:
                other, other_cpu = (statistics.median(pair[each] for pair in by_name[against]) for each in (0, 1))
                ratio = f"{median / other:5.2f} ×, "
                ratio += f"{other_cpu / median_cpu if one_way else median_cpu / other_cpu:5.2f} × {against}"
            shown = f"{median:>12,.0f}" if one_way else f"{median:>12,.2f}"
            amount = f"{median * size_bytes / 1e9:>7.2f}" if one_way else " " * 7
            yield f"  {name:<26} {shown} {spread(wall):>5.0%} {amount} {median_cpu:>9,.2f} {spread(cpu):>5.0%}  {ratio}"


def markdown(figures: Figures) -> Iterator[str]:
    """The lines of a table for the docs: a row for each carrier, of medians."""
    small, large, trips = (figures.get(what, {}) for what in ("one way, 64 B", "one way, 1 MiB", "round trip, 64 B"))
    yield "| | 64 B, messages/s | CPU µs | 1 MiB, GB/s | CPU µs | 64 B and back, µs | CPU µs | × CPU of bare calls |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    # By carrier, what is shown: a factor to the column's unit, and its digits.
    columns = ((small, 1.0, 0), (large, SIZES["1 MiB"] / 1e9, 2), (trips, 1.0, 1))
    for name in dict.fromkeys([*small, *large, *trips]):
        cells: list[str] = []
        for by_name, factor, digits in columns:
            pairs = by_name.get(name)
            cells += [f"{middle(pairs) * factor:,.{digits}f}", f"{middle(pairs, 1):,.1f}"] if pairs else ["", ""]
        bare = CARRIERS[name].bare
        ratio = middle(trips[name], 1) / middle(trips[bare], 1) if name in trips and bare in trips else 0
        yield f"| {name} | {' | '.join(cells)} | {f'{ratio:.2f}' if ratio else ''} |"


def middle(pairs: list[tuple[float, float]], which: int = 0) -> float:
    """The median of the figures, or of their CPU times."""
    return statistics.median(pair[which] for pair in pairs)


def goals(figures: Figures) -> Iterator[str]:
    """For each thing that is wanted, whether it is reached."""
    for (what, name), wanted in WANTED_RATES.items():
        by_name = figures.get(what, {})
        if name in by_name and REFERENCE in by_name:
            ours, other = (statistics.median(pair[0] for pair in by_name[each]) for each in (name, REFERENCE))
            reached = word(ours / other >= wanted)
            yield f"  {what}: {name} {ours / other:.1f} × {REFERENCE}, wanted ≥ {wanted} ×: {reached}"
    for what, by_name in figures.items():
        if what not in ("round trip, 7 B", "round trip, 64 B"):
            continue
        for name, pairs in by_name.items():
            bare = CARRIERS[name].bare
            if (name in ipc.KINDS or name == "slots, in place") and bare in by_name:
                ours, other = (statistics.median(pair[1] for pair in each) for each in (pairs, by_name[bare]))
                ratio = ours / other
                reached = f"wanted ≤ {WANTED_ROUND_TRIP} ×: {word(ratio <= WANTED_ROUND_TRIP)}"
                yield f"  {what}: {name} {ratio:.2f} × the CPU time of {bare}, {reached}"


def form() -> str:
    """What the channels are made of here."""
    return "compiled by mypyc" if (_channel.__file__ or "").endswith(".so") else "plain Python"


def word(reached: bool) -> str:
    """How it is said."""
    return "reached" if reached else "NOT REACHED"


def main() -> None:
    """Measure what is there, and print or write it."""

    def too_late(*_: object) -> None:
        raise TimeoutError(f"a measurement took more than {PATIENCE_S} s: the other process hangs, or was killed")

    signal.signal(signal.SIGALRM, too_late)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--cores", type=int, nargs="*", default=[1, 2], help="on how many cores (default: 1 2)")
    parser.add_argument("--kinds", nargs="*", metavar="NAME", help="only these, and the reference")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--markdown", metavar="FILE", help="write a table for the docs")
    options = parser.parse_args()
    multiprocessing.set_start_method("fork")
    for name in [name for name in options.kinds or [] if name not in CARRIERS]:
        parser.error(f"{name!r} is none of: {', '.join(CARRIERS)}")
    names = []
    for name, carrier in CARRIERS.items():
        if options.kinds and name not in (*options.kinds, REFERENCE):
            continue
        try:
            carrier.check()
        except MissingPackageError as missing:
            print(f"{name} is passed over: {missing}")
        else:
            names.append(name)
    usable = sorted(os.sched_getaffinity(0))
    results: dict[str, Figures] = {}
    loads: dict[str, float] = {}
    for how_many in options.cores:
        if how_many > len(usable):
            print(f"{how_many} cores are passed over: this process may use {len(usable)}")
            continue
        title = f"{how_many} core" + "s" * (how_many > 1)
        results[title] = measure(names, options.rounds, usable[:how_many])
        loads[title] = os.getloadavg()[0]
        print(f"\n== {title}; median of {options.rounds} rounds; load {loads[title]:.1f} ==")
        print("\n".join(table(results[title])))
        print("\nwhat is wanted:", *goals(results[title]), sep="\n")
        os.sched_setaffinity(0, usable)
    print(f"\nthe channels: {form()}")
    if options.markdown:
        about = describe_machine()
        lines = [
            f"Measured by `python benchmarks/ipc.py --rounds {options.rounds}` on {time.strftime('%Y-%m-%d')}: "
            f"{about['processor']}, {about['kernel']}, {about['python']}; the channels {form()}; "
            "medians, CPU time of both processes.",
        ]
        for title, shown in results.items():
            lines += ["", f"**Both processes on {title}**, the machine's load {loads[title]:.1f}", "", *markdown(shown)]
        Path(options.markdown).write_text("\n".join(lines) + "\n")
    if options.json:
        machine = {"python": platform.python_version(), "kernel": platform.release(), "cores": os.cpu_count()}
        Path(options.json).write_text(json.dumps({"machine": machine, "figures": results}, indent=1))


if __name__ == "__main__":
    main()
