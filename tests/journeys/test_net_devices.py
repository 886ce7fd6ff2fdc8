"""`underlay run --net` and the devices of a machine: one that stands already, what stands in the way, and captures.

It knows what a user sees, with `ip` and tshark. What the stack does is in tests/stack.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from underlay.trace import read_pcapng

from .._kernel import needs_program
from ._machine import EXAMPLES, NEEDS_A_KERNEL, PATIENCE_S, SLOW, Machine, interfaces, on_both_kinds

pytestmark = NEEDS_A_KERNEL


# --- a device that stands already ---------------------------------------------------------------------------------


def _standing(machine: Machine, name: str = "mine0", *, kind: str = "tap", address: str = "10.9.0.1/24") -> None:
    """Make a device as a person does, up and with an address."""
    ip = needs_program("ip")
    machine.run(ip, "tuntap", "add", "dev", name, "mode", kind)
    machine.run(ip, "address", "add", address, "dev", name)
    machine.run(ip, "link", "set", name, "mtu", "1400", "up")
    _state(machine, lambda state: "NO-CARRIER" in state[0])


def _state(machine: Machine, until: Callable[[tuple[str, str]], bool] = lambda state: True) -> tuple[str, str]:
    """All that `ip` shows, once it is as wanted: the kernel tells of a lost carrier within a second."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        state = machine.run("ip", "-j", "-d", "address"), machine.run("ip", "-j", "route", "show", "table", "all")
        if until(state) or time.monotonic() > end_s:
            return state
        time.sleep(0.05)


def _refused(machine: Machine, net: str) -> str:
    child = machine.start(sys.executable, "-m", "underlay", "run", "--net", net, "-c", "print('ran')")
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, output, errors.count("\n")) == (2, "", 1), errors
    return errors.removeprefix("underlay: ").rstrip("\n")


@pytest.mark.parametrize("end", ["SIGINT", "SIGKILL"])
@pytest.mark.parametrize("kind", ["tap", "tun"])
def test_a_standing_device_is_used_and_left_exactly_as_it_was(machine: Machine, kind: str, end: str) -> None:
    _standing(machine, kind=kind)
    # The kernel makes itself an address of IPv6 some time after; and a first program turns offload on, once.
    machine.run("ip", "link", "set", "mine0", "addrgenmode", "none")
    machine.run("ip", "-6", "address", "flush", "dev", "mine0")
    with machine.serving(f"{kind}:10.9.0.2/24,dev=mine0", EXAMPLES / "echo.py", "--host", "10.9.0.2"):
        pass
    before = _state(machine, lambda state: "NO-CARRIER" in state[0])
    net = f"{kind}:10.9.0.2/24,dev=mine0,mtu=1400"
    with machine.serving(net, EXAMPLES / "echo.py", "--host", "10.9.0.2") as child:
        assert " 2 received, " in machine.run("ping", "-c", "2", "-i", "0.02", "-w", "10", "-s", "3000", "10.9.0.2")
        if end == "SIGKILL":
            child.kill()
            child.wait()
    assert _state(machine, lambda state: state == before) == before


