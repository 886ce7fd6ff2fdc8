"""What a channel with a name promises, whatever its kind: processes meet that know nothing of each other but the name.

It knows promises. What can go wrong in the folder of names is in tests/ipc/test_names.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from tests.conformance.channel_subjects import NAMED, PATIENCE_S, Subject, process

from underlay import ipc

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=NAMED, ids=str)
def carrier(request: pytest.FixtureRequest) -> Subject:
    found: Subject = request.param
    return found


@pytest.fixture(autouse=True)
def names_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # A Unix socket's path is short, and pytest's own folders are long.
    base = Path(tempfile.mkdtemp(prefix="ipc-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    try:
        yield base / "underlay" / "ipc"
    finally:
        shutil.rmtree(base)


@contextlib.contextmanager
def peer(*words: str) -> Iterator[subprocess.Popen[str]]:
    """An unrelated process; it is ended when the test is done with it."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.conformance.named_peer", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def said(process: subprocess.Popen[str]) -> str:
    """The next line that it says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def new_name(carrier: Subject) -> str:
    return "127.0.0.1:0" if carrier.kind == "tcp" else "orders"


def left_in(folder: Path) -> list[str]:
    # A hidden name is one in the making, or of a process that was killed at that: it goes when the next one is made.
    return sorted(each for each in os.listdir(folder) if not each.startswith(".")) if folder.exists() else []


def test_an_unrelated_process_sends_what_the_creator_receives(carrier: Subject, names_folder: Path) -> None:
    with (
        ipc.create(carrier.kind, new_name(carrier)) as mailbox,
        peer("send", mailbox.address or "orders") as other,
    ):
        first = mailbox.receive(timeout_s=PATIENCE_S)
        assert [first, *mailbox] == [b"%d" % number for number in range(100)]
        assert other.wait(PATIENCE_S) == 0
        assert not left_in(names_folder)


def test_who_opens_a_name_waits_until_it_is_there(carrier: Subject, names_folder: Path) -> None:
    # A port that was free a moment ago stands for one that is known beforehand.
    name = "orders"
    if carrier.kind == "tcp":
        with ipc.listen("tcp", "127.0.0.1:0") as listener:
            name = listener.address or ""
    with peer("send", name), ipc.create(carrier.kind, name) as mailbox:
        assert mailbox.receive(timeout_s=PATIENCE_S) == b"0"


def test_a_sender_need_not_wait_for_the_process_that_receives(carrier: Subject, names_folder: Path) -> None:
    with ipc.create(carrier.kind, new_name(carrier), role="sender") as sender:
        if carrier.kind != "tcp":  # which has nowhere to keep it
            sender.send(b"0")
        with peer("receive", sender.address or "orders") as other:
            for number in range(200):
                sender.send(b"%d" % number, timeout_s=PATIENCE_S)
            # Who never had to wait lets the other side in when it closes, at the latest.
            with contextlib.suppress(TimeoutError):
                while left_in(names_folder):
                    sender.send(b"more", timeout_s=PATIENCE_S)
            received = sender.statistics().messages_sent
            sender.close()
            assert int(said(other)) == received
            assert other.wait(PATIENCE_S) == 0
    assert not left_in(names_folder)


def test_both_sides_talk_in_the_asyncio_face(carrier: Subject, names_folder: Path) -> None:
    async def main() -> None:
        with (
            ipc.create(carrier.kind, new_name(carrier), role="both") as channel,
            peer("echo", channel.address or "orders"),
        ):
            receiving = asyncio.create_task(channel.aio.receive())
            await asyncio.sleep(0)
            for number in range(50):
                await channel.aio.send(b"%d" % number)
                assert await receiving == b"%d" % number
                receiving = asyncio.create_task(channel.aio.receive())
            receiving.cancel()

    asyncio.run(main())
    assert not left_in(names_folder)


def test_a_creator_that_is_killed_before_anybody_came_leaves_a_stale_name(carrier: Subject, names_folder: Path) -> None:
    with peer("create", new_name(carrier), carrier.kind) as other:
        name = said(other)
        other.send_signal(signal.SIGKILL)
        other.wait()
        if carrier.kind == "tcp":
            with pytest.raises(ipc.NoSuchName, match=f"nobody listens at {name}"):
                ipc.open(name, timeout_s=0)
        else:
            assert left_in(names_folder) == ["orders"]
            assert ipc.names() == [ipc.KnownName("orders", other.pid, False)]
            with pytest.raises(ipc.StaleName, match=f"process {other.pid}, which is dead, left a channel 'orders'"):
                ipc.open(name, timeout_s=0)
            with pytest.raises(ipc.StaleName, match=f"process {other.pid}, which is dead.*replace=True"):
                ipc.create(carrier.kind, name)
    with ipc.create(carrier.kind, name, replace=True) as mailbox, ipc.open(name) as sender:
        sender.send(b"on")
        assert mailbox.receive() == b"on"
    assert not left_in(names_folder)


def test_a_creator_that_is_killed_after_the_meeting_is_noticed(carrier: Subject, names_folder: Path) -> None:
    with peer("create-and-send", new_name(carrier), carrier.kind) as other:
        name = said(other)
        with ipc.open(name, timeout_s=PATIENCE_S) as receiver:
            if carrier.kind != "tcp":
                assert receiver.receive(timeout_s=PATIENCE_S) == b"early"
            assert receiver.receive(timeout_s=PATIENCE_S) == b"late"
            other.send_signal(signal.SIGKILL)
            with pytest.raises(ipc.PeerGone, match="died without closing it"):
                while True:
                    receiver.receive(timeout_s=PATIENCE_S)
    assert not left_in(names_folder)


def test_a_process_that_came_and_dies_is_noticed(carrier: Subject, names_folder: Path) -> None:
    with (
        ipc.create(carrier.kind, new_name(carrier)) as mailbox,
        peer("send-and-vanish", mailbox.address or "orders"),
    ):
        assert mailbox.receive(timeout_s=PATIENCE_S) == b"goodbye"
        with pytest.raises(ipc.PeerGone, match="died without closing it"):
            mailbox.receive(timeout_s=PATIENCE_S)
    assert not left_in(names_folder)


def test_a_process_that_exits_leaves_no_name(carrier: Subject, names_folder: Path) -> None:
    with peer("create-and-exit", new_name(carrier), carrier.kind) as other:
        assert other.wait(PATIENCE_S) == 0
    assert not left_in(names_folder)


def test_a_listener_has_a_channel_for_each_who_comes(carrier: Subject, names_folder: Path) -> None:
    with (
        ipc.listen(carrier.kind, new_name(carrier)) as listener,
        contextlib.ExitStack() as stack,
    ):
        peers = [stack.enter_context(peer("echo", listener.address or "orders")) for _ in range(3)]
        channels = [stack.enter_context(listener.accept(timeout_s=PATIENCE_S)) for _ in peers]
        for number, channel in enumerate(channels):
            channel.send(b"%d" % number)
        for number, channel in enumerate(channels):
            assert channel.receive(timeout_s=PATIENCE_S) == b"%d" % number
            channel.close()
        assert [each.wait(PATIENCE_S) for each in peers] == [0, 0, 0]
        with pytest.raises(TimeoutError, match=r"nobody opened the .* listener"):
            listener.accept(timeout_s=0)
    assert not left_in(names_folder)


def test_a_listener_accepts_in_the_asyncio_face(carrier: Subject, names_folder: Path) -> None:
    async def main() -> bytes:
        with (
            ipc.listen(carrier.kind, new_name(carrier)) as listener,
            peer("send", listener.address or "orders"),
        ):
            with await listener.aio.accept() as channel:
                first = await channel.aio.receive()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await listener.aio.accept()
            waiting = asyncio.create_task(listener.aio.accept())
            await asyncio.sleep(0)
            listener.close()
            with pytest.raises(ipc.ChannelClosed, match="is closed"):
                await waiting
            return first

    assert asyncio.run(main()) == b"0"
    assert not left_in(names_folder)


def test_who_opens_a_listener_that_is_killed_notices(carrier: Subject, names_folder: Path) -> None:
    with peer("listen", new_name(carrier), carrier.kind) as other:
        name = said(other)
        with ipc.open(name, timeout_s=PATIENCE_S) as channel:
            other.send_signal(signal.SIGKILL)
            with pytest.raises(ipc.PeerGone, match="died without closing it"):
                channel.receive(timeout_s=PATIENCE_S)


def test_an_end_that_came_by_name_goes_on_to_another_process(carrier: Subject, names_folder: Path) -> None:
    with ipc.create(carrier.kind, new_name(carrier)) as mailbox:
        sender = ipc.open(mailbox.address or "orders")
        script = "import sys; from underlay import ipc; ipc.inherit(sys.argv[1]).send(b'child')"
        with subprocess.Popen(
            [sys.executable, "-c", script, sender.argument()],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            pass_fds=sender.descriptors,
        ):
            sender.close()
            assert list(mailbox) == [b"child"]


def _creates_and_goes_on(kind: str, name: str, role: Literal["receiver", "sender"]) -> None:
    with ipc.create(kind, name, role=role, replace=True) as channel:
        _goes_on(channel)


def _opens_and_goes_on(name: str) -> None:
    with ipc.open(name, timeout_s=PATIENCE_S) as channel:
        _goes_on(channel)


def _goes_on(channel: ipc.Channel, timeout_s: float | None = None) -> None:
    while True:
        if channel.can_send:
            channel.send(b"more", timeout_s=timeout_s)
        else:
            assert channel.receive(timeout_s=timeout_s) == b"more"


def _killed_around_the_meeting(carrier: Subject, seed: int) -> None:
    chance = random.Random(seed)
    role: Literal["receiver", "sender"] = chance.choice(["receiver", "sender"])
    name = "orders"
    if carrier.kind == "tcp":
        with ipc.listen("tcp", "127.0.0.1:0") as listener:
            name = listener.address or ""
    with contextlib.ExitStack() as stack:
        mine: ipc.Channel | None = None
        if chance.choice(["creator", "opener"]) == "creator":
            child = stack.enter_context(process("fork", _creates_and_goes_on, carrier.kind, name, role))
        else:
            mine = stack.enter_context(ipc.create(carrier.kind, name, role=role, replace=True))
            child = stack.enter_context(process("fork", _opens_and_goes_on, name))
        assert child.pid is not None
        killer = threading.Timer(chance.uniform(0, 0.05), os.kill, (child.pid, signal.SIGKILL))
        killer.start()
        try:
            if mine is None:
                mine = stack.enter_context(ipc.open(name, timeout_s=0.2))
            _goes_on(mine, timeout_s=0.2)
        except (ipc.PeerGone, ipc.EndOfMessages, ipc.StaleName, ipc.NoSuchName):
            pass
        except TimeoutError:
            # Who is killed before it came is never known of; one who came is.
            killer.join()
            if mine is not None and not mine._life.alone:
                with pytest.raises((ipc.PeerGone, ipc.EndOfMessages)):
                    _goes_on(mine, timeout_s=PATIENCE_S)
        finally:
            killer.join()


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_around_the_meeting_hangs_nobody(carrier: Subject, seed: int) -> None:
    _killed_around_the_meeting(carrier, seed)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_hundred_kills_around_the_meeting_hang_nobody(carrier: Subject) -> None:
    for seed in range(100):
        _killed_around_the_meeting(carrier, seed)
