"""What every worker of a cluster is given: it installs handoff's plugin where that can be done.

A worker may lack handoff_dask, or have another version of it.  This class is sent by value and needs
Dask alone, so that such a worker joins all the same, works for plain Dask, and says why it is no node.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import cloudpickle
from distributed.diagnostics.plugin import WorkerPlugin


class HandoffEntry(WorkerPlugin):
    """Installs handoff's worker plugin; it never fails.

    Parameters
    ----------
    name
        The name of the plugin.
    report
        The scheduler's handler that a worker reports to.
    version
        The version of handoff_dask that the scheduler has.
    """

    def __init__(self, name: str, report: str, version: str) -> None:
        self.name = name
        self.report = report
        self.version = version

    async def setup(self, worker: Any) -> None:
        """Put the plugin in the place of this one, or say why not."""
        # Only names of this function: it runs where this module does not exist.
        try:
            import handoff_dask

            here = getattr(handoff_dask, "__version__", "unknown")
            if here != self.version:
                problem = f"it has handoff_dask {here}, and the scheduler {self.version}"
                problem += "; install the same version on both"
            else:
                from handoff_dask.worker.plugin import HandoffWorkerPlugin

                await worker.plugin_add(HandoffWorkerPlugin(), name=self.name, catch_errors=False)
                return
        except ImportError as error:
            problem = f"{type(error).__name__}: {error}; install handoff_dask there"
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # whatever is installed there under that name
            problem = f"handoff_dask cannot start there: {error!r}"
        try:
            report = getattr(worker.scheduler, self.report)
            await report(worker=worker.address, capabilities={}, problem=problem)
        except Exception:  # the scheduler is gone, or does not know handoff
            pass


def pack_entry(name: str, report: str, version: str) -> bytes:
    """The plugin as bytes that can be loaded wherever Dask is."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(HandoffEntry(name, report, version)))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
