"""The I/O models as ordinary asyncio event loops: what waits, and in which system call, while a program awaits.

Each model is a loop factory, for whatever takes one::

    asyncio.Runner(loop_factory=underlay.loop.epoll)         # or asyncio.run(main(), loop_factory=…) since Python 3.12
    uvicorn app:app --loop underlay.loop:epoll
    anyio.run(main, backend_options={"loop_factory": underlay.loop.epoll})

The rooms' inside, one model one file with the same verbs in the same order, so that comparing two is a diff:

    _reactor.py    one turn of the loop over a poller        _io_select.py  _io_poll.py  _io_epoll.py  _io_epoll_et.py
    _transport.py  a connection as asyncio promises it       _io_nonblocking.py  _io_signal.py
    _edges.py      what an edge leaves to be remembered      _io_blocking.py   a thread per connection
    _ring.py       io_uring's rings                          _io_uring.py      completions
    _models.py     the table of them all, and what this machine offers
    aio.py         files                                     _install.py  _run.py   a model beneath a program

    _watch*.py     which call holds a loop, and where

and the same asyncio over a TCP/IP stack in user space, `stack_loop`:

    _io_stack.py   the loop         _bridge.py        between the stack and the device that carries its frames
    _stack_*.py    its sockets      _net_spec.py      the words of `--net`

This file knows the public names and nothing else; a model's module is imported when its loop is first made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._models import MODELS, Model, chosen_by_auto, model, models, new_loop, resolve

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from ._watch_ledger import Block, BlockedPlace, WatchStatistics
    from ._watch_raise import BlockingCall
    from ._watchdog import Watchdog

__all__ = [
    "MODELS",
    "Block",
    "BlockedPlace",
    "BlockingCall",
    "Model",
    "WatchStatistics",
    "Watchdog",
    "auto",
    "chosen_by_auto",
    "model",
    "models",
    "resolve",
    "stack_loop",
    "watchdog",
    *MODELS,
]


def auto() -> asyncio.AbstractEventLoop:
    """A loop of the best model that this machine offers.

    ``underlay models`` says which, and why not another.

    >>> auto().close()
    """
    return new_loop("auto")


def blocking(*, turns: bool = True) -> asyncio.AbstractEventLoop:
    """A loop of synchronous blocking I/O: a thread per connection waits in ``recv()``.

    Threads take turns being the loop. With ``turns=False`` every callback runs in the thread that runs the loop, for
    programs whose handlers share what belongs to one thread; docs/models.md has what else differs.

    >>> blocking().close()
    """
    if turns:
        return new_loop("blocking")
    return resolve("blocking")(turns=False)  # type: ignore[call-arg]  # the class itself, which takes it


def nonblocking() -> asyncio.AbstractEventLoop:
    """A loop of synchronous non-blocking I/O: it asks every descriptor again and again for EAGAIN.

    It burns a processor while traffic flows and pauses by a stated policy when none does.

    >>> nonblocking().close()
    """
    return new_loop("nonblocking")


def select() -> asyncio.AbstractEventLoop:
    """A loop of multiplexing by select(2).

    It refuses descriptor 1024 and above, as FD_SETSIZE does.

    >>> select().close()
    """
    return new_loop("select")


def poll() -> asyncio.AbstractEventLoop:
    """A loop of multiplexing by poll(2).

    Each turn costs in proportion to the descriptors watched.

    >>> poll().close()
    """
    return new_loop("poll")


def epoll() -> asyncio.AbstractEventLoop:
    """A loop of multiplexing by epoll(7), level-triggered.

    The one that ``auto`` takes.

    >>> epoll().close()
    """
    return new_loop("epoll")


def epoll_et() -> asyncio.AbstractEventLoop:
    """A loop of multiplexing by epoll(7), edge-triggered.

    A descriptor that wasn't emptied is remembered and asked about by poll(2).

    >>> epoll_et().close()
    """
    return new_loop("epoll_et")


def signal() -> asyncio.AbstractEventLoop:
    """A loop of signal-driven I/O: F_SETSIG, O_ASYNC and sigtimedwait(2).

    Each loop takes a real-time signal of its own.

    >>> signal().close()
    """
    return new_loop("signal")


def uring() -> asyncio.AbstractEventLoop:
    """A loop of asynchronous I/O: a proactor on io_uring(7).

    ModelUnavailable where the kernel or a container forbids it.

    >>> uring().close()
    """
    return new_loop("uring")


def stack_loop(net: str, *, names: Mapping[str, str] | None = None) -> asyncio.AbstractEventLoop:
    """A loop whose TCP and UDP sockets are those of a TCP/IP stack in this process, on the network that ``net`` says.

    ``"tap:10.9.0.2/24"`` makes a TAP device on which the stack is 10.9.0.2 and the kernel 10.9.0.1; ``"lo"`` needs no
    device and no permission. `underlay run --help` has all words; ``names`` are names and their addresses that
    need no name server. UsageError where the network cannot be.

    >>> stack_loop("lo").close()
    """
    from ._io_stack import stack_loop as made

    return made(net, names=names)


def watchdog(
    threshold_s: float = 0.05,
    *,
    report: Callable[[Block], object] | None = None,
    loop: asyncio.AbstractEventLoop | None = None,
    raise_at_blocking_calls: bool = False,
) -> Watchdog:
    """Watch the running loop, or ``loop``, for calls that hold it longer than ``threshold_s``.

    ``with`` it for as long as it is to watch. Each block is given to ``report`` in the loop's thread, once the loop
    runs again; without ``report`` it is a warning of the logger ``underlay.watchdog``, with the stack at the first
    time of each line. With ``raise_at_blocking_calls``, calls that are known to block raise `BlockingCall` in this loop
    before they do. Raises ``UsageError`` where no loop is running and none is given, and ``UnderlayError`` on
    another system than Linux or where no real-time signal is free: each watched loop needs one.

    >>> import asyncio, time
    >>> async def main() -> None:
    ...     with watchdog(0.02, report=lambda block: print("held by", block.at.function)) as dog:
    ...         time.sleep(0.2)
    ...     print(dog.statistics().count)
    >>> asyncio.run(main())
    held by main
    1
    """
    from ._watchdog import watchdog as made

    return made(threshold_s, report=report, loop=loop, raise_at_blocking_calls=raise_at_blocking_calls)


# Opened when first asked for (PEP 562): most programs watch nothing.
_WATCH_FILES = {
    "Block": "_watch_ledger",
    "BlockedPlace": "_watch_ledger",
    "WatchStatistics": "_watch_ledger",
    "BlockingCall": "_watch_raise",
    "Watchdog": "_watchdog",
}


def __getattr__(name: str) -> object:
    if (file := _WATCH_FILES.get(name)) is not None:
        from importlib import import_module

        return getattr(import_module(f".{file}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
