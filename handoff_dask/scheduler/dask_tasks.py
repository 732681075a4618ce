"""Tasks on the cluster that are not ours: what they hold counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from handoff_dask.errors import ValidationError
from handoff_dask.placement.events import ClaimedElsewhere, ReturnedElsewhere
from handoff_dask.protocol.names import LANES
from handoff_dask.resources import NOTHING, Cost

if TYPE_CHECKING:
    from distributed.scheduler import TaskState

    from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin


class Foreign:
    """Claims of plain Dask tasks, kept only while some run is there to mind them."""

    def __init__(self, plugin: HandoffSchedulerPlugin) -> None:
        self._plugin = plugin
        #: ``{task key: address of the worker it was assigned to}``.
        self._held: dict[Any, str] = {}

    def begin(self) -> None:
        """The first run opens: take stock."""
        for ws in self._plugin.scheduler.workers.values():
            for task in ws.processing:
                if task.key not in self._plugin.registry.functions:
                    self._claim(task)

    def end(self) -> None:
        """The last run is gone."""
        self._plugin.driver.gather([ReturnedElsewhere(claim=("task", key)) for key in self._held])
        self._held.clear()

    def node_left(self, address: str) -> None:
        """What was held there went with the node."""
        for key in [k for k, where in self._held.items() if where == address]:
            del self._held[key]

    def transition(self, key: Any, finish: str) -> None:
        """A task that is not ours was assigned to a worker, or left it."""
        if self._held.pop(key, None) is not None:
            self._plugin.driver.gather([ReturnedElsewhere(claim=("task", key))])
        if finish == "processing":
            task = self._plugin.scheduler.tasks.get(key)
            if task is not None:
                self._claim(task)

    def seceded(self, key: Any, run_id: int) -> None:
        """A task that is not ours waits for others and has let go of its thread."""
        task = self._plugin.scheduler.tasks.get(key)
        if task is not None and task.run_id == run_id and key in self._held:
            self._claim(task, threads=0)

    def _claim(self, task: TaskState, threads: int = 1) -> None:
        ws = task.processing_on
        node = None if ws is None else self._plugin.nodes.by_address.get(ws.address)
        if node is None:
            return
        self._held[task.key] = node.address
        self._plugin.driver.gather(
            [ClaimedElsewhere(claim=("task", task.key), node=node.name, cost=_cost(task), threads=threads)]
        )


def _cost(task: TaskState) -> Cost:
    wanted = {n: v for n, v in (task.resource_restrictions or {}).items() if n not in LANES}
    if not wanted:
        return NOTHING
    try:
        return Cost.parse(wanted)
    except ValidationError:  # Dask takes amounts that we would not; they hold nothing we count
        return NOTHING
