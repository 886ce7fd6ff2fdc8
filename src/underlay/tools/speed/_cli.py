"""The command `underlay speed`: its options, what it prints, its exit status.

It reads the command line into `Settings`, lets `_client.py` or `_server.py` do the work, and chooses who shows it.
Exit status: 0 when the test was done (for a server also when Ctrl-C ended it), 1 when it was refused, broke, or there
is no server, 2 for a mistake in the asking, 130 when a client was interrupted (what was measured by then is shown).
"""

from __future__ import annotations

import argparse
import math
import re
import select
import signal
import socket
import sys
from typing import Final

from ...errors import UnderlayError, UsageError
from .._address import Place, parse_host
from ._client import Client
from ._protocol import PORT
from ._server import Server
from ._settings import INTERVALS, UDP_RATE_BITS_PER_S, Direction, Settings, is_interval
from ._show import JsonShow, PlainShow, TerminalShow
from ._watcher import Watcher

__all__ = ["configure", "main"]

_DESCRIPTION = """\
Measure how fast the way to a server is, by TCP or UDP, or be that server. It
speaks iperf3's protocol: the other end may be a stock iperf3."""

_EPILOG = """\
Sizes take K, M, G (of 1024), rates K, M, G (of 1000).

examples:
  underlay speed --server                    wait for clients on port 5201
  underlay speed 10.0.0.1                    10 s of TCP to the server there
  underlay speed 10.0.0.1 -R -P 4            four streams, from there to here
  underlay speed 10.0.0.1 -u -b 50M          UDP: loss and jitter at 50 Mbit/s
  underlay speed [fd00::1]:5202 -n 1G --json | jq .totals

exit status:
  0  the test is done (a server: it was stopped)
  1  refused, broken off, or nobody answers
  2  a mistake in the asking
  130  Ctrl-C; what was measured is shown"""

_INTERRUPTED: Final = 130
# A reader that lives reads what a pipe holds in less.
_READER_PATIENCE_S: Final = 2.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options, with iperf3's letters where it has some."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.usage = "underlay speed [options] HOST[:PORT]\n       underlay speed --server [options] [ADDRESS[:PORT]]"
    add = parser.add_argument
    add("address", nargs="?", metavar="HOST[:PORT]", help=f"the server; the port is {PORT} unless told")
    add("-s", "--server", action="store_true", help="be the server, at this address or at all")
    add("-1", "--one-off", action="store_true", help="server: end after one test")
    add("-p", "--port", type=_port, metavar="N", help="the port, if not with the address; 0: a free one")
    _add_test(parser)
    family = parser.add_mutually_exclusive_group()
    family.add_argument("-4", dest="family", action="store_const", const=socket.AF_INET, help="IPv4 only")
    family.add_argument("-6", dest="family", action="store_const", const=socket.AF_INET6, help="IPv6 only")
    add("-i", "--interval", type=_interval, default=1.0, metavar="S", help="between reports (default 1; 0: none)")
    add("--json", action="store_true", help="print JSON: a server, one object a line for each test")


def main(args: argparse.Namespace) -> int:
    """Be a client or a server."""
    if args.server:
        return _serve(args)
    if args.one_off:
        raise UsageError("--one-off is about a server", remedy="add --server, or leave it out")
    if args.address is None:
        raise UsageError("no server is named", remedy="`underlay speed HOST` tests the way to it, --server is one")
    place = _place(args.address, args.port)
    if place.port == 0:
        raise UsageError("port 0 is no server's", remedy="it lets a server's kernel choose: see what that listens on")
    show = _show(args, at_client=True)
    client = Client(
        place,
        _settings(args),
        args.family or socket.AF_UNSPEC,
        args.bind or "",
        args.connect_timeout,
        args.interval,
        show,
    )
    try:
        client.run()
    except (KeyboardInterrupt, UnderlayError) as error:
        is_ours = isinstance(error, KeyboardInterrupt)
        found = client.partial()
        if isinstance(show, JsonShow) and not isinstance(error, UsageError):
            show.broken(UnderlayError("interrupted" if is_ours else str(error)), found)
        elif found is not None:
            show.finished(found)
        if is_ours:
            return _INTERRUPTED
        raise
    finally:
        _close(show)
    return 0


def _serve(args: argparse.Namespace) -> int:
    _refuse_what_a_client_chooses(args)
    port = PORT if args.port is None else args.port
    place = Place("", port) if args.address is None else _place(args.address, args.port)
    show = _show(args, at_client=False)
    with Server(
        "" if place.host == "*" else place.host,
        place.port,
        family=args.family or socket.AF_UNSPEC,
        interval_s=args.interval,
        watcher=show,
    ) as server:
        asked_by = signal.SIGINT

        def end(*_: object) -> None:
            nonlocal asked_by
            asked_by = signal.SIGTERM
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends us wherever we are
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, end)
        try:
            return 0 if server.serve(one_off=args.one_off) or not args.one_off else 1
        except KeyboardInterrupt:
            return 0  # how a server usually ends
        finally:
            if server.is_stuck or not _is_read():
                # Whoever waits in write(2) for a reader has the lock of stdout, and Python flushes it as it exits.
                signal.signal(asked_by, signal.SIG_DFL)
                signal.raise_signal(asked_by)
            signal.signal(signal.SIGTERM, before)
            _close(show)


def _is_read() -> bool:
    """Whether stdout takes more, now or in a moment: a full pipe does not that nobody reads, nor a stopped terminal."""
    if sys.stdout is None:
        return True
    room = select.poll()
    room.register(sys.stdout, select.POLLOUT)
    return bool(room.poll(_READER_PATIENCE_S * 1000))


