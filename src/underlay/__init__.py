"""Choose, see and break what lies under your asyncio program.

An asyncio program says what to send and await; what lies underneath is taken
as given. Here it is something you can swap, while the program above stays as
it is::

    import underlay

    underlay.run(main, io="epoll_et")            # your own main(), another I/O model
    asyncio.run(main(), loop_factory=underlay.loop.uring)      # Python 3.12 and later

or, without touching the program at all: ``underlay run --io epoll-et app.py``.

The layout of this package, from the top down; a file imports only what stands
below its own line:

========================  ====================================================
``cli``                   the commands of ``underlay``
``tools``                 ``compare``, ``connect``, ``listen``, ``net``
``sim``                   many hosts in virtual time, for tests of bad networks
``loop``                  the I/O models, each one an asyncio event loop
``ipc``                   channels between processes, locks, framing
``workers``               executors; jobs that outlive who asked for them
``trace``                 records what probes say, as pcapng
``stack``                 TCP/IP as pure state machines
``link``                  what carries frames: TAP and TUN, a virtual wire
``wire``                  headers and bytes, both ways
``errors clock probe``    the hallway: contracts only, no operating system
========================  ====================================================

A room's ``__init__`` is its public face; files with an underscore are its own.
This file is the front door. It knows where the rooms are and opens them only
when asked, so that ``import underlay`` works on every operating system, and is
quick. It refuses to know how any of them does its work. (PYTEST_DONT_REWRITE:
`underlay run -m pytest` imports it before pytest does, which then has nothing to
warn of.)
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from types import ModuleType

    from . import loop as loop

__all__ = ["__version__", "loop", "run"]

__version__ = "0.1.0.dev0"

_T = TypeVar("_T")


def run(
    main: Callable[[], Coroutine[object, object, _T]] | Coroutine[object, object, _T],
    *,
    io: str = "auto",
    debug: bool | None = None,
) -> _T:
    """Run ``main`` to its end on the I/O model named ``io``, and return its result.

    It is ``asyncio.run`` with the model chosen: ``main`` is a coroutine, or a
    function without arguments that makes one; ``io`` is a name that
    ``underlay models`` lists (``"epoll_et"`` and ``"epoll-et"`` are the same),
    ``"auto"`` for the best that this machine offers, ``"asyncio"`` for the
    standard loop, or ``"uvloop"``; ``debug`` is asyncio's own debug mode.
    Raises ``UsageError`` for a name that is no model, and ``ModelUnavailable``,
    with a remedy, for one that this machine cannot run.

    >>> import asyncio
    >>> async def main() -> str:
    ...     await asyncio.sleep(0)
    ...     return "done"
    >>> run(main, io="select")
    'done'
    """
    import asyncio

    from .loop import resolve

    try:
        # asked here as asyncio.run() does: the Runner would find out too late, and raise something else
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("underlay.run() cannot be called from a running event loop; await the coroutine there")
        factory = resolve(io)
    except BaseException:
        # It will never run; closed, it does not also warn that it was never awaited.
        if isinstance(main, Coroutine):
            main.close()
        raise
    with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
        return runner.run(main() if callable(main) else main)


def __getattr__(name: str) -> ModuleType:
    """Open the room ``loop`` at its first mention (PEP 562)."""
    if name == "loop":
        from importlib import import_module

        return import_module(".loop", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the rooms too, although they are not open yet."""
    return sorted({*globals(), *__all__})
