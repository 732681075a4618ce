"""The items of maps whose lists are known only on a node: made functions of their run while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dask._task_spec import Task, TaskRef
from distributed.metrics import time
from distributed.spans import SpanMetadata

from handoff_dask.errors import HandoffError
from handoff_dask.protocol.names import ANNOTATION, element_key
from handoff_dask.protocol.spawning import Spawned, element
from handoff_dask.record.status import FINISHED
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.ranks import Ranks
from handoff_dask.scheduler.runs import FunctionState, Runs, RunState

if TYPE_CHECKING:
    from distributed import Scheduler


class Spawning:
    """Adds items to runs, when the function that has the lists asks for it.

    What is private of Dask is in here: a graph is added from within the scheduler, and a task that waits
    is given more to wait for.  ``tests/cluster/test_expand.py`` fails when that has changed.

    Parameters
    ----------
    runs
        Every run that is known.
    scheduler
        Dask's.
    ranks
        Puts the functions of a run in order.
    observers
        Told of the items.
    refuse
        Ends a run for a reason.
    """

    def __init__(
        self,
        runs: Runs,
        scheduler: Scheduler,
        ranks: Ranks,
        observers: Observer,
        refuse: Callable[[RunState, int, tuple[dict[str, str], str | None]], None],
    ) -> None:
        self._runs = runs
        self._scheduler = scheduler
        self._ranks = ranks
        self._observers = observers
        self._refuse = refuse

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What nodes may ask."""
        return {"may_spawn": self.may_spawn, "spawn": self.spawn}

    def may_spawn(self, client: str, token: str) -> bool:
        """Whether a run is known here, so that items can be added to it."""
        return token in self._runs.by_token

    def spawn(self, client: str, token: str, position: int, spawned: Spawned) -> None:
        """Add the items of a map, unless they are there already.

        Raises
        ------
        HandoffError
            If the run is over, or does not want them any more.
        """
        run = self._runs.by_token.get(token)
        of = None if run is None else run.functions.get(run.manifest.items[position].of)
        gather = None if of is None else self._scheduler.tasks.get(of.key)
        is_given_up = run is not None and run.over and run.status != FINISHED
        if run is None or is_given_up or of is None or gather is None:
            raise HandoffError("the items of a map are not wanted any more: their execution is over")
        manifest = run.manifest
        if any(parent == manifest.items[position].of for *_, parent in manifest.spawned):
            return  # the function runs once more, since its node has gone
        if spawned.rows:
            try:
                self._spawn(run, of, position, spawned)
            except Exception as error:
                # Half of it may be there: nobody must wait for the rest.
                self._refuse(run, of.position, ({}, f"the items of the map could not be made: {error!r}"))
                raise

    def _spawn(self, run: RunState, of: FunctionState, position: int, spawned: Spawned) -> None:
        manifest = run.manifest
        keys = manifest.spawn(position, len(spawned.rows))
        run.texts = None
        self._observers.run_grew(run)
        self._add(run, keys, spawned)
        self._make_wait(of.key, keys)
        if not (manifest.items[position].wanted and run.watched):
            self._let_go(run, keys)
        run.dependents = ([], [])
        self._ranks.order_again(run)

    def _add(self, run: RunState, keys: list[str], spawned: Spawned) -> None:
        """Have Dask know the items; the plugin's own hook holds them."""
        graph: dict[Any, Any] = {}
        for key, call, (row, large) in zip(keys, spawned.calls(), spawned.rows, strict=True):
            elements = [element_key(key, n) for n in range(len(large))]
            for name, one in zip(elements, large, strict=True):
                graph[name] = Task(name, element, TaskRef(one.key), one.index)
            graph[key] = Task(key, call, row, *map(TaskRef, elements), *spawned.shared)
        self._scheduler._create_taskstate_from_graph(
            start=time(),
            dsk=graph,
            keys=set(keys),
            ordered={key: n for n, key in enumerate(graph)},
            client=run.client,
            annotations_by_type={ANNOTATION: dict.fromkeys(keys, run.token)},
            global_annotations=None,
            stimulus_id=f"handoff-spawn-{time()}",
            submitting_task=None,
            span_metadata=SpanMetadata(collections=[{"type": "low-level-graph"}]),
        )
        missing = [key for key in keys if key not in self._runs.functions]
        if missing:
            raise HandoffError(f"Dask has not taken {len(missing)} items of a map; this is a defect")

    def _make_wait(self, key: str, items: list[str]) -> None:
        """Let the function that takes the results of the items wait for them."""
        tasks = self._scheduler.tasks
        gather = tasks[key]
        for item in map(tasks.__getitem__, items):
            gather.add_dependency(item)
            assert gather.waiting_on is not None
            assert item.waiters is not None
            if item.state != "memory":
                gather.waiting_on.add(item)
            item.waiters.add(gather)
        task: Any = gather.run_spec
        gather.run_spec = Task(key, task.func, *task.args, *map(TaskRef, items))

    def _let_go(self, run: RunState, keys: list[str]) -> None:
        """Let the items go with what takes their results: nobody else wants them."""
        run.wanted = run.wanted.difference(keys)
        if not run.keeps_going:
            run.missing.difference_update(keys)
        self._scheduler.client_releases_keys(
            keys=keys, client=run.client, stimulus_id=f"handoff-spawn-{time()}"
        )
