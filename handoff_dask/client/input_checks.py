"""What an execution itself must notice, since nobody tells it: a graph or an input that never comes."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from distributed import Future

from handoff_dask.errors import HandoffError, SchedulerLostError, ValidationError
from handoff_dask.protocol.futures import adopt

if TYPE_CHECKING:
    from handoff_dask.client.execution import Execution


class Minder:
    """Ends an execution that can come to nothing."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        client = execution.session.client
        held: Mapping[Hashable, Future[Any]] = execution.compiled.held
        # Futures of this client's own: the user may let go of his, or have them of another client.
        self._inputs: dict[Hashable, Future[Any]] = {i: Future(future.key) for i, future in held.items()}
        if held:
            adopt(self._inputs.values(), client)
        self._tasks = [asyncio.ensure_future(self._mind_graph())]
        self._tasks += [asyncio.ensure_future(self._mind_input(i)) for i in self._inputs]

    def end(self) -> None:
        """The execution is over."""
        self._inputs.clear()
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()  # they hold this, and with it the execution and its results

    async def _mind_graph(self) -> None:
        """Notice if Dask drops the graph before the scheduler's plugin sees it."""
        execution = self._execution
        first = next(iter(execution.futures.values()))
        await settled(first)
        if first.status == "finished" or not await execution.session.expects(execution):
            return
        cause = _cause(first)
        self._lost(
            f"the scheduler could not take the graph of DAG {execution.dag_id!r} ({cause!r}); "
            "what it needs must be installed there too, and futures in it must be alive",
            cause,
        )

    async def _mind_input(self, input_id: Hashable) -> None:
        """Notice if a future that was given as an input fails: the plugin knows of functions only."""
        future = self._inputs[input_id]
        await settled(future)
        if future.status == "finished":
            return
        execution, cause = self._execution, _cause(future)
        with suppress(SchedulerLostError):
            await execution.session.ask("cancel", token=execution.token)
        self._lost(
            f"the future given as input {input_id!r} of DAG {execution.dag_id!r} has come to nothing "
            f"({future.status}: {cause!r}); give one that has a result",
            cause,
        )

    def _lost(self, problem: str, cause: BaseException | None) -> None:
        error = HandoffError(problem)
        error.__cause__ = cause
        self._execution.is_lost(error)


def refuse_cancelled(held: Mapping[Hashable, Future[Any]]) -> None:
    """Refuse futures, given as inputs, of which it is known already that they come to nothing.

    Raises
    ------
    ValidationError
        If one has been cancelled.
    """
    for input_id, future in held.items():
        if future.cancelled():
            raise ValidationError(
                f"the future given as input {input_id!r} has been cancelled; give one that has a result"
            )


async def settled(future: Future[Any]) -> None:
    """Until a future has a result, or never will."""
    state: Any = future._state
    await state.wait()


def _cause(future: Future[Any]) -> BaseException | None:
    state: Any = future._state
    cause: BaseException | None = state.exception
    return cause
