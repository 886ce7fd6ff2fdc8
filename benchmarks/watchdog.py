"""What it costs to watch a loop: CPU µs per echo, watched and not, beside asyncio's debug mode and blockbuster.

    python benchmarks/watchdog.py --loops asyncio,epoll,uvloop --rounds 9
    python benchmarks/watchdog.py --beat

In each round every way serves the same load once, in turn, in a fresh process, so that a noisy minute hurts all
alike; a ratio is taken within a round, and its median and range are shown. `--beat` measures one beat of the watchdog
alone: the CPU time of a loop that has nothing else to do. A package that isn't installed is passed over with a word.
It uses the generator and the clocks of `underlay compare`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import logging
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.servers import Echo, find_factory  # noqa: E402
from underlay.loop import watchdog  # noqa: E402
from underlay.tools._compare import describe_machine  # noqa: E402
from underlay.tools._compare_measure import cpu_s  # noqa: E402
from underlay.tools._load import Load, LoadError, Target  # noqa: E402
from underlay.tools._load_process import end_group, spawn  # noqa: E402

WAYS = ["none", "watchdog", "debug", "blockbuster"]
CONNECTIONS = 100
SIZE_BYTES = 64
# A server that isn't there by then hangs; nothing is measured by it.
START_LIMIT_S = 10


@contextmanager
def watched(way: str, threshold_s: float) -> Iterator[None]:
    """Watch the running loop in one of the ways."""
    if way == "watchdog":
        with watchdog(threshold_s):
            yield
    elif way == "blockbuster":
        from blockbuster import blockbuster_ctx  # type: ignore[import-not-found,unused-ignore]

        with blockbuster_ctx():
            yield
    else:
        yield


async def serve(way: str, threshold_s: float) -> None:
    """Listen on a free port of the loopback address, tell it, and echo for ever."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    with watched(way, threshold_s):
        await asyncio.Event().wait()


def be_server(loop: str, way: str, threshold_s: float) -> None:
    """Serve until a signal ends it."""
    if way == "debug":
        logging.getLogger("asyncio").setLevel(logging.ERROR)  # its warnings of slow callbacks are not what is measured
    with asyncio.Runner(loop_factory=find_factory(loop), debug=way == "debug") as runner:
        runner.run(serve(way, threshold_s))


def measure(loop: str, way: str, seconds: float, threshold_s: float) -> float:
    """CPU µs of the server per echo. RuntimeError tells why there is no figure."""
    command = [sys.executable, __file__, "--serve", loop, way, str(threshold_s)]
    process = spawn(command, environment=dict(os.environ), stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    try:
        poller = select.poll()
        poller.register(process.stdout, select.POLLIN)
        line = process.stdout.readline() if poller.poll(START_LIMIT_S * 1000) else b""
        if not line.strip().isdigit():
            end_group(process, grace_s=0)
            said = process.stderr.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(said[-1] if said else f"the server didn't start within {START_LIMIT_S} s")
        with Load(Target("tcp-echo", "127.0.0.1", int(line), SIZE_BYTES)) as load:
            load.connect(CONNECTIONS)
            load.run(min(0.3, seconds / 2))
            before = cpu_s([process.pid])
            window = load.run(seconds)
            used = cpu_s([process.pid]) - before
            load.check()
        return used / window.requests * 1e6
    except LoadError as error:
        raise RuntimeError(str(error)) from error
    finally:
        end_group(process, grace_s=0)
        process.stdout.close()
        process.stderr.close()


def compare(loops: Sequence[str], ways: Sequence[str], rounds: int, seconds: float, threshold_s: float) -> str:
    """Measure all loops in all ways, and put the table together."""
    figures: dict[tuple[str, str], list[float]] = {(loop, way): [] for loop in loops for way in ways}
    failures: dict[tuple[str, str], str] = {}
    for number in range(rounds):
        for loop in loops:
            # Turned round each time: whoever comes first in a round finds another machine than who comes last.
            for way in ways if number % 2 else reversed(ways):
                try:
                    figures[loop, way].append(measure(loop, way, seconds, threshold_s))
                except RuntimeError as error:
                    figures[loop, way].append(float("nan"))
                    failures[loop, way] = str(error)
    lines = [f"{'loop':<12}{'way':<13}{'CPU µs/echo':>12}   × none (least–greatest)"]
    for loop in loops:
        for way in ways:
            pairs = zip(figures[loop, way], figures[loop, "none"], strict=True)
            ratios = sorted(mine / plain for mine, plain in pairs if mine == mine and plain == plain)
            if not ratios:
                lines.append(f"{loop:<12}{way:<13}{'—':>12}   {failures.get((loop, way), 'no figure')}")
                continue
            middle = statistics.median(mine for mine in figures[loop, way] if mine == mine)
            ratio = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f}–{ratios[-1]:.3f})"
            lines.append(f"{loop:<12}{way:<13}{middle:>12.2f}   {ratio}")
    return "\n".join(lines)


def beat(loops: Sequence[str], seconds: float) -> str:
    """CPU µs of one beat, by a loop that only beats, at a threshold that makes many of them."""
    threshold_s = 0.004
    lines = [f"{'loop':<12}{'CPU µs/beat':>12}{'of a core at 50 ms':>20}"]

    async def idle() -> float:
        with watchdog(threshold_s, report=lambda block: None) as dog:
            beats, put_off = 0, dog._put_off

            def count(now_s: float) -> None:
                nonlocal beats
                beats += 1
                put_off(now_s)

            dog._put_off = count  # type: ignore[method-assign]
            begin_s = time.process_time()
            await asyncio.sleep(seconds)
            used_s = time.process_time() - begin_s
        return used_s / beats * 1e6

    for loop in loops:
        with asyncio.Runner(loop_factory=find_factory(loop)) as runner:
            per_beat_us = runner.run(idle())
        lines.append(f"{loop:<12}{per_beat_us:>12.1f}{per_beat_us * 80 / 1e6:>19.2%}")
    return "\n".join(lines)


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", default="asyncio,epoll,uring,blocking,uvloop")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="the measured window of each")
    parser.add_argument("--threshold", type=float, default=0.05, metavar="S", help="the watchdog's, in seconds")
    parser.add_argument("--beat", action="store_true", help="measure one beat of the watchdog alone")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        be_server(arguments.serve[0], arguments.serve[1], float(arguments.serve[2]))
        return 0
    loops, ways = arguments.loops.split(","), arguments.ways.split(",")
    for name, where in (("uvloop", loops), ("blockbuster", ways)):
        if name in where and importlib.util.find_spec(name) is None:
            where.remove(name)
            print(f"{name} is not installed and passed over; remedy: pip install {name}", file=sys.stderr)
    if "none" not in ways:
        ways.insert(0, "none")
    if arguments.beat:
        print(beat(loops, arguments.seconds))
    else:
        print(compare(loops, ways, arguments.rounds, arguments.seconds, arguments.threshold))
        print(f"{CONNECTIONS} connections, {SIZE_BYTES} B, {arguments.rounds} rounds of {arguments.seconds:g} s each")
    print(", ".join(f"{value}" for value in json.loads(json.dumps(describe_machine())).values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
