"""Filters: the words by which a person says which sockets are meant.

This file knows the words, and what is wrong with a bad one. It refuses to ask the kernel. Words of one kind widen
(``80 443`` is either port), words of different kinds narrow (``80 state:listen`` is both), and every word is exact:
80 is never 8080, and ``127.0.0.1`` is not a listener on every address.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ...errors import UsageError, nearest
from ._ends import End, parse_end
from ._socket import Socket, State

__all__ = ["KEYS", "PROTOCOLS", "Filter"]

KEYS: Final = ("state", "proto", "local", "peer", "pid", "program", "user", "inode", "unix")
"""What may stand before the colon."""

PROTOCOLS: Final = ("tcp", "udp", "unix", "tcp4", "tcp6", "udp4", "udp6")
"""What may stand behind ``proto:``."""

_BY_NAME: Final = {state.value.replace("-", ""): state for state in State} | {
    # As ss(8), netstat(8) and RFC 9293 write them.
    "estab": State.ESTABLISHED,
    "synrecv": State.SYN_RECEIVED,
    "finwait1": State.FIN_WAIT_1,
    "finwait2": State.FIN_WAIT_2,
    "listening": State.LISTEN,
    "unconn": State.UNCONNECTED,
    "boundinactive": State.BOUND,
}
# A pid is below 2**22, an inode of sockfs 32 bits wide, a uid too (proc(5), credentials(7)).
_MOST_DIGITS: Final = 10


class Filter:
    """Which sockets are meant.

    ``protocols`` and ``states`` are what the kernel has to be asked for at all; None for everything.

    >>> only = Filter(["80", "state:listen"])
    >>> only.matches(Socket("tcp", 4, State.LISTEN, "0.0.0.0", 80, "0.0.0.0", 0, 0, 128))
    True
    >>> only.matches(Socket("tcp", 4, State.LISTEN, "0.0.0.0", 8080, "0.0.0.0", 0, 0, 128))
    False
    """

    def __init__(self, words: Iterable[str] = ()) -> None:
        if isinstance(words, str):
            raise TypeError(f"words are a list of words: [{words!r}]")  # its letters would be: 8 and 0 of "80"
        self.states: set[State] | None = None
        self.protocols: set[str] | None = None
        self._ends: list[End] = []
        self._local: list[End] = []
        self._peer: list[End] = []
        self._pids: set[int] = set()
        self._programs: set[str] = set()
        self._uids: set[int] = set()
        self._inodes: set[int] = set()
        self._paths: set[str] = set()
        for word in words:
            self._add(word)
        self._by_end = bool(self._ends or self._local or self._peer)
        if self._by_end and self._paths:
            raise UsageError("a Unix socket has a path and no port", remedy="ask for one or the other")

    @property
    def is_empty(self) -> bool:
        """Whether every socket is meant."""
        return self.is_asked_for and self.states is None and self.protocols is None

    @property
    def is_asked_for(self) -> bool:
        """Whether the kernel gives just what is meant, when it is asked for these protocols and states."""
        return not (self.needs_owners or self._by_end or self._uids or self._inodes or self._paths)

    @property
    def needs_owners(self) -> bool:
        """Whether it can be told only with the processes that hold a socket."""
        return bool(self._pids or self._programs)

    def wants(self, protocol: str, family: int = 0) -> bool:
        """Tell whether sockets of this protocol (and IP version) can be meant at all."""
        if protocol == "unix":
            if self._by_end:
                return False
        elif self._paths:
            return False
        return self.protocols is None or protocol in self.protocols or f"{protocol}{family}" in self.protocols

    def matches(self, sock: Socket) -> bool:
        """Tell whether this socket is meant."""
        if self.states is not None and sock.state not in self.states:
            return False
        if not self.wants(sock.protocol, sock.family):
            return False
        if self._by_end and not self._matches_ends(sock):
            return False
        if self._paths and sock.local_address not in self._paths and sock.peer_address not in self._paths:
            return False
        if self._pids and not any(owner.pid in self._pids for owner in sock.owners):
            return False
        if self._programs and not any(owner.name in self._programs for owner in sock.owners):
            return False
        if self._uids and sock.uid not in self._uids:
            return False
        return not self._inodes or sock.inode in self._inodes

    def matches_ends(self, sock: Socket) -> bool:
        """Tell whether a socket is meant of which nothing but the protocol and the ends is known any more."""
        if self.states is not None or self.needs_owners or self._uids or self._inodes or self._paths:
            return False
        return self.wants(sock.protocol, sock.family) and (not self._by_end or self._matches_ends(sock))

    def _matches_ends(self, sock: Socket) -> bool:
        local = (sock.local_address, sock.local_port, sock.interface)
        peer = (sock.peer_address, sock.peer_port, sock.interface)
        # A socket without a peer has no other end, though it is written 0.0.0.0:0.
        has_peer = sock.peer != "*"
        if self._ends and not any(end.matches(*local) or (has_peer and end.matches(*peer)) for end in self._ends):
            return False
        if self._local and not any(end.matches(*local) for end in self._local):
            return False
        return not self._peer or (has_peer and any(end.matches(*peer) for end in self._peer))

    def _add(self, word: str) -> None:
        key, colon, value = word.partition(":")
        if not colon or key not in KEYS:
            # 127.0.0.1:80, [::1]:80, ::1 and fe80::1 have colons too, and no letter beyond f before the first.
            if colon and key.isalpha() and not set(key.lower()) <= set("abcdef"):
                remedy = nearest(key, KEYS)
                if value.isdecimal():  # as in localhost:80
                    remedy += "; a host is written as its address here, since no name is looked up"
                raise UsageError(f"no filter is called {key!r}", remedy=remedy)
            try:
                self._ends += [parse_end(each) for each in _parts(word, word)]
            except UsageError as error:
                if (meant := _meant(word)) is None:
                    raise
                raise UsageError(error.what, remedy=f"did you mean {meant}?") from None
            return
        match key:
            case "local" | "peer":
                ends = self._local if key == "local" else self._peer
                ends += [parse_end(each) for each in _parts(word, value)]
            case "state":
                self.states = (self.states or set()) | {_state(each) for each in _parts(word, value)}
            case "proto":
                self.protocols = (self.protocols or set()) | {_protocol(each) for each in _parts(word, value)}
            case "pid":
                self._pids |= {_number(each, "process id") for each in _parts(word, value)}
            case "inode":
                self._inodes |= {_number(each, "inode") for each in _parts(word, value)}
            case "user":
                self._uids |= {_user(each) for each in _parts(word, value)}
            case "program":
                self._programs |= set(_parts(word, value))
            case _:
                if not value:
                    raise UsageError("unix: needs a path", remedy="write it like unix:/run/app.sock or unix:@name")
                self._paths.add(value)  # a comma may be part of it


def _parts(word: str, value: str) -> list[str]:
    """What the commas part; none may be empty."""
    parts = value.split(",")
    if not all(parts):
        raise UsageError(f"{word!r} leaves out what to look for" if word else "an empty word is no filter")
    return parts


def _meant(word: str) -> str | None:
    """What a word without its kind most likely is; None where that is an address or a port, mistyped."""
    if not word.isprintable():
        return None
    if word == "localhost":
        return "127.0.0.1"
    if word.startswith(("/", "@")):
        return f"unix:{word}"
    if word.lower() in PROTOCOLS:
        return f"proto:{word}"
    if _state_named(word) is not None:
        return f"state:{word}"
    # No digit comes first in a mistyped port's name, and few programs have a dot or a colon in theirs.
    return f"program:{word}" if word[:1].isalpha() and not set(word) & set(".:,/%") else None


def _state_named(text: str) -> State | None:
    return _BY_NAME.get(text.lower().replace("-", "").replace("_", ""))


def _state(text: str) -> State:
    state = _state_named(text)
    if state is None:
        raise UsageError(f"no state is called {text!r}", remedy=nearest(text.lower(), [each.value for each in State]))
    return state


def _protocol(text: str) -> str:
    if text.lower() not in PROTOCOLS:
        raise UsageError(f"no protocol is called {text!r}", remedy=nearest(text.lower(), PROTOCOLS))
    return text.lower()


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise UsageError(f"{text[:40]!r} is no {what}", remedy="it is a number")
    return int(text)


def _user(text: str) -> int:
    if text.isascii() and text.isdigit():
        return _number(text, "user")
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError, UnicodeError):
        raise UsageError(
            f"this machine has no user called {text!r}", remedy="`id` shows yours; a number will do too"
        ) from None
