"""A TUN or TAP and the real kernel at its other end: what is sent arrives there, and what it sends arrives here."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests._kernel import DEVICE, KernelPeer, kernel_pair, kernel_peer, new_namespace

from underlay.errors import UsageError
from underlay.link import FRAME, Delay, Loss, Received, Rtnetlink, TunTap
from underlay.link import _tuntap as module
from underlay.link._virtio_net import HEADER, header_for
from underlay.wire import Frame, checksum, pseudo_header_sum

OURS, THEIRS = socket.inet_aton("10.9.0.2"), socket.inet_aton("10.9.0.1")
LIMIT_S = 20.0


def udp_socket(peer: KernelPeer, family: int = socket.AF_INET) -> socket.socket:
    """A UDP socket of the kernel's end."""
    sock = peer.namespace.run(lambda: socket.socket(family, socket.SOCK_DGRAM))
    sock.settimeout(LIMIT_S)
    return sock


def next_frame(device: TunTap, wanted: Callable[[Received], bool] = lambda frame: True) -> Received:
    """Wait for a frame that the kernel sends, passing over others."""
    poll = select.poll()
    poll.register(device.fileno(), select.POLLIN)
    while poll.poll(LIMIT_S * 1000):
        for frame in device.receive(1):
            if wanted(frame):
                return frame
    raise AssertionError("the kernel sent nothing")


def ipv4(protocol: int, payload_bytes: int, source: bytes = OURS, destination: bytes = THEIRS) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + payload_bytes, 7, 0, 64, protocol, 0, source, destination)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:]


def udp_frame(payload: bytes, port: int, *, segment_bytes: int = 0) -> Frame:
    """A datagram to the kernel whose checksum is left open; with ``segment_bytes`` many."""
    length = 8 + len(payload)
    pseudo = pseudo_header_sum(OURS, THEIRS, 17, length) % 0xFFFF
    return Frame(
        ipv4(17, length) + struct.pack("!HHHH", 4000, port, length, pseudo),
        payload,
        segment_bytes=segment_bytes,
        checksum_start=20,
        checksum_offset=6,
    )


@pytest.mark.parametrize("offload", [True, False], ids=["offload", "plain"])
def test_a_datagram_of_the_kernel_arrives_whole(offload: bool) -> None:
    with kernel_peer(offload=offload) as peer, udp_socket(peer) as sock:
        sock.sendto(b"hello", ("10.9.0.2", 53))
        frame = next_frame(peer.device)
        assert frame.data[12:20] == THEIRS + OURS
        assert frame.data[28:] == b"hello"
        assert frame.checksum_valid == (peer.device.offload and offload)
        assert frame.segment_bytes == 0
        seen = peer.device.statistics()
        assert (seen.received_frames, seen.received_bytes) == (1, 33)


@pytest.mark.parametrize("offload", [True, False], ids=["offload", "plain"])
def test_a_datagram_with_an_open_checksum_is_believed_by_the_kernel(offload: bool) -> None:
    with kernel_peer(offload=offload) as peer, udp_socket(peer) as sock:
        sock.bind(("10.9.0.1", 0))
        assert peer.device.send(udp_frame(b"hello", sock.getsockname()[1]))
        assert sock.recvfrom(100) == (b"hello", ("10.9.0.2", 4000))
        seen = peer.device.statistics()
        assert (seen.sent_frames, seen.sent_bytes, seen.drops) == (1, 33, {})


def test_a_datagram_with_a_wrong_checksum_is_not() -> None:
    with kernel_peer() as peer, udp_socket(peer) as sock:
        sock.bind(("10.9.0.1", 0))
        port = sock.getsockname()[1]
        good = udp_frame(b"first", port)
        assert peer.device.send(Frame(good.head[:26] + b"\x12\x34", b"first"))
        assert peer.device.send(udp_frame(b"second", port))
        assert sock.recv(100) == b"second"


@pytest.mark.parametrize("offload", [True, False], ids=["offload", "plain"])
def test_a_super_frame_of_udp_arrives_as_the_datagrams_it_stands_for(offload: bool) -> None:
    with kernel_peer(offload=offload) as peer, udp_socket(peer) as sock:
        if offload and not peer.device.udp_offload:
            pytest.skip("this kernel has no UDP segmentation on TUN; remedy: Linux 6.2")
        sock.bind(("10.9.0.1", 0))
        payload = os.urandom(2500)
        assert peer.device.send(udp_frame(payload, sock.getsockname()[1], segment_bytes=1000))
        assert [sock.recv(5000) for _ in range(3)] == [payload[:1000], payload[1000:2000], payload[2000:]]


