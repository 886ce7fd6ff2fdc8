"""The control connection: what iperf3 says is heard, and what is not of its language is one sentence."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from underlay.tools.speed import PeerError
from underlay.tools.speed._protocol import COOKIE_BYTES, Control, Refusal, State, new_cookie

PATIENCE_S = 10


@pytest.fixture
def ends() -> Iterator[tuple[Control, socket.socket]]:
    """A control connection, and the bare socket at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    control = Control(sock, "the server at here:1", at_client=True)
    with other:
        other.settimeout(PATIENCE_S)
        yield control, other
    control.close()


def framed(text: bytes) -> bytes:
    return struct.pack("!I", len(text)) + text


def test_a_cookie_is_36_characters_of_iperf3s_alphabet_and_a_nul() -> None:
    cookie = new_cookie()
    assert len(cookie) == COOKIE_BYTES == 37
    assert cookie[-1] == 0
    assert set(cookie[:-1]) <= set(b"abcdefghijklmnopqrstuvwxyz234567")
    assert cookie != new_cookie()


def test_states_and_json_cross_as_iperf3_writes_them(ends: tuple[Control, socket.socket]) -> None:
    control, other = ends
    control.send_state(State.PARAM_EXCHANGE)
    control.send_json({"tcp": True})
    control.send_refusal(Refusal.UNSUPPORTED, 22)
    wanted = b"\x09" + framed(b'{"tcp":true}') + b"\xfe" + struct.pack("!ii", 13, 22)
    heard = b""
    while len(heard) < len(wanted):
        heard += other.recv(100)
    assert heard == wanted


def test_a_state_is_waited_for_until_it_comes_and_a_wake_ends_the_wait(ends: tuple[Control, socket.socket]) -> None:
    control, other = ends
    assert control.wait_state(0) is None
    control.wake()
    assert control.wait_state(PATIENCE_S) is None
    other.sendall(b"\x0a")
    assert control.wait_state(PATIENCE_S) is State.CREATE_STREAMS


def test_json_is_heard_however_it_is_cut(ends: tuple[Control, socket.socket]) -> None:
    control, other = ends
    text = json.dumps({"streams": [{"id": n} for n in range(5000)]}).encode()

    def drip() -> None:
        for at in range(0, len(framed(text)), 4999):
            other.sendall(framed(text)[at : at + 4999])

    thread = threading.Thread(target=drip)
    thread.start()
    assert control.receive_json(PATIENCE_S) == json.loads(text)
    thread.join()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (b"", "the server at here:1 closed the control connection"),
        (b"\x00\x00", "the server at here:1 closed the control connection"),
        (struct.pack("!I", 10) + b'{"a"', "the server at here:1 closed the control connection"),
        (struct.pack("!I", 1 << 31), "the server at here:1 announces 2147483648 bytes of JSON"),
        (framed(b"{'a': 1}"), "the server at here:1 sent 8 bytes that are no JSON"),
        (framed(b"\xff\xfe\x00"), "the server at here:1 sent 3 bytes that are no JSON"),
        (framed(b"[" * 100_000), "the server at here:1 sent 100000 bytes that are no JSON"),
        (framed(b'{"a":' + b"1" * 5000 + b"}"), "the server at here:1 sent 5006 bytes that are no JSON"),
        (framed(b"[1]"), "the server at here:1 sent JSON that is no object"),
        (framed(b""), "the server at here:1 sent 0 bytes that are no JSON"),
    ],
)
def test_what_is_no_json_of_a_peer_is_one_sentence(
    ends: tuple[Control, socket.socket], said: bytes, sentence: str
) -> None:
    control, other = ends
    other.sendall(said)
    other.shutdown(socket.SHUT_WR)
    with pytest.raises(PeerError) as caught:
        control.receive_json(PATIENCE_S)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (b"", "the server at here:1 closed the control connection"),
        (b"\xff", "the server at here:1 is busy running a test; try again later"),
        (b"\x0b", "the server at here:1 was stopped"),
        (b"H", "the server at here:1 sent 72, which is no state of iperf3; is it one?"),
        (b"\xfe\x00\x00", "the server at here:1 closed the control connection"),
        (
            b"\xfe" + struct.pack("!ii", 123, 22),
            f"the server at here:1 broke the test off: it could not set the MSS ({os.strerror(22).lower()})",
        ),
        (b"\xfe" + struct.pack("!ii", -7, 2**31 - 1), "the server at here:1 broke the test off: its error -7"),
    ],
)
def test_what_is_no_next_state_is_one_sentence(ends: tuple[Control, socket.socket], said: bytes, sentence: str) -> None:
    control, other = ends
    other.sendall(said)
    other.shutdown(socket.SHUT_WR)
    with pytest.raises(PeerError) as caught:
        control.expect_state(PATIENCE_S, "trying")
    assert str(caught.value) == sentence


def test_a_peer_that_says_nothing_is_not_waited_for_without_end(ends: tuple[Control, socket.socket]) -> None:
    control, other = ends
    with pytest.raises(PeerError, match=r"said nothing for 0\.05 s trying"):
        control.expect_state(0.05, "trying")
    other.sendall(struct.pack("!I", 10))
    with pytest.raises(PeerError, match="stopped in the middle of what it was saying"):
        control.receive_json(0.05)


def test_the_end_of_a_connection_is_seen_beside_what_is_still_unread(ends: tuple[Control, socket.socket]) -> None:
    control, other = ends
    assert not control.has_ended()
    other.sendall(b"\x0c")
    other.close()
    assert control.wait_state(PATIENCE_S) is State.CLIENT_TERMINATE
    with pytest.raises(PeerError):
        control.wait_state(PATIENCE_S)
    assert control.has_ended()
