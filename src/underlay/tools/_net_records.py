"""What `underlay net up` has made, written down before it is made, so that it can be removed after a crash too.

This file knows where the records lie and how they are kept: one JSON file for each device, replaced whole. The folder
is the same in all network namespaces (`ip netns exec` keeps /run), so a record tells its own, and two of them may have
a device of one name. It refuses to know how anything is made or removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from ..errors import UsageError
from ._net_places import here

__all__ = ["Record", "Records", "folders"]

_ROOTS: Final = Path("/run/underlay/net")


@dataclass(frozen=True, slots=True)
class Record:
    """A device, and what else was made for it."""

    name: str
    kind: str
    """``"tap"`` or ``"tun"``."""
    addresses: tuple[str, ...]
    mtu_bytes: int | None
    owner: int
    """The id of the user who may take the cable."""
    namespace: str | None
    made_namespace: bool
    """The namespace was made for it, and goes with it."""
    network: str | None = None
    """Where it stands: the network namespace of who made it (``device:inode:id``); None where ``namespace`` says it."""


def folders() -> list[Path]:
    """Where records lie: root's, and this user's own (XDG Base Directory Specification). The first is written to.

    Root of a user namespace, as in `underlay net shell`, is no root over /run.
    """
    own = os.environ.get("XDG_RUNTIME_DIR")
    users = [Path(own) / "underlay" / "net"] if own else []
    standing = next(folder for folder in (_ROOTS, *_ROOTS.parents) if folder.exists())
    return [_ROOTS] if os.geteuid() == 0 and os.access(standing, os.W_OK) else [*users, _ROOTS]


class Records:
    """The records in a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        found = [folder] if folder is not None else folders()
        self.folder = found[0]
        self._others = found[1:]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other `up` and `down` waiting meanwhile; flock(2), so that a crash lets go of it."""
        try:
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            fd = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            what = f"cannot write in {self.folder}: {os.strerror(error.errno or 0).lower()}"
            raise UsageError(what, remedy="become root, or set XDG_RUNTIME_DIR to a directory of yours") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def all(self) -> list[Record]:
        """Every record that can be read, by name."""
        return [record for _, record in self._files()]

    def get(self, name: str) -> Record | None:
        """The record of a device that stands in this network namespace, or in one that has a name."""
        found = [record for record in self.all() if record.name == name and self.is_near(record)]
        return min(found, key=lambda record: record.namespace is not None, default=None)

    def elsewhere(self, name: str) -> list[Record]:
        """The records of devices of this name that stand in other network namespaces, which have no name."""
        return [record for record in self.all() if record.name == name and not self.is_near(record)]

    def is_near(self, record: Record) -> bool:
        """Whether its device can be looked for from here."""
        return record.namespace is not None or record.network in (None, here())

    def may_remove(self, record: Record) -> bool:
        """Whether this user may; root's records are root's to remove."""
        files = [file for file, each in self._files() if each == record]
        return all(file.parent == self.folder and os.access(file.parent, os.W_OK) for file in files)

    def write(self, record: Record) -> None:
        """Write a record, or put it in the place of an older one; it is there whole or not at all."""
        target = self._file(record)
        draft = target.with_suffix(".new")
        draft.write_text(json.dumps(asdict(record)) + "\n")
        draft.replace(target)

    def remove(self, record: Record) -> None:
        """Forget a device."""
        self._file(record).unlink(missing_ok=True)

    def _file(self, record: Record) -> Path:
        # No interface's name has a colon: dev_valid_name() in net/core/dev.c.
        where = f":{record.network.replace(':', '-')}" if record.network is not None else ""
        return self.folder / f"{record.name}{where}.json"

    def _files(self) -> list[tuple[Path, Record]]:
        found: dict[str, tuple[Path, Record]] = {}
        for folder in (self.folder, *self._others):
            with contextlib.suppress(OSError):
                for file in folder.glob("*.json"):
                    record = _read(file)
                    if record is not None:
                        found.setdefault(file.name, (file, record))
        return [found[name] for name in sorted(found)]


def _read(file: Path) -> Record | None:
    try:
        fields = json.loads(file.read_text())
        fields["addresses"] = tuple(fields["addresses"])
        return Record(**fields)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # half written by a crash, or by a later version: not ours to act on