def test_a_super_frame_of_udp_that_the_kernel_sends_arrives_as_datagrams() -> None:
    with kernel_peer() as peer, udp_socket(peer) as sock:
        if not peer.device.udp_offload:
            pytest.skip("this kernel has no UDP segmentation on TUN; remedy: Linux 6.2")
        sock.setsockopt(socket.SOL_UDP, 103, 1000)  # UDP_SEGMENT
        payload = os.urandom(2500)
        sock.sendto(payload, ("10.9.0.2", 53))
        select.select([peer.device], [], [], LIMIT_S)
        frames = peer.device.receive()
        assert [frame.data[28:] for frame in frames] == [payload[:1000], payload[1000:2000], payload[2000:]]
        assert [frame.segment_bytes for frame in frames] == [0, 0, 0]
        assert [struct.unpack_from("!H", frame.data, 2)[0] for frame in frames] == [1028, 1028, 528]
        assert all(frame.checksum_valid for frame in frames)


def tcp_frame(peer_seq: int, seq: int, flags: int, port: int, payload: bytes = b"", segment_bytes: int = 0) -> Frame:
    length = 20 + len(payload)
    header = struct.pack(
        "!HHIIBBHHH",
        5000,
        port,
        seq & 0xFFFF_FFFF,
        peer_seq & 0xFFFF_FFFF,
        0x50,
        flags,
        65535,
        pseudo_header_sum(OURS, THEIRS, 6, length) % 0xFFFF,
        0,
    )
    return Frame(ipv4(6, length) + header, payload, segment_bytes, 20, 16)


@pytest.mark.parametrize("offload", [True, False], ids=["offload", "plain"])
def test_super_frames_of_tcp_pass_both_ways(offload: bool) -> None:
    data = os.urandom(30_000)
    with kernel_peer(offload=offload) as peer:
        listener = peer.namespace.run(lambda: socket.create_server(("10.9.0.1", 0)))
        with listener:
            listener.settimeout(LIMIT_S)
            port = listener.getsockname()[1]
            peer.device.send(tcp_frame(0, 1000, 0x02, port))  # SYN
            answer = next_frame(peer.device, lambda frame: frame.data[9] == 6)
            theirs = struct.unpack_from("!I", answer.data, 24)[0] + 1
            peer.device.send(tcp_frame(theirs, 1001, 0x10, port))  # ACK
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(LIMIT_S)
                assert peer.device.send(tcp_frame(theirs, 1001, 0x18, port, data, segment_bytes=1460))
                got = bytearray()
                while len(got) < len(data):
                    got += connection.recv(65536)
                assert got == data
                connection.sendall(data)
                back, sizes = bytearray(), []
                while len(back) < len(data):
                    frame = next_frame(peer.device, lambda frame: frame.data[9] == 6 and len(frame.data) > 40)
                    if struct.unpack_from("!I", frame.data, 24)[0] == (theirs + len(back)) & 0xFFFF_FFFF:
                        back += frame.data[40:]
                        peer.device.send(tcp_frame(theirs + len(back), 1001 + len(data), 0x10, port))
                    sizes.append((len(frame.data), frame.segment_bytes))
                assert back == data
                if offload:
                    assert any(segment_bytes > 0 and size > 1500 for size, segment_bytes in sizes)
                else:
                    assert all(segment_bytes == 0 and size <= 1500 for size, segment_bytes in sizes)


def test_a_tap_carries_ethernet_and_gives_both_ends_an_address() -> None:
    with kernel_peer(tap=True) as peer, udp_socket(peer) as sock:
        device = peer.device
        assert device.mac is not None and device.kernel_mac is not None
        assert device.mac != device.kernel_mac
        assert device.mac[0] & 0x03 == 0x02
        sock.sendto(b"hello", ("10.9.0.2", 53))
        request = next_frame(device).data
        assert request[:14] == b"\xff" * 6 + device.kernel_mac + b"\x08\x06"
        reply = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 2, device.mac, OURS, device.kernel_mac, THEIRS)
        assert device.send(Frame(device.kernel_mac + device.mac + b"\x08\x06", reply))
        assert next_frame(device).data[42:] == b"hello"


