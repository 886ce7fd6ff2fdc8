"""The server that most worlds of the tests have: it gives back what it is told.

It knows asyncio's streams, and nothing of a simulation.
"""

from __future__ import annotations

import asyncio

PORT = 7


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


async def serve_echo() -> None:
    """Serve at `PORT`, for ever."""
    async with await asyncio.start_server(echo, port=PORT) as server:
        await server.serve_forever()
