"""What counts of a stream, from which moment on."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from underlay.tools.speed import Settings
from underlay.tools.speed import _tally as module
from underlay.tools.speed._streams import make_stream
from underlay.tools.speed._tally import Tally


def test_what_held_a_sender_while_it_was_omitted_is_no_share_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {"busy_us": 0, "window_limited_us": 0, "buffer_limited_us": 0}

    def tcp_info(_: socket.socket) -> SimpleNamespace:
        return SimpleNamespace(rtt_us=1, min_rtt_us=1, window_bytes=1, retransmissions=0, **clocks)

    monkeypatch.setattr(module, "tcp_info", tcp_info)
    here, there = socket.socketpair()
    with here, there:
        settings = Settings(length_bytes=1000, omit_s=1)
        stream = make_stream(1, here, settings, is_sender=True)
        tally = Tally(settings, [stream], at_client=True)
        clocks.update(busy_us=1_000_000, window_limited_us=900_000)
        tally.omit()
        clocks.update(busy_us=3_000_000, window_limited_us=1_100_000, buffer_limited_us=500_000)
        tally.finish(stream, 2.0)
        (found,) = tally.result("the server", None, ()).streams
    assert (found.window_limited, found.buffer_limited) == (0.1, 0.25)
