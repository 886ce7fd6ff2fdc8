"""`aio_open` does what `open` does, and the event loop goes on; what is no face for asyncio names the one it has."""

from __future__ import annotations

import asyncio
import os

import pytest

from underlay import ipc
from underlay.errors import UsageError

PATIENCE_S = 20.0
KINDS = [each.name for each in ipc.KINDS.values() if each.unrelated_processes and not each.crosses_machines]
pytestmark = pytest.mark.usefixtures("names_folder")


def _descriptors() -> set[str]:
    return {name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


@pytest.mark.parametrize("kind", [*KINDS, "tcp"])
def test_a_name_is_opened_in_the_loop_of_the_task_that_made_it(kind: str) -> None:
    async def main() -> None:
        with ipc.create(kind, "127.0.0.1:0" if kind == "tcp" else "orders") as mailbox:
            with await ipc.aio_open(mailbox.address or "orders") as sender:
                await sender.aio.send(b"tea")
            assert await mailbox.aio.receive() == b"tea"

    asyncio.run(main())


def test_it_waits_until_the_name_is_there_and_the_loop_goes_on() -> None:
    async def opens() -> bytes:
        with await ipc.aio_open("orders", timeout_s=PATIENCE_S) as end:
            return await end.aio.receive()

    async def main() -> bytes:
        opening = asyncio.create_task(opens())
        for _ in range(10):  # the other task waits meanwhile, and this one runs
            await asyncio.sleep(0.001)
        assert not opening.done()
        with ipc.create("unix", "orders", role="sender") as sender:
            await sender.aio.send(b"tea")
            return await opening

    assert asyncio.run(main()) == b"tea"


def test_one_that_is_not_let_in_gives_up_in_its_time_or_when_it_is_cancelled_and_leaves_nothing() -> None:
    async def main() -> None:
        before = _descriptors()
        with pytest.raises(ipc.NoSuchName):
            await ipc.aio_open("orders", timeout_s=0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await ipc.aio_open("orders")
        # Another thread's, which lets nobody in but in accept; of its own thread, open would let itself in.
        with await asyncio.to_thread(ipc.listen, "unix", "orders"):
            inside = _descriptors()
            with pytest.raises(TimeoutError, match=r"did not answer within 0\.01 s"):
                await ipc.aio_open("orders", timeout_s=0.01)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await ipc.aio_open("orders")
            assert _descriptors() == inside
        with pytest.raises(UsageError, match="there is no role"):
            await ipc.aio_open("orders", role="sendr")  # type: ignore[arg-type]
        assert _descriptors() == before

    asyncio.run(main())


def test_nobody_listens_at_an_address_is_the_same_in_both_faces() -> None:
    with ipc.create("tcp", "127.0.0.1:0") as mailbox:
        address = mailbox.address or ""
    with pytest.raises(ipc.NoSuchName, match=f"nobody listens at {address}"):
        ipc.open(address, timeout_s=0.01)
    with pytest.raises(ipc.NoSuchName, match=f"nobody listens at {address}"):
        asyncio.run(ipc.aio_open(address, timeout_s=0.01))


def test_the_wrong_face_names_the_right_one() -> None:
    receiver, sender = ipc.pair("pipe")
    mutex = ipc.Mutex()

    async def main(listener: ipc.Listener) -> None:
        for each in (receiver, listener):
            with pytest.raises(TypeError, match="is not for async for; its aio is"):
                aiter(each)
        for thing in (receiver, listener, mutex):
            with pytest.raises(TypeError, match="is not for async with; take a plain with"):
                await thing.__aenter__()

    with receiver, sender, ipc.listen("unix", "orders") as listener:
        asyncio.run(main(listener))
    mutex.close()
