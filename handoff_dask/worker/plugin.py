"""On each worker: detects and reports what it offers, and says when a thread is really over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from distributed.core import rpc
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.metrics import time

from handoff_dask import output
from handoff_dask.protocol.failed_values import FailedValue
from handoff_dask.protocol.names import (
    DEVICES,
    ENDED,
    GAVE_UP,
    LIMIT,
    LONG,
    NAME,
    OVERDUE_S,
    RAISED,
    REPORT,
    REPORT_STARTS,
    RUNS_LONG,
    SECEDED,
    STARTED,
    UNREADABLE,
    WATCH,
)
from handoff_dask.protocol.stage_call import StageCall
from handoff_dask.time_limit import Leftover
from handoff_dask.worker.admission import admit_by_lanes, admit_by_resources
from handoff_dask.worker.arrivals import Arrivals
from handoff_dask.worker.capabilities import detect
from handoff_dask.worker.clock import Clock
from handoff_dask.worker.constrained_tasks import as_before, let_nobody_block
from handoff_dask.worker.context import attempt_on_worker
from handoff_dask.worker.cores import facts_of
from handoff_dask.worker.failure_log import shorten
from handoff_dask.worker.isolated import IsolatedProcesses
from handoff_dask.worker.isolated_stage import IsolatedStageCall
from handoff_dask.worker.left_behind import LeftBehind
from handoff_dask.worker.logs import AttemptLogs
from handoff_dask.worker.streams import Streams
from handoff_dask.worker.usage import UsageMeter

if TYPE_CHECKING:
    from distributed import Worker
    from distributed.worker_state_machine import TaskState

logger = logging.getLogger(__name__)

#: Seconds that a start waits to be reported: what ends sooner is reported with its end.
START_S = 0.02


#: What is told of a failure, as Dask names it.
FAILURE = ("exception", "traceback", "exception_text", "traceback_text")


class HandoffWorkerPlugin(WorkerPlugin):
    """Reports a worker's capabilities to the scheduler; installed by the scheduler's plugin."""

    name = NAME

    def __init__(self) -> None:
        self._watched: dict[str, int] = {}
        self._left_behind = LeftBehind()
        self._report_starts = False
        #: Starts that are to be reported soon: ``{key: when, by this machine's clock}``.
        self._begun: dict[str, float] = {}
        #: Keys of tasks that have raised what is not worth another attempt.
        self._final: set[str] = set()

    async def setup(self, worker: Worker) -> None:
        """Announce this worker, and listen to the scheduler's plugin."""
        self.worker = worker
        self._clock = Clock(worker)
        self.streams = Streams(worker, self._isolated_stage)
        self._logs = AttemptLogs(worker)
        shorten()
        self.usage = UsageMeter(worker)
        self._isolated = IsolatedProcesses(max(1, worker.state.nthreads))
        let_nobody_block(worker.state)
        self._arrivals = Arrivals(worker, self._say_unreadable)
        await self._arrivals.start()
        worker.stream_handlers[WATCH] = self.watch
        worker.stream_handlers[REPORT_STARTS] = self.report_starts
        worker.stream_handlers[RUNS_LONG] = self.runs_long
        admit_by_lanes(worker)
        capabilities = detect(worker)
        try:
            # Over a connection of its own: those of the worker are left as they are without handoff.
            async with rpc(worker.scheduler.address, connection_args=worker.connection_args) as scheduler:
                answer = await getattr(scheduler, REPORT)(
                    worker=worker.address, capabilities=capabilities, facts=facts_of(worker)
                )
        except Exception as error:
            # A worker with the preload may come before the scheduler's plugin, which asks again.
            logger.info("The scheduler does not know handoff yet (%s)", error)
        else:
            self._report_starts = bool(answer)

    async def teardown(self, worker: Worker) -> None:
        """Stop listening."""
        self.streams.close()
        self._isolated.close()
        self._clock.close()
        self._logs.close()
        self.usage.close()
        await self._arrivals.close()
        as_before(self.worker.state)
        admit_by_resources(self.worker)
        if worker.stream_handlers.get(WATCH) == self.watch:
            # What is still on its way from the scheduler finds nobody, which is no error.
            for name in (WATCH, REPORT_STARTS, RUNS_LONG):
                worker.stream_handlers[name] = _ignore

    # ------------------------------------------------------------------ from the scheduler

    def watch(self, key: str, claim: int, **kwargs: Any) -> None:
        """Say when the task's thread is over: now, if it is not running."""
        if self._left_behind.watch(key, lambda: self._say_ended(claim)):
            return
        if self._runs(self.worker.state.tasks.get(key)):
            self._watched[key] = claim
        else:
            self._say_ended(claim)

    def report_starts(self, wanted: bool, **kwargs: Any) -> None:
        """Begin or stop to report starts; what runs already has started too."""
        self._report_starts = wanted
        if wanted:
            for task in [*self.worker.state.executing, *self.worker.state.long_running]:
                self._has_begun(task.key, task.start_time or time())

    def runs_long(self, keys: list[str], **kwargs: Any) -> None:
        """Say which of these tasks have run for longer than they may, and for how long."""
        now, state = time(), self.worker.state
        tasks = [task for key in keys if (task := state.tasks.get(key)) is not None]
        elapsed = [(t.key, now - t.start_time) for t in tasks if t in state.executing and t.start_time]
        long = [(key, elapsed_s) for key, elapsed_s in elapsed if elapsed_s > OVERDUE_S]
        if long:
            self.worker.batched_send({"op": LONG, "keys": long})

    # ------------------------------------------------------------------ from the worker

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Report starts where wanted, and the end of threads that are watched."""
        if start in ("executing", "long-running"):
            self._leaves(key, finish)
        if finish == "executing":
            output.ensure()
            self._clock.keep()
            self.usage.begins(key)
            self._arrivals.begins(self.worker.state.tasks[key])
            if self._report_starts:
                self._has_begun(key, time())
        if finish == "flight":
            # Times of transfers are to be comparable with those of tasks.
            self._clock.keep()
        if finish == "waiting" or (start == "flight" and finish == "error"):
            self._look_for_unreadable(self.worker.state.tasks[key], finish)
        elif finish in ("error", "memory"):
            self._has_ended(key, finish)
        elif finish == "long-running":
            self._say_seceded(key)
        elif finish == "released":
            self._arrivals.gone(key)
        self.streams.transition(key, finish)
        if key in self._watched and not self._runs(self.worker.state.tasks.get(key)):
            claim = self._watched.pop(key)
            if not self._left_behind.watch(key, lambda: self._say_ended(claim)):
                self._say_ended(claim)

    def _look_for_unreadable(self, task: TaskState, finish: str) -> None:
        """A task waits for results, or a result has not come: what cannot be read is told."""
        if finish == "error":
            self._say_unreadable(task.dependents, _failure(task))
            return
        for result in [result for result in task.dependencies if result.state == "error"]:
            self._say_unreadable([task], _failure(result))

    def _leaves(self, key: Any, finish: str) -> None:
        """Note that a task has ended, or is not wanted any more."""
        self._logs.ended(key)
        if finish != "long-running":
            self.usage.ended(self.worker.state.tasks[key])
        if finish == "released":
            # In a process of its own it can be ended.
            self._isolated.cancel(key)

    def _has_ended(self, key: str, finish: str) -> None:
        if finish == "error":
            self._say_raised(key)
        elif self.worker.state.tasks[key].type is FailedValue:
            self._say_gave_up(key)

    def _runs(self, task: TaskState | None) -> bool:
        state = self.worker.state
        return task is not None and (task in state.executing or task in state.long_running)

    def _say_ended(self, claim: int) -> None:
        self.worker.batched_send({"op": ENDED, "claim": claim})

    def is_final(self, key: str) -> None:
        """A task is about to raise what is not worth another attempt; called from its thread."""
        self._final.add(key)

    def _say_raised(self, key: str) -> None:
        # Dask's own message of a failure that is retried reaches no plugin with its exception.
        task = self.worker.state.tasks[key]
        self.worker.batched_send(
            {
                "op": RAISED,
                "key": key,
                "run_id": task.run_id,
                "startstops": task.startstops,
                "exception": task.exception,
                "left_behind": self._left_behind.has(key),
                "is_final": key in self._final,
                "text": task.exception_text,
            }
        )
        self._final.discard(key)

    def _say_gave_up(self, key: str) -> None:
        # Before Dask tells its scheduler of the result.
        task, value = self.worker.state.tasks[key], self.worker.data.get(key)
        if isinstance(value, FailedValue) and value.error is not None:
            self.worker.batched_send(
                {
                    "op": GAVE_UP,
                    "key": key,
                    "run_id": task.run_id,
                    "failure": value.message(),
                    "left_behind": self._left_behind.has(key),
                }
            )

    def run_isolated(
        self,
        call: Callable[..., Any],
        results: tuple[Any, ...],
        timeout_s: float | None,
        carrier: Mapping[str, str],
    ) -> Any:
        """Run a call in a process of its own; in the thread of its task."""
        key = str(self.worker.get_current_task())
        task = self.worker.state.tasks.get(key)
        annotations = {} if task is None else task.annotations or {}
        return self._isolated.run(
            key,
            call,
            results,
            resources=annotations.get("resources", {}),
            devices={name: list(indices) for name, indices in annotations.get(DEVICES, {}).items()},
            carrier=carrier,
            timeout_s=timeout_s,
            current=attempt_on_worker,
            limit=annotations.get(LIMIT, ""),
            used=lambda usage: self.usage.measured(key, usage),
        )

    def _isolated_stage(self, key: str, call: StageCall) -> IsolatedStageCall:
        """The call of an isolated stage, in a process that it keeps; in the thread of its task."""
        processes = self._isolated.for_stage()
        task = self.worker.state.tasks.get(key)
        annotations = {} if task is None else task.annotations or {}

        def run(code: Callable[..., Any], given: Any) -> Any:
            return processes.run(
                key,
                code,
                (given,),
                resources=annotations.get("resources", {}),
                devices={name: list(indices) for name, indices in annotations.get(DEVICES, {}).items()},
                carrier={},
                timeout_s=call.function.timeout,
                current=attempt_on_worker,
                limit="",
                used=lambda usage: None,
            )

        return IsolatedStageCall(call, run, processes.close)

    def left_behind(self, key: str, leftover: Leftover) -> None:
        """Note, from any thread, that the thread of a task goes on although its time is over."""
        # Before Dask learns that the task has ended: what calls back to its loop keeps its order.
        self.worker.loop.add_callback(self._left_behind.add, self.worker, key, leftover)

    def _say_unreadable(self, waiting: Iterable[TaskState], failure: Mapping[str, Any]) -> None:
        # Dask would let what needs it wait for ever.
        self.worker.batched_send(
            {
                "op": UNREADABLE,
                "waiting": [[task.key, task.run_id] for task in waiting],
                "failure": {name: failure[name] for name in FAILURE},
            }
        )

    def _has_begun(self, key: Any, moment: float) -> None:
        if not self._begun:
            self.worker.loop.call_later(START_S, self._say_started)
        self._begun[key] = moment

    def _say_started(self) -> None:
        begun, self._begun = self._begun, {}
        starts = []
        for key, moment in begun.items():
            task = self.worker.state.tasks.get(key)
            if task is not None and self._runs(task):
                # Its thread may have begun a little later than Dask sent it there.
                began = max(moment, task.start_time or moment)
                starts.append([key, task.run_id, began + self.worker.scheduler_delay])
        if starts:
            self.worker.batched_send({"op": STARTED, "starts": starts})

    def _say_seceded(self, key: str) -> None:
        # Dask tells its scheduler too, but no plugin hears of it.
        task = self.worker.state.tasks[key]
        self.worker.batched_send({"op": SECEDED, "key": key, "run_id": task.run_id})


def _failure(task: TaskState) -> dict[str, Any]:
    """Why a task is in error, as Dask has it."""
    return {name: getattr(task, name) for name in FAILURE}


def _ignore(**message: Any) -> None:
    """Nobody listens any more."""
