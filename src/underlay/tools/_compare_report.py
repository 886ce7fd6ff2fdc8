"""Knows what a comparison found: the samples of each model, their medians and spread, and their JSON.

It computes only: it starts nothing, measures nothing and draws nothing. The JSON's schema is documented in
docs/compare.md; a change that would break a reader raises the number in `SCHEMA`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ._load import Histogram

SCHEMA = "underlay.compare/1"

# A generator busier than this, beside a server that is not, was the bottleneck (see Sample.generator_bound).
BUSY = 0.9

# Others that take more of a core than this (a desktop does not) make wall-clock figures doubtful.
OTHERS = 0.2

# A server idler than this wasn't what limited the throughput.
SATURATED = 0.9


@dataclass(frozen=True)
class Sample:
    """What one model did in one round; every figure per request is over the measured window."""

    round: int
    requests: int
    seconds: float
    cpu_s: float
    generator_cpu_s: float
    others_cpu_s: float
    latency: Histogram
    voluntary_switches: int
    involuntary_switches: int
    syscalls_per_request: float | None
    memory_bytes: int
    memory_per_connection_bytes: float | None
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def requests_per_s(self) -> float:
        """Requests answered in a second."""
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU time of the server, user and system, in µs for each request."""
        return self.cpu_s / self.requests * 1e6

    @property
    def switches_per_request(self) -> float:
        """Context switches of the server for each request."""
        return (self.voluntary_switches + self.involuntary_switches) / self.requests

    @property
    def server_busy(self) -> float:
        """CPU seconds of the server in a second: 1 is one core in full."""
        return self.cpu_s / self.seconds

    @property
    def generator_busy(self) -> float:
        """How much of its core the generator used."""
        return self.generator_cpu_s / self.seconds

    @property
    def others_busy(self) -> float:
        """How many cores other programs (and, on a virtual machine, other guests) took meanwhile."""
        return self.others_cpu_s / self.seconds

    @property
    def generator_bound(self) -> bool:
        """Tell whether the generator was the bottleneck: requests/s is its figure then, not the server's."""
        return self.generator_busy >= BUSY and self.server_busy < SATURATED


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds: its median, least and greatest."""

    median: float
    least: float
    greatest: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Take the median and range.

        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(median=2.0, least=1.0, greatest=3.0, rounds=3)
        """
        return cls(statistics.median(values), min(values), max(values), len(values))

    @property
    def relative(self) -> float:
        """Half the range as a part of the median: 0.05 reads "±5 %"."""
        return (self.greatest - self.least) / 2 / self.median if self.median else 0.0


# Name in the JSON → how to read it from a sample. The unit is in the name.
FIGURES: dict[str, Callable[[Sample], float | None]] = {
    "requests_per_s": lambda sample: sample.requests_per_s,
    "cpu_us_per_request": lambda sample: sample.cpu_us,
    "latency_p50_us": lambda sample: sample.latency.percentile_us(50),
    "latency_p99_us": lambda sample: sample.latency.percentile_us(99),
    "latency_p99_9_us": lambda sample: sample.latency.percentile_us(99.9),
    "syscalls_per_request": lambda sample: sample.syscalls_per_request,
    "context_switches_per_request": lambda sample: sample.switches_per_request,
    "memory_per_connection_bytes": lambda sample: sample.memory_per_connection_bytes,
    "memory_bytes": lambda sample: float(sample.memory_bytes),
    "server_busy": lambda sample: sample.server_busy,
    "generator_busy": lambda sample: sample.generator_busy,
    "others_busy": lambda sample: sample.others_busy,
}


