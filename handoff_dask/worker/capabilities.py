"""What a worker offers before anybody says more: threads, memory, GPUs."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from handoff_dask.protocol.capabilities import declared
from handoff_dask.resources import MEGABYTE

if TYPE_CHECKING:
    from distributed import Worker

logger = logging.getLogger(__name__)


def detect_gpus() -> list[str]:
    """Names of the GPUs that NVML shows; none where NVML or its Python binding is missing."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except Exception:  # no driver, no device: NVML's own error class varies with its version
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        names = [pynvml.nvmlDeviceGetName(h) for h in handles]
        return [n.decode() if isinstance(n, bytes) else str(n) for n in names]
    except Exception:
        logger.warning("NVML is there but does not answer; no gpu is reported", exc_info=True)
        return []
    finally:
        with suppress(Exception):
            pynvml.nvmlShutdown()


def detect(worker: Worker) -> dict[str, Any]:
    """What a worker offers before anybody says more: cores, memory in megabytes, GPUs.

    ``dask worker --resources`` wins over what is detected.
    """
    found: dict[str, Any] = {"cpu": worker.state.nthreads}
    limit = worker.memory_manager.memory_limit
    if limit:
        found["memory"] = int(limit) / MEGABYTE
    gpus = detect_gpus()
    if gpus:
        found["gpu"] = len(gpus)
        found["gpu_model"] = sorted(set(gpus))
    return {**found, **declared(worker.state.total_resources)}
