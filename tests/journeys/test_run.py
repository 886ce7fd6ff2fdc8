"""A server of any framework, started by `underlay run`, answers from the model that was named.

Each program below serves HTTP and answers with the class of the loop that it
runs on; a client asks it. The programs name no loop, or name another one, as
programs do. What `run` does for a program without a framework stands in
tests/loop/test_run.py; every example on every model, in test_examples.py.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LIMIT_S = 60  # a server that takes longer to answer, or to end, hangs
MODEL, ITS_LOOP = "poll", "PollLoop"  # not what auto takes, nor what any framework would

ASGI = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": type(asyncio.get_running_loop()).__name__.encode()})
"""

PROGRAMS = {
    "uvicorn": """
import sys, uvicorn
from asgi import app
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
""",
    "uvicorn asking for uvloop": """
import sys, uvicorn
from asgi import app
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", loop="uvloop")
""",
    "uvicorn asking for asyncio": """
import sys, uvicorn
from asgi import app
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", loop="asyncio")
""",
    "aiohttp": """
import asyncio, sys
from aiohttp import web

async def answer(request):
    return web.Response(text=type(asyncio.get_running_loop()).__name__)

app = web.Application()
app.router.add_get("/", answer)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
""",
    "tornado": """
import asyncio, sys
import tornado.ioloop, tornado.web

class Answer(tornado.web.RequestHandler):
    def get(self):
        self.write(type(asyncio.get_running_loop()).__name__)

tornado.web.Application([("/", Answer)]).listen(int(sys.argv[1]), "127.0.0.1")
tornado.ioloop.IOLoop.current().start()
""",
    "anyio": """
import asyncio, sys
import anyio

async def answer(stream):
    async with stream:
        await stream.receive()
        name = type(asyncio.get_running_loop()).__name__
        await stream.send(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + name.encode())

async def main():
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=int(sys.argv[1]))
    await listener.serve(answer)

anyio.run(main, backend_options={"use_uvloop": True})
""",
    "uvloop": """
import asyncio, sys
import uvloop

async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    name = type(asyncio.get_running_loop()).__name__
    writer.write(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + name.encode())
    await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

uvloop.run(main())
""",
}


@pytest.fixture
def port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
        return number


@contextmanager
def program(where: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a program on the model in a group of its own, and leave nothing of the group behind."""
    process = subprocess.Popen(
        [sys.executable, "-m", "underlay", "run", "--io", MODEL, *words],
        cwd=where,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def ask(process: subprocess.Popen[str], port: int) -> str:
    """Ask the server over a connection of its own until it answers, or is seen to fail."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=LIMIT_S) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            pass
        assert process.poll() is None, f"it ended with {process.returncode}: {process.communicate()[0]}"
        assert time.monotonic() < deadline, "it does not answer"
        time.sleep(0.02)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_framework_runs_on_the_model_and_ends_as_it_does_without(tmp_path: Path, port: int, name: str) -> None:
    for needed in re.findall("uvicorn|aiohttp|tornado|anyio|uvloop", PROGRAMS[name]):
        pytest.importorskip(needed)
    (tmp_path / "asgi.py").write_text(ASGI)
    (tmp_path / "server.py").write_text(PROGRAMS[name])
    with program(tmp_path, "server.py", str(port)) as process:
        assert ask(process, port) == ITS_LOOP
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT_S)
        plain = _status_after_ctrl_c_under_python(tmp_path, port)
        assert process.returncode == plain


def _status_after_ctrl_c_under_python(where: Path, port: int) -> int:
    process = subprocess.Popen(
        [sys.executable, "server.py", str(port)],
        cwd=where,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=LIMIT_S).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        return process.wait(LIMIT_S)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("options", [[], ["--workers", "2"], ["--reload"]], ids=" ".join)
def test_uvicorns_command_line_runs_on_the_model_in_each_of_its_processes(
    tmp_path: Path, port: int, options: list[str]
) -> None:
    pytest.importorskip("uvicorn")
    (tmp_path / "asgi.py").write_text(ASGI)
    words = ["-m", "uvicorn", "asgi:app", "--host", "127.0.0.1", "--port", str(port), *options]
    with program(tmp_path, *words) as process:
        assert ask(process, port) == ITS_LOOP
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        process.wait(LIMIT_S)


def test_a_program_that_starts_itself_again_keeps_the_model(tmp_path: Path, port: int) -> None:
    pytest.importorskip("tornado")
    server = PROGRAMS["tornado"].replace(
        "import tornado.ioloop", "import tornado.autoreload; tornado.autoreload.start(50)\nimport tornado.ioloop"
    )
    (tmp_path / "server.py").write_text(server)
    with program(tmp_path, "server.py", str(port)) as process:
        assert ask(process, port) == ITS_LOOP
        (tmp_path / "server.py").write_text(server.replace("__name__)", "__name__ + ' again')"))
        deadline = time.monotonic() + LIMIT_S
        while ask(process, port) != f"{ITS_LOOP} again":
            assert time.monotonic() < deadline, "it does not start again"
            # Tornado compares with the first time that it looked, which may be still to come.
            time.sleep(1)
            os.utime(tmp_path / "server.py")
