"""A TUN or TAP device: an interface of the Linux kernel whose cable ends in this process.

This file knows ``/dev/net/tun`` (Documentation/networking/tuntap.rst, linux/if_tun.h): one read(2) is one frame that
the kernel sent, one write(2) is one that it receives. With offload the kernel gives and takes super-frames of up to
64 KiB, and leaves checksums open, as told by the header in ``_virtio_net.py``. It refuses to know what is in the
frames, and who waits for the descriptor.
"""

from __future__ import annotations

import array
import errno
import fcntl
import ipaddress
import os
import struct
from collections import Counter
from collections.abc import Sequence
from types import MappingProxyType, TracebackType
from typing import Final, NamedTuple, Self

from ..errors import UsageError
from ..wire import Frame
from ._contract import FRAME, LinkStatistics
from ._rtnetlink import LinkInfo, Rtnetlink
from ._segmentation import finished, segments
from ._virtio_net import DATA_VALID, HEADER, HEADER_BYTES, NEEDS_CHECKSUM, PLAIN, UDP_SEGMENTS, header_for

__all__ = ["NAME_BYTES", "Received", "TunTap", "check_addresses", "check_name"]

_DEVICE: Final = "/dev/net/tun"
# Documentation/admin-guide/devices.txt
_DRIVER: Final = "the character device 10, 200"

# linux/if_tun.h
_TUNSETIFF: Final = 0x4004_54CA
_TUNSETPERSIST: Final = 0x4004_54CB
_TUNSETOWNER: Final = 0x4004_54CC
_TUNGETFEATURES: Final = 0x8004_54CF
_TUNSETOFFLOAD: Final = 0x4004_54D0
_TUNSETVNETHDRSZ: Final = 0x4004_54D8
_TUNSETVNETLE: Final = 0x4004_54DC
_IFF_TUN: Final = 0x0001
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_IFF_TUN_EXCL: Final = 0x8000
_TUN_F_CSUM: Final = 0x01
_TUN_F_TSO: Final = 0x02 | 0x04  # IPv4 and IPv6
_TUN_F_TSO_ECN: Final = 0x08
_TUN_F_USO: Final = 0x20 | 0x40  # IPv4 and IPv6, since Linux 6.2

# The best first: what an older kernel does not know it refuses as a whole.
_OFFLOADS: Final = (
    _TUN_F_CSUM | _TUN_F_TSO | _TUN_F_TSO_ECN | _TUN_F_USO,
    _TUN_F_CSUM | _TUN_F_TSO | _TUN_F_TSO_ECN,
    _TUN_F_CSUM,
)

NAME_BYTES: Final = 15
"""The longest name of an interface: IFNAMSIZ of linux/if.h, less the zero byte at its end."""

_IFREQ: Final = struct.Struct("=16sH22x")  # struct ifreq: name, flags, the rest of the union

# The largest packet is 64 KiB (GSO_LEGACY_MAX_SIZE, linux/netdevice.h) behind 14 bytes of Ethernet and 4 of VLAN. A
# read(2) tells nothing of what it cut off, so one byte more: a read that fills it may have been cut.
_LARGEST_BYTES: Final = 65536 + 18
# How many frames one call of `receive` gives, unless asked otherwise.
_MOST_FRAMES: Final = 64
# A call ends once it has this much, so that memory for super-frames is used again before the next: with 1 MB held at
# a time glibc gives it back to the kernel and faults it in anew, 29 µs a frame instead of 10 (60 KB, Linux 6.18).
_BATCH_BYTES: Final = 1 << 18

_FULL: Final = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM}


class Received(NamedTuple):
    """One frame that came: from its link header on with TAP, from its IP header on with TUN."""

    data: bytes
    checksum_valid: bool = False
    """The kernel vouches for the transport checksum; what stands in the frame may be unfinished."""
    segment_bytes: int = 0
    """Of a super-frame: the payload of each TCP segment it was made of."""


