"""Checks that end an execution whose graph or inputs never arrive.

The scheduler's plugin knows nothing of these failures, so the client has to notice them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from distributed import Future

from handoff_dask.client.scheduler_link import SchedulerLink
from handoff_dask.errors import HandoffError, SchedulerLostError, ValidationError
from handoff_dask.protocol.futures import adopt


class InputChecks:
    """Watches the graph and the inputs of one execution.

    Parameters
    ----------
    link
        The link to the scheduler.
    dag_id, token
        The id of the DAG, and the name of its run on the scheduler.
    first
        One of the futures of its functions.
    inputs
        ``(input id, future)`` of those that inputs are or hold.
    fail
        Called with the error if the execution can never end well, and with whether the scheduler
        knows the run: then it will still report the end.
    """

    def __init__(
        self,
        link: SchedulerLink,
        *,
        dag_id: Hashable,
        token: str,
        first: Future[Any],
        inputs: Sequence[tuple[Hashable, Future[Any]]],
        fail: Callable[[HandoffError, bool], None],
    ) -> None:
        self._link = link
        self._dag_id = dag_id
        self._token = token
        self._fail = fail
        # Futures of this client: the user may release the given ones, or they belong to another client.
        self._inputs: list[tuple[Hashable, Future[Any]]] = [(i, Future(f.key)) for i, f in inputs]
        if inputs:
            adopt((future for _, future in self._inputs), link.client)
        self._tasks = [asyncio.ensure_future(self._check_graph(first))]
        self._tasks += [asyncio.ensure_future(self._check_input(*given)) for given in self._inputs]

    def end(self, outcome: object = None, status: str = "") -> None:
        """The execution is over."""
        self._inputs.clear()
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()  # they hold this object, and with it the execution and its results

    async def _check_graph(self, first: Future[Any]) -> None:
        """Notice if Dask drops the graph before the scheduler's plugin sees it."""
        await settled(first)
        if first.status == "finished" or not await self._has_never_arrived():
            return
        cause = _cause(first)
        self._fail_with(
            f"the scheduler could not take the graph of DAG {self._dag_id!r} ({cause!r}); "
            "what it needs must be installed there too, and futures in it must be alive",
            cause,
            is_known=False,
        )

    async def _has_never_arrived(self) -> bool:
        if not self._link.is_usable:
            return False
        try:
            return bool(await self._link.ask("withdraw", token=self._token))
        except (SchedulerLostError, RuntimeError):  # the connection, or all of them, are closed
            return False

    async def _check_input(self, input_id: Hashable, future: Future[Any]) -> None:
        """Notice if a future that was given as an input fails: the plugin knows of functions only."""
        await settled(future)
        if future.status == "finished":
            return
        cause = _cause(future)
        with suppress(SchedulerLostError):
            await self._link.ask("cancel", token=self._token)
        self._fail_with(
            f"the future given as input {input_id!r} of DAG {self._dag_id!r} has come to nothing "
            f"({future.status}: {cause!r}); give one that has a result",
            cause,
            is_known=True,
        )

    def _fail_with(self, problem: str, cause: BaseException | None, *, is_known: bool) -> None:
        error = HandoffError(problem)
        error.__cause__ = cause
        self._fail(error, is_known)


def refuse_cancelled(inputs: Iterable[tuple[Hashable, Future[Any]]]) -> None:
    """Refuse futures, given as inputs, that have been cancelled already.

    Raises
    ------
    ValidationError
        If one has been cancelled.
    """
    for input_id, future in inputs:
        if future.cancelled():
            raise ValidationError(
                f"the future given as input {input_id!r} has been cancelled; give one that has a result"
            )


async def settled(future: Future[Any]) -> None:
    """Wait until a future has a result, or never will."""
    state: Any = future._state
    await state.wait()


def _cause(future: Future[Any]) -> BaseException | None:
    state: Any = future._state
    cause: BaseException | None = state.exception
    return cause
