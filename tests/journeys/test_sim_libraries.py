"""Popular libraries, unmodified, on simulated hosts that lose 1 % of what they send and have 5 ms of jitter.

It knows how many seeds each is run on, and that a seed gives the same packets in every process. The programs are in
``_sim_libraries.py``.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from underlay.trace import read_pcapng

from ._programs import PATIENCE_S, ROOT
from ._sim_libraries import PAIRS, Pair, play

# In the normal run so many seeds that it stays a matter of seconds; what a release is held to is the 200.
FEW, MANY = 10, 200
EACH = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)


@EACH
def test_a_library_works_unmodified_on_a_bad_network(pair: Pair) -> None:
    for seed in range(FEW):
        play(pair, seed)


@pytest.mark.long
@pytest.mark.timeout(900)
@EACH
def test_a_library_works_unmodified_on_200_bad_networks(pair: Pair) -> None:
    for seed in range(FEW, MANY):
        play(pair, seed)


HASH_SEEDS = ("0", "1", "4711")


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One seed of each, in as many processes as there are hash seeds; the captures lie in folders of these names."""
    top = tmp_path_factory.mktemp("replayed")
    running = []
    for hash_seed in HASH_SEEDS:
        (top / hash_seed).mkdir()
        command = [sys.executable, "-m", "tests.journeys._sim_libraries", "7", str(top / hash_seed)]
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": paths}
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment))
    assert [child.wait(PATIENCE_S) for child in running] == [0] * len(HASH_SEEDS)
    return top


# TLS is not among them: OpenSSL draws its keys from the real machine.
@pytest.mark.parametrize("name", [pair.name for pair in PAIRS if pair.name != "TLS"])
def test_a_seed_gives_the_same_packets_in_every_process(name: str, replayed: Path) -> None:
    files = [replayed / hash_seed / f"{name}.pcapng" for hash_seed in HASH_SEEDS]
    _, frames = read_pcapng(files[0])
    assert len(frames) > 50
    assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in files}) == 1