class TunTap:
    """One queue of a TUN or TAP device; frames of the kernel come by `receive`, ours go by `send`.

    Made by `TunTap.open`; a context manager. ``mac`` is an address for our end, ``kernel_mac`` is the kernel's; both
    are None for TUN, which carries IP packets without a link header.
    """

    def __init__(self, fd: int, info: LinkInfo, *, is_ethernet: bool, offloads: int, has_header: bool) -> None:
        self._fd = fd
        self.name: Final = info.name
        self.index: Final = info.index
        self.is_ethernet: Final = is_ethernet
        self.mtu_bytes: Final = info.mtu_bytes
        self.offload: Final = offloads != 0
        self.udp_offload: Final = offloads & _TUN_F_USO != 0
        self.kernel_mac: Final = info.mac if is_ethernet else None
        # Ours is the kernel's with the last bit turned, so that it stays the same as long as the device does; bit 1
        # of the first octet says that no maker gave it out (IEEE 802, locally administered).
        mac = info.mac  # empty for TUN
        self.mac: Final = bytes((mac[0] | 0x02, *mac[1:5], mac[5] ^ 0x01)) if is_ethernet else None
        self._has_header = has_header
        self._header = bytearray(HEADER_BYTES)
        self._body = bytearray(_LARGEST_BYTES + 1)
        self._body_view = memoryview(self._body)
        self._parts = [self._header, self._body] if has_header else [self._body]
        self._received_frames = self._received_bytes = 0
        self._sent_frames = self._sent_bytes = 0
        self._drops: Counter[str] = Counter()

    @classmethod
    def open(
        cls,
        name: str = "",
        *,
        tap: bool = False,
        offload: bool = True,
        addresses: Sequence[str] = (),
        mtu_bytes: int | None = None,
        up: bool = True,
        exclusive: bool = False,
        alias: str = "",
    ) -> Self:
        """Make the device, or take the cable of one that stands, and bring the kernel's end up.

        Without a name the kernel chooses one. ``addresses``, such as ``"10.9.0.1/24"``, and ``mtu_bytes`` are given
        to the kernel's end. ``offload`` is used where the kernel has it. ``exclusive`` refuses a device that stands
        already. A device that was made here goes with the descriptor, unless `set_persistent` says otherwise; so
        nothing stays behind after a failure. Raises ``UsageError``: there is no /dev/net/tun, no permission, the
        name is too long or in use, an address or MTU is none.
        """
        if name:
            check_name(name)
        check_addresses(addresses)
        kind = "TAP" if tap else "TUN"
        fd = _open_device()
        try:
            features = _get_features(fd)
            has_header = offload and bool(features & _IFF_VNET_HDR)
            flags = (_IFF_TAP if tap else _IFF_TUN) | _IFF_NO_PI
            flags |= (_IFF_VNET_HDR if has_header else 0) | (_IFF_TUN_EXCL if exclusive else 0)
            try:
                answer = fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
            except OSError as error:
                raise _refused(name, kind, error, exclusive=exclusive) from error
            chosen = _IFREQ.unpack(answer)[0].rstrip(b"\0").decode()
            offloads = _set_offload(fd, has_header=has_header)
            info = _bring_up(chosen, addresses, mtu_bytes, up=up, alias=alias)
            return cls(fd, info, is_ethernet=tap, offloads=offloads, has_header=has_header)
        except BaseException as error:
            os.close(fd)
            if isinstance(error, OSError):
                what = f"the {kind} device {name}" if name else f"a {kind} device"
                remedy = f"is {_DEVICE} the kernel's (`ls -l` shows 10, 200), and does `ip tuntap add` make one?"
                raise UsageError(f"{what} cannot be had: {error.strerror}", remedy=remedy) from error
            raise

    # --- frames ----------------------------------------------------------------------------------------

    def receive(self, max_frames: int = _MOST_FRAMES) -> list[Received]:
        """Read the frames that the kernel has sent, at most ``max_frames``; empty when there is none.

        After 256 KiB it gives what it has; the descriptor stays readable when there is more. ``OSError`` with EBADFD
        when the device is gone.
        """
        frames: list[Received] = []
        fd, parts, view, has_header = self._fd, self._parts, self._body_view, self._has_header
        skipped = HEADER_BYTES if has_header else 0
        checksum_valid, segment_bytes, total_bytes = False, 0, 0
        try:
            for _ in range(max_frames):
                if total_bytes >= _BATCH_BYTES:
                    break
                size = os.readv(fd, parts) - skipped
                total_bytes += size
                if size > _LARGEST_BYTES:
                    total_bytes -= size
                    self._drops["too_large"] += 1
                    continue
                data = bytes(view[:size])
                if has_header:
                    flags, gso, _, segment_bytes, start, offset = HEADER.unpack_from(self._header)
                    checksum_valid = flags & (NEEDS_CHECKSUM | DATA_VALID) != 0
                    if gso == UDP_SEGMENTS:
                        frames += self._datagrams(data, segment_bytes, start, offset)
                        continue
                frames.append(Received(data, checksum_valid, segment_bytes))
        except BlockingIOError:
            pass
        except OSError:
            if not frames:
                raise  # else with the next call: what was read until here is not lost
        self._received_frames += len(frames)
        self._received_bytes += total_bytes
        if FRAME.listeners:
            for frame in frames:
                FRAME(self.name, "in", frame.data, None, _comment(frame.segment_bytes))
        return frames

    def _datagrams(self, data: bytes, segment_bytes: int, start: int, offset: int) -> list[Received]:
        """Cut a super-frame of UDP: unlike TCP's, it is not a datagram that ever was."""
        headers = start + 8
        whole = Frame(data[:headers], memoryview(data)[headers:], segment_bytes, start, offset)
        pieces = segments(whole, is_ethernet=self.is_ethernet, checksums=False)
        if pieces is None:
            self._drops["bad_segments"] += 1
            return []
        return [Received(piece.to_bytes(), True, 0) for piece in pieces]

    def send(self, frame: Frame) -> bool:
        """Give one frame to the kernel; False when it was dropped instead, which is counted.

        Nothing is copied on the way. What the kernel would have been asked to finish is finished here where it
        has no offload. ``OSError`` with EBADFD when the device is gone.
        """
        head, payload, segment_bytes, checksum_start, _ = frame
        header = PLAIN
        if checksum_start or segment_bytes:
            if not self.offload:
                return self._send_finished(frame)
            try:
                header = header_for(frame, is_ethernet=self.is_ethernet)
            except (IndexError, struct.error):
                self._drops["bad_segments"] += 1
                return False
        parts: tuple[bytes | memoryview, ...]
        if self._has_header:
            parts = (header, head, payload) if payload else (header, head)
        else:
            parts = (head, payload) if payload else (head,)
        try:
            self._sent_bytes += os.writev(self._fd, parts) - (HEADER_BYTES if self._has_header else 0)
        except OSError as error:
            return self._not_sent(frame, error)
        self._sent_frames += 1
        if FRAME.listeners:
            FRAME(self.name, "out", frame.to_bytes(), None, _comment(segment_bytes))
        return True

    def _send_finished(self, frame: Frame) -> bool:
        """Send what a kernel without offload understands: whole segments; False when one of them was dropped."""
        pieces = finished(frame, is_ethernet=self.is_ethernet)
        if pieces is None:
            self._drops["bad_segments"] += 1
            return False
        sent = [self.send(piece) for piece in pieces]  # each of them, whatever became of the one before
        return all(sent)

    def _not_sent(self, frame: Frame, error: OSError) -> bool:
        if error.errno in _FULL:
            reason = "full"
        elif error.errno == errno.EIO:
            reason = "down"  # the kernel's end is down: tun_get_user() in drivers/net/tun.c
        elif error.errno == errno.EINVAL:
            reason = "refused"  # neither IPv4 nor IPv6, shorter than an Ethernet header, bad offsets
        else:
            raise error
        self._drops[reason] += 1
        if FRAME.listeners:
            FRAME(self.name, "out", frame.to_bytes(), None, f"dropped: {reason}")
        return False

    # --- the device ------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor, readable when the kernel has sent a frame; it never blocks."""
        return self._fd

    def set_persistent(self, persistent: bool) -> None:
        """Let the device outlive its descriptor, or go with it."""
        fcntl.ioctl(self._fd, _TUNSETPERSIST, int(persistent))

    def set_owner(self, user_id: int) -> None:
        """Let this user take the cable without CAP_NET_ADMIN."""
        fcntl.ioctl(self._fd, _TUNSETOWNER, user_id)

    def close(self) -> None:
        """Let go of the cable; a device that is not persistent goes with it. A second time does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def statistics(self) -> LinkStatistics:
        """What was carried so far, and what was dropped, by reason."""
        return LinkStatistics(
            self._received_frames,
            self._received_bytes,
            self._sent_frames,
            self._sent_bytes,
            MappingProxyType(dict(self._drops)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TunTap {self.name}, {'TAP' if self.is_ethernet else 'TUN'}, MTU {self.mtu_bytes}>"


def check_name(name: str) -> None:
    """Refuse what can be no interface's name: dev_valid_name() in net/core/dev.c; and "%", which makes up names.

    TUNSETIFF takes ``tap%d`` for a pattern, and makes the first of tap0, tap1, … that is free.
    """
    if len(os.fsencode(name)) > NAME_BYTES:
        raise UsageError(f"{name!r} is too long for an interface", remedy=f"its name has at most {NAME_BYTES} bytes")
    if name in ("", ".", "..") or not name.isprintable() or any(letter in "/:% " for letter in name):
        raise UsageError(f"{name!r} is no name for an interface", remedy="choose letters and digits, like tap0")


def check_addresses(addresses: Sequence[str]) -> None:
    """Refuse what is no address with its prefix."""
    for address in addresses:
        try:
            ipaddress.ip_interface(address)
        except ValueError:
            raise UsageError(
                f"{address!r} is no IP address", remedy="write it like 10.9.0.1/24 or fd00::1/64"
            ) from None
        if "/" not in address:
            raise UsageError(f"{address} lacks the length of its prefix", remedy=f"write it like {address}/24")


def _comment(segment_bytes: int) -> str:
    """What a reader of a capture must know who wonders at a frame longer than the MTU."""
    return f"super-frame: segments of {segment_bytes} bytes" if segment_bytes else ""


def _open_device() -> int:
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            remedy = "load the kernel's module (`modprobe tun`); give a container --device /dev/net/tun"
            raise UsageError(f"this machine has no {_DEVICE}", remedy=remedy) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            remedy = f"as root: `chmod 666 {_DEVICE}`, as most systems have it"
            raise UsageError(f"this user may not open {_DEVICE}", remedy=remedy) from error
        what = f"{_DEVICE} cannot be opened: {error.strerror}"
        raise UsageError(what, remedy=f"`ls -l {_DEVICE}` shows what it is; it should be {_DRIVER}") from error


def _get_features(fd: int) -> int:
    features = array.array("I", [0])
    try:
        fcntl.ioctl(fd, _TUNGETFEATURES, features)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        remedy = f"it should be {_DRIVER}: as root, `rm {_DEVICE}; mknod -m 666 {_DEVICE} c 10 200`"
        raise UsageError(f"{_DEVICE} is something else than the kernel's driver", remedy=remedy) from error
    return features[0]


def _refused(name: str, kind: str, error: OSError, *, exclusive: bool) -> Exception:
    """Say in one sentence why TUNSETIFF failed: tun_set_iff() in drivers/net/tun.c."""
    what = f"a {kind} device" if not name else f"the {kind} device {name}"
    if error.errno == errno.EPERM:
        remedy = "become root, or let root make a device for you with `underlay net up NAME --user YOU`"
        return UsageError(f"no permission to make or use {what}: it takes CAP_NET_ADMIN", remedy=remedy)
    if error.errno == errno.EBUSY and exclusive:
        return UsageError(f"there is already an interface called {name}", remedy="choose another name")
    if error.errno == errno.EBUSY:
        return UsageError(f"{what} is in use by another program", remedy="end that one, or choose another name")
    if error.errno in (errno.EINVAL, errno.EEXIST):
        with Rtnetlink() as kernel:
            link = next((link for link in kernel.links() if link.name == name), None)
        if link is not None and link.kind != "tun":
            remedy = f"choose the name of a {kind} device, or a new one"
            return UsageError(f"the interface {name} is neither a TUN nor a TAP device", remedy=remedy)
        if link is not None and link.many_queues:
            remedy = "make it without `multi_queue`, or choose another name"
            return UsageError(f"{what} has many queues, and a program here takes one", remedy=remedy)
        if link is not None and link.mode != kind.lower():
            remedy = f"ask for {link.mode.upper()}, or choose another name"
            return UsageError(f"the interface {name} is a {link.mode.upper()} device and no {kind}", remedy=remedy)
    return error


def _set_offload(fd: int, *, has_header: bool) -> int:
    """Turn on what this kernel can leave to us; give the TUN_F_ bits that it took.

    The header's size and byte order are kept by a device that persists, so they are said even where they are the
    default.
    """
    if not has_header:
        # What an earlier user of the device left on would come here without a header to tell of it.
        fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)
        return 0
    fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("=i", HEADER_BYTES))
    fcntl.ioctl(fd, _TUNSETVNETLE, struct.pack("=i", 1))
    for offloads in _OFFLOADS:
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, offloads)
        except OSError:
            continue
        return offloads
    return 0


def _bring_up(name: str, addresses: Sequence[str], mtu_bytes: int | None, *, up: bool, alias: str) -> LinkInfo:
    """Configure the kernel's end, and give what it is then."""
    with Rtnetlink() as kernel:
        info = kernel.link(name)
        try:
            if mtu_bytes is not None and mtu_bytes != info.mtu_bytes:
                _set_mtu(kernel, info, mtu_bytes)
            if alias:
                kernel.set_alias(info.index, alias)
            # Whoever owns the device may not give it an address, and needs not where root has given it.
            has = {each.text for each in kernel.addresses() if each.index == info.index} if addresses else set()
            for address in addresses:
                if str(ipaddress.ip_interface(address)) not in has:
                    _add_address(kernel, info, address)
            if up and not info.is_up:
                kernel.set_up(info.index)
        except PermissionError as error:
            remedy = f"become root, or let root make it as it is wanted: `underlay net up {name} --user YOU`"
            raise UsageError(f"no permission to configure {name}: it takes CAP_NET_ADMIN", remedy=remedy) from error
        return kernel.link(name)


