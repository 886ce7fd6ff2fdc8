"""What is told of a connection is what getsockopt(TCP_INFO) says of it, from the same struct by another way."""

from __future__ import annotations

import socket
import struct

from underlay.tools.ports import list_sockets
from underlay.tools.ports._tcp_info import read_tcp_info

from ._place import Place, port_of


def test_sock_diag_and_getsockopt_tell_the_same_of_a_quiet_connection(place: Place) -> None:
    with place.server() as server:
        client, accepted = place.connect(server)
        with client, accepted:
            client.sendall(bytes(100_000))
            left = 100_000
            while left:
                left -= len(accepted.recv(left))
            accepted.sendall(b"thanks")
            assert client.recv(6) == b"thanks"
            [found] = place.sockets(f"local:{port_of(client)}", "state:established", info=True)
            told = found.tcp_info
            assert told is not None
            raw = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 400)
            name = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()
    direct = read_tcp_info(raw, name)
    # Between the two answers time went on, and delayed acknowledgments may have been sent.
    moving = {"last_sent_ms", "last_received_ms", "segments_out", "segments_in", "rto_us", "rtt_us", "rtt_variation_us"}
    assert {key: value for key, value in told._asdict().items() if key not in moving} == {
        key: value for key, value in direct._asdict().items() if key not in moving
    }
    assert told.bytes_sent == 100_000
    assert told.bytes_acknowledged == 100_001  # the SYN counts as one
    assert told.bytes_received == 6
    assert told.rtt_us > 0
    assert told.cwnd_segments >= 10
    assert told.congestion_control == name != ""


def test_figures_stand_where_the_kernel_s_header_puts_them() -> None:
    # <netinet/tcp.h>, offsets in bytes: rto 8, rtt 68, rttvar 72, snd_cwnd 80, total_retrans 100, bytes_acked 120.
    raw = bytearray(232)
    for offset, value in ((8, 201_000), (68, 41), (72, 7), (80, 10), (100, 3)):
        struct.pack_into("=I", raw, offset, value)
    struct.pack_into("=Q", raw, 120, 1 << 40)
    raw[1] = 4
    told = read_tcp_info(bytes(raw), "reno")
    assert (told.rto_us, told.rtt_us, told.rtt_variation_us, told.cwnd_segments) == (201_000, 41, 7, 10)
    assert (told.retransmitted_segments, told.bytes_acknowledged, told.congestion_state) == (3, 1 << 40, "loss")


def test_an_older_kernel_s_struct_is_shorter_and_a_newer_one_s_longer() -> None:
    whole = bytes(range(232))
    assert read_tcp_info(whole[:104], "x").bytes_sent == 0
    assert read_tcp_info(whole[:104], "x").rtt_us == read_tcp_info(whole + bytes(100), "x").rtt_us
    assert read_tcp_info(b"", "").congestion_state == "open"


def test_it_is_told_only_where_it_is_asked_for(place: Place) -> None:
    with place.server() as server:
        port = str(port_of(server))
        assert [sock.tcp_info for sock in place.do(lambda: list_sockets(port))] == [None]
