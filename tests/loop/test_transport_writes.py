"""What was written is sent exactly, and a protocol paused and resumed as through asyncio's own transport.

The kernel's part is played by a socket that takes only as many bytes as a test grants it, so that every
partial send is chosen and both transports see the same ones. Where the models differ in what they
announce, all of them are tried. Which descriptor is ready, and why, is not known here.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import underlay.loop
from underlay.loop._transport import StreamTransport

from ..conformance.contract import Recorder, paired, payload, read_raw, turns
from ._reactors import REACTORS, new_loop, run

Buffer = bytes | bytearray | memoryview

# More than a Unix socket pair holds, so that something always waits.
MUCH = 1 << 20


class GrantedSocket(socket.socket):
    """One end of a pair that takes `granted` bytes and then says EAGAIN, whatever the kernel's buffer."""

    granted = 0

    def _grant(self, wanted: int) -> int:
        if not self.granted:
            raise BlockingIOError
        taken = min(wanted, self.granted)
        self.granted -= taken
        return taken

    def send(self, data: Any, flags: int = 0, /) -> int:
        view = memoryview(data)
        if not view.c_contiguous:
            raise BufferError("memoryview: underlying buffer is not C-contiguous")  # as the real one says
        whole = view.tobytes()
        return super().send(whole[: self._grant(len(whole))], flags)

    def sendmsg(self, buffers: Any, *rest: Any) -> int:
        views = [memoryview(piece) for piece in buffers]
        assert len(views) <= 1024, "sendmsg(2): EMSGSIZE"
        assert all(view.c_contiguous for view in views)
        pieces = [bytes(view) for view in views]
        whole = b"".join(pieces)
        return super().send(whole[: self._grant(len(whole))])


@contextmanager
def granted_pair() -> Iterator[tuple[GrantedSocket, socket.socket]]:
    near, far = socket.socketpair()
    granted = GrantedSocket(near.family, near.type, near.proto, near.detach())
    granted.setblocking(False)
    far.setblocking(False)
    with granted, far:
        yield granted, far


def received(far: socket.socket) -> bytes:
    """What came; ``<end>`` stands for the end of the stream."""
    got = bytearray()
    try:
        while chunk := far.recv(65536):
            got += chunk
    except BlockingIOError:
        return bytes(got)
    return bytes(got) + b"<end>"


# --- the write queue, against asyncio's own -----------------------------------------------------------------------

Step = tuple[str, Any]

SIZES = st.sampled_from([0, 1, 2, 7, 60, 300])
KINDS = st.sampled_from(["bytes", "bytearray", "view of bytes", "view of bytearray"])
STEPS = st.one_of(
    st.tuples(st.just("write"), st.tuples(KINDS, SIZES)),
    st.tuples(st.just("writelines"), st.lists(st.tuples(KINDS, SIZES), max_size=6)),
    st.tuples(st.just("grant"), st.integers(1, 400)),
    st.tuples(st.just("turn"), st.none()),
    st.tuples(st.just("limits"), st.sampled_from([0, 50, 400])),
)
ENDS = st.sampled_from(["close", "write_eof", "write_eof, then close", "abort"])


def made(kind: str, size: int, serial: int) -> Buffer:
    data = bytes((serial + n) % 256 for n in range(size))
    if kind == "bytearray":
        return bytearray(data)
    if kind == "view of bytes":
        return memoryview(b"##" + data + b"#")[2 : 2 + size]
    if kind == "view of bytearray":
        return memoryview(bytearray(data))
    return data