def test_the_ipv6_address_of_the_kernel_is_usable_at_once() -> None:
    with kernel_peer(kernel_address=["10.9.0.1/24", "fd00::1/64"]) as peer, udp_socket(peer, socket.AF_INET6) as sock:
        sock.bind(("fd00::1", 0))  # EADDRNOTAVAIL while it was tentative
        sock.sendto(b"hello", ("fd00::2", 53))
        frame = next_frame(peer.device, lambda frame: frame.data[6] == 17)
        assert frame.data[48:] == b"hello"


def test_ping_is_answered_through_a_device() -> None:
    with kernel_peer() as peer:
        child = peer.popen(["ping", "-c", "1", "-W", str(int(LIMIT_S)), "10.9.0.2"])
        received = next_frame(peer.device, lambda frame: frame.data[9] == 1)
        assert not received.checksum_valid  # nobody vouches for ICMP's
        echo = received.data
        body = b"\0\0\0\0" + echo[24:]
        body = b"\0\0" + struct.pack("!H", checksum(body)) + echo[24:]
        assert peer.device.send(Frame(ipv4(1, len(body)), body))
        assert child.wait(LIMIT_S) == 0


def test_two_kernels_speak_over_an_impaired_wire() -> None:
    data = os.urandom(200_000)
    loss = Loss(random.Random(1), 0.02)
    with kernel_pair(forward=[Delay(0.002), loss], backward=[Delay(0.002)]) as (left, right):
        with right.namespace.run(lambda: socket.create_server(("10.9.0.2", 7000))) as listener:
            listener.settimeout(LIMIT_S)
            with left.namespace.run(lambda: socket.create_connection(("10.9.0.2", 7000), LIMIT_S)) as near:
                far, _ = listener.accept()
                with far:
                    far.settimeout(LIMIT_S)

                    def send() -> None:
                        near.sendall(data)
                        near.shutdown(socket.SHUT_WR)

                    sender = threading.Thread(target=send)
                    sender.start()
                    got = bytearray()
                    while part := far.recv(65536):
                        got += part
                    sender.join(LIMIT_S)
        assert got == data
    assert loss.affected > 0


def test_a_call_gives_no_more_frames_than_asked_for_and_none_when_there_is_none() -> None:
    with kernel_peer() as peer, udp_socket(peer) as sock:
        assert peer.device.receive() == []
        for number in range(5):
            sock.sendto(b"%d" % number, ("10.9.0.2", 53))
        assert [frame.data[28:] for frame in peer.device.receive(3)] == [b"0", b"1", b"2"]
        assert [frame.data[28:] for frame in peer.device.receive(3)] == [b"3", b"4"]


def test_a_call_ends_when_it_has_a_quarter_of_a_mebibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    with kernel_peer() as peer, monkeypatch.context() as patched:
        patched.setattr(os, "readv", lambda fd, parts: 65536 + 10)
        assert len(peer.device.receive()) == 4
        assert len(peer.device.receive(3)) == 3
        patched.setattr(os, "readv", lambda fd, parts: 1000 + 10)
        assert len(peer.device.receive(1000)) == 263


def test_a_vlan_tag_before_the_largest_packet_is_no_reason_to_drop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with kernel_peer(tap=True) as peer, monkeypatch.context() as patched:
        patched.setattr(os, "readv", lambda fd, parts: 65536 + 18 + 10)
        assert len(peer.device.receive(1)) == 1


def test_what_was_received_stays_as_it_was_while_more_comes() -> None:
    with kernel_peer() as peer, udp_socket(peer) as sock:
        sock.sendto(b"first", ("10.9.0.2", 53))
        kept = next_frame(peer.device)
        sock.sendto(b"other", ("10.9.0.2", 53))
        next_frame(peer.device)
        assert kept.data[28:] == b"first"


