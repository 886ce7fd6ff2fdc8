"""The measurement itself: probers, schedules and the ledger, and one poll(2) that they all wait in.

This file knows the order of things. It refuses to know how a probe is sent and how a report looks.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Literal, Protocol, Self

from ...errors import UnderlayError, UsageError, plural
from ._error_queue import Target
from ._hops import circle, hops
from ._ledger import Answer, AnswerKind, Ledger, Probe, State
from ._model import Ending, Report
from ._names import Names, system_name
from ._probe_icmp import IcmpProber
from ._probe_tcp import TcpProber
from ._probe_udp import UdpProber
from ._schedule import Schedule

__all__ = ["DEFAULT_PORTS", "ProbeKind", "Trace"]

ProbeKind = Literal["udp", "icmp", "tcp"]

# traceroute's first port (IANA "traceroute"), and the port that a firewall is likeliest to let through.
DEFAULT_PORTS: Final = {"udp": 33434, "tcp": 80}

# Probers of more flows find no further ways (RFC 2992: few links), and each holds a socket.
_MOST_FLOWS: Final = 64
_MOST_HOPS: Final = 255
# Faster rounds are a load test, and routers' limits would be all that is seen.
_LEAST_INTERVAL_S: Final = 0.01
# Nor does this program keep up with more, of 30 hops and many flows.
_LEAST_INTERVAL_A_FLOW_S: Final = 0.0025
_MOST_S: Final = 3600.0
# Names that are not known by then, at the end, are left out.
_NAMES_S: Final = 2.0
_NS: Final = 1_000_000_000

_BEST_FIRST: Final = (Ending.REACHED, Ending.UNREACHABLE, Ending.SILENT, Ending.TOO_LONG, Ending.UNKNOWN)


class _Prober(Protocol):
    is_single_file: bool
    most_timeout_ns: int | None
    strays: int
    source: str
    flow_id: int

    def fileno(self) -> int: ...
    def send(self, probe: Probe) -> None: ...
    def receive(self) -> Iterator[tuple[Probe | None, Answer]]: ...
    def give_up(self, probe: Probe) -> None: ...
    def close(self) -> None: ...


class Trace:
    """One measurement of the path to a host.

    Its sockets are opened when it is made; `run` sends, and gives a report every so often; `report` gives one at any
    time. Each belongs to the thread that uses it. The words are those of `trace`.

    >>> with Trace("127.0.0.1", rounds=1, names=False) as measurement:
    ...     reports = [report.reached for report in measurement.run()]
    >>> reports[-1]
    True
    """

    def __init__(
        self,
        host: str,
        *,
        protocol: ProbeKind = "udp",
        port: int | None = None,
        family: Literal[4, 6] | None = None,
        flows: int = 1,
        rounds: int | None = 10,
        interval_s: float = 1.0,
        timeout_s: float = 2.0,
        max_hops: int = 30,
        silent_hops: int = 8,
        source: str | None = None,
        source_port: int = 0,
        names: bool = True,
        resolve: Callable[[str], str | None] = system_name,
    ) -> None:
        _check("number of flows", flows, 1, _MOST_FLOWS)
        _check("number of hops", max_hops, 1, _MOST_HOPS)
        _check("number of silent hops", silent_hops, 1, _MOST_HOPS)
        _check("interval in seconds", interval_s, max(_LEAST_INTERVAL_S, flows * _LEAST_INTERVAL_A_FLOW_S), _MOST_S)
        _check("time-out in seconds", timeout_s, _LEAST_INTERVAL_S, _MOST_S)
        if rounds is not None:
            _check("number of rounds", rounds, 1, 10**9)
        if protocol not in ("udp", "icmp", "tcp"):
            raise UsageError(f"there are no probes by {protocol!r}", remedy="choose one of udp, icmp, tcp")
        if protocol == "icmp" and port is not None:
            raise UsageError("ICMP has no ports", remedy="leave the port out, or choose udp or tcp")
        _check("port", DEFAULT_PORTS["udp"] if port is None else port, 1, 65535)
        _check("source port", source_port, 0, 65536 - flows)
        self.host, self.protocol = host, protocol
        self.port = None if protocol == "icmp" else port or DEFAULT_PORTS[protocol]
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._target = _resolve(host, self.port or 0, family, source)
        self._names: Callable[[str], str | None] = Names(resolve) if names else lambda address: None
        self._ledger = Ledger(flows)
        self._send_errors: Counter[str] = Counter()
        self._unassigned = 0
        self._dead_ends: dict[int, Answer] = {}
        self._sent = 0
        self._probers: list[_Prober] = []
        makers: dict[str, Callable[[Target, int], _Prober]] = {"udp": UdpProber, "icmp": IcmpProber, "tcp": TcpProber}
        try:
            for flow in range(flows):
                self._probers.append(makers[protocol](self._target, source_port and source_port + flow))
        except OSError as error:
            self.close()
            raise _cannot_start(error, self._target, source_port and source_port + len(self._probers)) from error
        except BaseException:
            self.close()
            raise
        now = time.monotonic_ns()
        shift_ns = int(interval_s * _NS / flows)
        self._schedules = [
            Schedule(
                rounds=rounds,
                interval_ns=int(interval_s * _NS),
                start_ns=now,
                max_hops=max_hops,
                silent_hops=silent_hops,
                shift_ns=flow * shift_ns,
            )
            for flow in range(flows)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets. A second time does nothing."""
        for prober in self._probers:
            prober.close()

    # --- sending and listening -------------------------------------------------------------------------

    def run(self, every_s: float | None = None) -> Iterator[Report]:
        """Send all rounds, giving a report every ``every_s`` seconds, and the last one when all is settled.

        Whoever asks for reports must go on asking: the probes are sent meanwhile.
        """
        due_ns = None if every_s is None else time.monotonic_ns() + int(every_s * _NS)
        while not self._is_over():
            now = time.monotonic_ns()
            if due_ns is not None and every_s is not None and now >= due_ns:
                yield self.report()
                now = time.monotonic_ns()
                due_ns = now + int(every_s * _NS)
            wake_ns = self._send(now)
            self._listen(
                min((t for t in (wake_ns, self._ledger.next_deadline_ns(), due_ns) if t is not None), default=0)
            )
            self._give_up(time.monotonic_ns())
        if isinstance(self._names, Names):
            self.report()  # asks for names that nobody asked for yet
            self._names.wait(_NAMES_S)
        yield self.report()

    def _is_over(self) -> bool:
        return all(schedule.is_done for schedule in self._schedules) and self._ledger.next_deadline_ns() is None

    def _send(self, now_ns: int) -> int | None:
        """Send what is due; give when the next is."""
        wakes: list[int] = []
        for flow, (prober, schedule) in enumerate(zip(self._probers, self._schedules, strict=True)):
            is_waiting = self._ledger.is_busy(flow)
            if prober.is_single_file and is_waiting:
                continue  # its answer, or the lack of one, wakes us
            ttl = schedule.take(now_ns, is_waiting=is_waiting)
            if ttl is not None:
                self._send_probe(flow, ttl)
                if prober.is_single_file:
                    continue
            if (wake := schedule.wake_ns()) is not None:
                wakes.append(wake)
        return min(wakes, default=None)

    def _send_probe(self, flow: int, ttl: int) -> None:
        prober = self._probers[flow]
        timeout_ns = min(int(self._timeout_s * _NS), prober.most_timeout_ns or _NS * 10**6)
        now = time.monotonic_ns()
        probe = self._ledger.new_probe(flow, ttl, now, now + timeout_ns)
        try:
            prober.send(probe)
            self._sent += 1
        except OSError as error:
            self._ledger.not_sent(probe)
            if not self._sent and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EPERM):
                raise _cannot_start(error, self._target, 0) from error
            self._send_errors[error.strerror or str(error)] += 1

    def _listen(self, until_ns: int) -> None:
        """Wait for answers until then at the latest, and take those that are there."""
        poll = select.poll()
        watched = {}
        for flow, prober in enumerate(self._probers):
            if (descriptor := prober.fileno()) >= 0:
                watched[descriptor] = flow
                poll.register(descriptor, select.POLLIN | (select.POLLOUT if prober.most_timeout_ns else 0))
        # poll(2) counts in milliseconds: rounded up, so that it isn't called again for a part of one.
        patience_ms = max(0, -((time.monotonic_ns() - until_ns) // 1_000_000))
        for descriptor, _ in poll.poll(patience_ms):
            flow = watched[descriptor]
            for probe, answer in self._probers[flow].receive():
                self._take(flow, probe, answer)

    def _take(self, flow: int, probe: Probe | None, answer: Answer) -> None:
        if probe is None:
            # It quotes too little. With one probe on its way there is no doubt, so that from now on there is but one;
            # only an answer that comes after its own probe's time-out may then be taken for the next one's.
            self._probers[flow].is_single_file = True
            on_their_way = self._ledger.on_their_way(flow)
            if len(on_their_way) != 1:
                self._unassigned += 1
                return
            probe = on_their_way[0]
        was_lost = probe.state is State.LOST
        is_in_time = self._ledger.answer(probe, answer)
        if answer.kind is AnswerKind.UNREACHABLE and (is_in_time or was_lost):
            schedule, end = self._schedules[flow], self._ledger.end_of(probe, answer, self._probers[flow].source)
            schedule.answered(end, answer.kind, time.monotonic_ns(), is_elsewhere=end != probe.ttl)
            if schedule.ending is Ending.UNREACHABLE and schedule.end_ttl == end:
                self._dead_ends[flow] = answer
        elif is_in_time:
            self._schedules[flow].answered(probe.ttl, answer.kind, time.monotonic_ns())

    def _give_up(self, now_ns: int) -> None:
        for probe in self._ledger.expire(now_ns):
            self._probers[probe.flow].give_up(probe)

    # --- what is known ---------------------------------------------------------------------------------

    def report(self) -> Report:
        """Give what is known by now."""
        best = min(range(len(self._schedules)), key=lambda flow: _BEST_FIRST.index(self._schedules[flow].ending))
        schedule = self._schedules[best]
        found = hops(self._ledger, lambda flow: self._schedules[flow].last_ttl, self._names, self._dead_end)
        return Report(
            self.host,
            self._target.address,
            self.protocol,
            self.port,
            self._probers[0].source,
            tuple(prober.flow_id for prober in self._probers),
            min(each.rounds_sent for each in self._schedules),
            self._interval_s,
            self._timeout_s,
            schedule.ending,
            self._ending_says(schedule, best),
            found,
            sum(prober.strays for prober in self._probers),
            self._unassigned,
            self._names.skipped if isinstance(self._names, Names) else 0,
            dict(self._send_errors),
        )

    def _dead_end(self, flow: int) -> Answer | None:
        """What was said of the end of a flow's way that leads nowhere."""
        return self._dead_ends[flow] if self._schedules[flow].ending is Ending.UNREACHABLE else None

    def _ending_says(self, schedule: Schedule, flow: int) -> str:
        address, end = self._target.address, schedule.end_ttl
        last = schedule.farthest_answer
        match schedule.ending:
            case Ending.REACHED:
                return f"{address} is {end} {'hop' if end == 1 else 'hops'} away"
            case Ending.UNREACHABLE:
                said = self._dead_ends[flow]
                is_here = said.address == self._probers[flow].source
                who = "this machine itself" if is_here else f"at hop {end}, {said.address}"
                return f"{address} is not reached: {who} says: {said.note}"
            case Ending.TOO_LONG:
                addresses = [self._ledger.cell(flow, ttl).address for ttl in range(1, last + 1)]
                if routers := circle(addresses):
                    return f"{address} is not reached: packets go round between {' and '.join(routers)}"
                return f"{address} is not reached within {last} hops; --max-hops allows more"
            case Ending.SILENT:
                silent = schedule.last_ttl - last
                after = f"behind hop {last}, {self._ledger.cell(flow, last).address}," if last else "anywhere"
                return f"{address} is not reached: nothing answers {after} within {plural(silent, 'hop')}"
            case _:
                return f"whether {address} is reached is not known yet"


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UsageError(f"the {name} is {value:.15g}", remedy=f"give {least:.10g} to {most:.10g}")


def _resolve(host: str, port: int, version: Literal[4, 6] | None, source: str | None) -> Target:
    """Find the address to probe, in the order that getaddrinfo gives (RFC 6724)."""
    families = {4: socket.AF_INET, 6: socket.AF_INET6, None: socket.AF_UNSPEC}
    if source is not None:
        try:
            source_version = ipaddress.ip_address(source).version
        except ValueError:
            raise UsageError(f"{source!r} is no address", remedy="give an IPv4 or IPv6 address to send from") from None
        if version not in (None, source_version):
            raise UsageError(f"{source} is no IPv{version} address", remedy=f"give one, or leave -{version} out")
        version = 4 if source_version == 4 else 6
    try:
        found = socket.getaddrinfo(host, port, families[version], socket.SOCK_DGRAM)
    except (socket.gaierror, UnicodeError) as error:
        words = error.strerror if isinstance(error, socket.gaierror) else "that is no host name"
        of_version = "" if version is None else f"IPv{version} "
        raise UsageError(
            f"{host!r} has no {of_version}address here: {words}",
            remedy="is it spelt right, and is there a name server?",
        ) from None
    family, sockaddr = _first_with_a_route([(each[0], each[4]) for each in found])
    address = str(sockaddr[0])
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        # The socket would speak IPv6 and the wire IPv4: neither hop limits nor answers get from the one to the other.
        raise UsageError(f"{address} is an IPv4 address as IPv6 writes it", remedy=f"give {parsed.ipv4_mapped}")
    if parsed.is_multicast or address == "255.255.255.255":
        raise UsageError(f"{address} is many hosts", remedy="a path leads to one; give its address")
    if parsed.is_unspecified:
        raise UsageError(f"{address} is no host", remedy="127.0.0.1 and ::1 are this machine")
    if parsed.version == 6 and parsed.is_link_local and not sockaddr[-1]:
        raise UsageError(f"{address} may be on any link", remedy=f"say on which, as in {address}%eth0")
    # Answers name no interface: fe80::1%eth0 is fe80::1 there.
    return Target(family, str(parsed), sockaddr, source)  # type: ignore[arg-type]


def _first_with_a_route(
    found: list[tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]],
) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]:
    """Give the first address that there is a route to, or else the first: a host may have one that we cannot use."""
    for family, sockaddr in found:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as scout:
                scout.connect(sockaddr)  # asks the routing table, and sends nothing
                return family, sockaddr
        except OSError:
            continue
    return found[0]


