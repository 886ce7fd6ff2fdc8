"""What `why` advises is something that the person who asks can do."""

from __future__ import annotations

import os

import pytest

from underlay.tools.ports import Attempt, Cause, Obstacle, Overlap, Owner, Socket, State, Trial, Verdict, Want

UNSEEN_HOLDER = Socket("tcp", 4, State.LISTEN, "127.0.0.1", 80, "0.0.0.0", 0, 0, 128, uid=33, inode=7)


def told_of(*holders: Socket, hidden_processes: int = 0) -> list[str]:
    cause = Cause(Obstacle.LISTENER, holders, (Overlap.SAME,) * len(holders))
    attempt = Attempt(Want("tcp", 4, "127.0.0.1", 80), Trial(98, 98, 98), (cause,))
    return Verdict("tcp", "127.0.0.1", 80, (attempt,), hidden_processes).sentences


@pytest.mark.parametrize(
    ("names", "advised"),
    [
        ({7: "nginx", 8: "nginx"}, ["- end it: kill 7 8"]),
        ({1: "systemd"}, ["- stop the unit for which systemd (pid 1) listens: systemctl list-sockets names it"]),
        (
            {1: "httpd", 7: "httpd"},
            [
                "- end httpd, which is process 1: all of its container or machine ends with it",
                "- end it: kill 7",
            ],
        ),
    ],
)
def test_nobody_is_told_to_kill_the_first_process_as_any_other(names: dict[int, str], advised: list[str]) -> None:
    owners = tuple(Owner(pid, 3, name, name, 0) for pid, name in names.items())
    sentences = told_of(UNSEEN_HOLDER._replace(owners=owners))
    start = sentences.index("What would mend it:") + 1
    assert sentences[start : sentences.index("- choose another port")] == advised


@pytest.mark.parametrize(
    ("uid", "advised"),
    [(1000, "sudo underlay ports 80"), (0, "outside of this container")],
)
def test_a_process_that_is_not_seen_is_looked_for_by_who_may_see_it(
    monkeypatch: pytest.MonkeyPatch, uid: int, advised: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    sentences = told_of(UNSEEN_HOLDER, hidden_processes=1)
    assert [line for line in sentences if advised in line] != []
    assert [line for line in sentences if "sudo" in line] == [] or uid


def test_several_processes_listen_and_one_listens() -> None:
    owners = tuple(Owner(pid, 3, "httpd", "httpd -k start", 0) for pid in (7, 8))
    one, both = (told_of(UNSEEN_HOLDER._replace(owners=owners[:count])) for count in (1, 2))
    assert "- httpd (pid 7, user root) listens on 127.0.0.1:80: httpd -k start" in one
    assert "- httpd (pid 7 and 1 more, user root) listen on 127.0.0.1:80: httpd -k start" in both


def test_who_has_only_inherited_a_socket_is_named_beside_its_server() -> None:
    owners = (Owner(7, 3, "httpd", "", 0), Owner(8, 3, "httpd", "", 0), Owner(9, 0, "sleep", "", 0))
    (line,) = (line for line in told_of(UNSEEN_HOLDER._replace(owners=owners)) if "listen on" in line)
    assert line == "- Httpd (pid 7 and 1 more, user root) and sleep (pid 9, user root) listen on 127.0.0.1:80."


def test_sockets_of_which_the_same_is_to_be_said_are_counted_and_told_once() -> None:
    holder = UNSEEN_HOLDER._replace(owners=(Owner(7, 3, "httpd", "", 0),))
    same = [line for line in told_of(*(holder._replace(inode=inode) for inode in (7, 8, 9))) if "listens" in line]
    assert same == ["- 3 sockets: Httpd (pid 7, user root) listens on 127.0.0.1:80."]