def test_a_standing_device_keeps_its_addresses_and_its_mtu(machine: Machine) -> None:
    _standing(machine, address="10.7.0.1/24")
    program = "import asyncio\nasync def main(): print(asyncio.get_running_loop()._bridge.devices[1].mtu_bytes)\n"
    words = ["--net", "tap:10.9.0.2/24,dev=mine0", "-c", program + "asyncio.run(main())"]
    assert machine.run(sys.executable, "-m", "underlay", "run", *words) == "1400\n"
    (device,) = json.loads(machine.run("ip", "-j", "-4", "address", "show", "dev", "mine0"))
    assert [(each["local"], each["prefixlen"]) for each in device["addr_info"]] == [("10.7.0.1", 24)]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "10.9.0.2/24,dev=mine0,mtu=1500",
            "the device mine0 has an MTU of 1400 bytes, and mtu= says 1500; leave mtu= out, or `ip link set mine0 mtu"
            " 1500`",
        ),
        (
            "10.9.0.1/24,dev=mine0",
            "10.9.0.1 is this machine's own, on mine0: it would answer itself; choose another address for the stack, as"
            " 10.9.0.3/24",
        ),
        (
            "10.9.0.2/24,dev=mine0,peer=10.9.0.9/24",
            "the device mine0 stands already, without the address 10.9.0.9/24 of peer=; leave peer= out, or `ip address"
            " add 10.9.0.9/24 dev mine0`",
        ),
        (
            "10.9.0.2/24",
            "this machine reaches 10.9.0.0/24 by mine0, and would look for 10.9.0.2 there; say dev=mine0 to run on that"
            " device, or choose another prefix",
        ),
        ("10.9.0.2/24,dev=new0", "say dev=mine0 to run on that device"),
        ("10.9.0.2/16", "say dev=mine0 to run on that device"),
    ],
)
def test_what_would_change_a_standing_device_or_never_reach_the_stack_is_refused(
    machine: Machine, words: str, sentence: str
) -> None:
    _standing(machine)
    before = machine.run("ip", "-j", "-4", "address")
    assert sentence in _refused(machine, f"tap:{words}")
    assert machine.run("ip", "-j", "-4", "address") == before


def test_a_longer_prefix_than_that_of_a_standing_device_is_its_own(machine: Machine) -> None:
    _standing(machine, address="10.9.0.1/16")
    with machine.serving("tap:10.9.8.2/24", EXAMPLES / "echo.py", "--host", "10.9.8.2"):
        machine.run("ping", "-c", "1", "10.9.8.2")


def test_a_standing_device_that_cannot_be_used_is_told_why(machine: Machine) -> None:
    _standing(machine)
    assert _refused(machine, "tun:10.9.0.2/24,dev=mine0") == "mine0 is a TAP device; say tap: in the place of tun:"
    assert "choose another prefix" in _refused(machine, "tun:10.9.0.2/24")
    with machine.serving("tap:10.9.0.2/24,dev=mine0", EXAMPLES / "echo.py", "--host", "10.9.0.2"):
        assert "mine0 is in use by another program" in _refused(machine, "tap:10.9.0.3/24,dev=mine0")
        said = _refused(machine, "tap:10.9.0.3/24")
        assert said.endswith("would look for 10.9.0.3 there; choose another prefix")
    machine.run("ip", "link", "set", "mine0", "down")
    said = _refused(machine, "tap:10.9.0.2/24,dev=mine0")
    assert said == "the device mine0 is down; `ip link set mine0 up` brings it up"
    machine.run("ip", "link", "set", "mine0", "mtu", "1000", "up")
    said = _refused(machine, "tap:10.9.0.2/24,ip=fd00:9::2/64,dev=mine0")
    assert "the device mine0 has an MTU of 1000 bytes, and IPv6 needs 1280" in said
    machine.run("ip", "tuntap", "add", "dev", "many0", "mode", "tap", "multi_queue")
    machine.run("ip", "link", "set", "many0", "up")
    assert "many queues, and a program here takes one" in _refused(machine, "tap:10.8.0.2/24,dev=many0")


def test_a_port_of_a_bridge_that_has_the_address_is_a_device_like_any_other(machine: Machine) -> None:
    for words in (
        "link add br0 type bridge",
        "address add 10.9.5.1/24 dev br0",
        "tuntap add dev t1 mode tap",
        "link set t1 up",
        "link set t1 master br0",
        "link set br0 up",
    ):
        machine.run("ip", *words.split())
    said = _refused(machine, "tap:10.9.5.2/24")
    assert said == (
        "this machine reaches 10.9.5.0/24 by br0, and would look for 10.9.5.2 there; say dev=t1 to run on that port of"
        " br0, or choose another prefix"
    )
    net = "tap:10.9.5.2/24,peer=10.9.5.1/24,dev=t1"
    with machine.serving(net, EXAMPLES / "echo.py", "--host", "10.9.5.2"):
        machine.run("ping", "-c", "1", "-W", "5", "10.9.5.2")


