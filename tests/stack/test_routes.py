"""The longest prefix wins, as a slow table of the standard library's networks says."""

from __future__ import annotations

import errno
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.stack._routes import Route, RouteTable
from underlay.wire import parse_ip

# Few distinct bits, so that prefixes cover each other.
NUMBERS = st.integers(0, 15).map(lambda number: number << 28 | number << 4)
PREFIXES = st.tuples(NUMBERS, st.integers(0, 32))


def network(number: int, bits: int) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network((number, bits), strict=False)


@given(st.lists(PREFIXES, max_size=30), st.lists(st.integers(0, 2**32 - 1) | NUMBERS, max_size=20), st.data())
def test_lookup_finds_what_a_search_through_all_networks_finds(
    prefixes: list[tuple[int, int]], destinations: list[int], data: st.DataObject
) -> None:
    table = RouteTable()
    model: dict[ipaddress.IPv4Network, int] = {}
    for index, (number, bits) in enumerate(prefixes):
        net = network(number, bits)
        table.add(Route(net.network_address.packed, bits, None, index))
        model.setdefault(net, index)
    for net in data.draw(st.lists(st.sampled_from(sorted(model)), unique=True) if model else st.just([])):
        for route in table.routes():
            if (route.network, route.prefix_bits) == (net.network_address.packed, net.prefixlen):
                table.remove(route)
        del model[net]
    for number in destinations:
        address = ipaddress.IPv4Address(number)
        holding = [net for net in model if address in net]
        best = max(holding, key=lambda net: net.prefixlen, default=None)
        found = table.lookup(address.packed)
        if best is None:
            assert found is None
        else:
            assert found is not None
            assert found.interface == model[best]
            assert found.prefix_bits == best.prefixlen


def test_a_default_route_of_one_family_holds_nothing_of_the_other() -> None:
    table = RouteTable()
    table.add(Route(bytes(4), 0, parse_ip("10.0.0.1"), 1))
    assert table.lookup(parse_ip("8.8.8.8")) is not None
    assert table.lookup(parse_ip("2001:db8::1")) is None


def test_a_route_with_bits_behind_its_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="behind its prefix"):
        RouteTable().add(Route(parse_ip("10.0.0.1"), 24, None, 1))


def test_the_same_route_twice_is_refused_and_removing_a_strange_one_too() -> None:
    table = RouteTable()
    route = Route(parse_ip("10.0.0.0"), 24, None, 1)
    table.add(route)
    with pytest.raises(OSError, match="exists") as exists:
        table.add(route)
    assert exists.value.errno == errno.EEXIST
    table.remove(route)
    with pytest.raises(OSError, match="no such") as missing:
        table.remove(route)
    assert missing.value.errno == errno.ESRCH


def test_a_lookup_may_ask_for_one_interface_only() -> None:
    table = RouteTable()
    first, second = (Route(parse_ip("fe80::"), 64, None, index) for index in (1, 2))
    table.add(first)
    table.add(second)
    assert table.lookup(parse_ip("fe80::9")) == first
    assert table.lookup(parse_ip("fe80::9"), 2) == second
    assert table.lookup(parse_ip("fe80::9"), 3) is None


def test_a_route_reads_as_people_write_it() -> None:
    assert str(Route(bytes(4), 0, parse_ip("10.0.0.1"), 1)) == "0.0.0.0/0 via 10.0.0.1 interface 1"


def test_removing_a_route_leaves_its_neighbours_in_the_table() -> None:
    table = RouteTable()
    wide, narrow, twin = (
        Route(parse_ip("10.0.0.0"), 8, None, 1),
        Route(parse_ip("10.0.0.0"), 24, None, 1),
        Route(parse_ip("10.0.0.0"), 24, None, 2),
    )
    for route in (wide, narrow, twin):
        table.add(route)
    assert table.lookup(parse_ip("10.0.0.1")) == narrow
    table.remove(narrow)
    assert table.lookup(parse_ip("10.0.0.1")) == twin
    table.remove(twin)
    assert table.lookup(parse_ip("10.0.0.1")) == wide
    assert table.routes() == (wide,)
