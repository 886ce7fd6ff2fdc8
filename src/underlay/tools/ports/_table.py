"""Sockets as rows of text: for a terminal of some width, or for a pipe, where nothing is cut and a row is a line.

This file only computes text. It refuses to know where it goes.
"""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import TYPE_CHECKING, Final, NamedTuple

from .._printable import escaped
from ._owners import user_name
from ._socket import Owner, Socket, State, TcpInfo
from ._text import columns_of, cut, duration

if TYPE_CHECKING:
    from ._watch import Change

__all__ = ["Line", "change_line", "count_lines", "info_lines", "list_lines", "owner_cell"]

# 255.255.255.255:65535; a longer end stands alone on its line, where two of them do not fit.
_LONGEST_IPV4_END: Final = 21
# Less of an owner than this is no use: it goes to a line of its own.
_NARROWEST_OWNER: Final = 16
_INDENT: Final = "    "

_IN_CAPITALS: Final = {state: state.value.upper() for state in State}


class Line(NamedTuple):
    """A line, and how it is shown on a terminal: ``heading``, ``listen``, ``passing``, ``detail``, ``opened``,
    ``changed``, ``closed`` or nothing."""

    text: str
    style: str = ""


# By the local port and address, then by the peer's.
_BY_ENDS: Final = operator.attrgetter("local_port", "local_address", "peer_port", "peer_address")


def _in_order(sockets: Iterable[Socket], protocol: str) -> list[Socket]:
    """Those of a protocol, listeners first."""
    listen = State.LISTEN  # to look a member of an enum up takes longer than the comparison
    found = sorted([sock for sock in sockets if sock.protocol == protocol], key=_BY_ENDS)
    return [sock for sock in found if sock.state is listen] + [sock for sock in found if sock.state is not listen]


def list_lines(
    sockets: Sequence[Socket], width: int | None, *, info: bool = False, owners: bool = True, hidden: bool = True
) -> Iterator[Line]:
    """A table of the TCP and UDP sockets and one of the Unix sockets; no width is a pipe.

    ``hidden`` says that some processes could not be looked at.
    """
    inet = [*_in_order(sockets, "tcp"), *_in_order(sockets, "udp")]
    unix = _in_order(sockets, "unix")
    if inet or not unix:
        yield from _table(inet, ("proto", "local", "peer"), width, info, owners, hidden)
    if unix:
        if inet:
            yield Line("")
        yield from _table(unix, ("unix", "path", "peer"), width, info, owners, hidden)


