"""`underlay capture` run to its end, and the packets of its files, for the tests of it.

It knows the command and the reader of files. It refuses to know networks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.tools.capture._net import run

from underlay.trace import CaptureReader, ReadPacket


def capture(*words: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "underlay", "capture", *words, expect=[expect])


def packets(path: Path) -> list[ReadPacket]:
    with open(path, "rb") as file:
        return list(CaptureReader(file))
