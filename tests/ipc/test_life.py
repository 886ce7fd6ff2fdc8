"""What an end knows of the process at the other."""

from __future__ import annotations

import os

from underlay.ipc import _life


def test_a_close_that_leaves_records_unread_is_still_a_close() -> None:
    here, there = (_life.LocalLife(each) for each in _life.pair())
    there.announce()
    here.announce()  # which the other end never reads: the kernel reports that before what it said
    there.close()
    here.look()
    assert here.over is _life.Over.CLOSED
    assert here.who == os.getpid()
    here.close()
