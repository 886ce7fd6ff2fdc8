"""Which sockets stand in the way of a bind: Linux's rules for who may have an address beside whom.

This file knows the rules (net/ipv4/inet_connection_sock.c, inet_rcv_saddr_equal and inet_bind_conflict; ipv6(7)) and
only computes. It refuses to know the options SO_REUSEADDR and SO_REUSEPORT: the kernel tells nobody who has set them.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable

from ._bind_trial import Want
from ._socket import WILDCARDS, Socket

__all__ = ["Overlap", "conflicts", "overlap"]


class Overlap(enum.Enum):
    """How two sockets' addresses come to be the same."""

    SAME = "the same address"
    THEIRS_IS_EVERY = "theirs stands for every address"
    OURS_IS_EVERY = "ours stands for every address"
    DUAL_STACK = "an IPv6 socket that hears IPv4 too"
    INHERITED = "an IPv6 connection of a listener that heard IPv4 too"


def overlap(want: Want, sock: Socket) -> Overlap | None:
    """Tell how the socket's address is also the wanted one, at the same port; None where it isn't.

    >>> from ._socket import State
    >>> everywhere = Socket("tcp", 6, State.LISTEN, "::", 80, "::", 0, 0, 128)
    >>> overlap(Want("tcp", 4, "127.0.0.1", 80), everywhere)
    <Overlap.DUAL_STACK: 'an IPv6 socket that hears IPv4 too'>
    >>> overlap(Want("tcp", 4, "127.0.0.1", 80), everywhere._replace(v6_only=True)) is None
    True
    """
    if sock.protocol != want.protocol or sock.local_port != want.port:
        return None
    theirs, their_family = _unmapped(sock)
    if want.family == their_family:
        if theirs == want.address:
            return Overlap.SAME
        if want.address in WILDCARDS:
            return Overlap.OURS_IS_EVERY
        if theirs in WILDCARDS:
            return Overlap.THEIRS_IS_EVERY
        return None
    # Of two families: the IPv6 one has to stand for every address, and to hear IPv4.
    if want.family == 6:
        return Overlap.DUAL_STACK if want.address == "::" and not want.v6_only else None
    return Overlap.DUAL_STACK if theirs == "::" and not sock.v6_only else None


def conflicts(want: Want, sockets: Iterable[Socket]) -> list[tuple[Socket, Overlap]]:
    """The sockets that stand in the way unless both sides have set an option, and how.

    A connection inherits from its listener whether that heard IPv4 too, and if so stands in the way of 0.0.0.0 even
    where both its ends are IPv6. Of connections the kernel does not tell it, so these are taken for the reason only
    where there is no other.
    """
    everything = list(sockets)
    certain = [(sock, how) for sock in everything if (how := overlap(want, sock)) is not None]
    if certain or want.address != "0.0.0.0":
        return certain
    return [(sock, Overlap.INHERITED) for sock in everything if _may_have_inherited(want, sock)]


def _may_have_inherited(want: Want, sock: Socket) -> bool:
    if sock.protocol != want.protocol or sock.local_port != want.port:
        return False
    return sock.peer_port != 0 and _unmapped(sock)[1] == 6


def _unmapped(sock: Socket) -> tuple[str, int]:
    """Its address and IP version; a dual-stack socket's connection with an IPv4 peer is IPv4."""
    if sock.family == 6 and sock.local_address.startswith("::ffff:"):
        mapped = ipaddress.IPv6Address(sock.local_address).ipv4_mapped
        if mapped is not None:
            return str(mapped), 4
    return sock.local_address, sock.family
