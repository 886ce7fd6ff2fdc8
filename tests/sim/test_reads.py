"""What seeds vary and what they do not: where a read ends, and the order of callbacks.

It knows one host's loop and its streams. What the network does by chance is in `test_internet.py`.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.sim import World

MESSAGE = b"%100d"


async def answer_each_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The mistake that everybody makes once: one read() is one message."""
    while message := await reader.read(1000):
        writer.write(b"ok\n" if len(message) == 100 else b"what?\n")
    writer.close()


async def answer_each_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await reader.readexactly(100)
            writer.write(b"ok\n")
    except asyncio.IncompleteReadError:
        writer.close()


def answers(seed: int, handler: object, calls: int = 10) -> list[bytes]:
    async def serve() -> None:
        async with await asyncio.start_server(handler, port=7) as server:  # type: ignore[arg-type]
            await server.serve_forever()

    async def test(world: World) -> list[bytes]:
        world.host("server", start=serve)
        async with world.host("client"):
            await asyncio.sleep(1)
            reader, writer = await asyncio.open_connection("server", 7)
            given = []
            for number in range(calls):
                writer.write(MESSAGE % number)
                given.append(await reader.readline())
            writer.close()
            return given

    return World(seed).run(test)


def test_a_reader_that_takes_one_read_for_one_message_fails_within_20_seeds() -> None:
    assert any(b"what?\n" in answers(seed, answer_each_read) for seed in range(20))


def test_a_reader_that_counts_bytes_never_notices() -> None:
    for seed in range(20):
        assert answers(seed, answer_each_message) == [b"ok\n"] * 10


def test_most_reads_give_all_that_is_there() -> None:
    given = [answer for seed in range(20) for answer in answers(seed, answer_each_read, 50)]
    assert 0.9 < given.count(b"ok\n") / len(given) < 1


def test_where_reads_end_is_the_seeds_and_the_same_each_time() -> None:
    once = [answers(seed, answer_each_read, 50) for seed in range(5)]
    assert once == [answers(seed, answer_each_read, 50) for seed in range(5)]
    assert len({tuple(each) for each in once}) > 1


@pytest.mark.parametrize("buffered", [False, True])
def test_a_protocol_is_given_parts_and_loses_nothing(buffered: bool) -> None:
    data = bytes(range(256)) * 400

    class Plain(asyncio.Protocol):
        def __init__(self) -> None:
            self.got: list[bytes] = []
            self.done = asyncio.get_running_loop().create_future()

        def data_received(self, data: bytes) -> None:
            self.got.append(data)

        def connection_lost(self, error: Exception | None) -> None:
            self.done.set_result(None)

    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.got: list[bytes] = []
            self.done = asyncio.get_running_loop().create_future()
            self._buffer = bytearray(1000)

        def get_buffer(self, sizehint: int) -> bytearray:
            return self._buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.got.append(bytes(self._buffer[:nbytes]))

        def connection_lost(self, error: Exception | None) -> None:
            self.done.set_result(None)

    async def test(world: World) -> list[bytes]:
        async def give(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(data)
            writer.close()

        async def serve() -> None:
            async with await asyncio.start_server(give, port=7) as server:
                await server.serve_forever()

        world.host("server", start=serve)
        async with world.host("client"):
            await asyncio.sleep(1)
            loop = asyncio.get_running_loop()
            protocol = Buffered() if buffered else Plain()
            await loop.create_connection(lambda: protocol, "server", 7)
            await protocol.done
            return protocol.got

    got = World(1).run(test)
    assert b"".join(got) == data
    assert not buffered or any(len(each) < 1000 for each in got[:-1])


@given(st.integers(0, 10**6), st.lists(st.sampled_from(["soon", "task", "zero"]), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_callbacks_come_in_the_order_in_which_they_were_asked_for(seed: int, kinds: list[str]) -> None:
    async def test(world: World) -> list[int]:
        order: list[int] = []

        async def note(number: int) -> None:
            order.append(number)

        async with world.host("a"):
            loop = asyncio.get_running_loop()
            tasks = []
            for number, kind in enumerate(kinds):
                if kind == "task":
                    tasks.append(asyncio.ensure_future(note(number)))
                else:
                    loop.call_soon(order.append, number)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return order

    assert World(seed).run(test) == list(range(len(kinds)))