def test_what_the_kernel_refuses_is_false_and_counted_by_reason() -> None:
    with kernel_peer() as peer:
        device = peer.device
        assert not device.send(Frame(bytes(40)))  # IP version 0
        assert not device.send(Frame(bytes(20), b"x" * 3000, segment_bytes=1000, checksum_start=20, checksum_offset=16))

        def down() -> None:
            with Rtnetlink() as kernel:
                kernel.set_up(device.index, up=False)

        peer.namespace.run(down)
        assert not device.send(udp_frame(b"hello", 9))
        assert device.statistics().drops == {"refused": 1, "bad_segments": 1, "down": 1}
        assert device.statistics().sent_frames == 0


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS])
def test_a_full_device_is_false_and_counted(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, parts: object) -> int:
        raise OSError(number, os.strerror(number))

    with kernel_peer() as peer:
        with monkeypatch.context() as patched:
            patched.setattr(os, "writev", full)
            assert not peer.device.send(udp_frame(b"hello", 9))
        assert peer.device.statistics().drops == {"full": 1}


@pytest.mark.parametrize(
    ("frame", "is_ethernet", "wanted"),
    [
        # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
        (Frame(b"\x45" + bytes(31) + b"\x50\x10" + bytes(6), b"x", 1460, 20, 16), False, (1, 1, 40, 1460, 20, 16)),
        (Frame(b"\x45" + bytes(31) + b"\x80\x90" + bytes(18), b"x", 9, 20, 16), False, (1, 0x81, 52, 9, 20, 16)),
        (Frame(b"\x60" + bytes(51) + b"\x50\x10" + bytes(6), b"x", 1440, 40, 16), False, (1, 4, 60, 1440, 40, 16)),
        (Frame(b"\x60" + bytes(47), b"x", 1000, 40, 6), False, (1, 5, 48, 1000, 40, 6)),
        (Frame(bytes(14) + b"\x60" + bytes(51) + b"\x50" + bytes(7), b"", 9, 54, 16), True, (1, 4, 74, 9, 54, 16)),
        (
            Frame(bytes(12) + b"\x81\0\0\5\x08\0\x45" + bytes(31) + b"\x50" + bytes(7), b"", 9, 38, 16),
            True,
            (1, 1, 58, 9, 38, 16),
        ),
        (Frame(bytes(40), b"", 0, 20, 16), False, (1, 0, 0, 0, 20, 16)),
    ],
    ids=["tcp4", "tcp4-cwr", "tcp6", "udp6", "ethernet", "vlan", "checksum"],
)
def test_the_header_tells_the_kernel_how_to_cut(
    frame: Frame, is_ethernet: bool, wanted: tuple[int, int, int, int, int, int]
) -> None:
    assert HEADER.unpack(header_for(frame, is_ethernet=is_ethernet)) == wanted


def test_a_kernel_that_knows_no_offload_is_used_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_get_features", lambda fd: 0)
    with kernel_peer() as peer, udp_socket(peer) as sock:
        assert not peer.device.offload
        sock.bind(("10.9.0.1", 0))
        payload = os.urandom(1500)
        assert peer.device.send(udp_frame(payload, sock.getsockname()[1], segment_bytes=1000))
        assert [sock.recv(5000) for _ in range(2)] == [payload[:1000], payload[1000:]]
        sock.sendto(b"hello", ("10.9.0.2", 53))
        assert not next_frame(peer.device).checksum_valid


@pytest.mark.parametrize("refused", [0x20, 0x08, 0x01], ids=["udp", "ecn", "all"])
def test_an_older_kernel_gives_what_it_has(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    real = fcntl.ioctl

    def older(fd: int, request: int, argument: object = 0) -> object:
        if request == module._TUNSETOFFLOAD and isinstance(argument, int) and argument & refused:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, request, argument)  # type: ignore[call-overload]

    monkeypatch.setattr(fcntl, "ioctl", older)
    with kernel_peer() as peer, udp_socket(peer) as sock:
        assert peer.device.offload == (refused != 0x01)
        assert not peer.device.udp_offload
        sock.bind(("10.9.0.1", 0))
        assert peer.device.send(udp_frame(b"hello", sock.getsockname()[1]))
        assert sock.recv(100) == b"hello"
        sock.sendto(b"hello", ("10.9.0.2", 53))
        assert next_frame(peer.device).data[28:] == b"hello"


def test_a_frame_longer_than_any_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with kernel_peer() as peer:
        with monkeypatch.context() as patched:
            patched.setattr(os, "readv", lambda fd, parts: sum(map(len, parts)))
            assert peer.device.receive(2) == []
        assert peer.device.statistics().drops == {"too_large": 2}
        assert peer.device.statistics().received_bytes == 0


