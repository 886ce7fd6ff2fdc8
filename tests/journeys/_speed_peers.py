"""What false peers of a speed test need: they do one step after another, and the true end waits for them less long.

It knows the framing of iperf3's JSON and our own waits. It refuses to know what is said.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import TypeVar

import pytest

from underlay.tools.speed import _client, _protocol, _run, _server, _session

_T = TypeVar("_T")


def steps(*each: Callable[[_T], object]) -> Callable[[_T], None]:
    def do(peer: _T) -> None:
        for step in each:
            step(peer)

    return do


def framed(value: object) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("!I", len(text)) + text


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each wait for a peer end early."""
    monkeypatch.setattr(_session, "_PATIENCE_S", 0.3)
    monkeypatch.setattr(_session, "_GRACE_S", 0.3)
    monkeypatch.setattr(_session, "_MOST_BY_SIZE_S", 2.5)
    monkeypatch.setattr(_session, "_GOODBYE_PATIENCE_S", 0.1)
    monkeypatch.setattr(_run, "_STALL_S", 0.3)
    monkeypatch.setattr(_run, "_IDLE_S", 1.5)
    monkeypatch.setattr(_run, "_DRAIN_S", 0.2)
    monkeypatch.setattr(_server, "_COOKIE_PATIENCE_S", 0.3)
    monkeypatch.setattr(_client, "_ANSWER_PATIENCE_S", 0.5)
    monkeypatch.setattr(_client, "_RESULTS_PATIENCE_S", 0.5)
    monkeypatch.setattr(_protocol, "_SEND_PATIENCE_S", 0.5)
