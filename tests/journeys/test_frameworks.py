"""A model is named where a framework asks for a loop, and the framework's own client is served.

It knows the one line that each framework wants: `uvicorn --loop`, `asyncio.Runner(loop_factory=…)`,
anyio's backend options, the hooks of the two pytest plugins. Programs that name no loop, and are
put on one by `underlay run`, stand in test_examples.py.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import underlay.loop

from . import _clients
from ._programs import MODELS, PATIENCE_S, ROOT, need

ON_RUNNER = """
import asyncio
import sys

import underlay.loop


async def main() -> None:
    async def upper(reader, writer):
        writer.write((await reader.read()).upper())
        writer.close()

    server = await asyncio.start_server(upper, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello" * 100_000)
    writer.write_eof()
    assert await reader.read() == b"HELLO" * 100_000
    writer.close()
    await writer.wait_closed()
    server.close()
    print(type(asyncio.get_running_loop()).__module__)


with asyncio.Runner(loop_factory=getattr(underlay.loop, sys.argv[1])) as runner:
    runner.run(main())
"""

TORNADO_ON_RUNNER = """
import asyncio
import sys

import tornado.httpclient
import tornado.web

import underlay.loop


class Upper(tornado.web.RequestHandler):
    def post(self):
        self.write(self.request.body.upper())


async def main() -> None:
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    server = tornado.httpserver.HTTPServer(tornado.web.Application([("/", Upper)]))
    server.add_sockets(sockets)
    url = "http://127.0.0.1:{}/".format(sockets[0].getsockname()[1])
    client = tornado.httpclient.AsyncHTTPClient()
    asked = [client.fetch(url, method="POST", body=b"x%d" % n) for n in range(5)]
    assert [answer.body for answer in await asyncio.gather(*asked)] == [
        b"X%d" % n for n in range(5)
    ]
    client.close()
    server.stop()
    await server.close_all_connections()
    print(type(asyncio.get_running_loop()).__module__)


with asyncio.Runner(loop_factory=getattr(underlay.loop, sys.argv[1])) as runner:
    runner.run(main())
"""

ON_ANYIO = """
import asyncio
import sys

import anyio
import underlay.loop


async def main() -> None:
    async def echo(stream):
        async with stream:
            async for data in stream:
                await stream.send(data)

    async def ask(port, number):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            for _ in range(20):
                await stream.send(b"client %d" % number)
                assert await stream.receive() == b"client %d" % number

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as servers:
            servers.start_soon(listener.serve, echo)
            async with anyio.create_task_group() as clients:
                for number in range(5):
                    clients.start_soon(ask, port, number)
            servers.cancel_scope.cancel()
    async with await anyio.open_process(["cat"]) as child:
        await child.stdin.send(b"through a child")
        await child.stdin.aclose()
        assert await child.stdout.receive() == b"through a child"
    print(type(asyncio.get_running_loop()).__module__)


anyio.run(main, backend_options={"loop_factory": getattr(underlay.loop, sys.argv[1])})
"""

CONFTEST = """
import pytest

import underlay.loop

MODELS = {models!r}


def pytest_asyncio_loop_factories(config, item):
    return {{model: getattr(underlay.loop, model) for model in MODELS}}


@pytest.fixture(params=MODELS)
def anyio_backend(request):
    return "asyncio", {{"loop_factory": getattr(underlay.loop, request.param)}}
"""

TESTS = """
import asyncio

import pytest


async def echoes():
    async def echo(reader, writer):
        writer.write(await reader.read())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello")
    writer.write_eof()
    assert await reader.read() == b"hello"
    writer.close()
    await writer.wait_closed()
    server.close()
    assert type(asyncio.get_running_loop()).__module__.startswith("underlay.loop")


@pytest.mark.asyncio
async def test_with_pytest_asyncio():
    await echoes()


@pytest.mark.anyio
async def test_with_anyio():
    await echoes()
"""


def run(*words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run this Python with every warning an error; print what it said, for a failure's sake."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    print(done.stdout, done.stderr)
    return done


@pytest.mark.parametrize("model", underlay.loop.MODELS)
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(ON_RUNNER, id="asyncio.Runner"),
        pytest.param(TORNADO_ON_RUNNER, id="Tornado"),
        pytest.param(ON_ANYIO, id="anyio"),
    ],
)
def test_a_factory_is_all_that_it_takes(program: str, model: str) -> None:
    need(model)
    done = run("-c", program, model)
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.startswith("underlay.loop.")


@pytest.mark.parametrize("model", MODELS)
def test_uvicorn_takes_a_model_as_its_loop(model: str) -> None:
    need(model)
    loop = "asyncio" if model == "standard" else f"underlay.loop:{model}"
    words = ["-m", "uvicorn", "examples.asgi_app:app", "--loop", loop, "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", *words, "--no-access-log"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"running on http://([\d.]+):(\d+)", line):
                break
        else:
            pytest.fail("uvicorn ended instead of listening")

        async def travel() -> None:
            async with asyncio.timeout(PATIENCE_S):
                async with _clients.http_by_httpx((found[1], int(found[2]))):
                    process.send_signal(signal.SIGTERM)
                    _, said = await asyncio.to_thread(process.communicate)
                    assert [text for text in said.splitlines() if "INFO:" not in text] == []

        asyncio.run(travel())
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert process.returncode == -signal.SIGTERM  # uvicorn raises it again when it has finished


def test_both_pytest_plugins_run_each_test_on_each_model(tmp_path: Path) -> None:
    models = [row.name for row in underlay.loop.models() if row.available]
    (tmp_path / "conftest.py").write_text(CONFTEST.format(models=models))
    (tmp_path / "test_echo.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = strict\nasyncio_default_fixture_loop_scope = function\n"
    )
    done = run("-m", "pytest", "-p", "no:cacheprovider", "-q", "test_echo.py", cwd=tmp_path)
    assert f"{2 * len(models)} passed" in done.stdout
    assert done.returncode == 0
