"""A chain of machines for tests: a client, routers in a row, and a server, each a network namespace of the kernel.

It knows veths, addresses of both families and routes; `nft` and sysctls make a router lose or keep quiet. All of it
is held by descriptors of this process alone, so that nothing is left behind even if the test is killed. It refuses to
know what is asked of the chain.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from underlay.link import Namespace, Rtnetlink

from ._kernel import needs_program, new_namespace

# A program that takes longer hangs; nothing is measured by it.
PROGRAM_LIMIT_S = 20


@dataclass
class Node:
    """One machine of the chain."""

    namespace: Namespace
    name: str

    def set_sysctl(self, name: str, value: str) -> None:
        """Set a parameter of this machine, such as ``net.ipv4.icmp_ratelimit``."""
        path = Path("/proc/sys") / name.replace(".", "/")
        self.namespace.run(lambda: path.write_text(value))

    def nft(self, rules: str) -> None:
        """Give rules, as a file for nft(8) has them, to this machine's packet filter."""
        program = needs_program("nft")

        def give() -> None:
            subprocess.run([program, "-f", "-"], input=rules, text=True, check=True, timeout=PROGRAM_LIMIT_S)

        self.namespace.run(give)

    def ask_nft(self, *words: str) -> str:
        """What nft(8) says here."""
        program = needs_program("nft")
        return self.namespace.run(
            lambda: subprocess.run([program, *words], capture_output=True, text=True, check=True).stdout
        )


@dataclass
class Chain:
    """The machines in order: ``nodes[0]`` is the client, the last is the server, the others route."""

    nodes: list[Node]

    @property
    def client(self) -> Node:
        """Who asks."""
        return self.nodes[0]

    @property
    def server(self) -> Node:
        """Who is asked."""
        return self.nodes[-1]

    @property
    def routers(self) -> list[Node]:
        """The machines between, nearest first."""
        return self.nodes[1:-1]

    def address(self, position: int, version: int = 4) -> str:
        """The address by which a machine is known towards the client: that of its nearer side."""
        return f"10.77.{position}.2" if version == 4 else f"fd77:{position}::2"

    def hops(self, version: int = 4) -> list[str]:
        """What a path from client to server consists of."""
        return [self.address(position, version) for position in range(1, len(self.nodes))]


@contextlib.contextmanager
def chain(routers: int, *, limits: bool = False) -> Iterator[Chain]:
    """Make a client, so many routers and a server; without ``limits`` they answer every packet that asks for it.

    Link number i lies between machine i - 1 and machine i, and is 10.77.i.0/24 and fd77:i::/64.
    """
    with contextlib.ExitStack() as stack:
        names = ["client", *(f"router{number}" for number in range(1, routers + 1)), "server"]
        nodes = [Node(stack.enter_context(new_namespace()), name) for name in names]
        for node in nodes:
            node.set_sysctl("net.ipv4.ip_forward", "1")
            node.set_sysctl("net.ipv6.conf.all.forwarding", "1")
            # Else its addresses would be of no use for a second, while it looks for others who have them.
            node.set_sysctl("net.ipv6.conf.default.accept_dad", "0")
            if not limits:
                node.set_sysctl("net.ipv4.icmp_ratelimit", "0")
                node.set_sysctl("net.ipv6.icmp.ratelimit", "0")
        for position in range(1, len(nodes)):
            join(nodes[position - 1], nodes[position], f"10.77.{position}.", f"fd77:{position}::")
        last = len(nodes) - 1
        for here, node in enumerate(nodes):
            for position in range(1, len(nodes)):
                if position in (here, here + 1):
                    continue  # its own link
                forward = position > here
                # Onward by the next machine's nearer side, back by the one before, whose farther side ends in 1.
                link, far = (here + 1, 2) if forward else (here, 1)
                route(node, f"10.77.{position}.0/24", f"10.77.{link}.{far}")
                route(node, f"fd77:{position}::/64", f"fd77:{link}::{far}")
        made = Chain(nodes)
        for version in (4, 6):
            made.client.namespace.run(functools.partial(wait_for, made.address(last, version)))
        yield made


def wait_for(address: str) -> None:
    """Wait until a host answers. A cable that was just laid may swallow packets for a second, ARP's first ones too.

    A port of TCP where nobody listens is refused by the kernel (RFC 9293 §3.10.7.1), whose SYN comes again until then.
    """
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection((address, 9), timeout=PROGRAM_LIMIT_S).close()


def join(left: Node, right: Node, prefix4: str, prefix6: str) -> None:
    """Lay a cable: the left end has the addresses that end in 1, the right end those in 2."""

    def make() -> None:
        with Rtnetlink() as kernel:
            kernel.create_veth(right.name, left.name, peer_namespace_fd=right.namespace.fd)
            raise_up(kernel, right.name, "1")

    def finish() -> None:
        with Rtnetlink() as kernel:
            raise_up(kernel, left.name, "2")

    def raise_up(kernel: Rtnetlink, name: str, host: str) -> None:
        index = kernel.link(name).index
        kernel.set_up(index)
        kernel.add_address(index, f"{prefix4}{host}/24")
        kernel.add_address(index, f"{prefix6}{host}/64")

    left.namespace.run(make)
    right.namespace.run(finish)


def route(node: Node, prefix: str, via: str) -> None:
    """Give a machine a route."""

    def add() -> None:
        with Rtnetlink() as kernel:
            kernel.add_route(prefix, via=via)

    node.namespace.run(add)
