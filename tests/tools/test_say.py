"""A remark beside the output never gets into it, and never ends the command."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from underlay.tools._say import say
from underlay.trace._process import _say as trace_say
from underlay.workers._say import say as workers_say

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


def test_a_sentence_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("it rains")
    assert capsys.readouterr() == ("", "underlay: it rains\n")


def test_what_a_terminal_would_obey_is_escaped_and_lines_stay(capsys: pytest.CaptureFixture[str]) -> None:
    say("it\x1b[31m rains\nand \r\udcff snows")
    assert capsys.readouterr() == ("", "underlay: it\\x1b[31m rains\nand \\r\\xff snows\n")


@pytest.mark.parametrize("who", [say, workers_say, trace_say], ids=["tools", "workers", "trace"])
def test_a_line_is_one_write_so_that_those_of_several_processes_stay_apart(
    who: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []

    class Unbuffered(io.BytesIO):
        def write(self, data: Buffer, /) -> int:
            writes.append(bytes(data))
            return len(writes[-1])

    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(Unbuffered(), write_through=True))
    who("it rains")
    assert [each for each in writes if each] == [b"underlay: it rains\n"]


def test_a_closed_stderr_sends_nothing_to_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    say("it rains")
    assert capsys.readouterr().out == ""


def test_a_full_stderr_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        written = 0

        def write(self, text: str) -> int:
            self.written += 1
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            """Nothing is held back."""

    full = Full()
    monkeypatch.setattr(sys, "stderr", full)
    say("it rains")
    assert full.written > 0


def test_a_remark_of_connect_is_not_among_its_output_where_stderr_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        argv = [sys.executable, "-m", "underlay", "connect", "-v", f"127.0.0.1:{server.getsockname()[1]}"]
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2)
        ) as child:
            server.settimeout(30)
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"data")
            out, _ = child.communicate(timeout=30)
    assert out == b"data" and child.returncode == 0
