"""A capture of a whole process: bounded, and written by that process alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from underlay.trace import read_pcapng

PROGRAM = """
import os, sys
from underlay.link import VirtualWire
from underlay.trace import capture_process
from underlay.wire import Frame

begin, undo = capture_process(sys.argv[1], limit_bytes=2000)
wire = VirtualWire("w")
wire.send(0, Frame(bytes(60)), now=0.5)
begin()
for number in range(int(sys.argv[2])):
    wire.send(0, Frame(bytes(60)), now=1.0)
if os.fork() == 0:
    wire.send(0, Frame(bytes(60)), now=2.0)
    sys.exit()
os.wait()
"""


def run(file: Path, frames: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file), str(frames)], capture_output=True, text=True, check=True
    )
    return done.stderr


def test_it_begins_when_told_and_a_forked_child_writes_nothing(tmp_path: Path) -> None:
    assert run(tmp_path / "out", 5) == ""
    (link,), frames = read_pcapng(tmp_path / "out")
    assert (link.name, link.seen, link.unwritten, len(frames)) == ("w:0", 5, 0, 5)


def test_a_full_one_is_whole_and_tells_what_is_not_in_it(tmp_path: Path) -> None:
    said = run(tmp_path / "out", 100)
    (link,), frames = read_pcapng(tmp_path / "out")
    assert link.seen == 100 and link.unwritten == 100 - len(frames) > 0
    assert said == f"underlay: the capture {tmp_path / 'out'} was full, and {link.unwritten} frames are not in it\n"
    assert (tmp_path / "out").stat().st_size <= 2000