@dataclass
class Outcome:
    """All that is known of one model: its samples, and the reason should it have failed."""

    model: str
    samples: list[Sample] = field(default_factory=list)
    failure: str = ""

    def figure(self, name: str) -> Spread | None:
        """Give one of `FIGURES` over the rounds; None where it could not be measured."""
        values = [value for sample in self.samples if (value := FIGURES[name](sample)) is not None]
        return Spread.of(values) if values else None

    @property
    def latency(self) -> Histogram:
        """The latencies of all rounds together."""
        total = Histogram({}, {})
        for sample in self.samples:
            total.add(sample.latency)
        return total

    @property
    def errors(self) -> dict[str, int]:
        """How often what went wrong, over all rounds."""
        total: dict[str, int] = {}
        for sample in self.samples:
            for reason, count in sample.errors.items():
                total[reason] = total.get(reason, 0) + count
        return total

    @property
    def generator_bound(self) -> bool:
        """Tell whether the generator was the bottleneck in most rounds."""
        bound = [sample.generator_bound for sample in self.samples]
        return sum(bound) * 2 > len(bound)


@dataclass(frozen=True)
class LoadShape:
    """What load was put on, for the report: kind, connections, bytes, seconds, rounds."""

    kind: str
    path: str
    connections: int
    size_bytes: int
    duration_s: float
    rounds: int


@dataclass
class Report:
    """The whole comparison, as the terminal, the page and the JSON tell it."""

    title: str
    command: str
    made: str
    machine: dict[str, str | int]
    load: LoadShape
    outcomes: list[Outcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def measured(self) -> list[Outcome]:
        """The models that carried the load at least once."""
        return [outcome for outcome in self.outcomes if outcome.samples]

    @property
    def others_busy(self) -> float:
        """How many cores others took, as the median over all windows; 0 when there was none."""
        values = [sample.others_busy for outcome in self.outcomes for sample in outcome.samples]
        return statistics.median(values) if values else 0.0

    def as_json(self) -> dict[str, object]:
        """Give the report as docs/compare.md documents it."""
        return {
            "schema": SCHEMA,
            "title": self.title,
            "command": self.command,
            "made": self.made,
            "interrupted": self.interrupted,
            "machine": self.machine,
            "load": {
                "kind": self.load.kind,
                "path": self.load.path,
                "connections": self.load.connections,
                "size_bytes": self.load.size_bytes,
                "duration_s": self.load.duration_s,
                "rounds": self.load.rounds,
            },
            "notes": self.notes,
            "models": [_outcome_as_json(outcome) for outcome in self.outcomes],
        }


def _outcome_as_json(outcome: Outcome) -> dict[str, object]:
    summary: dict[str, object] = {}
    for name in FIGURES:
        spread = outcome.figure(name)
        summary[name] = spread and {
            "median": _number(spread.median),
            "least": _number(spread.least),
            "greatest": _number(spread.greatest),
        }
    return {
        "name": outcome.model,
        "failure": outcome.failure or None,
        "generator_was_bottleneck": outcome.generator_bound,
        "errors": outcome.errors,
        "summary": summary if outcome.samples else None,
        "rounds": [
            {
                "round": sample.round,
                "requests": sample.requests,
                "seconds": _number(sample.seconds),
                "errors": sample.errors,
                **{name: _number(read(sample)) for name, read in FIGURES.items()},
            }
            for sample in outcome.samples
        ],
        "latency_histogram_us": [[_number(edge), count] for edge, count in condensed(outcome.latency)],
    }


def condensed(histogram: Histogram, per_decade: int = 40) -> list[tuple[float, int]]:
    """Give a histogram in buckets of equal width on a logarithmic scale, as (lower edge in µs, count).

    Forty to a decade are 6 % wide each, narrower than any difference that a rerun would keep.

    >>> condensed(Histogram({40: 5}, {}), per_decade=1)
    [(10.0, 5)]
    """
    counts: dict[int, int] = {}
    for middle_ns, count in histogram.buckets.items():
        bucket = math.floor(math.log10(middle_ns / 1000) * per_decade)
        counts[bucket] = counts.get(bucket, 0) + count
    return [(10 ** (bucket / per_decade), counts[bucket]) for bucket in sorted(counts)]


def _number(value: float | None) -> float | None:
    """Round to six significant digits: more would only be noise, and makes the file unreadable."""
    if value is None or math.isnan(value):
        return None
    return float(f"{value:.6g}")
