"""Real-time signals as messages."""

from __future__ import annotations

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
