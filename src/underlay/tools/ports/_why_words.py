"""The sentences of `underlay ports why`: what is in the way, and what would mend it.

This file knows words. It refuses to ask the kernel for anything but the names of users and two of its settings.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from .._port_ranges import first_unprivileged_port, lent_ports
from .._printable import escaped
from ._conflict import Overlap
from ._owners import user_name
from ._socket import WILDCARDS, Owner, Socket, endpoint
from ._text import cut
from ._why import Attempt, Cause, Obstacle, Verdict

__all__ = ["sentences", "who"]

# As many sockets of one kind are told one by one; the rest is counted.
_MOST_TOLD: Final = 3
_COMMAND_LETTERS: Final = 60


def sentences(verdict: Verdict) -> list[str]:
    """The answer first, then each cause, then what would mend it, then what was tried; a line each.

    Lines of the causes and the remedies begin with ``- ``.
    """
    what = f"{verdict.protocol.upper()} port {verdict.port}"
    where = f" on {verdict.host}" if verdict.host else " on every address"
    refused = [attempt for attempt in verdict.attempts if not attempt.is_free]
    if not refused:
        return [f"Yes: {what} can be bound{where} now.", *_notes(verdict)]
    free = [attempt for attempt in verdict.attempts if attempt.is_free]
    if free:
        lines = [f"No: {what} can be bound on {_places(free)} now, but not on {_places(refused)}."]
    else:
        lines = [f"No: {what} cannot be bound{where} now."]
    # One that is in the way of IPv4 and IPv6, and not alone in one of them, is found for each.
    lines += ["", "Why:", *_unique(f"- {line}" for line in _reasons(refused))]
    lines += ["", "What would mend it:"]
    lines += _unique(f"- {line}" for attempt in refused for line in _remedies(attempt, verdict))
    lines += ["", "What the kernel said to a bind:"]
    lines += [f"- {_place(attempt)}: {_tried(attempt)}" for attempt in verdict.attempts]
    return lines


def _unique(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(lines))


def _place(attempt: Attempt) -> str:
    want = attempt.want
    suffix = " (IPv6 and IPv4)" if want.address == "::" and not want.v6_only else ""
    return endpoint(want.address, want.port, want.scope) + suffix


def _places(attempts: Iterable[Attempt]) -> str:
    return " and ".join(_place(attempt) for attempt in attempts)


def _tried(attempt: Attempt) -> str:
    trial = attempt.trial
    plain, *others = (_said(number) for number in (trial.plain, trial.reuse_address, trial.reuse_port))
    if others == [plain, plain]:
        return f"{plain}, with SO_REUSEADDR and SO_REUSEPORT too"
    return f"{plain}; with SO_REUSEADDR {others[0]}; with SO_REUSEPORT {others[1]}"


def _said(number: int) -> str:
    return os.strerror(number).lower() if number else "it works"


def _notes(verdict: Verdict) -> list[str]:
    first = first_unprivileged_port()
    if verdict.port < first:
        return [f"Only because this program is privileged: ports below {first} need root or CAP_NET_BIND_SERVICE."]
    return []


# --- causes --------------------------------------------------------------------------------------------------------


def _reasons(attempts: Iterable[Attempt]) -> Iterator[str]:
    """What is in the way, once: a socket may be in the way of IPv4 and of IPv6."""
    told: set[object] = set()
    for attempt in attempts:
        for cause in attempt.causes:
            key = (cause.obstacle, cause.sockets) if cause.sockets else (cause.obstacle, attempt.want)
            if key not in told:
                told.add(key)
                yield from _reason(cause, attempt)
                if Overlap.INHERITED in cause.overlaps:
                    yield "That was accepted by an IPv6 listener that heard IPv4 too, and so holds the port for both."


def _reason(cause: Cause, attempt: Attempt) -> list[str]:
    want = attempt.want
    match cause.obstacle:
        case Obstacle.LISTENER | Obstacle.BOUND | Obstacle.DATAGRAMS:
            found = Counter(
                _holder_line(cause.obstacle, sock, how)
                for sock, how in zip(cause.sockets[:_MOST_TOLD], cause.overlaps, strict=False)
            )
            # A program may have several at one address, by SO_REUSEPORT.
            told = [line if count == 1 else f"{count} sockets: {line}" for line, count in found.items()]
            more = len(cause.sockets) - _MOST_TOLD
            return [*told, f"and {more} more like these"] if more > 0 else told
        case Obstacle.CONNECTION:
            first = cause.sockets[0]
            count = len(cause.sockets)
            example = f"{first.local} to {first.peer}, {first.state.value.upper()}, {who(first)}"
            if count == 1:
                return [f"A connection is open on this port: {example}."]
            return [f"{count} connections are open on this port; one is {example}."]
        case Obstacle.TIME_WAIT:
            return [
                f"{_count(cause, 'connection')} of an earlier socket on this port {_is(cause)} in TIME-WAIT: over, but"
                f" the port is kept for late segments, for {_longest(cause)} more."
            ]
        case Obstacle.ORPHAN:
            first = cause.sockets[0]
            return [
                f"{_count(cause, 'connection')} {_is(cause)} an orphan: the program closed it or ended, and the peer"
                f" ({first.peer}) has not let it end ({first.state.value.upper()}"
                f"{f', {_seconds(first.timer_ms)} left' if first.timer == 'time-wait' else ''})."
            ]
        case Obstacle.PERMISSION:
            return [f"Ports below {first_unprivileged_port()} need root or CAP_NET_BIND_SERVICE, and you have neither."]
        case Obstacle.ADDRESS:
            return [f"{want.address} is not an address of this machine, at least not now."]
        case Obstacle.FAMILY:
            return [f"This machine does not speak IPv{want.family}."]
        case Obstacle.UNSEEN:
            return ["The address is in use, but no socket that this machine tells of has it; it may just have gone."]
        case Obstacle.REFUSED:
            return [f"The kernel refuses: {os.strerror(attempt.trial.plain).lower()}."]


_DOES: Final = {
    Obstacle.LISTENER: "listens on",
    Obstacle.BOUND: "has bound, without listening,",
    Obstacle.DATAGRAMS: "receives datagrams at",
}
# Of several processes, as of a server and its workers.
_DO: Final = {
    Obstacle.LISTENER: "listen on",
    Obstacle.BOUND: "have bound, without listening,",
    Obstacle.DATAGRAMS: "receive datagrams at",
}


def _holder_line(obstacle: Obstacle, sock: Socket, how: Overlap) -> str:
    does = _DO if len({owner.pid for owner in sock.owners}) > 1 else _DOES
    line = f"{who(sock)} {does[obstacle]} {sock.local}{_how(sock, how)}"
    if sock.peer != "*":
        line += f", connected to {sock.peer}"
    command = next((owner.command for owner in sock.owners if owner.command), "")
    return f"{line[0].upper()}{line[1:]}." if not command else f"{line}: {cut(escaped(command), _COMMAND_LETTERS)}"


def _how(sock: Socket, how: Overlap) -> str:
    match how:
        case Overlap.SAME:
            return ""
        case Overlap.THEIRS_IS_EVERY:
            return ", which is every address of that family" if sock.family == 4 or sock.v6_only else _DUAL
        case Overlap.OURS_IS_EVERY:
            return ", which is among every address" if sock.local_address not in WILDCARDS else _DUAL
        case Overlap.INHERITED:
            return ""  # told by itself
        case Overlap.DUAL_STACK:
            return _DUAL if sock.local_address == "::" else ", and an IPv6 socket for every address hears IPv4 too"


_DUAL: Final = ", which is every IPv6 and every IPv4 address (IPV6_V6ONLY is off)"


def who(sock: Socket) -> str:
    """Who holds it, as far as it is seen: name, pid and user.

    >>> from ._socket import Owner, State
    >>> sock = Socket("tcp", 4, State.LISTEN, "0.0.0.0", 80, "0.0.0.0", 0, 0, 0, inode=1)
    >>> who(sock._replace(owners=(Owner(7, 3, "httpd", "", 0),)))
    'httpd (pid 7, user root)'
    """
    if not sock.owners:
        if sock.inode == 0:
            return "no process any more" if sock.is_orphan else "no process yet: it waits to be accepted"
        return f"a process of user {user_name(sock.uid)} that you do not see" if sock.uid is not None else "nobody seen"
    by_pid = {owner.pid: owner for owner in sorted(sock.owners, key=lambda owner: owner.pid)}
    # Those that are alike together: whoever ends a server is not to end what has only inherited its socket.
    alike: dict[tuple[str, int], list[int]] = {}
    for pid, owner in by_pid.items():
        alike.setdefault((owner.name, owner.uid), []).append(pid)
    told = []
    for (name, uid), pids in list(alike.items())[:_MOST_TOLD]:
        more = f" and {len(pids) - 1} more" if len(pids) > 1 else ""
        told.append(f"{escaped(name)} (pid {pids[0]}{more}, user {user_name(uid)})")
    if len(alike) > _MOST_TOLD:
        told.append("others")
    return " and ".join([", ".join(told[:-1]), told[-1]]) if len(told) > 1 else told[0]


def _count(cause: Cause, noun: str) -> str:
    count = len(cause.sockets)
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def _is(cause: Cause) -> str:
    return "is" if len(cause.sockets) == 1 else "are"


def _longest(cause: Cause) -> str:
    return _seconds(max(sock.timer_ms for sock in cause.sockets))


def _seconds(ms: int) -> str:
    return f"{-(-ms // 1000)} s"


# --- remedies --------------------------------------------------------------------------------------------------------


def _remedies(attempt: Attempt, verdict: Verdict) -> list[str]:
    found = []
    obstacles = {cause.obstacle for cause in attempt.causes}
    trial = attempt.trial
    alive = obstacles & {Obstacle.LISTENER, Obstacle.BOUND, Obstacle.DATAGRAMS}
    passing = obstacles & {Obstacle.TIME_WAIT, Obstacle.ORPHAN, Obstacle.CONNECTION}
    if alive:
        found += _ends(attempt, verdict)
        if trial.reuse_port == 0:
            found.append("share the port: set SO_REUSEPORT before the bind, as the other has")
        if trial.reuse_address == 0 and verdict.protocol == "udp":
            found.append("set SO_REUSEADDR, as the other has; then only one of both gets each datagram")
        elif trial.reuse_address == 0:
            found.append("set SO_REUSEADDR before the bind, as the other has; then who listens first has the port")
    elif passing:
        if trial.reuse_address == 0:
            found.append("set SO_REUSEADDR before the bind, as asyncio's servers and `underlay listen` do")
        elif Obstacle.PERMISSION not in obstacles:
            found.append("SO_REUSEADDR does not help here: the earlier socket had not set it")
        found += _waits(attempt, verdict)
    for cause in attempt.causes:
        found += _of_cause(cause, attempt, verdict)
    return found


def _ends(attempt: Attempt, verdict: Verdict) -> list[str]:
    owners = [owner for cause in attempt.causes for sock in cause.sockets[:_MOST_TOLD] for owner in sock.owners]
    found: list[str] = []
    if owners:
        found += _kills(owners, "end it")
    elif verdict.hidden_processes and os.geteuid() != 0:
        found.append(f"let root see which process it is: sudo underlay ports {verdict.port}")
    elif verdict.hidden_processes:
        found.append("look for its process outside of this container: even root does not see it here")
    if any(
        how is Overlap.DUAL_STACK and sock.local_address == "::"
        for cause in attempt.causes
        for sock, how in zip(cause.sockets, cause.overlaps, strict=True)
    ):
        found.append("start the other with IPV6_V6ONLY, or bound to one address, so that IPv4 is left to others")
    addresses = {sock.local_address for cause in attempt.causes for sock in cause.sockets}
    may_be_narrower = attempt.want.address in WILDCARDS and addresses.isdisjoint(WILDCARDS)
    found.append("choose another port" + (", or one address instead of every" if may_be_narrower else ""))
    return found


def _kills(owners: Iterable[Owner], what: str) -> Iterator[str]:
    """How to end these processes; the first of all is not just killed."""
    names = {owner.pid: owner.name for owner in owners}
    if (first := names.pop(1, None)) == "systemd":
        yield "stop the unit for which systemd (pid 1) listens: systemctl list-sockets names it"
    elif first is not None:
        yield f"end {escaped(first)}, which is process 1: all of its container or machine ends with it"
    if names:
        yield f"{what}: kill {' '.join(map(str, sorted(names)))}"


def _waits(attempt: Attempt, verdict: Verdict) -> list[str]:
    found = []
    for cause in attempt.causes:
        if cause.obstacle is Obstacle.TIME_WAIT:
            found.append(f"wait {_longest(cause)}")
        if cause.obstacle in (Obstacle.TIME_WAIT, Obstacle.ORPHAN):
            which = "it" if len(cause.sockets) == 1 else "each"
            sock = cause.sockets[0]
            ends = (endpoint(sock.local_address, sock.local_port), endpoint(sock.peer_address, sock.peer_port))
            found.append(f"end {which} as root: underlay ports close local:{ends[0]} peer:{ends[1]}")
        if cause.obstacle is Obstacle.CONNECTION:
            holders = {owner.pid: owner for sock in cause.sockets for owner in sock.owners}
            found += _kills([holders[pid] for pid in sorted(holders)[:_MOST_TOLD]], "end who holds them")
            first, last = lent_ports()
            if first <= verdict.port <= last:
                found.append(
                    f"choose a port below {first}: from there to {last} the kernel lends them to outgoing connections"
                    " (net.ipv4.ip_local_port_range)"
                )
    return found


def _of_cause(cause: Cause, attempt: Attempt, verdict: Verdict) -> list[str]:
    match cause.obstacle:
        case Obstacle.PERMISSION:
            first = first_unprivileged_port()
            return [
                f"choose a port from {first} on",
                "start it as root, or give its program the right: setcap cap_net_bind_service=+ep FILE",
                f"let everybody: sysctl net.ipv4.ip_unprivileged_port_start={verdict.port}",
            ]
        case Obstacle.ADDRESS:
            return ["bind an address that `ip address` lists, or every address (0.0.0.0 or ::)"]
        case Obstacle.FAMILY:
            return [f"bind an IPv{10 - attempt.want.family} address"]
        case Obstacle.UNSEEN:
            return ["try again"]
        case _:
            return []
