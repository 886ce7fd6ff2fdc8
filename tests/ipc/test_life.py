"""What an end knows of the process at the other."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys

import pytest

from underlay import ipc
from underlay.ipc import _life

PATIENCE_S = 20.0


def test_a_close_that_leaves_records_unread_is_still_a_close() -> None:
    here, there = (_life.LocalLife(each) for each in _life.pair())
    there.announce()
    here.announce()  # which the other end never reads: the kernel reports that before what it said
    there.close()
    here.look()
    assert here.over is _life.Over.CLOSED
    assert here.who == os.getpid()
    here.close()


PROGRAM = """
import sys
from underlay import ipc

sender = ipc.inherit(sys.argv[1])
sender.send(b"one")
"""


@pytest.mark.parametrize(
    ("end", "over"),
    [
        ("raise ValueError('the second cannot be made')", ipc.PeerGone),
        ("raise SystemExit(0)", ipc.EndOfMessages),
        # Python tells nobody the status of an exit: see "When the other side dies" in docs/ipc.md.
        ("raise SystemExit(3)", ipc.EndOfMessages),
        ("with sender:\n    raise SystemExit(3)", ipc.PeerGone),
        ("sys.ps1 = '> '; sys.last_value = ValueError('long ago, at a prompt')", ipc.EndOfMessages),
    ],
)
def test_what_ended_a_program_is_told_where_python_tells_it(end: str, over: type[Exception]) -> None:
    receiver, sender = ipc.pair("unix")
    with receiver, sender:
        subprocess.run(
            [sys.executable, "-c", PROGRAM + end, sender.argument()],
            pass_fds=sender.descriptors,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE_S,
        )
        assert receiver.receive(timeout_s=PATIENCE_S) == b"one"
        with pytest.raises(over):
            receiver.receive(timeout_s=PATIENCE_S)


def test_a_channel_of_asyncio_that_an_exception_leaves_is_not_closed_well() -> None:
    async def work(sender: ipc.Channel) -> None:
        with sender:
            await sender.aio.send(b"one")
            raise ValueError("the second cannot be made")

    async def take(receiver: ipc.Channel) -> list[bytes]:
        return [message async for message in receiver.aio]

    receiver, sender = ipc.pair("pipe")
    with receiver:
        with pytest.raises(ValueError, match="the second"):
            asyncio.run(work(sender))
        with pytest.raises(ipc.PeerGone, match=f"was left by an exception in process {os.getpid()}"):
            asyncio.run(take(receiver))


def _send_one(sender: ipc.Channel) -> None:
    sender.send(b"one")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_was_forked_while_an_exception_was_handled_has_not_failed_by_it() -> None:
    receiver, sender = ipc.pair("pipe")
    with receiver, sender:
        try:
            raise KeyError("the parent's own")
        except KeyError:
            child = multiprocessing.get_context("fork").Process(target=_send_one, args=(sender,))
            child.start()
        child.join(PATIENCE_S)
        assert child.exitcode == 0
        assert receiver.receive(timeout_s=PATIENCE_S) == b"one"
        with pytest.raises(ipc.EndOfMessages):
            receiver.receive(timeout_s=PATIENCE_S)
