"""What the kind ``celery`` has besides: brokers, apps of one's own, signatures, and what strangers cannot do."""

from __future__ import annotations

import base64
import errno
import importlib
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.conformance import executor_subjects as work
from tests.conformance.executor_subjects import PATIENCE_S, until

from underlay import workers
from underlay.errors import UsageError
from underlay.workers._celery_folder import Folder
from underlay.workers._pickling import pack_call
from underlay.workers._signed import Forged, Seal, key_from

pytestmark = pytest.mark.threads

pytest.importorskip("celery", reason="Celery is not installed; remedy: pip install 'underlay[workers]'")

# An app as people write them, on a broker that needs no server; ours, since kombu's own loses messages.
APP = """
    import os
    from celery import Celery
    from underlay import workers
    from underlay.workers import _celery_folder

    _celery_folder.register()
    app = Celery("theirs", broker="underlay-folder://", set_as_current=False)
    app.conf.broker_transport_options = {"folder": os.environ["FOLDER"], "polling_interval": 0.01}
    app.conf.worker_hijack_root_logger = False
    app.conf.broker_connection_retry_on_startup = False
    workers.serve_celery(app, os.environ["KEY"])
    """


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An app of somebody's own, as a module that its workers import too."""
    name = f"app_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(APP))
    (tmp_path / "messages").mkdir()
    monkeypatch.setenv("FOLDER", str(tmp_path / "messages"))
    monkeypatch.setenv("KEY", str(tmp_path / "key"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return importlib.import_module(name).app


@contextmanager
def worker_of(app: Any, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker as people start them; it is ended when the test is done with it."""
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [str(folder), root, os.environ.get("PYTHONPATH")]))
    module = next(each.stem for each in folder.glob("app_*.py"))
    command = [sys.executable, "-m", "celery", "-q", "-A", module, "worker", "--pool=solo", "--loglevel=CRITICAL"]
    with subprocess.Popen(
        [*command, "--without-gossip", "--without-mingle"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def test_the_workers_of_an_app_of_ones_own_run_calls(app: Any, tmp_path: Path) -> None:
    with (
        worker_of(app, tmp_path) as worker,
        workers.executor("celery", app=app, key_file=tmp_path / "key", max_workers=1) as executor,
    ):
        assert executor.submit(lambda: os.getpid()).result(PATIENCE_S) == worker.pid
        with pytest.raises(ValueError, match="no"):
            executor.submit(work.raise_value_error, "no").result(PATIENCE_S)


def test_a_worker_of_an_app_that_falls_silent_is_seen(
    app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("underlay.workers._celery._SILENCE_S", 3.0)  # one sign of life is due each two seconds
    with (
        worker_of(app, tmp_path) as worker,
        workers.executor("celery", app=app, key_file=tmp_path / "key", max_workers=1) as executor,
    ):
        gate = executor.submit(work.gate, tmp_path)
        until(lambda: bool(list(tmp_path.glob("began-*"))), "the call has begun")
        worker.kill()
        with pytest.raises(BrokenExecutor, match="gave no sign of life for 3 s"):
            gate.result(PATIENCE_S)


def test_a_call_that_is_not_signed_is_not_opened(app: Any, tmp_path: Path) -> None:
    stranger = Seal(b"s" * 32)
    harm = pack_call(work.append, (tmp_path / "harm", "x"), {})
    with (
        worker_of(app, tmp_path),
        workers.executor("celery", app=app, key_file=tmp_path / "key", max_workers=1) as executor,
    ):
        arguments = ["1", stranger.close("call", "1", harm), "replies", False]
        app.send_task("underlay.workers.call", arguments, ignore_result=True, serializer="json")
        assert executor.submit(abs, -1).result(PATIENCE_S) == 1  # the worker goes on
    assert not (tmp_path / "harm").exists()


def test_the_folder_and_the_key_are_their_owners_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with workers.executor("celery", max_workers=1):
        (folder,) = tmp_path.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("broker", "shown"),
    [
        ("redis://127.0.0.1:1", "redis://127.0.0.1:1"),
        ("redis://:secret@127.0.0.1:1/0", "redis://:**@127.0.0.1:1/0"),
        ("amqp://guest:secret@127.0.0.1:1//", "amqp://guest:**@127.0.0.1:1//"),
    ],
)
def test_a_broker_that_is_not_there_is_one_clear_error(broker: str, shown: str) -> None:
    with pytest.raises(workers.EngineUnavailable) as caught:
        workers.executor("celery", broker=broker)
    remedy = "start it, or leave broker= out for a folder of this machine"
    assert str(caught.value) == f"no broker answers at {shown}: Connection refused; {remedy}"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("broker", "why"),
    [
        ("nonsense://x", "the broker's URL names none that Celery can use: No such transport: nonsense; write it as"),
        ("amqp://user:secret@[::1", "the broker's URL names none that Celery can use: it cannot be read; write it as"),
        ("amqp://user:secret/x@host//", "the broker's URL names none that Celery can use: it cannot be read; write"),
        ("", "'' is no URL of a broker; write it as in redis://host/0"),
        (5, "5 is no URL of a broker; write it as in redis://host/0"),
        ("memory://", "the broker memory:// is in the memory of this process, so the workers would not see it; leave"),
        ("filesystem://", "the broker filesystem:// is of folders that both ends must be told by other options, so"),
        ("underlay-folder://", "the broker underlay-folder:// is what the executor makes itself, so the workers would"),
    ],
)
def test_a_broker_that_cannot_be_is_one_sentence_without_the_password(broker: Any, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        workers.executor("celery", broker=broker)
    assert str(caught.value).startswith(why)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_answer_that_is_none_does_not_end_the_executor() -> None:
    with workers.executor("celery", max_workers=1) as executor:
        assert executor.submit(abs, -1).result(PATIENCE_S) == 1
        engine: Any = vars(executor)["_pool"]._engine
        bodies: list[object] = [[], {"id": "\ud800", "answer": "\ud800"}, {"id": {}, "answer": 5}, "text"]
        for body in bodies:
            with engine._app.producer_or_acquire() as producer:
                producer.publish(body, exchange="", routing_key=engine._replies, serializer="json")
        harm = {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
        for kind in (harm, {"content_type": "application/json", "content_encoding": "utf-8"}):
            with engine._app.producer_or_acquire() as producer:
                producer.publish(b"\x80 no message", exchange="", routing_key=engine._replies, **kind)
        assert executor.submit(abs, -2).result(PATIENCE_S) == 2


def test_options_that_do_not_go_together_are_refused(app: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no key"):
        workers.executor("celery", app=app)
    with pytest.raises(UsageError, match="has a broker already"):
        workers.executor("celery", app=app, broker="redis://localhost", key_file=tmp_path / "key")
    with pytest.raises(UsageError, match="are for the workers of an app="):
        workers.executor("celery", queue="other")


# --- signatures ---


def test_a_message_opens_only_for_what_it_was_closed_for() -> None:
    seal = Seal(b"k" * 32)
    closed = seal.close("call", "7", b"content")
    assert seal.open("call", "7", closed) == b"content"
    whole = base64.b64decode(closed)
    # The same bytes parted elsewhere: after the signature, what was content is now of the id.
    parted = base64.b64encode(whole[:32] + b"tent").decode()
    zero = base64.b64decode(seal.close("call", "7", b"con\0tent"))
    changed = closed[:-2] + ("A" if closed[-2] != "A" else "B") + closed[-1]
    for purpose, call_id, text, key in [
        ("answer", "7", closed, b"k" * 32),
        ("call", "8", closed, b"k" * 32),
        ("call", "7", closed, b"o" * 32),
        ("call", "7", changed, b"k" * 32),
        ("call", "7con", parted, b"k" * 32),
        ("call", "7\0con", base64.b64encode(zero[:32] + b"tent").decode(), b"k" * 32),
        ("call", "7", "", b"k" * 32),
        ("call", "7", "no base64", b"k" * 32),
        ("call", "7", "é", b"k" * 32),
    ]:
        with pytest.raises(Forged):
            Seal(key).open(purpose, call_id, text)


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "key"
    key = key_from(file)
    assert len(key) == 32
    assert key_from(file) == key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    with pytest.raises(UsageError, match=r"is open to others than its owner; `chmod 600 "):
        key_from(file)
    file.chmod(0o600)
    file.write_bytes(b"short")
    with pytest.raises(UsageError, match="holds 5 bytes, and a key has 32"):
        key_from(file)


def test_a_key_that_finds_no_room_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(size: int) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("underlay.workers._signed.secrets.token_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        key_from(tmp_path / "key")
    assert list(tmp_path.iterdir()) == []


# --- a folder as a broker ---


def test_messages_of_a_folder_are_taken_once_in_their_order(tmp_path: Path) -> None:
    one, other = Folder(str(tmp_path)), Folder(str(tmp_path))
    for number in range(5):
        one.put("a", str(number))
    one.put("b", "apart")
    assert one.size("a") == 5
    assert [each.get("a") for each in (one, other, one, other, one, other)] == ["0", "1", "2", "3", "4", None]
    assert one.purge("b") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_has_no_messages(tmp_path: Path) -> None:
    assert Folder(str(tmp_path / "gone")).get("a") is None


def test_many_processes_take_each_message_once(tmp_path: Path) -> None:
    messages = tmp_path / "messages"
    messages.mkdir()
    take: Callable[[str, int], str] = lambda path, most: "".join(  # noqa: E731
        f"{each} " for each in iter(lambda: Folder(path).get("a"), None)
    )
    folder = Folder(str(messages))
    for number in range(300):
        folder.put("a", str(number))
    with workers.executor("process", max_workers=3) as executor:
        taken = [executor.submit(take, str(messages), 300) for _ in range(3)]
        numbers = [int(each) for one in taken for each in one.result(PATIENCE_S).split()]
    assert sorted(numbers) == list(range(300))


def test_an_executor_that_can_start_no_thread_says_so_and_is_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "underlay-celery-answers":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    why = "no worker could be started: can't start new thread"
    with workers.executor("celery") as executor, pytest.raises(BrokenExecutor, match=why):
        executor.submit(work.echo, 1).result(PATIENCE_S)
