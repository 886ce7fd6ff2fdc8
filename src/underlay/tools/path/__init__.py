"""The path to a host: who forwards its packets, how long each takes, and where they are lost.

`trace` sends probes whose time to live ends at one router after another, and gives a `Report`; `Trace` is the same
while it runs. Nothing here needs root: the probes are UDP datagrams, TCP connections or, where the system lets its
users ping, ICMP echo, and the kernel's error queue tells what became of each.

>>> report = trace("127.0.0.1", rounds=2, interval_s=0.05)
>>> report.reached, [hop.address for hop in report.hops]
(True, ['127.0.0.1'])

It blocks while it measures: in an asyncio program, ``await asyncio.to_thread(trace, host)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ._model import Ending, Hop, Report, Verdict
from ._names import system_name
from ._trace import ProbeKind, Trace

__all__ = ["Ending", "Hop", "Report", "Trace", "Verdict", "trace"]


def trace(
    host: str,
    *,
    protocol: ProbeKind = "udp",
    port: int | None = None,
    family: Literal[4, 6] | None = None,
    flows: int = 1,
    rounds: int = 10,
    interval_s: float = 1.0,
    timeout_s: float = 2.0,
    max_hops: int = 30,
    silent_hops: int = 8,
    source: str | None = None,
    source_port: int = 0,
    names: bool = True,
    resolve: Callable[[str], str | None] = system_name,
) -> Report:
    """Measure the path to a host for so many rounds, and report.

    ``protocol`` is ``"udp"``, ``"icmp"`` or ``"tcp"``; ``port`` the destination port of UDP (33434 unless said) and
    TCP (80). So many ``flows`` go side by side, each from a port of its own (ICMP: with an identifier of its own):
    ``source_port`` and those above it, where that is given. A round is one probe of each flow to each distance, and
    begins ``interval_s`` seconds (at least 0.01) after the last. A probe without an answer after ``timeout_s`` is
    lost (by TCP after 0.9 s at the latest). After ``silent_hops`` silent hops in a row the path counts as ended; so
    it does at ``max_hops``. ``resolve`` gives a name for an address, in threads of its own; ``names=False`` asks
    nobody.

    `UsageError` for a wrong word, a host without an address, and a right that is missing (only ICMP needs one);
    `UnderlayError` where this machine has no route.

    >>> trace("127.0.0.1", protocol="tcp", port=9, rounds=1, names=False).hops[0].note
    'port closed'
    """
    with Trace(
        host,
        protocol=protocol,
        port=port,
        family=family,
        flows=flows,
        rounds=rounds,
        interval_s=interval_s,
        timeout_s=timeout_s,
        max_hops=max_hops,
        silent_hops=silent_hops,
        source=source,
        source_port=source_port,
        names=names,
        resolve=resolve,
    ) as measurement:
        *_, last = measurement.run()
        return last
