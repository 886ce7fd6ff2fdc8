"""Unmodified libraries as programs of a simulated world: a server, and a client that tells whether all came out right.

Each is an `asyncio` program as a person writes it with that library, and does not know that its hosts are simulated.
The client reaches its server under the name ``server``, and asserts every byte. `test_sim_libraries` runs them.

    python -m tests.journeys._sim_libraries SEED FOLDER     a run of each, captured as pcapng
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.web
import httpx
import redis.asyncio
import starlette.applications
import starlette.requests
import starlette.responses
import starlette.routing
import trustme
import uvicorn
import websockets

from underlay.sim import World
from underlay.trace import capture

PORT = 8000
# More than one window of a young connection, so that losses fall into the middle of messages.
BODY = bytes(range(256)) * 200

Program = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Pair:
    """The programs of two hosts."""

    name: str
    server: Program
    client: Program


# --- aiohttp ----------------------------------------------------------------------------------------------------------


async def aiohttp_server() -> None:
    async def upper(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(body=(await request.read()).swapcase())

    async def count(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        answer = aiohttp.web.StreamResponse()
        await answer.prepare(request)
        for number in range(5):
            await answer.write(b"%d\n" % number)
            await asyncio.sleep(0.05)
        return answer

    app = aiohttp.web.Application()
    app.add_routes([aiohttp.web.post("/upper", upper), aiohttp.web.get("/count", count)])
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "0.0.0.0", PORT).start()
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def aiohttp_client() -> None:
    async with aiohttp.ClientSession(f"http://server:{PORT}") as session:

        async def upper(body: bytes) -> None:
            async with session.post("/upper", data=body) as answer:
                assert answer.status == 200
                assert await answer.read() == body.swapcase()

        await asyncio.gather(*(upper(b"hello %d" % number) for number in range(5)), upper(BODY))
        async with session.get("/count") as answer:
            assert await answer.text() == "0\n1\n2\n3\n4\n"
        async with session.get("/nothing") as answer:
            assert answer.status == 404


# --- httpx, uvicorn, Starlette ----------------------------------------------------------------------------------------


async def starlette_server() -> None:
    async def upper(request: starlette.requests.Request) -> starlette.responses.Response:
        return starlette.responses.Response((await request.body()).swapcase())

    async def count(request: starlette.requests.Request) -> starlette.responses.Response:
        async def numbers() -> AsyncIterator[bytes]:
            for number in range(5):
                yield b"%d\n" % number
                await asyncio.sleep(0.05)

        return starlette.responses.StreamingResponse(numbers())

    app = starlette.applications.Starlette(
        routes=[
            starlette.routing.Route("/upper", upper, methods=["POST"]),
            starlette.routing.Route("/count", count),
        ]
    )
    await uvicorn.Server(uvicorn.Config(app, host="0.0.0.0", port=PORT, log_level="warning", lifespan="off")).serve()


async def httpx_client() -> None:
    async with httpx.AsyncClient(base_url=f"http://server:{PORT}", timeout=60, trust_env=False) as client:

        async def upper(body: bytes) -> None:
            answer = await client.post("/upper", content=body)
            assert answer.status_code == 200
            assert answer.content == body.swapcase()

        await asyncio.gather(*(upper(b"hello %d" % number) for number in range(5)), upper(BODY))
        async with client.stream("GET", "/count") as answer:
            assert "".join([text async for text in answer.aiter_text()]) == "0\n1\n2\n3\n4\n"
        assert (await client.get("/nothing")).status_code == 404


# --- websockets -------------------------------------------------------------------------------------------------------


async def websockets_server() -> None:
    async def swap(socket: websockets.ServerConnection) -> None:
        async for message in socket:
            await socket.send(message.swapcase())

    async with websockets.serve(swap, "0.0.0.0", PORT) as server:
        await server.serve_forever()


async def websockets_client() -> None:
    async def talk(number: int) -> None:
        async with websockets.connect(f"ws://server:{PORT}", proxy=None) as socket:
            for text in ("hello", f"number {number}", "x" * 50_000):
                await socket.send(text)
                assert await socket.recv() == text.swapcase()
            await socket.send(BODY)
            assert await socket.recv() == BODY.swapcase()
            await (await socket.ping())

    await asyncio.gather(*(talk(number) for number in range(3)))


# --- redis-py ---------------------------------------------------------------------------------------------------------


async def redis_server() -> None:
    """As much of a Redis as the client below needs: RESP 2, strings, lists, publish and subscribe."""
    strings: dict[bytes, bytes] = {}
    lists: dict[bytes, asyncio.Queue[bytes]] = {}
    subscribers: dict[bytes, list[asyncio.StreamWriter]] = {}

    def bulk(value: bytes | None) -> bytes:
        return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)

    def array(*values: bytes) -> bytes:
        return b"*%d\r\n%b" % (len(values), b"".join(values))

    async def answer(words: list[bytes], writer: asyncio.StreamWriter) -> bytes:
        command, *rest = words
        match command.upper(), rest:
            case b"HELLO", _:
                return b"-ERR unknown command 'HELLO'\r\n"
            case b"PING", _:
                return b"+PONG\r\n"
            case b"SET", [key, value, *_]:
                strings[key] = value
                return b"+OK\r\n"
            case b"GET", [key]:
                return bulk(strings.get(key))
            case b"INCRBY", [key, amount]:
                strings[key] = b"%d" % (int(strings.get(key, b"0")) + int(amount))
                return b":%b\r\n" % strings[key]
            case b"RPUSH", [key, *values]:
                for value in values:
                    lists.setdefault(key, asyncio.Queue()).put_nowait(value)
                return b":%d\r\n" % len(values)
            case b"BLPOP", [key, _]:
                return array(bulk(key), bulk(await lists.setdefault(key, asyncio.Queue()).get()))
            case b"SUBSCRIBE", [channel]:
                subscribers.setdefault(channel, []).append(writer)
                return array(bulk(b"subscribe"), bulk(channel), b":1\r\n")
            case b"UNSUBSCRIBE", [channel]:
                subscribers[channel].remove(writer)
                return array(bulk(b"unsubscribe"), bulk(channel), b":0\r\n")
            case b"PUBLISH", [channel, message]:
                for each in subscribers.get(channel, []):
                    each.write(array(bulk(b"message"), bulk(channel), bulk(message)))
                return b":%d\r\n" % len(subscribers.get(channel, []))
            case b"CLIENT", _:
                return b"+OK\r\n"
        return b"-ERR unknown command '%b'\r\n" % command

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    size_bytes = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size_bytes + 2))[:-2])
                writer.write(await answer(words, writer))
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "0.0.0.0", PORT) as server:
        await server.serve_forever()


async def redis_client() -> None:
    async with redis.asyncio.Redis(host="server", port=PORT, protocol=2) as client:
        assert await client.ping()
        await client.set("body", BODY)
        assert await client.get("body") == BODY
        assert await client.get("nothing") is None
        counts = await asyncio.gather(*(client.incr("count") for _ in range(10)))
        assert sorted(counts) == list(range(1, 11))
        async with client.pipeline(transaction=False) as pipeline:
            for number in range(20):
                pipeline.set(f"key {number}", number)
                pipeline.get(f"key {number}")
            assert (await pipeline.execute())[1::2] == [b"%d" % number for number in range(20)]
        waiting = asyncio.ensure_future(client.blpop(["jobs"]))
        await asyncio.sleep(0.1)
        assert await client.rpush("jobs", "a job") == 1
        assert list(await waiting or ()) == [b"jobs", b"a job"]
        async with client.pubsub() as news:
            await news.subscribe("news")
            heard = []
            async for message in news.listen():
                if message["type"] == "subscribe":
                    assert await client.publish("news", "it works") == 1
                else:
                    heard.append(message["data"])
                    break
            assert heard == [b"it works"]


# --- streams over TLS -------------------------------------------------------------------------------------------------


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server", key_type=trustme.KeyType.ECDSA).configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


async def tls_server() -> None:
    async def swap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.swapcase())
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(swap, "0.0.0.0", PORT, ssl=contexts()[0]) as server:
        await server.serve_forever()


async def tls_client() -> None:
    async def talk(number: int) -> None:
        reader, writer = await asyncio.open_connection("server", PORT, ssl=contexts()[1])
        for line in (b"hello %d\n" % number, b"x" * 50_000 + b"\n"):
            writer.write(line)
            await writer.drain()
            assert await reader.readline() == line.swapcase()
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(talk(number) for number in range(3)))


PAIRS = (
    Pair("aiohttp", aiohttp_server, aiohttp_client),
    Pair("httpx and uvicorn", starlette_server, httpx_client),
    Pair("websockets", websockets_server, websockets_client),
    Pair("redis-py", redis_server, redis_client),
    Pair("TLS", tls_server, tls_client),
)


def play(pair: Pair, seed: int) -> None:
    """Run both programs on a bad network."""

    async def test(world: World) -> None:
        world.host("server", start=pair.server)
        async with world.host("client"):
            await asyncio.sleep(1)
            await pair.client()

    World(seed, loss="1%", jitter="5ms").run(test)


if __name__ == "__main__":
    for each in PAIRS:
        with capture(Path(sys.argv[2]) / f"{each.name}.pcapng"):
            play(each, int(sys.argv[1]))
