"""What a process of the kind ``dask`` does: it is a worker of Dask, one call at a time."""

from __future__ import annotations

import asyncio
import logging

from ._dask import private_security
from ._packages import package
from ._worker_process import adopted, remove_folder

__all__ = ["main"]


def main() -> None:
    """Be a worker."""
    words = adopted(remove_folder)
    distributed = package("distributed", "the executor dask")
    logging.getLogger("distributed").setLevel(logging.ERROR)

    async def serve() -> None:
        # No dashboard, no pages, no nanny that would start it again.
        with package("dask", "the executor dask").config.set({"distributed.worker.http.routes": []}):
            worker = distributed.Worker(
                words["scheduler"],
                nthreads=1,
                host="127.0.0.1",
                protocol="tls://",
                security=private_security(str(words["folder"])),
                dashboard=False,
                dashboard_address="127.0.0.1:0",
                memory_limit=0,
                local_directory=words["folder"],
            )
            async with worker:
                await worker.finished()

    asyncio.run(serve())
