"""What idle connections of the user-space stack cost: memory of each, and how often they wake the loop.

    python benchmarks/stack_idle.py 10000

One process holds both ends, on the network "lo", so that half of the memory that it grows by is a server's end with
its transport and protocol, and the same number of clients' ends. It prints one line.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from underlay.loop import stack_loop

HOST, PORT = "127.0.0.1", 7000
# Several connects at a time, as fewer than a listener's backlog.
BATCH = 50
SILENCE_S = 1.0


def resident_bytes() -> int:
    """Memory of this process that is really there: /proc/self/statm, proc(5)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def main(count: int) -> None:
    """Make the connections, let them rest, and count."""
    loop = asyncio.get_running_loop()
    kept: list[asyncio.BaseTransport] = []

    class Keep(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            kept.append(transport)

    server = await loop.create_server(Keep, HOST, PORT, backlog=4 * BATCH)
    gc.collect()
    before = resident_bytes()
    for at in range(0, count, BATCH):
        await asyncio.gather(*(loop.create_connection(Keep, HOST, PORT) for _ in range(min(BATCH, count - at))))
    while len(kept) < 2 * count:
        await asyncio.sleep(0.01)
    await asyncio.sleep(SILENCE_S)  # the last delayed acknowledgments
    gc.collect()
    grown = resident_bytes() - before
    # The timer that ends the silence is one wake-up by itself, and the only one.
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    await asyncio.sleep(SILENCE_S)
    wake_ups = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - switches - 1
    print(
        f"{count:,} idle connections: {grown / count / 2:,.0f} bytes for each end with its transport, "
        f"{max(0, wake_ups)} wake-ups in {SILENCE_S:g} s"
    )
    server.close()
    for transport in kept:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: stack_loop("lo")) as runner:
        runner.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
