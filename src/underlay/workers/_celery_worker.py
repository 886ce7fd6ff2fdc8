"""What a process of the kind ``celery`` does: it is a worker of Celery, one call at a time."""

from __future__ import annotations

import logging
import os
import warnings

from ._celery_task import make_app, register
from ._signed import Seal
from ._worker_process import adopted, remove_folder

__all__ = ["main"]


def main() -> None:
    """Be a worker."""
    words = adopted(remove_folder)
    app = make_app(words)
    register(app, Seal(bytes.fromhex(str(words["key"]))))
    # It is the person's own process, and nothing in it is read that they did not sign.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
    app.Worker(
        hostname=f"underlay-{os.getpid()}@localhost",
        pool="solo",  # a call runs in this process, whose end is seen
        concurrency=1,
        loglevel=logging.ERROR,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    ).start()