def _add_test(parser: argparse.ArgumentParser) -> None:
    test = parser.add_argument_group("the test, which the client chooses")
    add = test.add_argument
    add("-u", "--udp", action="store_true", help="UDP instead of TCP")
    add("-b", "--bitrate", type=_rate, metavar="RATE", help="bits/s of each stream; 0: no limit (UDP: 1 Mbit/s)")
    way = test.add_mutually_exclusive_group()
    way.add_argument("-R", "--reverse", action="store_true", help="the server sends")
    way.add_argument("--bidir", action="store_true", help="both send at once")
    add("-P", "--parallel", type=_whole, default=1, metavar="N", help="streams, up to 128")
    end = test.add_mutually_exclusive_group()
    end.add_argument("-t", "--time", type=_seconds, metavar="S", help="how long (default 10)")
    end.add_argument("-n", "--bytes", type=_size, metavar="SIZE", help="end after so many bytes instead")
    end.add_argument("-k", "--blockcount", type=_size, metavar="N", help="end after so many blocks instead")
    add("-O", "--omit", type=_whole, default=0, metavar="S", help="seconds before, which do not count")
    add("-l", "--length", type=_size, default=0, metavar="SIZE", help="bytes in a block or datagram")
    add("-w", "--window", type=_size, default=0, metavar="SIZE", help="both ends' socket buffers")
    add("-M", "--set-mss", type=_size, default=0, metavar="N", help="TCP's maximum segment size")
    add("-N", "--no-delay", action="store_true", help="TCP without Nagle's algorithm")
    add("-C", "--congestion", default="", metavar="NAME", help="TCP's congestion control: cubic, reno, bbr")
    add("-S", "--tos", type=_tos, default=0, metavar="N", help="IP's type of service, 0 to 255, or 0x20")
    add("-Z", "--zerocopy", action="store_true", help="TCP: send by sendfile(2)")
    add("--udp-counters-64bit", action="store_true", help="for more than 4,294,967,295 datagrams")
    add("-B", "--bind", metavar="ADDRESS", help="send from this address")
    add("--connect-timeout", type=_seconds, default=5.0, metavar="S", help="how long to try (default 5)")


def _refuse_what_a_client_chooses(args: argparse.Namespace) -> None:
    test = argparse.ArgumentParser(add_help=False)
    _add_test(test)
    for name, default in vars(test.parse_args([])).items():
        if getattr(args, name) != default:
            raise UsageError(
                f"--{name.replace('_', '-')} is the client's to choose", remedy="leave it out where --server stands"
            )


def _settings(args: argparse.Namespace) -> Settings:
    if args.udp and (args.zerocopy or args.congestion or args.set_mss or args.no_delay):
        raise UsageError("-Z, -C, -M and -N are about TCP", remedy="leave them out, or -u")
    direction = Direction.REVERSE if args.reverse else Direction.BIDIRECTIONAL if args.bidir else Direction.NORMAL
    rate = args.bitrate if args.bitrate is not None else UDP_RATE_BITS_PER_S if args.udp else 0
    if args.bytes == 0 or args.blockcount == 0:
        raise UsageError("a test of no bytes measures nothing", remedy="-n and -k take 1 or more")
    return Settings(
        protocol="udp" if args.udp else "tcp",
        direction=direction,
        parallel=args.parallel,
        time_s=10.0 if args.time is None else args.time,
        size_bytes=args.bytes or 0,
        blocks=args.blockcount or 0,
        omit_s=args.omit,
        length_bytes=args.length,
        rate_bits_per_s=rate,
        window_bytes=args.window,
        mss_bytes=args.set_mss,
        no_delay=args.no_delay,
        congestion=args.congestion,
        tos=args.tos,
        zero_copy=args.zerocopy,
        udp_counters_64bit=args.udp_counters_64bit,
    )


def _place(text: str, port: int | None) -> Place:
    host, beside = parse_host(text)
    if beside is not None and port is not None and beside != port:
        raise UsageError(f"two ports, {beside} and {port}", remedy="leave one of them out")
    if host.isascii() and host.isdigit():  # inet_aton(3) would take it for an address
        raise UsageError(f"{text!r} is a number and no host", remedy=f"-p {text} names the port")
    if not host:
        raise UsageError(f"{text!r} has no host", remedy="write it like 10.0.0.1, [::1]:5201 or lab.example:5201")
    return Place(host, next((each for each in (beside, port) if each is not None), PORT))


def _show(args: argparse.Namespace, *, at_client: bool) -> Watcher:
    if args.json:
        return JsonShow(at_client=at_client)
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return TerminalShow(at_client=at_client) if is_terminal else PlainShow(at_client=at_client)


def _close(show: Watcher) -> None:
    if isinstance(show, TerminalShow):
        show.close()


_UNITS: Final = "KMGT"


def _scaled(text: str, base: int, what: str) -> int:
    found = re.fullmatch(r"(\d{1,20}(?:\.\d{1,9})?)([KMGTkmgt]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}; write it like 1000, 10M or 1.5G")
    power = _UNITS.index(found[2].upper()) + 1 if found[2] else 0
    value = float(found[1]) * base**power if "." in found[1] else int(found[1]) * base**power
    return int(value)


def _size(text: str) -> int:
    return _scaled(text, 1024, "size")


def _rate(text: str) -> int:
    return _scaled(text, 1000, "rate")


def _whole(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _tos(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no type of service; it is 0 to 255, or 0x00 to 0xff") from None


def _port(text: str) -> int:
    number = _whole(text)
    if number > 65_535:
        raise argparse.ArgumentTypeError(f"{text} is no port; it is between 1 and 65535, or 0 for a server")
    return number


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0 or math.isinf(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def _interval(text: str) -> float:
    value = 0.0 if text in ("0", "0.0") else _seconds(text)
    if not is_interval(value):
        raise argparse.ArgumentTypeError(INTERVALS)
    return value
