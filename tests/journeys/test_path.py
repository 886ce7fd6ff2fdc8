"""`underlay path` over chains of machines that the kernel routes between: what it finds is what was built.

The machines are network namespaces; nftables and sysctls make them lose, keep quiet and limit their answers. Time
is bounded by the number of probes, and asserted nowhere.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from underlay.link import Rtnetlink
from underlay.tools.path import Ending, Report, Trace, Verdict, trace

from .._chain import Chain, Node, chain, join, route, wait_for
from .._kernel import needs_program, new_namespace

PROBES = 200
ANSWERS_ASKED = 100  # of a router that limits them; enough to see that it does
FAST_S = 0.01
PROTOCOLS = ["udp", "icmp", "tcp"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make namespaces; remedy: run as root")


@pytest.fixture(scope="module")
def net() -> Iterator[Chain]:
    """A chain of three routers that answer everything; who changes it changes it back."""
    with chain(3) as made:
        yield made


@pytest.fixture
def rules(net: Chain) -> Iterator[Callable[[Node, str], None]]:
    """Give a machine a table of rules for a while."""
    given: list[Node] = []

    def give(node: Node, chains: str) -> None:
        given.append(node)
        node.nft(f"table inet path {{\n{chains}\n}}\n")

    yield give
    for node in given:
        node.nft("delete table inet path")


def measure(
    net: Chain, version: int = 4, protocol: str = "udp", rounds: int = 5, *, to: str = "", flows: int = 1,
    timeout_s: float = 1.0, interval_s: float = FAST_S, silent_hops: int = 8, max_hops: int = 30,
) -> Report:  # fmt: skip
    """Trace from the client to the server."""
    return net.client.namespace.run(
        lambda: trace(
            to or net.address(len(net.nodes) - 1, version),
            protocol=protocol,  # type: ignore[arg-type]
            rounds=rounds,
            interval_s=interval_s,
            timeout_s=timeout_s,
            flows=flows,
            names=False,
            silent_hops=silent_hops,
            max_hops=max_hops,
        )
    )


def hook(name: str, rules: str) -> str:
    """A chain at one of netfilter's hooks."""
    return f"chain {name} {{\ntype filter hook {name} priority 0;\n{rules}\n}}\n"


def drop(protocol: str, how: str) -> str:
    """A rule for the routers' forward chain."""
    return f"meta l4proto {protocol} iifname router1 oifname router3 {how}"


# --- the way ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_hops_are_found_in_order(net: Chain, version: int, protocol: str) -> None:
    report = measure(net, version, protocol)
    assert [hop.address for hop in report.hops] == net.hops(version)
    assert [hop.ttl for hop in report.hops] == [1, 2, 3, 4]
    assert report.ending is Ending.REACHED
    assert all((hop.sent, hop.answered, hop.late, hop.duplicates) == (5, 5, 0, 0) for hop in report.hops)
    assert all(hop.verdict is Verdict.OK and hop.path_loss == 0 for hop in report.hops)
    assert (report.strays, report.unassigned, report.send_errors) == (0, 0, {})
    for hop in report.hops:
        assert hop.best_us is not None and hop.average_us is not None and hop.worst_us is not None
        assert 0 < hop.best_us <= hop.average_us <= hop.worst_us


def test_mtr_finds_the_same_hops(net: Chain) -> None:
    program = needs_program("mtr")
    words = [program, "--json", "--no-dns", "--report-cycles", "2", "--interval", "0.1", "--gracetime", "1"]
    told = net.client.namespace.run(
        lambda: subprocess.run([*words, net.address(4)], capture_output=True, text=True, check=True).stdout
    )
    report = measure(net, protocol="icmp", rounds=2)
    assert [hub["host"] for hub in json.loads(told)["report"]["hubs"]] == [hop.address for hop in report.hops]


