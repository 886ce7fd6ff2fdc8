"""Channels over TCP: addresses, a machine that vanishes, and a goodbye."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct

import pytest

from underlay import ipc
from underlay.errors import UsageError
from underlay.ipc import _door, _tcp

PATIENCE_S = 20.0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_port_0_is_one_that_is_free_and_the_address_says_which(host: str) -> None:
    with ipc.create("tcp", f"{host}:0", role="both") as mine:
        assert mine.address is not None
        assert mine.address.count("[") == host.count("[")
        with ipc.open(mine.address) as theirs:
            theirs.send(b"ping")
            assert mine.receive(timeout_s=PATIENCE_S) == b"ping"
            mine.send(b"pong")
            assert theirs.receive(timeout_s=PATIENCE_S) == b"pong"


@pytest.mark.parametrize("name", ["host", ":80", "host:", "host:http", "host:70000", "::1:80", "[::1]", "a:b:c"])
def test_what_is_no_address_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"is no address; it is host:port, or \[host\]:port"):
        ipc.create("tcp", name)


def test_a_port_that_is_taken_is_said_to_be() -> None:
    with ipc.listen("tcp", "127.0.0.1:0") as listener:
        assert listener.address is not None
        with pytest.raises(ipc.NameTaken, match=f"a process listens at {listener.address} already"):
            ipc.create("tcp", listener.address)


def test_nobody_else_comes_when_the_one_is_there() -> None:
    with ipc.create("tcp", "127.0.0.1:0") as mine:
        address = mine.address or ""
        with ipc.open(address), pytest.raises(ipc.NoSuchName, match=f"nobody listens at {address}"):
            ipc.open(address, timeout_s=0)


@pytest.mark.parametrize("role", ["receiver", "sender", "both"])
def test_a_clean_close_is_told_from_a_death_on_either_side(role: str) -> None:
    with ipc.create("tcp", "127.0.0.1:0", role=role) as mine:  # type: ignore[arg-type]
        theirs = ipc.open(mine.address or "")
        if mine.can_receive:
            theirs.send(b"last")
        theirs.close()
        if mine.can_receive:
            assert list(mine) == [b"last"]
        if mine.can_send:
            with pytest.raises(ipc.PeerGone, match=r"was closed.*nobody will receive"):
                while True:
                    mine.send(b"more", timeout_s=PATIENCE_S)


def test_a_connection_that_ends_without_a_goodbye_is_a_death() -> None:
    with ipc.create("tcp", "127.0.0.1:0") as mine:
        theirs = ipc.open(mine.address or "")
        theirs.send(b"last")
        assert mine.receive(timeout_s=PATIENCE_S) == b"last"
        assert theirs._outgoing is not None
        theirs._life.lend()  # so that nobody speaks for it
        theirs.close()
        with pytest.raises(ipc.PeerGone, match="died without closing it"):
            mine.receive(timeout_s=PATIENCE_S)


def test_what_was_sent_last_arrives_though_the_sender_had_not_read_everything() -> None:
    left, right = ipc.pair("tcp", both_ways=True)
    with left:
        left.send(b"never read" * 1000)
        right.send(b"last")
        right.close()
        assert list(left) == [b"last"]


def test_a_stranger_at_the_port_does_not_keep_others_out() -> None:
    with ipc.create("tcp", "127.0.0.1:0") as mine:
        host, port = (mine.address or "").split(":")
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with ipc.open(mine.address or "") as theirs:
                theirs.send(b"on")
                assert mine.receive(timeout_s=PATIENCE_S) == b"on"


@pytest.mark.parametrize("listens", [False, True])
def test_a_visitor_that_is_gone_when_it_is_answered_does_not_keep_others_out(
    listens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = _door.answer
    told: list[bool] = []

    def first_is_gone(visitor: socket.socket, said: dict[str, object]) -> bool:
        if not told:
            visitor.shutdown(socket.SHUT_RDWR)
        told.append(answer(visitor, said))
        return told[-1]

    monkeypatch.setattr(_door, "answer", first_is_gone)
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as ends:
        mine: ipc.Channel | ipc.Listener
        mine = ipc.listen("tcp", "127.0.0.1:0") if listens else ipc.create("tcp", "127.0.0.1:0")
        ends.enter_context(contextlib.closing(mine))
        theirs = ends.enter_context(ipc.open(mine.address or "", timeout_s=PATIENCE_S))
        assert told == [False, True]
        theirs.send(b"on")
        receiver = ends.enter_context(mine.accept(timeout_s=0)) if isinstance(mine, ipc.Listener) else mine
        assert receiver.receive(timeout_s=PATIENCE_S) == b"on"
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_answers_otherwise_is_not_believed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.05 s"):
            ipc.open(f"{host}:{port}", timeout_s=0.05)
        visitor, _ = server.accept()
        visitor.close()


@pytest.mark.parametrize(
    "offer",
    [
        {"terms": {"kind": "pipe", "max_message_bytes": 1}, "role": "both"},
        {"terms": {"kind": "tcp", "max_message_bytes": 1 << 60}, "role": "both"},
        {"terms": {"kind": "tcp", "max_message_bytes": "x"}, "role": "both"},
        {"terms": {"kind": "tcp", "max_message_bytes": 1}, "role": "master"},
        {"terms": {"kind": "tcp", "max_message_bytes": 1, "more": 1}, "role": "both"},
        {"terms": None, "role": "both"},
        {},
    ],
)
def test_an_offer_that_is_no_channel_is_refused(offer: dict[str, object]) -> None:
    with pytest.raises(ipc.HandshakeFailed, match="offers what is no channel"):
        _tcp._terms_from(offer, "somebody")


def _vanish(connection: socket.socket) -> None:
    # A filter (BPF_RET | BPF_K, 0) that drops whatever comes: no segment is acknowledged any more.
    import ctypes

    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    filter_ = struct.pack("HL", 1, ctypes.addressof(program))
    connection.setsockopt(socket.SOL_SOCKET, 26, filter_)  # SO_ATTACH_FILTER, socket(7)


@pytest.mark.parametrize("face", ["sync", "aio"])
def test_a_machine_that_vanishes_while_nothing_is_sent_is_noticed(monkeypatch: pytest.MonkeyPatch, face: str) -> None:
    monkeypatch.setattr(_tcp, "KEEPALIVE_IDLE_S", 1)
    monkeypatch.setattr(_tcp, "KEEPALIVE_INTERVAL_S", 1)
    monkeypatch.setattr(_tcp, "KEEPALIVE_COUNT", 1)
    left, right = ipc.pair("tcp", both_ways=True)
    with contextlib.closing(left), contextlib.closing(right):
        right.send(b"on")
        assert left.receive(timeout_s=PATIENCE_S) == b"on"
        with socket.fromfd(right.descriptors[0], socket.AF_INET, socket.SOCK_STREAM) as connection:
            _vanish(connection)
        with pytest.raises(ipc.PeerGone):
            if face == "sync":
                left.receive(timeout_s=PATIENCE_S)
            else:
                asyncio.run(asyncio.wait_for(left.aio.receive(), PATIENCE_S))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_machine_that_vanishes_while_something_is_sent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tcp, "RTO_MAX_MS", 1000)
    left, right = ipc.pair("tcp")
    with contextlib.closing(left), contextlib.closing(right):
        with socket.fromfd(left.descriptors[0], socket.AF_INET, socket.SOCK_STREAM) as connection:
            if not connection.getsockopt(socket.IPPROTO_TCP, _tcp.TCP_RTO_MAX_MS):
                pytest.skip("TCP_RTO_MAX_MS is of Linux 6.15")
            _vanish(connection)
        with pytest.raises(ipc.PeerGone):
            while True:
                right.send(bytes(65536), timeout_s=120)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_receiver_that_takes_its_time_is_not_taken_for_vanished() -> None:
    left, right = ipc.pair("tcp")
    with left, right:
        with pytest.raises(TimeoutError):
            while True:
                right.send(bytes(65536), timeout_s=40)
        for _ in range(right.statistics().messages_sent):
            left.receive(timeout_s=PATIENCE_S)
