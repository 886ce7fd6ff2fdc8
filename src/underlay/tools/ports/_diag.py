"""TCP and UDP sockets by sock_diag(7): the kernel's own list, read as it comes.

This file knows the requests and answers of ``linux/inet_diag.h``. It refuses to know filters, and whom it is for.

The kernel sends a dump in parts of 32 KiB, some 270 sockets each, and walks its hash tables as it does: what opens or
closes meanwhile may be missing, or be there twice. Nothing in a dump says so.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import Final

from ...link._netlink import ACK, ATTRIBUTE, DONE, HEADER, Netlink, aligned, attributes, raise_refusal
from ._socket import Owner, Socket, State, TcpInfo
from ._tcp_info import read_tcp_info

__all__ = ["BY_FAMILY", "STATES", "destroy", "list_inet", "look_up", "read_dead"]

# linux/sock_diag.h
BY_FAMILY: Final = 20
"""SOCK_DIAG_BY_FAMILY: what is asked, and the type of each answer."""
_DESTROY: Final = 21
# linux/inet_diag.h: attributes, which are also asked for by the bit of their number less one.
_INFO: Final = 2
_CONG: Final = 4
_PROTOCOL: Final = 10
_SKV6ONLY: Final = 11
_WITH_INFO: Final = 1 << (_INFO - 1) | 1 << (_CONG - 1)

# struct inet_diag_req_v2 without the id: family, protocol, extensions, states.
_REQUEST: Final = struct.Struct("=BBBxI")
# struct inet_diag_sockid: ports in the network's order, addresses, interface, and the cookie as two halves.
_ID: Final = struct.Struct("=HH16s16sIQ")
# struct inet_diag_msg behind its netlink header: length, type, –, –, –; family, state, timer, retries; the id, with
# the local address parted so that IPv4 stands alone; expires, receive queue, send queue, uid, inode.
_MESSAGE: Final = "=IHHII4BHH16s16sIQ5I"
_MESSAGE_BYTES: Final = struct.calcsize(_MESSAGE)
_NO_COOKIE: Final = 0xFFFFFFFF_FFFFFFFF

# include/net/tcp_states.h; a dump tells of NEW_SYN_RECV (12) as SYN_RECV.
STATES: Final = {
    State.ESTABLISHED: 1,
    State.SYN_SENT: 2,
    State.SYN_RECEIVED: 3,
    State.FIN_WAIT_1: 4,
    State.FIN_WAIT_2: 5,
    State.TIME_WAIT: 6,
    State.UNCONNECTED: 7,
    State.CLOSE_WAIT: 8,
    State.LAST_ACK: 9,
    State.LISTEN: 10,
    State.CLOSING: 11,
    State.BOUND: 13,  # asked for by this number (TCP_BOUND_INACTIVE, Linux 6.8), told of by 7
}
"""The kernel's number of each state."""

_TCP_BY_NUMBER: Final = {**{number: state for state, number in STATES.items()}, 7: State.BOUND, 12: State.SYN_RECEIVED}
_UDP_BY_NUMBER: Final = {**{number: state for state, number in STATES.items()}, 7: State.UNCONNECTED}
_WITHOUT_PEER: Final = {State.LISTEN, State.BOUND, State.UNCONNECTED}

# idiag_timer: net/ipv4/inet_diag.c, inet_sk_diag_fill. 1 is also the timer of a lost tail, and RACK's.
_TIMERS: Final = ("", "retransmit", "keepalive", "time-wait", "probe")

_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_PROTOCOLS: Final = {"tcp": (socket.IPPROTO_TCP, "stream"), "udp": (socket.IPPROTO_UDP, "datagram")}


def list_inet(
    kernel: Netlink,
    protocol: str,
    family: int,
    states: Iterable[State],
    owners: Mapping[int, tuple[Owner, ...]],
    *,
    info: bool = False,
) -> list[Socket]:
    """List the sockets of one protocol and family that are in one of the states.

    ``OSError`` with ENOENT where the kernel has no module for it.
    """
    mask = sum({1 << STATES[state] for state in states})
    number, _ = _PROTOCOLS[protocol]
    body = _REQUEST.pack(_FAMILIES[family], number, _WITH_INFO if info else 0, mask) + bytes(_ID.size)
    found: list[Socket] = []
    for part in kernel.dump(BY_FAMILY, body):
        if _read_part(part, protocol, owners, info, found):
            break
    return found


