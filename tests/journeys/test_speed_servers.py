"""What servers do to a client of `underlay speed` that are none, or break off: one sentence, and nothing is left."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable

import pytest

from underlay.errors import UnderlayError
from underlay.tools.speed import Direction, PeerError, Settings, measure

from ._iperf3 import PATIENCE_S, Witness, descriptors
from ._speed_peers import be_impatient, framed, steps


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_impatient(monkeypatch)


class Fake:
    """What a fake server has: its listener, the control connection, and streams that it took."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.control, _ = listener.accept()
        self.control.settimeout(PATIENCE_S)
        self.streams: list[socket.socket] = []

    def lead(self, *, until: int = 2) -> None:
        """Play an iperf3 server as far as a state."""
        assert len(self.control.recv(37, socket.MSG_WAITALL)) == 37
        self.control.sendall(b"\x09")
        (size,) = struct.unpack("!I", self.control.recv(4, socket.MSG_WAITALL))
        json.loads(self.control.recv(size, socket.MSG_WAITALL))
        for state in (10, 1, 2):
            self.control.sendall(bytes([state]))
            if state == until:
                return
            if state == 10:
                stream, _ = self.listener.accept()
                self.streams.append(stream)

    def until_end(self) -> None:
        while self.control.recv(1) not in (b"\x04", b""):
            pass

    def close(self) -> None:
        for sock in (self.control, *self.streams):
            sock.close()


def after_the_end(*parts: bytes) -> Callable[[Fake], None]:
    def lie(fake: Fake) -> None:
        fake.lead()
        fake.until_end()
        fake.control.sendall(b"\x0d")
        for part in parts:
            fake.control.sendall(part)

    return lie


def then_say(until: int, said: bytes) -> Callable[[Fake], None]:
    def lie(fake: Fake) -> None:
        fake.lead(until=until)
        fake.control.sendall(said)

    return lie


FAKES: dict[str, tuple[Callable[[Fake], None], str]] = {
    "closes": (lambda fake: fake.control.close(), "closed|reset"),
    "is a web server": (lambda fake: fake.control.sendall(b"HTTP/1.1 400 Bad"), "sent 72, which is no state of iperf3"),
    "says nothing": (lambda fake: None, "said nothing for 0.5 s after it was asked for a test"),
    "is busy": (lambda fake: fake.control.sendall(b"\xff"), "is busy running a test"),
    "begins in the middle": (lambda fake: fake.control.sendall(b"\x02"), "said TEST_RUNNING after it was asked"),
    "refuses the streams": (then_say(10, b"\xfe" + struct.pack("!ii", 6, 0)), "there are more streams than it allows"),
    "does not begin": (then_say(1, b""), "said nothing"),
    "is stopped": (then_say(2, b"\x0b"), "was stopped"),
    "goes away": (
        steps(lambda fake: fake.lead(), lambda fake: fake.control.close()),
        "closed the control connection|broke",
    ),
    "ends a stream": (steps(lambda fake: fake.lead(), lambda fake: fake.streams[0].close()), "stream 1 between"),
    "loses its way": (then_say(2, b"\x0e"), "said DISPLAY_RESULTS in the middle of the test"),
    "tells nothing at the end": (steps(lambda fake: fake.lead(), lambda fake: fake.until_end()), "said nothing"),
    "tells no results": (after_the_end(framed(b"{}")), "sent results that are not those of this test"),
    "tells no JSON": (after_the_end(framed(b"{")), "sent 1 bytes that are no JSON"),
    "tells too much": (after_the_end(b"\xff\xff\xff\xff"), "announces 4294967295 bytes of JSON"),
}


@pytest.mark.parametrize("lie", list(FAKES))
@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_none_is_one_sentence_and_nothing_of_the_test_is_left(lie: str) -> None:
    do, sentence = FAKES[lie]
    before, threads = descriptors(), threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)
        fakes: list[Fake] = []
        errors: list[BaseException] = []

        def play() -> None:
            try:
                fakes.append(Fake(listener))
                do(fakes[0])
            except (OSError, AssertionError) as error:
                errors.append(error)

        thread = threading.Thread(target=play)
        thread.start()
        with pytest.raises(UnderlayError, match=sentence) as caught:
            measure(
                "127.0.0.1",
                Settings(time_s=0.3, direction=Direction.NORMAL, rate_bits_per_s=10**6, length_bytes=1000),
                port=listener.getsockname()[1],
            )
        thread.join(PATIENCE_S)
        assert "\n" not in str(caught.value)
        for fake in fakes:
            fake.close()
    assert errors == []
    assert threading.active_count() == threads
    assert descriptors() == before


@pytest.mark.usefixtures("impatient")
def test_a_server_whose_udp_is_filtered_or_closed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from underlay.tools.speed import _sockets

    monkeypatch.setattr(_sockets, "_UDP_PATIENCE_S", 0.3)
    for is_open, sentence in ((True, "did not answer by UDP"), (False, "has no UDP port open")):
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent,
        ):
            listener.settimeout(PATIENCE_S)
            port = listener.getsockname()[1]
            if is_open:
                silent.bind(("127.0.0.1", port))

            def play(listener: socket.socket = listener) -> None:
                fake = Fake(listener)
                fake.lead(until=10)
                fake.control.recv(1)
                fake.close()

            thread = threading.Thread(target=play)
            thread.start()
            with pytest.raises(PeerError, match=sentence):
                measure("127.0.0.1", Settings(protocol="udp", time_s=0.3), port=port)
            thread.join(PATIENCE_S)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_goes_on_has_taken_the_stream_whose_welcome_was_lost() -> None:
    numbered = [struct.pack("!III", 0, 0, number) + bytes(100) for number in (1, 2)]
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent,
    ):
        listener.settimeout(PATIENCE_S)
        silent.settimeout(PATIENCE_S)
        port = listener.getsockname()[1]
        silent.bind(("127.0.0.1", port))

        def play() -> None:
            fake = Fake(listener)
            fake.lead(until=10)
            _, address = silent.recvfrom(100)
            # Its first data overtakes all words.
            for data in numbered:
                silent.sendto(data, address)
            fake.control.sendall(b"\x01\x02")
            fake.until_end()
            fake.close()

        thread = threading.Thread(target=play)
        thread.start()
        witness = Witness()
        with pytest.raises(PeerError, match="closed the control connection"):
            settings = Settings(protocol="udp", time_s=0.3, direction=Direction.REVERSE)
            measure("127.0.0.1", settings, port=port, watcher=witness, interval_s=0.1)
        thread.join(PATIENCE_S)
    assert (sum(i.packets or 0 for i in witness.intervals), sum(i.lost or 0 for i in witness.intervals)) == (2, 0)
