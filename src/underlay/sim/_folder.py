"""The folder that a failure leaves: its seed, what to say to see it again, the frames, the timeline and the faults.

This file knows the files of such a folder, and how many folders may stand beside each other. It refuses to know
how the failure was found, and pytest.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import UsageError
from ._capture import CAPTURE_BYTES, Capture
from ._timeline import LIMIT_LINES, Timeline

if TYPE_CHECKING:
    from ._world import World

KEPT_FOLDERS: Final = 50
"""How many are kept, the newest."""
# So many hosts get a file of their own beside the timeline of all.
_MOST_FILES: Final = 100
# Each folder has this file, and nothing is removed that has it not.
_MARK: Final = "seed.txt"
# ext4 and others have names of up to 255 bytes; the seed and a temporary ending must fit too.
_NAME_CHARACTERS: Final = 120


class Recording:
    """What one run leaves in a folder: ``with recording.of(world): …`` is the run."""

    def __init__(self, folder: Path, *, capture_bytes: int = CAPTURE_BYTES, limit_lines: int = LIMIT_LINES) -> None:
        self.folder = folder
        self._capture_bytes = capture_bytes
        self._limit_lines = limit_lines
        self.unwritten_frames = 0

    @contextmanager
    def of(self, world: World) -> Iterator[None]:
        """Record what happens in this block to this world, and write it to the folder, however it ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        timeline = Timeline(world, self._limit_lines)
        with Capture(self.folder / "capture.pcapng", world.internet, limit_bytes=self._capture_bytes) as capture:
            try:
                with timeline.listening():
                    yield
            finally:
                self.unwritten_frames = capture.unwritten_frames
                self._write(world, timeline)

    def _write(self, world: World, timeline: Timeline) -> None:
        head = f"# seed {world.seed}; seconds of virtual time, host, kind, what happened"
        _write_lines(self.folder / "timeline.txt", [head, *timeline.lines()])
        hosts = timeline.hosts()[:_MOST_FILES]
        if hosts:
            (self.folder / "timeline").mkdir(exist_ok=True)
        for host in hosts:
            _write_lines(self.folder / "timeline" / f"{_plain(host)}.txt", [head, *timeline.lines(host)])
        self.write_faults({"seed": world.seed, "ended_s": world.now, **world.faults.as_json()})

    def write_faults(self, told: dict[str, Any]) -> None:
        """Write ``faults.json``."""
        text = json.dumps(told, indent=1, ensure_ascii=False, default=str)
        _write_lines(self.folder / "faults.json", [text])

    def add_to_faults(self, **more: object) -> None:
        """Say more in ``faults.json``."""
        told = json.loads((self.folder / "faults.json").read_text(encoding="utf-8"))
        self.write_faults({**told, **more})

    def write_report(self, seed: int, test: str, replay: str, paragraphs: Sequence[str]) -> None:
        """Write ``seed.txt`` (the seed, the test, the command) and ``report.md``."""
        _write_lines(self.folder / _MARK, [str(seed), test, replay])
        text = "\n\n".join([f"# `{test}` fails with seed {seed}", *paragraphs])
        _write_lines(self.folder / "report.md", [text])


def writable(parent: Path) -> Path:
    """Where folders can be: the parent, or one of its own among temporary files where nobody may write in that.

    Raises ``UsageError`` where there is no place at all.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=parent):
            return parent
    except OSError as error:
        try:
            return Path(tempfile.mkdtemp(prefix="underlay-"))
        except OSError:
            raise UsageError(
                f"nothing can be written below {parent} ({error.strerror}), nor anywhere else",
                remedy="name a folder that can, by --underlay-dir or TMPDIR",
            ) from None


def place_for(parent: Path, name: str, seed: int, test: str) -> Path:
    """An empty place for the folder of a test's failure; what the same test left before is removed."""
    parent.mkdir(parents=True, exist_ok=True)
    ignore = parent / ".gitignore"
    if not ignore.exists():
        ignore.write_text("# made by underlay\n*\n", encoding="utf-8")
    for folder in _folders(parent):
        if _test_of(folder) == test:
            shutil.rmtree(folder, ignore_errors=True)
    plain = _plain(name)
    folder = parent / f"{plain}-seed-{seed}"
    number = 2
    while folder.exists():  # another test's of the same name
        folder = parent / f"{plain}-{number}-seed-{seed}"
        number += 1
    folder.mkdir()
    return folder


def remove_oldest(parent: Path, kept: int = KEPT_FOLDERS) -> None:
    """Remove all but the newest folders."""
    folders = sorted(_folders(parent), key=lambda each: (each / _MARK).stat().st_mtime, reverse=True)
    for folder in folders[kept:]:
        shutil.rmtree(folder, ignore_errors=True)


def _folders(parent: Path) -> list[Path]:
    return sorted(file.parent for file in parent.glob(f"*-seed-*/{_MARK}"))


def _test_of(folder: Path) -> str | None:
    try:
        lines = (folder / _MARK).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return lines[1] if len(lines) > 1 else None


def _plain(name: str) -> str:
    """A name that every file system takes, different for names that differ in more than their signs."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "test"
    if len(plain) > _NAME_CHARACTERS:
        plain = f"{plain[: _NAME_CHARACTERS - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return plain


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    # A test may say what is no text: half of a surrogate pair, in its name or its error.
    file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
