"""Suspicion: which functions Dask suspects when a worker dies.

Dask suspects every task that is assigned to a worker when it dies, and fails a task that is
suspected too often.  For most functions that is right, as a function is assigned when it can
start.  A prefetched function has not begun, so it cannot be the cause.  Dask's count for it is
lowered by one while it waits for its turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from handoff_dask.scheduler.lifecycle import (
    Dropped,
    Ended,
    FailedForGood,
    LifeEvent,
    NotTaken,
    Placed,
    TurnCame,
)
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import FunctionState
from handoff_dask.scheduler.states import Attempt, Prefetched, State

if TYPE_CHECKING:
    from distributed.scheduler import TaskState


class Suspicion(Observer):
    """Keeps suspicion from functions whose turn has not come.

    Parameters
    ----------
    task_of
        Dask's task of a key, if there is one.
    """

    watches = (
        Placed,
        TurnCame,
        NotTaken,
        Ended,
        FailedForGood,
        Dropped,
    )

    def __init__(self, task_of: Callable[[str], TaskState | None]) -> None:
        self._task_of = task_of
        #: ``{attempt whose turn has not come: Dask's count of suspicion before it was sent}``.
        self._before: dict[Attempt, int] = {}

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """Lower the count of a function that begins to wait for its turn; set it back afterwards."""
        if isinstance(old, Prefetched) and not (isinstance(new, Prefetched) and new.attempt is old.attempt):
            before, task = self._before.pop(old.attempt, None), self._task_of(function.key)
            if before is not None and task is not None:
                task.suspicious = before
        if isinstance(new, Prefetched) and new.attempt not in self._before:
            task = self._task_of(function.key)
            if task is not None:
                self._before[new.attempt] = task.suspicious
                task.suspicious -= 1
