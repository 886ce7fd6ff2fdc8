"""Echo over a Unix socket: the same stream, addressed by a path, and on this machine only.

No IP, no TCP, no checksum: the kernel copies from one process to the other. Who may connect is a
matter of the file's permissions.

    python examples/unix_echo.py --path /tmp/echo.sock        (then: nc -U /tmp/echo.sock)
"""

import argparse
import asyncio
import signal
import tempfile
from pathlib import Path

CHUNK_BYTES = 65536  # asyncio's own limit for what a stream keeps unread


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client until it ends its half, or goes."""
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass  # the client is gone, or the server stops
    finally:
        writer.close()


async def serve(path: Path) -> None:
    """Listen until a signal says stop."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = await asyncio.start_unix_server(echo, path)
    print(f"listening on {path}", flush=True)
    await stop.wait()
    server.close()
    path.unlink(missing_ok=True)  # until Python 3.13 the file outlives the server


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="echo over a Unix socket")
    parser.add_argument("--path", type=Path, help="of the socket (default: in a temporary directory)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="unix_echo-") as directory:
        asyncio.run(serve(options.path or Path(directory, "echo.sock")))
