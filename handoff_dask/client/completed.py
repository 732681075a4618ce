"""Results in the order in which they come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import Any

from distributed import Future, as_completed

from handoff_dask.client.scheduler_link import SchedulerLink
from handoff_dask.protocol.failed_values import FailedValue


class Completed:
    """Pairs ``(id, value)`` in the order in which results come; for ``for`` and ``async for``.

    Parameters
    ----------
    link
        The link to the scheduler.
    futures
        ``{function id: distributed.Future}``.
    get_result
        Fetches the result of a function that has ended well.
    raise_failure
        Waits for the end of the execution; raises what it failed with.
    goes_on
        Whether the execution goes on when a function has failed.
    known
        Functions that did not run, since their results were known: these come first.
    """

    def __init__(
        self,
        link: SchedulerLink,
        futures: Mapping[Hashable, Future[Any]],
        get_result: Callable[[Hashable], Awaitable[Any]],
        raise_failure: Callable[[], Awaitable[object]],
        goes_on: bool,
        known: Iterable[Hashable] = (),
    ) -> None:
        self._link = link
        self._futures = dict(futures)
        self._get_result = get_result
        self._raise_failure = raise_failure
        self._ids = {f.key: i for i, f in futures.items()}
        self._goes_on = goes_on
        self._known = list(known)[::-1]
        self._completed: Any = None

    def add(self, futures: Mapping[Hashable, Future[Any]]) -> None:
        """More functions have come to the execution."""
        self._futures.update(futures)
        self._ids.update((f.key, i) for i, f in futures.items())
        if self._completed is not None:
            self._completed.update(futures.values())

    def __iter__(self) -> Completed:
        return self

    def __aiter__(self) -> Completed:
        return self

    def __next__(self) -> tuple[Hashable, Any]:
        pair = self._link.wait_for(self._next)
        if pair is None:
            raise StopIteration
        return pair

    async def __anext__(self) -> tuple[Hashable, Any]:
        if self._link.asynchronous:
            pair = await self._next()
        else:  # a client that blocks has a loop of its own
            pair = await asyncio.to_thread(self._link.wait_for, self._next)
        if pair is None:
            raise StopAsyncIteration
        return pair

    async def _next(self) -> tuple[Hashable, Any] | None:
        """The next pair; ``None`` when there is none."""
        if self._known:
            function_id = self._known.pop()
            return function_id, await self._get_result(function_id)
        if self._completed is None:
            self._completed = as_completed(self._futures.values(), loop=self._link.client.loop)
        async for future in self._completed:
            if future.status != "finished":
                if self._goes_on:
                    continue
                await self._raise_failure()
            function_id = self._ids[future.key]
            value = await self._get_result(function_id)
            if not isinstance(value, FailedValue):
                return function_id, value
        if self._goes_on:
            await self._raise_failure()
        return None
