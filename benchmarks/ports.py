"""What a list of sockets costs: `underlay.tools.ports` beside ss, on ten thousand of them, interleaved.

    python benchmarks/ports.py
    python benchmarks/ports.py --sockets 2000 --rounds 5 --markdown docs/figures/ports.md

The sockets are made in a network namespace of their own, held by five processes. Each round runs every subject once;
a line is the median of the rounds in ms, of processor time and wall time, and their ratios to ss with the same columns.
As root.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from underlay.link import Namespace, Rtnetlink
from underlay.tools.ports import list_sockets

HOLDERS: Final = 5
"""Each needs a fifth of the descriptors: 2,100 for ten thousand is below the hard limit of any system in use."""

PASSED: Final = 20
"""Connections of each holder that are over and stay in TIME-WAIT."""

# Holds connections over both versions of IP, half-closed ones, bytes that nobody reads, and what is over.
_HOLD: Final = """
import resource, socket, sys

count, passed, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
with open("/proc/self/comm", "w") as comm:
    comm.write(name)
servers = [socket.create_server((address, 0), family=family, backlog=64)
           for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))]
kept = list(servers)
while len(kept) + 2 <= count:
    server = servers[len(kept) % 3 == 0]
    client = socket.socket(server.family)
    client.connect(server.getsockname())
    accepted, _ = server.accept()
    if len(kept) % 50 == 0:
        client.sendall(bytes(len(kept)))
    if len(kept) % 70 == 0:
        accepted.shutdown(socket.SHUT_WR)
    kept += [client, accepted]
for _ in range(passed):
    client = socket.create_connection(servers[0].getsockname())
    accepted, _ = servers[0].accept()
    accepted.close()
    client.recv(1)
    client.close()
print(len(kept), flush=True)
sys.stdin.read()
"""


def descriptors_needed(sockets: int) -> int:
    """What a holder's hard limit of open files has to be."""
    return sockets // HOLDERS + 100


@contextmanager
def crowd(namespace: Namespace, sockets: int) -> Iterator[None]:
    """Have so many TCP sockets in the namespace, and some in TIME-WAIT besides."""
    each = str(sockets // HOLDERS)

    def start(number: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, program.name, each, str(PASSED), f"hold {number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    holders: list[subprocess.Popen[str]] = []
    # In a file: a program on the command line would be in every row.
    with tempfile.NamedTemporaryFile("w", suffix=".py") as program, ExitStack() as stack:
        program.write(_HOLD)
        program.flush()
        stack.callback(_end, holders)
        for number in range(HOLDERS):
            holders.append(namespace.run(lambda number=number: start(number)))  # type: ignore[misc]
        for holder in holders:
            assert holder.stdout is not None
            if holder.stdout.readline() != f"{each}\n":
                raise RuntimeError("a holder could not open its sockets")
        yield


def _end(holders: list[subprocess.Popen[str]]) -> None:
    for holder in holders:
        holder.kill()
        holder.communicate()


@dataclass(frozen=True)
class Subject:
    """Something that lists the sockets, and what it is compared with."""

    name: str
    run: Callable[[], object]
    reference: str


@contextmanager
def as_installed() -> Iterator[None]:
    """Let the commands that are started be this source, compiled once, as that of an installed package is."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as compiled:
        for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
            os.environ.pop(name, None)
        os.environ |= {"PYTHONPATH": sys.path[0], "PYTHONPYCACHEPREFIX": compiled}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _command(*words: str) -> Callable[[], object]:
    return lambda: subprocess.run(words, stdout=subprocess.DEVNULL, check=True)


UNDERLAY: Final = (sys.executable, "-m", "underlay", "ports", "proto:tcp")
SUBJECTS: Final = (
    Subject("`ss -tan`", _command("ss", "-tan"), "`ss -tan`"),
    Subject("`list_sockets(owners=False)`", lambda: list_sockets("proto:tcp", owners=False), "`ss -tan`"),
    Subject("`underlay ports --no-owners`", _command(*UNDERLAY, "--no-owners"), "`ss -tan`"),
    Subject("`ss -tani`", _command("ss", "-tani"), "`ss -tani`"),
    Subject("`list_sockets(owners=False, info=True)`", lambda: list_sockets("proto:tcp", owners=False, info=True),
            "`ss -tani`"),
    Subject("`ss -tanp`", _command("ss", "-tanp"), "`ss -tanp`"),
    Subject("`list_sockets()`", lambda: list_sockets("proto:tcp"), "`ss -tanp`"),
    Subject("`underlay ports`", _command(*UNDERLAY), "`ss -tanp`"),
)  # fmt: skip


Times = dict[str, list[tuple[float, float]]]


def measure(rounds: int) -> Times:
    """Run every subject once a round; give the processor time and the wall time of each in ms."""
    times: Times = {subject.name: [] for subject in SUBJECTS}
    for _ in range(rounds):
        for subject in SUBJECTS:
            began, worked = time.perf_counter(), _processor_s()
            subject.run()
            wall_s, processor_s = time.perf_counter() - began, _processor_s() - worked
            times[subject.name].append((processor_s * 1e3, wall_s * 1e3))
    return times


def _processor_s() -> float:
    """What this process and the children that have ended have used."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def lines(times: Times, sockets: int, rounds: int) -> Iterator[str]:
    """The table, in Markdown."""
    yield "| what lists them | processor ms | to ss | wall ms | to ss |"
    yield "|---|--:|--:|--:|--:|"
    medians = {
        name: tuple(statistics.median(each) for each in zip(*values, strict=True)) for name, values in times.items()
    }
    for subject in SUBJECTS:
        cells = [subject.name]
        for figure, reference in zip(medians[subject.name], medians[subject.reference], strict=True):
            cells += [f"{figure:.1f}", "" if subject.name == subject.reference else f"{figure / reference:.2f}"]
        yield f"| {' | '.join(cells)} |"
    version = subprocess.run(["ss", "-V"], capture_output=True, text=True, check=True).stdout.strip()
    yield ""
    yield (
        f"{sockets:,} TCP sockets, {rounds} rounds, interleaved; CPython {platform.python_version()},"
        f" Linux {platform.release()}, {version}; with the start of a program, where it is one."
    )


def main() -> None:
    """Make the sockets, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sockets", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to a file, too")
    args = parser.parse_args()
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < descriptors_needed(args.sockets):
        parser.error(f"a process may open too few files; remedy: ulimit -Hn {descriptors_needed(args.sockets)}")
    try:
        namespace = Namespace.create()
    except OSError as error:
        parser.error(f"no network namespace may be made here ({error.strerror}); run as root")

    def loopback_up() -> None:
        with Rtnetlink() as kernel:
            kernel.set_up(kernel.link("lo").index)

    with namespace, as_installed():
        namespace.run(loopback_up)
        with crowd(namespace, args.sockets):
            namespace.run(lambda: measure(1))  # the first one reads files and compiles
            times = namespace.run(lambda: measure(args.rounds))
    table = "\n".join(lines(times, args.sockets, args.rounds))
    print(table)
    if args.markdown:
        args.markdown.write_text(table + "\n")


if __name__ == "__main__":
    main()
