"""Framings: what goes into a stream as messages comes out as the same, however the stream is cut."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay import ipc
from underlay.errors import UsageError

MAKERS: list[Callable[[], ipc.Framing]] = [
    lambda: ipc.LengthPrefix(),
    lambda: ipc.LengthPrefix(1),
    lambda: ipc.LengthPrefix(8, max_message_bytes=9000),
    lambda: ipc.Delimiter(),
    lambda: ipc.Delimiter(b"aab"),
    lambda: ipc.Netstring(),
]
framings = st.sampled_from(MAKERS).map(lambda maker: maker())
# Few letters, so that delimiters, their beginnings, digits and colons come up; and some that are long.
short = st.lists(st.sampled_from([b"a", b"b", b"\n", b"1", b":", b",", b"\0"]), max_size=8).map(b"".join)
messages = st.lists(short | st.binary(max_size=200), max_size=8)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """A stream cut at these places."""
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(places)]


def encoded(framing: ipc.Framing, message: bytes) -> bytes | None:
    try:
        return framing.encode(message)
    except UsageError:
        assert isinstance(framing, ipc.Delimiter)
        return None


@given(framings, messages, st.lists(st.integers(0, 10_000), max_size=20))
def test_what_is_encoded_is_decoded_however_the_stream_is_cut(
    framing: ipc.Framing, wanted: list[bytes], cuts: list[int]
) -> None:
    sent = [(each, frame) for each in wanted if (frame := encoded(framing, each)) is not None]
    decoder = framing.decoder()
    found = []
    for piece in pieces(b"".join(frame for _, frame in sent), cuts):
        found += decoder.feed(piece)
    assert found == [each for each, _ in sent]
    assert decoder.pending_bytes == 0
    decoder.eof()


@given(framings, st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8))
def test_rubbish_gives_the_same_messages_and_the_same_fault_however_it_is_cut(
    framing: ipc.Framing, rubbish: bytes, cuts: list[int]
) -> None:
    def outcome(parts: list[bytes]) -> tuple[list[bytes], type[Exception] | None]:
        decoder, found = framing.decoder(), []
        try:
            for part in parts:
                found += decoder.feed(part)
            decoder.feed(b"")
            decoder.eof()
        except (ipc.NotFramed, ipc.MessageTooLong, ipc.TornMessage) as fault:
            return found, type(fault)
        return found, None

    assert outcome(pieces(rubbish, cuts)) == outcome([rubbish])


@given(framings, st.binary(min_size=1, max_size=50), st.data())
def test_a_stream_that_ends_within_a_message_is_torn(framing: ipc.Framing, message: bytes, data: st.DataObject) -> None:
    frame = encoded(framing, message)
    if frame is None:
        return
    decoder = framing.decoder()
    assert decoder.feed(frame[: data.draw(st.integers(1, len(frame) - 1))]) == []
    with pytest.raises(ipc.TornMessage, match="bytes into a message"):
        decoder.eof()


@pytest.mark.parametrize(
    ("framing", "stream", "says"),
    [
        (ipc.LengthPrefix(max_message_bytes=4), b"\0\0\0\1a\0\0\0\5", "a message of 5 bytes is longer than the 4"),
        (ipc.Delimiter(max_message_bytes=4), b"a\n12345", "a message of 5 bytes is longer than the 4"),
        (ipc.Delimiter(b"--", max_message_bytes=4), b"a--12345-", "a message of 5 bytes is longer than the 4"),
        (ipc.Netstring(max_message_bytes=4), b"1:a,5:", "a message of 5 bytes is longer than the 4"),
        (ipc.Netstring(max_message_bytes=4), b"1:a,99", "a message of 99 bytes is longer than the 4"),
    ],
)
def test_a_message_over_the_limit_is_refused_before_it_has_come_and_those_before_it_are_given(
    framing: ipc.Framing, stream: bytes, says: str
) -> None:
    decoder = framing.decoder()
    assert decoder.feed(stream) == [b"a"]
    for _ in range(2):
        with pytest.raises(ipc.MessageTooLong, match=says):
            decoder.feed(b"")
    with pytest.raises(ipc.MessageTooLong):
        framing.encode(b"12345")


@pytest.mark.parametrize("stream", [b"x", b":", b"01:a,", b"1:ab", b"1;a,", b"000", b"-1:a,", b"\n"])
def test_what_is_no_netstring_is_said_to_be_none(stream: bytes) -> None:
    with pytest.raises(ipc.NotFramed, match="netstring"):
        ipc.Netstring(max_message_bytes=99).decoder().feed(stream)


def test_a_length_that_is_a_lie_costs_no_memory() -> None:
    decoder = ipc.LengthPrefix().decoder()
    tracemalloc.start()
    try:
        decoder.feed((60 << 20).to_bytes(4, "big"))
        for _ in range(10_000):
            decoder.feed(b"x")  # single bytes, each of which could be an object
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    assert decoder.pending_bytes == 10_004


def test_a_decoder_keeps_nothing_of_a_buffer_that_is_used_again() -> None:
    buffer, decoder = bytearray(b"\0\0\0\2a"), ipc.LengthPrefix().decoder()
    decoder.feed(buffer)
    buffer[:] = b"bcdef"
    assert decoder.feed(b"z") == [b"az"]


def test_a_framing_that_cannot_be_is_refused() -> None:
    for make in (
        lambda: ipc.LengthPrefix(0),
        lambda: ipc.LengthPrefix(9),
        lambda: ipc.LengthPrefix(1, max_message_bytes=256),
        lambda: ipc.Delimiter(b""),
        lambda: ipc.Delimiter("x"),  # type: ignore[arg-type]
        lambda: ipc.LengthPrefix("4"),  # type: ignore[arg-type]
        lambda: ipc.LengthPrefix(4, max_message_bytes="10"),  # type: ignore[arg-type]
        lambda: ipc.Netstring(1.5),  # type: ignore[arg-type]
        lambda: ipc.Netstring(0),
    ):
        with pytest.raises(UsageError):
            make()


async def _pair() -> tuple[ipc.FramedStream, ipc.FramedStream, asyncio.Server]:
    accepted: asyncio.Future[ipc.FramedStream] = asyncio.get_running_loop().create_future()
    framing = ipc.LengthPrefix()
    server = await asyncio.start_server(lambda *both: accepted.set_result(framing.over(*both)), "127.0.0.1", 0)
    here = framing.over(*await asyncio.open_connection(*server.sockets[0].getsockname()))
    return here, await accepted, server


def test_messages_cross_asyncios_streams_and_end_with_them() -> None:
    async def main() -> list[bytes]:
        here, there, server = await _pair()
        sent = [b"", b"x" * 300_000, b"last"]
        async with server, there:
            async with here:
                for each in sent:
                    await here.send(each)
            assert [each async for each in there] == sent
            with pytest.raises(ipc.EndOfMessages):
                await there.receive()
        return sent

    assert asyncio.run(main())


def test_a_receive_that_is_cancelled_within_a_message_has_lost_nothing() -> None:
    async def main() -> bytes:
        here, there, server = await _pair()
        async with server, here, there:
            waiting = asyncio.create_task(there.receive())
            frame = ipc.LengthPrefix().encode(b"hello")
            here._writer.write(frame[:6])
            while not there._decoder.pending_bytes:
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            here._writer.write(frame[6:])
            return await there.receive()

    assert asyncio.run(main()) == b"hello"


def test_a_stream_that_breaks_off_says_so() -> None:
    async def main() -> None:
        here, there, server = await _pair()
        async with server, there:
            here._writer.write(b"\0\0\0\5hel")
            await here.aclose()
            with pytest.raises(ipc.TornMessage, match="7 bytes into a message"):
                await there.receive()

    asyncio.run(main())