def test_a_server_that_listens_is_reached_by_tcp_and_udp(net: Chain) -> None:
    import socket

    address = net.address(4)
    with net.server.namespace.run(lambda: socket.create_server((address, 8080))) as _, net.server.namespace.run(
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ) as udp:  # fmt: skip
        udp.bind((address, 7))
        with ThreadPoolExecutor() as pool:

            def echo() -> None:
                # On a busy machine the search for the path overshoots, so that more than the rounds' probes come.
                while (received := udp.recvfrom(100))[0] != b"over":
                    udp.sendto(*received)

            echoing = pool.submit(echo)
            try:
                by_udp = net.client.namespace.run(
                    lambda: trace(address, port=7, rounds=3, interval_s=FAST_S, names=False)
                )
            finally:
                udp.sendto(b"over", (address, 7))
            echoing.result()
        by_tcp = net.client.namespace.run(
            lambda: trace(address, protocol="tcp", port=8080, rounds=3, interval_s=FAST_S, names=False)
        )
    assert [hop.address for hop in by_tcp.hops] == [hop.address for hop in by_udp.hops] == net.hops()
    assert by_tcp.hops[-1].note == ""
    assert (by_udp.hops[-1].answered, by_udp.hops[-1].note) == (3, "answers by UDP")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_two_measurements_of_one_path_know_nothing_of_each_other(net: Chain, protocol: str) -> None:
    # Root's ICMP sockets are raw here, and hear each other's answers.
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(measure, net, version, protocol, 20, flows=2) for version in (4, 4, 6, 6)]
    for report in [each.result() for each in running]:
        assert [(hop.sent, hop.answered, hop.duplicates) for hop in report.hops] == [(40, 40, 0)] * 4
        assert report.strays == 0


def test_a_link_local_address_with_its_interface_is_a_host_like_others(net: Chain) -> None:
    import ipaddress

    def address() -> str:
        with Rtnetlink() as kernel:
            index = kernel.link("client").index
            found = [each.text.partition("/")[0] for each in kernel.addresses() if each.index == index]
        return next(each for each in found if ipaddress.ip_address(each).is_link_local)

    host = net.routers[0].namespace.run(address)
    for protocol in PROTOCOLS:
        report = measure(net, protocol=protocol, to=f"{host}%router1")
        assert [hop.address for hop in report.hops] == [host]
        assert report.reached


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_all_probes_of_a_flow_look_alike_to_a_router_that_spreads_flows(
    net: Chain, version: int, protocol: str
) -> None:
    # Each field that a router may hash goes into a set of router 1, which is to have as many elements as flows.
    word = "ip" if version == 4 else "ip6"
    word_of = {"udp": "udp", "tcp": "tcp", "icmp": "icmp" if version == 4 else "ipv6-icmp"}[protocol]
    # nft has no name for an ICMP flow's fields together: its checksum and identifier stand 2 to 6 bytes in.
    ports = "@th,16,32" if protocol == "icmp" else "@th,0,32"
    label = "" if version == 4 else " . ip6 flowlabel"
    net.routers[0].nft(
        f"table inet looks {{\nset seen {{\ntypeof {word} daddr . {ports}{label}\nsize 100\nflags dynamic\n}}\n"
        + hook("forward", f"meta l4proto {word_of} iifname client update @seen {{ {word} daddr . {ports}{label} }}")
        + "}\n"
    )
    try:
        report = measure(net, version, protocol, flows=3)
        listed = json.loads(net.routers[0].ask_nft("-j", "list", "set", "inet", "looks", "seen"))
    finally:
        net.routers[0].nft("delete table inet looks")
    (seen,) = [entry["set"].get("elem", []) for entry in listed["nftables"] if "set" in entry]
    assert len(seen) == len(set(report.flow_ids)) == 3


# --- loss ------------------------------------------------------------------------------------------------


def check_a_fifth(report: Report) -> None:
    """Hops behind router 2 lose a fifth, and no other does."""
    by_protocol = f"{report.protocol}: {[(hop.sent, hop.answered) for hop in report.hops]}"
    assert [hop.sent for hop in report.hops] == [PROBES] * 4, by_protocol
    assert [hop.verdict for hop in report.hops] == [Verdict.OK] * 2 + [Verdict.LOSS] * 2, by_protocol
    assert [hop.path_loss for hop in report.hops[:2]] == [0, 0], by_protocol
    for hop in report.hops[2:]:
        assert hop.path_loss is not None and abs(hop.path_loss - 0.2) <= 0.05, by_protocol


