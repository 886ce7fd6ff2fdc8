"""HTTP and WebSocket with Tornado, whose IOLoop is today a face on the asyncio loop.

Tornado brings transports of its own: it asks the loop only "tell me when this socket can be read
or written" (add_reader, add_writer) and makes the system calls itself. What works here works for
any such program.

    python examples/tornado_app.py --port 8888
"""

import argparse
import asyncio
import signal

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler


class Greet(RequestHandler):
    """`/`: a fixed text."""

    def get(self) -> None:
        self.write("hello\n")


class Echo(RequestHandler):
    """`/echo`: the body that came."""

    def post(self) -> None:
        self.write(self.request.body)


class Socket(WebSocketHandler):
    """`/socket`: each message goes back."""

    async def on_message(self, message: str | bytes) -> None:
        await self.write_message(message, binary=isinstance(message, bytes))


async def serve(host: str, port: int) -> None:
    """Listen until a signal says stop."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sockets = bind_sockets(port, host)
    server = HTTPServer(Application([("/", Greet), ("/echo", Echo), ("/socket", Socket)]))
    server.add_sockets(sockets)
    print("listening on {}:{}".format(*sockets[0].getsockname()), flush=True)
    await stop.wait()
    server.stop()
    await server.close_all_connections()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="HTTP and WebSocket, with Tornado")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    options = parser.parse_args()
    asyncio.run(serve(options.host, options.port))
