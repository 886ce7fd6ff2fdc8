"""What `underlay net up` has made, written down before it is made, so that it can be removed after a crash too.

This file knows where the records lie and how they are kept: one JSON file for each device, replaced whole. It refuses
to know how anything is made or removed.
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


def folders() -> list[Path]:
    """Where records lie: root's, and this user's own (XDG Base Directory Specification). The first is written to."""
    own = os.environ.get("XDG_RUNTIME_DIR")
    users = [Path(own) / "underlay" / "net"] if own else []
    return [_ROOTS] if os.geteuid() == 0 else [*users, _ROOTS]


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
        found: dict[str, Record] = {}
        for folder in (self.folder, *self._others):
            with contextlib.suppress(OSError):
                for file in folder.glob("*.json"):
                    record = _read(file)
                    if record is not None:
                        found.setdefault(record.name, record)
        return [found[name] for name in sorted(found)]

    def get(self, name: str) -> Record | None:
        """The record of a device."""
        return next((record for record in self.all() if record.name == name), None)

    def write(self, record: Record) -> None:
        """Write a record, or put it in the place of an older one; it is there whole or not at all."""
        target = self.folder / f"{record.name}.json"
        draft = target.with_suffix(".new")
        draft.write_text(json.dumps(asdict(record)) + "\n")
        draft.replace(target)

    def remove(self, name: str) -> None:
        """Forget a device."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)


def _read(file: Path) -> Record | None:
    try:
        fields = json.loads(file.read_text())
        fields["addresses"] = tuple(fields["addresses"])
        return Record(**fields)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # half written by a crash, or by a later version: not ours to act on
