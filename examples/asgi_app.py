"""An ASGI application, served by uvicorn: `GET /` greets, `POST /echo` returns the body.

The application knows neither sockets nor the loop: it is called with `receive` and `send`.
uvicorn chooses the loop, so here the model is swapped in two ways:

    underlay run --io epoll-et examples/asgi_app.py --port 8000
    uvicorn examples.asgi_app:app --loop underlay.loop:epoll_et --port 8000
"""

import argparse
import asyncio
import signal
import socket
from typing import Any

import uvicorn


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer one request."""
    if scope["type"] != "http":
        raise NotImplementedError(f"this application speaks http, not {scope['type']}")
    status = 200 if scope["path"] in ("/", "/echo") else 404
    headers = [(b"content-type", b"application/octet-stream")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if scope["path"] == "/echo":
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            part = message.get("body", b"")
            await send({"type": "http.response.body", "body": part, "more_body": more})
    else:
        text = b"hello\n" if status == 200 else b"not found\n"
        await send({"type": "http.response.body", "body": text})


class Server(uvicorn.Server):
    """uvicorn, saying where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        address = self.servers[0].sockets[0].getsockname()
        print("listening on {}:{}".format(*address), flush=True)


async def serve(host: str, port: int) -> None:
    """Run uvicorn until a signal says stop."""
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", lifespan="off")
    server = Server(config)
    # uvicorn has handlers of its own, and raises the signal once more when it has finished; with
    # these below its own, that second one is harmless and the exit status is 0
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, setattr, server, "should_exit", True)
    await server.serve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="an ASGI application on uvicorn")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    options = parser.parse_args()
    asyncio.run(serve(options.host, options.port))
