"""A folder of names for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def names_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # A Unix socket's path is short, and pytest's own folders are long.
    base = Path(tempfile.mkdtemp(prefix="ipc-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    try:
        yield base / "underlay" / "ipc"
    finally:
        shutil.rmtree(base)
