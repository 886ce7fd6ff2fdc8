"""What `why` advises is something that the person who asks can do."""

from __future__ import annotations

import os

import pytest

from underlay.tools.ports import Attempt, Cause, Obstacle, Overlap, Socket, State, Trial, Verdict, Want

UNSEEN_HOLDER = Socket("tcp", 4, State.LISTEN, "127.0.0.1", 80, "0.0.0.0", 0, 0, 128, uid=33, inode=7)


@pytest.mark.parametrize(
    ("uid", "advised"),
    [(1000, "sudo underlay ports 80"), (0, "outside of this container")],
)
def test_a_process_that_is_not_seen_is_looked_for_by_who_may_see_it(
    monkeypatch: pytest.MonkeyPatch, uid: int, advised: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    cause = Cause(Obstacle.LISTENER, (UNSEEN_HOLDER,), (Overlap.SAME,))
    attempt = Attempt(Want("tcp", 4, "127.0.0.1", 80), Trial(98, 98, 98), (cause,))
    sentences = Verdict("tcp", "127.0.0.1", 80, (attempt,), hidden_processes=1).sentences
    assert [line for line in sentences if advised in line] != []
    assert [line for line in sentences if "sudo" in line] == [] or uid