def test_what_was_read_before_the_device_went_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([30])

    def readv(fd: int, parts: object) -> int:
        for size in sizes:
            return size
        raise OSError(errno.EBADFD, os.strerror(errno.EBADFD))

    with kernel_peer(offload=False) as peer, monkeypatch.context() as patched:
        patched.setattr(os, "readv", readv)
        assert [len(frame.data) for frame in peer.device.receive()] == [30]
        with pytest.raises(OSError):
            peer.device.receive()


def test_a_device_that_was_deleted_is_ebadfd() -> None:
    with kernel_peer() as peer:

        def delete() -> None:
            with Rtnetlink() as kernel:
                kernel.delete_link(peer.device.index)

        peer.namespace.run(delete)
        with pytest.raises(OSError) as caught:
            peer.device.receive()
        assert caught.value.errno == errno.EBADFD
        with pytest.raises(OSError) as caught:
            peer.device.send(udp_frame(b"hello", 9))
        assert caught.value.errno == errno.EBADFD


def test_the_probe_hears_of_each_frame_in_both_directions() -> None:
    heard: list[tuple[str, str, bytes, float | None, str]] = []
    with kernel_peer() as peer, udp_socket(peer) as sock, FRAME.listening(lambda *report: heard.append(report)):
        sock.sendto(b"hello", ("10.9.0.2", 53))
        received = next_frame(peer.device)
        peer.device.send(udp_frame(b"hello", 9))
        peer.device.send(Frame(bytes(40)))
    name = peer.device.name
    assert heard[0] == (name, "in", received.data, None, "")
    assert [report[1] for report in heard[1:]] == ["out", "out"]
    assert heard[1][2] == udp_frame(b"hello", 9).to_bytes()
    assert heard[2][2:] == (bytes(40), None, "dropped: refused")


def test_a_device_goes_with_its_descriptor_unless_it_persists() -> None:
    with new_namespace() as namespace:

        def work() -> None:
            with Rtnetlink() as kernel:
                with TunTap.open("gone0"):
                    assert kernel.link("gone0").kind == "tun"
                assert "gone0" not in [link.name for link in kernel.links()]
                with TunTap.open("stays0", addresses=["10.9.0.1/24"]) as device:
                    device.set_persistent(True)
                with TunTap.open("stays0") as device:
                    assert device.index == kernel.link("stays0").index
                    device.set_persistent(False)
                assert "stays0" not in [link.name for link in kernel.links()]

        namespace.run(work)


def test_an_owner_without_permission_takes_the_cable_of_what_is_configured_already() -> None:
    code = (
        "import os\n"
        "from underlay.errors import UsageError\n"
        "from underlay.link import TunTap, _tuntap\n"
        "fds = [os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK) for _ in range(2)]\n"
        "_tuntap._open_device = fds.pop\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "with TunTap.open('mine0', addresses=['10.9.0.1/24', 'fd00::0:1/64'], mtu_bytes=1400) as device:\n"
        "    print(device.mtu_bytes)\n"
        "try:\n"
        "    TunTap.open('mine0', addresses=['10.8.0.1/24'])\n"
        "except UsageError as error:\n"
        "    print(error)\n"
    )
    with new_namespace() as namespace:

        def work() -> subprocess.CompletedProcess[str]:
            with TunTap.open("mine0", addresses=["10.9.0.1/24", "fd00::1/64"], mtu_bytes=1400) as device:
                device.set_owner(65534)
                device.set_persistent(True)
            return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

        done = namespace.run(work)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "1400",
        "no permission to configure mine0: it takes CAP_NET_ADMIN; become root, or let root make it as it is wanted:"
        " `underlay net up mine0 --user YOU`",
    ]


def test_a_device_opened_again_without_offload_gives_finished_frames() -> None:
    with new_namespace() as namespace:

        def work() -> None:
            with TunTap.open("again0", addresses=["10.9.0.1/24"]) as device:
                device.set_persistent(True)
            with TunTap.open("again0", offload=False) as device, socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.sendto(b"hello", ("10.9.0.2", 53))
                data = next_frame(device, lambda frame: frame.data[0] == 0x45).data
                pseudo = pseudo_header_sum(THEIRS, OURS, 17, len(data) - 20)
                assert checksum(data[20:], pseudo) % 0xFFFF == 0

        namespace.run(work)


