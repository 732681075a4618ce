"""Pipelines: the blocking and the asynchronous class."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from handoff_dask.client.execution_core import ExecutionCore
from handoff_dask.client.explanations import FunctionExplanation
from handoff_dask.client.options import timeout_s
from handoff_dask.client.pipeline_core import PipelineCore
from handoff_dask.client.scheduler_link import released_thread
from handoff_dask.errors import PipelineEndedError
from handoff_dask.streaming import PipelineStatus

A = TypeVar("A", bound="AsyncPipeline")
S = TypeVar("S", bound="Pipeline")

#: Seconds that whoever asks for the nodes of stages waits until they have some.
PLACED_S = 10.0


class AnyPipeline:
    """What both classes have."""

    def __init__(self, core: PipelineCore) -> None:
        self._core = core
        # Its stages would hold their costs until the client goes.
        weakref.finalize(self, core.abandon).atexit = False

    def __repr__(self) -> str:
        inside, most, out = self._core.counts
        stages = len(self._core.graph.stages)
        return (
            f"<{type(self).__name__} of DAG {self.dag_id!r}: {self.status}, {stages} stages, "
            f"{inside} of {most} items inside, {out} out>"
        )

    @property
    def execution(self) -> ExecutionCore:
        """The run of its stages."""
        return self._core.execution

    @property
    def dag_id(self) -> Hashable:
        """The DAG's id."""
        return self._core.dag_id

    @property
    def status(self) -> PipelineStatus:
        """``"running"``, ``"closed"``, ``"stopped"`` or ``"failed"``."""
        return self._core.status

    @property
    def stages(self) -> dict[Hashable, str | None]:
        """``{function id: node}`` of each stage's first worker; ``None`` while it waits for a node."""
        nodes = self._nodes()
        return {stage.id: nodes[stage.position][0] for stage in self._core.graph.stages}

    def workers(self, id: Hashable) -> list[str | None]:  # noqa: A002
        """The nodes of a stage's workers, in their order.

        Raises
        ------
        NotFoundError
            If no stage has this id.
        """
        position = self._core.stage_of(id)
        return list(self._nodes()[position])

    def worker_count(self, id: Hashable) -> int:  # noqa: A002
        """How many workers a stage has.

        Raises
        ------
        NotFoundError
            If no stage has this id.
        """
        return self._core.graph.stages[self._core.stage_of(id)].function.parallelism

    def _nodes(self) -> list[list[str | None]]:
        core = self._core
        if not core.is_placed and not core.link.asynchronous and not core.is_in_loop:
            core.wait_until_placed(PLACED_S)
        return core.nodes

    def _result(self, taken: tuple[int, Any]) -> Any:
        return taken[1] if self._core.ordered else taken


class Pipeline(AnyPipeline):
    """A DAG that stays warm: items go in, results come out.

    Made by :func:`~handoff_dask.stream`; a context manager, and an iterator over results, with
    ``async for`` too.  With an asynchronous client, methods that wait return awaitables.

    A result is what the last function returned (a dict by id where there are several), or the
    exception of an item that failed.  With ``ordered=False`` it is a pair ``(number, result)``.
    """

    def push(self, value: Any, timeout: float | None = None) -> int:
        """Push an item, once there is room.

        Parameters
        ----------
        value
            The value of the input; ``{input id: value}`` where there are several.  It is pickled at
            once: what becomes of it later does not matter.
        timeout
            Seconds to wait for room; ``None`` waits for ever.

        Returns
        -------
        int
            The item's number: 0, 1, …

        Raises
        ------
        ValidationError
            If inputs are missing or unknown.
        TimeoutError
            If ``max_in_flight`` items are inside for so long.
        PipelineEndedError
            If the pipeline was closed or stopped.
        HandoffError
            What the pipeline has failed with.
        """
        core = self._core
        limit = timeout_s(timeout)
        parcels = core.parcels(value)
        if core.link.asynchronous:
            return core.push_soon(parcels, limit)  # type: ignore[return-value]
        number = core.try_push(parcels)
        if number is None:
            with released_thread():
                number = core.push(parcels, limit)
        return number

    def __iter__(self: S) -> S:
        return self

    def __next__(self) -> Any:
        if self._core.link.asynchronous:
            raise TypeError("this pipeline's client is asynchronous; write `async for`")
        return self._result(_take(self._core))

    def __aiter__(self: S) -> S:
        return self

    async def __anext__(self) -> Any:
        taken = await self._core.link.run(self._core.take_soon)
        if taken is None:
            raise StopAsyncIteration
        return self._result(taken)

    def explain(self, id: Hashable) -> FunctionExplanation:  # noqa: A002
        """Where a stage is and why there, how it stands, and which stage is the bottleneck.

        Parameters
        ----------
        id
            The function.

        Raises
        ------
        NotFoundError
            If no stage has this id.
        """
        self._core.stage_of(id)
        return self._core.link.sync(self._core.execution.explain_function, id)

    def map(self, values: Iterable[Any]) -> Iterator[Any]:
        """Push values as there is room, and yield results.

        With an asynchronous client this is an asynchronous iterator, and the values may be one.

        Parameters
        ----------
        values
            The items.  Before the next one is asked for, results that are there are yielded.

        Returns
        -------
        iterator
            Ends with the last of these values; what was inside before comes out, too.
        """
        if self._core.link.asynchronous:
            return _map_async(self._core, self, values)  # type: ignore[return-value]
        return _map(self._core, self, values)

    def close(self) -> None:
        """Take no more items; iteration ends when all are out."""
        self._core.close()
        return _nothing() if self._core.link.asynchronous else None  # type: ignore[return-value]

    def stop(self) -> None:
        """Drop what is inside, and give back what the stages hold."""
        link = self._core.link
        if not link.is_usable and not link.asynchronous:
            self._core.close()
            return None
        return link.sync(self._core.stop)

    def __enter__(self: S) -> S:
        if self._core.link.asynchronous:
            raise TypeError("this pipeline's client is asynchronous; write `async with`")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    async def __aenter__(self: S) -> S:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._core.link.run(self._core.stop)