# Every fifth packet: chance would be off by 5 points in one run of 13. Each protocol has a count of its own.
A_FIFTH = "numgen inc mod 5 0 drop"


def test_a_fifth_that_a_router_drops_is_found(net: Chain, rules: Callable[[Node, str], None]) -> None:
    rules(net.routers[1], hook("forward", "\n".join(drop(protocol, A_FIFTH) for protocol in ("udp", "ipv6-icmp"))))
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(measure, net, 4, "udp", PROBES), pool.submit(measure, net, 6, "icmp", PROBES)]
    for report in [each.result() for each in running]:
        check_a_fifth(report)


@pytest.mark.long
def test_a_fifth_that_a_router_drops_is_found_by_tcp(net: Chain, rules: Callable[[Node, str], None]) -> None:
    # Each probe that is lost keeps the next one waiting for its time-out.
    rules(net.routers[1], hook("forward", drop("tcp", A_FIFTH)))
    check_a_fifth(measure(net, 4, "tcp", PROBES, timeout_s=0.2))


@pytest.mark.long
def test_the_probes_that_are_lost_by_chance_are_those_that_the_router_dropped(
    net: Chain, rules: Callable[[Node, str], None]
) -> None:
    by_chance = drop("udp", "numgen random mod 100 < 20 counter name gone drop")
    rules(net.routers[1], "counter gone { }\n" + hook("forward", by_chance))
    report = measure(net, 6, "udp", PROBES)
    listed = json.loads(net.routers[1].ask_nft("-j", "list", "counters"))
    (gone,) = [entry["counter"]["packets"] for entry in listed["nftables"] if "counter" in entry]
    assert gone > 0
    assert sum(hop.sent - hop.answered - hop.late for hop in report.hops) == gone
    assert [hop.sent - hop.answered for hop in report.hops[:2]] == [0, 0]


# --- limits ----------------------------------------------------------------------------------------------


def check_limited(report: Report) -> None:
    """Hop 2 answers few probes and is called limited; nothing else is said to lose."""
    second = report.hops[1]
    assert 0 < second.answered < second.sent / 2
    assert second.verdict is Verdict.RATE_LIMITED
    assert second.path_loss == 0
    others = [hop for hop in report.hops if hop is not second]
    assert [(hop.ttl, hop.verdict, hop.path_loss, hop.late) for hop in others] == [
        (ttl, Verdict.OK, 0, 0) for ttl in (1, 3, 4)
    ]


@pytest.mark.parametrize("version", [4, 6])
def test_a_router_whose_kernel_limits_its_answers_is_called_that(net: Chain, version: int) -> None:
    # Linux's own default: one answer a second to each host (icmp(7)).
    name = "net.ipv4.icmp_ratelimit" if version == 4 else "net.ipv6.icmp.ratelimit"
    net.routers[1].set_sysctl(name, "1000")
    try:
        check_limited(measure(net, version, "udp", ANSWERS_ASKED))
    finally:
        net.routers[1].set_sysctl(name, "0")


@pytest.mark.parametrize(
    ("protocol", "rate", "rounds"), [("icmp", 10, ANSWERS_ASKED), pytest.param("tcp", 2, 60, marks=pytest.mark.long)]
)
def test_a_router_whose_filter_limits_its_answers_is_called_that(
    net: Chain, rules: Callable[[Node, str], None], protocol: str, rate: int, rounds: int
) -> None:
    rules(net.routers[1], hook("output", f"icmp type time-exceeded limit rate over {rate}/second drop"))
    # By TCP each answer that is missing takes its time-out.
    check_limited(measure(net, 4, protocol, rounds, timeout_s=1.0 if protocol == "icmp" else 0.1))