def test_two_stacks_with_one_address_are_warned_of_each_other(machine: Machine) -> None:
    program = """
import asyncio

async def main():
    while not asyncio.get_running_loop()._bridge.host.conflicts:
        await asyncio.sleep(0.01)

asyncio.run(main())
"""
    machine.run("ip", "link", "add", "br0", "type", "bridge")
    machine.run("ip", "address", "add", "10.9.5.1/24", "dev", "br0")
    for name in ("t1", "t2"):
        machine.run("ip", "tuntap", "add", "dev", name, "mode", "tap")
        machine.run("ip", "link", "set", name, "master", "br0", "up")
    machine.run("ip", "link", "set", "br0", "up")
    words = [sys.executable, "-m", "underlay", "run", "--net"]
    net = "tap:10.9.5.2/24,dev="
    children = [machine.start(*words, net + name, "-c", program) for name in ("t1", "t2")]
    for child, name in zip(children, ("t1", "t2"), strict=True):
        output, errors = child.communicate(timeout=PATIENCE_S)
        assert (child.returncode, output) == (0, ""), errors
        assert re.fullmatch(
            rf"the station (..:){{5}}.. on {name} has the address 10\.9\.5\.2 too, which is this network's\n", errors
        )


def test_of_two_devices_with_one_address_the_one_that_the_kernel_sends_to_is_used(machine: Machine) -> None:
    _standing(machine, "first0")
    _standing(machine, "second0")
    with machine.serving("tap:10.9.0.2/24,dev=first0", EXAMPLES / "echo.py", "--host", "10.9.0.2"):
        machine.run("ping", "-c", "1", "-W", "5", "10.9.0.2")
        said = _refused(machine, "tap:10.9.0.3/24,dev=second0")
        assert said == (
            "this machine reaches 10.9.0.0/24 by first0, and would look for 10.9.0.3 there, not on second0; `ip address"
            " del 10.9.0.1/24 dev first0`, or choose another prefix"
        )
    _state(machine, lambda state: state[0].count("NO-CARRIER") == 2)
    assert "by first0" in (said := _refused(machine, "tap:10.9.0.3/24,dev=second0"))
    assert said.endswith("not on second0; say dev=first0 to run on that device, or choose another prefix")


def test_two_addresses_of_one_prefix_are_both_reached(machine: Machine) -> None:
    with machine.serving("tap:10.9.0.2/24,ip=10.9.0.3/24", EXAMPLES / "echo.py", "--host", "10.9.0.3"):
        for address in ("10.9.0.2", "10.9.0.3"):
            machine.run("ping", "-c", "1", "-W", "5", address)


def test_a_driver_that_is_none_is_one_sentence_about_the_device(machine: Machine) -> None:
    words = [sys.executable, "-m", "underlay", "run", "--net", "tap:10.9.0.2/24", "-c", "print('ran')"]
    covered = 'mount --bind /dev/null /dev/net/tun && exec "$@"'
    child = machine.start("unshare", "--mount", "sh", "-c", covered, "sh", *words)
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, output, errors.count("\n")) == (2, "", 1), errors
    assert errors.startswith("underlay: /dev/net/tun is something else than the kernel's driver; it should be")


# --- captures -------------------------------------------------------------------------------------------------------


@on_both_kinds
@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_capture_is_whole_however_the_program_ends(machine: Machine, kind: str, end: str, tmp_path: Path) -> None:
    file = tmp_path / "out.pcapng"
    file.write_bytes(b"what was there before")
    with machine.serving(
        f"{kind}:10.9.0.2/24,dev=ours0", EXAMPLES / "echo.py", "--host", "10.9.0.2", capture=file
    ) as child:
        machine.run("ping", "-c", "3", "-i", "0.02", "10.9.0.2")
        child.send_signal(signal.Signals[end])
        child.wait(PATIENCE_S)
    (link,), frames = read_pcapng(file)
    assert (link.name, link.is_ethernet) == ("ours0", kind == "tap")
    assert link.seen == (None if end == "SIGKILL" else len(frames))
    told = machine.run("tshark", "-r", file, "-Y", "icmp", "-T", "fields", "-e", "icmp.type", "-e", "icmp.seq")
    seen = [tuple(line.split()) for line in told.splitlines()]
    # ping does not wait for an answer before it asks again, and had the last answer before the file did.
    assert [number for kind, number in seen if kind == "8"] == ["1", "2", "3"]
    assert [number for kind, number in seen if kind == "0"][:2] == ["1", "2"]
    assert all(seen.index(("8", number)) < seen.index(("0", number)) for number in ("1", "2"))


