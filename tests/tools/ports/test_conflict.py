"""Which addresses stand in each other's way is what the kernel says, for each pair of addresses."""

from __future__ import annotations

import errno
import itertools
import socket
from contextlib import ExitStack

import pytest

from underlay.tools.ports._bind_trial import Want, try_bind
from underlay.tools.ports._conflict import overlap

from ._place import Place

# Address, IPV6_V6ONLY.
PLACES = [
    ("0.0.0.0", False),
    ("127.0.0.1", False),
    ("127.0.0.2", False),
    ("::", False),
    ("::", True),
    ("::1", False),
    ("::1", True),
    ("::ffff:127.0.0.1", False),
]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("theirs", PLACES, ids=str)
def test_an_overlap_is_what_the_kernel_refuses(place: Place, protocol: str, theirs: tuple[str, bool]) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM

    def check() -> None:
        address, v6_only = theirs
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as sock:
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
            sock.bind((address, 0))
            port = sock.getsockname()[1]
            [found] = place.sockets(f"local:{port}", f"proto:{protocol}")
            for address, v6_only in PLACES:
                if address.startswith("::ffff:"):
                    continue  # nobody asks for it: `why` names IPv4 addresses as such
                want = Want(protocol, 6 if ":" in address else 4, address, port, v6_only)
                refused = try_bind(want).plain == errno.EADDRINUSE
                assert (overlap(want, found) is not None) == refused, (theirs, want)

    place.do(check)


def test_another_port_or_protocol_is_never_in_the_way(place: Place) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(place.server())
        port = server.getsockname()[1]
        [found] = place.sockets(f"local:{port}", "state:listen")
    for protocol, number in itertools.product(("tcp", "udp"), (port, port + 1, port * 10 % 65536)):
        want = Want(protocol, 4, "0.0.0.0", number)
        assert (overlap(want, found) is not None) == (protocol == "tcp" and number == port)