def test_a_host_that_limits_its_answers_is_called_that_by_their_even_beat(net: Chain) -> None:
    # Nothing is behind it that could tell. UDP probes make it answer by ICMP errors, which Linux limits.
    # The beat is long beside what a busy machine does to it.
    net.server.set_sysctl("net.ipv4.icmp_ratelimit", "250")
    try:
        report = measure(net, 4, "udp", PROBES)
    finally:
        net.server.set_sysctl("net.ipv4.icmp_ratelimit", "0")
    assert report.reached
    last = report.hops[-1]
    assert 0 < last.answered < PROBES
    assert (last.verdict, last.path_loss) == (Verdict.RATE_LIMITED, None)
    assert all(hop.verdict is Verdict.OK for hop in report.hops[:-1])


@pytest.mark.long
def test_loss_behind_a_limited_router_is_still_found(net: Chain, rules: Callable[[Node, str], None]) -> None:
    rules(
        net.routers[1],
        hook("forward", drop("udp", "numgen inc mod 5 0 drop"))
        + hook("output", "icmp type time-exceeded limit rate over 10/second drop"),
    )
    report = measure(net, 4, "udp", ANSWERS_ASKED)
    assert [hop.verdict for hop in report.hops] == [
        Verdict.OK,
        Verdict.RATE_LIMITED,
        Verdict.LOSS,
        Verdict.LOSS,
    ]
    assert all(hop.path_loss is not None and abs(hop.path_loss - 0.2) <= 0.05 for hop in report.hops[1:])


# --- ends ------------------------------------------------------------------------------------------------


def test_a_router_that_never_answers_is_silent_and_no_loss(net: Chain, rules: Callable[[Node, str], None]) -> None:
    rules(net.routers[1], hook("output", "icmp type time-exceeded drop"))
    report = measure(net)
    assert report.reached
    second = report.hops[1]
    assert (second.address, second.verdict, second.path_loss) == (None, Verdict.SILENT, 0)
    assert [hop.address for hop in report.hops[2:]] == net.hops()[2:]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_black_hole_ends_the_search_after_so_many_silent_hops(
    net: Chain, rules: Callable[[Node, str], None], protocol: str
) -> None:
    rules(net.routers[1], hook("forward", "iifname router1 drop"))
    report = measure(net, 4, protocol, rounds=3, timeout_s=0.5, silent_hops=4)
    assert report.ending is Ending.SILENT
    assert "nothing answers behind hop 2, 10.77.2.2, within 4 hops" in report.ending_says
    assert [hop.verdict for hop in report.hops] == [Verdict.OK] * 2 + [Verdict.NO_ANSWER] * 4
    # Each silent hop once while searching, and then one of them a round.
    assert [hop.sent for hop in report.hops] == [3, 3, 2, 2, 1, 1]


def test_a_network_where_nothing_answers_is_an_end_too(net: Chain, rules: Callable[[Node, str], None]) -> None:
    rules(net.routers[0], hook("prerouting", "meta l4proto udp drop"))
    report = measure(net, rounds=2, timeout_s=0.1)
    assert report.ending_says == "10.77.4.2 is not reached: nothing answers anywhere within 8 hops"
    assert [hop.verdict for hop in report.hops] == [Verdict.NO_ANSWER] * 8


def test_a_router_without_a_route_says_so(net: Chain) -> None:
    for name, value in (("mcast_solicit", "1"), ("retrans_time_ms", "50")):
        net.routers[2].set_sysctl(f"net.ipv4.neigh.server.{name}", value)
    report = measure(net, to="10.77.4.77")  # nobody has this address: the last router finds no MAC for it
    assert report.ending is Ending.UNREACHABLE
    assert report.hops[-1].address == net.address(3)
    assert report.hops[-1].note == "host unreachable"


def test_a_filter_that_refuses_says_so(net: Chain, rules: Callable[[Node, str], None]) -> None:
    rules(
        net.routers[2],
        hook("forward", "meta l4proto tcp reject with icmp type admin-prohibited"),
    )
    report = measure(net, protocol="tcp")
    assert report.ending is Ending.UNREACHABLE
    assert (report.hops[-1].address, report.hops[-1].note) == (net.address(3), "prohibited by a filter")


