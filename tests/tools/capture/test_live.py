"""A running capture sees what the kernel sends and receives: each packet once, whole, in order, or it is counted."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from tests._kernel import needs_program

from underlay.errors import UsageError
from underlay.link import Rtnetlink
from underlay.tools.capture import Live, LiveStatistics, Row, decode, interfaces
from underlay.tools.capture import _cli as command
from underlay.tools.capture import _ring as ring_module
from underlay.tools.capture._filter import Instruction
from underlay.tools.capture._output import Output
from underlay.tools.capture._ring import BLOCK_BYTES, PacketRing

from ._net import Net, network


@pytest.fixture
def net() -> Iterator[Net]:
    with network() as made:
        yield made


def captured(net: Net, live: Live, work: object, seconds: float = 0.15) -> list[Row]:
    """Capture while something is done in the namespace, and give what was seen."""
    rows: list[Row] = []

    def capture() -> None:
        with live:
            live.begin()
            begun.set()
            for batch in live.batches():
                rows.extend(batch)
            statistics.append(live.statistics())

    begun = threading.Event()
    statistics: list[LiveStatistics] = []
    thread = threading.Thread(target=lambda: net.do(capture))
    thread.start()
    assert begun.wait(30)
    net.do(work)  # type: ignore[arg-type]
    time.sleep(seconds)
    live.stop()
    thread.join(30)
    assert not thread.is_alive() and statistics
    assert statistics[0].captured_packets == len(rows)
    return rows


def send(*payloads: bytes, to: tuple[str, int] = ("127.0.0.1", 9999), source: tuple[str, int] | None = None) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if source is not None:
            sock.bind(source)
        for payload in payloads:
            sock.sendto(payload, to)


def live_in(net: Net, *names: str, text: str = "udp", **options: object) -> Live:
    options = {"owners": False, **options}
    return net.do(lambda: Live(names, text, **options))  # type: ignore[arg-type]


PAYLOADS = [bytes([number]) * (number + 1) for number in range(20)]


def payload(row: Row, link_type: int) -> bytes:
    size = decode(link_type, row.packet.data, row.packet.size_bytes).payload_bytes
    return row.packet.data[-size:] if size else b""


@pytest.mark.parametrize("name", ["lo", "any"])
def test_a_loopbacks_packets_are_seen_once_and_in_order(net: Net, name: str) -> None:
    live = live_in(net, name)
    rows = captured(net, live, lambda: send(*PAYLOADS))
    assert [payload(row, live.source.link_type) for row in rows] == PAYLOADS
    times = [row.packet.time_ns for row in rows]
    assert times == sorted(times)
    assert {row.packet.direction for row in rows} == {"in"}


def test_a_filter_is_there_before_the_first_packet(net: Net) -> None:
    """Packets come all the while, before the socket, while it is made and after; only what the filter wants is seen."""
    over = threading.Event()

    def flood() -> None:
        while not over.is_set():
            send(b"x", to=("127.0.0.1", 9998))

    flooding = threading.Thread(target=lambda: net.do(flood))
    flooding.start()
    try:
        live = live_in(net, "lo", text="udp port 9999")
        rows = captured(net, live, lambda: send(b"y"))
    finally:
        over.set()
        flooding.join()
    assert [payload(row, 1) for row in rows] == [b"y"]


def veth(net: Net, *ends: str) -> None:
    one, other = ends or ("v0", "v1")
    net.ip("link", "add", "name", one, "type", "veth", "peer", "name", other)
    net.ip("link", "set", one, "up")
    net.ip("link", "set", other, "up")
    carrier(net, one, other)


def carrier(net: Net, *names: str) -> None:
    """Wait until a cable carries; the kernel lets its interfaces know in their own time."""

    def carries() -> bool:
        with Rtnetlink() as kernel:
            return all(kernel.link(name).has_carrier for name in names)

    until_s = time.monotonic() + 10
    while not net.do(carries):
        assert time.monotonic() < until_s
        time.sleep(0.01)


def raw(frame: bytes, *names: str) -> None:
    for name in names:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((name, 0))
            sock.send(frame)


FRAME = bytes.fromhex("020000000002 020000000001 88b5") + bytes(range(46))  # 0x88b5: local experiments, IEEE 802


def test_both_directions_of_a_cable_and_each_alone(net: Net) -> None:
    veth(net)
    for direction, wanted in (("", ["in", "out"]), ("in", ["in"]), ("out", ["out"])):
        live = live_in(net, "v0", text="ether proto 0x88b5", direction=direction)
        rows = captured(net, live, lambda: raw(FRAME, "v1", "v0"))
        assert [row.packet.direction for row in rows] == wanted
        assert all(row.packet.data == FRAME for row in rows)


def test_several_interfaces_are_one_capture_in_order(net: Net) -> None:
    veth(net)
    veth(net, "v2", "v3")
    live = live_in(net, "v0", "v2", text="ether proto 0x88b5")
    rows = captured(net, live, lambda: raw(FRAME, "v0", "v3", "v2", "v1"))
    names = net.do(lambda: [socket.if_indextoname(row.packet.interface) for row in rows])
    assert names == ["v0", "v2", "v2", "v0"]
    assert [row.packet.direction for row in rows] == ["out", "in", "out", "in"]


def test_a_tag_that_the_kernel_keeps_beside_a_packet_is_put_back(net: Net) -> None:
    veth(net)
    # A frame that arrives with a tag loses it before anybody sees it: skb_vlan_untag() in __netif_receive_skb_core().
    tagged = FRAME[:12] + bytes.fromhex("81000005") + FRAME[12:]
    for text in ("ether proto 0x88b5", "vlan 5", "vlan and ether proto 0x88b5"):
        live = live_in(net, "v0", text=text, direction="in")
        (row,) = captured(net, live, lambda: raw(tagged, "v1"))
        assert (row.packet.data, row.packet.size_bytes) == (tagged, len(tagged))
    live = live_in(net, "v0", text="vlan 6", direction="in")
    assert captured(net, live, lambda: raw(tagged, "v1")) == []


def test_a_filter_asks_which_way_a_packet_goes_and_through_what(net: Net) -> None:
    veth(net)
    number = net.do(lambda: socket.if_nametoindex("v0"))
    tagged = FRAME[:12] + bytes.fromhex("81000005") + FRAME[12:]
    for text, wanted in (
        ("inbound and ether proto 0x88b5", ["in"]),
        ("outbound and ether proto 0x88b5", ["out"]),
        ("not inbound and ether proto 0x88b5", ["out"]),
        (f"ifindex {number} and ether proto 0x88b5", ["in", "out"]),
        (f"ifindex {number + 7}", []),
    ):
        for names in (["v0"], ["v0", "lo"]):
            rows = captured(net, live_in(net, *names, text=text), lambda: raw(FRAME, "v1", "v0"))
            assert [row.packet.direction for row in rows] == wanted, text
    for text, wanted in (("inbound and vlan 5", ["in"]), ("vlan 5 and inbound and ether proto 0x88b5", ["in"]),
                         ("vlan 6 and inbound", [])):  # fmt: skip
        rows = captured(net, live_in(net, "v0", text=text), lambda: raw(tagged, "v1", "v0"))
        assert [row.packet.direction for row in rows] == wanted, text
        assert all(row.packet.data == tagged for row in rows)


def test_of_all_interfaces_a_filter_asks_which_way_a_packet_goes_and_through_what(net: Net) -> None:
    veth(net)
    number, other = net.do(lambda: [socket.if_nametoindex(name) for name in ("v0", "v1")])
    for text, wanted in (
        ("inbound", [(number, "in"), (other, "in")]),
        (f"ifindex {number}", [(number, "out"), (number, "in")]),
        (f"ifindex {number} and outbound", [(number, "out")]),
    ):
        text += " and ether proto 0x88b5"
        rows = captured(net, live_in(net, "any", text=text), lambda: raw(FRAME, "v0", "v1"))
        assert sorted((row.packet.interface, row.packet.direction) for row in rows) == sorted(wanted), text


def test_a_tunnel_device_takes_a_filter_that_asks_which_way_a_packet_goes(net: Net) -> None:
    net.ip("tuntap", "add", "tun0", "mode", "tun")
    net.ip("address", "add", "10.7.0.1/24", "dev", "tun0")
    net.ip("link", "set", "tun0", "up")
    assert live_in(net, "tun0", text="inbound and udp").source.link_type == 101


def test_what_is_cut_says_how_long_it_was(net: Net) -> None:
    live = live_in(net, "lo", snap_bytes=50)
    (row,) = captured(net, live, lambda: send(bytes(1000)))
    assert (len(row.packet.data), row.packet.size_bytes) == (50, 14 + 28 + 1000)


def test_the_longest_packet_is_whole(net: Net) -> None:
    live = live_in(net, "lo")
    (row,) = captured(net, live, lambda: send(b"z" * 65_507))
    assert payload(row, 1) == b"z" * 65_507


def test_a_tunnel_device_begins_with_ip_and_two_kinds_of_link_are_cooked(net: Net) -> None:
    net.ip("tuntap", "add", "tun0", "mode", "tun")
    net.ip("link", "set", "tun0", "up")
    net.ip("address", "add", "10.7.0.1/24", "dev", "tun0")
    found = {each.name: each for each in net.do(interfaces)}
    assert found["tun0"].link_type == 101 and found["lo"].is_loopback
    assert live_in(net, "tun0").source.link_type == 101
    live = live_in(net, "tun0", "lo")
    assert live.source.is_cooked
    rows = captured(net, live, lambda: send(b"q"))
    assert [payload(row, live.source.link_type) for row in rows] == [b"q"]


@pytest.mark.parametrize(
    "text", ["", "udp", "udp and src host 127.0.0.1", "ip[8] = 64", "inbound", "ether[0] = 0", "less 60"]
)
def test_a_cooked_filter_in_the_kernel_is_what_it_says(net: Net, text: str) -> None:
    live = live_in(net, "any", text=text)
    assert len(captured(net, live, lambda: send(b"one", b"two"))) >= 2


def test_what_finds_no_room_is_counted(net: Net) -> None:
    """A ring of two blocks that nobody empties: what is in it, and what was dropped, is all that was sent."""
    packets = 20_000

    def work() -> tuple[int, int, int]:
        ring = PacketRing(cooked=False)
        try:
            ring.set_filter([Instruction(0x06, 0, 0, 262_144)])
            ring.make(2 * BLOCK_BYTES)
            ring.start(socket.if_nametoindex("lo"))
            time.sleep(0.05)
            net.burst(packets)
            time.sleep(0.05)
            seen = 0
            for _ in range(5):
                seen += sum(map(len, ring.blocks()))
                time.sleep(0.02)
            told = ring.statistics()
            assert ring.statistics() == told  # reading does not forget
            return seen, told.received, told.dropped
        finally:
            ring.close()

    seen, received, dropped = net.do(work)
    assert dropped > 0
    assert seen + dropped == received == 2 * packets  # a loopback shows each twice where no filter of ours says no


def test_count_and_duration_end_it(net: Net) -> None:
    def by_count() -> list[int]:
        with Live(["lo"], "udp", owners=False, count=3) as live:
            live.begin()
            send(*PAYLOADS)
            sizes = [len(batch) for batch in live.batches()]
            assert live.statistics().captured_packets == 3
            return sizes

    assert sum(net.do(by_count)) == 3

    def by_time() -> int:
        with Live(["lo"], "udp", owners=False, duration_s=0.2) as live:
            live.begin()
            send(*PAYLOADS)
            return sum(len(batch) for batch in live.batches())

    assert net.do(by_time) == len(PAYLOADS)


def test_an_interface_that_goes_away_ends_the_capture_and_one_that_goes_down_does_not(net: Net) -> None:
    veth(net)
    notes: list[str] = []
    live = live_in(net, "v0", text="ether proto 0x88b5", note=notes.append)

    def work() -> None:
        net.ip("link", "set", "v0", "down")
        time.sleep(0.1)
        net.ip("link", "set", "v0", "up")
        carrier(net, "v0", "v1")
        raw(FRAME, "v1")
        time.sleep(0.1)
        net.ip("link", "delete", "v0")

    rows = captured(net, live, work)
    assert [row.packet.data for row in rows] == [FRAME]
    assert notes == ["v0 went down; the capture waits for it"]
    assert live.gone == "v0"


@pytest.mark.parametrize("owners", [False, True])
@pytest.mark.parametrize("is_open", [False, True])
def test_an_interface_that_goes_away_before_the_beginning_ends_it_as_one_that_goes_after(
    net: Net, owners: bool, is_open: bool
) -> None:
    veth(net)
    live = live_in(net, "v0", text="udp", owners=owners)

    def work() -> list[list[Row]]:
        if not is_open:
            net.ip("link", "delete", "v0")
        with live:
            if is_open:
                net.ip("link", "delete", "v0")
            return list(live.batches())

    assert net.do(work) == []
    assert live.gone == "v0"


def test_of_several_one_that_goes_away_before_the_beginning_does_not_end_it(net: Net) -> None:
    veth(net)
    live = live_in(net, "lo", "v0")
    net.ip("link", "delete", "v0")
    rows = captured(net, live, lambda: send(b"x"))
    assert [payload(row, 1) for row in rows] == [b"x"] and live.gone == ""


def test_one_of_several_that_goes_away_is_told_and_the_others_go_on(net: Net) -> None:
    veth(net)
    notes: list[str] = []
    live = live_in(net, "lo", "v0", "v1", note=notes.append)

    def work() -> None:
        net.ip("link", "delete", "v0")
        until_s = time.monotonic() + 20
        while len(notes) < 2 and time.monotonic() < until_s:
            time.sleep(0.05)
        send(b"x")

    rows = captured(net, live, work)
    assert notes == [f"{name} went away; the capture goes on without it" for name in ("v0", "v1")]
    assert [payload(row, live.source.link_type) for row in rows] == [b"x"] and live.gone == ""


@pytest.mark.parametrize(
    "option",
    [
        {"snap_bytes": 0}, {"snap_bytes": 1 << 20}, {"direction": "up"}, {"count": 0}, {"count": -1},
        {"duration_s": 0.0}, {"duration_s": float("nan")}, {"ring_bytes": 0}, {"ring_bytes": 1 << 40},
    ],
)  # fmt: skip
def test_a_number_or_a_direction_that_cannot_be_is_refused(option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        Live(["lo"], **option)  # type: ignore[arg-type]


def test_when_all_of_several_interfaces_are_gone_it_ends(net: Net) -> None:
    veth(net)
    live = live_in(net, "v0", "v1", text="ether proto 0x88b5")
    captured(net, live, lambda: net.ip("link", "delete", "v0"), seconds=1.5)
    assert live.gone == "v0+v1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": ["eth7"]}, "there is no interface 'eth7' here; choose one of"),
        ({"names": ["l"]}, "there is no interface 'l' here; did you mean 'lo'"),
        ({"text": "tcp prot"}, "says libpcap"),
        ({"follow": 2**22 + 1}, "there is no process 4194305"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_opened(net: Net, options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        net.do(lambda: Live(**options))  # type: ignore[arg-type]


def test_an_interface_that_is_down_is_told(net: Net) -> None:
    net.ip("link", "add", "name", "v0", "type", "veth", "peer", "name", "v1")
    with pytest.raises(UsageError, match="the interface v0 is down; `ip link set v0 up`"):
        live_in(net, "v0")


def test_a_process_in_another_network_is_not_followed(net: Net) -> None:
    with pytest.raises(UsageError, match="in another network namespace"):
        net.do(lambda: Live([], "", follow=os.getppid()))


def test_a_filter_for_which_the_kernel_has_no_room_is_asked_here(net: Net) -> None:
    def limit() -> None:
        try:
            Path("/proc/sys/net/core/optmem_max").write_text("1024")
        except OSError:
            pytest.skip("this kernel has one optmem_max for all networks; remedy: a later Linux")

    net.do(limit)
    notes: list[str] = []
    text = " or ".join(f"host 10.0.0.{number}" for number in range(1, 60)) + " or udp port 9999"
    for filter_text, wanted in ((text, [b"x"]), (f"({text}) and not udp", [])):
        live = live_in(net, "lo", text=filter_text, note=notes.append)
        rows = captured(net, live, lambda: send(b"x"))
        assert [payload(row, 1) for row in rows] == wanted
    assert len(notes) == 2 and "the kernel has no room for this filter (net.core.optmem_max)" in notes[0]
    live = live_in(net, "lo", text=f"inbound and ({text})")
    with pytest.raises(UsageError, match="--direction instead of inbound"):
        net.do(live.__enter__)


def test_a_ring_for_which_there_is_no_memory_is_told(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = net.do(lambda: PacketRing(cooked=False))

    class Refusing:
        def setsockopt(self, level: int, name: int, value: object) -> None:
            if name == 5:
                raise OSError(errno.ENOMEM, "")

    real, ring._socket = ring._socket, Refusing()  # type: ignore[assignment]
    with real, pytest.raises(UsageError, match="no memory for a ring of 32 MiB; choose a smaller --ring-size"):
        ring.make(32 << 20)


def test_a_ring_for_whose_addresses_this_process_has_no_room_is_let_go_for_a_smaller_one(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mmap.mmap

    def limited(fd: int, size_bytes: int, flags: int) -> mmap.mmap:
        if size_bytes > 8 << 20:
            raise OSError(errno.ENOMEM, "")  # as under RLIMIT_AS
        return real(fd, size_bytes, flags)

    monkeypatch.setattr(mmap, "mmap", limited)
    live = live_in(net, "lo")
    assert [payload(row, 1) for row in captured(net, live, lambda: send(b"x"))] == [b"x"]


def test_a_ring_takes_no_more_than_half_of_what_the_process_may_map(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_module, "_free_addresses_bytes", lambda: 20 << 20)
    with pytest.raises(UsageError, match="no memory for a ring of 64 MiB"):
        net.do(lambda: live_in(net, "lo", ring_bytes=64 << 20).__enter__())
    live = live_in(net, "lo")
    assert [payload(row, 1) for row in captured(net, live, lambda: send(b"x"))] == [b"x"]


def test_what_the_process_may_map_is_its_limit_less_what_it_has() -> None:
    words = "from underlay.tools.capture._ring import _free_addresses_bytes as free; print(free())"
    unlimited, limited = (
        int(subprocess.run([*before, sys.executable, "-c", words], capture_output=True, check=True).stdout)
        for before in ([], [needs_program("prlimit"), f"--as={1 << 30}"])
    )
    assert 0 < limited < min(unlimited, 1 << 30)


def test_a_capture_without_memory_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    class Full:
        source = SimpleNamespace(name="lo", link_type=1)

        def begin(self) -> None:
            pass

        def batches(self) -> Iterator[None]:
            raise MemoryError

    failure = command._run(cast(Live, Full()), Output(None, lines=True, as_json=False, snap_bytes=1))
    assert str(failure) == "there is no memory for more packets; raise `ulimit -v`, or say -w or -s 128"
    assert "capturing on lo" in capsys.readouterr().err


def test_a_ring_takes_no_more_than_half_of_the_memory_and_one_of_no_given_size_becomes_smaller(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_module, "_available_bytes", lambda: 20 << 20)
    with pytest.raises(UsageError, match="no memory for a ring of 64 MiB"):
        net.do(lambda: live_in(net, "lo", ring_bytes=64 << 20).__enter__())
    live = live_in(net, "lo")
    assert [payload(row, 1) for row in captured(net, live, lambda: send(b"x"))] == [b"x"]
    monkeypatch.setattr(ring_module, "_available_bytes", lambda: 1 << 20)
    with pytest.raises(UsageError, match="no memory for a ring of 2 MiB"):
        net.do(lambda: live_in(net, "lo").__enter__())


def test_nothing_stays_open(net: Net) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    def work() -> tuple[int, int]:
        before = count()
        for _ in range(3):
            with Live(["lo"], "udp") as live:
                live.begin()
            with pytest.raises(ZeroDivisionError), Live(["lo"], owners=False) as live:
                raise ZeroDivisionError
        return before, count()

    before, after = net.do(work)
    assert before == after
