"""The kernel's own network configuration, asked and changed in a namespace that nothing else knows."""

from __future__ import annotations

import errno
import os
import socket
import subprocess

import pytest
from tests._kernel import needs_program, new_namespace

from underlay.link import Rtnetlink


def test_the_loopback_is_described_as_the_kernel_has_it() -> None:
    with Rtnetlink() as kernel:
        loopback = kernel.link("lo")
        assert loopback.index == socket.if_nametoindex("lo")
        assert loopback in kernel.links()
        assert (loopback.kind, loopback.mac) == ("", bytes(6))


def test_an_interface_that_is_not_there_is_enodev() -> None:
    with Rtnetlink() as kernel, pytest.raises(OSError) as caught:
        kernel.link("no-such-link")
    assert caught.value.errno == errno.ENODEV


def test_a_pair_of_veths_is_made_configured_and_deleted() -> None:
    with new_namespace() as namespace:

        def work() -> None:
            with Rtnetlink() as kernel:
                kernel.create_veth("left", "right")
                left = kernel.link("left")
                assert (left.kind, left.is_up, left.mtu_bytes) == ("veth", False, 1500)
                kernel.set_mtu(left.index, 9000)
                kernel.set_mac(left.index, bytes.fromhex("02000000aa01"))
                kernel.set_alias(left.index, "made by a test")
                kernel.add_address(left.index, "10.9.0.1/24")
                kernel.add_address(left.index, "fd00::1/64")
                kernel.set_up(left.index)
                left = kernel.link("left")
                assert left.is_up
                assert (left.mtu_bytes, left.mac.hex(), left.alias) == (9000, "02000000aa01", "made by a test")
                texts = {address.text for address in kernel.addresses() if address.index == left.index}
                assert {"10.9.0.1/24", "fd00::1/64"} <= texts
                kernel.set_up(left.index, up=False)
                assert not kernel.link("left").is_up
                kernel.delete_link(left.index)
                assert [link.name for link in kernel.links()] == ["lo"]

        namespace.run(work)


def test_an_address_twice_and_a_link_twice_are_eexist() -> None:
    with new_namespace() as namespace:

        def work() -> None:
            with Rtnetlink() as kernel:
                kernel.create_veth("left", "right")
                index = kernel.link("left").index
                kernel.add_address(index, "10.9.0.1/24")
                with pytest.raises(FileExistsError):
                    kernel.add_address(index, "10.9.0.1/24")
                with pytest.raises(FileExistsError):
                    kernel.create_veth("left", "other")

        namespace.run(work)


def test_a_veth_is_moved_to_another_namespace_or_born_there() -> None:
    with new_namespace() as near, new_namespace() as far:

        def work() -> None:
            with Rtnetlink() as kernel:
                kernel.create_veth("left", "right")
                kernel.move_to_namespace(kernel.link("right").index, far.fd)
                kernel.create_veth("up", "down", peer_namespace_fd=far.fd)

        near.run(work)

        def names() -> set[str]:
            with Rtnetlink() as kernel:
                return {link.name for link in kernel.links()}

        assert near.run(names) == {"lo", "left", "up"}
        assert far.run(names) == {"lo", "right", "down"}


def test_routes_lead_where_they_say() -> None:
    ip = needs_program("ip")  # as an oracle
    with new_namespace() as namespace:

        def work() -> None:
            with Rtnetlink() as kernel:
                kernel.create_veth("left", "right")
                index = kernel.link("left").index
                for name in ("left", "right"):
                    kernel.set_up(kernel.link(name).index)
                kernel.add_address(index, "10.9.0.1/24")
                kernel.add_address(index, "fd00::1/64")
                kernel.add_route("0.0.0.0/0", via="10.9.0.2")
                kernel.add_route("10.20.0.0/16", index=index)
                kernel.add_route("fd01::/32", via="fd00::2", index=index)
                with pytest.raises(FileExistsError):
                    kernel.add_route("10.20.0.0/16", index=index)

        namespace.run(work)

        def asked(*words: str) -> str:
            child = namespace.popen([ip, *words], stdout=-1)
            return str(child.communicate()[0])

        assert "via 10.9.0.2 dev left" in asked("route", "get", "192.0.2.1")
        assert "10.20.0.0/16 dev left proto static scope link" in asked("route")
        assert "via fd00::2 dev left" in asked("route", "get", "fd01::5")


def test_a_namespace_leaves_no_descriptor_behind() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with new_namespace() as namespace:
        namespace.run(lambda: None)
        namespace.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_work_in_a_namespace_raises_comes_out() -> None:
    def work() -> None:
        raise KeyError("from inside")

    with new_namespace() as namespace, pytest.raises(KeyError, match="from inside"):
        namespace.run(work)


def test_the_thread_that_asks_stays_where_it_is() -> None:
    here = os.stat("/proc/thread-self/ns/net").st_ino
    with new_namespace() as namespace:
        inside = namespace.run(lambda: os.stat("/proc/thread-self/ns/net").st_ino)
        assert inside == os.fstat(namespace.fd).st_ino != here
    assert os.stat("/proc/thread-self/ns/net").st_ino == here


def test_a_route_is_told_by_the_interface_that_it_takes_and_a_bridge_by_its_ports() -> None:
    ip = needs_program("ip")
    with new_namespace() as namespace:

        def work() -> None:
            with Rtnetlink() as kernel:
                assert kernel.route("10.9.0.2") is None
                assert kernel.route("fd00::2") is None
                kernel.create_veth("left", "right")
                subprocess.run([ip, "link", "add", "br0", "type", "bridge"], check=True)
                subprocess.run([ip, "link", "set", "left", "master", "br0"], check=True)
                bridge, left, right = (kernel.link(name) for name in ("br0", "left", "right"))
                assert (bridge.kind, left.master, right.master) == ("bridge", bridge.index, 0)
                for link, addresses in (bridge, ["10.9.0.1/24"]), (right, ["10.9.1.1/24", "fd00::1/64"]):
                    for address in addresses:
                        kernel.add_address(link.index, address)
                    kernel.set_up(link.index)
                kernel.set_up(left.index)
                found = [kernel.route(address) for address in ("10.9.0.2", "10.9.1.2", "fd00::2", "10.8.0.1")]
                assert found == [bridge.index, right.index, right.index, None]

        namespace.run(work)
