"""Echo over TLS: nobody on the wire can read or change it, and the server proves its name.

Without --cert and --key it makes a certificate authority and a certificate of its own (with
`trustme`) in a temporary directory, which goes with it; the second line printed names the file
that a client should trust.

    python examples/tls_echo.py --port 8443
    openssl s_client -connect 127.0.0.1:8443 -CAfile /tmp/…/ca.pem -quiet
"""

import argparse
import asyncio
import signal
import ssl
import tempfile
from contextlib import suppress
from pathlib import Path

CHUNK_BYTES = 65536  # asyncio's own limit for what a stream keeps unread
GOOD_BYE_S = 1  # how long a client may take to end its TLS; asyncio's own limit is 30


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client; its bytes are plain text here."""
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, ssl.SSLError, asyncio.CancelledError):
        pass  # the client is gone, with or without TLS's good-bye, or the server stops
    finally:
        writer.close()
        with suppress(OSError):  # TLS ends by a good-bye from both sides
            await writer.wait_closed()


async def serve(host: str, port: int, context: ssl.SSLContext, trust: Path | None) -> None:
    """Listen until a signal says stop."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = await asyncio.start_server(echo, host, port, ssl=context, ssl_shutdown_timeout=GOOD_BYE_S)
    print("listening on {}:{}".format(*server.sockets[0].getsockname()), flush=True)
    if trust:
        print(f"trust {trust}", flush=True)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="echo over TLS")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--cert", help="a certificate chain, PEM")
    parser.add_argument("--key", help="its private key, PEM (default: in the file of --cert)")
    options = parser.parse_args()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if options.cert:
        context.load_cert_chain(options.cert, options.key)
        asyncio.run(serve(options.host, options.port, context, None))
    else:
        try:
            import trustme
        except ImportError:
            parser.exit(
                2,
                "tls_echo.py: trustme, which makes the certificate, is not installed; in the clone of this repository "
                "`python3 -m pip install '.[examples]'` installs it, or name a certificate by --cert\n",
            )

        authority = trustme.CA()
        authority.issue_cert("localhost", options.host).configure_cert(context)
        with tempfile.TemporaryDirectory(prefix="tls_echo-") as directory:
            authority.cert_pem.write_to_path(Path(directory, "ca.pem"))
            asyncio.run(serve(options.host, options.port, context, Path(directory, "ca.pem")))
