"""What an end says that cannot go on: one error each, who is at fault, and what mends it.

This file knows the words. It refuses to know when they are said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from ._errors import ChannelClosed, EndOfMessages, PeerGone, SentInPart
from ._life import LOST, Life, Over

if TYPE_CHECKING:
    from ._channel import Channel
    from ._deadline import Seconds


def is_closed(channel: Channel) -> ChannelClosed:
    """Every call on an end that was closed here."""
    return ChannelClosed(f"{channel} is closed", remedy="it was closed here, by this process")


def no_way(channel: Channel, wanted: str, other: str) -> UsageError:
    """A call that goes the way which this end has not."""
    return UsageError(f"this end of {channel} can only {other}, not {wanted}", remedy="make it with both_ways=True")


def send_is_late(channel: Channel, timeout_s: Seconds | None, taken: bool) -> TimeoutError:
    """A send whose time is over."""
    if taken:
        return SentInPart(
            f"{channel} had no room for the whole of a message within {timeout_s:g} s",
            remedy="its rest goes out first with the next call; do not send it again",
        )
    return TimeoutError(f"{channel} had no room for a message within {timeout_s:g} s: nobody receives as fast")


def gone(channel: Channel, life: Life) -> PeerGone:
    """A send when nobody will receive."""
    return PeerGone(f"{_other(channel, life)}, and nobody will receive", remedy="start it again, with a new channel")


def end(channel: Channel, life: Life) -> EndOfMessages | PeerGone:
    """A receive when nothing more can come."""
    other = _other(channel, life)
    if life.over in LOST:
        return PeerGone(f"{other}; what it had sent is received", remedy="start it again, with a new channel")
    return EndOfMessages(f"{other}, and all that was sent is received")


def _other(channel: Channel, life: Life) -> str:
    over = life.over or Over.CLOSED
    if over is Over.DIED and life.who:
        return f"process {life.who}, at the other end of {channel}, {over.value}"
    by = "by" if over is Over.CLOSED else "in"
    who = f" {by} process {life.who}" if life.who else ""
    return f"the other end of {channel} {over.value}{who}"
