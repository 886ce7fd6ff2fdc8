"""How an unmodified program comes to listen together with its like: what bind(2) and listen(2) mean in a worker.

``install`` replaces ``socket.socket.bind`` and three more before the program runs.
A stream socket that binds gets, under its own descriptor, the listening socket
that the supervisor holds for that address; or, with SO_REUSEPORT, one of its own
at the same place. asyncio, uvloop, uvicorn, aiohttp and Tornado all bind by that
method. What they do with the socket afterwards is left alone.

It also remembers what listens, and on which loop, so that a worker can cease to
accept while its connections go on (`cease`).
"""

from __future__ import annotations

import _socket
import asyncio
import errno
import os
import select
import socket
import stat
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from ._channel import Call, Calls

__all__ = ["Sharing"]

_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
# How often, and how many times, the last worker looks whether the queue is empty before it closes the socket: a second
# in all, since under a load that never pauses it may never be.
_EMPTY_PAUSE_S = 0.01
_EMPTY_TRIES = 100


@dataclass
class _Shared:
    """One socket of the program's that shares its address."""

    sock: weakref.ref[socket.socket]
    call: Call
    loop: asyncio.AbstractEventLoop | None
    thread: int = field(default_factory=threading.get_ident)
    listens: bool = False


class Sharing:
    """What the program's sockets share, in this process."""

    def __init__(self, calls: Calls, share: str, on_listen: Callable[[], None]) -> None:
        self._calls = calls
        self._reuses_port = share == "reuse_port"
        self._on_listen = on_listen
        self._shared: dict[int, _Shared] = {}  # by the identity of the socket
        self.refusal: OSError | None = None  # of the last address that could not be had
        self._refused: object = None
        self._is_forked = False

    def install(self) -> None:
        """From now on the sockets of this process share their addresses."""

        def bind(sock: socket.socket, address: object) -> None:
            if sock.type != socket.SOCK_STREAM or sock.family not in _FAMILIES or self._is_forked:
                _socket.socket.bind(sock, address)  # type: ignore[arg-type]
                return
            self._bind(sock, address)

        def listen(sock: socket.socket, *backlog: int) -> None:
            _socket.socket.listen(sock, *backlog)
            if (shared := self._shared.get(id(sock))) is not None and shared.sock() is sock:
                self._listens(shared)

        def connect(sock: socket.socket, address: object) -> None:
            self._for_itself(sock)
            _socket.socket.connect(sock, address)  # type: ignore[arg-type]

        def connect_ex(sock: socket.socket, address: object) -> int:
            self._for_itself(sock)
            return _socket.socket.connect_ex(sock, address)  # type: ignore[arg-type]

        for method in (bind, listen, connect, connect_ex):
            setattr(socket.socket, method.__name__, method)
        # A process that the program forks is no worker: the channel to the supervisor has one speaker.
        os.register_at_fork(after_in_child=self._leave)
        os.unlink = os.remove = self._sparing(os.unlink)

    def _leave(self) -> None:
        self._is_forked = True
        self._shared.clear()

    def refusal_sentence(self) -> str:
        """Say which address could not be had, why, and what mends it."""
        address = self._refused
        place = "{}:{}".format(*address) if isinstance(address, tuple) and len(address) > 1 else str(address)
        if self.refusal is None:
            return f"the program cannot listen at {place}"
        remedy = {
            errno.EADDRINUSE: "end the program that has it (`ss -ltnp` names it), or choose another port",
            errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose another",
            errno.EADDRNOTAVAIL: "no interface of this machine has that address (`ip address` lists them)",
        }.get(self.refusal.errno or 0, "choose another address")
        return f"the program cannot listen at {place}: {self.refusal.strerror}; {remedy}"

    @property
    def loops(self) -> dict[int, asyncio.AbstractEventLoop]:
        """The loops on which something listens, by the thread in which they run."""
        return {shared.thread: shared.loop for shared in list(self._shared.values()) if shared.loop is not None}

    # --- binding ----------------------------------------------------------------------------------------------

    def _bind(self, sock: socket.socket, address: object) -> None:
        if self._reuses_port and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        call = self._call(sock, address)
        if call is None:
            _socket.socket.bind(sock, address)  # type: ignore[arg-type]
            return
        self._refuse_twice(sock, call)
        reply, descriptor = self._calls.ask(call, sock.fileno())
        if reply is None:
            raise OSError(errno.EPIPE, "the supervisor of this worker is gone")
        match reply["outcome"]:
            case "error":
                self._refused = address
                self.refusal = OSError(reply["errno"], os.strerror(reply["errno"]))
                raise self.refusal
            case "again":
                place = reply["address"]
                _socket.socket.bind(sock, tuple(place) if isinstance(place, list) else place)  # type: ignore[arg-type]
            case "kept" if descriptor is not None:
                os.dup2(descriptor, sock.fileno(), inheritable=False)
                os.close(descriptor)
        shared = _Shared(weakref.ref(sock), call, _running_loop())
        self._shared[id(sock)] = shared
        if shared.loop is not None and not isinstance(shared.loop, asyncio.BaseEventLoop):
            # uvloop listens in C, later in this same turn.
            shared.loop.call_soon(self._listens, shared)

    def _call(self, sock: socket.socket, address: object) -> Call | None:
        """Describe the address for the supervisor; None for what only the kernel can judge."""
        if isinstance(address, (bytes, bytearray)):
            address = os.fsdecode(bytes(address))
        if isinstance(address, (str, os.PathLike)) and sock.family == socket.AF_UNIX:
            return Call(say="bind", family=int(sock.family), proto=sock.proto, address=os.fspath(address), turn=0)
        if not isinstance(address, tuple) or not all(isinstance(part, (str, int)) for part in address):
            return None
        turn = 0
        if len(address) > 1 and address[1] == 0:  # one more port of the kernel's choice, in this thread
            turn = sum(
                shared.call["address"] == list(address) and shared.thread == threading.get_ident()
                for shared in list(self._shared.values())
            )
        return Call(say="bind", family=int(sock.family), proto=sock.proto, address=list(address), turn=turn)

    def _refuse_twice(self, sock: socket.socket, call: Call) -> None:
        """Refuse what the kernel would: to bind, in one thread, what is bound."""
        for shared in list(self._shared.values()):
            other = shared.sock()
            is_open = other is not None and other.fileno() >= 0 and shared.thread == threading.get_ident()
            if is_open and shared.call == call and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    def _for_itself(self, sock: socket.socket) -> None:
        """Give a client's socket, which was bound in order to connect, an address that nobody shares."""
        shared = self._shared.get(id(sock))
        if shared is None or shared.sock() is not sock or shared.listens:
            return
        del self._shared[id(sock)]
        self._calls.notice(Call(**{**shared.call, "say": "give_back"}))
        if not self._reuses_port:
            address = shared.call["address"]
            is_blocking = os.get_blocking(sock.fileno())
            with socket.socket(sock.family, sock.type, sock.proto) as own:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                _socket.socket.bind(own, tuple(address) if isinstance(address, list) else address)  # type: ignore[arg-type]
                os.dup2(own.fileno(), sock.fileno(), inheritable=False)
            os.set_blocking(sock.fileno(), is_blocking)

    def _sparing(self, unlink: Callable[..., None]) -> Callable[..., None]:
        """``os.unlink``, but for Unix sockets on which others of us listen: asyncio removes one before it binds."""

        def spare(path: object, *, dir_fd: int | None = None) -> None:
            if dir_fd is None and not self._is_forked and isinstance(path, (str, bytes, os.PathLike)):
                try:
                    is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
                except OSError:
                    is_socket = False
                if is_socket:
                    reply, _ = self._calls.ask(Call(say="is_kept", path=os.path.abspath(os.fsdecode(path))))
                    if reply is not None and reply["is_kept"]:
                        return
            unlink(path, dir_fd=dir_fd)

        return spare

    # --- listening --------------------------------------------------------------------------------------------

    def _listens(self, shared: _Shared) -> None:
        shared.listens = True
        shared.loop = _running_loop() or shared.loop
        shared.thread = threading.get_ident()
        if shared.loop is not None and shared.loop.is_running():
            shared.loop.call_soon(self._on_listen)  # when all that the program opens in this turn listens
        else:
            self._on_listen()

    def cease(self, is_last: bool, done: Callable[[bool], None]) -> None:
        """Accept no more, on any loop; then call ``done(completely)``, in some thread.

        Not where nothing can stop a loop from accepting but its own server object: on loops that are not derived from
        asyncio's (uvloop), and for sockets whose loop is not known. ``is_last``: nobody will accept what is in the
        queue, so it is emptied first.
        """
        listening = [shared for shared in list(self._shared.values()) if shared.listens and shared.sock() is not None]
        if not all(isinstance(shared.loop, asyncio.BaseEventLoop) for shared in listening):
            done(False)
            return
        if not listening:
            done(True)
            return
        left = len(listening)
        lock = threading.Lock()

        def one_less() -> None:
            nonlocal left
            with lock:
                left -= 1
                is_all = left == 0
            if is_all:
                done(True)

        for shared in listening:
            assert shared.loop is not None
            tries = _EMPTY_TRIES if is_last or self._reuses_port else 0
            try:
                shared.loop.call_soon_threadsafe(_cease_one, shared, tries, one_less)
            except RuntimeError:  # it is closed
                one_less()


def _cease_one(shared: _Shared, tries: int, done: Callable[[], None]) -> None:
    """In the loop's thread: take the socket from the loop as soon as its queue is empty, or ``tries`` are used up."""
    sock, loop = shared.sock(), shared.loop
    if sock is None or sock.fileno() < 0 or loop is None:
        done()
        return
    if tries:
        queue = select.poll()
        queue.register(sock, select.POLLIN)
        if queue.poll(0):
            loop.call_later(_EMPTY_PAUSE_S, _cease_one, shared, tries - 1, done)
            return
    # The server object isn't closed: that would end the program's serve_forever(), and with it the connections. This is
    # what it calls for each of its sockets; since 3.13 that would remove the path of a Unix socket as well.
    getattr(loop, "_unix_server_sockets", {}).pop(sock, None)
    # A loop for which the kernel accepts ahead (io_uring) has a way of its own, which serves what has come already.
    stop = getattr(loop, "_leave_serving", None) or loop._stop_serving  # type: ignore[attr-defined]
    stop(sock)
    # The program will close its server one day, and asyncio needs a descriptor for that.
    socket.socket.__init__(sock, shared.call["family"], socket.SOCK_STREAM)
    done()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
