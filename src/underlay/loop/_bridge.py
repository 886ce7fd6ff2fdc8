"""The bridge: between a user-space host and the device that carries its frames.

This file knows both ``stack`` and ``link``, and is the only one that does: frames go from the device to the host and
from the host to the device, timers are due when the host says so, and what the host tells of its sockets becomes
readiness, as from epoll.  It does not know asyncio, but for its log, nor what the bytes mean.

It costs no thread: whoever waits (a turn of the loop, or a blocking call on one of the sockets) pumps.  A frame that
a callback caused leaves with the next pump, together with all others of that turn; the clock is read once a pump.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import select
import threading
from asyncio.log import logger
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final
from weakref import WeakSet, WeakValueDictionary

from ..stack import State
from ..wire import format_ip, format_mac
from ._readiness import Readiness
from ._stack_core import StreamCore

if TYPE_CHECKING:
    from ..clock import Clock
    from ..link import TunTap
    from ..stack import Host, TcpConnection, TcpListener, UdpSocket
    from ._stack_socket import StackSocket

# Above every number that the kernel can give: fs.nr_open is 2**20 unless somebody raised it, and select(2), epoll(7)
# and io_uring(7) say EBADF for what isn't open. Below 2**31, for those who put it into a C int.
FIRST_NUMBER: Final = 1 << 30
# One count for the process, as a kernel's: a socket that is shown to another network's loop is unknown there (EBADF),
# rather than taken for one of its own.
_numbers: Final = itertools.count(FIRST_NUMBER)

# How long the end of a network waits for its peers. A kernel goes on for minutes, but a person waits for the prompt.
LINGER_S: Final = 3.0
# A connection that owes its peer data or the end of them; the others owe nothing that the peer waits for.
_OWING: Final = frozenset({State.FIN_WAIT_1, State.CLOSING, State.LAST_ACK})

# What the calls on a TUN or TAP device say once it was deleted: tun.c of the kernel.
_GONE: Final = frozenset({errno.EBADFD, errno.ENODEV, errno.ENXIO})

# Frames that one pump takes from a device before callbacks run again: 64 super-frames of 64 KiB are 4 MiB, about the
# most that one window announces, and some 2 ms of work; a flood must not keep timers and other descriptors waiting.
FRAMES_A_PUMP: Final = 64

# How long a loop looks for the next frame before it sleeps, where frames come so often that the last one came within
# that time. To wake a sleeping process on an idle virtual processor costs 30 to 70 us, more than all the rest of a
# round trip; 200 us is what Linux's guests look for work before they halt (guest_halt_poll_ns, for the same reason).
BUSY_POLL_S: Final = 200e-6


class Bridge:
    """One host, the devices of its interfaces, and the sockets that programs have on it.

    ``host`` and ``devices`` (by interface number) are the bridge's from now on; `close` closes the devices. It
    outlives the loops that drive it one after another, as a machine's network outlives programs; ``driver`` is the
    loop that runs it now. ``names`` and their addresses need no name server; ``name_servers`` are asked for others.
    A loop looks ``busy_poll_s`` long for the next frame before it sleeps, while frames come as often as that.
    ``numbers`` are its sockets', for runs that are to repeat each other; else no socket of the process has the number
    of another.
    """

    stream_core: ClassVar[type[StreamCore]] = StreamCore
    # Whether a program can start others, which would miss the sockets that they are to inherit.
    has_processes: ClassVar[bool] = True
    """What a stream socket does."""

    hosts_file = "/etc/hosts"
    """Names that this machine's administrator gave, hosts(5); "" for none."""

    def __init__(
        self,
        host: Host,
        devices: dict[int, TunTap],
        clock: Clock,
        *,
        names: Mapping[str, Sequence[str]] | None = None,
        name_servers: Sequence[str] = (),
        busy_poll_s: float = BUSY_POLL_S,
        numbers: Iterator[int] = _numbers,
    ) -> None:
        self.host = host
        self.devices = devices
        self.now = clock.time
        self.names = dict(names or {})
        self.name_servers = tuple(name_servers)
        self.busy_poll_s = busy_poll_s if devices else 0.0
        self.driver: object = None
        self.driver_thread: int | None = None
        self.closed = False
        self.lost_devices = 0
        self.frames_without_device = 0
        self._told_conflicts: set[bytes] = set()
        self._by_fd = {device.fileno(): (number, device) for number, device in devices.items()}
        # Weak, as the kernel's own table: a socket that its program forgot is closed, with a ResourceWarning.
        self._sockets: WeakValueDictionary[int, StackSocket] = WeakValueDictionary()
        self._detached: dict[int, StackSocket] = {}
        # Numbers that dup() made of one, each with all of them.
        self._companions: dict[int, list[int]] = {}
        self._numbers = numbers
        self.readiness: Final = Readiness(host)
        # Whoever is watched and ready now.
        self.ready: Final = self.readiness.ready
        self._poll = select.poll()
        for fd in self._by_fd:
            self._poll.register(fd, select.POLLIN)
        _bridges.add(self)

    # --- sockets --------------------------------------------------------------------------------------------

    def register(self, sock: StackSocket) -> int:
        """Give a new socket its number."""
        if self.closed:
            raise OSError(errno.ENETDOWN, "the user-space network of this socket is closed")
        number = self.free_number()
        self._sockets[number] = sock
        return number

    def free_number(self) -> int:
        """A number that no socket has."""
        return next(self._numbers)

    def socket(self, number: int) -> StackSocket:
        """The socket of that number; EBADF where there is none."""
        try:
            return self._sockets[number]
        except KeyError:
            raise OSError(errno.EBADF, "Bad file descriptor") from None

    def replace(self, number: int, sock: StackSocket) -> None:
        """Let `sock` have a number that was detached from another."""
        self._detached.pop(number, None)
        self._sockets[number] = sock
        self.readiness.replace(number, sock)

    def keep(self, number: int, sock: StackSocket) -> None:
        """`sock` gave its number away: it lives on until somebody takes it over."""
        self._detached[number] = sock

    def share(self, number: int, other: int) -> None:
        """What is told of `number` is told of `other` too: dup() made it."""
        numbers = self._companions.setdefault(number, [number])
        numbers.append(other)
        self._companions[other] = numbers

    def heir(self, number: int) -> StackSocket | None:
        """Another socket that shares what `number` is."""
        others = (self._sockets.get(each) for each in self._companions.get(number, ()) if each != number)
        return next((sock for sock in others if sock is not None), None)

    def forget(self, number: int) -> None:
        """The socket was closed; it is watched no more, as epoll forgets a closed descriptor."""
        self._sockets.pop(number, None)
        if number in self._companions:
            self._companions.pop(number).remove(number)
        self.readiness.forget(number)

    def attach(self, below: TcpConnection | TcpListener | UdpSocket, sock: StackSocket) -> None:
        """From now on what the host tells of `below` is told of `sock`."""
        self.readiness.attach(below, sock.fileno())

    def detach(self, below: TcpConnection | TcpListener | UdpSocket) -> None:
        """Nobody asks for `below` any more."""
        self.readiness.detach(below)

    # --- readiness ------------------------------------------------------------------------------------------

    def watch(self, number: int, events: int) -> None:
        """Report the socket while one of `events` (poll(2) bits) is ready; 0 for none."""
        self.readiness.watch(number, self.socket(number), events)

    # --- the pump -------------------------------------------------------------------------------------------

    def owns(self, fd: int) -> bool:
        """Whether the descriptor is that of a device."""
        return fd in self._by_fd

    def fds(self) -> tuple[int, ...]:
        """The devices' descriptors, to wait for."""
        return tuple(self._by_fd)

    def take(self, fd: int) -> None:
        """Let the host have what waits in a device, up to `FRAMES_A_PUMP` frames."""
        interface, device = self._by_fd[fd]
        receive, now = self.host.receive_frame, self.now()
        try:
            frames = device.receive(FRAMES_A_PUMP)
        except OSError as error:
            self._lose(interface, error)
            return
        for frame in frames:
            receive(interface, frame.data, now, checksum_valid=frame.checksum_valid)
        if len(self.host.conflicts) > len(self._told_conflicts):
            self._tell_conflicts(device.name)

    def _tell_conflicts(self, device: str) -> None:
        """Warn once of each address that another station has too: whom the link sends to is then chance."""
        for address, mac in self.host.conflicts.items():
            if address not in self._told_conflicts:
                self._told_conflicts.add(address)
                station = "another station" if mac is None else f"the station {format_mac(mac)}"
                logger.warning(
                    "%s on %s has the address %s too, which is this network's", station, device, format_ip(address)
                )

    def settle(self) -> None:
        """Let what is due happen, and send what the host has to send."""
        host = self.host
        now = self.now()
        deadline = host.next_deadline()
        if deadline is not None and deadline <= now:
            host.handle_timers(now)
        devices = self.devices
        for interface, frame in host.poll_frames(now):
            try:
                devices[interface].send(frame)
            except OSError as error:
                self._lose(interface, error)
            except KeyError:
                self.frames_without_device += 1

    def _lose(self, interface: int, error: OSError) -> None:
        """Somebody deleted the device, or moved it away. The rest of the program goes on; TCP will time out."""
        if error.errno not in _GONE:
            raise error
        device = self.devices.pop(interface)
        self.lost_devices += 1
        del self._by_fd[device.fileno()]
        self._poll.unregister(device.fileno())
        device.close()  # epoll forgets it by itself
        logger.error("the device %s of the user-space network is gone; nothing is sent or received there", device.name)

    def wait_s(self, timeout_s: float | None) -> float | None:
        """The time to wait: `timeout_s`, or less where the host has something due before."""
        deadline = self.host.next_deadline()
        if deadline is None:
            return timeout_s
        left_s = max(0.0, deadline - self.now())
        return left_s if timeout_s is None else min(left_s, timeout_s)

    def pump_until(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """For a blocking call: pump, running nobody's callbacks, until `condition`; False when the time is over first.

        A signal's handler may raise out of here, as out of any blocking call.
        """
        if self.driver_thread not in (None, threading.get_ident()):
            raise RuntimeError("a socket of the user-space stack may only wait in the thread that runs its loop")
        end_s = None if timeout_s is None else self.now() + timeout_s
        while True:
            if self.closed:
                raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
            self.settle()
            if condition():
                return True
            left_s = None if end_s is None else end_s - self.now()
            if left_s is not None and left_s <= 0:
                return False
            wait_s = self.wait_s(left_s)
            for fd, _ in self._poll.poll(None if wait_s is None else math.ceil(wait_s * 1e3)):
                self.take(fd)

    # --- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let what was sent arrive, as a kernel does after its program's end, then close the devices.

        That takes `LINGER_S` at most; whoever has not taken all by then is reset, and so learns of it. Sockets that
        are still open are dead: their calls say ENETDOWN.
        """
        if self.closed:
            return
        if self.devices:
            for connection in self.host.tcp.connections():
                connection.close(self.now())
            try:
                self.pump_until(lambda: not any(each.state in _OWING for each in self.host.tcp.connections()), LINGER_S)
            finally:
                for connection in self.host.tcp.connections():
                    connection.abort(self.now())
                self.settle()
                self._end()
        else:
            self._end()

    def _end(self) -> None:
        self.closed = True
        for fd in self._by_fd:
            self._poll.unregister(fd)
        for device in self.devices.values():
            device.close()
        self._by_fd.clear()
        self._detached.clear()
        self._companions.clear()
        for sock in list(self._sockets.values()):
            sock.network_is_down()


_bridges: Final[WeakSet[Bridge]] = WeakSet()


def _after_fork() -> None:
    """A forked child has the parent's descriptors, and would answer for it: let go of them, and say nothing."""
    for bridge in list(_bridges):
        if not bridge.closed:
            bridge._end()


os.register_at_fork(after_in_child=_after_fork)


class StackPoller:
    """A ``Poller`` for descriptors of the kernel's by epoll(7), and for sockets of the stack by the bridge."""

    def __init__(self, bridge: Bridge, on_kernel: Callable[[int], None] = lambda fd: None) -> None:
        self.bridge = bridge
        self._on_kernel = on_kernel  # told of each descriptor of the kernel's that is to be watched
        self._epoll = select.epoll()
        self._busy = False
        for fd in bridge.fds():
            self._epoll.register(fd, select.EPOLLIN)

    def add(self, fd: int, events: int) -> None:
        """Watch `fd` for these events."""
        if fd >= FIRST_NUMBER:
            self.bridge.watch(fd, events)
        else:
            self._on_kernel(fd)
            self._epoll.register(fd, events)

    def modify(self, fd: int, events: int) -> None:
        """Watch `fd` for these events instead."""
        if fd >= FIRST_NUMBER:
            self.bridge.watch(fd, events)
        else:
            self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget `fd`, whether or not it is still open."""
        try:
            if fd >= FIRST_NUMBER:
                self.bridge.watch(fd, 0)
            else:
                self._epoll.unregister(fd)
        except OSError:
            pass  # closed already, which both forget by themselves

    def wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Send what the last turn caused, wait, take what came; give who is ready."""
        bridge = self.bridge
        bridge.settle()
        ready = bridge.ready()
        timeout_s = 0.0 if ready else bridge.wait_s(timeout_s)
        came = self._epoll.poll(0) if timeout_s == 0.0 else self._wait(timeout_s)
        kernel: list[tuple[int, int]] = []
        pumped = False
        for fd, mask in came:
            if bridge.owns(fd):
                bridge.take(fd)
                pumped = True
            else:
                kernel.append((fd, mask))
        if pumped or timeout_s != 0.0:  # frames came, or time passed: whoever only looked has settled just now
            bridge.settle()
            ready = bridge.ready()
        return kernel + ready

    def _wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Wait, and at first without sleeping where the last wait was a short one; an idle loop only sleeps."""
        poll, now = self._epoll.poll, self.bridge.now
        now_s = now()
        sleeps_at_s = now_s + self.bridge.busy_poll_s
        ends_at_s = math.inf if timeout_s is None else now_s + timeout_s
        if self._busy:
            while now_s < sleeps_at_s:
                came = poll(0)
                if came:
                    return came
                now_s = now()
                if now_s >= ends_at_s:
                    self._busy = False
                    return came
        # Rounded up to what epoll counts in, as in `EpollPoller.wait`.
        came = poll(None if timeout_s is None else math.ceil((ends_at_s - now_s) * 1e3) * 1e-3)
        self._busy = bool(came) and now() < sleeps_at_s
        return came

    def close(self) -> None:
        """Close what waits; the bridge is its owner's to close."""
        self._epoll.close()
