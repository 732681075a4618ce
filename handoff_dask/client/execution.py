"""A run as its submitter holds it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Hashable
from traceback import format_exception
from typing import TYPE_CHECKING, Any

from distributed import Future
from distributed.core import clean_exception

from handoff_dask.client.compile import Compiled
from handoff_dask.client.completed import Completed
from handoff_dask.client.input_checks import Minder, settled
from handoff_dask.client.options import timeout_s
from handoff_dask.client.planner import Planner
from handoff_dask.client.progress import Follower, follow
from handoff_dask.errors import (
    AllocationError,
    ExecutionCancelledError,
    FunctionFailedError,
    HandoffError,
    NotFoundError,
    SchedulerLostError,
)
from handoff_dask.protocol.outcome import Outcome
from handoff_dask.record.execution import ExecutionRecord, FunctionRecord, Timing
from handoff_dask.record.result import ExecutionResult

if TYPE_CHECKING:
    from handoff_dask.client.session import Handoff
    from handoff_dask.graph.dag import DAG

logger = logging.getLogger(__name__)


class Execution:
    """A DAG that is being executed, or was.

    With an asynchronous client, what waits returns an awaitable; so is the execution itself.
    """

    def __init__(
        self, session: Handoff, dag: DAG, compiled: Compiled, futures: dict[Hashable, Future[Any]]
    ) -> None:
        #: The session through which it was submitted.
        self.session = session
        self._dag = dag
        #: What was sent to Dask.
        self.compiled = compiled
        self._status = "pending"
        self._outcome: Outcome | None = None
        self._error: BaseException | None = None
        self._ended = asyncio.Event()
        self._planning: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timed_out: TimeoutError | None = None
        self._minder: Minder | None = None
        self._follower: Follower | None = None
        #: ``{function id: distributed.Future}`` of the functions whose results were asked for.
        self.futures = futures

    def __repr__(self) -> str:
        return f"<Execution of DAG {self.dag_id!r}: {self.status}, {len(self.futures)} results>"

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
        """What names this run of the DAG on the scheduler."""
        return self.compiled.manifest.token

    @property
    def status(self) -> str:
        """``"pending"``, ``"running"``, ``"finished"``, ``"failed"`` or ``"cancelled"``."""
        return self._status

    # ------------------------------------------------------------------ results

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end; what the execution came to.

        Parameters
        ----------
        timeout
            Seconds; ``None`` waits for ever.

        Returns
        -------
        ExecutionResult

        Raises
        ------
        TimeoutError
            If it has not ended by then.  The execution goes on.
        FunctionFailedError
            If a function has failed for good; its exception is the cause.
        AllocationError
            If a function can run on no node.
        ExecutionCancelledError
            If it was cancelled.
        """
        return self.session.wait_for(self._result, timeout_s(timeout))

    def get_result(self, function_id: Hashable, timeout: float | None = None) -> Any:
        """Wait for one function's result, and fetch it.

        Raises
        ------
        NotFoundError
            If the function's result was not asked for.
        TimeoutError
            If it is not there within ``timeout`` seconds.
        HandoffError
            What :meth:`result` raises, if the result will never come.
        """
        return self.session.wait_for(self._get_result, function_id, timeout_s(timeout))

    def as_completed(self) -> Completed:
        """Pairs ``(id, value)`` as they come; raises what the execution fails with."""
        return Completed(self)

    def cancel(self) -> Any:
        """Start nothing further, drop what is queued."""
        return self.session.sync(self._cancel)

    def __await__(self) -> Generator[Any, None, ExecutionResult]:
        if self.session.asynchronous:
            return self._result(None).__await__()
        return asyncio.to_thread(self.result).__await__()

    async def wait(self, timeout: float | None = None) -> None:
        """Until it is over, well or not."""
        if self.is_over:  # which no timeout, however short, should hide
            return
        try:
            await asyncio.wait_for(self._ended.wait(), timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(
                f"the execution of DAG {self.dag_id!r} has not ended within {timeout} s; it goes on"
            ) from None

    async def _result(self, timeout: float | None) -> ExecutionResult:
        await self.wait(timeout)
        if self._error is not None:
            raise self._error.with_traceback(None)  # each time anew
        assert self._outcome is not None
        results = await self.session.results.gather(self.dag_id, self.futures)
        await self.session.results.fetched(self.dag_id, self.token, results)
        # The result must not hold this execution, and with it the memory of workers.
        dag, compiled, outcome = self._dag, self.compiled, self._outcome
        keys = compiled.keys
        ran = [(i, n) for n, i in enumerate(keys) if outcome.stop[n] is not None]
        return ExecutionResult(
            dag_id=self.dag_id,
            results=results,
            allocations={i: node for i, n in ran if (node := outcome.nodes[n]) is not None},
            timings={
                i: Timing(outcome.start[n] or 0.0, outcome.stop[n] or 0.0, outcome.attempts[n])
                for i, n in ran
            },
            record=lambda: record_of(dag, compiled, outcome),
        )

    async def _get_result(self, function_id: Hashable, timeout: float | None) -> Any:
        future = self.futures.get(function_id)
        if future is None:
            raise NotFoundError("result", function_id, f"DAG {self.dag_id!r} was not asked for it")
        ended = asyncio.ensure_future(self._ended.wait())
        there = asyncio.ensure_future(settled(future))
        try:
            await asyncio.wait({ended, there}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if future.status != "finished" and self._error is not None:
                raise self._error.with_traceback(None)  # each time anew
            if not there.done() and not ended.done():
                raise TimeoutError(f"{function_id!r} of DAG {self.dag_id!r} is not there within {timeout} s")
            if future.status != "finished" and self._outcome is None:
                # The future failed; how the run ended is on its way.
                await self._ended.wait()
                if self._error is not None:
                    raise self._error.with_traceback(None)  # each time anew
            result = await self.session.results.gather(self.dag_id, {function_id: future})
            await self.session.results.fetched(self.dag_id, self.token, result)
            return result[function_id]
        finally:
            ended.cancel()
            there.cancel()

    async def _cancel(self) -> None:
        if not self.is_over:
            await self.session.ask("cancel", token=self.token)
            await self._ended.wait()

    # ------------------------------------------------------------------ record

    def record(self) -> Any:
        """All that is known by now, for pictures and reports.

        Returns
        -------
        ExecutionRecord
        """
        if not self.session.asynchronous and (final := self.final_record) is not None:
            return final
        return self.session.sync(self._record)

    @property
    def final_record(self) -> ExecutionRecord | None:
        """The record of an execution that is over, which nobody needs to be asked for; else ``None``."""
        outcome = self._outcome
        return None if outcome is None else record_of(self._dag, self.compiled, outcome, self._error)

    async def _record(self) -> ExecutionRecord:
        outcome = self._outcome
        if outcome is None:
            try:
                outcome = await self.session.ask("outcome", token=self.compiled.manifest.token)
            except (NotFoundError, SchedulerLostError):
                outcome = Outcome(token=self.compiled.manifest.token, status=self._status)
        return record_of(self._dag, self.compiled, outcome, self._error)

    def explain(self, function_id: Hashable) -> Any:
        """Why a function waits, or where it ran and why there.

        Returns
        -------
        FunctionExplanation

        Raises
        ------
        NotFoundError
            If the DAG has no such function, or it never runs on its own.
        """
        return self.session.explain(self, function_id)

    # ------------------------------------------------------------------ told by the session

    def show_progress(self) -> None:
        """Show how it goes until it ends, where anybody can see it."""
        self._follower = follow(self)

    def has_begun(self) -> None:
        """The scheduler has placed the first function."""
        if self._status == "pending":
            self._status = "running"

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        return self._ended.is_set()

    def plan(self) -> None:
        """Look for a better order while it goes on, where that may help."""
        planner = Planner(self)
        if planner.is_worth_while:
            self._planning = asyncio.ensure_future(planner.run())

    def guard(self, timeout: float | None) -> None:
        """Cancel it unless it has ended within so many seconds."""
        if timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(
                timeout, lambda: asyncio.ensure_future(self._time_out(timeout))
            )

    def mind(self) -> None:
        """Notice what nobody would say: that the graph never reaches the scheduler's plugin, say."""
        self._minder = Minder(self)

    async def _time_out(self, timeout: float) -> None:
        if not self._ended.is_set():
            self._timed_out = TimeoutError(
                f"DAG {self.dag_id!r} has not ended within {timeout} s; it has been cancelled"
            )
            await self._cancel()

    def has_ended(self, outcome: Outcome, exception: Any, traceback: Any) -> None:
        """The scheduler says how it ended; of several ends the first counts."""
        if self.is_over:
            return
        self._outcome = outcome
        self._status = outcome.status
        if outcome.status == "failed":
            try:
                self._error = self._failure(outcome, exception, traceback)
            except Exception as error:  # nobody must wait for ever because the reason cannot be told
                self._error = HandoffError(f"DAG {self.dag_id!r} has failed; why cannot be read: {error!r}")
                self._error.__cause__ = error
        elif outcome.status == "cancelled":
            self._error = self._timed_out or ExecutionCancelledError(self.dag_id)
        self._set_ended()

    def _set_ended(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._follower is not None:
            # First of all: what is printed next belongs below the bar.
            self._follower.end(self._outcome, self._status)
        if self._planning is not None:
            self._planning.cancel()
        self._ended.set()
        minder, self._minder = self._minder, None
        if minder is not None:
            minder.end()

    def release(self) -> None:
        """Let its results go."""
        for future in self.futures.values():
            future.release()
        self._error = NotFoundError("execution", self.dag_id, "it has been forgotten; submit the DAG again")

    def is_lost(self, error: BaseException) -> None:
        """The scheduler will say nothing any more."""
        if not self.is_over:
            self._status = "failed"
            self._error = error
            self._set_ended()

    def _failure(self, outcome: Outcome, exception: Any, traceback: Any) -> BaseException:
        position = outcome.failed
        assert position is not None
        function_id = list(self.compiled.keys)[position]
        function = self.compiled.expansion.functions[function_id]
        if outcome.refusal is not None:
            return AllocationError(function_id, function.cost, *outcome.refusal)
        try:
            _, cause, trace = clean_exception(exception, traceback)
        except Exception:  # whatever unpickling the user's traceback raises here
            logger.warning("the traceback of %r cannot be read here", function_id, exc_info=True)
            _, cause, trace = clean_exception(exception)
        if cause is not None and trace is not None:
            cause = cause.with_traceback(trace)
        return FunctionFailedError(function_id, outcome.nodes[position], outcome.attempts[position], cause)


def _settled_status(outcome: Outcome, status: str) -> str:
    """What had not begun when a run failed or was cancelled never will."""
    dropped = outcome.status in ("failed", "cancelled") and status in ("pending", "waiting")
    return "cancelled" if dropped else status


def record_of(
    dag: DAG, compiled: Compiled, outcome: Outcome, error: BaseException | None = None
) -> ExecutionRecord:
    """What the scheduler knows of a run, with what the DAG says of its functions."""
    failed = outcome.failed if isinstance(error, FunctionFailedError) else None
    positions = {i: n for n, i in enumerate(compiled.keys)}
    functions = []
    for i, function in compiled.expansion.functions.items():
        facts: dict[str, Any] = {
            "id": i,
            "name": function.name,
            "args": function.argument_ids,
            "type": function.type,
            "cost": function.cost or {},
            "duration_s": function.duration,
        }
        n = positions.get(i)
        if n is None:
            facts["status"] = "none"
        elif outcome.states:
            facts.update(
                status=_settled_status(outcome, outcome.states[n]),
                node=outcome.nodes[n],
                ready=outcome.ready[n],
                placed=outcome.placed[n],
                start=outcome.start[n],
                stop=outcome.stop[n],
                attempts=outcome.attempts[n],
                cause=outcome.causes[n],
                nbytes=outcome.nbytes[n],
                transfer_s=outcome.transfers[n] if outcome.transfers else None,
            )
        if error is not None and n is not None and n == failed:
            facts["error"] = "".join(format_exception(error.__cause__ or error))
        functions.append(FunctionRecord(**facts))
    return ExecutionRecord(
        dag_id=dag.id,
        status=outcome.status,
        functions=tuple(functions),
        nodes=outcome.capabilities,
        strategy=compiled.manifest.options.strategy_name,
        submitted=outcome.submitted or None,
        ended=outcome.ended,
    )