def test_a_capture_is_whole_after_an_exception_and_has_the_end_of_what_was_sent(
    machine: Machine, tmp_path: Path
) -> None:
    file = tmp_path / "out.pcapng"
    program = """
import asyncio

async def main():
    served = asyncio.Event()
    async def give(reader, writer):
        writer.write(b"x" * 100_000)
        writer.close()
        served.set()
    await asyncio.start_server(give, "10.9.0.2", 7000)
    print("listening on it", flush=True)
    await served.wait()
    await asyncio.sleep(0.1)
    raise LookupError

asyncio.run(main())
"""
    words = ["--net", "tap:10.9.0.2/24", "--capture", str(file), "-c", program]
    child = machine.start(sys.executable, "-m", "underlay", "run", *words)
    assert child.stdout is not None and child.stdout.readline() == "listening on it\n"
    assert machine.run(sys.executable, "-c", SLOW, "10.9.0.2", "7000") == "100000\n"
    assert child.wait(PATIENCE_S) == 1
    (link,), frames = read_pcapng(file)
    assert (link.seen, link.unwritten) == (len(frames), 0)
    assert any(frame.comment.startswith("super-frame: segments of ") for frame in frames)
    told = machine.run("tshark", "-r", file, "-Y", "tcp.flags.fin == 1", "-T", "fields", "-e", "ip.src")
    assert set(told.split()) == {"10.9.0.1", "10.9.0.2"}


def test_a_capture_that_cannot_be_is_one_sentence_and_loses_no_file(machine: Machine, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("precious")

    def refused(net: str, file: Path) -> str:
        words = ["--net", net, "--capture", str(file), "-c", "print('ran')"]
        child = machine.start(sys.executable, "-m", "underlay", "run", *words)
        output, errors = child.communicate(timeout=PATIENCE_S)
        assert (child.returncode, output, errors.count("\n")) == (2, "", 1), errors
        return errors

    assert f"the capture {tmp_path} cannot be written: is a directory; name a file in it" in refused(
        "tap:10.9.0.2/24", tmp_path
    )
    assert "no such file or directory; make its directory" in refused("tap:10.9.0.2/24", tmp_path / "none" / "out")
    for file in (old, new):
        assert "neither a TUN nor a TAP" in refused("tap:10.9.0.2/24,dev=lo", file)
    assert old.read_text() == "precious" and not new.exists()
    assert machine.namespace.run(interfaces) == {"lo"}


def test_a_capture_on_a_full_disk_does_not_stop_the_program(machine: Machine) -> None:
    program = "import asyncio\nasync def main():\n await asyncio.start_server(print, '10.9.0.2', 1); print('ran')\n"
    words = ["--net", "tap:10.9.0.2/24", "--capture", "/dev/full", "-c", program + "asyncio.run(main())"]
    child = machine.start(sys.executable, "-m", "underlay", "run", *words)
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, output) == (0, "ran\n")
    assert errors == "underlay: the capture /dev/full ends early: No space left on device\n"


def test_two_hosts_may_have_a_prefix_for_themselves(machine: Machine) -> None:
    with machine.serving("tun:10.9.0.0/31,ip=fd00:9::/127", EXAMPLES / "echo.py", "--host", "10.9.0.0"):
        machine.run("ping", "-c", "1", "-W", "5", "10.9.0.0")
        machine.run("ping", "-c", "1", "-W", "5", "fd00:9::")
