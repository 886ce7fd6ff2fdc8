"""`underlay ipc names` shows who has a name, and `underlay ipc remove` frees one that nobody has."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from underlay import ipc

PATIENCE_S = 20.0
Underlay = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.usefixtures("names_folder")


@pytest.fixture
def underlay(child_environment: dict[str, str]) -> Underlay:
    """The command, in this test's folder of names."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "underlay", *arguments],
            env={**child_environment, "XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"]},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    return run


def _leave_a_stale(name: str) -> int:
    program = "import os, signal, sys; from underlay import ipc; x = ipc.create('pipe', sys.argv[1]); "
    program += "os.kill(os.getpid(), signal.SIGKILL)"
    with subprocess.Popen([sys.executable, "-c", program, name]) as dying:
        dying.wait(PATIENCE_S)
    return dying.pid


def test_names_are_shown_with_who_has_them(underlay: Underlay) -> None:
    process = _leave_a_stale("burnt")
    later = f"later-{os.getpid()}"  # its queue's name is the machine's
    with contextlib.ExitStack() as closing:
        mutex = ipc.Mutex(name="ledger")
        closing.callback(mutex.close)
        closing.enter_context(ipc.create("mqueue", later, persistent=True))
        closing.callback(ipc.remove, later)
        closing.enter_context(ipc.create("pipe", "orders"))
        done = underlay("ipc", "names")
        told = json.loads(underlay("ipc", "names", "--json").stdout)
        assert told == json.loads(underlay("ipc", "--json", "names").stdout)
        assert told["channels"] == [asdict(each) for each in ipc.names()]
        assert told["locks"] == [asdict(each) for each in ipc.lock_names()]
    assert told["schema"] == "underlay.ipc.names/1"
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(maxsplit=2) for line in done.stdout.splitlines()] == [
        ["name", "what", "who has it"],
        ["burnt", "channel", f"stale: process {process} is dead"],
        [later, "channel", "persistent: nobody need be there"],
        ["orders", "channel", f"process {os.getpid()}"],
        ["ledger", "Mutex", "in use"],
    ]


def test_no_names_are_a_sentence_and_two_empty_lists(underlay: Underlay, names_folder: Path) -> None:
    assert underlay("ipc", "names").stdout == f"No channel and no lock has a name: {names_folder} is empty.\n"
    told = json.loads(underlay("ipc", "names", "--json").stdout)
    assert (told["channels"], told["locks"]) == ([], [])


def test_a_lock_that_nobody_has_is_told_from_one_in_use_and_left_alone(names_folder: Path) -> None:
    semaphore = ipc.Semaphore(2, name="tables")
    (names_folder.parent / "locks" / "left").write_bytes(bytes(4096))
    (names_folder.parent / "locks" / "link").symlink_to("left")
    assert ipc.lock_names() == [ipc.KnownLock("left", "", False), ipc.KnownLock("tables", "Semaphore", True)]
    again = ipc.Semaphore(name="tables")
    assert again.value == 2  # it is still the same one
    semaphore.close()
    again.close()
    assert [each.name for each in ipc.lock_names()] == ["left"]


def test_a_stale_name_is_removed_and_one_in_use_is_not(underlay: Underlay) -> None:
    _leave_a_stale("orders")
    done = underlay("ipc", "remove", "orders")
    assert (done.returncode, done.stdout, done.stderr) == (0, "removed the channel 'orders'\n", "")
    assert ipc.names() == []
    for name, status, word in (("orders", 1, "there is no channel"), ("a/b", 2, "cannot be the name")):
        done = underlay("ipc", "remove", name)
        assert (done.returncode, done.stdout) == (status, "")
        assert word in done.stderr
        assert done.stderr.count("\n") == 1
    with ipc.create("pipe", "orders"):
        done = underlay("ipc", "remove", "orders")
        assert done.returncode == 1
        assert f"process {os.getpid()}, which has the channel 'orders', lives" in done.stderr


def test_markdown_is_of_the_table_alone(underlay: Underlay) -> None:
    done = underlay("ipc", "--markdown", "names")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