def complaint(work: Callable[[], object]) -> str:
    """The one sentence with which opening a device fails, in a namespace of its own."""

    def inside() -> str:
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(UsageError) as caught:
            work()
        assert set(os.listdir("/proc/self/fd")) == before
        with Rtnetlink() as kernel:
            assert [link.name for link in kernel.links() if link.kind == "tun"] == []
        return str(caught.value)

    with new_namespace() as namespace:
        return namespace.run(inside)


@pytest.mark.skipif(not DEVICE.exists(), reason="no /dev/net/tun; remedy: modprobe tun")
@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: TunTap.open("a-name-of-16-byt"), "is too long for an interface; its name has at most 15 bytes"),
        (lambda: TunTap.open("a/b"), "'a/b' is no name for an interface"),
        (lambda: TunTap.open("tun0", addresses=["10.9.0.1"]), "10.9.0.1 lacks the length of its prefix"),
        (lambda: TunTap.open("tun0", addresses=["10.9.0/24"]), "'10.9.0/24' is no IP address"),
        (lambda: TunTap.open("tun0", mtu_bytes=10), "tun0 cannot have an MTU of 10 bytes"),
        (lambda: TunTap.open("tun0", mtu_bytes=1000, addresses=["fd00::1/64"]), "tun0 takes no IPv6 address"),
        (lambda: TunTap.open("lo"), "lo is neither a TUN nor a TAP device; choose the name of a TUN device, or a new"),
        (lambda: TunTap.open("tun%d"), "'tun%d' is no name for an interface; choose letters and digits, like tap0"),
        (lambda: TunTap.open("tun 0"), "'tun 0' is no name for an interface"),
        (lambda: TunTap.open("tun\udcff"), "'tun\\udcff' is no name for an interface"),
        (lambda: TunTap.open(".."), "'..' is no name for an interface"),
        (lambda: TunTap.open("lo", tap=True, exclusive=True), "there is already an interface called lo"),
    ],
    ids=[
        "long",
        "slash",
        "no-prefix",
        "no-address",
        "mtu",
        "mtu-v6",
        "other-kind",
        "pattern",
        "space",
        "no-text",
        "dots",
        "exists",
    ],
)
def test_wrong_use_is_one_sentence_and_leaves_nothing(work: Callable[[], object], said: str) -> None:
    assert said in complaint(work)


def test_a_device_in_use_is_said_to_be_so() -> None:
    with kernel_peer(name="busy0") as peer:
        with pytest.raises(UsageError, match="the TUN device busy0 is in use by another program"):
            peer.namespace.run(lambda: TunTap.open("busy0"))
        with pytest.raises(UsageError, match=r"busy0 is a TUN device and no TAP; ask for TUN, or"):
            peer.namespace.run(lambda: TunTap.open("busy0", tap=True))


def test_a_machine_without_the_device_is_told_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_DEVICE", str(tmp_path / "tun"))
    with pytest.raises(UsageError, match=r"this machine has no .*; load the kernel's module"):
        TunTap.open("tun0")


def test_a_user_without_permission_is_told_the_remedy() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user; remedy: run the tests as root")
    code = (
        "import os, sys\n"
        "from underlay.errors import UsageError\n"
        "from underlay.link import TunTap, _tuntap\n"
        "if sys.argv[1] == 'opened':\n"
        "    fd = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)\n"
        "    _tuntap._open_device = lambda: fd\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "try:\n"
        "    TunTap.open('mine0')\n"
        "except UsageError as error:\n"
        "    print(error)\n"
    )
    for how, said in [("closed", "may not open /dev/net/tun"), ("opened", "it takes CAP_NET_ADMIN; become root")]:
        if how == "closed" and DEVICE.stat().st_mode & 0o006:
            continue  # anybody may open it here
        done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=False)
        assert said in done.stdout, done.stderr


def test_a_file_that_is_not_the_driver_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DEVICE", "/dev/null")
    with pytest.raises(UsageError, match=r"/dev/null is something else than the kernel's driver; .* c 10 200"):
        TunTap.open("ours0")


def test_an_address_twice_is_one_sentence() -> None:
    with new_namespace() as namespace, pytest.raises(UsageError, match="has the address fd00::1/48 already; say each"):
        namespace.run(lambda: TunTap.open("ours0", addresses=["fd00::1/64", "fd00::1/48"]))
