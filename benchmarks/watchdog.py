"""What it costs to watch a loop: CPU µs per echo, watched and not, beside asyncio's debug mode and blockbuster.

    python benchmarks/watchdog.py --loops asyncio,epoll,uvloop --rounds 9
    python benchmarks/watchdog.py --beat

In each round a server is loaded in short windows, and told before each how to watch itself: not, in one way, not, and
so on. So the process, its memory and its connections are the same with and without, and a noisy minute hurts both.
The ratio of a window is to the mean of its neighbours; the median and the middle half of all
ratios are shown. `--beat` measures one beat of the watchdog
alone: the CPU time of a loop that has nothing else to do. A package that isn't installed is passed over with a word.
It uses the generator and the clocks of `underlay compare`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.loops import MALLOC_TUNED  # noqa: E402
from benchmarks.servers import Echo, echo_by_streams, find_factory  # noqa: E402

from underlay.loop import watchdog  # noqa: E402
from underlay.tools._compare import describe_machine  # noqa: E402
from underlay.tools._compare_measure import cpu_s  # noqa: E402
from underlay.tools._load import Load, LoadError, Target  # noqa: E402

WAYS = ["watchdog", "debug", "blockbuster"]
CONNECTIONS = 100
SIZE_BYTES = 64


@contextmanager
def watched(way: str, threshold_s: float) -> Iterator[None]:
    """Watch the running loop in one of the ways."""
    if way == "watchdog":
        with watchdog(threshold_s):
            yield
    elif way == "debug":
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        try:
            yield
        finally:
            loop.set_debug(False)
    elif way == "blockbuster":
        from blockbuster import blockbuster_ctx  # type: ignore[import-not-found,unused-ignore]

        with blockbuster_ctx():
            yield
    else:
        yield


async def serve(program: str, threshold_s: float) -> None:
    """Echo for ever on a free port of the loopback address, which is told; a line on stdin says how to watch."""
    loop = asyncio.get_running_loop()
    if program == "protocol":
        server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1024)
    else:
        server = await asyncio.start_server(echo_by_streams, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    way = "none"
    while way:
        with watched(way, threshold_s):
            print("ready", flush=True)
            way = (await lines.readline()).decode().strip()


def be_server(loop: str, program: str, threshold_s: float) -> None:
    """Serve until stdin ends."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # the debug mode's warnings are not what is measured
    with asyncio.Runner(loop_factory=find_factory(loop)) as runner:
        runner.run(serve(program, threshold_s))


def measure(loop: str, program: str, ways: Sequence[str], seconds: float, threshold_s: float) -> list[float]:
    """CPU µs of one server per echo in a window of each way, in turn. RuntimeError tells why there is no figure."""
    command = [sys.executable, __file__, "--serve", loop, program, str(threshold_s)]
    # Without it asyncio's receive buffer is mapped anew for each read or not, as the heap happens to lie: 6 or 20 µs an
    # echo, which any object made between may change.
    tuned = {**os.environ, **MALLOC_TUNED}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=tuned)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    figures = []
    try:
        port, ready = process.stdout.readline(), process.stdout.readline()
        with Load(Target("tcp-echo", "127.0.0.1", int(port or 0), SIZE_BYTES)) as load:
            load.connect(CONNECTIONS)
            load.run(0.3)
            for way in ways:
                process.stdin.write(f"{way}\n")
                process.stdin.flush()
                ready = process.stdout.readline()
                if ready != "ready\n":
                    raise RuntimeError((process.stderr.read().strip().splitlines() or ["the server ended"])[-1])
                before = cpu_s([process.pid])
                window = load.run(seconds)
                if not window.requests:
                    raise RuntimeError(f"no answer came in the window of {way}: {dict(window.errors)}")
                figures.append((cpu_s([process.pid]) - before) / window.requests * 1e6)
            load.check()
    except LoadError as error:
        raise RuntimeError(str(error)) from error
    finally:
        process.kill()
        process.communicate()
    return figures


def compare(
    loops: Sequence[str], programs: Sequence[str], ways: Sequence[str], rounds: int, seconds: float, threshold_s: float
) -> str:
    """Measure all loops in all ways, and put the table together."""
    lines = [f"{'loop':<10}{'program':<10}{'way':<13}{'CPU µs/echo':>12}   × none (middle half)"]
    for loop in loops:
        for program in programs:
            figures: dict[str, list[float]] = {way: [] for way in ("none", *ways)}
            ratios: dict[str, list[float]] = {way: [] for way in ways}
            failures: dict[str, str] = {}
            for _ in range(rounds):
                for way in ways:
                    try:
                        row = measure(loop, program, ["none", way] * 2 + ["none"], seconds, threshold_s)
                    except RuntimeError as error:
                        failures[way] = str(error)
                        continue
                    figures["none"] += row[::2]
                    figures[way] += row[1::2]
                    ratios[way] += [row[at] / statistics.mean((row[at - 1], row[at + 1])) for at in (1, 3)]
            for way in figures:
                line = f"{loop:<10}{program:<10}{way:<13}"
                if figures[way]:
                    line += f"{statistics.median(figures[way]):>12.2f}"
                if len(ratios.get(way, [])) > 1:
                    low, middle, high = statistics.quantiles(ratios[way], n=4)
                    line += f"   {middle:.3f} ({low:.3f}–{high:.3f})"
                lines.append(line + (f"   {failures[way]}" if way in failures else ""))
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
    parser.add_argument("--programs", default="protocol,streams")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="the measured window of each")
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
    if arguments.beat:
        print(beat(loops, arguments.seconds))
    else:
        programs = arguments.programs.split(",")
        print(compare(loops, programs, ways, arguments.rounds, arguments.seconds, arguments.threshold))
        print(
            f"{CONNECTIONS} connections, {SIZE_BYTES} B, {arguments.rounds} rounds, windows of {arguments.seconds:g} s"
        )
    machine = describe_machine()
    print(f"{machine['processor']}, {machine['cores']} cores, {machine['kernel']}, {machine['python']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
