"""A remark beside the output never gets into it, and never ends the command."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from underlay.tools._say import say


def test_a_sentence_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("it rains")
    assert capsys.readouterr() == ("", "underlay: it rains\n")


def test_what_a_terminal_would_obey_is_escaped_and_lines_stay(capsys: pytest.CaptureFixture[str]) -> None:
    say("it\x1b[31m rains\nand \r\udcff snows")
    assert capsys.readouterr() == ("", "underlay: it\\x1b[31m rains\nand \\r\\xff snows\n")


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
