"""Networks of a world: LANs, routers, regions and access links, and what a program sees of them.

It knows who reaches whom, how long it takes and what is said when it does not. Faults of ways are in
`test_internet.py`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from underlay.errors import UsageError
from underlay.link import FRAME
from underlay.sim import Conditions, World

from ._echo import serve_echo

_T = TypeVar("_T")


async def ask(host: str, message: bytes = b"hello") -> bytes:
    reader, writer = await asyncio.open_connection(host, 7)
    try:
        writer.write(message)
        return await reader.readexactly(len(message))
    finally:
        writer.close()


async def round_trip_s(world: World, host: str) -> float:
    reader, writer = await asyncio.open_connection(host, 7)
    began_s = world.now
    writer.write(b"?")
    await reader.readexactly(1)
    took_s = world.now - began_s
    writer.close()
    return took_s


def error_of(world: World, host: str) -> Awaitable[tuple[int | None, float]]:
    async def measure() -> tuple[int | None, float]:
        began_s = world.now
        try:
            await ask(host)
        except OSError as error:
            return error.errno, world.now - began_s
        return None, world.now - began_s

    return measure()


def run(test: Callable[[World], Coroutine[Any, Any, _T]], seed: int = 1, **conditions: float | str) -> _T:
    return World(seed, **conditions).run(test)  # type: ignore[arg-type]


def office(world: World) -> None:
    """Two PCs in an office, two machines in a lab, both behind routers, and a server on the internet."""
    world.lan("office")
    world.lan("lab")
    for name in ("pc1", "pc2"):
        world.host(name, start=serve_echo, on="office")
    for name in ("rig1", "rig2"):
        world.host(name, start=serve_echo, on="lab")
    world.host("web", start=serve_echo)


# --- a LAN -----------------------------------------------------------------------------------------------------------


def test_hosts_of_a_lan_reach_each_other_by_name_over_a_switch_and_arp() -> None:
    async def test(world: World) -> tuple[bytes, int, bool]:
        office(world)
        ethertypes = set[int]()
        with FRAME.listening(lambda link, direction, data, *_: ethertypes.add(int.from_bytes(data[12:14], "big"))):
            async with world.host("pc1"):
                await asyncio.sleep(1)
                answer = await ask("pc2")
        return answer, len(world.topology.lans["office"].switch.table(world.now)), ethertypes >= {0x0800, 0x0806}

    assert run(test) == (b"hello", 2, True)


def test_a_round_trip_in_a_lan_takes_its_four_wires() -> None:
    async def test(world: World) -> float:
        world.lan("office", delay="1ms")
        world.host("pc1", start=serve_echo, on="office")
        async with world.host("pc2", on="office"):
            await asyncio.sleep(1)
            return await round_trip_s(world, "pc1")

    assert run(test) == pytest.approx(0.004)


def test_ipv6_works_in_a_lan_by_neighbour_discovery() -> None:
    async def test(world: World) -> bytes:
        office(world)
        async with world.host("pc1"):
            await asyncio.sleep(1)
            return await ask(world.host("pc2").address6)

    assert run(test) == b"hello"


def test_large_transfers_pass_a_lossy_wire() -> None:
    async def test(world: World) -> bool:
        world.lan("office", loss=0.02, corrupt=0.01)
        world.host("pc1", start=serve_echo, on="office")
        data = bytes(range(256)) * 2000
        async with world.host("pc2", on="office"):
            await asyncio.sleep(1)
            answer = await ask("pc1", data)
        return answer == data and sum(way.drops["loss"] for way in world.internet.ways()) > 0

    assert run(test)


def test_a_host_of_a_lan_that_is_down_is_unreachable_within_seconds_as_arp_has_it() -> None:
    async def test(world: World) -> tuple[int | None, float]:
        office(world)
        await asyncio.sleep(1)
        world.host("pc2").crash()
        async with world.host("pc1"):
            return await error_of(world, "pc2")

    number, took_s = run(test)
    assert number == errno.EHOSTUNREACH
    assert 2.9 < took_s < 3.2  # three questions, a second apart


def test_a_lan_without_a_router_is_an_island() -> None:
    async def test(world: World) -> list[tuple[int | None, float]]:
        office(world)
        await asyncio.sleep(1)
        async with world.host("pc1"):
            return [await error_of(world, host) for host in ("web", "rig1", "10.9.9.9")]

    assert run(test) == [(errno.ENETUNREACH, 0.0)] * 3


def test_a_wire_is_cut_held_and_changed_as_any_way() -> None:
    async def test(world: World) -> tuple[float, bytes]:
        office(world)
        async with world.host("pc1"):
            await asyncio.sleep(1)
            await ask("pc2")
            world.link("pc2", "office", delay="10ms")
            took_s = await round_trip_s(world, "pc2")
            world.partition("pc2", "office")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(10):
                    await ask("pc2")
            world.heal()
            return took_s, await ask("pc2")

    expected: object = (pytest.approx(0.02005), b"hello")
    assert run(test) == expected


def test_two_hosts_of_a_lan_may_be_parted_while_both_reach_a_third() -> None:
    async def test(world: World) -> list[object]:
        world.lan("office")
        for name in ("a", "b", "c"):
            world.host(name, start=serve_echo, on="office")
        await asyncio.sleep(1)
        world.partition("a", "b")
        said: list[object] = []
        async with world.host("a"):
            said.append(await ask("c"))
            with pytest.raises(OSError, match="Connect call failed"):  # nobody answers its ARP
                await ask("b")
        async with world.host("b"):
            said.append(await ask("c"))
        world.heal("a", "b")
        async with world.host("a"):
            said.append(await ask("b"))
        return said

    assert run(test) == [b"hello"] * 3


async def arrived_of_one_under_way(world: World, fault: Callable[[World], None]) -> int:
    """How often a datagram from a to b arrives that is under way when the fault comes; all is healed after a moment."""
    got: list[bytes] = []

    class Counting(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            got.append(data)

    async with world.host("b"):
        await asyncio.get_running_loop().create_datagram_endpoint(Counting, local_addr=("0.0.0.0", 9))
    async with world.host("a"):
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=("b", 9))
        transport.sendto(b"first")  # and addresses are learned
        await asyncio.sleep(20)
        assert got == [b"first"]
        transport.sendto(b"second")
        await asyncio.sleep(1.5)
        fault(world)
        await asyncio.sleep(0.1)
        world.heal()
        world.release()
        world.calm()
        await asyncio.sleep(10)
    return len(got) - 1


@pytest.mark.parametrize(
    ("fault", "arrived"),
    [
        (lambda world: world.partition("a", "b"), 0),
        (lambda world: world.partition("a", to="b"), 0),
        (lambda world: world.partition("b", to="a"), 1),
        (lambda world: world.isolate("b"), 0),
        (lambda world: world.hold("b"), 1),
        (lambda world: world.disturb("b", loss=1.0), 0),
        (lambda world: world.disturb("b", duplicate=1.0), 2),
    ],
)
@pytest.mark.parametrize("is_routed", [False, True])
def test_a_fault_on_a_lan_is_also_one_for_what_is_under_way(
    fault: Callable[[World], None], arrived: int, is_routed: bool
) -> None:
    async def test(world: World) -> int:
        world.lan("office", delay="1s")
        world.host("b", on="office")
        if is_routed:
            world.router("gateway", "office", "internet")
            world.host("a")
        else:
            world.host("a", on="office")
        return await arrived_of_one_under_way(world, fault)

    assert World(1).run(test) == arrived


async def arrived_through_access_links(world: World, at_s: float, fault: Callable[[World], None]) -> list[float]:
    """When a datagram arrives that takes a second on each of its three links, and what befalls it 5 s at one moment."""
    got: list[float] = []

    class Counting(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            got.append(world.now)

    world.host("a"), world.host("b")
    for name in ("a", "b"):
        world.access(name, delay="1s")
    world.link("a", "b", delay="1s")
    async with world.host("b"):
        await asyncio.get_running_loop().create_datagram_endpoint(Counting, local_addr=("0.0.0.0", 9))
    async with world.host("a"):
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=("b", 9))
        transport.sendto(b"x")
        await asyncio.sleep(at_s)
        fault(world)
        await asyncio.sleep(5)
        world.heal()
        world.release()
        await asyncio.sleep(10)
    return got


@pytest.mark.parametrize("at_s", [0.5, 1.5, 2.5])
def test_a_partition_loses_what_is_on_an_access_link_or_between_two(at_s: float) -> None:
    def part_for_a_moment(world: World) -> None:
        world.partition("a", to="b")
        world.heal()

    assert run(lambda world: arrived_through_access_links(world, at_s, part_for_a_moment)) == []


@pytest.mark.parametrize(("at_s", "arrived_s"), [(0.5, 7.5), (1.5, 8.0), (2.5, 8.0)])
def test_what_is_held_waits_on_an_access_link_or_between_two(at_s: float, arrived_s: float) -> None:
    got = run(lambda world: arrived_through_access_links(world, at_s, lambda world: world.hold("a", to="b")))
    assert got == [pytest.approx(arrived_s)]


def test_hosts_of_a_lan_that_are_parted_do_not_find_each_others_addresses_either() -> None:
    async def test(world: World) -> tuple[int | None, float]:
        office(world)
        world.partition("pc1", "pc2")
        async with world.host("pc1"):
            return await error_of(world, "pc2")

    number, took_s = run(test)
    assert number == errno.EHOSTUNREACH
    assert took_s < 5


def test_an_isolated_host_of_a_lan_reaches_nobody_and_nobody_reaches_it() -> None:
    async def test(world: World) -> tuple[list[int | None], bytes]:
        routed(world)
        await asyncio.sleep(1)
        world.isolate("pc1")
        numbers = []
        for one, other in (("pc1", "pc2"), ("pc1", "web"), ("pc2", "pc1"), ("web", "pc1")):
            async with world.host(one):
                numbers.append((await error_of(world, other))[0])
        world.heal("pc1")
        async with world.host("web"):
            return numbers, await ask("pc1")

    numbers, answer = run(test)
    assert None not in numbers
    assert answer == b"hello"


# --- routers ---------------------------------------------------------------------------------------------------------


def routed(world: World) -> None:
    office(world)
    world.router("gateway", "office", "internet")
    world.router("core", "office", "lab")


@pytest.mark.parametrize(
    ("client", "server"), [("pc1", "web"), ("web", "pc1"), ("pc1", "rig2"), ("rig1", "web"), ("web", "rig1")]
)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_everybody_reaches_everybody_through_the_routers(client: str, server: str, family: int) -> None:
    async def test(world: World) -> bytes:
        routed(world)
        host = world.host(server)
        async with world.host(client):
            await asyncio.sleep(1)
            return await ask(host.address if family == socket.AF_INET else host.address6)

    assert run(test) == b"hello"


def test_a_lan_that_is_made_later_is_reached_too_and_so_is_a_host_that_reboots() -> None:
    async def test(world: World) -> list[bytes]:
        routed(world)
        await asyncio.sleep(1)
        world.lan("late")
        world.router("late-gateway", "late", "lab")
        world.host("late1", start=serve_echo, on="late")
        for name in ("core", "late1", "web"):
            world.host(name).reboot()
        async with world.host("pc1"):
            await asyncio.sleep(1)
            first = await ask("late1")
        async with world.host("late1"):
            return [first, await ask("web"), await ask("pc2")]

    assert run(test) == [b"hello"] * 3


def test_a_router_takes_from_the_ttl_and_tells_when_none_is_left() -> None:
    async def test(world: World) -> tuple[int | None, int]:
        routed(world)
        async with world.host("rig1"):
            await asyncio.sleep(1)
            loop = asyncio.get_running_loop()
            sock = socket.socket()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 2)  # core and gateway: one short of web
            with sock, pytest.raises(OSError, match=r"\[Errno") as caught:
                async with asyncio.timeout(200):
                    await loop.sock_connect(sock, (world.host("web").address, 7))
        drops = world.host("gateway").stack.statistics().drops
        return caught.value.errno, drops.get("forward.ttl", 0)

    number, expired = run(test)
    assert number in (errno.EHOSTUNREACH, errno.ETIMEDOUT)
    assert expired >= 1


def test_the_path_mtu_is_learned_from_a_router_and_large_transfers_pass() -> None:
    async def test(world: World) -> tuple[bool, int]:
        world.lan("near")
        world.lan("narrow", mtu=1300)
        world.lan("far")
        world.router("r1", "near", "narrow")
        world.router("r2", "narrow", "far")
        world.host("server", start=serve_echo, on="far")
        data = bytes(range(256)) * 1000
        async with world.host("client", on="near") as client:
            await asyncio.sleep(1)
            assert await ask("server", data) == data
            drops = world.host("r1").stack.statistics().drops["forward.too_big"]
            await ask("server", data)
            return client.is_up, drops - world.host("r1").stack.statistics().drops["forward.too_big"]

    assert run(test) == (True, 0)


def test_a_router_that_is_down_leaves_only_what_needs_it_unreachable() -> None:
    async def test(world: World) -> tuple[bytes, int | None]:
        routed(world)
        await asyncio.sleep(1)
        world.host("gateway").crash()
        async with world.host("pc1"):
            answer = await ask("rig1")
            number, _ = await error_of(world, "web")
            return answer, number

    assert run(test) == (b"hello", errno.EHOSTUNREACH)


def test_a_host_behind_a_router_that_is_down_is_reported_by_it() -> None:
    async def test(world: World) -> tuple[int | None, float]:
        routed(world)
        await asyncio.sleep(1)
        world.host("rig1").crash()
        async with world.host("web"):
            return await error_of(world, "rig1")

    number, took_s = run(test)
    assert number == errno.EHOSTUNREACH
    assert took_s < 5


def test_hosts_on_different_networks_may_be_parted() -> None:
    async def test(world: World) -> list[bytes]:
        routed(world)
        await asyncio.sleep(1)
        world.partition("pc1", "web")
        async with world.host("pc1"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await ask("web")
            said = [await ask("rig1")]
        async with world.host("pc2"):
            said.append(await ask("web"))
        world.heal()
        async with world.host("pc1"):
            return [*said, await ask("web")]

    assert run(test) == [b"hello"] * 3


def test_a_link_between_hosts_that_no_way_of_their_own_joins_is_refused() -> None:
    async def test(world: World) -> None:
        routed(world)
        world.link("pc1", "web", delay="1s")

    with pytest.raises(UsageError, match=r'no way of their own joins pc1 and web; name the wire .*"pc1", "office"'):
        run(test)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda world: world.host("a", on="offce"), "there is no LAN 'offce'; did you mean 'office'"),
        (lambda world: world.lan("office"), "'office' names something already"),
        (lambda world: world.host("office"), "'office' names a network already"),
        (lambda world: world.router("r", "office"), "the router 'r' is on one segment only"),
        (lambda world: world.lan("x", prefix="nonsense"), "prefix='nonsense' cannot be"),
        (lambda world: world.wan({("eu", "us"): 1}, eu=["a"]), "there is no region 'us'"),
    ],
)
def test_a_topology_that_cannot_be_is_refused(make: Callable[[World], object], complaint: str) -> None:
    async def test(world: World) -> None:
        world.lan("office")
        make(world)

    with pytest.raises(UsageError, match=complaint):
        run(test)


# --- the internet ----------------------------------------------------------------------------------------------------


def test_regions_are_as_far_apart_as_was_said_also_for_hosts_that_come_later() -> None:
    async def test(world: World) -> list[float]:
        world.host("paris", start=serve_echo)
        world.wan({("eu", "us"): "40ms", ("eu", "asia"): {"delay": "70ms"}}, eu=["paris"], us=["ny"], asia=["tokyo"])
        took = []
        for name in ("ny", "tokyo"):
            async with world.host(name):
                await asyncio.sleep(1)
                took.append(await round_trip_s(world, "paris"))
        async with world.host("elsewhere"):
            return [*took, await round_trip_s(world, "paris")]

    assert run(test) == [pytest.approx(0.080), pytest.approx(0.140), pytest.approx(0.001)]


def test_a_way_that_was_there_before_its_regions_were_named_becomes_as_long() -> None:
    async def test(world: World) -> Conditions:
        world.host("a"), world.host("b")
        world.internet.way("a", "b")
        world.wan({("x", "y"): "1s"}, x=["a"], y=["b"])
        return world.internet.way("a", "b").conditions

    assert run(test) == Conditions(delay_s=1.0)


def test_all_traffic_of_a_host_shares_its_access_link() -> None:
    async def test(world: World) -> tuple[float, float]:
        async def drink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(65536):
                pass
            writer.write(b"!")
            writer.close()

        async def serve_sink() -> None:
            async with await asyncio.start_server(drink, port=9) as server:
                await server.serve_forever()

        async def give(host: str, size: int) -> None:
            reader, writer = await asyncio.open_connection(host, 9)
            writer.write(bytes(size))
            writer.write_eof()
            await reader.read()
            writer.close()

        for name in ("s1", "s2", "s3"):
            world.host(name, start=serve_sink)
        async with world.host("home"):
            world.access("home", up="1mbit", down="10mbit", delay="5ms")
            await asyncio.sleep(1)
            began_s = world.now
            await give("s1", 100_000)
            alone_s = world.now - began_s
            began_s = world.now
            async with asyncio.TaskGroup() as group:
                for name in ("s1", "s2", "s3"):
                    group.create_task(give(name, 100_000))
            return alone_s, world.now - began_s

    alone_s, together_s = run(test)
    assert alone_s == pytest.approx(100_000 / 1448 * 1500 * 8 / 1e6, rel=0.1)
    assert together_s == pytest.approx(3 * alone_s, rel=0.1)


def test_an_access_link_delays_both_directions_and_ways_behind_it_may_be_cut() -> None:
    async def test(world: World) -> tuple[float, float]:
        world.host("server", start=serve_echo)
        world.host("home", start=serve_echo)
        world.access("home", delay="10ms")
        async with world.host("home"):
            await asyncio.sleep(1)
            out_s = await round_trip_s(world, "server")
        async with world.host("server"):
            in_s = await round_trip_s(world, "home")
            world.partition("home")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await ask("home")
        return out_s, in_s

    expected: object = (pytest.approx(0.022), pytest.approx(0.022))
    assert run(test, delay="1ms") == expected


def test_what_passes_an_access_link_is_captured_once_at_each_end() -> None:
    async def test(world: World) -> list[tuple[str, str]]:
        world.host("server", start=serve_echo)
        seen: list[tuple[str, str]] = []
        async with world.host("home"):
            world.access("home", delay="10ms")
            with FRAME.listening(lambda link, direction, *_: seen.append((link, direction))):
                loop = asyncio.get_running_loop()
                sock = socket.socket(type=socket.SOCK_DGRAM)
                sock.setblocking(False)
                await loop.sock_sendto(sock, b"?", (world.host("server").address, 9))
                await asyncio.sleep(1)
                sock.close()
        return seen

    # There, and the port unreachable back.
    assert run(test) == [("home", "out"), ("server", "in"), ("server", "out"), ("home", "in")]


def test_the_same_seed_gives_the_same_run_also_through_switches_and_routers() -> None:
    async def test(world: World) -> tuple[float, int]:
        routed(world)
        world.link("pc1", "office", loss=0.05, jitter="2ms")
        async with world.host("pc1"):
            await asyncio.sleep(1)
            for host in ("web", "rig1", "pc2"):
                await ask(host, b"x" * 20_000)
        return world.now, world.schedule.taken

    ends = [run(test, seed) for seed in (1, 2, 1, 2)]
    assert ends[:2] == ends[2:]
    assert ends[0] != ends[1]
