"""Tasks on the cluster that are not of a DAG: they take turns with functions, and what they hold counts.

Dask sends its own tasks to a worker without asking; there they wait for a thread, and for Dask's resources.
The engine is told of each as of a function that is pinned to that node, in a run of the task's client.  That
it is placed means that it holds what it asks for from now on.  A function that is placed while tasks of Dask
wait on its node goes before them there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from handoff_dask.errors import ValidationError
from handoff_dask.placement.demand import Demand
from handoff_dask.placement.events import (
    ClaimedElsewhere,
    Event,
    FunctionFinished,
    FunctionReady,
    FunctionWithdrawn,
    OutsideWaits,
    ReturnedElsewhere,
    RunClosed,
    RunKey,
    RunOpened,
)
from handoff_dask.placement.strategies import FIRST_AVAILABLE
from handoff_dask.resources import NOTHING, Cost, amount_of
from handoff_dask.scheduler.nodes import Nodes, WorkerInfo
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import Runs, RunState

if TYPE_CHECKING:
    from distributed.scheduler import SchedulerState, TaskState

#: A task waits on its worker for as long as it takes.
_FOR_EVER_S = 1e9
#: Tasks that take each other's results are gone through for one that a client wants, so many at most.
_DEPTH = 20


class DaskTasks(Observer):
    """Turns and claims of plain Dask tasks, kept only while some run is there to respect them.

    Parameters
    ----------
    runs, nodes
        What is known of runs and workers.
    scheduler
        For Dask's own tasks, workers, and queue of tasks.
    gather
        Takes events for the engine.
    """

    def __init__(
        self,
        runs: Runs,
        nodes: Nodes,
        scheduler: SchedulerState,
        gather: Callable[[Iterable[Event]], None],
    ) -> None:
        self._runs = runs
        self._nodes = nodes
        self._scheduler = scheduler
        self._gather = gather
        self._is_counting = False
        #: ``{key of a task on a worker: (the worker's address, the task's run)}``.
        self._on_workers: dict[Any, tuple[str, RunKey]] = {}
        #: Those that ask for amounts, and those that have let go of their threads.
        self._asking: dict[Any, None] = {}
        self._seceded: dict[Any, None] = {}
        #: ``{run: how many of its tasks are known}``; a run is open while there is one.
        self._known: dict[RunKey, int] = {}
        #: The run of the task that is first in Dask's queue.
        self._queued: RunKey | None = None

    def run_opened(self, run: RunState) -> None:
        """Take stock with the first run."""
        if self._is_counting:
            return
        self._is_counting = True
        tasks = [task for ws in self._scheduler.workers.values() for task in ws.processing]
        for task in sorted(tasks, key=lambda task: task.priority or ()):
            if task.key not in self._runs.functions:
                self._arrived(task, begun=True)
        self._look_at_queue()

    def run_forgotten(self, run: RunState) -> None:
        """Stop with the last run."""
        if not self._runs.by_token:
            self.cleared()

    def cleared(self) -> None:
        """Forget everything."""
        self._is_counting = False
        for key in list(self._on_workers):
            self._left(key)
        self._look_at_queue()

    def node_left(self, address: str) -> None:
        """What was held there went with the node."""
        for key in [key for key, (where, _) in self._on_workers.items() if where == address]:
            self._left(key)

    def transition(self, key: Any, start: str, finish: str) -> None:
        """A task of Dask's own was assigned to a worker or left it, or Dask's queue has changed."""
        if not self._is_counting:
            return
        if key in self._on_workers:
            self._left(key, ran=finish in ("memory", "erred"))
        if finish == "processing":
            task = self._scheduler.tasks.get(key)
            if task is not None:
                self._arrived(task)
        if "queued" in (start, finish):
            self._look_at_queue()

    def seceded(self, key: Any, run_id: int) -> None:
        """A task of Dask's own waits for others and has let go of its thread."""
        task = self._scheduler.tasks.get(key)
        if task is None or task.run_id != run_id or key not in self._on_workers or key in self._seceded:
            return
        node = self._nodes.by_address.get(self._on_workers[key][0])
        if node is not None:
            self._seceded[key] = None
            claim = ClaimedElsewhere(claim=("task", key), node=node.name, cost=self._cost(task, node))
            self._gather([*_gone(key), claim])

    @property
    def are_there(self) -> bool:
        """Whether a worker has tasks of Dask's own."""
        return bool(self._on_workers)

    def admission(self, address: str, cost: Cost) -> dict[str, float]:
        """What a worker itself has to admit of a function's cost, for it has tasks that ask for amounts.

        Dask's worker counts in floats: what these cannot add up exactly is left to the ledger alone.  So is
        what the node offers more or less of than Dask was told.
        """
        ws = self._scheduler.workers.get(address) if self._asking else None
        node = self._nodes.by_address.get(address)
        if ws is None or node is None:
            return {}
        has = dict(self._nodes.capabilities(node).amounts)
        asked = [(n, float(amount_of(units))) for n, units in cost.amounts if n in ws.resources]
        return {
            name: amount
            for name, amount in asked
            if amount_of(has.get(name, 0)) == ws.resources[name] and (amount * 1024).is_integer()
        }

    # ------------------------------------------------------------------ inside

    def _arrived(self, task: TaskState, *, begun: bool = False) -> None:
        ws = task.processing_on
        node = None if ws is None else self._nodes.by_address.get(ws.address)
        if node is None:
            return
        run, cost = _run_of(task), self._cost(task, node)
        self._enter(run)
        self._on_workers[task.key] = (node.address, run)
        if cost.amounts:
            self._asking[task.key] = None
        ready = FunctionReady(
            function=("task", task.key),
            run=run,
            demand=Demand(cost, pin=node.name),
            priority=-task.priority[0] if task.priority else 0,
            begun=begun,
        )
        self._gather([ready])

    def _left(self, key: Any, *, ran: bool = False) -> None:
        _, run = self._on_workers.pop(key)
        self._asking.pop(key, None)
        if key in self._seceded:
            del self._seceded[key]
            self._gather([ReturnedElsewhere(claim=("task", key))])
        else:
            self._gather([FunctionFinished(function=("task", key))] if ran else _gone(key))
        self._leave(run)

    def _look_at_queue(self) -> None:
        """Dask's queue holds tasks back until workers have been sent less: functions must leave them room."""
        queued = self._scheduler.queued
        first = _run_of(queued.peek()) if queued and self._is_counting else None
        if first == self._queued:
            return
        before, self._queued = self._queued, first
        if first is not None:
            self._enter(first)
            self._gather([OutsideWaits(run=first, waits=True)])
        if before is not None:
            self._gather([OutsideWaits(run=before, waits=False)])
            self._leave(before)

    def _enter(self, run: RunKey) -> None:
        count = self._known.get(run, 0)
        self._known[run] = count + 1
        if not count:
            opened = RunOpened(
                run=run,
                strategy=FIRST_AVAILABLE,
                client=run[1] if isinstance(run, tuple) else None,
                allocation_timeout_s=_FOR_EVER_S,
                outside=True,
            )
            self._gather([opened])

    def _leave(self, run: RunKey) -> None:
        self._known[run] -= 1
        if not self._known[run]:
            del self._known[run]
            self._gather([RunClosed(run=run)])

    def _cost(self, task: TaskState, node: WorkerInfo) -> Cost:
        """The amounts that a task names, as far as the node has them."""
        wanted = task.resource_restrictions
        if not wanted:
            return NOTHING
        try:
            cost = Cost.parse(wanted)
        except ValidationError:  # Dask takes amounts that we would not; they hold nothing we count
            return NOTHING
        has = dict(self._nodes.capabilities(node).amounts)
        return Cost.parse({n: amount_of(min(units, has[n])) for n, units in cost.amounts if has.get(n)})


def _run_of(task: TaskState) -> RunKey:
    """The run of a task: all the plain work of the client that wants it, or what is made of it."""
    for _ in range(_DEPTH):
        if task.who_wants or not task.dependents:
            break
        task = next(iter(task.dependents))
    client = min((client.client_key for client in task.who_wants or ()), default="")
    return ("dask", client)


def _gone(key: Any) -> list[Event]:
    """What the engine is told of a task that is gone, whether or not it ran."""
    function = ("task", key)
    return [FunctionWithdrawn(function=function), FunctionFinished(function=function)]
