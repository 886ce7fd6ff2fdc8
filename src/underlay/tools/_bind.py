"""Sockets bound to an address that a person wrote: one or several, TCP, UDP or Unix.

This file knows dual-stack sockets, ports that the kernel chooses, and what a
killed listener leaves behind. It refuses to accept anybody.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..errors import UsageError
from ._address import Address, Place, UnixPath, bound_to
from ._complaints import cannot_listen
from ._netcat import Options, new_socket
from ._say import say

__all__ = ["bound"]

# Connections that wait for us to accept them: what asyncio asks for too.
_BACKLOG = 100


@asynccontextmanager
async def bound(address: Address, chosen: Options) -> AsyncIterator[list[socket.socket]]:
    """Sockets bound to the address, and said so; closed, and a Unix path removed, at the end."""
    sockets: list[socket.socket] = []
    made: str | None = None
    try:
        try:
            if isinstance(address, UnixPath):
                _remove_if_stale(address)
                sockets.append(new_socket(socket.AF_UNIX, chosen))
                sockets[0].bind(address.address)
                made = None if address.path.startswith("@") else os.path.abspath(address.path)
            else:
                await _bind_each(address, chosen, sockets)
            for sock in sockets:
                if not chosen.udp:
                    sock.listen(_BACKLOG)
        except OSError as error:
            raise cannot_listen(address, error, udp=chosen.udp, reuse_address=chosen.reuse_address) from error
        places = " and ".join(map(bound_to, sockets))
        if chosen.verbose or (isinstance(address, Place) and address.port == 0):  # else nobody knew the port
            say(f"listening on {places}")
        yield sockets
    finally:
        for sock in sockets:
            sock.close()
        if made is not None:
            try:
                os.unlink(made)
            except FileNotFoundError:
                pass


async def _bind_each(address: Place, chosen: Options, sockets: list[socket.socket]) -> None:
    """Bind each address that the host has, on one port; every address at once for an empty host."""
    if not address.host and chosen.family == socket.AF_UNSPEC and socket.has_dualstack_ipv6():
        sock = new_socket(socket.AF_INET6, chosen)
        sockets.append(sock)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # IPv4 too: ipv6(7)
        sock.bind(("::", address.port))
        return
    family = chosen.family if address.host or chosen.family else socket.AF_INET
    kind = socket.SOCK_DGRAM if chosen.udp else socket.SOCK_STREAM
    found = await asyncio.get_running_loop().getaddrinfo(
        address.host or None, address.port, family=family, type=kind, flags=socket.AI_PASSIVE
    )
    port = address.port
    for each_family, _, _, _, target in found:
        sock = new_socket(each_family, chosen)
        sockets.append(sock)
        if each_family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((target[0], port, *target[2:]))
        port = sock.getsockname()[1]  # the same for all, when the kernel chose it


def _remove_if_stale(address: UnixPath) -> None:
    """Remove a socket that no listener is behind any more; bind(2) reports one that is alive."""
    if address.path.startswith("@"):
        return
    try:
        if not stat.S_ISSOCK(os.stat(address.path).st_mode):
            raise UsageError(f"{address.path} exists and is no socket", remedy="choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address.address)
        except ConnectionRefusedError:
            os.unlink(address.path)
        except OSError:
            pass
