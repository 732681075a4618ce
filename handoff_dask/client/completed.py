"""Results in the order in which they come."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from distributed import as_completed

if TYPE_CHECKING:
    from handoff_dask.client.execution import Execution


class Completed:
    """Pairs ``(id, value)`` in the order in which they are there; for ``for`` and ``async for``."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._ids = {f.key: i for i, f in execution.futures.items()}
        self._futures: Any = None

    def __iter__(self) -> Completed:
        return self

    def __aiter__(self) -> Completed:
        return self

    def __next__(self) -> tuple[Hashable, Any]:
        pair: tuple[Hashable, Any] | None = self._execution.session.wait_for(self._next)
        if pair is None:
            raise StopIteration
        return pair

    async def __anext__(self) -> tuple[Hashable, Any]:
        session = self._execution.session
        if session.asynchronous:
            pair = await self._next()
        else:  # a client that blocks has a loop of its own
            pair = await asyncio.to_thread(session.wait_for, self._next)
        if pair is None:
            raise StopAsyncIteration
        return pair

    async def _next(self) -> tuple[Hashable, Any] | None:
        """The next pair; ``None`` when there is none."""
        execution = self._execution
        if self._futures is None:
            self._futures = as_completed(execution.futures.values(), loop=execution.session.client.loop)
        async for future in self._futures:
            if future.status != "finished":
                await execution._result(None)
            function_id = self._ids[future.key]
            return function_id, await execution._get_result(function_id, None)
        return None
