"""The chance that a program draws: ``random``, ``os.urandom``, ``secrets`` and ``uuid``, of its host and the seed.

This file knows which functions give chance, and what else a program takes for unique: its process's number and its
machine's name. It refuses to know what chance decides of the network (`World.rng_for` keeps them apart).

``random.seed(7)`` of a program is for its host alone. Keys that C libraries draw by themselves (OpenSSL's, numpy's
global state) are not of the seed; say ``numpy.random.seed`` in the program.
"""

from __future__ import annotations

import os
import platform
import random
import socket
import ssl
import sys
import uuid
from random import Random
from typing import TYPE_CHECKING, Any, Final

from . import _turn
from ._stand_ins import of_libraries, replace, replace_method

if TYPE_CHECKING:
    from ._host import Host
    from ._world import World

# Seconds and 100 ns between 1582-10-15, from which RFC 9562 (5.1) counts, and 1970.
_GREGORIAN_TICKS: Final = 0x01B21DD213814000
# Of each host, whatever the machine has that runs the tests: pools and shards are made by this number.
CPUS: Final = 4
# The numbers that Linux gives to processes soon after it has booted.
_FIRST_PID: Final = 1000


class Chance:
    """What one process on one host draws from; ``process`` tells it from others of its world."""

    def __init__(self, world: World, process: str, number: int, processes: int) -> None:
        self._world = world
        self._process = process
        self._random: Random | None = None
        self._entropy: Random | None = None
        self.pid: Final = _FIRST_PID + number * 10 + processes
        # A locally administered address (IEEE 802-2014, 8.4), one for each host.
        self.node: Final = 0x02_00_00_00_00_00 | number
        self.last_uuid_ticks = 0

    @property
    def random(self) -> Random:
        """Behind the functions of ``random``; a program may seed it."""
        if self._random is None:
            self._random = self._world.rng_for(f"random of {self._process}")
        return self._random

    @property
    def entropy(self) -> Random:
        """Behind ``os.urandom`` and what is made of it; nobody seeds it."""
        if self._entropy is None:
            self._entropy = self._world.rng_for(f"entropy of {self._process}")
        return self._entropy


def _urandom(host: Host, size: int, /) -> bytes:
    if size < 0:
        raise ValueError("negative argument not allowed")
    return host.chance.entropy.randbytes(size)


def _getrandom(host: Host, size: int, flags: int = 0) -> bytes:
    return _urandom(host, size)


def _seed(host: Host, original: Any, self: random.Random, a: Any = None, version: int = 2) -> None:
    """``Random()`` and ``Random().seed()`` without a seed take one of the host's."""
    original(self, host.chance.entropy.getrandbits(256) if a is None else a, version)


def _function_of_random(name: str) -> Any:
    def inside(host: Host, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(host.chance.random, name)(*args, **kwargs)

    return inside


def _uuid1(host: Host, node: int | None = None, clock_seq: int | None = None) -> uuid.UUID:
    chance = host.chance
    ticks = int(host.clock.time_of_day() * 1e7) + _GREGORIAN_TICKS
    chance.last_uuid_ticks = ticks = max(ticks, chance.last_uuid_ticks + 1)
    sequence = chance.random.getrandbits(14) if clock_seq is None else clock_seq
    fields = (
        ticks & 0xFFFFFFFF,
        ticks >> 32 & 0xFFFF,
        ticks >> 48 & 0x0FFF,
        sequence >> 8 & 0x3F,
        sequence & 0xFF,
        chance.node if node is None else node,
    )
    return uuid.UUID(fields=fields, version=1)


def _pid(host: Host) -> int:
    return host.chance.pid


def _node(host: Host) -> int:
    return host.chance.node


def _host_name(host: Host) -> str:
    return host.name


def _parents_pid(host: Host) -> int:
    return 1


def _cpus(host: Host) -> int:
    return CPUS


def _affinity(host: Host, pid: int, /) -> set[int]:
    return set(range(CPUS))


def _uname(host: Host) -> os.uname_result:
    system, _, *rest = _real_uname()
    return os.uname_result((system, host.name, *rest))


def _platform(host: Host) -> platform.uname_result:
    real = _real_platform()
    result = platform.uname_result(real.system, host.name, real.release, real.version, real.machine)
    vars(result)["processor"] = ""  # else it is looked up by a process
    return result


_real_uname: Final = os.uname
_real_platform: Final = platform.uname


class OfALibrary(Random):
    """Stands for a ``Random()`` that a library made when it was imported, with a seed of the machine's: within a host's
    turn it is the host's ``random``.
    """

    def __init__(self, original: Random) -> None:
        self.original = original


def _method_of_a_library(name: str) -> Any:
    def method(self: OfALibrary, /, *args: Any, **kwargs: Any) -> Any:
        host = _turn.here()
        return getattr(self.original if host is None else host.chance.random, name)(*args, **kwargs)

    return method


for _name, _function in list(vars(random).items()):
    if getattr(_function, "__self__", None) is random._inst:
        setattr(OfALibrary, _function.__name__, _method_of_a_library(_function.__name__))
of_libraries(Random, OfALibrary)
for _name, _function in list(vars(random).items()):
    if getattr(_function, "__self__", None) is random._inst:
        replace(_function, _function_of_random(_name))
replace_method(random.Random, "seed", _seed)
replace(os.urandom, _urandom)
if hasattr(os, "getrandom"):
    replace(os.getrandom, _getrandom)
replace(uuid.uuid1, _uuid1)
replace(uuid.getnode, _node)
replace(os.getpid, _pid, without_arguments=True)
replace(os.getppid, _parents_pid, without_arguments=True)
replace(os.cpu_count, _cpus, without_arguments=True)
if sys.version_info >= (3, 13):
    replace(os.process_cpu_count, _cpus, without_arguments=True)
if hasattr(os, "sched_getaffinity"):
    replace(os.sched_getaffinity, _affinity)
if hasattr(os, "uname"):
    replace(os.uname, _uname, without_arguments=True)
replace(platform.uname, _platform, without_arguments=True)
replace(ssl.RAND_bytes, _urandom)
replace(socket.gethostname, _host_name, without_arguments=True)
