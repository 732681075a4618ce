"""Installing handoff on a cluster.

The plugins of the scheduler and of the workers are sent from here.  This is the only file of the
client that knows them.
"""

from __future__ import annotations

from distributed import Client
from distributed.protocol import pickle

from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin
from handoff_dask.worker.plugin import HandoffWorkerPlugin


async def install(client: Client) -> None:
    """Have the scheduler run its plugin, which installs the workers' plugin on all of them."""
    plugin = HandoffSchedulerPlugin(bytes(pickle.dumps(HandoffWorkerPlugin())))
    await client.register_plugin(plugin)
