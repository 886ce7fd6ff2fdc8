"""HTTP with aiohttp: `GET /` greets, `POST /echo` returns the body, `GET /count` streams numbers.

An HTTP request is a request line, headers, a blank line and a body (the four parts); aiohttp
reads and writes them over the same kind of transport as echo.py's. See them with `curl -v`.

    python examples/http_aiohttp.py --port 8080
"""

import argparse
import asyncio
import signal

from aiohttp import web

BODY_BYTES = 16 * 1024 * 1024  # aiohttp's own limit is 1 MiB


async def greet(request: web.Request) -> web.Response:
    """Answer a fixed text."""
    return web.Response(text="hello\n")


async def echo(request: web.Request) -> web.Response:
    """Answer the body that came."""
    try:
        return web.Response(body=await request.read())
    except ConnectionError:  # the client is gone, and left half of its body
        raise web.HTTPBadRequest from None


async def count(request: web.Request) -> web.StreamResponse:
    """Answer in pieces, as they come to be."""
    response = web.StreamResponse()
    await response.prepare(request)  # no Content-Length, so the body travels in chunks
    for number in range(int(request.query.get("to", 10))):
        await response.write(b"%d\n" % number)
    return response


async def serve(host: str, port: int) -> None:
    """Listen until a signal says stop."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    app = web.Application(client_max_size=BODY_BYTES)
    app.add_routes([web.get("/", greet), web.post("/echo", echo), web.get("/count", count)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    print("listening on {}:{}".format(*runner.addresses[0]), flush=True)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="HTTP, with aiohttp")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    options = parser.parse_args()
    asyncio.run(serve(options.host, options.port))
