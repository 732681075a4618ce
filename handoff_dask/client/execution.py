"""Executions: the blocking and the asynchronous class."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Hashable, Iterator
from typing import Any

from handoff_dask.client.execution_core import ExecutionCore
from handoff_dask.client.explanations import FunctionExplanation
from handoff_dask.client.options import timeout_s
from handoff_dask.record.execution import ExecutionRecord
from handoff_dask.record.logs import Logs
from handoff_dask.record.result import ExecutionResult


class Execution(ExecutionCore):
    """A DAG that is being executed, or was.

    Made by :func:`~handoff_dask.submit`.  With an asynchronous client, methods that wait return
    awaitables, and the execution itself is awaitable; :class:`AsyncExecution` has the types for that.
    """

    def result(self, timeout: float | None = None) -> ExecutionResult:
        """Wait for the end, and fetch the results.

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
        return self._link.wait_for(self.fetch, timeout_s(timeout))

    def get_result(self, function_id: Hashable, timeout: float | None = None) -> Any:
        """Wait for one function's result, and fetch it.

        Parameters
        ----------
        function_id
            The function.
        timeout
            Seconds; ``None`` waits for ever.

        Returns
        -------
        Any
            What the function returned.

        Raises
        ------
        NotFoundError
            If the function's result was not asked for.
        TimeoutError
            If it is not there within ``timeout`` seconds.
        HandoffError
            What :meth:`result` raises, if the result will never come.
        """
        return self._link.wait_for(self.fetch_result, function_id, timeout_s(timeout))

    def as_completed(self) -> Iterator[tuple[Hashable, Any]]:
        """Iterate over results as they come; with ``async for`` too.

        Where the execution goes on after failures, all that ends well comes before they are raised.

        Returns
        -------
        iterator of (id, value)

        Raises
        ------
        HandoffError
            While iterating: what :meth:`result` raises.
        """
        return self.completed()

    def partial(self) -> ExecutionResult:
        """What has ended well so far, at any time: also of an execution that has failed or was cancelled.

        Returns
        -------
        ExecutionResult
            ``failed`` and ``skipped`` say what has failed so far.
        """
        return self._link.wait_for(self.fetch_partial)

    def cancel(self) -> None:
        """Start no further function, and drop what is queued.

        A function that is running runs to its end; its result is dropped.
        """
        return self._link.sync(self.cancel_run)

    def record(self) -> ExecutionRecord:
        """All that is known by now, for pictures and reports.

        Returns
        -------
        ExecutionRecord
        """
        if not self._link.asynchronous and (final := self.final_record) is not None:
            return final
        return self._link.sync(self.fetch_record)

    def logs(self, function_id: Hashable = None) -> Logs:
        """What a function, or all of them, printed and logged so far; also after a failure.

        Parameters
        ----------
        function_id
            Id or reference of a function; all if ``None``.

        Returns
        -------
        Logs
            Lines with ``function_id``, ``attempt``, ``node``, ``time``, ``source`` and ``text``: the last of
            each attempt and of the execution.  ``print`` shows them; ``"text" in logs`` looks for a text.
        """
        return self._link.sync(self.fetch_logs, function_id)

    def explain(self, function_id: Hashable) -> FunctionExplanation:
        """Why a function waits, or where it ran and why there.

        Parameters
        ----------
        function_id
            The function.

        Returns
        -------
        FunctionExplanation

        Raises
        ------
        NotFoundError
            If the DAG has no such function, or it never runs on its own.
        """
        return self._link.sync(self.explain_function, function_id)

    def __await__(self) -> Generator[Any, None, ExecutionResult]:
        if self._link.asynchronous:
            return self.fetch().__await__()
        return asyncio.to_thread(self.result).__await__()


class AsyncExecution(ExecutionCore):
    """A DAG that is being executed, or was; methods that wait are coroutines.

    Made by :meth:`AsyncHandoff.submit`.  To await it is to await :meth:`result`.
    """

    async def result(self, timeout: float | None = None) -> ExecutionResult:
        """Wait for the end, and fetch the results.

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
        FunctionFailedError, AllocationError, ExecutionCancelledError
            As :meth:`Execution.result`.
        """
        return await self._link.run(self.fetch, timeout_s(timeout))

    async def get_result(self, function_id: Hashable, timeout: float | None = None) -> Any:
        """Wait for one function's result, and fetch it.

        Parameters
        ----------
        function_id
            The function.
        timeout
            Seconds; ``None`` waits for ever.

        Raises
        ------
        NotFoundError, TimeoutError, HandoffError
            As :meth:`Execution.get_result`.
        """
        return await self._link.run(self.fetch_result, function_id, timeout_s(timeout))

    def as_completed(self) -> AsyncIterator[tuple[Hashable, Any]]:
        """Iterate over results as they come, with ``async for``; raises what the execution fails with.

        Returns
        -------
        asynchronous iterator of (id, value)
        """
        return self.completed()

    async def partial(self) -> ExecutionResult:
        """What has ended well so far; as :meth:`Execution.partial`."""
        return await self._link.run(self.fetch_partial)

    async def cancel(self) -> None:
        """Start no further function, and drop what is queued."""
        await self._link.run(self.cancel_run)

    async def record(self) -> ExecutionRecord:
        """All that is known by now, for pictures and reports."""
        return await self._link.run(self.fetch_record)

    async def logs(self, function_id: Hashable = None) -> Logs:
        """What a function, or all of them, printed and logged so far; see :meth:`Execution.logs`."""
        return await self._link.run(self.fetch_logs, function_id)

    async def explain(self, function_id: Hashable) -> FunctionExplanation:
        """Why a function waits, or where it ran and why there.

        Raises
        ------
        NotFoundError
            If the DAG has no such function, or it never runs on its own.
        """
        return await self._link.run(self.explain_function, function_id)

    def __await__(self) -> Generator[Any, None, ExecutionResult]:
        return self.result().__await__()
