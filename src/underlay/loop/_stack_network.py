"""The network that ``--net`` asks for, made: a device, a host on it, and the bridge between them.

This file knows how the three are put together, and that nothing stays behind where one of them cannot be.  It does
not know the words (``_net_spec.py``), the loop that will drive it, nor how frames move.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..link import TunTap
from ..stack import Host
from ._bridge import BUSY_POLL_S, Bridge

if TYPE_CHECKING:
    from ..clock import Clock
    from ._net_spec import NetworkSpec


def open_network(spec: NetworkSpec, clock: Clock, *, names: Mapping[str, Sequence[str]] | None = None) -> Bridge:
    """Make the host that `spec` asks for, on its device; ``names`` are those that need no name server.

    Nothing stays behind where it fails: ``UsageError`` as `TunTap.open` has it.
    """
    host = Host("underlay", rng=random.SystemRandom())
    devices: dict[int, TunTap] = {}
    if spec.kind != "lo":
        device = TunTap.open(
            spec.device,
            tap=spec.kind == "tap",
            offload=spec.offload,
            addresses=[str(peer) for peer in spec.peers],
            mtu_bytes=spec.mtu_bytes,
        )
        try:
            interface = host.add_interface(
                [str(address) for address in spec.addresses],
                mac=device.mac,
                mtu_bytes=device.mtu_bytes,
                offload=device.offload,
                name=device.name,
            )
            for gateway in spec.gateways:
                host.add_route("::/0" if ":" in gateway else "0.0.0.0/0", gateway, interface)
        except BaseException:
            device.close()
            raise
        devices[interface] = device
    busy_poll_s = BUSY_POLL_S if spec.busy_poll_us is None else spec.busy_poll_us * 1e-6
    return Bridge(host, devices, clock, names=names or {}, name_servers=spec.name_servers, busy_poll_s=busy_poll_s)
