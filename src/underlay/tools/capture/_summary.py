"""What is said at the end of a capture, or of a file: on stderr, and for a program.

This file knows words and keys. It refuses to know where packets came from.
"""

from __future__ import annotations

from ...errors import plural
from .._printable import escaped
from .._say import say
from ._output import Written, file_words
from ._tcp_tracker import TrackerStatistics

__all__ = ["as_keys", "tell_file", "tell_forgotten"]


def tell_forgotten(told: TrackerStatistics) -> None:
    """Tell what was not remembered of the connections, on which the notes rest."""
    if told.flows_let_go:
        say(f"{told.flows_let_go} of {told.flows} connections were forgotten on the way, for want of room")
    if told.stretches_let_go:
        say(
            f"{told.stretches_let_go} stretches between gaps were forgotten on the way, for want of room:"
            " what was sent again in them may be called out of order"
        )


def tell_file(path: str | None, written: Written | None, *, unread: str = "") -> None:
    """Tell what was written; ``unread`` names a file that was not read to its end for it."""
    if written is None:
        return
    name = escaped(file_words(path or "-"))
    missing = f"; {written.unwritten_packets} are not in it" if written.unwritten_packets else ""
    rest = f"; the rest of {escaped(file_words(unread, 'stdin'))} was not read" if unread else ""
    say(f"{name}: {written.packets} packets, {written.bytes} bytes{missing}{rest}")
    if written.failure:
        say(escaped(written.failure))
    if written.moved_times:
        say(f"{name}: {plural(written.moved_times, 'packet')} with the nearest time that a file can say, 1970 to 2554")


def as_keys(told: TrackerStatistics, written: Written | None) -> dict[str, object]:
    """Give the same as keys of the summary."""
    return {
        "connections": told.flows,
        "connections_let_go": told.flows_let_go,
        "stretches_let_go": told.stretches_let_go,
        "written_packets": written.packets if written else None,
        "unwritten_packets": written.unwritten_packets if written else None,
        "moved_times": written.moved_times if written else None,
    }
