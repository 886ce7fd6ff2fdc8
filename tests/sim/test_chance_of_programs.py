"""What a program draws from, and takes for unique: of the host and the seed, in every run the same."""

from __future__ import annotations

import asyncio
import os
import platform
import random
import secrets
import socket
import ssl
import uuid
from collections.abc import Awaitable, Callable
from os import urandom as early_urandom
from random import randint as early_randint
from random import random as early_random
from uuid import uuid4 as early_uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.sim import World


def reseeded() -> random.Random:
    rng = random.Random(1)
    rng.seed()
    return rng


DRAWS: dict[str, Callable[[], object]] = {
    "random": lambda: random.random(),
    "early random": lambda: early_random(),
    "randint": lambda: early_randint(1, 1 << 60),
    "choice": lambda: random.choice(range(1 << 60)),
    "gauss": lambda: random.gauss(0, 1),
    "randbytes": lambda: random.randbytes(8),
    "Random()": lambda: random.Random().random(),
    "Random().seed()": lambda: reseeded().random(),
    "SystemRandom": lambda: random.SystemRandom().random(),
    "uuid1": lambda: uuid.uuid1(),
    "uuid4": lambda: uuid.uuid4(),
    "early uuid4": lambda: early_uuid4(),
    "urandom": lambda: os.urandom(8),
    "early urandom": lambda: early_urandom(8),
    "getrandom": lambda: os.getrandom(8),
    "RAND_bytes": lambda: ssl.RAND_bytes(8),
    "token_bytes": lambda: secrets.token_bytes(),
    "token_hex": lambda: secrets.token_hex(),
    "randbelow": lambda: secrets.randbelow(1 << 60),
}


def test_what_a_program_asks_of_its_machine_is_the_same_on_all_machines() -> None:
    def asked() -> object:
        return platform.node(), os.uname().nodename, os.cpu_count(), len(os.sched_getaffinity(0)), os.getppid()

    assert drawn(1, asked, "db") == ("db", "db", 4, 4, 1)
    assert "db" not in (platform.node(), os.uname().nodename)


def run(test: Callable[[World], Awaitable[object]], seed: int = 1) -> object:
    return World(seed).run(test)  # type: ignore[arg-type]


def drawn(seed: int, draw: Callable[[], object], host: str = "a") -> object:
    async def test(world: World) -> object:
        async with world.host(host):
            return draw()

    return run(test, seed)


@pytest.mark.parametrize("name", DRAWS)
def test_chance_is_of_the_seed_and_of_the_host(name: str) -> None:
    draw = DRAWS[name]
    assert drawn(1, draw) == drawn(1, draw)
    if name != "uuid1":
        assert drawn(1, draw) != drawn(2, draw)
    assert drawn(1, draw) != drawn(1, draw, "b") or name == "uuid1"


def test_two_hosts_and_two_moments_have_uuids_of_their_own() -> None:
    async def test(world: World) -> object:
        found = []
        for name in ("a", "b"):
            async with world.host(name):
                found += [uuid.uuid1(), uuid.uuid1(), uuid.uuid4(), uuid.uuid4()]
        return found

    found = run(test)
    assert isinstance(found, list)
    assert len(set(found)) == 8
    assert found[0].version == 1 and found[0].node != found[4].node
    assert found == run(test)


def test_a_program_that_seeds_random_does_so_for_its_host_alone() -> None:
    async def test(world: World) -> object:
        found = []
        for name in ("a", "b"):
            async with world.host(name):
                if name == "a":
                    random.seed(7)
                found.append(random.random())
        return found

    found = run(test)
    assert isinstance(found, list)
    assert found[0] == random.Random(7).random() != found[1]


def test_a_seed_of_random_makes_no_key_predictable() -> None:
    def draw() -> object:
        random.seed(7)
        return os.urandom(8)

    assert drawn(1, draw) != drawn(2, draw)


def test_a_program_that_was_started_again_draws_anew() -> None:
    found: list[object] = []

    async def program() -> None:
        found.append((random.random(), os.urandom(4), os.getpid()))
        await asyncio.sleep(3600)

    async def test(world: World) -> None:
        host = world.host("a", start=program)
        await asyncio.sleep(1)
        host.crash()
        host.restart()
        await asyncio.sleep(1)

    run(test)
    assert len(found) == 2
    first, second = found
    assert isinstance(first, tuple) and isinstance(second, tuple)
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_who_a_program_is_depends_on_its_host() -> None:
    async def test(world: World) -> object:
        found = []
        for name in ("a", "b"):
            async with world.host(name):
                found.append((socket.gethostname(), os.getpid(), uuid.getnode()))
        return found

    found = run(test)
    assert isinstance(found, list)
    assert [name for name, _, _ in found] == ["a", "b"]
    assert len({pid for _, pid, _ in found} | {os.getpid()}) == 3
    assert found == run(test)


def test_chance_outside_of_a_world_is_left_alone() -> None:
    random.seed(3)
    first = random.random()
    random.seed(3)
    drawn(1, lambda: random.seed(9))
    assert random.random() == first
    assert socket.gethostname() != "a"


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3))
def test_hypothesis_and_worlds_do_not_disturb_each_other(seed: int) -> None:
    assert drawn(seed, lambda: random.random()) == drawn(seed, lambda: early_random())
