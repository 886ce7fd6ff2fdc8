"""The kind ``thread``: the standard library's pool of threads, as it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from ._contract import Kind

__all__ = ["KIND", "make", "require"]

KIND = Kind(
    "thread",
    runs_in="threads of this process",
    parallel=False,
    crosses_machines=False,
    pickles=False,
    cancels_waiting=True,
    sees_death=False,  # a thread dies with its process
)


def require() -> None:
    """Nothing can be missing."""


def make(*, max_workers: int | None = None) -> ThreadPoolExecutor:
    """Make a pool of at most ``max_workers`` threads; the standard library's number without it."""
    return ThreadPoolExecutor(max_workers, thread_name_prefix="underlay-thread")
