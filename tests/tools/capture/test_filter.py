"""Filters are libpcap's: its syntax, its complaints; and what the kernel is given decides what libpcap would."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from underlay.errors import UsageError
from underlay.tools.capture import CompiledFilter, compile_filter
from underlay.tools.capture import _filter as module
from underlay.tools.capture._filter import Instruction, kernel_program
from underlay.tools.capture._link_types import LINUX_SLL
from underlay.wire import ETHERTYPE_IPV4, PROTOCOL_TCP, PROTOCOL_UDP, build_ethernet, build_ipv4

from ._net import Net, network
from ._programs import run_in_kernel

ETHERNET, SNAP_BYTES = 1, 65535
HERE, THERE = bytes([10, 9, 0, 1]), bytes([10, 9, 0, 2])


def ip(protocol: int, ports: tuple[int, int] = (4000, 80)) -> bytes:
    return build_ipv4(HERE, THERE, protocol, 20) + struct.pack("!HH", *ports) + bytes(16)


def frame(protocol: int = PROTOCOL_TCP, ports: tuple[int, int] = (4000, 80), vlan: int | None = None) -> bytes:
    return build_ethernet(bytes(6), bytes(6), ETHERTYPE_IPV4, ip(protocol, ports), vlan=vlan)


@pytest.fixture(autouse=True)
def _libpcap() -> None:
    try:
        compile_filter("tcp", ETHERNET, SNAP_BYTES)
    except UsageError as error:
        pytest.skip(str(error))


def test_a_filter_matches_what_it_says() -> None:
    chosen = compile_filter("tcp port 80 and host 10.9.0.2", ETHERNET, SNAP_BYTES)
    data = frame()
    assert chosen.matches(data, len(data))
    assert not chosen.matches(frame(PROTOCOL_UDP), len(data))
    assert not chosen.matches(frame(ports=(1, 2)), len(data))
    assert not chosen.matches(data[:20], len(data))  # cut before the port
    assert not chosen.matches(b"", 0)


def test_raw_ip_has_another_number_in_libpcap_than_in_files() -> None:
    chosen = compile_filter("tcp port 80", 101, SNAP_BYTES)
    assert chosen.matches(ip(PROTOCOL_TCP), 40) and not chosen.matches(ip(PROTOCOL_UDP), 40)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tcp prot 80", "syntax error"),
        ("port http8", "unknown port 'http8'"),
        ("host 10.9.0.1 and", "syntax error"),
        ("tcp[2000000000000] = 1", ""),
        ("host 10.9.0.256", ""),
        ("(tcp", "syntax error"),
        ("\xff\udc80", ""),
    ],
)
def test_what_is_no_filter_is_told_in_libpcaps_words(text: str, words: str) -> None:
    with pytest.raises(UsageError, match="is not one, says libpcap: ") as caught:
        compile_filter(text, ETHERNET, SNAP_BYTES)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def net() -> Iterator[Net]:
    with network() as made:
        yield made


def test_what_only_the_kernel_knows_is_known_to_be_so(net: Net) -> None:
    for text in ("inbound and tcp", "outbound", "not ifindex 7"):
        chosen = net.do(lambda text=text: compile_filter(text, ETHERNET, SNAP_BYTES, interface="lo"))  # type: ignore[misc]
        assert chosen.asks_the_kernel
    assert not compile_filter("tcp port 80", ETHERNET, SNAP_BYTES).asks_the_kernel


def test_what_a_filter_keeps_of_a_packet_does_not_depend_on_whom_it_asks(net: Net) -> None:
    def kept(text: str, link_type: int, interface: str) -> set[int]:
        chosen = net.do(lambda: compile_filter(text, link_type, 77, interface=interface))
        return {each.value for each in chosen.instructions if each.code == 6}

    for link_type, interface in ((ETHERNET, "lo"), (LINUX_SLL, "any")):
        for text in ("tcp", "ifindex 1 and tcp"):
            assert kept(text, link_type, interface) == {0, 77}


def test_a_filter_that_asks_the_kernel_takes_an_interface_that_can_be_opened(net: Net) -> None:
    with pytest.raises(UsageError, match=r"'inbound' libpcap has to open eth7, and cannot: .*; --direction instead"):
        net.do(lambda: compile_filter("inbound", ETHERNET, SNAP_BYTES, interface="eth7"))
    with pytest.raises(UsageError, match="has to open lo, and cannot: "):  # it has no such headers
        net.do(lambda: compile_filter("inbound", 105, SNAP_BYTES, interface="lo"))
    with pytest.raises(UsageError, match=r"is not one, says libpcap: .*syntax error"):
        net.do(lambda: compile_filter("inbound and", ETHERNET, SNAP_BYTES, interface="lo"))


def test_a_filter_that_asks_the_kernel_leaves_nothing_open(net: Net) -> None:
    def work() -> tuple[int, int]:
        before = len(os.listdir("/proc/self/fd"))
        for interface in ("lo", "any", "eth7"):
            for text in ("inbound", "inbound and"):
                with contextlib.suppress(UsageError):
                    compile_filter(text, ETHERNET, SNAP_BYTES, interface=interface)
        return before, len(os.listdir("/proc/self/fd"))

    before, after = net.do(work)
    assert before == after


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can give up the right to capture; remedy: run the tests as root"
)
@pytest.mark.parametrize("text", ["inbound and tcp", "tcp"])
def test_without_the_right_to_capture_a_filter_says_so_only_where_it_takes_one(text: str) -> None:
    program = (
        "import os, sys\n"
        "from underlay.errors import UsageError\n"
        "from underlay.tools.capture import compile_filter\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: print(len(compile_filter(sys.argv[1], 1, 65535, interface='lo').instructions) > 1)\n"
        "except UsageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, text], capture_output=True, text=True, check=True, timeout=60)
    said = "capturing takes CAP_NET_RAW, which this user has not; `sudo` before the command gives it"
    assert done.stdout.strip() == (said if "inbound" in text else "True")


def test_a_filter_has_a_limit_and_no_zero_bytes() -> None:
    for text in ("tcp\0", "tcp " * 20_000):
        with pytest.raises(UsageError, match="no zero bytes"):
            compile_filter(text, ETHERNET, SNAP_BYTES)


def test_without_libpcap_one_sentence_has_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIBRARIES", ("libpcap-is-not-here.so.9",))
    module._libpcap.cache_clear()
    try:
        with pytest.raises(UsageError, match=r"apt-get install libpcap0\.8"):
            compile_filter("tcp", ETHERNET, SNAP_BYTES)
    finally:
        module._libpcap.cache_clear()


@pytest.mark.parametrize("text", ["tcp", "udp port 53", "host 10.9.0.1", "tcp[0:2] = 4000", "ip[8] = 64", "not tcp"])
def test_the_kernel_decides_as_libpcap_does(text: str) -> None:
    packets = [frame(), frame(PROTOCOL_UDP, (53, 1)), frame(PROTOCOL_UDP, (5, 1)), frame()[:30], b"\0" * 14]
    chosen = compile_filter(text, ETHERNET, SNAP_BYTES)
    program, is_decided = kernel_program(chosen, SNAP_BYTES)
    assert is_decided
    assert run_in_kernel(program, packets) == [chosen.matches(data, len(data)) for data in packets]


def loads(program: list[Instruction]) -> list[int]:
    return [each.value for each in program if each.code & 7 in (0, 1) and each.code & 0xE0 in (0x20, 0x40, 0xA0)]


def test_a_cooked_packet_is_looked_at_without_its_header() -> None:
    chosen = compile_filter("tcp port 80", LINUX_SLL, SNAP_BYTES)
    program, is_decided = kernel_program(chosen, SNAP_BYTES)
    assert is_decided
    assert 0xFFFF_F000 in loads(program)  # the protocol, which the kernel has beside the packet
    assert all(value >= 0xFFFF_F000 or value < 80 for value in loads(program))
    assert max(value for value in loads(program) if value < 0xFFFF_F000) == max(loads(list(chosen.instructions))) - 16


def test_what_the_kernel_has_beside_a_cooked_packet_is_where_it_is_with_a_header() -> None:
    beside = Instruction(0x20, 0, 0, 0xFFFF_F008)  # the interface, SKF_AD_IFINDEX of linux/filter.h
    chosen = CompiledFilter("ifindex 7", LINUX_SLL, [beside, Instruction(0x15, 0, 1, 7), Instruction(6, 0, 0, 9)])
    program, is_decided = kernel_program(chosen, SNAP_BYTES)
    assert is_decided and program == list(chosen.instructions)


@pytest.mark.parametrize("text", ["vlan", "vlan 5 and tcp", "tcp or vlan 7"])
def test_a_tag_that_the_kernel_took_out_is_looked_for_here(text: str) -> None:
    chosen = compile_filter(text, ETHERNET, SNAP_BYTES)
    program, is_decided = kernel_program(chosen, SNAP_BYTES)
    assert not is_decided and program == [Instruction(6, 0, 0, SNAP_BYTES)]


def test_a_field_that_a_cooked_packet_has_not_in_the_kernel_is_looked_for_here() -> None:
    chosen = compile_filter("link[6] = 2", LINUX_SLL, SNAP_BYTES)
    assert not kernel_program(chosen, SNAP_BYTES)[1]


def test_a_filter_too_long_for_the_kernel_is_run_here() -> None:
    one = compile_filter("tcp", ETHERNET, SNAP_BYTES)
    longer = CompiledFilter(
        "tcp", ETHERNET, [*[Instruction(0x87, 0, 0, 0)] * 4096, *one.instructions]
    )  # txa, 4096 times
    assert not kernel_program(longer, SNAP_BYTES)[1]
    assert longer.matches(frame(), 60) and not longer.matches(frame(PROTOCOL_UDP), 60)


def test_more_interfaces_than_a_jump_reaches_are_refused() -> None:
    with pytest.raises(UsageError, match="at most 255 interfaces"):
        kernel_program(None, SNAP_BYTES, interfaces=range(1, 300))
