"""The recipe of docs/sim.md for a cluster, run as it stands there, with any executor and with Dask's where it is."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sim.md"

FAKE_DASK = """
# What the recipe needs of distributed, by a pool of processes of this machine.
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

class Client:
    def __init__(self, address):
        assert address == "tcp://scheduler:8786"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def get_executor(self):
        return ProcessPoolExecutor(2, mp_context=get_context("spawn"))
"""

REAL_DASK = """
import test_orders
from night import night
from distributed import Client, LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        with client.get_executor() as executor:
            night(executor, 40)
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run Python in a folder with the files of the recipe."""
    for name, text in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text.replace("1_000_000", "40"))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
        )

    return run


LINES = [f"pytest test_orders.py::test_orders --underlay-seed {seed}" for seed in (13, 17)]


def test_the_page_has_the_three_files(run: Run, tmp_path: Path) -> None:
    assert sorted(file.name for file in tmp_path.iterdir()) == ["conftest.py", "night.py", "test_orders.py"]


def test_a_night_finds_all_that_fail(run: Run, tmp_path: Path) -> None:
    (tmp_path / "distributed.py").write_text(FAKE_DASK)
    done = run("night.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == LINES
    assert done.stderr.splitlines()[-1] == "40 seeds, 2 failed"


def test_a_night_needs_no_more_than_an_executor(run: Run) -> None:
    code = (
        "import night, concurrent.futures as f\nwith f.ThreadPoolExecutor(1) as e: assert night.night(e, 40).failures"
    )
    done = run("-c", code)
    assert done.stdout.splitlines() == LINES, done.stderr


def test_pytest_uses_the_executor_of_a_conftest(run: Run, tmp_path: Path) -> None:
    (tmp_path / "distributed.py").write_text(FAKE_DASK)
    plugin = [] if _is_installed() else ["-p", "underlay.sim._plugin"]
    done = run("-m", "pytest", *plugin, "-p", "no:cacheprovider", "--underlay-seeds=40", "test_orders.py")
    assert LINES[0] in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="Dask is not installed; remedy: pip install distributed"
)
def test_a_night_on_dask(run: Run, tmp_path: Path) -> None:
    (tmp_path / "dasks.py").write_text(REAL_DASK)
    done = run("dasks.py")
    assert done.stdout.splitlines() == LINES, done.stderr


def _is_installed() -> bool:
    from importlib.metadata import entry_points

    return any(each.value == "underlay.sim._plugin" for each in entry_points(group="pytest11"))
