"""The rooms that can be compiled do, compiled, what their source does.

It knows how they are compiled; the tests of the rooms and channels run on the compiled form by `make test-compiled`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conformance.channel_subjects import NAMED, PATIENCE_S, Subject

from underlay import ipc

WORLD = """
import asyncio
from underlay.sim import World
from underlay.stack import _tcp_layer
from underlay.wire import _tcp

async def echo(reader, writer):
    writer.write(await reader.readline())
    writer.close()

async def serve():
    async with await asyncio.start_server(echo, port=7) as server:
        await server.serve_forever()

async def test(world):
    world.host("server", start=serve)
    async with world.host("client"):
        await asyncio.sleep(1)
        reader, writer = await asyncio.open_connection("server", 7)
        writer.write(b"by machine code\\n")
        answer = await reader.read()
        writer.close()
        return answer, round(world.now, 6)

print([module.__file__.endswith(".so") for module in (_tcp_layer, _tcp)], World(1, loss=0.1).run(test))
"""

CHANNELS = """
import asyncio
import os
from underlay import ipc
from underlay.ipc import _channel, _ring

def told(work):
    try:
        return work()
    except Exception as error:
        return type(error).__name__, str(error)

def program(kind, terms):
    most = terms.max_message_bytes
    sizes = [size for size in (0, 7, 64, 5000, 200_000) if size <= most]
    here, there = ipc.pair(kind)
    if not os.fork():
        here.close()
        for size in sizes:
            there.send(bytes([size % 251]) * size)
        there.close()
        os._exit(0)
    there.close()
    lengths = [len(message) for message in here]
    counted = here.statistics()
    yield lengths, counted.messages_received, counted.bytes_received
    here.close()
    os.wait()
    receiver, sender = ipc.pair(kind)
    with receiver, sender:
        yield told(lambda: receiver.receive(timeout_s=0))
        for wrong in ("x", None, 2**70, True):
            yield told(lambda: sender.send(b"1", priority=wrong))
        for wrong in ("1", float("nan"), -(10**400), b"", -1, True):
            yield told(lambda: receiver.receive(timeout_s=wrong))
        for wrong in ("text", 5, bytes(most + 1) if most < 1 << 20 else [], memoryview(b"12345678")[::2]):
            yield told(lambda: sender.send(wrong))
        yield told(lambda: sender.send_many([b"2", bytearray(b"3"), memoryview(b"4")]))
        yield told(lambda: receiver.receive_many(9))
        asyncio.run(sender.aio.send(b"5"))
        yield asyncio.run(receiver.aio.receive())
        yield told(lambda: receiver.send(b""))
    yield told(receiver.receive), told(lambda: sender.send(b""))

print([module.__file__.endswith(".so") for module in (_channel, _ring)])
for kind in ipc.KINDS:
    with ipc.pair(kind)[0] as end:
        terms = end.terms
    for line in program(kind, terms):
        print(kind, line)
"""


# A process that has the compiled form, and does what `named_peer` does.
PEER = """
import sys
from underlay.ipc import _channel
from tests.conformance.named_peer import main
assert _channel.__file__.endswith(".so")
main(*sys.argv[1:])
"""


@pytest.fixture(scope="module")
def compiled(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The source with that group compiled; it takes a minute, so once for all tests."""
    return functools.cache(lambda group: _compiled(root, tmp_path_factory.mktemp(group), group))


def _compiled(root: Path, folder: Path, group: str) -> Path:
    for package in ("mypyc", "setuptools"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed, which compiles; remedy: pip install {package}")
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler here")
    spec = importlib.util.spec_from_file_location("hatch_build", root / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    hatch_build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hatch_build)
    copy = folder / "src"
    shutil.copytree(root / "src", copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    made = hatch_build.compile_in(copy, [group])
    assert len(made) == len(hatch_build.sources(group)) + 1
    return copy


def printed(program: str, source: Path) -> str:
    """What a program prints on that form of the source."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_group_that_is_not_there_is_refused_before_anything_is_compiled(root: Path, tmp_path: Path) -> None:
    script = shutil.copy(root / "hatch_build.py", tmp_path)  # beside no source: what is not refused fails otherwise
    for groups in (["chanels"], ["underlay_channels", "chanels"]):
        done = subprocess.run([sys.executable, script, *groups], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr == "hatch_build.py: there is no group 'chanels', but underlay and underlay_channels\n"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("group", "program", "begins"),
    [
        pytest.param("underlay", WORLD, " (b'by machine code", id="a world"),
        pytest.param("underlay_channels", CHANNELS, "\n", id="channels"),
    ],
)
def test_what_is_compiled_does_and_says_what_its_source_does(
    root: Path, tmp_path: Path, compiled: Callable[[str], Path], group: str, program: str, begins: str
) -> None:
    source = tmp_path / "src"  # where `make compiled` may have been is no place for it
    shutil.copytree(root / "src", source, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    plain = printed(program, source)
    assert plain.startswith("[False, False]" + begins)
    assert printed(program, compiled(group)) == plain.replace("[False, False]", "[True, True]")


@pytest.fixture
def names_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ipc-") as folder:  # a Unix socket's path is short
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("carrier", NAMED, ids=str)
def test_a_compiled_end_and_a_plain_one_understand_each_other(
    carrier: Subject, root: Path, compiled: Callable[[str], Path], names_folder: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(compiled("underlay_channels")), str(root)])}
    new = "127.0.0.1:0" if carrier.kind == "tcp" else "orders"

    @contextlib.contextmanager
    def peer(*words: str) -> Iterator[Callable[[], str]]:
        command = [sys.executable, "-c", PEER, *words]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as started:
            assert started.stdout is not None
            try:
                yield lambda: started.stdout.readline().strip()  # type: ignore[union-attr]
            finally:
                started.kill()

    with ipc.create(carrier.kind, new) as mailbox, peer("send", mailbox.address or new):
        first = mailbox.receive(timeout_s=PATIENCE_S)
        assert [first, *mailbox] == [b"%d" % number for number in range(100)]
    with peer("create", new, carrier.kind) as said, ipc.open(said(), timeout_s=PATIENCE_S) as channel:
        sizes = [size for size in (0, 1, 100) if size <= channel.terms.max_message_bytes]
        for size in sizes:
            channel.send(bytes(size), timeout_s=PATIENCE_S)
        assert [said() for _ in sizes] == [str(size) for size in sizes]
