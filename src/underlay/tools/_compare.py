"""Knows the order of a comparison: models in turn, round after round, each run in a fresh server process.

It joins the server (`_compare_server.py`), the load (`_load.py`) and the meters (`_compare_measure.py`,
`_compare_syscalls.py`) into samples. It does not know how a result is shown: it tells a `Watcher` how far it
has come, and leaves all it found in a `Report`, also when it is interrupted half way.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import UsageError
from ._compare_measure import cpu_s, machine_busy_s, memory_bytes, switches
from ._compare_report import LoadShape, Outcome, Report, Sample
from ._compare_server import AddressInUse, Endpoint, Program, Server, ServerError, how_it_ended
from ._compare_syscalls import CannotCount, count_system_calls
from ._load import Load, LoadError, Target

# asyncio's own loop: a script that doesn't listen there would listen nowhere.
REFERENCE = "asyncio"

# Long enough for lazy imports, the allocator's first arenas and the first thousand requests.
WARM_UP_S = 0.3

# The window for counting system calls: some thousand requests, even under strace.
COUNT_S = 0.2

# Descriptors that a Python process has open besides its connections, generously.
SPARE_DESCRIPTORS = 256


class Watcher(Protocol):
    """Is told how far a comparison has come."""

    def step(self, round_number: int, model: str, done: int, total: int) -> None:
        """A model is about to be measured in a round; `done` of `total` such steps are behind."""

    def failed(self, model: str, reason: str) -> None:
        """A model could not carry the load and is left out from now on."""


@dataclass(frozen=True)
class Plan:
    """What is to be compared, and how."""

    program: Program
    models: tuple[str, ...]
    unavailable: dict[str, str]
    kind: str
    path: str
    port: int | None
    connections: int
    size_bytes: int
    duration_s: float
    rounds: int

    @property
    def protocol(self) -> str:
        """The transport protocol under the load."""
        return "udp" if self.kind == "udp-echo" else "tcp"

    def target(self, endpoint: Endpoint) -> Target:
        """Give the load's target at an endpoint."""
        return Target(self.kind, endpoint.host, endpoint.port, self.size_bytes, self.path)

    def shape(self) -> LoadShape:
        """Give what of the plan the report tells."""
        return LoadShape(self.kind, self.path, self.connections, self.size_bytes, self.duration_s, self.rounds)


class ModelFailure(Exception):
    """A model did not carry the load; the message is the reason for its row."""


def prove(plan: Plan) -> None:
    """Run the script on the standard loop and make one exchange, so that a mistake is told at once.

    Raises UsageError in one sentence: it ends, doesn't listen, its port is taken, it answers otherwise.
    """
    with Server(plan.program, REFERENCE) as server:
        try:
            endpoint = server.find_endpoint(plan.protocol, plan.port)
            with Load(plan.target(endpoint), meanwhile=server.trim) as load:
                load.connect(1)
        except ServerError as error:
            raise UsageError(f"{plan.program.name} can't be compared: {error}") from None
        except LoadError as error:
            said = _said(server)
            raise UsageError(
                f"{plan.program.name} listens on port {endpoint.port}, but {plan.kind} fails there: {error}{said}"
            ) from None


def compare(plan: Plan, report: Report, watcher: Watcher) -> None:
    """Carry the plan out and leave what is found in the report, step by step."""
    report.outcomes = [Outcome(name) for name in plan.models]
    for outcome in report.outcomes:
        outcome.failure = plan.unavailable.get(outcome.model, "")
    total = plan.rounds * sum(not outcome.failure for outcome in report.outcomes)
    done = 0
    for number in range(1, plan.rounds + 1):
        # Each round begins with another model, so that none always follows the same neighbour.
        shift = (number - 1) % len(report.outcomes)
        for outcome in report.outcomes[shift:] + report.outcomes[:shift]:
            if outcome.failure:
                continue
            watcher.step(number, outcome.model, done, total)
            try:
                outcome.samples.append(measure(plan, outcome.model, number, report))
            except ModelFailure as failure:
                outcome.failure = str(failure)
                watcher.failed(outcome.model, outcome.failure)
                total -= plan.rounds - number
            done += 1


def measure(plan: Plan, model: str, number: int, report: Report) -> Sample:
    """Run the script on one model under the load once; ModelFailure tells why that isn't possible."""
    with Server(plan.program, model) as server, _as_model_failure(server):
        endpoint = server.find_endpoint(plan.protocol, plan.port)
        server.allow_descriptors(plan.connections + SPARE_DESCRIPTORS)
        with Load(plan.target(endpoint), meanwhile=server.trim) as load:
            load.connect(1)
            load.run(WARM_UP_S / 3)
            alone = memory_bytes(server.pids)
            if plan.connections > 1:
                load.connect(plan.connections - 1)
            load.run(WARM_UP_S)
            pids = server.pids
            held = memory_bytes(pids)
            switched = switches(pids)
            busy = machine_busy_s()
            used = cpu_s(pids)
            window = load.run(plan.duration_s)
            used = cpu_s(server.pids) - used  # asked anew: a process that began meanwhile counts in full
            busy = machine_busy_s() - busy
            after = switches(pids)
            if not window.requests:
                raise LoadError("; ".join(window.errors) or "not one request was answered")
            calls = _system_calls(server, load, report) if window.alive else None
            if window.alive:
                load.check()
    return Sample(
        round=number,
        requests=window.requests,
        seconds=window.seconds,
        cpu_s=used,
        generator_cpu_s=window.cpu_s,
        others_cpu_s=max(0.0, busy - used - window.cpu_s),
        latency=window.latency,
        voluntary_switches=max(0, after.voluntary - switched.voluntary),
        involuntary_switches=max(0, after.involuntary - switched.involuntary),
        syscalls_per_request=calls,
        memory_bytes=held,
        memory_per_connection_bytes=(max(0, held - alone) / (plan.connections - 1) if plan.connections > 1 else None),
        errors=dict(window.errors),
    )


def _system_calls(server: Server, load: Load, report: Report) -> float | None:
    """Count system calls per request in a window of their own; None, with a note, if it's not allowed."""
    try:
        counter = count_system_calls(server.pids)
    except CannotCount as error:
        note = f"System calls were not counted: {error}."
        if note not in report.notes:
            report.notes.append(note)
        return None
    try:
        window = load.run(COUNT_S)
    finally:
        calls = counter.stop()
    return calls / window.requests if window.requests else None


@contextmanager
def _as_model_failure(server: Server) -> Iterator[None]:
    """Turn what goes wrong with one model into the reason of its row, with the server's own words."""
    try:
        yield
    except AddressInUse as error:
        raise ModelFailure(str(error)) from None
    except ServerError as error:
        raise ModelFailure(_reason(str(error))) from None
    except LoadError as error:
        raise ModelFailure(_reason(f"{error}{_said(server)}")) from None


def _said(server: Server) -> str:
    """Give what the server said when it failed, as the rest of a sentence."""
    status = server.exit_status()
    ended = "" if status is None else f"; the server ended {how_it_ended(status)}"
    words = server.reason()
    return f"{ended}; the server said: {words}" if words else ended


def _reason(text: str) -> str:
    return text.replace("\n", " ")


def describe_machine() -> dict[str, str | int]:
    """Tell on what the figures were taken: processor, cores, kernel, Python, memory."""
    processor = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "executable": sys.executable,
    }
