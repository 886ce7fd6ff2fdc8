"""What a process inherits has the class that it asks for, or it is told so."""

from __future__ import annotations

import contextlib
import subprocess
import sys

from underlay import ipc

PATIENCE_S = 20.0


def run(program: str, end: ipc.Channel) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys\nfrom underlay import ipc\n{program}", end.argument()],
        pass_fds=end.descriptors,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_an_end_of_slots_is_inherited_with_the_words_of_slots() -> None:
    receiver, sender = ipc.pair("slots")
    with receiver, sender:
        program = """
with ipc.inherit(sys.argv[1], ipc.SlotChannel) as channel, channel.lend(3) as slot:
    slot[:] = b"abc"
"""
        done = run(program, sender)
        assert (done.returncode, done.stderr) == (0, "")
        assert receiver.receive(timeout_s=PATIENCE_S) == b"abc"


def test_an_end_that_is_another_than_was_asked_for_is_refused() -> None:
    receiver, sender = ipc.pair("pipe")
    with receiver, sender:
        done = run("ipc.inherit(sys.argv[1], ipc.SlotChannel)", sender)
        assert done.stderr.splitlines()[-1].endswith(
            "UsageError: the pipe channel is no SlotChannel; inherit it as what it is"
        )
        done = run("ipc.inherit(sys.argv[1], ipc.Mutex)", sender)
        assert "names no Mutex" in done.stderr.splitlines()[-1]


def test_a_word_that_no_end_gave_is_refused_with_the_way_for_other_things() -> None:
    receiver, sender = ipc.pair("pipe")
    with receiver, sender, contextlib.closing(ipc.Event()) as event:
        done = run(f"ipc.inherit({event.argument()!r})", sender)
        assert "names no end of a channel" in done.stderr
        assert done.stderr.rstrip().endswith("for others name the class, too: ipc.inherit(word, ipc.Mutex)")
