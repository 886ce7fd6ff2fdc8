"""A smaller path MTU is believed for a while, for a bounded number of destinations, and within reason."""

from __future__ import annotations

import pytest

from underlay.stack import HostConfig
from underlay.stack._host_config import Drops
from underlay.stack._path_mtu import PathMtuCache, next_plateau

THERE = b"\x0a\0\0\2"


def cache_of(entries: int = 4) -> tuple[PathMtuCache, Drops]:
    drops = Drops()
    return PathMtuCache(HostConfig(path_mtu_entries=entries, path_mtu_timeout_s=600.0), drops), drops


def test_only_what_changes_something_is_news() -> None:
    cache, _ = cache_of()
    assert cache.lower(THERE, 1400, 0.0)
    assert not cache.lower(THERE, 1400, 1.0)
    assert not cache.lower(THERE, 1450, 2.0)
    assert cache.get(THERE, 3.0) == (1400, 601.0)
    assert cache.lower(THERE, 1300, 4.0)
    assert cache.get(THERE, 604.0) is None
    assert cache.lower(THERE, 1450, 605.0)


def test_the_oldest_destination_gives_way() -> None:
    cache, drops = cache_of(2)
    for number in range(3):
        cache.lower(bytes([10, 0, 0, number]), 1400, 0.0)
    assert len(cache) == 2
    assert cache.get(bytes([10, 0, 0, 0]), 0.0) is None
    assert cache.get(bytes([10, 0, 0, 2]), 0.0) is not None
    assert drops == {"path_mtu.table_full": 1}


@pytest.mark.parametrize(
    ("size", "smaller"), [(65_535, 32_000), (1500, 1492), (1492, 1006), (69, 68), (68, 68), (20, 68)]
)
def test_the_next_plateau_is_smaller_than_what_did_not_pass(size: int, smaller: int) -> None:
    assert next_plateau(size) == smaller
