"""What `connect` and `listen` share: their options, and sockets and TLS made to order.

This file knows socket options (socket(7), tcp(7)) and TLS contexts. It refuses
to move a byte, and leaves the kernel's refusals to ``_complaints.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import ssl
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Literal

from ..errors import UnderlayError, UsageError
from ..loop import resolve
from ._address import Address, UnixPath
from ._complaints import reason
from ._say import say
from ._terminal import OutputGone

__all__ = [
    "Options",
    "add_options",
    "new_socket",
    "note",
    "options",
    "run",
    "tls",
]

# What a shell reports for a program that SIGPIPE ended: 128 + 13.
_BROKEN_PIPE = 141


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line; times in seconds, None for no limit or the kernel's choice."""

    side: Literal["connect", "listen"]
    udp: bool
    family: socket.AddressFamily
    timeout_s: float | None
    wait_s: float | None
    nodelay: bool
    keepalive: bool
    keepalive_idle_s: int | None
    keepalive_interval_s: int | None
    keepalive_count: int | None
    reuse_address: bool
    reuse_port: bool
    tls: bool
    cert: str | None
    key: str | None
    ca: str | None
    insecure: bool
    server_name: str | None
    alpn: tuple[str, ...]
    verbose: bool


def add_options(parser: argparse.ArgumentParser, side: Literal["connect", "listen"]) -> None:
    """Add the options that both commands have, in groups."""
    add = parser.add_argument
    add("--io", metavar="MODEL", default="auto", help="the I/O model to run on (default: auto)")
    add("-v", "--verbose", action="store_true", help="say on stderr who is connected")
    kind = parser.add_argument_group("what kind of socket")
    kind.add_argument("--udp", action="store_true", help="UDP; each read of stdin is one datagram")
    kind.add_argument("--unix", action="store_true", help="a Unix socket: the address is its path")
    families = kind.add_mutually_exclusive_group()
    families.add_argument("-4", dest="ipv4", action="store_true", help="IPv4 only")
    families.add_argument("-6", dest="ipv6", action="store_true", help="IPv6 only")

    times = parser.add_argument_group(
        "time-outs", "A time-out does not disconnect by itself: it is an error, on which we close."
    )
    covers = "connecting takes longer, or " if side == "connect" else ""
    times.add_argument(
        "--timeout", type=_seconds, metavar="S", help=f"fail when {covers}no byte moves either way for S seconds"
    )
    times.add_argument(
        "--wait",
        type=_seconds,
        metavar="S",
        help="once one side has ended, end when the other is silent for S seconds (default: 0.5 after the peer's"
        " end; after ours 1 with TLS and UDP, without limit elsewhere)",
    )

    reuse = parser.add_argument_group("binding an address that is in use")
    reuse.add_argument(
        "--reuse-address",
        action=argparse.BooleanOptionalAction,
        default=side == "listen",
        help="SO_REUSEADDR: past old connections that are not over (TIME_WAIT)",
    )
    reuse.add_argument("--reuse-port", action="store_true", help="SO_REUSEPORT: beside others that set it too")

    tcp = parser.add_argument_group("TCP")
    tcp.add_argument(
        "--nodelay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="TCP_NODELAY: small pieces leave at once (asyncio's default)",
    )
    tcp.add_argument("--keepalive", action="store_true", help="SO_KEEPALIVE: probe a silent peer; as below, or")
    tcp.add_argument("--keepalive-idle", type=_count, metavar="S", help="first after S seconds (kernel: 7200)")
    tcp.add_argument("--keepalive-interval", type=_count, metavar="S", help="then every S seconds (kernel: 75)")
    tcp.add_argument("--keepalive-count", type=_count, metavar="N", help="give up after N probes (kernel: 9)")

    secure = parser.add_argument_group("TLS")
    secure.add_argument("--tls", action="store_true", help="encrypt, by TLS 1.2 or 1.3")
    secure.add_argument("--cert", metavar="FILE", help="our certificate, with its chain, as PEM")
    secure.add_argument("--key", metavar="FILE", help="its private key (default: it is in --cert)")
    if side == "connect":
        secure.add_argument("--ca", metavar="FILE", help="trust these authorities, not the system's")
        secure.add_argument("--insecure", action="store_true", help="accept any certificate")
        secure.add_argument("--server-name", metavar="NAME", help="the name to ask for (SNI) and to verify")
    else:
        secure.add_argument("--ca", metavar="FILE", help="demand a certificate of clients, signed by these")
    secure.add_argument("--alpn", metavar="NAMES", default="", help="protocols to offer, with commas: h2,http/1.1")


def options(args: argparse.Namespace, side: Literal["connect", "listen"], address: Address) -> Options:
    """Gather the options, and raise ``UsageError`` for those that contradict each other or the address."""
    keepalive_details = (args.keepalive_idle, args.keepalive_interval, args.keepalive_count)
    chosen = Options(
        side=side,
        udp=args.udp,
        family=socket.AF_INET if args.ipv4 else socket.AF_INET6 if args.ipv6 else socket.AF_UNSPEC,
        timeout_s=args.timeout,
        wait_s=args.wait,
        nodelay=args.nodelay,
        keepalive=args.keepalive or any(value is not None for value in keepalive_details),
        keepalive_idle_s=args.keepalive_idle,
        keepalive_interval_s=args.keepalive_interval,
        keepalive_count=args.keepalive_count,
        reuse_address=args.reuse_address,
        reuse_port=args.reuse_port,
        tls=args.tls,
        cert=args.cert,
        key=args.key,
        ca=args.ca,
        insecure=getattr(args, "insecure", False),
        server_name=getattr(args, "server_name", None),
        alpn=tuple(filter(None, args.alpn.split(","))),
        verbose=args.verbose,
    )
    is_unix = isinstance(address, UnixPath)
    for given, word in ((is_unix, f"{address} is a Unix socket"), (chosen.udp, "--udp")):
        if given and chosen.keepalive:
            raise UsageError(f"--keepalive is an option of TCP, and {word} is not", remedy="leave it out")
    if is_unix and chosen.udp:
        raise UsageError("--udp and a Unix socket exclude each other", remedy="leave one out")
    if is_unix and chosen.family != socket.AF_UNSPEC:
        raise UsageError("-4 and -6 are about IP, and a Unix socket has none", remedy="leave it out")
    if chosen.udp and chosen.tls:
        raise UsageError("--tls needs a stream, and --udp has none", remedy="leave one out")
    if not chosen.tls:
        for value, name in (
            (chosen.cert, "--cert"),
            (chosen.key, "--key"),
            (chosen.ca, "--ca"),
            (chosen.insecure, "--insecure"),
            (chosen.server_name, "--server-name"),
            (chosen.alpn, "--alpn"),
        ):
            if value:
                raise UsageError(f"{name} is an option of TLS", remedy="add --tls")
    if chosen.insecure and chosen.ca:
        raise UsageError("--ca says whom to trust, --insecure to trust anybody", remedy="leave one out")
    return chosen


def run(work: Coroutine[object, object, None], model: str, describe: str) -> int:
    """Run the command's work on an I/O model and return its exit status.

    A network failure that nobody has explained is told after ``describe``, which
    says what was tried. Ctrl-C is left to the command line. SIGTERM and SIGHUP
    end the process as ever, but not before it has removed what it made.
    """
    try:
        factory = resolve(model)
    except UnderlayError:
        work.close()
        raise
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            ended_by = runner.run(_until_ended(work))
    except OutputGone:
        return _BROKEN_PIPE
    except OSError as error:
        raise UnderlayError(f"{describe}: {reason(error)}") from error
    if ended_by is not None:
        signal.signal(ended_by, signal.SIG_DFL)
        os.kill(os.getpid(), ended_by)  # whoever sent it looks for this end: wait(2), WIFSIGNALED
    return 0


async def _until_ended(work: Coroutine[object, object, None]) -> signal.Signals | None:
    """Await `work` and give None, or the signal that cancelled it."""
    ended_by: list[signal.Signals] = []
    task = asyncio.current_task()
    assert task is not None

    def end(number: signal.Signals) -> None:
        ended_by.append(number)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup(1) has SIGHUP ignored
            asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        await work
    except asyncio.CancelledError:
        if not ended_by:
            raise
    return ended_by[0] if ended_by else None


def note(chosen: Options, text: str) -> None:
    """Tell the person at the terminal, if they asked with -v."""
    if chosen.verbose:
        say(text)


def new_socket(family: int, chosen: Options) -> socket.socket:
    """A socket of the family and kind that was asked for, with its options set, not yet bound or connected."""
    sock = socket.socket(family, socket.SOCK_DGRAM if chosen.udp else socket.SOCK_STREAM)
    sock.setblocking(False)
    if chosen.reuse_address:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if chosen.reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    set_keepalive(sock, chosen)
    return sock


def set_keepalive(sock: socket.socket, chosen: Options) -> None:
    """Let the kernel probe a silent peer as asked (tcp(7)); an accepted socket inherits it from its listener."""
    if not chosen.keepalive:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", chosen.keepalive_idle_s),
        ("TCP_KEEPINTVL", chosen.keepalive_interval_s),
        ("TCP_KEEPCNT", chosen.keepalive_count),
    ):
        if value is not None and hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def tls(chosen: Options) -> ssl.SSLContext | None:
    """The TLS context that was asked for, or None; ``UsageError`` for files that hold no certificate or key."""
    if not chosen.tls:
        return None
    if chosen.side == "connect":
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        if chosen.ca:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if chosen.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if not chosen.cert:
            raise UsageError(
                "a TLS listener needs a certificate",
                remedy="--cert FILE names one; `openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost "
                "-addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem` makes one to try with",
            )
        if chosen.ca:
            context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996 retires what came before
    if chosen.ca:
        try:
            context.load_verify_locations(chosen.ca)
        except OSError as error:
            raise UsageError(f"--ca {chosen.ca}: {_file_reason(error, 'certificate')}") from error
    if chosen.cert:
        try:
            context.load_cert_chain(chosen.cert, chosen.key, password=lambda: b"")
        except OSError as error:
            files = chosen.cert if chosen.key is None else f"{chosen.cert} with --key {chosen.key}"
            raise UsageError(f"--cert {files}: {_file_reason(error, 'certificate and its key')}") from error
    elif chosen.key:
        raise UsageError("--key needs the certificate that it belongs to", remedy="add --cert FILE")
    if chosen.alpn:
        context.set_alpn_protocols(list(chosen.alpn))
    return context


def _file_reason(error: OSError, wanted: str) -> str:
    if isinstance(error, ssl.SSLError):
        return f"the file holds no {wanted}, as PEM and without a password"
    return f"cannot read it ({reason(error)})"


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    # MAX_TCP_KEEPIDLE and its like in include/net/tcp.h are 32767, the count's is 127.
    if not 0 < value <= 32_767:
        raise ValueError
    return value


_seconds.__name__ = "number of seconds"  # argparse names a type by it
_count.__name__ = "whole number"
