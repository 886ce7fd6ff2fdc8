"""Over links that lose, reorder, double and damage frames every byte arrives, and no slower than it did before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.stack._grid import CELLS, Cell, Transfer, measure, transfer

GOLDEN = Path(__file__).with_name("golden_loss_grid.json")
# A change of the code changes which frames are lost, and so each figure a little.
LEAST = 0.9


def cell(link: str) -> Cell:
    """Give a cell of the grid, by what its link does."""
    return next(each for each in CELLS if each.link == link)


def test_the_golden_table_has_each_cell_and_no_other() -> None:
    assert list(json.loads(GOLDEN.read_text())) == [each.name for each in CELLS]


@pytest.mark.parametrize("cell", CELLS, ids=[each.name for each in CELLS])
def test_goodput_has_not_fallen(cell: Cell) -> None:
    golden = json.loads(GOLDEN.read_text())[cell.name]["goodput_mbit_s"]
    now = measure(cell)  # it also compares every byte
    assert now.goodput_mbit_s >= LEAST * golden, (
        f"{cell.name}: {now.goodput_mbit_s:.3g} Mbit/s, but the golden table has {golden}; {now}. "
        "If it is meant so: make golden"
    )


def test_the_same_seed_gives_the_same_transfer() -> None:
    lossy = cell("5 % lost")
    assert transfer(lossy, 3) == transfer(lossy, 3) != transfer(lossy, 4)


def test_damage_is_found_by_checksums_and_repaired() -> None:
    done: Transfer = transfer(cell("1 % corrupted"), 1)
    assert done.drops["tcp.checksum"] > 0
    assert done.retransmitted_segments >= done.drops["tcp.checksum"]


def test_a_link_without_loss_makes_nobody_repeat_anything() -> None:
    short = Cell(0.0, 0.020, "cubic", 100_000, 1)  # it never fills the queue
    done = transfer(short, 1)
    assert (done.retransmitted_segments, done.timeouts, done.frames_lost) == (0, 0, 0)