def play(loop: asyncio.SelectorEventLoop, steps: list[Step], end: str, joined: bool) -> tuple[list[object], bytes]:
    """Drive a transport of the loop through the steps; give all that could be seen, and what arrived.

    `joined` hands writelines over as one write, which is what it means (its stock form differs by version).
    """
    seen: list[object] = []

    async def main() -> bytes:
        arrived = b""
        with granted_pair() as (near, far):
            protocol = Recorder()
            protocol.calls = cast("list[str]", seen)
            await loop.create_connection(lambda: protocol, sock=near)
            assert protocol.transport is not None
            transport = protocol.transport
            for serial, (step, detail) in enumerate([*steps, ("end", None), ("turn", None), ("grant", 1 << 20)]):
                if step == "write":
                    kind, size = detail
                    transport.write(made(kind, size, serial))
                elif step == "writelines":
                    lines = [made(kind, size, serial) for kind, size in detail]
                    transport.write(b"".join(lines)) if joined else transport.writelines(lines)
                elif step == "grant":
                    near.granted = detail
                    await turns(2)
                elif step == "limits":
                    transport.set_write_buffer_limits(detail)
                elif step == "end":
                    for method in end.split(", then "):
                        getattr(transport, method)()
                else:
                    await turns(2)
                # Granted once is not granted for ever: a step that finds nothing to send leaves nothing behind.
                near.granted = 0
                seen.append((transport.get_write_buffer_size(), transport.is_closing()))
                came = received(far)
                arrived += came.removesuffix(b"<end>")
                seen.append(came.endswith(b"<end>"))
            await turns(3)
            if not transport.is_closing():
                transport.abort()
            await protocol.until_call("connection_lost")
            return arrived + received(far).removesuffix(b"<end>")

    try:
        return seen, loop.run_until_complete(main())
    finally:
        loop.close()


@given(st.lists(STEPS, max_size=25), ENDS)
@example([("write", ("bytes", 300)), ("grant", 10), ("writelines", [("bytes", 7)] * 3), ("grant", 295)], "close")
@example([("write", ("bytes", 1)), ("limits", 0), ("limits", 50)], "close")  # refused once more: nothing to resume for
@settings(max_examples=150)
def test_writes_and_partial_sends_look_as_through_asyncios_own_transport(steps: list[Step], end: str) -> None:
    expected = play(asyncio.SelectorEventLoop(), steps, end, joined=True)
    assert play(new_loop("epoll"), steps, end, joined=False) == expected


@pytest.mark.parametrize("model", REACTORS)
def test_every_model_drains_the_write_queue_alike(model: str) -> None:
    steps: list[Step] = [("write", ("bytes", 300))]
    steps += [("grant", 50), ("turn", None), ("writelines", [("bytearray", 60)] * 5), ("grant", 299)] * 3
    expected = play(asyncio.SelectorEventLoop(), steps, "write_eof, then close", joined=True)
    assert play(new_loop(model), steps, "write_eof, then close", joined=False) == expected


@pytest.mark.parametrize("model", REACTORS)
@given(sizes=st.lists(st.lists(st.sampled_from([1, 100, 5000, 70_000]), max_size=4), max_size=12))
@settings(max_examples=8)
def test_a_small_kernel_buffer_delivers_the_bytes_in_order(model: str, sizes: list[list[int]]) -> None:
    async def main() -> None:
        async with await paired() as connection:
            sock = connection.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sent = b""
            for serial, lines in enumerate(sizes):
                pieces = [made("bytes", size, serial) for size in lines]
                if len(pieces) == 1:
                    connection.transport.write(pieces[0])
                else:
                    connection.transport.writelines(pieces)
                sent += b"".join(pieces)
                if serial % 3 == 0:
                    await asyncio.sleep(0)
            assert await read_raw(connection.far, len(sent)) == sent
            await turns(2)
            assert connection.transport.get_write_buffer_size() == 0

    run(model, main())


