"""Which locks have a name on this machine, of which class, and whether a process has them.

This file knows where a page says of which class it is. It refuses to know how a page is found, and what else is in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import _named
from ._shared import class_of


@dataclass(frozen=True, slots=True)
class KnownLock:
    """A lock's name, the class that it was made of, and whether a process has it at this moment.

    One that nobody has is made anew by who says its name next.
    """

    name: str
    kind: str
    in_use: bool


def lock_names() -> list[KnownLock]:
    """The names of this user's locks, in their order. Raises `FolderLocked`.

    >>> from underlay import ipc
    >>> mutex = ipc.Mutex(name="example-ledger")
    >>> [each for each in ipc.lock_names() if each.name == "example-ledger"]
    [KnownLock(name='example-ledger', kind='Mutex', in_use=True)]
    >>> mutex.close()
    """
    return [KnownLock(name, class_of(page), in_use) for name, page, in_use in _named.pages()]
