"""What libraries make when they are imported, before a world or within it: chance of their own, workers of threads."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from underlay.sim import World

ROOT = Path(__file__).resolve().parents[2]

LIBRARY = """
from random import Random

def mask(*, rng=Random(), more=[]):
    return rng.getrandbits(32)

class Writer:
    def __init__(self, rng=Random()):
        self.rng = rng
    def draw(self):
        return self.rng.random(), self.rng.choice(range(1000)), self.rng.gauss(0, 1), self.rng.randbytes(3)

OWN = Random()
"""
PROGRAM = """
import asyncio, random, sys
from underlay.sim import World
import library
MINE = random.Random(42)
first = MINE.random()
MINE.seed(42)

async def test(world):
    async with world.host("a"):
        return library.mask(), library.Writer().draw(), library.OWN.random(), library.OWN.getstate()[1][0]

async def seeded(world):
    async with world.host("a"):
        library.OWN.seed(7)
        return library.OWN.random()

async def mine(world):
    async with world.host("a"):
        return MINE.random()

print(World(1).run(test))
assert World(1).run(test) == World(1).run(test) != World(2).run(test)
assert World(1).run(seeded) == World(2).run(seeded) == random.Random(7).random()
assert World(1).run(mine) == first
outside = library.OWN.getstate()
World(1).run(test)
assert library.OWN.getstate() == outside and type(library.OWN) is random.Random
assert library.Writer().draw() != library.Writer().draw()
"""


def test_chance_that_a_library_made_for_itself_is_of_the_seed(tmp_path: Path) -> None:
    packages = tmp_path / "site-packages"
    packages.mkdir()
    (packages / "library.py").write_text(LIBRARY)
    drawn = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"PYTHONPATH": f"{ROOT / 'src'}:{packages}"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]


ANYIO = """
import asyncio, sys
from underlay.sim import World

async def test(world):
    async with world.host("a"):
        assert "anyio.to_thread" not in sys.modules
        import anyio.to_thread
        return await anyio.to_thread.run_sync(lambda: 5)

before = list(sys.meta_path)
assert World(1).run(test) == 5
assert sys.meta_path == before
"""


def test_workers_that_are_imported_within_a_world_are_none_either() -> None:
    subprocess.run([sys.executable, "-c", ANYIO], env={"PYTHONPATH": str(ROOT / "src")}, check=True, timeout=60)


def test_a_socket_may_be_made_inheritable_where_no_process_can_be_started() -> None:
    async def test(world: World) -> bool:
        async with world.host("a"):
            with socket.socket() as sock:
                assert not sock.get_inheritable()
                sock.set_inheritable(True)
                return sock.get_inheritable()

    assert World().run(test)