def test_a_path_longer_than_allowed_is_that(net: Chain) -> None:
    report = measure(net, max_hops=2)
    assert report.ending is Ending.TOO_LONG
    assert [hop.address for hop in report.hops] == net.hops()[:2]


def test_routers_that_send_to_each_other_are_named(net: Chain) -> None:
    route(net.client, "10.99.0.0/16", net.address(1))
    route(net.routers[0], "10.99.0.0/16", net.address(2))
    route(net.routers[1], "10.99.0.0/16", "10.77.2.1")
    report = measure(net, to="10.99.1.1", max_hops=9, rounds=2)
    assert report.ending is Ending.TOO_LONG
    assert report.ending_says.endswith("packets go round between 10.77.2.2 and 10.77.1.2")


def test_a_path_that_opens_while_it_is_watched_is_found_to_its_end(
    net: Chain, rules: Callable[[Node, str], None]
) -> None:
    rules(net.routers[1], hook("forward", "iifname router1 drop"))

    def watch() -> list[Report]:
        seen = []
        with Trace(
            net.address(4), rounds=60, interval_s=FAST_S, timeout_s=0.1, silent_hops=3, names=False
        ) as measurement:
            for report in measurement.run(0.01):
                seen.append(report)
                if report.ending is Ending.SILENT:
                    net.routers[1].nft("flush table inet path")
        return seen

    seen = net.client.namespace.run(watch)
    assert Ending.SILENT in {report.ending for report in seen}
    assert seen[-1].ending is Ending.REACHED
    assert [hop.address for hop in seen[-1].hops] == net.hops()


# --- flows -----------------------------------------------------------------------------------------------


def test_flows_that_take_different_ways_are_shown_apart() -> None:
    ip = needs_program("ip")
    nodes = []
    try:
        for name in ("client", "split", "upper", "lower", "server"):
            nodes.append(Node(new_namespace(), name))
        client, split, upper, lower, server = nodes
        for node in nodes:
            node.set_sysctl("net.ipv4.ip_forward", "1")
            node.set_sysctl("net.ipv4.icmp_ratelimit", "0")
            node.set_sysctl("net.ipv4.conf.all.rp_filter", "0")
        split.set_sysctl("net.ipv4.fib_multipath_hash_policy", "1")  # by ports too
        join(client, split, "10.77.1.", "fd77:1::")
        for number, node in ((2, upper), (3, lower)):
            join(split, node, f"10.77.{number}.", f"fd77:{number}::")
            join(node, server, f"10.77.{number + 2}.", f"fd77:{number + 2}::")
            route(node, "10.77.1.0/24", f"10.77.{number}.1")
            route(node, "10.77.9.1/32", f"10.77.{number + 2}.2")
        route(client, "10.77.0.0/16", "10.77.1.2")
        route(server, "10.77.1.0/24", "10.77.4.1")
        split.namespace.run(
            lambda: subprocess.run(
                [ip, "route", "add", "10.77.9.1/32", "nexthop", "via", "10.77.2.2", "nexthop", "via", "10.77.3.2"],
                check=True,
            )
        )
        server.namespace.run(lambda: subprocess.run([ip, "address", "add", "10.77.9.1/32", "dev", "lo"], check=True))
        for _ in range(16):  # by either way: each has its own cables
            client.namespace.run(lambda: wait_for("10.77.9.1"))
        # Whichever ports these are, each flow is one packet after another through the same of the two routers.
        report = client.namespace.run(
            lambda: trace("10.77.9.1", flows=16, rounds=4, interval_s=0.1, names=False, source_port=50000)
        )
    finally:
        for node in nodes:
            node.namespace.close()
    assert report.reached
    middle = [hop for hop in report.hops if hop.ttl == 2]
    assert {hop.address for hop in middle} == {"10.77.2.2", "10.77.3.2"}
    assert sorted(flow for hop in middle for flow in hop.flows) == list(range(1, 17))
    assert all(hop.others == () and hop.sent == hop.answered == 4 * len(hop.flows) for hop in report.hops)
    assert report.flow_ids == tuple(range(50000, 50016))
