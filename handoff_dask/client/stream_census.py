"""Finds out when nothing goes on in a pipeline but batches that wait, and lets these go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from handoff_dask.client.stream_routing import Routing
from handoff_dask.graph.stages import StageGraph

#: Seconds between two counts: what was on its way at the first has arrived by the second.
PAUSE_S = 0.015


class Census:
    """Counts, on all nodes, what goes on, while no item comes in.

    Two counts that are equal, with nobody at work, mean that nothing can go on.

    Parameters
    ----------
    graph
        The stages.
    routing
        Reaches the nodes.
    is_wanted
        Whether no item comes in before one goes out.
    """

    def __init__(self, graph: StageGraph, routing: Routing, is_wanted: Callable[[], bool]) -> None:
        functions = [stage.function for stage in graph.stages]
        #: Whether there is a stage whose batches would wait for ever.
        self.is_needed = any(f.batch_size is not None and f.batch_timeout is None for f in functions)
        self._routing = routing
        self._is_wanted = is_wanted
        self._task: asyncio.Task[None] | None = None
        self._number = 0
        self._answers: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Count until items come in again."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._count())

    def counted(self, answer: dict[str, Any]) -> None:
        """A node has counted."""
        if answer["number"] == self._number:
            self._answers.append(answer)

    async def _count(self) -> None:
        before: object = None
        try:
            while self._is_wanted():
                routing = self._routing
                if routing.is_live:
                    self._number += 1
                    self._answers = []
                    routing.tell({"op": "census", "number": self._number})
                await asyncio.sleep(PAUSE_S)
                counts = sorted(answer["counts"] for answer in self._answers)
                complete = routing.is_live and len(self._answers) == len(routing.links)
                idle = complete and all(answer["is_idle"] for answer in self._answers)
                now = (routing.generation, counts) if idle else None
                if idle and now == before and any(answer["has_batch"] for answer in self._answers):
                    routing.tell({"op": "flush"})
                    now = None
                before = now
        finally:
            self._task = None

    def close(self) -> None:
        """Count no more."""
        if self._task is not None:
            self._task.cancel()
