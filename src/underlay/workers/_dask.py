"""The kind ``dask``: a call is a task of Dask's scheduler, and runs in one of its workers.

Without an address the scheduler runs in this process, the workers are processes
that the executor starts, and all of them talk by TLS with certificates that only they have: a port of
a machine is open to everybody on it, and who can talk to Dask can run code there.

Each call has a name of its own, so Dask never takes two equal calls for one (``pure=False``). On a scheduler
of ours a call whose worker dies is not run again (``allowed-failures`` is 0); on another that is its own to say.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import uuid
from typing import Any

from ..errors import UsageError
from ._contract import EngineUnavailable, Kind, reason_of
from ._letters import Letters
from ._packages import package
from ._pickling import perform
from ._pool import PoolExecutor
from ._worker_process import WorkerProcess

__all__ = ["KIND", "make", "private_security", "require"]

KIND = Kind(
    "dask",
    runs_in="workers of Dask",
    parallel=True,
    crosses_machines=True,
    pickles=True,
    cancels_waiting=True,
    sees_death=True,
    needs="distributed, cryptography, cloudpickle",
)
# A scheduler answers its greeting within a round trip; who needs longer is not there.
_CONNECT_TIMEOUT_S = 4.0

# What is larger goes to a worker by itself, or Dask warns of the size of its graph (from 10 MB on).
_LARGE_BYTES = 1 << 20

Client = Any  # Dask is not installed everywhere that this file is checked


class _DaskLane:
    def __init__(self, engine: _DaskEngine) -> None:
        self._engine = engine

    def call(self, packed: bytes) -> bytes:
        return self._engine.call(packed)

    def close(self) -> None:
        """The worker is the engine's."""


class _DaskEngine:
    """A client of Dask, and the scheduler and the workers where they are ours."""

    def __init__(self, client: Client, cluster: Any = None, folder: str | None = None, *, owns_client: bool = True):
        self._client = client
        self._cluster = cluster
        self._folder = folder
        self._owns_client = owns_client
        self._letters = Letters()
        self._workers: list[WorkerProcess] = []
        self._lock = threading.Lock()

    def open_lane(self) -> _DaskLane:
        if self._cluster is not None:  # one lane, one worker
            words = {"scheduler": self._cluster.scheduler_address, "folder": self._folder}
            with self._lock:
                self._workers.append(WorkerProcess("_dask_worker", words, ended=self._worker_ended))
        return _DaskLane(self)

    def call(self, packed: bytes) -> bytes:
        call_id = f"underlay-{uuid.uuid4().hex}"
        answer = self._letters.post(call_id)
        with self._lock:
            content: object = packed
            if len(packed) > _LARGE_BYTES:
                content = self._client.scatter(packed, hash=False)
            future = self._client.submit(perform, content, key=call_id, pure=False, retries=0)
        future.add_done_callback(lambda done: self._deliver(call_id, done))
        try:
            return answer.result()
        finally:
            future.release()

    def _deliver(self, call_id: str, done: Any) -> None:
        try:
            if done.status == "finished":
                self._letters.answer(call_id, done.result())
            elif done.status == "error":  # `perform` raises nothing: it is Dask that says so
                error = done.exception()
                worker = getattr(error, "last_worker", None)
                died = f"the worker {worker.address} of Dask died" if worker is not None else f"Dask gave up: {error}"
                self._letters.fail(call_id, died)
            else:
                self._letters.fail(call_id, f"Dask has {done.status} the call")
        except BaseException as error:
            self._letters.fail(call_id, f"the way to Dask broke: {error}")

    def _worker_ended(self, worker: WorkerProcess) -> None:
        self._letters.fail_all(worker.how_it_ended())

    def close(self) -> None:
        self._letters.fail_all("the executor was shut down")
        if self._owns_client:
            self._client.close()
        with self._lock:
            workers, self._workers = self._workers, []
        for worker in workers:
            worker.close()
        if self._cluster is not None:
            self._cluster.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _make_certificate(folder: str) -> None:
    """Put a certificate that signs itself, and its key, into the folder: whoever has both is one of us."""
    made = package("distributed", "the executor dask").Security.temporary()
    for name, content in (("certificate.pem", made.tls_ca_file), ("key.pem", made.tls_client_key)):
        with open(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(content)


def private_security(folder: str) -> Any:
    """What Dask's two ends need to know only each other.

    Files, because what Dask is given as text it writes to files of its own, which a process that is killed leaves.
    """
    certificate, key = os.path.join(folder, "certificate.pem"), os.path.join(folder, "key.pem")
    roles = {f"tls_{role}_cert": certificate for role in ("client", "scheduler", "worker")}
    roles |= {f"tls_{role}_key": key for role in ("client", "scheduler", "worker")}
    return package("distributed", "the executor dask").Security(
        require_encryption=True, tls_ca_file=certificate, **roles
    )


def _local() -> _DaskEngine:
    distributed = package("distributed", "the executor dask")
    dask = package("dask", "the executor dask")
    # Its HTTP server listens whatever one says; so it has no pages, on any port of this machine alone.
    folder = tempfile.mkdtemp(prefix="underlay-dask-")  # mode 0700; Dask's own has a name that everybody knows
    settings = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.scheduler.http.routes": [],
        "temporary-directory": folder,
    }
    cluster = None
    try:
        _make_certificate(folder)
        with dask.config.set(settings):
            cluster = distributed.LocalCluster(
                n_workers=0,
                host="127.0.0.1",
                protocol="tls://",
                security=private_security(folder),
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                silence_logs=logging.CRITICAL,  # that a worker goes is told by the executor
            )
        client = distributed.Client(cluster, set_as_default=False)
    except BaseException:
        if cluster is not None:
            cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return _DaskEngine(client, cluster, folder)


def require() -> None:
    """Raise ``UsageError`` where something is missing."""
    for name in ("distributed", "cryptography", "cloudpickle"):
        package(name, "the executor dask")


def make(
    *,
    max_workers: int | None = None,
    address: str | None = None,
    security: Any = None,
    client: Client = None,
) -> PoolExecutor:
    """Make an executor on Dask, at most ``max_workers`` calls at a time.

    Without more it starts a scheduler and its workers on this machine, one worker
    per processor. ``address`` is that of a scheduler that runs, with ``security`` as Dask's `Client` takes
    it; or ``client`` is such a client, which stays open. Then there are as many calls at a time as the workers have
    threads. Raises ``EngineUnavailable`` where no scheduler answers.
    """
    require()
    distributed = package("distributed", "the executor dask")
    if client is not None and (address is not None or security is not None):
        raise UsageError("a client of Dask has an address already", remedy="leave address= and security= out")
    if client is None and address is None:
        return PoolExecutor(KIND.name, _local(), max_workers or os.cpu_count() or 1)
    owns_client = client is None
    if client is None:
        try:
            client = distributed.Client(address, security=security, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise EngineUnavailable(
                f"no scheduler of Dask answers at {address}: {reason_of(error)}",
                remedy="start it, or leave address= out for one of this process",
            ) from error
    lanes = max_workers or sum(client.nthreads().values()) or 1
    return PoolExecutor(KIND.name, _DaskEngine(client, owns_client=owns_client), lanes)
