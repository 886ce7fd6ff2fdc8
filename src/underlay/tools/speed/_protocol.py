"""The language of iperf3 on its control connection: states, the cookie, JSON with a length before it.

A state is one signed byte; the server leads by sending them, the client follows. In between, each side sends JSON
texts, a length of four bytes, big-endian, before each. Nothing here trusts the other end: each wait has a deadline,
each text a greatest length, and what is not of the language is one sentence with that end's name in it.

This file knows bytes on one connected socket. It refuses to know in which order they come, and what a test is.

Source: iperf3's own code, src/iperf_api.h and src/iperf_api.c (version 3.12; 3.22 speaks the same).
"""

from __future__ import annotations

import enum
import errno
import json
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Mapping
from typing import Final, TypeAlias

from ...errors import UnderlayError
from .._complaints import reason

__all__ = ["COOKIE_BYTES", "PORT", "Control", "Json", "PeerError", "Refusal", "State", "new_cookie"]

Json: TypeAlias = "Mapping[str, object]"

PORT: Final = 5201
"""The TCP and UDP port of an iperf3 server, where none is named."""

COOKIE_BYTES: Final = 37
"""36 characters and a NUL: what a client says first on each of its connections."""

# make_cookie of src/iperf_util.c: the digits of RFC 4648's base 32, in small letters.
_COOKIE_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"

# Results of 128 streams take about 40 KiB; the text of a server that was asked for it may be as long again. More than
# this is no iperf3, and what a stranger may make us keep.
_MOST_JSON_BYTES: Final = 1 << 20

# What we send fits a socket's buffer: who does not take it for so long has gone.
_SEND_PATIENCE_S: Final = 10.0


class State(enum.IntEnum):
    """A state of the control connection, as iperf_api.h numbers them; those that nobody sends are left out."""

    TEST_START = 1
    TEST_RUNNING = 2
    TEST_END = 4
    PARAM_EXCHANGE = 9
    CREATE_STREAMS = 10
    SERVER_TERMINATE = 11
    CLIENT_TERMINATE = 12
    EXCHANGE_RESULTS = 13
    DISPLAY_RESULTS = 14
    IPERF_DONE = 16
    ACCESS_DENIED = -1
    SERVER_ERROR = -2

    @property
    def wire(self) -> bytes:
        """The signed byte that says it."""
        return self.to_bytes(1, "big", signed=True)


class Refusal(enum.IntEnum):
    """Why a server breaks off, as it tells its client after SERVER_ERROR: some of iperf_api.h's i_errno."""

    DURATION = 5
    STREAMS = 6
    BLOCK_SIZE = 7
    WINDOW = 8
    MSS = 10
    OMIT = 12
    UNSUPPORTED = 13
    UDP_BLOCK_SIZE = 20
    TOS = 21
    PARAMETERS = 114
    STREAM = 200

    def wire(self, error: int = 0) -> bytes:
        """What says it: SERVER_ERROR, the number, and an errno."""
        return struct.pack("!bii", State.SERVER_ERROR, self, error)


# In our words, for the sentence that a client shows; the numbers are iperf_api.h's.
_REASONS: Final[Mapping[int, str]] = {
    5: "the test is to last longer than it allows",
    6: "there are more streams than it allows (128)",
    7: "a block is larger than it allows (1 MiB)",
    8: "the window is larger than it allows",
    10: "the MSS is larger than it allows (9216 bytes)",
    12: "the omitted time is longer than it allows (60 s)",
    13: "it does not know an option of this test",
    20: "a datagram has between 16 and 65507 bytes",
    21: "a type of service is between 0 and 255",
    27: "the test asks for more than the server's own limit of bits/s",
    114: "it could not read the parameters",
    118: "its select() failed",
    123: "it could not set the MSS",
    124: "it could not set the size of a socket's buffer",
    130: "it could not set the window",
    134: "its kernel has no such congestion control",
    141: "its kernel gave a smaller buffer than was asked for",
    142: "it wants a name and a password, which underlay does not send",
    144: "it waited too long for data",
    200: "it could not make a stream",
    202: "it could not listen for the streams",
    204: "it could not take a stream's connection",
    205: "it could not write to a stream",
    206: "it could not read from a stream",
}


class PeerError(UnderlayError):
    """The other end did not keep to iperf3's protocol, refused the test, or went away.

    >>> print(PeerError("the server at 10.0.0.1:5201 is busy running a test", remedy="try again later"))
    the server at 10.0.0.1:5201 is busy running a test; try again later
    """


def new_cookie() -> bytes:
    """Make what tells one test's connections from another's.

    >>> len(new_cookie()) == COOKIE_BYTES, new_cookie()[-1:]
    (True, b'\\x00')
    """
    return "".join(secrets.choice(_COOKIE_LETTERS) for _ in range(COOKIE_BYTES - 1)).encode() + b"\0"