def _cannot_start(error: OSError, target: Target, source_port: int) -> UnderlayError:
    """Put into words why the first packet cannot be sent."""
    words = error.strerror or os.strerror(error.errno or 0)
    match error.errno:
        case errno.ENETUNREACH | errno.EHOSTUNREACH:
            command = "ip -6 route" if ":" in target.address else "ip route"
            return UnderlayError(f"this machine has no route to {target.address}", remedy=f"see `{command}`")
        case errno.EADDRNOTAVAIL:
            if target.source:
                return UsageError(f"{target.source} is no address of this machine", remedy="see `ip address`")
            return UnderlayError(
                f"this machine has no address to send to {target.address} from", remedy="see `ip address`"
            )
        case errno.EADDRINUSE:
            return UsageError(f"port {source_port} is taken here", remedy="choose another with --source-port")
        case errno.EACCES:
            return UsageError(
                f"this user may not send from port {source_port}, or to {target.address}: {words}",
                remedy="choose a port above 1023, and a host's address",
            )
        case errno.EPERM:
            return UnderlayError(
                f"a packet filter of this machine forbids probes to {target.address}", remedy="see `nft list ruleset`"
            )
        case errno.EMFILE | errno.ENFILE:
            return UnderlayError(
                f"no more sockets for the probes: {words.lower()}", remedy="choose fewer --flows, or raise `ulimit -n`"
            )
        case errno.EAFNOSUPPORT:
            return UnderlayError(f"this kernel has no IPv{6 if target.is_ipv6 else 4}", remedy="use the other family")
        case _:
            return UnderlayError(f"no probe can be sent to {target.address}: {words}")
