"""Whether this kernel tells, and lets go of, the size that was set of a socket's buffer."""

from __future__ import annotations

import socket

import pytest

# include/uapi/asm-generic/socket.h, since Linux 5.14: which buffers keep to a size that was set.
SO_BUF_LOCK = 72


def has_buffer_locks() -> bool:
    with socket.socket() as sock:
        try:
            return sock.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK) >= 0
        except OSError:
            return False


NEEDS_BUFFER_LOCKS = pytest.mark.skipif(
    not has_buffer_locks(), reason="this kernel cannot let go of a buffer's size; remedy: Linux 5.14 or later"
)