class Control:
    """One end of a control connection, which it owns. ``peer`` is how sentences call the other end."""

    def __init__(self, sock: socket.socket, peer: str, *, at_client: bool) -> None:
        self.sock = sock
        self.peer = peer
        self._at_client = at_client
        sock.settimeout(_SEND_PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A state is a byte and matters at once. `wake` ends a wait early: eventfd(2).
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._is_closed = False

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self.sock.close()
            os.close(self._wake)

    def wake(self) -> None:
        """End the wait that another thread is in, or the next one."""
        if not self._is_closed:
            os.eventfd_write(self._wake, 1)

    def send_bytes(self, data: bytes) -> None:
        """Send all of it, or say that the peer went away."""
        try:
            self.sock.sendall(data)
        except TimeoutError:
            raise PeerError(f"{self.peer} takes nothing more on the control connection") from None
        except OSError as error:
            raise self._broken(error) from error

    def send_state(self, state: State) -> None:
        """Tell the other end the next state."""
        self.send_bytes(state.wire)

    def send_refusal(self, refusal: Refusal, error: int = 0) -> None:
        """Break off as a server does: SERVER_ERROR, its reason, and an errno."""
        self.send_bytes(refusal.wire(error))

    def send_json(self, value: Json) -> None:
        """Send a JSON text with its length."""
        text = json.dumps(value, separators=(",", ":")).encode()
        self.send_bytes(struct.pack("!I", len(text)) + text)

    def wait_state(self, timeout_s: float) -> State | None:
        """Wait for the next state; None when none came in time, or `wake` was called.

        Raises ``PeerError`` for the end of the connection, for what is no state, and for a server's refusal.
        """
        # poll(2) takes whole milliseconds, and rounds what is less up, so that waiting is not spinning.
        events = dict(self._poll.poll(max(0, -(-timeout_s * 1000 // 1))))
        if self._wake in events:
            os.eventfd_read(self._wake)
        if self.sock.fileno() not in events:
            return None
        return self._state(self._read(1, time.monotonic() + _SEND_PATIENCE_S)[0])

    def expect_state(self, patience_s: float, when: str) -> State:
        """Wait for the next state, or say that none came ``when``."""
        deadline = time.monotonic() + patience_s
        while (left_s := deadline - time.monotonic()) > 0:
            if (state := self.wait_state(left_s)) is not None:
                return state
        raise PeerError(f"{self.peer} said nothing for {patience_s:g} s {when}")

    def receive_json(self, patience_s: float) -> Json:
        """Receive a JSON object; raises ``PeerError`` for anything else."""
        deadline = time.monotonic() + patience_s
        (size,) = struct.unpack("!I", self._read(4, deadline))
        if size > _MOST_JSON_BYTES:
            raise PeerError(f"{self.peer} announces {size} bytes of JSON, and no iperf3 sends more than 1 MiB")
        text = self._read(size, deadline)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise PeerError(f"{self.peer} sent {size} bytes that are no JSON") from None
        if not isinstance(value, dict):
            raise PeerError(f"{self.peer} sent JSON that is no object")
        return value

    def has_ended(self) -> bool:
        """Tell whether the peer closed the connection; what it said before stays to be read."""
        # Not by recv(2) with MSG_DONTWAIT: a socket of Python's that has a timeout waits for it first.
        ended = select.poll()
        ended.register(self.sock, select.POLLRDHUP)
        return bool(ended.poll(0))

    def _read(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            left_s = deadline - time.monotonic()
            try:
                if left_s <= 0:
                    raise TimeoutError
                self.sock.settimeout(left_s)
                # Not all at once: memory is taken for what came, not for what was announced.
                part = self.sock.recv(min(size - len(data), 65_536))
            except TimeoutError:
                raise PeerError(f"{self.peer} stopped in the middle of what it was saying") from None
            except OSError as error:
                raise self._broken(error) from error
            finally:
                self.sock.settimeout(_SEND_PATIENCE_S)
            if not part:
                raise PeerError(f"{self.peer} closed the control connection")
            data += part
        return bytes(data)

    def _state(self, byte: int) -> State:
        number = byte - 256 if byte > 127 else byte
        if self._at_client:
            self._raise_what_ends_it(number)
        try:
            return State(number)
        except ValueError:
            raise PeerError(f"{self.peer} sent {number}, which is no state of iperf3", remedy="is it one?") from None

    def _raise_what_ends_it(self, number: int) -> None:
        """Raise the words by which a server breaks off."""
        if number == State.SERVER_ERROR:
            told, error = struct.unpack("!ii", self._read(8, time.monotonic() + _SEND_PATIENCE_S))
            what = _REASONS.get(told, f"its error {told}")
            # Beside what is no system call's failure iperf3 tells what errno was left at, often a closed descriptor.
            why = f" ({os.strerror(error).lower()})" if 0 < error < 4096 and error != errno.EBADF else ""
            raise PeerError(f"{self.peer} broke the test off: {what}{why}")
        if number == State.ACCESS_DENIED:
            raise PeerError(f"{self.peer} is busy running a test", remedy="try again later")
        if number == State.SERVER_TERMINATE:
            raise PeerError(f"{self.peer} was stopped")

    def _broken(self, error: OSError) -> PeerError:
        return PeerError(f"the control connection to {self.peer} broke: {reason(error)}")
