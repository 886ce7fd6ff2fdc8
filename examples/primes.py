"""Counts primes without holding up its loop: the counting is handed to asyncio.to_thread.

Threads take turns at Python code, so they keep the loop alive but are no faster than one.
Where the same program runs on processes, they all count at once:

    python examples/primes.py
    underlay run --executor process examples/primes.py
"""

import argparse
import asyncio
import itertools
import os


def count_primes(first: int, last: int) -> tuple[int, int]:
    """Count the primes from first to last - 1, and say which process did it."""
    found = 0
    for number in range(max(first, 2), last):
        if all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
            found += 1
    return found, os.getpid()


async def count_all(limit: int, parts: int) -> None:
    """Count in parts, all of them at once, while the loop goes on."""
    edges = [limit * part // parts for part in range(parts + 1)]
    counted = await asyncio.gather(
        *(asyncio.to_thread(count_primes, first, last) for first, last in itertools.pairwise(edges))
    )
    here = "here" if os.getpid() in {process for _, process in counted} else "elsewhere"
    print(f"{sum(found for found, _ in counted)} primes below {limit}, counted {here}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="primes, counted by asyncio.to_thread")
    parser.add_argument("--limit", type=int, default=100_000)
    parser.add_argument("--parts", type=int, default=8, help="calls to make of it")
    options = parser.parse_args()
    asyncio.run(count_all(options.limit, options.parts))
