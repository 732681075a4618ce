"""Messages of the workers' plugins, each translated for whom it concerns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distributed.metrics import time

from handoff_dask.protocol.capabilities import declared
from handoff_dask.protocol.names import (
    ENDED,
    GAVE_UP,
    LOGGED,
    LONG,
    RAISED,
    REPORT,
    REPORT_STARTS,
    SECEDED,
    STARTED,
    UNREADABLE,
)
from handoff_dask.scheduler import lifecycle as life
from handoff_dask.scheduler.dask_tasks import DaskTasks
from handoff_dask.scheduler.dispatcher import Dispatcher
from handoff_dask.scheduler.engine_driver import EngineDriver
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import NodeEvent
from handoff_dask.scheduler.recall import Recall
from handoff_dask.scheduler.runs import FunctionState, Runs
from handoff_dask.scheduler.tasks import Tasks
from handoff_dask.scheduler.telemetry import Telemetry

#: Dask's RPC, worker to scheduler: its resources have changed.
SET_RESOURCES = "set_resources"
#: Dask's stream, worker to scheduler: a task has ended well.
TASK_FINISHED = "task-finished"


class WorkerMessages:
    """Listens to the workers.

    Parameters
    ----------
    runs, nodes, tasks, driver, dispatcher, dask_tasks, telemetry, recall
        Whom messages concern.
    nodes_changed
        Tells everybody who must know of nodes.
    handle_erred
        Dask's handler of a task that has raised.
    """

    def __init__(
        self,
        runs: Runs,
        nodes: Nodes,
        tasks: Tasks,
        driver: EngineDriver,
        dispatcher: Dispatcher,
        dask_tasks: DaskTasks,
        telemetry: Telemetry,
        recall: Recall,
        nodes_changed: Callable[[list[NodeEvent]], None],
        handle_erred: Callable[..., None],
    ) -> None:
        self._runs = runs
        self._nodes = nodes
        self._tasks = tasks
        self._driver = driver
        self._dispatcher = dispatcher
        self._dask_tasks = dask_tasks
        self._telemetry = telemetry
        self._recall = recall
        self._nodes_changed = nodes_changed
        self._handle_erred = handle_erred

    def install(
        self, handlers: dict[str, Callable[..., Any]], streams: dict[str, Callable[..., Any]]
    ) -> None:
        """Listen."""
        handlers[REPORT] = self.report
        streams.update(
            {
                ENDED: self.thread_ended,
                STARTED: self.started,
                RAISED: self.raised,
                LOGGED: self.logged,
                GAVE_UP: self.gave_up,
                UNREADABLE: self.unreadable,
                SECEDED: self.seceded,
                LONG: self.runs_long,
            }
        )
        self._recall.install(streams)
        set_resources = handlers[SET_RESOURCES]

        def declare(worker: str, resources: dict[str, Any] | None = None) -> Any:
            answer = set_resources(worker=worker, resources=resources)
            self._nodes_changed([*self._nodes.declared(worker, declared(resources or {}))])
            return answer

        # No hook tells of it.
        handlers[SET_RESOURCES] = declare
        task_finished = streams[TASK_FINISHED]

        def finished(key: Any, **message: Any) -> None:
            function = self._runs.functions.get(key)
            attempt = None if function is None else function.attempt
            task_finished(key=key, **message)
            if attempt is not None and not attempt.is_short:
                self._driver.flush_if_late()

        # A hook hears of the end from within Dask's transitions, where nothing can be placed.
        streams[TASK_FINISHED] = finished

    @staticmethod
    def report_starts(send: Callable[[str, dict[str, Any]], None], address: str, wanted: bool) -> None:
        """Have a worker report each start, or stop to do so."""
        send(address, {"op": REPORT_STARTS, "wanted": wanted})

    async def report(
        self,
        worker: str,
        capabilities: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
        problem: str | None = None,
    ) -> bool:
        """A worker says what it offers, or why it is no node; the answer: whether to report starts."""
        if problem is not None:
            self._nodes.is_outside(worker, problem)
            return False
        self._nodes.facts[worker] = facts or {}
        self._nodes_changed([*self._nodes.report(worker, capabilities)])
        self._driver.flush()
        return self._telemetry.wants_starts

    def thread_ended(self, claim: int, **kwargs: Any) -> None:
        """A thread is over that went on although its function had been dropped."""
        self._dispatcher.thread_ended(claim)

    def started(self, starts: list[tuple[str, int, float]], **kwargs: Any) -> None:
        """A worker says which attempts have begun, and when: for telemetry alone."""
        for key, run_id, moment in starts:
            function = self._present(key, run_id)
            if function is not None:
                self._dispatcher.tell(function, life.Began(moment))
                assert function.attempt is not None
                self._telemetry.attempt_began(function, function.attempt.start or moment)

    def raised(
        self,
        key: str,
        run_id: int,
        exception: Any,
        startstops: Any = (),
        left_behind: bool = False,
        is_final: bool = False,
        text: str = "",
        **kwargs: Any,
    ) -> None:
        """An attempt has raised; whether it is repeated, Dask decides next."""
        function = self._present(key, run_id)
        if function is not None:
            run = function.run
            # What cannot be read of a cache is computed by a session; where there is none, it fails.
            is_lost = function.position in run.manifest.reading and not run.listeners
            if is_final or is_lost:
                self._tasks.forbid_retries(key)
            self._dispatcher.tell(function, life.Raised(exception, startstops, left_behind, text))

    def gave_up(
        self, key: str, run_id: int, failure: dict[str, Any], left_behind: bool = False, **kwargs: Any
    ) -> None:
        """An attempt has failed for good, and its result says so."""
        function = self._present(key, run_id)
        if function is not None:
            text = f"{failure['traceback_text']}{failure['exception_text']}"
            why = life.Failure(failure["exception"], failure["traceback"], text)
            raised = life.Raised(failure["exception"], left_behind=left_behind, failure=why)
            self._dispatcher.tell(function, raised)

    def logged(self, key: str, attempt: int, lines: list[Any], worker: str, **kwargs: Any) -> None:
        """An attempt has printed or logged something."""
        function, node = self._runs.functions.get(key), self._nodes.by_address.get(worker)
        if function is not None:
            name = worker if node is None else node.name
            function.run.logs.extend((function.position, attempt, name, *line) for line in lines)

    def unreadable(self, waiting: list[tuple[str, int]], failure: dict[str, Any], worker: str) -> None:
        """A result cannot be read where it is needed: what needs it has failed."""
        for key, run_id in waiting:
            if self._present(key, run_id) is not None:
                if "Could not serialize" in failure["exception_text"]:
                    self._tasks.forbid_retries(key)  # it will not travel another time either
                if self._passes_on(key, run_id, failure):
                    continue
                self.raised(key, run_id, failure["exception"])
                self._handle_erred(
                    key=key,
                    worker=worker,
                    run_id=run_id,
                    stimulus_id=f"handoff-unreadable-{time()}",
                    **failure,
                )

    def _passes_on(self, key: str, run_id: int, failure: dict[str, Any]) -> bool:
        """Whether a function whose argument cannot be read has failed, and what accepts that may run."""
        function, task = self._runs.functions[key], self._tasks.get(key)
        passes_on = function.run.passes_failures and task is not None and not task.retries
        if passes_on:
            self.gave_up(key, run_id, failure)
            self._tasks.release([key], "processing", "unreadable")
        return passes_on

    def seceded(self, key: Any, run_id: int, **kwargs: Any) -> None:
        """A task waits for others and has given its thread back; all else it keeps."""
        function = self._present(key, run_id)
        if function is not None:
            self._dispatcher.tell(function, life.Seceded())
        elif key not in self._runs.functions:
            self._dask_tasks.seceded(key, run_id)

    def runs_long(self, keys: list[tuple[str, float]], **kwargs: Any) -> None:
        """A worker says which of the functions that it was asked about do run, and for how long."""
        for key, elapsed_s in keys:
            function = self._runs.functions.get(key)
            if function is not None and function.is_on_node:
                self._recall.runs_long(function, elapsed_s)

    def _present(self, key: str, run_id: int) -> FunctionState | None:
        """The function of which this is the present attempt."""
        function = self._runs.functions.get(key)
        if function is None or not function.is_on_node or not self._tasks.is_present(key, run_id):
            return None
        return function
