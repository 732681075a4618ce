"""``dask scheduler --preload handoff_dask.preload`` and the same for ``dask worker``.

With it on both sides, a client need install nothing.
"""

from __future__ import annotations

from distributed import Scheduler, Worker

from handoff_dask.live.protocol import NAME
from handoff_dask.live.scheduler_plugin import HandoffSchedulerPlugin
from handoff_dask.live.worker_plugin import HandoffWorkerPlugin


async def dask_setup(server: Scheduler | Worker) -> None:
    """Install the plugin that belongs on a scheduler, or on a worker."""
    if isinstance(server, Scheduler):
        # The scheduler starts it once its preloads are done.
        server.add_plugin(HandoffSchedulerPlugin(), name=NAME)
    elif isinstance(server, Worker):
        await server.plugin_add(HandoffWorkerPlugin(), name=NAME)
