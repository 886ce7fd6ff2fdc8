"""What tests need whose other end is the Linux kernel: a network namespace of their own, and a cable into it.

`kernel_peer` gives a TUN or TAP device whose kernel end stands in a namespace that nothing else knows, while its
cable ends in the test. Programs such as ping run in that namespace. `kernel_pair` joins two such namespaces by a
virtual wire with impairments, in real time: what two Linux kernels do on that wire is a reference. All of it is held
by descriptors of this process alone, so that nothing is left behind even if the test is killed. It refuses to know
what is tested.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from underlay.errors import UsageError
from underlay.link import Impairment, Namespace, Rtnetlink, TunTap, VirtualWire
from underlay.wire import Frame

# A program that runs longer hangs; nothing is measured by it.
PROGRAM_LIMIT_S = 60

DEVICE = Path("/dev/net/tun")


def needs_program(name: str) -> str:
    """Give the path of a program, or skip the test with the remedy."""
    path = shutil.which(name)
    if path is None:
        package = {
            "ping": "iputils-ping",
            "ip": "iproute2",
            "ss": "iproute2",
            "capinfos": "tshark",
            "editcap": "tshark",
            "nft": "nftables",
            "mtr": "mtr-tiny",
            "vmstat": "procps",
        }.get(name, name)
        pytest.skip(f"{name} is not installed; remedy: apt-get install {package}")
    return path


def new_namespace() -> Namespace:
    """Make a network namespace with its loopback up, or skip the test with the reason."""
    try:
        namespace = Namespace.create()
    except OSError as error:
        pytest.skip(f"no network namespace may be made here ({error.strerror}); remedy: run as root (CAP_SYS_ADMIN)")

    def loopback_up() -> None:
        with Rtnetlink() as kernel:
            kernel.set_up(kernel.link("lo").index)

    namespace.run(loopback_up)
    return namespace


@dataclass
class KernelPeer:
    """The kernel as the other end of ``device``; programs that run here speak through it."""

    device: TunTap
    namespace: Namespace
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def popen(self, argv: Sequence[str], *, stdin: int | None = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """Start a program in the namespace, its stdout and stderr in pipes; it is killed at the end at the latest."""
        arguments = [needs_program(argv[0]), *argv[1:]]
        child = self.namespace.run(
            lambda: subprocess.Popen(arguments, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        self._started.append(child)
        return child

    def run(
        self, argv: Sequence[str], *, timeout_s: float = PROGRAM_LIMIT_S, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace to its end. It blocks: whoever answers it must run in another thread."""
        child = self.popen(argv)
        output, errors = child.communicate(timeout=timeout_s)
        if check and child.returncode:
            raise AssertionError(f"{' '.join(argv)} ended with {child.returncode}\n{output}{errors}")
        return subprocess.CompletedProcess(list(argv), child.returncode, output, errors)

    def add_route(self, prefix: str, via: str) -> None:
        """Send what the kernel has for ``prefix`` to the gateway ``via``."""

        def add() -> None:
            with Rtnetlink() as kernel:
                kernel.add_route(prefix, via=via, index=self.device.index)

        self.namespace.run(add)

    def set_sysctl(self, name: str, value: str) -> None:
        """Set a parameter of the namespace, such as ``net.ipv4.tcp_sack``."""
        path = Path("/proc/sys") / name.replace(".", "/")
        self.namespace.run(lambda: path.write_text(value))


@contextmanager
def kernel_peer(
    *,
    tap: bool = False,
    offload: bool = True,
    kernel_address: str | Sequence[str] = "10.9.0.1/24",
    mtu: int = 1500,
    name: str = "",
    quiet: bool = True,
) -> Iterator[KernelPeer]:
    """Make a namespace with a TUN or TAP in it, and give both; skip the test where that cannot be.

    ``quiet`` keeps the kernel from sending what nobody asked for, IPv6 router solicitations and multicast reports,
    where no IPv6 address is given.
    """
    if not DEVICE.exists():
        pytest.skip(f"there is no {DEVICE}; remedy: modprobe tun, or give the container --device {DEVICE}")
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces and devices; remedy: run the tests as root")
    addresses = [kernel_address] if isinstance(kernel_address, str) else list(kernel_address)

    def make() -> TunTap:
        if quiet and not any(":" in address for address in addresses):
            disable = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
            if disable.exists():
                disable.write_text("1")
        return TunTap.open(name, tap=tap, offload=offload, addresses=addresses, mtu_bytes=mtu)

    with new_namespace() as namespace:
        try:
            device = namespace.run(make)
        except UsageError as error:
            pytest.skip(str(error))
        peer = KernelPeer(device, namespace)
        try:
            with device:
                yield peer
        finally:
            for child in peer._started:
                child.kill()
                child.communicate()


@contextmanager
def kernel_pair(
    *,
    forward: Sequence[Impairment] = (),
    backward: Sequence[Impairment] = (),
    addresses: tuple[str, str] = ("10.9.0.1/24", "10.9.0.2/24"),
    mtu: int = 1500,
) -> Iterator[tuple[KernelPeer, KernelPeer]]:
    """Join two namespaces by a virtual wire in real time, TUN at both ends; the first sends ``forward``.

    The kernels cut their own segments and finish their checksums (no offload), so that the wire carries what a cable
    would. A thread of this process moves the frames, with a grain of about 50 µs.
    """
    wire = VirtualWire("pair", forward=forward, backward=backward, is_ethernet=False)
    with (
        kernel_peer(offload=False, kernel_address=addresses[0], mtu=mtu) as left,
        kernel_peer(offload=False, kernel_address=addresses[1], mtu=mtu) as right,
    ):
        devices = (left.device, right.device)
        ended_here, ends = os.pipe()
        watched: list[TunTap | int] = [*devices, ended_here]

        def move() -> None:
            while True:
                due = wire.next_deadline()
                patience_s = None if due is None else max(0.0, due - time.monotonic())
                ready, _, _ = select.select(watched, [], [], patience_s)
                if ended_here in ready:
                    return
                now = time.monotonic()
                for port, device in enumerate(devices):
                    if device in ready:
                        for received in device.receive():
                            wire.send(port, Frame(received.data), now)
                for port, frame in wire.poll_deliveries(now):
                    devices[port].send(frame)

        mover = threading.Thread(target=move, name="kernel-pair")
        mover.start()
        try:
            yield left, right
        finally:
            os.close(ends)
            mover.join()
            os.close(ended_here)
