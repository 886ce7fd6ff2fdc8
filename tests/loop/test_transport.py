"""The lean transport reads, fails and ends as asyncio's own, and tells its protocol the same.

What it sends is test_transport_writes.py's. Where the models differ in what they announce, all of them are
tried. Which descriptor is ready, and why, is not known here.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from underlay.loop._reactor import ReactorLoop
from underlay.loop._transport import READ_SIZE_BYTES, StreamTransport

from ..conformance.contract import Recorder, accepted, paired, payload, read_raw, turns
from ._reactors import FEW_TURNS, LIMIT_S, REACTORS, new_loop, run, turns_while_idle

# More than a Unix socket pair holds, so that something always waits.
MUCH = 1 << 20

# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", REACTORS)
def test_one_read_takes_at_most_64_kib_and_the_rest_follows_without_another_event(model: str) -> None:
    class Sizes(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.sizes: list[int] = []

        def data_received(self, data: bytes) -> None:
            self.sizes.append(len(data))
            super().data_received(data)

    async def main() -> None:
        protocol = Sizes()
        async with await paired(protocol) as connection:
            connection.transport.pause_reading()
            sent = connection.far.send(payload(MUCH))
            connection.transport.resume_reading()
            await protocol.until_received(sent)
            assert bytes(protocol.received) == payload(MUCH)[:sent]
            assert max(protocol.sizes) <= READ_SIZE_BYTES < sent

    run(model, main())


@pytest.mark.parametrize("model", REACTORS)
def test_a_lent_buffer_smaller_than_what_came_is_filled_again_and_again(model: str) -> None:
    class Lender(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer = bytearray(10)
            self.received = b""
            self.ended = asyncio.get_running_loop().create_future()

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.received += self.buffer[:nbytes]

        def eof_received(self) -> None:
            self.ended.set_result(None)

    async def main() -> None:
        near, far = socket.socketpair()
        with far:
            transport, lender = await asyncio.get_running_loop().create_connection(Lender, sock=near)
            far.send(payload(1003))
            far.shutdown(socket.SHUT_WR)
            await lender.ended
            assert lender.received == payload(1003)
            transport.close()
            await turns(2)

    run(model, main())


@pytest.mark.parametrize("model", REACTORS)
@pytest.mark.parametrize("family", ["TCP", "Unix"])
def test_an_answer_stuck_behind_a_half_closed_peer_does_not_spin(model: str, family: str) -> None:
    class Answerer(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.keep_open_at_eof = True

        def eof_received(self) -> bool:
            assert self.transport is not None
            self.transport.write(payload(16 * MUCH))  # more than the peer's window and our buffer hold together
            self.transport.close()
            return super().eof_received()

    async def main() -> None:
        make = accepted if family == "TCP" else paired
        async with await make(Answerer()) as connection:
            connection.far.shutdown(socket.SHUT_WR)
            await connection.near.until_call("eof_received")
            await turns_while_idle()  # lets TCP's window fill
            assert connection.transport.get_write_buffer_size() > 0
            assert await turns_while_idle() < FEW_TURNS
            assert await read_raw(connection.far) == payload(16 * MUCH)

    run(model, main())


@pytest.mark.parametrize("model", REACTORS)
def test_a_connection_kept_open_after_its_peers_end_does_not_spin_and_still_writes(model: str) -> None:
    async def main() -> None:
        protocol = Recorder()
        protocol.keep_open_at_eof = True
        async with await paired(protocol) as connection:
            connection.far.shutdown(socket.SHUT_WR)
            await protocol.until_call("eof_received")
            assert await turns_while_idle() < FEW_TURNS
            connection.transport.write(b"answer")
            assert await read_raw(connection.far, 6) == b"answer"
            assert protocol.calls == ["connection_made", "eof_received"]

    run(model, main())


def test_a_connection_that_cannot_be_watched_is_ended_not_left_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = cast(ReactorLoop, asyncio.get_running_loop())
        contexts: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))

        def full(fd: int, events: int) -> None:
            raise ValueError("no place for this descriptor")

        monkeypatch.setattr(loop._poller, "add", full)
        protocol = Recorder()
        near, far = socket.socketpair()
        with far:
            await loop.create_connection(lambda: protocol, sock=near)
            await protocol.until_call("connection_lost")
            assert str(protocol.error) == "no place for this descriptor"
            assert far.recv(1) == b""
        assert [str(context["exception"]) for context in contexts] == ["no place for this descriptor"]

    run("poll", main())


# --- errors, against asyncio's own ----------------------------------------------------------------------------


class Failing(Recorder):
    """Raises in the callback named."""

    def __init__(self, where: str, error: type[BaseException]) -> None:
        super().__init__()
        self.where = where
        self.raised = error

    def _note(self, call: str) -> None:
        super()._note(call)
        if call == self.where:
            raise self.raised("by the protocol")


class FailingLender(asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    def __init__(self, where: str, error: type[BaseException]) -> None:
        self.recorder = Failing(where, error)
        self.calls = self.recorder.calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.recorder.connection_made(transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        self.recorder._note("get_buffer")
        return bytearray(100)

    def buffer_updated(self, nbytes: int) -> None:
        self.recorder._note("buffer_updated")

    def eof_received(self) -> bool:
        return self.recorder.eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.recorder.connection_lost(exc)


def failing(loop: asyncio.SelectorEventLoop, cls: type, where: str, error: type[BaseException]) -> list[object]:
    """Let the callback fail while data, the end and an abort come; give what the loop and the protocol were told."""
    told: list[object] = []

    def tell(_: object, context: dict[str, Any]) -> None:
        message = re.sub("callback .*", "callback", context["message"])  # which names our own class
        told.append((message, repr(context["exception"]), sorted(context)))

    async def main() -> None:
        near, far = socket.socketpair()
        protocol = cls(where, error)
        with far:
            far.send(b"data")
            transport, _ = await loop.create_connection(lambda: protocol, sock=near)
            await turns(3)
            far.shutdown(socket.SHUT_WR)
            await turns(3)
            transport.abort()
            await turns(3)
        told.extend([protocol.calls, repr(getattr(protocol, "recorder", protocol).error)])

    loop.set_exception_handler(tell)
    task = loop.create_task(main())
    try:
        while not task.done():
            try:
                loop.run_until_complete(task)
            except KeyboardInterrupt as leaving:  # left the loop; the program goes on all the same
                told.append(repr(leaving))
    finally:
        loop.close()
    return told


@pytest.mark.parametrize("error", [ZeroDivisionError, ConnectionResetError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("cls", "where"),
    [(Failing, where) for where in ("connection_made", "data_received", "eof_received", "connection_lost")]
    + [(FailingLender, where) for where in ("get_buffer", "buffer_updated", "eof_received")],
)
def test_an_error_in_a_callback_is_told_as_asyncio_tells_it(cls: type, where: str, error: type[BaseException]) -> None:
    expected = failing(asyncio.SelectorEventLoop(), cls, where, error)
    assert failing(new_loop("epoll"), cls, where, error) == expected


def test_writes_after_the_loss_are_dropped_and_from_the_fifth_on_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with await paired() as connection:
            connection.transport.abort()
            for count in range(8):
                connection.transport.write(b"lost")
                connection.transport.writelines([b"lost", b"too"])
                warned = len([record for record in caplog.records if "socket.send() raised" in record.getMessage()])
                assert warned == max(0, 2 * count - 2), count
            assert connection.transport.get_write_buffer_size() == 0

    with caplog.at_level(logging.WARNING, "asyncio"):
        run("epoll", main())


# --- the end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", REACTORS)
@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_transport_ended_from_resume_writing_ends_once(model: str, how: str) -> None:
    class Impatient(Recorder):
        def resume_writing(self) -> None:
            super().resume_writing()
            assert self.transport is not None
            getattr(self.transport, how)()

    async def main() -> None:
        protocol = Impatient()
        async with await paired(protocol) as connection:
            connection.transport.write(payload(MUCH))
            assert len(await read_raw(connection.far, MUCH - 60_000)) == MUCH - 60_000
            await protocol.until_call("connection_lost")
            await turns(3)
            assert protocol.calls == ["connection_made", "pause_writing", "resume_writing", "connection_lost"]
            assert protocol.error is None

    run(model, main())


def test_writing_is_refused_after_the_end_and_during_sendfile() -> None:
    async def main() -> None:
        async with await paired() as connection:
            transport = cast(StreamTransport, connection.transport)
            empty = transport._make_empty_waiter()
            assert empty.done()
            for write in (transport.write, lambda data: transport.writelines([data])):
                with pytest.raises(RuntimeError, match="sendfile is in progress"):
                    write(b"data")
            with pytest.raises(RuntimeError, match="already set"):
                transport._make_empty_waiter()
            transport._reset_empty_waiter()
            transport.write_eof()
            transport.write_eof()
            for write in (transport.write, lambda data: transport.writelines([data])):
                with pytest.raises(RuntimeError, match="after write_eof"):
                    write(b"data")

    run("epoll", main())


def test_a_transport_forgotten_while_open_warns_and_closes_its_socket() -> None:
    loop = new_loop("epoll")
    near, far = socket.socketpair()
    with far:
        transport = StreamTransport(loop, near, asyncio.Protocol())
        loop.run_until_complete(turns(2))
        loop._remove_reader(near)
        loop.close()
        assert repr(transport).startswith("<StreamTransport open fd=")
        with pytest.warns(ResourceWarning, match="unclosed transport <StreamTransport open"):
            del transport
            gc.collect()
        assert far.recv(1) == b""


@pytest.mark.parametrize("model", REACTORS)
def test_the_repr_tells_what_is_watched_and_what_waits(model: str) -> None:
    async def main() -> None:
        async with await paired() as connection:
            transport = connection.transport
            assert "open" in repr(transport) and "read=polling write=<idle, bufsize=0>" in repr(transport)
            transport.pause_reading()
            transport.write(payload(MUCH))
            waiting = transport.get_write_buffer_size()
            assert f"read=idle write=<polling, bufsize={waiting}>" in repr(transport)
            transport.abort()
            assert "closing" in repr(transport)
            await connection.near.until_call("connection_lost")
            assert repr(transport) == f"<StreamTransport closed fd={connection.transport._sock_fd}>"  # type: ignore[attr-defined]

    run(model, main())


@pytest.mark.parametrize("model", REACTORS)
def test_a_connection_aborted_as_it_tells_that_it_is_lost_tells_it_once(model: str) -> None:
    class Thorough(Recorder):
        def connection_lost(self, exc: BaseException | None) -> None:
            super().connection_lost(exc)
            assert self.transport is not None
            self.transport.abort()

    async def main() -> None:
        protocol = Thorough()
        async with await paired(protocol) as connection:
            connection.transport.write(payload(MUCH))
            connection.transport.close()
            assert len(await read_raw(connection.far)) == MUCH
            await protocol.until_call("connection_lost")
            await turns(3)
            assert protocol.calls.count("connection_lost") == 1

    run(model, main())


@contextmanager
def no_collection_of_garbage() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def until_freed(transport: weakref.ref[asyncio.BaseTransport]) -> None:
    async with asyncio.timeout(LIMIT_S):  # a thread, or the kernel, has to let go of it first
        while transport() is not None:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("model", (*REACTORS, "uring", "blocking"))
@pytest.mark.parametrize("how", ["close", "abort", "close with much to send"])
def test_a_connection_that_is_over_waits_for_no_collection_of_garbage(model: str, how: str) -> None:
    class Forgetful(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            gone.append(weakref.ref(transport))

        def data_received(self, data: bytes) -> None:
            heard.set()

    gone: list[weakref.ref[asyncio.BaseTransport]] = []
    heard = asyncio.Event()

    async def main() -> None:
        near, far = socket.socketpair()
        far.setblocking(False)
        loop = asyncio.get_running_loop()
        with far:
            transport, _ = await loop.create_connection(Forgetful, sock=near)
            far.send(b"heard")
            transport.write(b"answered")
            await heard.wait()  # closed before it is read, it would reset the connection
            if how == "abort":
                transport.abort()
            else:
                transport.write(payload(MUCH if "much" in how else 1))
                transport.close()
            del transport
            await read_raw(far)
            await until_freed(gone[0])

    with no_collection_of_garbage():
        run(model, main())


@pytest.mark.parametrize("model", (*REACTORS, "uring", "blocking"))
@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_datagram_endpoint_that_is_over_waits_for_no_collection_of_garbage(model: str, how: str) -> None:
    class Forgetful(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            gone.append(weakref.ref(transport))

        def datagram_received(self, data: bytes, address: object) -> None:
            heard.set()

    gone: list[weakref.ref[asyncio.BaseTransport]] = []
    heard = asyncio.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Forgetful, local_addr=("127.0.0.1", 0))
        transport.sendto(b"to myself", transport.get_extra_info("sockname"))
        await heard.wait()
        getattr(transport, how)()
        del transport
        await until_freed(gone[0])

    with no_collection_of_garbage():
        run(model, main())


# --- datagrams ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", REACTORS)
def test_datagrams_of_any_size_come_whole_and_one_by_one(model: str) -> None:
    class Receiver(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.received: list[bytes] = []
            self.all_here = asyncio.get_running_loop().create_future()

        def datagram_received(self, data: bytes, addr: object) -> None:
            self.received.append(data)
            if data == b"last":
                self.all_here.set_result(None)

    async def main() -> None:
        sizes = [0, 1, 65507, 0, 1472]  # 65507 is the most that UDP over IPv4 carries
        transport, receiver = await asyncio.get_running_loop().create_datagram_endpoint(
            Receiver, local_addr=("127.0.0.1", 0)
        )
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for size in sizes:
                sender.sendto(payload(size), transport.get_extra_info("sockname"))
            sender.sendto(b"last", transport.get_extra_info("sockname"))
            await receiver.all_here
        transport.close()
        assert receiver.received == [*map(payload, sizes), b"last"]
        await turns(2)

    run(model, main())
