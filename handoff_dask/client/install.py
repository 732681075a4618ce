"""Installing handoff on a cluster.

The plugins of the scheduler and of the workers are sent from here.  This is the only file of the
client that knows them.
"""

from __future__ import annotations

from distributed import Client

from handoff_dask.errors import HandoffError
from handoff_dask.protocol.names import NAME, REPORT
from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin
from handoff_dask.version import VERSION
from handoff_dask.worker.entry import pack_entry


async def install(client: Client) -> None:
    """Have the scheduler run its plugin, which installs the workers' plugin on all of them.

    Raises
    ------
    HandoffError
        If the scheduler lacks handoff_dask.
    """
    plugin = HandoffSchedulerPlugin(pack_entry(NAME, REPORT, VERSION))
    try:
        await client.register_plugin(plugin)
    except (ImportError, AttributeError) as error:
        raise HandoffError(
            f"the scheduler {client.scheduler_info()['address']} cannot run handoff_dask "
            f"({type(error).__name__}: {error}); install handoff_dask {VERSION} there, as here"
        ) from error
