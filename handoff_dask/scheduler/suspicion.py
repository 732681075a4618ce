"""Suspicion: which functions Dask suspects when a worker dies.

Dask suspects every task that is assigned to a worker when it dies, and fails a task that is
suspected too often.  For most functions that is right, as a function is assigned when it can
start.  A prefetched function has not begun, so it cannot be the cause.  Dask's count for it is
lowered by one while it waits for its turn.  Functions that are suspected several times run one at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from handoff_dask.scheduler.lifecycle import (
    Dropped,
    Ended,
    FailedForGood,
    GivenUp,
    LifeEvent,
    NotTaken,
    Placed,
    Rejected,
    TurnCame,
    Withdrawn,
)
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import FunctionState
from handoff_dask.scheduler.states import Attempt, Prefetched, State, Waiting

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


class Suspects(Observer):
    """Functions that were running on several workers that died: they run one at a time.

    Dask counts how often each task was on a worker that died, and fails it when that was too often.  So an
    innocent function that shares its node with one that kills it would fail as well.  Functions with so
    much suspicion are offered to the engine one after the other: the next death tells who it is.

    Parameters
    ----------
    task_of
        Dask's task of a key, if there is one.
    least
        From how many deaths on a function runs so.
    offer
        Offers a function to the engine.
    """

    watches = (Ended, FailedForGood, Dropped, Withdrawn, GivenUp, Rejected)

    def __init__(
        self,
        task_of: Callable[[str], TaskState | None],
        least: int,
        offer: Callable[[FunctionState], object],
    ) -> None:
        self._task_of = task_of
        self._least = least
        self._offer = offer
        #: The one that is offered or on its node, and those that come after it.
        self._present: FunctionState | None = None
        self._waiting: deque[FunctionState] = deque()

    def admits(self, function: FunctionState) -> bool:
        """Whether a function that is ready may be offered now; if not, it is offered later."""
        task, present = self._task_of(function.key), self._present
        if task is None or task.suspicious < self._least:
            return True
        # One that waits for an execution of its own must not keep the functions of that waiting.
        is_free = present is None or present is function or bool(present.fact("paused"))
        if is_free:
            self._present = function
        elif function not in self._waiting:
            self._waiting.append(function)
        return is_free

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """The next one's turn comes when the present one has ended, or is not wanted any more."""
        if function is not self._present:
            return
        self._present = None
        while self._waiting:
            following = self._waiting.popleft()
            if isinstance(following.state, Waiting):
                self._offer(following)
                return

    def cleared(self) -> None:
        """Every task is gone."""
        self._present = None
        self._waiting.clear()
