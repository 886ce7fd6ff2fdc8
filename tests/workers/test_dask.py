"""What the kind ``dask`` has besides: clusters of one's own, and what strangers cannot do."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.conformance import executor_subjects as work
from tests.conformance.executor_subjects import PATIENCE_S, until

from underlay import workers
from underlay.errors import UsageError

distributed = pytest.importorskip(
    "distributed", reason="Dask is not installed; remedy: pip install 'underlay[workers]'"
)
pytestmark = pytest.mark.threads


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster as people start one: two workers in processes of their own."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    ) as made:
        yield made


def test_a_scheduler_that_runs_already_is_used_and_left_running(cluster: Any) -> None:
    for _ in range(2):
        with workers.executor("dask", address=cluster.scheduler_address) as executor:
            pids = set(executor.map(lambda _: os.getpid(), range(4)))
            assert os.getpid() not in pids
    assert len(cluster.scheduler.workers) == 2


def test_a_client_of_ones_own_stays_open(cluster: Any) -> None:
    with distributed.Client(cluster, set_as_default=False) as client:
        with workers.executor("dask", client=client) as executor:
            assert executor.submit(lambda: 42).result(PATIENCE_S) == 42
        assert client.submit(abs, -1).result() == 1


def test_equal_calls_are_not_merged_on_a_cluster_of_ones_own(cluster: Any, tmp_path: Path) -> None:
    with workers.executor("dask", address=cluster.scheduler_address) as executor:
        for each in [executor.submit(work.append, tmp_path / "log", "same") for _ in range(4)]:
            each.result(PATIENCE_S)
    assert (tmp_path / "log").read_text() == "same\n" * 4


CLUSTER_OF_ONE = """
import asyncio, distributed

async def main():
    async with distributed.Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as scheduler:
        async with distributed.Worker(scheduler.address, nthreads=1, dashboard_address="127.0.0.1:0"):
            print(scheduler.address, flush=True)
            await scheduler.finished()
asyncio.run(main())
"""


def test_a_scheduler_that_is_killed_breaks_the_executor(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER_OF_ONE],
        env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as scheduler:
        assert scheduler.stdout is not None
        executor = workers.executor("dask", address=scheduler.stdout.readline().strip())
        assert executor.submit(abs, -1).result(PATIENCE_S) == 1
        gate, waiting = executor.submit(work.gate, tmp_path), executor.submit(work.echo, 1)
        until(lambda: bool(list(tmp_path.glob("began-*"))), "the call has begun")
        scheduler.kill()
    for each in (gate, waiting):
        with pytest.raises(BrokenExecutor):
            each.result(PATIENCE_S)
    executor.shutdown()


def test_a_scheduler_that_is_not_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("underlay.workers._dask._CONNECT_TIMEOUT_S", 0.5)
    with pytest.raises(workers.EngineUnavailable) as caught:
        workers.executor("dask", address="tcp://127.0.0.1:1")
    assert str(caught.value).startswith("no scheduler of Dask answers at tcp://127.0.0.1:1: ")
    assert str(caught.value).endswith("; start it, or leave address= out for one of this process")


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(UsageError, match="has an address already"):
        workers.executor("dask", client=object(), address="tcp://127.0.0.1:1")


def _listening(pid: int) -> set[str]:
    """The local addresses on which a process listens, as the kernel writes them."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            pass
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:  # 0A: TCP_LISTEN
                found.add(words[1].split(":")[0])
    return found


def test_all_of_it_listens_on_this_machine_alone_and_by_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = _listening(os.getpid())
    with workers.executor("dask", max_workers=1) as executor:
        worker = executor.submit(work.pid).result(PATIENCE_S)
        address = executor._pool._engine._cluster.scheduler_address  # type: ignore[attr-defined]
        assert address.startswith("tls://127.0.0.1:")
        loopback = "0100007F"
        assert _listening(os.getpid()) - before == {loopback} - before
        assert _listening(worker) == {loopback}
        (folder,) = tmp_path.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
        for stranger in (address.replace("tls", "tcp"), address):  # without TLS, and with a certificate of their own
            security = distributed.Security.temporary() if stranger == address else None
            with pytest.raises(OSError):
                distributed.Client(stranger, security=security, timeout=1, set_as_default=False)
    assert list(tmp_path.iterdir()) == []
