"""Record one real run of an echo server per I/O model under strace(1), and draw who waited where.

    python benchmarks/swimlanes.py --out docs/figures              # every model that this machine offers
    python benchmarks/swimlanes.py --io epoll,uring --out /tmp

This file knows how to run the server, the two clients and strace on one clock, and how to read strace's lines. How a
recording is drawn is ``lanes_svg.py``'s. strace stops the server at each system call, which makes every call some
tens of microseconds longer: the pictures show the order of things and who waits in which call, not what they cost.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from benchmarks.lanes_svg import Call, Lane, Recording, Request, draw  # noqa: E402

from underlay.loop import models  # noqa: E402

_START_LIMIT_S: Final = 20.0  # under strace Python itself starts in about a second
_GAP_S: Final = (
    0.002  # idle time between two requests: long beside a call under strace, so that waiting shows as waiting
)
_LEAD_S: Final = 0.0015  # what is shown before the first request and after the last answer

# 1795420096.682821 recvfrom(3<TCP:[127.0.0.1:7799->127.0.0.1:40000]>, ""..., 65536, 0, NULL, NULL) = 10 <0.000012>
_LINE: Final = re.compile(r"^(\d+\.\d+) (\w+)\((.*)\)\s+= (-?\w+)(?: (\w+))?.*?(?:<(\d+\.\d+)>)?$")
# A call that was still going on when the process ended has no result.
_UNFINISHED: Final = re.compile(r"^(\d+\.\d+) (\w+)\((.*?)(?:<unfinished \.\.\.>)?$")
# What -yy says of a descriptor: a socket by its addresses, in brackets, or a path.
_DESCRIPTOR: Final = re.compile(r"^\d+<([A-Z0-9-]+:\[[^\]]*\](?:\])?|[^>]*)>")


def parse(lines: Iterator[str], until_s: float) -> Iterator[Call]:
    """The calls of one thread from the lines of ``strace -ff -ttt -T -yy``; what isn't a call is passed over.

    `until_s` ends a call that has no result.
    """
    for line in lines:
        found = _LINE.match(line)
        if found:
            start, name, arguments, result, error, took = found.groups()
            yield Call(name, float(start), float(took or 0), _target(arguments), _outcome(result, error))
            continue
        found = _UNFINISHED.match(line)
        if found:
            start, name, arguments = found.groups()
            yield Call(name, float(start), max(0.0, until_s - float(start)), _target(arguments), "")


def _target(arguments: str) -> str:
    found = _DESCRIPTOR.match(arguments)
    return found.group(1) if found else ""


def _outcome(result: str, error: str | None) -> str:
    return error or "error" if result == "-1" else result


def record(model: str) -> Recording:
    """Run ``examples/echo.py`` on `model` under strace, with two clients and three requests; ValueError if it fails."""
    with tempfile.TemporaryDirectory(prefix="underlay-lanes-") as folder:
        command = ["strace", "-ff", "-ttt", "-T", "-yy", "-s", "0", "-o", f"{folder}/t", sys.executable]
        command += ["-m", "underlay", "run", "--io", model, str(_ROOT / "examples/echo.py"), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            watchdog = signal.signal(signal.SIGALRM, lambda *_: server.kill())
            signal.alarm(int(_START_LIMIT_S))
            try:
                port = int(server.stdout.readline().rpartition(":")[2])
                requests, clients = _exchange(port)
            finally:
                signal.alarm(0)
                signal.signal(signal.SIGALRM, watchdog)
                _end(server)
        start_s = requests[0].sent_s - _LEAD_S
        end_s = max(request.answered_s for request in requests) + _LEAD_S
        lanes: list[Lane] = []
        for path in sorted(Path(folder).glob("t.*"), key=lambda path: int(path.suffix[1:])):
            calls = [call for call in parse(iter(path.read_text().splitlines()), end_s) if call.end_s > start_s]
            shown = [call for call in calls if call.start_s < end_s]
            if shown:
                lanes.append(Lane(_lane_name(len(lanes), shown, clients), tuple(shown)))
    return Recording(model, start_s, end_s, tuple(lanes), tuple(requests), clients)


def _exchange(port: int) -> tuple[list[Request], dict[str, str]]:
    """Connect A and B; A asks, B asks, then both at once.  Times are of the clock that strace prints."""
    requests: list[Request] = []
    with socket.create_connection(("127.0.0.1", port)) as a, socket.create_connection(("127.0.0.1", port)) as b:
        for warm_up in (a, b):
            warm_up.sendall(b"warm up")
            warm_up.recv(100)
        time.sleep(0.05)  # until the server has come to rest
        for asking in ([("A", a)], [("B", b)], [("A", a), ("B", b)]):
            sent = []
            for name, sock in asking:
                sent.append((name, sock, time.time()))
                sock.sendall(b"x" * 1024)
            for name, sock, sent_s in sent:
                sock.recv(4096)
                requests.append(Request(name, sent_s, time.time()))
            time.sleep(_GAP_S)
        names = {f"{sock.getsockname()[1]}": name for name, sock in (("A", a), ("B", b))}
        time.sleep(_LEAD_S)
        return requests, names


def _lane_name(number: int, calls: list[Call], clients: dict[str, str]) -> str:
    """What a thread does by what it reads: a connection of its own, the listening socket, or everything."""
    read = [call.target for call in calls if call.kind_of_data == "read"]
    own = {clients[port] for port in clients for target in read if target.endswith(f":{port}]")}
    waits = {call.name for call in calls}
    if number == 0:
        return "main thread"
    if len(own) == 1:
        return f"thread of {own.pop()}"
    return "thread that accepts" if "accept4" in waits else f"thread {number + 1}"


def _end(server: subprocess.Popen[str]) -> None:
    # strace passes a polite end on to its child only when it has the terminal; the child is its only one.
    subprocess.run(["pkill", "-TERM", "-P", str(server.pid)], check=False)
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        subprocess.run(["pkill", "-KILL", "-P", str(server.pid)], check=False)
        server.kill()


def main() -> int:
    """Record and draw each chosen model; 2 where strace is missing."""
    parser = argparse.ArgumentParser(description="draw who waits where in each I/O model, from a real run")
    parser.add_argument("--io", default="all", help="models, separated by commas (default: all that are available)")
    parser.add_argument("--out", type=Path, default=_ROOT / "docs/figures", help="where the SVG files go")
    options = parser.parse_args()
    if shutil.which("strace") is None:
        print("swimlanes: strace is not installed; install it (apt install strace)", file=sys.stderr)
        return 2
    offered = [model.name for model in models() if model.available]
    chosen = offered if options.io == "all" else options.io.replace("-", "_").split(",")
    options.out.mkdir(parents=True, exist_ok=True)
    for model in chosen:
        path = options.out / f"lanes-{model.replace('_', '-')}.svg"
        path.write_text(draw(record(model)))
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
