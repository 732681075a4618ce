"""Data that moves ahead of the functions that take it, as the engine decides, by Dask's means.

A copy is asked for as Dask's active memory manager asks for replicas.  That manager would soon drop one of
the two copies, and it takes the fuller worker, which may be the one that the copy was meant for.  So once
the copy is there, the one it was made of is given up, unless others take it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from distributed.metrics import monotonic

from handoff_dask.placement.decisions import MoveData
from handoff_dask.placement.demand import DataArgument
from handoff_dask.placement.events import ArgumentReady, Event
from handoff_dask.placement.settings import DEFAULT_SETTINGS
from handoff_dask.scheduler.lifecycle import Ended, LifeEvent
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import FunctionState
from handoff_dask.scheduler.states import Pending, State

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState, WorkerState

#: Seconds between two looks at what has arrived.
LOOK_S = 0.2
#: A copy that has not arrived after so many seconds is not waited for.
PATIENCE_S = 60.0


class MovesAhead(Observer):
    """Tells the engine of arguments of functions that are not ready yet, and moves what it decides.

    Parameters
    ----------
    nodes
        The workers.
    functions
        Functions by Dask key.
    scheduler
        Dask's.
    gather
        Takes events for the engine.
    call_later
        Calls a function after so many seconds.
    """

    watches = (Ended,)

    def __init__(
        self,
        nodes: Nodes,
        functions: Mapping[Any, FunctionState],
        scheduler: Scheduler,
        gather: Callable[[Iterable[Event]], None],
        call_later: Callable[..., object],
    ) -> None:
        self._nodes = nodes
        self._functions = functions
        self._scheduler = scheduler
        self._tasks: Mapping[Any, TaskState] = scheduler.tasks
        self._gather = gather
        self._call_later = call_later
        #: ``{(key, address): when it is given up}``.
        self._under_way: dict[tuple[Any, str], float] = {}

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """A large result is there: functions take it that wait for others, too."""
        attempt, settings = function.attempt, DEFAULT_SETTINGS
        floor_s = function.run.manifest.options.transfer_floor_s
        if attempt is None or not attempt.nbytes:
            return
        if attempt.nbytes <= floor_s * self._scheduler.bandwidth:
            return
        task = self._tasks.get(function.key)
        if task is None or not 0 < len(task.dependents) <= settings.gathered_dependents:
            return
        argument = DataArgument(function.key, attempt.nbytes, (attempt.node,))
        for dependent in task.dependents:
            taker = self._functions.get(dependent.key)
            if taker is None or not isinstance(taker.state, Pending) or not dependent.waiting_on:
                continue
            demand, count = taker.run.demand(taker.position), len(dependent.dependencies)
            has_choice = demand.pin is None and demand.group is None
            if has_choice and count < settings.gathered_arguments:
                continue
            ready = ArgumentReady(
                function=taker.key, run=taker.run.engine_run, demand=demand, argument=argument, count=count
            )
            self._gather([ready])

    def move(self, decision: MoveData) -> None:
        """Have a worker fetch data."""
        node = self._nodes.by_name.get(decision.node)
        if node is None or node.address not in self._scheduler.workers:
            return
        keys: list[Any] = [key for key in decision.data if self._is_elsewhere(key, node.address)]
        if not keys:
            return
        self._scheduler.request_acquire_replicas(
            node.address, keys, stimulus_id=f"handoff-moves-ahead-{monotonic()}"
        )
        if not self._under_way:
            self._call_later(LOOK_S, self._look)
        until = monotonic() + PATIENCE_S
        self._under_way.update(((key, node.address), until) for key in keys)

    def _is_elsewhere(self, key: Any, address: str) -> bool:
        task = self._tasks.get(key)
        addresses = {ws.address for ws in task.who_has or ()} if task is not None else set()
        return bool(addresses) and address not in addresses

    def _look(self) -> None:
        """Give up what copies were made of that have arrived."""
        now = monotonic()
        for (key, address), until in list(self._under_way.items()):
            task, ws = self._tasks.get(key), self._scheduler.workers.get(address)
            if task is None or ws is None or not task.who_has or now > until:
                del self._under_way[key, address]
            elif ws in task.who_has:
                del self._under_way[key, address]
                self._give_up_others(task, ws)
        if self._under_way:
            self._call_later(LOOK_S, self._look)

    def _give_up_others(self, task: TaskState, target: WorkerState) -> None:
        waiters = task.waiters or ()
        if task.actor or len(waiters) > 1 or any(waiter.processing_on for waiter in waiters):
            return
        for ws in [ws for ws in task.who_has or () if ws is not target]:
            self._scheduler.request_remove_replicas(
                ws.address, [task.key], stimulus_id=f"handoff-moved-ahead-{monotonic()}"
            )
