"""Network failures as sentences: what was tried, who is at fault, what mends it.

This file knows what each errno means to the person who typed the address. It
refuses to touch a socket, but asks the kernel who is in the way. What only some
failures need is opened when one of them is told: most commands never fail, and
not all of them speak TLS.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import TYPE_CHECKING

from ..errors import UnderlayError, UsageError, plural
from ._address import Address, Place, UnixPath

if TYPE_CHECKING:
    import ssl

    from .ports import Socket

__all__ = ["cannot_connect", "cannot_listen", "reason"]


def cannot_connect(address: Address, error: OSError, *, tls: bool = False, family: int = 0) -> UnderlayError:
    """Say in one sentence why there is no connection to ``address``, of which one of ``family`` was looked for."""
    if isinstance(error, socket.gaierror):
        host = address.host if isinstance(address, Place) else address
        if error.errno == socket.EAI_ADDRFAMILY:
            return UnderlayError(f"{host} is no address of the family that -4 or -6 names", remedy="leave that out")
        if family in (socket.AF_INET, socket.AF_INET6):
            version = 4 if family == socket.AF_INET else 6
            return UnderlayError(
                f"nobody knows an IPv{version} address of {host} ({error.strerror})",
                remedy=f"leave -{version} out, or check its spelling",
            )
        return UnderlayError(f"nobody knows the address of {host} ({error.strerror})", remedy="check its spelling")
    if (failure := _of_tls(error)) is not None:
        return _cannot_agree(address, failure)
    if tls and isinstance(error, ConnectionError) and error.errno != errno.ECONNREFUSED:
        return UnderlayError(f"{address} hung up during the TLS handshake", remedy="does it speak TLS?")
    match error.errno:
        case errno.ECONNREFUSED if isinstance(address, UnixPath):
            remedy = "is the program that made the socket still running?"
        case errno.ECONNREFUSED:
            remedy = "is the server running, and on this port?"
        case errno.ENOENT:
            return UnderlayError(f"there is no Unix socket {address}", remedy="is the server running?")
        case errno.EACCES | errno.EPERM:
            remedy = "this user may not; try as another"
        case errno.ENETUNREACH | errno.EHOSTUNREACH:
            remedy = "`ip route get` shows where the way ends"
        case errno.EADDRINUSE | errno.EADDRNOTAVAIL:
            remedy = "--source must be a free address of this machine"
        case _:
            remedy = ""
    return UnderlayError(f"cannot connect to {address}: {reason(error)}", remedy=remedy)


def _of_tls(error: OSError) -> ssl.SSLError | None:
    """Give the error if it is one of TLS; else None.

    Where nobody opened `ssl` none is. To open it here would take a descriptor, which may be what there is none of.
    """
    if "ssl" not in sys.modules:
        return None
    import ssl

    return error if isinstance(error, ssl.SSLError) else None


def _cannot_agree(address: Address, failure: ssl.SSLError) -> UnderlayError:
    import ssl

    if isinstance(failure, ssl.SSLCertVerificationError):
        return UnderlayError(
            f"{address} shows a certificate that does not hold: {failure.verify_message}",
            remedy="--ca FILE names an authority to trust, --server-name another name, --insecure trusts anybody",
        )
    return UnderlayError(f"{address} and we could not agree on TLS ({failure.reason})", remedy="does it speak TLS?")


def cannot_listen(
    address: Address, error: OSError, *, udp: bool = False, reuse_address: bool = False, may_share: bool = True
) -> UnderlayError:
    """Say in one sentence why ``address`` cannot be bound, and who is in the way.

    ``reuse_address`` was tried; ``may_share`` says that the command has an option for SO_REUSEPORT.
    """
    what = f"cannot listen on {address}"
    # A port in use was the wrong one to name, and so was one for which a right is missing; what else the kernel refuses
    # is its doing.
    kind = UsageError if error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EPERM) else UnderlayError
    if isinstance(error, socket.gaierror):
        return cannot_connect(address, error)
    if error.errno == errno.EADDRINUSE and isinstance(address, Place):
        found, is_alive = _in_the_way(address.port, udp)
        if found is not None and not is_alive and found.owners:
            # Its own connection to somebody else, or one that it accepted before the listener ended.
            return kind(
                f"{what}: {_owner(found)} has the port for its connection with {found.peer}",
                remedy="end that, or choose another port",
            )
        if found is not None and not is_alive:
            # TCP_TIMEWAIT_LEN is 60 s in Linux (include/net/tcp.h). SO_REUSEADDR helps
            # only where whoever had the port had set it as well: socket(7).
            early = "--reuse-address takes the port if whoever had it did so too; else wait a minute"
            return kind(
                f"{what}: earlier connections of that port are not over yet",
                remedy="whoever had it did so without SO_REUSEADDR, so wait a minute" if reuse_address else early,
            )
        by, them = "another process", "it"
        if found is not None and found.owners:
            by, them = _owner(found), "it" if len(_pids(found)) == 1 else "them all"
        return kind(
            f"{what}: the port is in use by {by}",
            remedy=f"end {them}, choose another port, or start both with --reuse-port"
            " (--reuse-address does not help while it listens)"
            if may_share
            else f"end {them}, or choose another port",
        )
    match error.errno:
        case errno.EADDRINUSE:
            remedy = "another process listens there; end it or choose another path"
        case errno.EACCES | errno.EPERM if isinstance(address, Place):
            # ip(7), ip_unprivileged_port_start: 1024 unless an administrator changed it.
            remedy = "ports below 1024 are for root; choose a higher one"
        case errno.EADDRNOTAVAIL:
            remedy = "it is no address of this machine; `ip address` lists them"
        case errno.ENOENT | errno.ENOTDIR:
            remedy = "make the directory first"
        case errno.EMFILE:
            remedy = "raise the limit of open files (`ulimit -n`)"
        case _:
            remedy = ""
    return kind(f"{what}: {reason(error)}", remedy=remedy)


def _in_the_way(port: int, udp: bool) -> tuple[Socket | None, bool]:
    """Who has the port, a listener before anybody else, and whether it is open yet; None where nobody is known."""
    from .ports import State, list_sockets

    alive = (State.LISTEN, State.BOUND, State.UNCONNECTED)
    try:
        found = list_sockets(f"local:{port}", f"proto:{'udp' if udp else 'tcp'}")
    except (UnderlayError, OSError):
        return None, False
    first = min(found, key=lambda sock: (sock.state not in alive, not sock.owners), default=None)
    return first, first is not None and first.state in alive


def _owner(sock: Socket) -> str:
    name, pids = sock.owners[0].name, _pids(sock)
    others = f", shared by {plural(len(pids) - 1, 'other')}" if len(pids) > 1 else ""
    return f"{name or 'a process'} (pid {pids[0]}){others}"


def _pids(sock: Socket) -> list[int]:
    return sorted({owner.pid for owner in sock.owners})


def reason(error: OSError) -> str:
    """What the kernel said, in its own words without numbers."""
    if (failure := _of_tls(error)) is not None:
        return f"TLS failed ({failure.reason or error})"
    if error.errno is not None:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