class AsyncPipeline(AnyPipeline):
    """A DAG that stays warm, for asynchronous use; methods that wait are coroutines.

    Made by :meth:`AsyncHandoff.stream`; an asynchronous context manager and iterator.  See
    :class:`Pipeline`.
    """

    async def push(self, value: Any, timeout: float | None = None) -> int:
        """Push an item, once there is room; see :meth:`Pipeline.push`.

        Returns
        -------
        int
            The item's number: 0, 1, …

        Raises
        ------
        ValidationError, TimeoutError, PipelineEndedError, HandoffError
            As :meth:`Pipeline.push`.
        """
        limit = timeout_s(timeout)
        return await self._core.link.run(self._core.push_soon, self._core.parcels(value), limit)

    def __aiter__(self: A) -> A:
        return self

    async def __anext__(self) -> Any:
        taken = await self._core.link.run(self._core.take_soon)
        if taken is None:
            raise StopAsyncIteration
        return self._result(taken)

    async def explain(self, id: Hashable) -> FunctionExplanation:  # noqa: A002
        """Where a stage is and why there, how it stands, and which stage is the bottleneck.

        Raises
        ------
        NotFoundError
            If no stage has this id.
        """
        self._core.stage_of(id)
        return await self._core.link.run(self._core.execution.explain_function, id)

    def map(self, values: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
        """Push values as there is room, and yield results.

        Returns
        -------
        asynchronous iterator
            Ends with the last of these values; what was inside before comes out, too.
        """
        return _map_async(self._core, self, values)

    async def close(self) -> None:
        """Take no more items; iteration ends when all are out."""
        self._core.close()

    async def stop(self) -> None:
        """Drop what is inside, and give back what the stages hold."""
        await self._core.link.run(self._core.stop)

    async def __aenter__(self: A) -> A:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()


async def _nothing() -> None:
    pass


def _map(core: PipelineCore, pipeline: Pipeline, values: Iterable[Any]) -> Iterator[Any]:
    """Pushes here, whenever there is room, and yields what is there: no thread is needed."""
    own: set[int] = set()
    try:
        for value in values:
            parcels = core.parcels(value)
            while (number := core.try_push(parcels)) is None:
                taken = _take(core)
                own.discard(taken[0])
                yield pipeline._result(taken)
            own.add(number)
            while (early := core.try_take()) is not None:
                own.discard(early[0])
                yield pipeline._result(early)
        with _draining(core):
            while own:
                taken = _take(core)
                own.discard(taken[0])
                yield pipeline._result(taken)
    except StopIteration:  # it was stopped
        return
    except PipelineEndedError:
        if core.status != "stopped":
            raise


def _take(core: PipelineCore) -> tuple[int, Any]:
    taken = core.try_take()
    if taken is None:
        with released_thread():
            taken = core.take()
    return taken


@contextmanager
def _draining(core: PipelineCore) -> Iterator[None]:
    core.drain(1)
    try:
        yield
    finally:
        core.drain(-1)


async def _map_async(
    core: PipelineCore, pipeline: AnyPipeline, values: Iterable[Any] | AsyncIterable[Any]
) -> AsyncIterator[Any]:
    own: set[int] = set()
    pushed = asyncio.Event()

    async def push(value: Any) -> None:
        own.add(await core.link.run(core.push_soon, core.parcels(value), None))
        pushed.set()

    async def push_all() -> None:
        try:
            if isinstance(values, AsyncIterable):
                async for value in values:
                    await push(value)
            else:
                for value in values:
                    await push(value)
        except PipelineEndedError:
            if core.status != "stopped":
                raise
        finally:
            core.drain(1)
            pushed.set()

    pushing = asyncio.ensure_future(push_all())
    try:
        while own or not pushing.done():
            if not own:
                pushed.clear()
                await asyncio.wait(
                    {pushing, asyncio.ensure_future(pushed.wait())}, return_when="FIRST_COMPLETED"
                )
                continue
            taken = await core.link.run(core.take_soon)
            if taken is None:
                return
            own.discard(taken[0])
            yield pipeline._result(taken)
        await pushing
    finally:
        pushing.cancel()
        await asyncio.wait({pushing})
        core.drain(-1)
