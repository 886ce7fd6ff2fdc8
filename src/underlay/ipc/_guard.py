"""The lock inside an object of synchronisation, held for a moment while its state changes.

This file knows that its holder may die: what is changed under it is in order at each moment, so that nothing has to be
told. It refuses to know what that is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from . import _robust
from ._parties import Parties
from ._shared import SLICE_S, Shared


class Guarded(Shared):
    """Something whose state is changed by one at a time."""

    def _make(self) -> None:
        _robust.create(self._at)

    @property
    def _table(self) -> Parties:
        return Parties(self._parties)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        self._check()
        try:
            while (got := _robust.lock(self._at, SLICE_S)) is _robust.Got.BUSY:
                pass  # in slices, so that Ctrl-C comes through
        except BaseException:
            _robust.let_go(self._at)
            raise
        if got is _robust.Got.HOLDER_DIED:
            _robust.make_consistent(self._at)
        try:
            yield
        finally:
            _robust.unlock(self._at)
