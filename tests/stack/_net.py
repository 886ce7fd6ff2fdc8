"""Several hosts joined by hubs, in virtual time: what the tests of the stack play their traces on.

It knows when a frame arrives and when a host's timer is due. It refuses to know
what a frame says; a test looks at the bytes, or asks the hosts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from underlay.stack import Host, HostConfig
from underlay.wire import Frame, parse_ip


def ip(text: str) -> bytes:
    """An address as bytes, shorter to write."""
    return parse_ip(text)


def mac(number: int) -> bytes:
    """A locally administered MAC address."""
    return bytes([2, 0, 0, 0, 0, number])


@dataclass
class Passed:
    """One frame that went over a hub."""

    when: float
    sender: Host
    frame: Frame
    data: bytes


@dataclass
class Hub:
    """Everybody on it hears every frame after ``delay_s``; ``drop`` says which frames nobody hears."""

    delay_s: float = 0.0
    drop: Callable[[bytes], bool] = field(default=lambda data: False)
    ports: list[tuple[Host, int]] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)


class Net:
    """Hosts, hubs and the time. ``now`` begins at 1000 so that nobody takes 0 for "never"."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 1000.0
        self.hosts: list[Host] = []
        self._rng = random.Random(seed)
        self._hubs: dict[tuple[int, int], Hub] = {}
        self._flying: list[tuple[float, int, Host, int, bytes]] = []
        self._count = 0

    def host(self, name: str, config: HostConfig | None = None) -> Host:
        """Make a host with a chance of its own."""
        host = Host(name, rng=random.Random(self._rng.getrandbits(64)), config=config or HostConfig())
        self.hosts.append(host)
        return host

    def join(self, hub: Hub, host: Host, addresses: Sequence[str], mac: bytes | None, mtu_bytes: int = 1500) -> int:
        """Give a host an interface on a hub."""
        index = host.add_interface(addresses, mac=mac, mtu_bytes=mtu_bytes)
        hub.ports.append((host, index))
        self._hubs[id(host), index] = hub
        return index

    def settle(self) -> None:
        """Carry frames until nobody has any that arrives at this moment."""
        for _ in range(10_000):
            if not self._carry():
                return
        raise AssertionError("the hosts never stop talking")

    def run(self, seconds: float) -> None:
        """Let time pass: every arrival and every timer in its order."""
        end = self.now + seconds
        for _ in range(100_000):
            self.settle()
            times = [each[0] for each in self._flying]
            times += [when for host in self.hosts if (when := host.next_deadline()) is not None]
            if not times or min(times) > end:
                break
            self.now = max(self.now, min(times))
            for host in self.hosts:
                host.handle_timers(self.now)
        else:
            raise AssertionError("a timer is due again and again")
        self.now = end
        self.settle()

    def _carry(self) -> bool:
        moved = False
        for host in self.hosts:
            for index, frame in host.poll_frames(self.now):
                moved = True
                data = frame.with_checksum().to_bytes()
                hub = self._hubs.get((id(host), index))
                if hub is None:
                    continue
                hub.passed.append(Passed(self.now, host, frame, data))
                if hub.drop(data):
                    continue
                for other, port in hub.ports:
                    if (other, port) != (host, index):
                        self._count += 1
                        self._flying.append((self.now + hub.delay_s, self._count, other, port, data))
        due = sorted(each for each in self._flying if each[0] <= self.now)
        self._flying = [each for each in self._flying if each[0] > self.now]
        for _, _, other, port, data in due:
            moved = True
            other.receive_frame(port, data, self.now)
        return moved


def two_hosts(config: HostConfig | None = None, *, mtu_bytes: int = 1500, seed: int = 1) -> tuple[Net, Host, Host, Hub]:
    """Two Ethernet hosts, 10.0.0.1 and 10.0.0.2 (fd00::1 and fd00::2), which have announced themselves."""
    net = Net(seed)
    hub = Hub()
    a, b = net.host("a", config), net.host("b", config)
    net.join(hub, a, ["10.0.0.1/24", "fd00::1/64"], mac(1), mtu_bytes)
    net.join(hub, b, ["10.0.0.2/24", "fd00::2/64"], mac(2), mtu_bytes)
    net.run(5.0)
    hub.passed.clear()
    return net, a, b, hub
