"""The generator's process: a JSON command on each line of stdin, a JSON answer on stdout.

It knows the engine and the dialogues; it does not know the server's process or the models. Started
as `python -m underlay.tools._load_worker` by `_load.py`, so that the load's CPU time is never the
server's.

Commands: {"do": "open", "kind": …, "host": …, "port": …, "size_bytes": …, "path": …} · {"do":
"connect", "count": N} · {"do": "check"} · {"do": "run", "seconds": S, "spin": false} · {"do":
"close"}. An answer is {"ok": {…}} or {"error": "a sentence"}.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
from typing import TypedDict

from ._load_contract import Dialogue, LoadError, Window
from ._load_dialogue import TcpEcho, TlsEcho, UdpEcho
from ._load_engine import Engine
from ._load_http import HttpGet


class Command(TypedDict, total=False):
    """One line on stdin."""

    do: str
    kind: str
    host: str
    port: int
    size_bytes: int
    path: str
    count: int
    seconds: float
    spin: bool


def make_dialogue(command: Command) -> Dialogue:
    """Give the dialogue that an `open` command asks for."""
    address = (command["host"], command["port"])
    size_bytes = command.get("size_bytes", 1024)
    match command["kind"]:
        case "tcp-echo":
            return TcpEcho(address, size_bytes)
        case "tls-echo":
            return TlsEcho(address, size_bytes)
        case "udp-echo":
            return UdpEcho(address, size_bytes)
        case "http" | "https" as scheme:
            host = f"{address[0]}:{address[1]}"
            return HttpGet(address, command.get("path", "/"), host, tls=scheme == "https")
        case kind:
            raise LoadError(f"no such load: {kind!r}")


def describe(window: Window, alive: int) -> dict[str, object]:
    """Give a window as JSON can carry it; bucket numbers become strings there."""
    return {
        "requests": window.requests,
        "seconds": window.seconds,
        "cpu_s": window.cpu_s,
        "errors": window.errors,
        "fine": window.fine,
        "coarse": window.coarse,
        "alive": alive,
    }


def obey(engine: Engine | None, command: Command) -> tuple[Engine | None, dict[str, object]]:
    """Carry out one command."""
    if command["do"] == "open":
        return Engine(make_dialogue(command)), {}
    if engine is None:
        raise LoadError("nothing is open")
    match command["do"]:
        case "connect":
            engine.connect(command["count"])
        case "check":
            engine.check()
        case "run":
            return engine, describe(engine.run(command["seconds"], spin=command.get("spin", False)), len(engine))
        case "close":
            engine.close()
            return None, {}
        case verb:
            raise LoadError(f"no such command: {verb!r}")
    return engine, {}


def main() -> int:
    """Serve commands until stdin ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # The hot loop makes no cycles; a collection in the middle of a window would show as the
    # server's latency.
    gc.disable()
    engine: Engine | None = None
    for line in sys.stdin:
        answer: dict[str, object]
        try:
            engine, result = obey(engine, json.loads(line))
            answer = {"ok": result}
        except LoadError as error:
            answer = {"error": str(error)}
        except OSError as error:
            answer = {"error": error.strerror or str(error)}
        except MemoryError:
            answer = {"error": "the load generator has no memory left; choose a smaller --size or fewer --connections"}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