def _table(
    sockets: Sequence[Socket], names: tuple[str, str, str], width: int | None, info: bool, owners: bool, hidden: bool
) -> Iterator[Line]:
    rows = _rows(sockets, owners, hidden)
    headings = (names[0], "state", "recv-q", "send-q", names[1], names[2])
    # The owner is the last, and may be as wide as it is.
    cells = zip((*headings, ""), *rows, strict=True)
    widths = [max(map(len, column)) for column in islice(cells, len(headings))]
    if width is not None:
        room = max((width - sum(widths[:4]) - 5) // 2, _LONGEST_IPV4_END)
        for i in (4, 5):
            if widths[i] > room:  # one long address shall not widen every row
                widths[i] = max(len(headings[i]), *(len(row[i]) for row in rows if len(row[i]) <= _LONGEST_IPV4_END), 0)
    first, state, receive, send, local, peer = widths
    indent = " " * (first + state + receive + send + 4)
    heading = f"{headings[0]:<{first}} {headings[1]:<{state}} {headings[2]:>{receive}} {headings[3]:>{send}}"
    heading += f" {headings[4]:<{local}} {headings[5]:<{peer}} "
    if owners and (width is None or len(heading) + len("owner") <= width):
        heading += "owner"
    yield Line(heading.rstrip(), "heading")
    in_columns = f"%-{first}s %-{state}s %{receive}s %{send}s %-{local}s %-{peer}s %s"
    texts = [(in_columns % row).rstrip() for row in rows]
    styles = [_STYLES.get(row[1], "") for row in rows]
    if width is None and not info:
        # What Line(…) would make, without a frame of Python for each.
        yield from map(tuple.__new__, repeat(Line), zip(texts, styles, strict=True))
        return
    for sock, row, whole, style in zip(sockets, rows, texts, styles, strict=True):
        if width is None or columns_of(whole) <= width:
            yield Line(whole, style)
        else:
            head = f"{row[0]:<{first}} {row[1]:<{state}} {row[2]:>{receive}} {row[3]:>{send}} {row[4]:<{local}}"
            for text in _folded(head, f"{row[5]:<{peer}}", row[6], indent, width):
                yield Line(text, style)
        if info:
            for text in info_lines(sock, width):
                yield Line(text, "detail")


def _rows(sockets: Iterable[Socket], owners: bool, hidden: bool) -> list[tuple[str, ...]]:
    """The cells of each row: what it is, its state, both queues, both ends, and its owner."""
    rows: list[tuple[str, ...]] = []
    for sock in sockets:
        # Unpacked at once, and most ends written here: of ten thousand rows that saves a third of the time.
        protocol, family, state, local_address, local_port, peer_address, peer_port, receive, send = sock[:9]
        if not peer_port or sock.interface:
            local, peer = ends(sock)
        elif family == 4:
            local, peer = f"{local_address}:{local_port}", f"{peer_address}:{peer_port}"
        else:
            local, peer = f"[{local_address}]:{local_port}", f"[{peer_address}]:{peer_port}"
        what = sock.kind if protocol == "unix" else protocol
        owner = owner_cell(sock, hidden) if owners else ""
        rows.append((what, _IN_CAPITALS[state], str(receive), str(send), local, peer, owner))
    return rows


_PASSING: Final = (
    State.TIME_WAIT,
    State.FIN_WAIT_1,
    State.FIN_WAIT_2,
    State.CLOSING,
    State.LAST_ACK,
    State.CLOSE_WAIT,
)
_STYLES: Final = {_IN_CAPITALS[State.LISTEN]: "listen", **{_IN_CAPITALS[state]: "passing" for state in _PASSING}}


def _folded(head: str, peer: str, owner: str, indent: str, width: int) -> Iterator[str]:
    """A row that is too long: first the owner is cut, then what does not fit stands below, and no end is ever cut."""
    for written in (peer, peer.rstrip()):  # rather out of its column than below
        room = width - columns_of(head) - columns_of(written) - 2
        if room >= min(_NARROWEST_OWNER, columns_of(owner)):
            yield f"{head} {written} {cut(owner, room)}".rstrip()
            return
    line = f"{head} {peer}".rstrip()
    if columns_of(line) <= width:
        yield line
    else:
        yield head.rstrip()
        yield f"{indent}{peer}".rstrip()
    if owner:
        yield f"{indent}{cut(owner, width - len(indent))}"


def ends(sock: Socket) -> tuple[str, str]:
    """Both ends as they are written; a Unix socket without a path by its inode."""
    if sock.protocol != "unix":
        return sock.local, sock.peer
    peer = escaped(sock.peer_address) or (f"#{sock.peer_inode}" if sock.peer_inode else "*")
    return escaped(sock.local_address) or f"#{sock.inode}", peer


def owner_cell(sock: Socket, hidden: bool = True) -> str:
    """Who holds it; or, where nobody does, why.

    >>> owner_cell(Socket("tcp", 4, State.TIME_WAIT, "::1", 80, "::1", 4000, 0, 0, timer="time-wait", timer_ms=43_000))
    'gone in 43 s'
    """
    held = sock.owners
    if len(held) == 1:
        pid, _, name, command, uid = held[0]
        return _whose(pid, name, command, uid)
    if held:
        return ", ".join(_grouped(held))
    if sock.state is State.TIME_WAIT or sock.is_orphan:
        left = f"gone in {duration(sock.timer_ms)}" if sock.timer_ms and sock.timer == "time-wait" else ""
        if sock.is_orphan:
            return f"orphan, {left}" if left else "orphan"
        return left
    if sock.protocol == "tcp" and sock.inode == 0:
        return "not accepted yet"
    user = f"user {escaped(user_name(sock.uid))}" if sock.uid is not None else ""
    return user if hidden else f"kernel, or unseen{', ' * bool(user)}{user}"


def _grouped(owners: Sequence[Owner]) -> Iterator[str]:
    """``nginx (812, 813) www-data: nginx: worker process``: those that are alike together."""
    alike: dict[tuple[str, str, int], dict[int, None]] = {}
    for owner in owners:
        alike.setdefault((owner.name, owner.command, owner.uid), {})[owner.pid] = None
    for process, pids in alike.items():
        yield _whose(", ".join(map(str, pids)), *process)


@functools.lru_cache(4096)  # one process may hold every socket
def _whose(pids: str | int, name: str, command: str, uid: int) -> str:
    text = f"{name} ({pids}) {user_name(uid)}"
    return escaped(f"{text}: {command}" if command else text)


def info_lines(sock: Socket, width: int | None) -> Iterator[str]:
    """The timer, and what TCP knows, indented below a row."""
    said = []
    if sock.timer:
        again = f", after {sock.timer_retries} in vain" if sock.timer_retries else ""
        said.append(f"{sock.timer} timer in {duration(sock.timer_ms)}{again}")
    if sock.tcp_info is not None and sock.state is not State.LISTEN:
        said += _told(sock.tcp_info)
    if not said:
        return
    text = "; ".join(said)
    if width is None:
        yield _INDENT + text
    else:
        import textwrap

        yield from textwrap.wrap(text, max(width, 20), initial_indent=_INDENT, subsequent_indent=_INDENT)


def _told(info: TcpInfo) -> Iterator[str]:
    if info.rtt_us:
        least = f", least {duration(info.min_rtt_us / 1000)}" if info.min_rtt_us else ""
        yield f"rtt {duration(info.rtt_us / 1000)} ± {duration(info.rtt_variation_us / 1000)}{least}"
    yield f"rto {duration(info.rto_us / 1000)}"
    control = f"{info.congestion_control} " if info.congestion_control else ""
    yield f"{control}{info.congestion_state}"
    threshold = f" (ssthresh {info.ssthresh_segments})" if info.ssthresh_segments else ""
    yield f"cwnd {info.cwnd_segments} × {info.send_mss_bytes:,} B{threshold}"
    yield f"in flight {info.in_flight_segments}, lost {info.lost_segments}, sent again {info.retransmitted_segments}"
    yield f"sent {info.bytes_sent:,} B, received {info.bytes_received:,} B"
    if info.delivery_rate_bytes_per_s:
        yield f"delivers {info.delivery_rate_bytes_per_s * 8 / 1e6:,.1f} Mbit/s"
    if info.busy_us:
        for name, limited_us in (
            ("peer's window", info.receive_window_limited_us),
            ("send buffer", info.send_buffer_limited_us),
        ):
            if limited_us:
                yield f"held by the {name} {limited_us / info.busy_us * 100:.0f} % of the time"


# What stands before each kind of change, and its style.
_SIGNS: Final = {
    "opened": ("+", "opened"),
    "changed": ("~", "changed"),
    "closed": ("-", "closed"),
    "passed": ("±", "changed"),
}


def change_line(change: Change, width: int | None) -> Line:
    """One change of a watch, with the local time at which it was noticed; no width is a pipe."""
    sign, style = _SIGNS[change.kind]
    sock = change.socket
    stamp = f"{time.strftime('%H:%M:%S', time.localtime(change.time_s))}.{int(change.time_s % 1 * 1000):03d}"
    state = "" if change.kind == "passed" else _IN_CAPITALS[sock.state]
    if change.before is not None:
        state = f"{_IN_CAPITALS[change.before]} to {state}"
    local, peer = ends(sock)
    owner = owner_cell(sock) if sock.owners else ""
    if (by := change.connected_by) is not None:
        owner = f"by {_whose(by.pid, by.name, by.command, by.uid)}"
    head = f"{stamp} {sign} {sock.protocol:<4}"
    text = f"{head} {local:<{_LONGEST_IPV4_END}} {peer:<{_LONGEST_IPV4_END}} {state}"
    if width is not None and len(text) > width:
        text = f"{head} {state}  {local} {peer}"  # what has changed is not what is cut
    text = f"{text}  {owner}".rstrip()
    return Line(text if width is None else cut(text, width), style)


def count_lines(sockets: Iterable[Socket]) -> Iterator[Line]:
    """How many are in which state, a column for each protocol."""
    columns = ("tcp4", "tcp6", "udp4", "udp6", "unix")
    counts: dict[State, dict[str, int]] = {}
    for sock in sockets:
        column = f"{sock.protocol}{sock.family or ''}"
        row = counts.setdefault(sock.state, dict.fromkeys(columns, 0))
        row[column] += 1
    total = {column: sum(row[column] for row in counts.values()) for column in columns}
    # Seven digits: a machine has at most some millions of sockets.
    yield Line(f"{'state':<12} " + " ".join(f"{name:>8}" for name in (*columns, "all")), "heading")
    for state in State:
        if state in counts:
            yield Line(_count_line(_IN_CAPITALS[state], counts[state], columns))
    yield Line(_count_line("all", total, columns), "listen")


def _count_line(name: str, row: dict[str, int], columns: Sequence[str]) -> str:
    numbers = [*(row[column] for column in columns), sum(row.values())]
    return f"{name:<12} " + " ".join(f"{number:>8,}" for number in numbers)
