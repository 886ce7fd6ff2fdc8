"""Probe points: where code says what it does, at next to no cost when nobody listens.

The watched never imports the watcher: a room declares its probes here and fires
them; whoever records them finds them here by name. This file knows the names
and the listeners. It refuses to know what is reported, when, or to which file.

The pattern at a probe point is a guard and a call::

    TURN: Probe[[int, float]] = Probe("loop.turn", "ready callbacks, seconds waited")

    if TURN.listeners:            # one attribute and one truth test: about 10 ns
        TURN(len(ready), waited_s)

The guard keeps even the arguments from being made when nobody listens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Generic, ParamSpec

__all__ = ["Probe", "probes"]

_P = ParamSpec("_P")

_known: dict[str, Probe[...]] = {}


class Probe(Generic[_P]):
    """One named point in the code, and those who listen to it.

    ``name`` is ``room.what``, unique in the process; ``doc`` says what is
    reported, in which units. ``listeners`` is a tuple, replaced whole and never
    changed, so that a probe may fire while somebody attaches or leaves.

    >>> probe: Probe[[str, int]] = Probe("example.bytes", "direction, count")
    >>> heard = []
    >>> with probe.listening(lambda direction, count: heard.append((direction, count))):
    ...     if probe.listeners:
    ...         probe("in", 3)
    >>> heard, probe.listeners
    ([('in', 3)], ())
    """

    __slots__ = ("doc", "failures", "last_failure", "listeners", "name")

    def __init__(self, name: str, doc: str = "") -> None:
        if name in _known:
            raise ValueError(f"a probe is already called {name!r}; a name belongs to one point")
        self.name = name
        self.doc = doc
        self.listeners: tuple[Callable[_P, object], ...] = ()
        self.failures = 0
        self.last_failure: Exception | None = None
        _known[name] = self

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Report to every listener, in the order they came.

        A listener that raises is at fault, and the watched program must not pay:
        it is dropped, counted in ``failures`` and its error kept in ``last_failure``.
        """
        for listener in self.listeners:
            try:
                listener(*args, **kwargs)
            except Exception as error:
                self.failures += 1
                self.last_failure = error
                self.drop(listener)

    def listen(self, listener: Callable[_P, object]) -> None:
        """Add a listener; it hears every report from now on."""
        self.listeners = (*self.listeners, listener)

    def drop(self, listener: Callable[_P, object]) -> None:
        """Remove a listener; one that does not listen is passed over."""
        self.listeners = tuple(kept for kept in self.listeners if kept != listener)

    @contextmanager
    def listening(self, listener: Callable[_P, object]) -> Iterator[None]:
        """Listen for the length of a ``with`` block."""
        self.listen(listener)
        try:
            yield
        finally:
            self.drop(listener)

    def __repr__(self) -> str:
        return f"<Probe {self.name}, {len(self.listeners)} listening>"


def probes() -> Mapping[str, Probe[...]]:
    """Every probe declared so far, by name: a live view that cannot be written to."""
    return MappingProxyType(_known)
