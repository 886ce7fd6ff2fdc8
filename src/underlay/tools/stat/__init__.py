"""What the machine is busy with: processors, memory, disks, the network and its processes, from /proc alone.

`read_sample` reads all counters once; `between` and `since_boot` tell what they say. `Watch` does so again and again.

>>> import time
>>> first = read_sample()
>>> time.sleep(0.05)
>>> usage = between(first, read_sample())
>>> 0 <= usage.cpu.idle <= 100.01
True

`Watch` sleeps between readings; in an asyncio program, call `read_sample` yourself and ``await asyncio.sleep()``.
"""

from __future__ import annotations

from ._processes import ProcessSample, ProcessUsage, process_usage, read_processes
from ._sample import CpuTicks, Interface, Memory, Sample, Sockets, read_sample
from ._usage import CpuShares, Traffic, Usage, between, since_boot
from ._watch import Period, Reading, Watch

__all__ = [
    "CpuShares",
    "CpuTicks",
    "Interface",
    "Memory",
    "Period",
    "ProcessSample",
    "ProcessUsage",
    "Reading",
    "Sample",
    "Sockets",
    "Traffic",
    "Usage",
    "Watch",
    "between",
    "process_usage",
    "read_processes",
    "read_sample",
    "since_boot",
]
