"""Executions of functions: each belongs to the attempt of the function that has submitted it.

It is cancelled when that attempt ends in any other way than well.  One that waits for what those hold
that wait for it is given up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed.metrics import monotonic

from handoff_dask.errors import HandoffError
from handoff_dask.placement.amounts import amounts_of
from handoff_dask.placement.deadlock import Deadlock, Parent
from handoff_dask.protocol.manifest import Manifest
from handoff_dask.record.status import CANCELLED
from handoff_dask.scheduler import lifecycle as life
from handoff_dask.scheduler.engine_driver import EngineDriver
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.pauses import Pause, Pauses
from handoff_dask.scheduler.refusals import Refusal
from handoff_dask.scheduler.runs import FunctionState, Runs, RunState
from handoff_dask.scheduler.states import Attempt, Finished, State, Waiting
from handoff_dask.scheduler.tasks import Tasks

#: Seconds between two looks for deadlocks, while some function waits for an execution of its own.
LOOK_S = 0.25


class NestedExecutions(Observer):
    """Links executions to the functions that have submitted them.

    Parameters
    ----------
    runs, tasks
        What is known of functions; Dask's tasks.
    pauses
        The functions that wait for executions of their own.
    driver
        Of the engine.
    end
        Ends a run.
    fail
        Fails a function that waits.
    call_later
        Calls a function after so many seconds.
    """

    watches = (life.FailedForGood, life.Dropped, life.Ended)

    def __init__(
        self,
        runs: Runs,
        tasks: Tasks,
        pauses: Pauses,
        driver: EngineDriver,
        end: Callable[[RunState, str], None],
        fail: Callable[[FunctionState, Refusal], None],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._runs = runs
        self._tasks = tasks
        self._pauses = pauses
        self._driver = driver
        self._end = end
        self._fail = fail
        self._call_later = call_later
        self._children: dict[Attempt, dict[str, RunState]] = {}
        self._is_watching = False
        #: ``{function in a deadlock: since when, in monotonic seconds}``.
        self._since: dict[object, float] = {}

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What functions that execute DAGs ask."""
        return {"pause": self.pause, "go_on": self._pauses.go_on}

    def pause(self, client: str, key: str, run_id: int) -> bool:
        """A function begins to wait for an execution of its own; whether it is one of ours."""
        is_ours = self._pauses.pause(key, run_id)
        if is_ours:
            self._watch()
        return is_ours

    # ------------------------------------------------------------------ parents and children

    def refuse_without_parent(self, manifest: Manifest) -> None:
        """Refuse a run whose function is not wanted any more.

        Raises
        ------
        HandoffError
            If that is so.
        """
        if self._is_orphan(manifest):
            raise HandoffError(
                "this DAG is not executed: the function that executes it is not wanted any more; "
                "its own execution has ended, or it runs again elsewhere"
            )

    def _function_of(self, manifest: Manifest) -> FunctionState | None:
        """The function that has submitted a run; a task of Dask's own is none."""
        return None if manifest.parent is None else self._runs.functions.get(manifest.parent[0])

    def _is_orphan(self, manifest: Manifest) -> bool:
        """Whether a run was submitted by an attempt that has ended by now, and not well."""
        function = self._function_of(manifest)
        if function is None or manifest.parent is None:
            return False
        is_alive = function.is_on_node or isinstance(function.state, Finished)
        return not (is_alive and self._tasks.is_present(*manifest.parent))

    def run_opened(self, run: RunState) -> None:
        """A run has begun: it belongs to the attempt that has submitted it."""
        function = self._function_of(run.manifest)
        if self._is_orphan(run.manifest):
            self._end(run, CANCELLED)
        elif function is not None and function.is_on_node and function.attempt is not None:
            self._children.setdefault(function.attempt, {})[run.token] = run

    def run_ended(self, run: RunState) -> None:
        """A run is over: it needs no parent any more."""
        for attempt in [a for a, children in self._children.items() if run.token in children]:
            del self._children[attempt][run.token]
            if not self._children[attempt]:
                del self._children[attempt]

    def function_changed(
        self, function: FunctionState, old: State, new: State, event: life.LifeEvent
    ) -> None:
        """Cancel what an attempt has submitted, unless it ends well."""
        attempt = function.attempt
        children = None if attempt is None else self._children.pop(attempt, None)
        if children and not isinstance(event, life.Ended):
            for run in children.values():
                if not run.over:
                    self._end(run, CANCELLED)

    # ------------------------------------------------------------------ deadlocks

    def _watch(self) -> None:
        if not self._is_watching:
            self._is_watching = True
            self._call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """Give up what can never start, and go on watching while somebody waits."""
        self._is_watching = False
        waiting = self._pauses.waiting()
        if not waiting:
            self._since.clear()
            return
        self._watch()
        if not self._driver.is_idle:
            return
        deadlocks = self._driver.engine.deadlocks([self._as_parent(pause) for pause in waiting])
        now, functions = monotonic(), self._runs.functions
        self._since = {d.function: self._since.get(d.function, now) for d in deadlocks}
        # One at a time: with it, others may be able to start.
        for deadlock in reversed(deadlocks):
            function = functions[str(deadlock.function)]
            timeout_s = function.run.manifest.options.allocation_timeout_s
            if now - self._since[deadlock.function] >= timeout_s and isinstance(function.state, Waiting):
                self._fail(function, ({}, self._problem(deadlock)))
                return

    def _as_parent(self, pause: Pause) -> Parent:
        function, attempt = pause.function, pause.attempt
        cost, threads = attempt.holds()
        theirs = [f for run in self._children.get(attempt, {}).values() for f in run.functions.values()]
        return Parent(
            function=function.key,
            node=attempt.node,
            amounts=amounts_of(cost, threads),
            waiting=tuple(f.key for f in theirs if isinstance(f.state, Waiting)),
            parents=tuple(f.key for f in theirs if f.attempt is not None and f.attempt.paused),
        )

    def _problem(self, deadlock: Deadlock) -> str:
        """What is held by whom, in words."""
        holders = []
        for parent in deadlock.holders:
            function = self._runs.functions[str(parent.function)]
            assert function.attempt is not None
            kept = function.attempt.cost.without("cpu").to_amounts()
            held = ", ".join(f"{name} {amount:g}" for name, amount in kept.items())
            holders.append(f"{function.run.id_of(function.position)!r} holds {held} of {parent.node!r}")
        return (
            "it can never start because of what functions hold that wait for its execution: "
            f"{'; '.join(holders)}; let them claim less while they wait, or give it less to claim"
        )
