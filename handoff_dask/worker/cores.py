"""Whether functions can use the cores that they claim: Dask's defaults allow one core, and no processes."""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING, Any

from distributed.system import MEMORY_LIMIT

from handoff_dask.resources import MEGABYTE

if TYPE_CHECKING:
    from distributed import Worker

#: What says to native libraries how many threads they may use, and which Dask's nannies set to 1.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def thread_limits(cores: int) -> dict[str, str]:
    """The environment in which native libraries use so many cores."""
    return dict.fromkeys(THREADS, str(cores))


def facts_of(worker: Worker) -> dict[str, Any]:
    """What stands in the way of functions on a worker, and the memory of its machine in megabytes."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return {
        "is_daemon": multiprocessing.current_process().daemon,
        "native_threads": int(limit) if limit.isdigit() else None,
        "machine_memory": MEMORY_LIMIT / MEGABYTE,
    }


def free_cores(worker: Worker) -> None:
    """Let functions of a worker start processes, and native libraries use its cores.

    Only what is Dask's default is changed.  The standard library has no public way to say that a
    process that has begun is no daemon.
    """
    process: Any = multiprocessing.current_process()
    if process.daemon and worker.nanny:
        process._config["daemon"] = False
    for name, limit in thread_limits(worker.state.nthreads).items():
        if worker.nanny and os.environ.get(name) == "1":
            os.environ[name] = limit
