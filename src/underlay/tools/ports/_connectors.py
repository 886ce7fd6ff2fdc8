"""Which process connected a TCP connection, though it was over before anybody could look who holds it.

The tracepoint of TCP's states runs, for the step from CLOSE to SYN-SENT, within the system call of whoever connects
(net/ipv4/tcp_ipv4.c, tcp_v4_connect), so that the process it tells then is the right one; for every other step it is
whoever the interrupt fell upon. At that step the socket has no port yet, but the kernel's address of it leads to the
step that leaves SYN-SENT, which tells both ends.

This file knows that, and refuses to guess: it keeps only connections of threads that are in this network namespace,
forgets a pair of ends once the kernel uses it for one that was accepted, and forgets all where records were lost.
"""

from __future__ import annotations

import os
import socket
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeVar

from ._diag import STATES
from ._owners import describe
from ._socket import Socket, State
from ._tracepoint import Transition

__all__ = ["Connector", "Connectors"]

_CLOSE: Final = STATES[State.UNCONNECTED]
_SYN_SENT: Final = STATES[State.SYN_SENT]
_SYN_RECEIVED: Final = STATES[State.SYN_RECEIVED]
# As many of the last connections are remembered; one that lasts longer has an owner whom a look finds.
_MOST: Final = 65_536

_Ends = tuple[int, bytes, int, bytes, int]
_Key = TypeVar("_Key")


class Connector(NamedTuple):
    """The process that made a connection, as it was when it did."""

    pid: int
    name: str
    """Its short name (``comm``); empty for one that had ended before it could be asked."""
    command: str
    uid: int


class Connectors:
    """The processes behind the last connections of this network namespace."""

    def __init__(self) -> None:
        self._here = _namespace("thread-self")
        self._connecting: OrderedDict[int, Connector] = OrderedDict()
        self._by_ends: OrderedDict[_Ends, Connector] = OrderedDict()
        # What a process is called is read once for many connections, until `look_again`.
        self._asked: dict[tuple[int, int], Connector | None] = {}

    def forget(self) -> None:
        """Forget all: something was not seen."""
        self._connecting.clear()
        self._by_ends.clear()

    def look_again(self) -> None:
        """Ask each process anew who it is: a number is used again, and a process runs another program."""
        self._asked.clear()

    def learn(self, transitions: Iterable[Transition]) -> None:
        """Take what happened since, in its order."""
        for each in transitions:
            if each.protocol != socket.IPPROTO_TCP:
                continue
            if each.before == _CLOSE and each.after == _SYN_SENT:
                self._connecting.pop(each.sock, None)
                if (connector := self._ask(each.pid, each.thread)) is not None:
                    _remember(self._connecting, each.sock, connector)
            elif each.before == _SYN_SENT:
                ends = _ends(each)
                connector = self._connecting.pop(each.sock, None)
                earlier = self._by_ends.pop(ends, None)
                # The end of another's connection with the same ends may not have been told yet: then it is neither's.
                if connector is not None and earlier in (None, connector):
                    _remember(self._by_ends, ends, connector)
            elif _SYN_RECEIVED in (each.before, each.after):
                self._by_ends.pop(_ends(each), None)  # from now on these are the ends of one that was accepted

    def of(self, sock: Socket) -> Connector | None:
        """Who connected it; None where that is not known for certain, and for one that was accepted."""
        if sock.protocol != "tcp" or not sock.peer_port:
            return None
        family = socket.AF_INET if sock.family == 4 else socket.AF_INET6
        own, peer = (socket.inet_pton(family, address) for address in (sock.local_address, sock.peer_address))
        return self._by_ends.get((family, own, sock.local_port, peer, sock.peer_port))

    def _ask(self, pid: int, thread: int) -> Connector | None:
        if (pid, thread) not in self._asked:
            there = self._here is not None and pid > 0 and _namespace(f"{pid}/task/{thread}") == self._here
            self._asked[pid, thread] = Connector(pid, *describe(str(pid))) if there else None
        return self._asked[pid, thread]


def _namespace(thread: str) -> tuple[int, int] | None:
    """What a thread's network namespace is known by; None where the thread has ended, or may not be asked."""
    try:
        status = os.stat(f"/proc/{thread}/ns/net")
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _ends(transition: Transition) -> _Ends:
    own, peer, own_v6, peer_v6 = transition.addresses
    if transition.family == socket.AF_INET6:
        own, peer = own_v6, peer_v6
    return transition.family, own, transition.local_port, peer, transition.peer_port


def _remember(where: OrderedDict[_Key, Connector], key: _Key, connector: Connector) -> None:
    where[key] = connector
    if len(where) > _MOST:
        where.popitem(last=False)