def _set_mtu(kernel: Rtnetlink, info: LinkInfo, mtu_bytes: int) -> None:
    try:
        kernel.set_mtu(info.index, mtu_bytes)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # MIN_MTU and MAX_MTU in drivers/net/tun.c; RFC 8200, section 5 for IPv6.
        remedy = "choose 68 to 65521 bytes, and for IPv6 at least 1280"
        raise UsageError(f"{info.name} cannot have an MTU of {mtu_bytes} bytes", remedy=remedy) from error


def _add_address(kernel: Rtnetlink, info: LinkInfo, address: str) -> None:
    try:
        kernel.add_address(info.index, address)
    except OSError as error:
        if ipaddress.ip_interface(address).version == 6 and error.errno in (
            errno.EACCES,
            errno.EOPNOTSUPP,
            errno.EINVAL,
        ):
            remedy = "is it turned off (sysctl net.ipv6.conf.all.disable_ipv6), or the MTU below 1280?"
            raise UsageError(f"{info.name} takes no IPv6 address such as {address}", remedy=remedy) from error
        if error.errno == errno.EEXIST:  # IPv6: the same address with another prefix
            remedy = f"say each address once; `ip address show dev {info.name}` shows what it has"
            raise UsageError(f"{info.name} has the address {address} already", remedy=remedy) from error
        if error.errno in (errno.EINVAL, errno.EADDRNOTAVAIL):
            raise UsageError(
                f"{info.name} cannot have the address {address}", remedy="choose a host's address"
            ) from error
        raise
