"""Files awaited: the same calls on every loop, completed by the ring on one and by a thread on the others.

These tests know `aio.py`'s public face, and ask the kernel (strace's view is not needed: the executor tells) who did
the work. They know nothing of the ring's inside.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from underlay.loop import aio
from underlay.loop._io_epoll import EpollLoop
from underlay.loop._io_uring import UringLoop
from underlay.loop._ring import probe

SUPPORT = probe()
needs_ring = pytest.mark.skipif(not SUPPORT.available, reason=f"{SUPPORT.reason}; {SUPPORT.remedy}")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
LOOPS = [
    pytest.param(UringLoop, marks=needs_ring, id="uring"),
    pytest.param(EpollLoop, id="epoll"),
    pytest.param(asyncio.SelectorEventLoop, id="standard"),
]


@pytest.fixture(params=LOOPS)
def factory(request: pytest.FixtureRequest) -> LoopFactory:
    made: LoopFactory = request.param
    return made


def run(factory: LoopFactory, main: Callable[[], Awaitable[None]]) -> None:
    async def awaited() -> None:
        await main()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(awaited())


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def test_what_is_written_is_read_again(factory: LoopFactory, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)

    async def main() -> None:
        async with aio.open(tmp_path / "file", "w+b") as file:
            assert await file.write(data) == len(data)
            assert file.tell() == len(data)
            assert await file.read() == b""
            assert file.seek(0) == 0
            assert await file.read() == data
            assert file.seek(-5, os.SEEK_END) == len(data) - 5
            assert await file.read(100) == data[-5:]
            assert await file.read(100) == b""
            file.seek(10)
            file.seek(5, os.SEEK_CUR)
            assert await file.read(2_000_000) == data[15:2_000_015]
            await file.sync()

    run(factory, main)
    assert (tmp_path / "file").read_bytes() == data


def test_writes_take_any_bytes_and_copy_what_may_change(factory: LoopFactory, tmp_path: Path) -> None:
    async def main() -> None:
        async with aio.open(tmp_path / "file", "wb") as file:
            changing = bytearray(b"first ")
            writing = asyncio.ensure_future(file.write(changing))
            await asyncio.sleep(0)
            changing[:] = b"XXXXXX"
            await writing
            await file.write(memoryview(b"-second-")[1:-1])
            assert await file.write(b"") == 0

    run(factory, main)
    assert (tmp_path / "file").read_bytes() == b"first second"


def test_the_modes_are_those_of_open(factory: LoopFactory, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        async with aio.open(path, "xb", permissions=0o600) as file:
            await file.write(b"one")
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(FileExistsError):
            await aio.open(path, "xb")
        async with aio.open(path, "ab") as file:
            await file.write(b" two")
            assert file.tell() == 7
        async with aio.open(path, "r+b") as file:
            await file.write(b"ONE")
            assert await file.read() == b" two"
        async with aio.open(os.fsencode(path)) as file:
            with pytest.raises(OSError, match="Bad file descriptor"):
                await file.write(b"read-only")
            assert await file.read() == b"ONE two"
        async with aio.open(str(path), "wb"):
            pass
        assert path.read_bytes() == b""

    run(factory, main)


@pytest.mark.parametrize("mode", ["", "r", "w", "rt", "b", "rwb", "rbb", "rb++", "rbx"])
def test_a_mode_that_is_not_binary_is_refused_with_a_remedy(mode: str) -> None:
    with pytest.raises(ValueError, match="decode the bytes"):
        aio.open("anywhere", mode)


def test_an_error_names_the_file(factory: LoopFactory, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError) as missing:
            await aio.open(tmp_path / "missing")
        assert missing.value.filename == tmp_path / "missing"
        with pytest.raises(IsADirectoryError):
            async with aio.open(tmp_path, "wb"):
                pass
        with pytest.raises(ValueError, match="null byte"):
            await aio.open("a\0b")

    run(factory, main)


def test_a_closed_file_refuses_everything_but_closing(factory: LoopFactory, tmp_path: Path) -> None:
    async def main() -> None:
        file = await aio.open(tmp_path / "file", "wb")
        before = descriptors()
        was_closed = file.closed
        await file.close()
        await file.close()
        assert (was_closed, file.closed) == (False, True)
        assert len(descriptors()) == len(before) - 1
        for refused in (file.read(1), file.write(b"x"), file.sync()):
            with pytest.raises(ValueError, match="closed file"):
                await refused
        with pytest.raises(ValueError, match="closed file"):
            file.seek(0)
        assert "closed" in repr(file)

    run(factory, main)


def test_a_file_left_open_is_closed_by_the_garbage_collector_with_a_warning(
    factory: LoopFactory, tmp_path: Path
) -> None:
    async def main() -> None:
        before = descriptors()
        file = await aio.open(tmp_path / "file", "wb")
        with pytest.warns(ResourceWarning, match="unclosed file"):
            del file
        # The epoll and standard loops keep their executor's descriptors, of which there are none.
        assert descriptors() == before

    run(factory, main)


def test_async_for_goes_through_a_file_in_pieces(factory: LoopFactory, tmp_path: Path) -> None:
    data = os.urandom(200_000)
    (tmp_path / "file").write_bytes(data)

    async def main() -> None:
        async with aio.open(tmp_path / "file") as file:
            pieces = [piece async for piece in file]
        assert b"".join(pieces) == data
        assert len(pieces) == 4

    run(factory, main)


def test_a_pipe_is_read_as_it_fills(factory: LoopFactory) -> None:
    reading, writing = os.pipe()

    async def main() -> None:
        async with aio.open(f"/proc/self/fd/{reading}") as file:
            waiting = asyncio.ensure_future(file.read(100))
            for _ in range(3):
                await asyncio.sleep(0)
            assert not waiting.done()
            os.write(writing, b"at last")
            assert await waiting == b"at last"
            with pytest.raises(OSError, match="seek"):
                file.seek(0)

    run(factory, main)
    os.close(reading)
    os.close(writing)


def test_many_files_are_under_way_at_once(factory: LoopFactory, tmp_path: Path) -> None:
    async def one(number: int) -> bytes:
        async with aio.open(tmp_path / str(number), "w+b") as file:
            await file.write(b"%d" % number * 1000)
            file.seek(0)
            return await file.read()

    async def main() -> None:
        read = await asyncio.gather(*map(one, range(200)))
        assert read == [b"%d" % number * 1000 for number in range(200)]

    run(factory, main)


@needs_ring
def test_on_the_uring_loop_no_thread_is_started(tmp_path: Path) -> None:
    async def main() -> None:
        before = threading.active_count()
        async with aio.open(tmp_path / "file", "w+b") as file:
            await file.write(b"by the kernel")
            file.seek(0)
            assert await file.read() == b"by the kernel"
        assert threading.active_count() == before

    run(UringLoop, main)


@needs_ring
def test_a_cancelled_read_is_ended_and_the_file_reads_on() -> None:
    reading, writing = os.pipe()

    async def main() -> None:
        async with aio.open(f"/proc/self/fd/{reading}") as file:
            waiting = asyncio.ensure_future(file.read(100))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await asyncio.sleep(0)  # the kernel is told, and lets go of the pipe
            os.write(writing, b"for the next")
            assert await file.read(100) == b"for the next"

    run(UringLoop, main)
    os.close(reading)
    os.close(writing)


def test_a_cancelled_open_leaves_no_descriptor(factory: LoopFactory, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)  # opening it to write waits for a reader

    async def main() -> None:
        async with aio.open(tmp_path / "warm up the executor", "wb"):
            pass
        before = descriptors()
        opening = asyncio.ensure_future(aio.open(path, "wb").__aenter__())
        await asyncio.sleep(0.01)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        other_end = os.open(path, os.O_RDWR)  # lets a thread that still waits go on
        while True:
            await asyncio.sleep(0.001)
            if len(descriptors()) == len(before) + 1:
                break
        os.close(other_end)

    run(factory, main)
