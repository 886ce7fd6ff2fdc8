"""What a listener tells in its handshakes is a test's while its streams are made, and the kernel's before and after."""

from __future__ import annotations

import socket

import pytest
from tests.tools.speed._buffer_locks import NEEDS_BUFFER_LOCKS, SO_BUF_LOCK

from underlay.tools.speed import Settings
from underlay.tools.speed._sockets import handshakes_for

LOCKED = 3


def connected(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    return client, accepted


def buffers(sock: socket.socket) -> tuple[int, int, int]:
    return tuple(  # type: ignore[return-value]
        sock.getsockopt(socket.SOL_SOCKET, option) for option in (socket.SO_RCVBUF, socket.SO_SNDBUF, SO_BUF_LOCK)
    )


@NEEDS_BUFFER_LOCKS
def test_streams_have_their_window_from_the_handshake_and_other_connections_the_kernels() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as other:
        before = buffers(listener)
        with handshakes_for([listener, other], Settings(window_bytes=10_000)):
            for each in (listener, other):
                client, stream = connected(each)
                with client, stream:
                    # The kernel doubles what is asked for: socket(7).
                    assert buffers(stream) == (20_000, 20_000, LOCKED)
        for each in (listener, other):
            assert buffers(each) == before
            client, accepted = connected(each)
            with client, accepted:
                assert buffers(accepted)[2] == 0


def test_the_mss_is_told_while_the_streams_are_made_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with handshakes_for([listener], Settings(mss_bytes=1000)):
            told = connected(listener)
        silent = connected(listener)
        mss = [client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) for client, _ in (told, silent)]
        for sock in (*told, *silent):
            sock.close()
    # Less 12 bytes of time stamps, where the kernel sends them: RFC 7323.
    assert mss[0] in (988, 1000)
    assert mss[1] > 1000


@pytest.mark.parametrize("settings", [Settings(window_bytes=10_000), Settings(mss_bytes=1000), Settings(mss_bytes=1)])
def test_what_a_listener_cannot_tell_breaks_nothing(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if settings.mss_bytes != 1:
            listener.close()
        with handshakes_for([listener], settings):
            pass


@NEEDS_BUFFER_LOCKS
def test_a_block_that_breaks_off_gives_everything_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = buffers(listener)
        with pytest.raises(TimeoutError), handshakes_for([listener], Settings(window_bytes=10_000)):
            raise TimeoutError
        assert buffers(listener) == before
