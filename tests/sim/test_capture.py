"""What is captured of a world: which packets, on which interface, and that others can read it.

It knows files. That a failing test leaves one is in `test_plugin.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from pathlib import Path

import pytest

from underlay.sim import World
from underlay.sim._folder import Recording
from underlay.trace import CapturedFrame, read_pcapng

from ._echo import serve_echo


async def ask(host: str) -> None:
    reader, writer = await asyncio.open_connection(host, 7)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()


async def talk(world: World) -> None:
    """The api asks the db, and one of the office asks the other and, through a router, the db."""
    world.lan("office", delay="1ms")
    world.router("gateway", "office", "internet")
    world.host("db", start=serve_echo)
    world.host("pc1", start=serve_echo, on="office")
    world.host("pc2", on="office")
    await asyncio.sleep(1)
    async with world.host("api"):
        await ask("db")
    async with world.host("pc2"):
        await ask("pc1")
        await ask("db")


def links_of(file: Path) -> dict[str, bool]:
    return {link.name: link.is_ethernet for link in read_pcapng(file)[0]}


def frames_of(file: Path) -> list[CapturedFrame]:
    return read_pcapng(file)[1]


def test_each_link_is_an_interface(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.capture(tmp_path / "all.pcapng")
        await talk(world)

    World(1).run(test)
    assert links_of(tmp_path / "all.pcapng") == {
        "api | db": False,
        "db | gateway": False,
        "office | pc1": True,
        "office | pc2": True,
        "gateway | office": True,
    }


@pytest.mark.parametrize(
    ("ends", "words", "links"),
    [
        (("api", "db"), {}, {"api | db"}),
        (("db", ["api", "gateway"]), {}, {"api | db", "db | gateway"}),
        (("db",), {}, {"api | db", "db | gateway"}),
        (("pc1", "office"), {}, {"office | pc1"}),
        (("office",), {}, {"office | pc1", "office | pc2", "gateway | office"}),
        (("api",), {"to": "db"}, {"api | db"}),
    ],
)
def test_some_links_may_be_captured_alone(
    ends: tuple[str, ...], words: dict[str, str], links: set[str], tmp_path: Path
) -> None:
    async def test(world: World) -> None:
        for name in ("db", "api"):
            world.host(name, start=serve_echo if name == "db" else None)
        world.lan("office", delay="1ms")
        world.router("gateway", "office", "internet")
        world.host("pc1", start=serve_echo, on="office")
        world.host("pc2", on="office")
        await asyncio.sleep(1)
        with world.capture(tmp_path / "some.pcapng", *ends, **words):  # type: ignore[arg-type]
            async with world.host("api"):
                await ask("db")
            async with world.host("pc2"):
                await ask("pc1")
                await ask("db")
        async with world.host("gateway"):
            await ask("db")  # when nobody listens any more

    World(1).run(test)
    assert set(links_of(tmp_path / "some.pcapng")) == links


@pytest.mark.parametrize("arrivals", [False, True])
def test_a_packet_is_there_as_it_is_sent_and_if_wanted_as_it_arrives_and_a_lost_one_once_with_the_reason(
    arrivals: bool, tmp_path: Path
) -> None:
    async def test(world: World) -> None:
        world.host("a"), world.host("b"), world.lan("l")
        world.host("c", on="l"), world.host("d", on="l")
        world.link("a", "b", delay="1s")
        world.capture(tmp_path / "a.pcapng", "a", "b", arrivals=arrivals)
        world.capture(tmp_path / "l.pcapng", "c", "l", arrivals=arrivals)
        for name in ("b", "d"):
            async with world.host(name):
                await asyncio.get_running_loop().create_datagram_endpoint(
                    asyncio.DatagramProtocol, local_addr=("0.0.0.0", 9)
                )
        for name, other in (("a", "b"), ("c", "d")):
            async with world.host(name):
                transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                    asyncio.DatagramProtocol, remote_addr=(other, 9)
                )
                if name == "c":
                    transport.sendto(b"addresses are learned")
                    await asyncio.sleep(1)
                transport.sendto(b"arrives")
                await asyncio.sleep(5)
                world.disturb(*(("a", "b") if name == "a" else ("c", "l")), loss=1.0)
                transport.sendto(b"is lost")
                await asyncio.sleep(5)

    World(1).run(test)
    for name, later_ns in (("a", 10**9), ("l", None)):
        seen = [
            (each.direction, each.comment, text, each.time_ns)
            for each in frames_of(tmp_path / f"{name}.pcapng")
            for text in ("arrives", "is lost")
            if each.data.endswith(text.encode())
        ]
        lost = [each[:3] for each in seen if each[2] == "is lost"]
        assert lost == [("out", "dropped: loss", "is lost")]
        arrived = [each for each in seen if each[2] == "arrives"]
        if later_ns is not None and arrivals:
            assert [each[0] for each in arrived] == ["out", "in"]
            assert arrived[1][3] - arrived[0][3] == later_ns
        else:
            assert [each[0] for each in arrived] == ["out"]  # and arrives at the other host by another wire


def test_what_others_read_of_a_lan_is_what_passed(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.capture(tmp_path / "all.pcapng")
        await talk(world)

    World(1).run(test)
    try:
        done = subprocess.run(
            ["tshark", "-r", str(tmp_path / "all.pcapng"), "-T", "fields"]
            + [
                part
                for name in ("frame.interface_name", "frame.protocols", "_ws.malformed", "tcp.analysis.retransmission")
                for part in ("-e", name)
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except FileNotFoundError:
        pytest.skip("tshark is not installed; remedy: apt-get install tshark")
    seen = {tuple(line.split("\t")) for line in done.stdout.splitlines()}
    assert {
        ("office | pc2", "eth:ethertype:arp", "", ""),
        ("office | pc2", "eth:ethertype:ip:tcp", "", ""),
        ("office | pc1", "eth:ethertype:ip:tcp", "", ""),
        ("api | db", "raw:ip:tcp", "", ""),
    } <= seen
    assert not any(each[2] for each in seen)
    # Nothing is taken for sent twice but what passes a router, from one link to the next.
    assert {each[0] for each in seen if each[3]} <= {"db | gateway", "gateway | office", "office | pc2"}


def test_a_packet_that_is_held_is_there_once_and_so_is_each_piece_of_a_large_one(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.host("db", start=serve_echo), world.host("api")
        world.link("api", "db", delay="10ms", loss=1e-9)  # each segment has a fate of its own
        await asyncio.sleep(1)
        async with world.host("api"):
            reader, writer = await asyncio.open_connection("db", 7)
            world.capture(tmp_path / "held.pcapng")
            world.hold("api", to="db")
            writer.write(b"x")
            await asyncio.sleep(0.1)
            world.release()
            assert await reader.readexactly(1) == b"x"
            writer.write(bytes(10_000))
            await reader.readexactly(10_000)
            writer.close()

    World(1).run(test)
    frames = frames_of(tmp_path / "held.pcapng")
    assert [each.comment for each in frames if each.comment] == ["held"]
    assert max(each.size_bytes for each in frames) == 1500
    assert len({each.data for each in frames}) == len(frames)


def test_a_recording_tells_of_the_connections_of_hosts_on_lans_too(tmp_path: Path) -> None:
    world = World(1)
    with Recording(tmp_path / "seen").of(world):
        world.run(talk)
    told = (tmp_path / "seen/timeline/pc1.txt").read_text()
    assert "is called by 192.168.1.3" in told and "accepts 192.168.1.3" in told


def test_two_worlds_are_captured_apart(tmp_path: Path) -> None:
    async def inner(world: World) -> None:
        world.capture(tmp_path / "inner.pcapng")
        world.host("x", start=serve_echo)
        await asyncio.sleep(1)
        async with world.host("y"):
            await ask("x")

    async def outer(world: World) -> None:
        world.capture(tmp_path / "outer.pcapng")
        await inner_is_run()

    async def inner_is_run() -> None:
        World(2).run(inner)

    with contextlib.suppress(Exception):
        World(1).run(outer)
    assert not frames_of(tmp_path / "outer.pcapng")
    assert set(links_of(tmp_path / "inner.pcapng")) == {"x | y"}


def test_a_file_is_no_longer_than_was_said(tmp_path: Path) -> None:
    async def test(world: World) -> tuple[int, int]:
        with world.capture(tmp_path / "all.pcapng", limit_bytes=2000) as capture:
            await talk(world)
        return capture.written_frames, capture.unwritten_frames

    written, unwritten = World(1).run(test)
    assert written > 0 and unwritten > 0
    assert (tmp_path / "all.pcapng").stat().st_size <= 2000
