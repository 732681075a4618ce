"""``dask scheduler --preload handoff_dask.preload`` and the same for ``dask worker``.

With it on both sides, a client need install nothing.
"""

from __future__ import annotations

from distributed import Scheduler, Worker

from handoff_dask.protocol.names import NAME, REPORT
from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin
from handoff_dask.version import VERSION
from handoff_dask.worker.cores import free_cores
from handoff_dask.worker.entry import pack_entry
from handoff_dask.worker.plugin import HandoffWorkerPlugin


async def dask_setup(server: Scheduler | Worker) -> None:
    """Install the plugin that belongs on a scheduler, or on a worker, whose functions may use its cores."""
    if isinstance(server, Scheduler):
        # The scheduler starts it once its preloads are done.
        plugin = HandoffSchedulerPlugin(pack_entry(NAME, REPORT, VERSION))
        server.add_plugin(plugin, name=NAME)
    elif isinstance(server, Worker):
        free_cores(server)
        await server.plugin_add(HandoffWorkerPlugin(), name=NAME)
