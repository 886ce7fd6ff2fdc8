"""Real-time signals as messages."""

from __future__ import annotations

import pytest

from underlay import ipc
from underlay.ipc import _signal
from underlay.ipc._contract import Terms


def test_what_was_sent_before_the_sender_knew_who_receives_arrives_though_it_closed() -> None:
    terms = Terms("signal", 7)
    way_in, way_out = _signal.make(terms)
    incoming, outgoing = _signal.incoming(terms, *way_in), _signal.outgoing(terms, *way_out)
    try:
        assert outgoing.try_send(b"one", 0)
        assert outgoing.try_send(b"two", 0)
        assert incoming.try_receive() == b"one"  # says who receives, which the sender never reads
        outgoing.close()
        assert incoming.try_receive() == b"two"
    finally:
        incoming.close()


def test_who_waits_first_does_so_only_when_all_that_was_read_is_received() -> None:
    receiver, sender = ipc.pair("signal")
    with receiver, sender:
        sender.send(b"0")
        receiver.receive()
        with pytest.raises(TimeoutError):
            receiver.receive(timeout_s=0)
        for number in range(3):
            sender.send(b"%d" % number)
        received = [receiver.receive() for _ in range(3)]
        assert received == [b"0", b"1", b"2"]
        assert receiver.statistics().receive_waits == 0
