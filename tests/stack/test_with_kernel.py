"""A host and the Linux kernel on one cable: what each says, the other understands.

The test itself is the host's owner: it carries frames until something has come true. The kernel's sockets stand in
the namespace and are asked without waiting.
"""

from __future__ import annotations

import errno
import os
import random
import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests._kernel import KernelPeer, kernel_peer
from tests.stack._net import ip

from underlay.stack import Host, HostConfig

LIMIT_S = 20.0
KINDS = [
    pytest.param(tap, offload, id=f"{'tap' if tap else 'tun'}-{'offload' if offload else 'plain'}")
    for tap in (True, False)
    for offload in (True, False)
]


class Cable:
    """A host of ours at the end of the kernel's device: 10.9.0.2 and fd09::2, the kernel has .1 and ::1."""

    def __init__(self, peer: KernelPeer, config: HostConfig | None = None) -> None:
        self.peer = peer
        device = peer.device
        self.host = Host("cable", rng=random.Random(1), config=config or HostConfig())
        self.interface = self.host.add_interface(
            ["10.9.0.2/24", "fd09::2/64"], mac=device.mac, mtu_bytes=device.mtu_bytes, offload=device.offload
        )
        self._poll = select.poll()
        self._poll.register(device.fileno(), select.POLLIN)

    def now(self) -> float:
        return time.monotonic()

    def turn(self, longest_s: float = 0.05) -> None:
        """Carry what there is, after waiting for it a little."""
        host, device = self.host, self.peer.device
        for _, frame in host.poll_frames(self.now()):
            device.send(frame)
        deadline = host.next_deadline()
        wait_s = longest_s if deadline is None else max(0.0, min(longest_s, deadline - self.now()))
        self._poll.poll(wait_s * 1000)
        now = self.now()
        for received in device.receive():
            host.receive_frame(self.interface, received.data, now, checksum_valid=received.checksum_valid)
        host.handle_timers(now)
        for _, out in host.poll_frames(now):
            device.send(out)

    def until(self, holds: Callable[[], bool]) -> None:
        """Carry until something holds."""
        end = self.now() + LIMIT_S
        while not holds():
            assert self.now() < end, f"it never came true; {self.host.statistics()}"
            self.turn()

    def run(self, *argv: str) -> str:
        """Run a program beside the kernel's end while frames are carried; return what it wrote."""
        child = self.peer.popen(argv)
        self.until(lambda: child.poll() is not None)
        output, errors = child.communicate()
        assert child.returncode == 0, output + errors
        return output

    def socket(self, family: int, kind: int) -> socket.socket:
        made = self.peer.namespace.run(lambda: socket.socket(family, kind))
        made.setblocking(False)
        return made


@contextmanager
def cable(tap: bool, offload: bool = True, config: HostConfig | None = None) -> Iterator[Cable]:
    with kernel_peer(tap=tap, offload=offload, kernel_address=["10.9.0.1/24", "fd09::1/64"]) as peer:
        end = Cable(peer, config)
        # The kernel sends from a new IPv6 address before it receives for it: its route comes a little later.
        for target in ("10.9.0.1", "fd09::1"):
            stop = end.now() + LIMIT_S
            while True:
                assert end.now() < stop, f"{target} never answers"
                end.host.icmp.send_echo(ip(target), 1, 1, b"ready?", end.now())
                end.turn(0.02)
                if end.host.icmp.receive_reply() is not None:
                    break
        yield end


def ready(made: socket.socket) -> Callable[[], bool]:
    return lambda: bool(select.select([made], [], [], 0)[0])


@pytest.mark.parametrize(("tap", "offload"), KINDS)
def test_ping_gets_its_answers_whole_and_in_fragments(tap: bool, offload: bool) -> None:
    with cable(tap, offload) as end:
        for address in ("10.9.0.2", "fd09::2"):
            for size in ("56", "1472", "1500", "9000", "60000"):
                # Until three are answered: without -w it waits for the last no longer than twice what another took,
                # which a busy machine exceeds; and of large answers its own socket has room for two.
                output = end.run("ping", "-c", "3", "-A", "-w", "10", "-s", size, address)
                assert " 3 received, " in output, output
        drops = end.host.statistics().drops
        assert [reason for reason in drops if reason.startswith(("ipv4", "ipv6", "icmp4", "icmp6.c"))] == []


@pytest.mark.parametrize("tap", [True, False], ids=["tap", "tun"])
@pytest.mark.parametrize("target", ["10.9.0.1", "fd09::1"])
def test_the_kernel_answers_our_echo(tap: bool, target: str) -> None:
    with cable(tap) as end:
        for size in (56, 9000):
            data = random.Random(size).randbytes(size)
            assert end.host.icmp.send_echo(ip(target), 7, size, data, end.now())
            replies: list[bytes] = []

            def came(replies: list[bytes] = replies) -> bool:
                reply = end.host.icmp.receive_reply()
                if reply is not None and reply.identifier == 7:
                    replies.append(reply.data)
                return bool(replies)

            end.until(came)
            assert replies == [data]