def _read_part(
    part: bytes, protocol: str, owners: Mapping[int, tuple[Owner, ...]], info: bool, found: list[Socket]
) -> bool:
    """Add the sockets of one part of a dump to ``found``; True where the dump ends in it.

    Messages of equal length follow one another in long runs: those of connections, those of TIME-WAIT, which have
    fewer attributes. So the rest of the part is read as if all of it had the length of the next message, by
    `struct.iter_unpack`, until one has another. That is three times as fast as to unpack each by itself.
    """
    by_number = _TCP_BY_NUMBER if protocol == "tcp" else _UDP_BY_NUMBER
    kind = _PROTOCOLS[protocol][1]
    ntohs, texts, add, new = socket.ntohs, _Texts(), found.append, tuple.__new__
    view = memoryview(part)
    start, end = 0, len(part)
    while end - start >= HEADER.size:
        length, answer, *_ = HEADER.unpack_from(part, start)
        size = aligned(length)
        if size < HEADER.size or size > end - start:
            break  # cut off
        if answer == DONE:
            raise_refusal(part[start + HEADER.size : start + length])
            return True
        if answer != BY_FAMILY or length < _MESSAGE_BYTES:
            start += size
            continue
        run = view[start : start + (end - start) // size * size]
        for (
            other_length, answer, _, _, _, family, number, timer, retries, local_port, peer_port, local, peer,
            interface, cookie, expires, receive_queue, send_queue, uid, inode,
        ) in struct.iter_unpack(f"{_MESSAGE}{size - _MESSAGE_BYTES}x", run):  # fmt: skip
            if other_length != length or answer != BY_FAMILY:
                break
            state = by_number[number]
            v6_only, tcp_info = False, None
            if info or (family == socket.AF_INET6 and state in _WITHOUT_PEER):
                v6_only, tcp_info = _read_attributes(part, start, length)
            start += size
            # What Socket(…) would make, without a frame of Python for each of ten thousand.
            add(
                new(
                    Socket,
                    (
                        protocol,
                        4 if family == socket.AF_INET else 6,
                        state,
                        texts[family, local],
                        ntohs(local_port),
                        texts[family, peer],
                        ntohs(peer_port),
                        receive_queue,
                        send_queue,
                        _TIMERS[timer] if timer < 5 else str(timer),
                        expires,
                        retries,
                        uid if inode else None,
                        inode,
                        cookie,
                        interface,
                        v6_only,
                        kind,
                        0,
                        owners.get(inode, ()) if inode else (),
                        tcp_info,
                    ),
                )
            )
    return False


class _Texts(dict[tuple[int, bytes], str]):
    """Addresses as text, each written once."""

    def __missing__(self, key: tuple[int, bytes]) -> str:
        family, packed = key
        text = self[key] = socket.inet_ntop(family, packed if family == socket.AF_INET6 else packed[:4])
        return text


def _read_attributes(part: bytes, start: int, length: int) -> tuple[bool, TcpInfo | None]:
    """IPV6_V6ONLY and what TCP knows. It does what `attributes` does, in a third of the time: each socket has nine."""
    at, end = start + _MESSAGE_BYTES, start + length
    v6_only, raw, name = False, b"", ""
    while at + ATTRIBUTE.size <= end:
        size, kind = ATTRIBUTE.unpack_from(part, at)
        if size < ATTRIBUTE.size:
            break
        if kind == _INFO:
            raw = part[at + ATTRIBUTE.size : at + size]
        elif kind == _CONG:
            name = part[at + ATTRIBUTE.size : at + size].rstrip(b"\0").decode(errors="replace")
        elif kind == _SKV6ONLY:
            v6_only = size > ATTRIBUTE.size and part[at + ATTRIBUTE.size] != 0
        at += size + 3 & ~3  # RTA_ALIGN
    return v6_only, read_tcp_info(raw, name) if raw else None


def read_dead(message: bytes) -> Socket | None:
    """Read the kernel's message of a socket that it has destroyed; None for one that never had a port.

    Its state is told as that of a socket without any (TCP_CLOSE); user, inode and queues are not told.
    """
    number = dict(attributes(message, _MESSAGE_BYTES)).get(_PROTOCOL, b"\0")[0]
    for protocol, (of_protocol, _) in _PROTOCOLS.items():
        if number == of_protocol and (sock := _read_one(message, protocol)) is not None and sock.local_port:
            return sock
    return None


def _read_one(message: bytes, protocol: str) -> Socket | None:
    found: list[Socket] = []
    _read_part(message, protocol, {}, False, found)
    return found[0] if found else None


def look_up(kernel: Netlink, sock: Socket) -> Socket | None:
    """Ask for this very socket again; None where it is gone."""
    try:
        answers = kernel.ask(BY_FAMILY, 0, _exact(sock))
    except OSError as error:
        # TCP says ENOENT where another has its addresses by now, UDP says ESTALE (net/ipv4/udp_diag.c).
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise
        return None
    if not answers:
        return None
    return _read_one(HEADER.pack(HEADER.size + len(answers[0]), BY_FAMILY, 0, 0, 0) + answers[0], sock.protocol)


def destroy(kernel: Netlink, sock: Socket) -> None:
    """End this very socket and no other, by its cookie: SOCK_DESTROY.

    ``OSError``: EPERM without CAP_NET_ADMIN, EOPNOTSUPP where the kernel cannot (CONFIG_INET_DIAG_DESTROY), ENOENT
    where it is gone.
    """
    kernel.ask(_DESTROY, ACK, _exact(sock))


def _exact(sock: Socket) -> bytes:
    """The request for one socket."""
    family = _FAMILIES[sock.family]
    local = socket.inet_pton(family, sock.local_address)
    peer = socket.inet_pton(family, sock.peer_address)
    name = _ID.pack(
        socket.htons(sock.local_port),
        socket.htons(sock.peer_port),
        local,
        peer,
        sock.interface,
        sock.cookie or _NO_COOKIE,
    )
    # The states are not looked at where one socket is named; ss asks for all.
    return _REQUEST.pack(family, _PROTOCOLS[sock.protocol][0], 0, 0xFFFFFFFF) + name
