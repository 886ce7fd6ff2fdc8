"""Who has which TCP port: sockets that are bound, listeners, and the connections that hold one (RFC 6056, socket(7)).

This file knows when two may have one port, by Linux's inet_csk_bind_conflict(), and which of several listeners of one
port takes a connection. It refuses to know segments and states.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ._contract import Rng
from ._tcp_tcb import Key

if TYPE_CHECKING:
    from ._tcp_connection import TcpConnection
    from ._tcp_listener import TcpListener

__all__ = ["Binding", "Ports"]

# Knuth, The Art of Computer Programming 3, section 6.4: 2**32 over the golden ratio. Neighbouring ports are spread.
_SPREAD: Final = 0x9E3779B1


class Binding:
    """A local port that one socket has bound; made by `Ports.bind`. ``address`` is all zeros for every address.

    ``dual``: an IPv6 wildcard that has the IPv4 addresses too. ``reuse_address`` and ``reuse_port`` may change.
    """

    __slots__ = ("address", "dual", "listening", "port", "reuse_address", "reuse_port")

    def __init__(self, address: bytes, port: int, *, dual: bool, reuse_address: bool, reuse_port: bool) -> None:
        self.address = address
        self.port = port
        self.dual = dual and len(address) == 16 and not any(address)
        self.reuse_address = reuse_address
        self.reuse_port = reuse_port
        self.listening = False

    def overlaps(self, address: bytes, *, dual: bool = False) -> bool:
        """Whether a packet to one could be for the other."""
        if len(address) == len(self.address):
            return address == self.address or not any(address) or not any(self.address)
        return self.dual if len(address) == 4 else dual and not any(address)

    def may_share(self, *, reuse_address: bool, reuse_port: bool, listening: bool = False) -> bool:
        """Whether both want to share: by SO_REUSEADDR unless the other listens, or by SO_REUSEPORT."""
        return (self.reuse_address and reuse_address and not listening) or (self.reuse_port and reuse_port)


class Ports:
    """The ports of one TCP layer. ``connections`` is the layer's table; `hold` and `let_go` follow its changes."""

    def __init__(self, rng: Rng, ephemeral: tuple[int, int], connections: Mapping[Key, TcpConnection]) -> None:
        self._rng = rng
        self._first, self._last = ephemeral
        self._connections = connections
        self._uses: dict[int, int] = {}
        self._bindings: dict[int, list[Binding]] = {}
        self._listeners: dict[tuple[bytes, int], list[TcpListener]] = {}
        self.listening = 0

    # --- binding ---

    def bind(
        self, address: bytes, port: int, *, dual: bool = False, reuse_address: bool = False, reuse_port: bool = False
    ) -> Binding:
        """Take a port (0: choose one); OSError EADDRINUSE."""
        if not 0 <= port <= 0xFFFF or len(address) not in (4, 16):
            raise OSError(errno.EINVAL, "no such address or port")
        binding = Binding(address, port, dual=dual, reuse_address=reuse_address, reuse_port=reuse_port)
        if port == 0:
            try:
                binding.port = self.choose(lambda port: port not in self._bindings and port not in self._uses)
            except OSError:
                binding.port = self.choose(lambda port: self._is_free_for(binding, port), errno.EADDRINUSE)
        else:
            self.check(binding)
        self._bindings.setdefault(binding.port, []).append(binding)
        return binding

    def release(self, binding: Binding) -> None:
        """Its socket was closed; connections that it had hold the port by themselves."""
        bindings = self._bindings.get(binding.port, [])
        if binding in bindings:
            bindings.remove(binding)
            if not bindings:
                del self._bindings[binding.port]

    def check(self, binding: Binding) -> None:
        """EADDRINUSE where another has the port and does not share it."""
        if not self._is_free_for(binding, binding.port):
            raise OSError(errno.EADDRINUSE, f"port {binding.port} is in use")

    def _is_free_for(self, binding: Binding, port: int) -> bool:
        for other in self._bindings.get(port, ()):
            if (
                other is not binding
                and binding.overlaps(other.address, dual=other.dual)
                and not binding.may_share(
                    reuse_address=other.reuse_address, reuse_port=other.reuse_port, listening=other.listening
                )
            ):
                return False
        if port not in self._uses:
            return True
        return not any(
            tcb.key[1] == port
            and binding.overlaps(tcb.key[0])
            and not binding.may_share(reuse_address=tcb.options.reuse_address, reuse_port=tcb.options.reuse_port)
            for tcb in self._connections.values()
        )

    def force(self, address: bytes, port: int, *, reuse_address: bool) -> Binding:
        """Take a port for a listener that needs only say for itself that connections of it do not matter."""
        for other in self._bindings.get(port, ()):
            if other.overlaps(address):
                raise OSError(errno.EADDRINUSE, f"port {port} is in use")
        if port in self._uses and not reuse_address:
            raise OSError(errno.EADDRINUSE, f"port {port} is in use")
        binding = Binding(address, port, dual=False, reuse_address=reuse_address, reuse_port=False)
        self._bindings.setdefault(port, []).append(binding)
        return binding

    def is_bound(self, port: int) -> bool:
        """Whether any socket is bound to it: a connection that needs a port of its own passes it over, as Linux."""
        return port in self._bindings

    def choose(self, is_free: Callable[[int], bool], number: int = errno.EADDRNOTAVAIL) -> int:
        """Choose an ephemeral port: a random one, else the next free one behind it (RFC 6056 §3.3.1)."""
        count = self._last - self._first + 1
        start = int(self._rng.random() * count)
        for step in range(count):
            port = self._first + (start + step) % count
            if is_free(port):
                return port
        raise OSError(number, "no ephemeral port is left")

    # --- connections ---

    def hold(self, port: int) -> None:
        """A connection has the port."""
        self._uses[port] = self._uses.get(port, 0) + 1

    def let_go(self, port: int) -> None:
        """It is gone."""
        uses = self._uses[port] - 1
        if uses:
            self._uses[port] = uses
        else:
            del self._uses[port]

    # --- listeners ---

    def add_listener(self, listener: TcpListener) -> None:
        """Let it be found."""
        self._listeners.setdefault((listener.address, listener.port), []).append(listener)
        self.listening += 1

    def remove_listener(self, listener: TcpListener) -> None:
        """It was closed."""
        place = listener.address, listener.port
        group = self._listeners[place]
        group.remove(listener)
        if not group:
            del self._listeners[place]
        self.listening -= 1

    def listener(self, key: Key) -> TcpListener | None:
        """The listener for packets of this connection: of its very address, else of all addresses.

        Several with SO_REUSEPORT share by sender (Linux: inet_lhash2_lookup()); a handshake stays where it began.
        """
        address, port = key[0], key[1]
        group = self._listeners.get((address, port)) or self._listeners.get((bytes(len(address)), port))
        if group is None:
            return None
        if len(group) == 1:
            return group[0]
        for listener in group:
            if key in listener.requests:
                return listener
        mixed = (int.from_bytes(key[2], "big") + key[3]) * _SPREAD & 0xFFFF_FFFF
        return group[mixed * len(group) >> 32]
