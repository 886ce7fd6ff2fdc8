"""Unix sockets by sock_diag(7): ``linux/unix_diag.h``.

This file knows that protocol. It refuses to know filters, and whom it is for.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import Final

from ...link._netlink import DONE, HEADER, Netlink, aligned, attributes, raise_refusal
from ._diag import BY_FAMILY, STATES
from ._socket import Owner, Socket, State

__all__ = ["list_unix"]

# struct unix_diag_req: family, protocol, states, inode, what to show, cookie.
_REQUEST: Final = struct.Struct("=BBHIIIQ")
# struct unix_diag_msg: family, type, state, inode, cookie.
_MESSAGE: Final = struct.Struct("=BBBxIQ")
# UDIAG_SHOW_NAME, _PEER, _RQLEN and _UID
_SHOW: Final = 0x01 | 0x04 | 0x10 | 0x40
# UNIX_DIAG_*
_NAME: Final = 0
_PEER: Final = 2
_QUEUES: Final = 4
_UID: Final = 7

_U32: Final = struct.Struct("=I")
_TWO: Final = struct.Struct("=II")
_KINDS: Final = {socket.SOCK_STREAM: "stream", socket.SOCK_DGRAM: "datagram", socket.SOCK_SEQPACKET: "seqpacket"}
_BY_NUMBER: Final = {
    STATES[state]: state for state in (State.ESTABLISHED, State.SYN_SENT, State.UNCONNECTED, State.LISTEN)
}


def list_unix(kernel: Netlink, states: Iterable[State], owners: Mapping[int, tuple[Owner, ...]]) -> list[Socket]:
    """List the Unix sockets of this network namespace that are in one of the states.

    ``OSError`` with ENOENT where the kernel has no module for it.
    """
    mask = sum({1 << STATES[state] for state in states})
    body = _REQUEST.pack(socket.AF_UNIX, 0, 0, mask, 0, _SHOW, 0)
    found: list[Socket] = []
    for part in kernel.dump(BY_FAMILY, body):
        if _read_part(part, owners, found):
            break
    # A peer is told by its inode; its name is that of the listener that accepted it, or what it was bound to.
    names = {sock.inode: sock.local_address for sock in found if sock.local_address}
    return [sock._replace(peer_address=names[sock.peer_inode]) if sock.peer_inode in names else sock for sock in found]


def _read_part(part: bytes, owners: Mapping[int, tuple[Owner, ...]], found: list[Socket]) -> bool:
    """Add the sockets of one part of a dump to ``found``; True where the dump ends in it."""
    start = 0
    while start + HEADER.size <= len(part):
        length, answer, *_ = HEADER.unpack_from(part, start)
        if not HEADER.size <= length <= len(part) - start:
            break  # cut off
        body = part[start + HEADER.size : start + length]
        if answer == DONE:
            raise_refusal(body)
            return True
        if answer == BY_FAMILY and len(body) >= _MESSAGE.size:
            found.append(_read(body, owners))
        start += aligned(length)
    return False


def _read(body: bytes, owners: Mapping[int, tuple[Owner, ...]]) -> Socket:
    _, kind, number, inode, cookie = _MESSAGE.unpack_from(body)
    found = dict(attributes(body, _MESSAGE.size))
    receive_queue, send_queue = _TWO.unpack(found[_QUEUES]) if _QUEUES in found else (0, 0)
    return Socket(
        protocol="unix",
        family=0,
        state=_BY_NUMBER[number],
        local_address=_path(found.get(_NAME, b"")),
        local_port=0,
        peer_address="",
        peer_port=0,
        receive_queue=receive_queue,
        send_queue=send_queue,
        uid=_U32.unpack(found[_UID])[0] if _UID in found else None,  # since Linux 5.3
        inode=inode,
        cookie=cookie,
        kind=_KINDS.get(kind, str(kind)),
        peer_inode=_U32.unpack(found[_PEER])[0] if _PEER in found else 0,
        owners=owners.get(inode, ()),
    )


def _path(name: bytes) -> str:
    """The path, or ``@name`` of the abstract namespace, as os.fsdecode(): any byte comes back by os.fsencode()."""
    if name.startswith(b"\0"):
        return "@" + os.fsdecode(name[1:])
    return os.fsdecode(name.rstrip(b"\0"))
