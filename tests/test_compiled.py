"""The rooms that can be compiled do, compiled, what their source does.

It knows how they are compiled; the tests of the rooms themselves run on the compiled form by `make test-compiled`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
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


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_world_on_compiled_rooms_is_the_one_on_their_source(root: Path, tmp_path: Path) -> None:
    for package in ("mypyc", "setuptools"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed, which compiles; remedy: pip install {package}")
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler here")
    spec = importlib.util.spec_from_file_location("hatch_build", root / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    hatch_build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hatch_build)
    copy = tmp_path / "src"
    shutil.copytree(root / "src", copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))

    def run(source: Path) -> str:
        environment = {**os.environ, "PYTHONPATH": str(source)}
        command = [sys.executable, "-c", PROGRAM]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    plain = run(copy)
    assert plain.startswith("[False, False] (b'by machine code")
    made = hatch_build.compile_in(copy)
    assert len(made) == len(hatch_build.sources()) + 1
    assert run(copy) == plain.replace("[False, False]", "[True, True]")
