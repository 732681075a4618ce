"""Tasks on the cluster that are not of a DAG: what they hold counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from handoff_dask.errors import ValidationError
from handoff_dask.placement.events import ClaimedElsewhere, Event, ReturnedElsewhere
from handoff_dask.protocol.names import LANES
from handoff_dask.resources import NOTHING, Cost
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import Runs, RunState

if TYPE_CHECKING:
    from distributed.scheduler import TaskState, WorkerState


class DaskTasks(Observer):
    """Claims of plain Dask tasks, kept only while some run is there to respect them.

    Parameters
    ----------
    runs, nodes
        What is known of runs and workers.
    tasks, workers
        Dask's own.
    gather
        Takes events for the engine.
    """

    def __init__(
        self,
        runs: Runs,
        nodes: Nodes,
        tasks: Mapping[Any, TaskState],
        workers: Mapping[str, WorkerState],
        gather: Callable[[Iterable[Event]], None],
    ) -> None:
        self._runs = runs
        self._nodes = nodes
        self._tasks = tasks
        self._workers = workers
        self._gather = gather
        self._is_counting = False
        #: ``{task key: address of the worker it was assigned to}``.
        self._held: dict[Any, str] = {}

    def run_opened(self, run: RunState) -> None:
        """Take stock with the first run."""
        if self._is_counting:
            return
        self._is_counting = True
        for ws in self._workers.values():
            for task in ws.processing:
                if task.key not in self._runs.functions:
                    self._claim(task)

    def run_forgotten(self, run: RunState) -> None:
        """Stop with the last run."""
        if self._runs.by_token:
            return
        self._is_counting = False
        self._gather([ReturnedElsewhere(claim=("task", key)) for key in self._held])
        self._held.clear()

    def node_left(self, address: str) -> None:
        """What was held there went with the node."""
        for key in [k for k, where in self._held.items() if where == address]:
            del self._held[key]

    def transition(self, key: Any, finish: str) -> None:
        """A task of Dask's own was assigned to a worker, or left it."""
        if not self._is_counting:
            return
        if self._held.pop(key, None) is not None:
            self._gather([ReturnedElsewhere(claim=("task", key))])
        if finish == "processing":
            task = self._tasks.get(key)
            if task is not None:
                self._claim(task)

    def seceded(self, key: Any, run_id: int) -> None:
        """A task of Dask's own waits for others and has let go of its thread."""
        task = self._tasks.get(key)
        if task is not None and task.run_id == run_id and key in self._held:
            self._claim(task, threads=0)

    def _claim(self, task: TaskState, threads: int = 1) -> None:
        ws = task.processing_on
        node = None if ws is None else self._nodes.by_address.get(ws.address)
        if node is None:
            return
        self._held[task.key] = node.address
        self._gather(
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
