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
    from collections.abc import Mapping

__all__ = ["MODELS", "Model", "auto", "chosen_by_auto", "model", "models", "resolve", "stack_loop", *MODELS]


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
