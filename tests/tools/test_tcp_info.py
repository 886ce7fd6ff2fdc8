"""What the kernel knows of a connection is read from its own layout, as far as the kernel gave it."""

from __future__ import annotations

import socket
import struct

import pytest

from underlay.tools._tcp_info import TCP_INFO_BYTES, parse_tcp_info


def test_the_figures_of_a_live_connection_are_the_kernels() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
        listener.accept()[0] as other,
    ):
        sock.sendall(b"x" * 100_000)
        other.recv(100_000, socket.MSG_WAITALL)
        info = parse_tcp_info(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES))
        # tcp(7): TCP_MAXSEG of a connection is what its segments have.
        assert info.mss_bytes == sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        assert info.path_mtu_bytes > info.mss_bytes
        assert info.window_bytes == info.window_segments * info.mss_bytes > 0
        assert info.rtt_us > 0
        assert info.min_rtt_us is not None
        assert info.retransmissions == 0
        assert info.busy_us is not None
        assert info.window_limited_us is not None


def test_each_figure_stands_where_linux_put_it() -> None:
    # Offsets of <linux/tcp.h>, counted there: u8 to 7, u32 from 8, u64 from 104, tcpi_busy_time at 168.
    raw = bytearray(232)
    for offset, value in {16: 1460, 60: 1500, 68: 1234, 72: 56, 80: 10, 100: 7, 148: 1000}.items():
        struct.pack_into("=I", raw, offset, value)
    struct.pack_into("=3Q", raw, 168, 100, 60, 30)
    info = parse_tcp_info(bytes(raw))
    assert (info.mss_bytes, info.path_mtu_bytes, info.rtt_us, info.rtt_variation_us) == (1460, 1500, 1234, 56)
    assert (info.window_segments, info.retransmissions, info.min_rtt_us) == (10, 7, 1000)
    assert (info.busy_us, info.window_limited_us, info.buffer_limited_us) == (100, 60, 30)


def test_what_an_older_kernel_does_not_give_is_none() -> None:
    old = parse_tcp_info(bytes(104))
    assert (old.min_rtt_us, old.busy_us, old.window_limited_us, old.buffer_limited_us) == (None, None, None, None)
    assert parse_tcp_info(b"\xff" * 152).min_rtt_us is None
    with pytest.raises(ValueError, match="103 bytes are no tcp_info"):
        parse_tcp_info(bytes(103))