@pytest.mark.parametrize(("tap", "offload"), KINDS)
@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_of_every_size_go_and_come_back(tap: bool, offload: bool, version: int) -> None:
    family, address = (socket.AF_INET, "10.9.0.2") if version == 4 else (socket.AF_INET6, "fd09::2")
    with cable(tap, offload) as end, end.socket(family, socket.SOCK_DGRAM) as theirs:
        ours = end.host.udp.open(version)
        ours.bind(bytes(4 if version == 4 else 16), 7)
        theirs.connect((address, 7))
        for size in (0, 1, 1452, 1472, 1473, 9000, 65_000):
            data = os.urandom(size)
            theirs.send(data)
            end.until(lambda: ours.readable)
            received = ours.receive_from()
            assert received is not None
            assert received[0] == data
            ours.send_to(data, received[1], end.now())
            end.until(ready(theirs))
            assert theirs.recv(70_000) == data


@pytest.mark.parametrize("version", [4, 6])
def test_each_refuses_the_other_s_datagram_to_a_closed_port(version: int) -> None:
    family, kernel, us = (
        (socket.AF_INET, "10.9.0.1", "10.9.0.2") if version == 4 else (socket.AF_INET6, "fd09::1", "fd09::2")
    )
    with cable(True) as end, end.socket(family, socket.SOCK_DGRAM) as theirs:
        theirs.connect((us, 99))
        theirs.send(b"anybody?")
        end.until(ready(theirs))
        with pytest.raises(ConnectionRefusedError):
            theirs.recv(10)
        ours = end.host.udp.open(version)
        ours.connect(ip(kernel), 99)
        ours.send_to(b"anybody?", None, end.now())
        end.until(lambda: ours.readable)
        assert ours.take_error() == errno.ECONNREFUSED


def test_the_kernel_hears_our_group_and_broadcast_and_we_hear_its() -> None:
    with cable(True) as end, end.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
        group = "239.9.8.7"
        wanted = socket.inet_aton(group) + socket.inet_aton("10.9.0.1")
        theirs.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, wanted)
        theirs.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.9.0.1"))
        theirs.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        theirs.bind(("0.0.0.0", 5000))
        ours = end.host.udp.open()
        ours.broadcast = True
        ours.bind(bytes(4), 5000)
        ours.join(ip(group), end.now(), end.interface)
        ours.multicast_loop = False
        for target in (group, "10.9.0.255"):
            ours.send_to(b"from us", (ip(target), 5000), end.now())
            end.until(ready(theirs))
            assert theirs.recvfrom(100) == (b"from us", ("10.9.0.2", 5000))
            while ours.receive_from() is not None:  # our own broadcast, which comes back as on any host
                pass
            theirs.sendto(b"from the kernel", (target, 5000))
            end.until(lambda: ours.readable)
            assert ours.receive_from() == (b"from the kernel", (ip("10.9.0.1"), 5000))


def test_an_address_that_the_kernel_has_is_not_taken() -> None:
    with kernel_peer(tap=True, kernel_address="10.9.0.2/24") as peer:
        end = Cable(peer, HostConfig(detect_duplicates=True))
        assert not end.host.is_local(ip("10.9.0.2"))
        end.until(lambda: end.host._detection.lost == [ip("10.9.0.2")])


def test_the_kernel_s_neighbour_table_shows_us_reachable() -> None:
    with cable(True) as end:
        end.run("ping", "-c", "1", "10.9.0.2")
        end.run("ping", "-c", "1", "fd09::2")
        table = end.run("ip", "neigh", "show")
        mac = end.peer.device.mac
        assert mac is not None
        for address in ("10.9.0.2", "fd09::2"):
            assert re.search(rf"^{address} .*lladdr {mac.hex(':')}.*(REACHABLE|DELAY|STALE)", table, re.M), table


@pytest.mark.parametrize(("tap", "offload"), KINDS)
@pytest.mark.parametrize("version", [4, 6])
def test_a_connection_with_the_kernel_carries_megabytes_both_ways(tap: bool, offload: bool, version: int) -> None:
    family, address = (socket.AF_INET, "10.9.0.2") if version == 4 else (socket.AF_INET6, "fd09::2")
    data = random.Random(5).randbytes(3_000_000)
    with cable(tap, offload) as end, end.socket(family, socket.SOCK_STREAM) as theirs:
        listener = end.host.tcp.listen(bytes(4 if version == 4 else 16), 80, end.now())
        assert theirs.connect_ex((address, 80)) == errno.EINPROGRESS
        made = []

        def accepted() -> bool:
            connection = listener.accept(end.now())
            if connection is not None:
                made.append(connection)
            return bool(made)

        end.until(accepted)
        ours = made[0]
        to_us, to_them = bytearray(), bytearray()
        sent_us, sent_them = memoryview(data), memoryview(data)
        stop = end.now() + LIMIT_S
        while len(to_us) < len(data) or len(to_them) < len(data):
            assert end.now() < stop, (len(to_us), len(to_them), end.host.tcp.statistics())
            try:
                sent_them = sent_them[theirs.send(sent_them) :] if sent_them else sent_them
            except BlockingIOError:
                pass
            if sent_us:
                sent_us = sent_us[ours.send(sent_us, end.now()) :]
            end.turn(0.01)
            while piece := ours.receive(1 << 20, end.now()):
                to_us += piece
            try:
                to_them += theirs.recv(1 << 20)
            except BlockingIOError:
                pass
        assert to_us == data
        assert to_them == data
        assert not end.host.statistics().drops.get("ip.too_big")
