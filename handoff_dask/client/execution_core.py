"""The asynchronous core of an execution: its state, and the coroutines behind its methods."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast
from weakref import WeakSet

from dask.utils import format_bytes
from distributed import Future
from distributed.metrics import time
from distributed.protocol import pickle
from toolz import frequencies

from handoff_dask import config
from handoff_dask.client.compile import Compiled
from handoff_dask.client.completed import Completed
from handoff_dask.client.execution_record import Failures, failed_error, failures_of, record_of
from handoff_dask.client.explain import explain_function
from handoff_dask.client.explanations import FunctionExplanation, from_record
from handoff_dask.client.input_checks import settled
from handoff_dask.client.reuse import CachedValues
from handoff_dask.client.scheduler_link import SchedulerLink
from handoff_dask.errors import (
    AllocationError,
    ExecutionCancelledError,
    FunctionFailedError,
    HandoffError,
    NotFoundError,
    SchedulerLostError,
    ValidationError,
    copy_of,
)
from handoff_dask.graph.arguments import did_you_mean, id_of
from handoff_dask.graph.dag import DAG
from handoff_dask.protocol.failed_values import FailedValue
from handoff_dask.protocol.futures import adopt
from handoff_dask.protocol.outcome import Outcome
from handoff_dask.record.execution import ExecutionRecord, Timing
from handoff_dask.record.logs import Logs
from handoff_dask.record.result import ExecutionResult
from handoff_dask.record.status import FINISHED, ExecutionStatus
from handoff_dask.visualization.displays import counts_summary, record_summary
from handoff_dask.visualization.summary import Summary, id_text

#: Seconds that the scheduler has to answer when an execution is printed.
PATIENCE_S = 2.0

#: Seconds that fetching a result may take which is there when it is asked for.
LEAST_S = 1.0

#: Fetches the results of a run: called with the DAG's id, the run's token and ``{id: future}``.
Collect: TypeAlias = Callable[
    [Hashable, str, Mapping[Hashable, "Future[Any]"]], Awaitable[dict[Hashable, Any]]
]


class Companion(Protocol):
    """Something that accompanies an execution until it is over: its progress bar, its planner, ..."""

    def end(self, outcome: Outcome | None, status: ExecutionStatus) -> None:
        """The execution is over."""


class ExecutionCore:
    """The state of an execution.

    Parameters
    ----------
    link
        The link to the scheduler.
    collect
        Fetches results.
    dag
        The DAG.
    compiled
        What was sent to Dask for it.
    futures
        ``{function id: distributed.Future}`` of the functions whose results were asked for.
    """

    def __init__(
        self,
        link: SchedulerLink,
        collect: Collect,
        dag: DAG,
        compiled: Compiled,
        futures: dict[Hashable, Future[Any]],
    ) -> None:
        self._link = link
        self._collect = collect
        self._dag = dag
        #: What was sent to Dask.
        self.compiled = compiled
        #: ``{function id: distributed.Future}`` of the functions whose results were asked for.
        self.futures = futures
        self._status: ExecutionStatus = "pending"
        self._outcome: Outcome | None = None
        self._error: BaseException | None = None
        self._failures = Failures()
        #: Whether it goes on without this session.
        self.is_detached = False
        #: Values of functions that did not run, if there are any.
        self.cached: CachedValues | None = None
        #: Waits until the scheduler knows what the results depend on; None if nobody is to know.
        self.noting: Callable[[], Awaitable[None]] | None = None
        self._ended = asyncio.Event()
        self._timed_out: TimeoutError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._companions: list[Companion] = []
        #: Whoever takes results as they come.
        self._followed: WeakSet[Completed] = WeakSet()
        #: Whether nobody has said which results are wanted.
        self.asks_for_all = False

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"<{name} of DAG {self.dag_id!r}: {self.status}, {len(self.futures)} results>"

    def __str__(self) -> str:
        return str(self._summary(picture=False))

    def _repr_html_(self) -> str:
        return self._summary().html()

    def _summary(self, *, picture: bool = True) -> Summary:
        kind, record = "Execution of DAG", self._record_now()
        error = None if self._error is None else f"{type(self._error).__name__}: {self._error}"
        if record is None:
            known = {"finished": "finished", "error": "failed", "cancelled": "cancelled"}
            counts = frequencies(known.get(str(f.status), "pending") for f in self.futures.values())
            return counts_summary(kind, id_text(self.dag_id), self.status, counts, error)
        return record_summary(kind, record, picture=picture, now=time(), error=error)

    def _record_now(self) -> ExecutionRecord | None:
        """All that is known by now, if that can be had without waiting for long."""
        if self.is_over or self._link.asynchronous or not self._link.is_usable:
            return self.final_record
        try:
            record: ExecutionRecord = self._link.client.sync(self.fetch_record, callback_timeout=PATIENCE_S)
        except Exception:  # whatever is wrong with the connection, it is no reason not to print
            return None
        return record

    @property
    def dag_id(self) -> Hashable:
        """The DAG's id."""
        return self._dag.id

    @property
    def dag(self) -> DAG:
        """The DAG."""
        return self._dag

    @property
    def token(self) -> str:
        """The name of this run of the DAG on the scheduler."""
        return self.compiled.manifest.token

    @property
    def status(self) -> ExecutionStatus:
        """``"pending"``, ``"running"``, ``"finished"``, ``"failed"`` or ``"cancelled"``."""
        return self._status

    @property
    def failure(self) -> BaseException | None:
        """What it fails with, once it is over and has not ended well."""
        return self._error

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        return self._ended.is_set()

    @property
    def final_record(self) -> ExecutionRecord | None:
        """The record of an execution that is over, made without asking the scheduler; else ``None``."""
        outcome = self._outcome
        if outcome is None:
            return None
        return record_of(self._dag, self.compiled, outcome, self._failures.failed)

    # ------------------------------------------------------------------ results

    async def wait(self, timeout: float | None = None) -> None:
        """Wait for the end, well or not, without fetching anything.

        Raises
        ------
        TimeoutError
            If it has not ended within ``timeout`` seconds.
        """
        await self._link.run(self.wait_until_over, timeout)

    async def wait_until_over(self, timeout: float | None = None) -> None:
        """Wait for the end, well or not.

        Raises
        ------
        TimeoutError
            If it has not ended within ``timeout`` seconds.
        """
        if self.is_over:  # which no timeout, however short, should hide
            return
        try:
            await asyncio.wait_for(self._ended.wait(), timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(
                f"the execution of DAG {self.dag_id!r} has not ended within {timeout} s; it goes on"
            ) from None

    async def fetch(self, timeout: float | None = None) -> ExecutionResult:
        """Wait for the end, and fetch all results; see :meth:`Execution.result`."""
        await self.wait_until_over(timeout)
        if self._error is not self._failures.error or self._raises_failures:
            self._raise_error()
        assert self._outcome is not None
        self._warn_of_size(self._outcome)
        return await self._result(self._outcome, self._failures)

    @property
    def _raises_failures(self) -> bool:
        return self.compiled.manifest.options.on_failure != "return"

    async def _result(
        self, outcome: Outcome, failures: Failures, *, partial: bool = False
    ) -> ExecutionResult:
        """What has ended well."""
        states = outcome.states or [""] * len(self.compiled.keys)
        ids = list(self.compiled.keys)
        finished = {ids[n]: n for n, status in enumerate(states) if status == FINISHED}
        futures: Mapping[Hashable, Future[Any]] = self.futures
        if outcome.status != FINISHED:
            earlier = self.compiled.wanted_earlier
            futures = {i: f for i, f in futures.items() if i in finished or i in earlier}
        if partial:
            # What a worker has lost meanwhile is not there; nobody waits for it here.
            futures = {i: f for i, f in futures.items() if f.status == FINISHED}
        results = await self._collect(self.dag_id, self.token, futures)
        if self.cached is not None and self.compiled.wanted_reused:
            results.update(await self.cached.fetch(self.compiled.wanted_reused))
            results = {i: results[i] for i in self._dag.functions if i in results} | results
        # The result must not hold this execution, and with it the memory of workers.
        dag, compiled = self._dag, self.compiled
        bodies, reused = compiled.expansion.bodies, compiled.reused
        ran = [
            (i, n)
            for i, n in finished.items()
            if outcome.stop[n] is not None and i not in reused and not bodies[i].is_spawn
        ]
        return ExecutionResult(
            dag_id=self.dag_id,
            results=results,
            allocations={i: node for i, n in ran if (node := outcome.nodes[n]) is not None},
            timings={
                i: Timing(outcome.start[n] or 0.0, outcome.stop[n] or 0.0, outcome.attempts[n])
                for i, n in ran
            },
            record=lambda: record_of(dag, compiled, outcome, failures.failed),
            failed=failures.failed,
            skipped=failures.skipped,
            reused=reused,
        )

    def _warn_of_size(self, outcome: Outcome) -> None:
        """Warn before much is fetched that other functions take, and that nobody has asked for."""
        if self.asks_for_all and outcome.nbytes:
            sinks = set(self._dag.sinks())
            sizes = dict(zip(self.compiled.keys, outcome.nbytes, strict=True))
            between = {i: sizes.get(i) or 0 for i in self.futures if i not in sinks}
            total = sum(between.values())
            if total > config.nbytes("fetch-warning"):
                largest = max(between, key=lambda i: between[i])
                warnings.warn(
                    f"{format_bytes(total)} of the results of DAG {self.dag_id!r} are fetched although other "
                    f"functions take them ({largest!r} has {format_bytes(between[largest])}); name what you "
                    'want, execute(dag, outputs="sinks") say, or raise handoff.fetch-warning',
                    stacklevel=2,
                )

    async def fingerprints_noted(self) -> None:
        """Wait until the scheduler knows what the results of this execution depend on."""
        if self.noting is not None:
            await self.noting()

    async def fetch_partial(self) -> ExecutionResult:
        """What has ended well so far; see :meth:`Execution.partial`."""
        outcome, failures = self._outcome, self._failures
        if outcome is None:
            outcome, failures = await self._so_far()
        return await self._result(outcome, failures, partial=True)

    async def _so_far(self) -> tuple[Outcome, Failures]:
        """How it stands now."""
        try:
            packed, exceptions = await self._link.ask("so_far", token=self.token)
        except (NotFoundError, SchedulerLostError):
            return Outcome(token=self.token, status=self._status), Failures()
        outcome: Outcome = pickle.loads(packed)
        self.has_grown(outcome.spawned)
        return outcome, failures_of(self.compiled, outcome, exceptions)

    async def fetch_result(self, function_id: Hashable, timeout: float | None = None) -> Any:
        """Wait for one function's result, and fetch it; see :meth:`Execution.get_result`."""
        function_id = id_of(function_id)
        if self.cached is not None and function_id in self.compiled.wanted_reused:
            return (await self.cached.fetch([function_id]))[function_id]
        future = self.futures.get(function_id)
        if future is None:
            hint = did_you_mean(function_id, self.futures, "a result")
            raise NotFoundError("result", function_id, f"DAG {self.dag_id!r} was not asked for it; {hint}")
        # What is there now is fetched, however little time the caller gives.
        limit_s = max(timeout, LEAST_S) if timeout is not None and future.status == "finished" else timeout
        try:
            return await asyncio.wait_for(self._fetch_one(function_id, future), limit_s)
        except asyncio.TimeoutError:
            raise TimeoutError(
                f"{function_id!r} of DAG {self.dag_id!r} is not there within {timeout} s"
            ) from None

    async def _fetch_one(self, function_id: Hashable, future: Future[Any]) -> Any:
        ended = asyncio.ensure_future(self._ended.wait())
        there = asyncio.ensure_future(settled(future))
        try:
            await asyncio.wait({ended, there}, return_when=asyncio.FIRST_COMPLETED)
            if future.status != "finished":
                self._raise_error(function_id)
            # One that was lost with its node is computed again.
            await there
            if future.status != "finished" and self._outcome is None:
                await self._raise_failure_of(function_id)
            try:
                result = await self._collect(self.dag_id, self.token, {function_id: future})
            except AllocationError as error:  # of what it was made of: its run had ended well
                raise NotFoundError(
                    "result", function_id, f"it was lost with its node and cannot be computed again: {error}"
                ) from error
            if isinstance(result[function_id], FailedValue):
                await self._raise_failure_of(function_id)
            return result[function_id]
        finally:
            ended.cancel()
            there.cancel()

    async def _raise_failure_of(self, function_id: Hashable) -> None:
        """Raise what has become of a function that has no result."""
        if self._outcome is None and self.compiled.manifest.options.on_failure != "stop":
            outcome, failures = await self._so_far()
            self._raise_failure(outcome, failures, function_id)
        # The message how the run ended is on its way.
        await self._ended.wait()
        self._raise_error(function_id)

    def _raise_failure(self, outcome: Outcome, failures: Failures, function_id: Hashable) -> None:
        blamed = failures.skipped.get(function_id, function_id)
        if blamed in failures.failed:
            error = failed_error(self.compiled, outcome, failures.failed, failures.skipped, blamed)
            raise error.of(self) if isinstance(error, FunctionFailedError) else error

    def completed(self) -> Completed:
        """Pairs ``(id, value)`` as they come; see :meth:`Execution.as_completed`."""
        goes_on = self.compiled.manifest.options.on_failure != "stop"
        known = self.compiled.wanted_reused
        completed = Completed(
            self._link, self.futures, self._collect_one, self._has_ended_well, goes_on, known
        )
        self._followed.add(completed)
        return completed

    async def _collect_one(self, function_id: Hashable) -> Any:
        if function_id not in self.futures:
            return await self.fetch_result(function_id)
        result = await self._collect(self.dag_id, self.token, {function_id: self.futures[function_id]})
        return result[function_id]

    async def _has_ended_well(self) -> None:
        """Wait for the end; raise what the execution fails with."""
        await self.wait_until_over()
        if self._error is not self._failures.error or self._raises_failures:
            self._raise_error()

    def _raise_error(self, function_id: Hashable = None) -> None:
        """Raise what the execution failed with; of a function of one that went on, its own failure."""
        if self._error is None:
            return
        if self._outcome is not None and self.compiled.manifest.options.on_failure != "stop":
            self._raise_failure(self._outcome, self._failures, function_id)
        if isinstance(self._error, FunctionFailedError):
            raise self._error.of(self)
        # Each time anew: what is raised holds the frames that it passed, and they hold this.
        raise copy_of(self._error)

    async def cancel_run(self) -> None:
        """Start nothing further; see :meth:`Execution.cancel`."""
        if not self.is_over:
            await self._link.ask("cancel", token=self.token)
            await self._ended.wait()

    # ------------------------------------------------------------------ record

    async def fetch_record(self) -> ExecutionRecord:
        """All that is known by now; see :meth:`Execution.record`."""
        outcome, failures = self._outcome, self._failures
        if outcome is None:
            outcome, failures = await self._so_far()
        return record_of(self._dag, self.compiled, outcome, failures.failed)

    async def fetch_logs(self, function_id: Hashable = None) -> Logs:
        """What functions printed and logged; see :meth:`Execution.logs`."""
        return (await self.fetch_record()).logs.of(function_id)

    async def explain_function(self, function_id: Hashable) -> FunctionExplanation:
        """Why a function waits, or ran where it did; see :meth:`Execution.explain`."""
        self._link.refuse_if_over()
        function_id = id_of(function_id)
        keys = list(self.compiled.keys)
        if function_id not in keys:
            return from_record(await self.fetch_record(), function_id)
        try:
            return await explain_function(self._link.ask, self.token, self.dag_id, keys, function_id)
        except (NotFoundError, SchedulerLostError):
            if not self.is_over:
                raise
            return from_record(await self.fetch_record(), function_id)

    # ------------------------------------------------------------------ changes of state

    def accompany(self, companion: Companion | None) -> None:
        """Have something ended together with this execution."""
        if companion is not None:
            self._companions.append(companion)

    def cancel_after(self, timeout: float | None) -> None:
        """Cancel it unless it has ended within so many seconds."""
        if timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(
                timeout, lambda: asyncio.ensure_future(self._time_out(timeout))
            )

    async def _time_out(self, timeout: float) -> None:
        if not self._ended.is_set():
            self._timed_out = TimeoutError(
                f"DAG {self.dag_id!r} has not ended within {timeout} s; it has been cancelled"
            )
            await self.cancel_run()

    def has_begun(self) -> None:
        """The scheduler has placed the first function."""
        if self._status == "pending":
            self._status = "running"

    def has_grown(self, spawned: Sequence[tuple[int, int, int]]) -> None:
        """The scheduler has got items of a map."""
        new = self.compiled.take_items(spawned)
        if new and self.compiled.expansion.all_wanted:
            # The scheduler has noted already that this client wants them.
            items: dict[Hashable, Future[Any]] = {i: Future(key) for i, key in new.items()}
            adopt(items.values(), self._link.client)
            self.futures.update(items)
            for completed in self._followed:
                completed.add(items)

    def has_ended(self, outcome: Outcome, exceptions: Sequence[Sequence[Any]] = ()) -> None:
        """The scheduler reports the end; of several ends the first counts."""
        if self.is_over:
            return
        self._outcome = outcome
        self.has_grown(outcome.spawned)
        self._status = cast("ExecutionStatus", outcome.status)
        if outcome.status == "failed":
            try:
                self._failures = failures_of(self.compiled, outcome, exceptions)
                self._error = self._failures.error
            except Exception as error:  # nobody must wait for ever because the reason cannot be read
                self._error = HandoffError(f"DAG {self.dag_id!r} has failed; why cannot be read: {error!r}")
                self._error.__cause__ = error
        elif outcome.status == "cancelled":
            self._error = self._timed_out or ExecutionCancelledError(self.dag_id)
        self._set_ended()

    def is_lost(self, error: BaseException) -> None:
        """No report of the end will come; the execution fails with this error."""
        if not self.is_over:
            self._status = "failed"
            self._error = error
            self._set_ended()

    def release(self) -> None:
        """Release its futures, so that the cluster drops its results."""
        for future in self.futures.values():
            future.release()
        self._error = NotFoundError("execution", self.dag_id, "it has been forgotten; submit the DAG again")

    def _set_ended(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Before anybody goes on who waits: what is printed next belongs below the progress bar.
        companions, self._companions = self._companions, []
        for companion in companions:
            companion.end(self._outcome, self._status)
        self._ended.set()


async def results_of(
    execution: ExecutionCore | ExecutionResult, timeout: float | None
) -> Mapping[Hashable, Any]:
    """Wait for an execution; its dict of results."""
    if isinstance(execution, ExecutionResult):
        return execution.results
    return (await execution.fetch(timeout)).results


def refuse_other_than_execution(execution: object) -> None:
    """Refuse what is neither an execution nor a result.

    Raises
    ------
    ValidationError
        If it is neither.
    """
    if not isinstance(execution, (ExecutionCore, ExecutionResult)):
        raise ValidationError(f"{execution!r} is no execution; give what submit or execute has returned")