@pytest.mark.parametrize("model", REACTORS)
def test_more_buffers_than_one_sendmsg_takes_are_all_sent(model: str) -> None:
    async def main() -> None:
        async with await paired() as connection:
            connection.transport.write(payload(MUCH))  # fills the kernel's buffer: the rest can only wait
            pieces = [b"%05d." % n for n in range(3000)]
            for piece in pieces[:1500]:
                connection.transport.write(piece)
            connection.transport.writelines(pieces[1500:])
            assert await read_raw(connection.far, MUCH) == payload(MUCH)
            # Now the kernel has room for all of it, and says so once.
            assert await read_raw(connection.far, 6 * 3000) == b"".join(pieces)

    run(model, main())


# --- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waiting", [True, False], ids=["behind a queue", "at once"])
@pytest.mark.parametrize(
    "data",
    [
        memoryview(b"abcdefgh" * 4).cast("I"),
        memoryview(b"abcdefgh" * 4).cast("B", (4, 8)),
        memoryview(bytearray(b"abcdefgh" * 4)).cast("d"),
        memoryview((ctypes.c_int * 8)(*range(8))),  # its format, "<i", is one that cast() refuses
    ],
    ids=["of integers", "of two dimensions", "of floats", "of a C array"],
)
def test_a_view_whose_items_are_not_bytes_is_sent_as_its_bytes(data: memoryview, waiting: bool) -> None:
    async def main() -> None:
        with granted_pair() as (near, far):
            protocol = Recorder()
            await asyncio.get_running_loop().create_connection(lambda: protocol, sock=near)
            assert protocol.transport is not None
            near.granted = 0 if waiting else 3
            protocol.transport.write(b"first")
            protocol.transport.write(data)
            protocol.transport.writelines([data, data])
            near.granted = 1 << 20
            expected = b"first" + data.tobytes() * 3
            assert protocol.transport.get_write_buffer_size() == len(expected) - (0 if waiting else 3)
            near.granted = 7
            await turns(2)
            near.granted = 1 << 20
            await turns(2)
            assert received(far) == expected
            assert protocol.transport.get_write_buffer_size() == 0
            protocol.transport.abort()
            await protocol.until_call("connection_lost")

    run("epoll", main())


def test_a_view_with_gaps_is_sent_without_them() -> None:
    async def main() -> None:
        with granted_pair() as (near, far):
            protocol = Recorder()
            await asyncio.get_running_loop().create_connection(lambda: protocol, sock=near)
            assert protocol.transport is not None
            protocol.transport.write(b"first ")
            protocol.transport.write(memoryview(b"a-b-c-")[::2])
            near.granted = 100
            await turns(2)
            assert received(far) == b"first abc"
            protocol.transport.abort()
            await protocol.until_call("connection_lost")

    run("epoll", main())


@pytest.mark.parametrize("wrong", [b"abc", [5], [b"fine", 5], ["text"], [None, b"fine"], [[1, 2]]])
@pytest.mark.parametrize("model", ["epoll", "uring"])  # each has a writelines of its own
def test_writelines_refuses_what_is_not_bytes_and_sends_nothing(model: str, wrong: Any) -> None:
    row = underlay.loop.model(model)
    if not row.available:
        pytest.skip(f"{row.reason}; {row.remedy}")

    async def main() -> None:
        async with await paired() as connection:
            with pytest.raises(TypeError):
                connection.transport.writelines(wrong)
            assert connection.transport.get_write_buffer_size() == 0
            connection.transport.write(b"next")
            assert await read_raw(connection.far, 4) == b"next"

    run(model, main())


def test_bytes_wait_uncopied_and_what_can_change_is_copied() -> None:
    async def main() -> None:
        async with await paired() as connection:
            transport = cast(StreamTransport, connection.transport)
            transport.write(payload(MUCH))
            kept, changing = b"k" * 1000, bytearray(b"c" * 1000)
            transport.write(kept)
            transport.write(changing)
            transport.write(memoryview(changing))
            transport.writelines([changing, memoryview(changing)])
            assert transport._buffer[1] is kept
            changing[:] = b"x" * 1000
            assert (await read_raw(connection.far, MUCH + 5000))[MUCH:] == kept + b"c" * 4000

    run("epoll", main())
