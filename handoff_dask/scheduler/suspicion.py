"""Suspicion: which functions Dask suspects when a worker dies.

Dask suspects every task that is assigned to a worker when it dies, and fails a task that is
suspected too often.  For most functions that is right, as a function is assigned when it can
start.  A prefetched function has not begun, so it cannot be the cause.  Dask's count for it is
lowered by one while it waits for its turn.  Functions that are suspected several times run one at a time.

Where functions accept failures, a function that is suspected too often must not fail in Dask, which would
fail all that needs it.  In its last life Dask's count is lowered by one, and its death is told from here.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from distributed.protocol import pickle
from distributed.scheduler import KilledWorker

from handoff_dask.scheduler.lifecycle import (
    Dropped,
    Ended,
    FailedForGood,
    Failure,
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
from handoff_dask.scheduler.states import Attempt, Prefetched, Running, State, Waiting

if TYPE_CHECKING:
    from distributed.scheduler import TaskState, WorkerState

logger = logging.getLogger(__name__)


class Suspicion(Observer):
    """Keeps suspicion from functions whose turn has not come.

    Parameters
    ----------
    task_of
        Dask's task of a key, if there is one.
    allowed
        How many deaths of workers Dask allows a task.
    worker_at
        Dask's worker at an address.
    """

    watches = (
        Placed,
        TurnCame,
        NotTaken,
        Ended,
        FailedForGood,
        Dropped,
    )

    def __init__(
        self,
        task_of: Callable[[str], TaskState | None],
        allowed: Callable[[], int],
        worker_at: Callable[[str], WorkerState],
    ) -> None:
        self._task_of = task_of
        self._allowed = allowed
        self._worker_at = worker_at
        #: ``{attempt whose turn has not come: Dask's count of suspicion before it was sent}``.
        self._before: dict[Attempt, int] = {}
        #: ``{attempt: its worker, and Dask's count}`` of the last lives of functions.
        self._last: dict[Attempt, tuple[WorkerState, int]] = {}

    def last_death(self, function: FunctionState) -> Failure | None:
        """Why a function has failed whose worker has died, if it was its last life."""
        task, attempt = self._task_of(function.key), function.attempt
        if task is None or attempt not in self._last or not isinstance(function.state, Running):
            return None
        worker, count = self._last[attempt]
        if task.suspicious <= count:  # it was closed in an orderly way
            return None
        error = KilledWorker(task=function.key, last_worker=worker, allowed_failures=self._allowed())
        logger.error("%s", error)
        return Failure(pickle.dumps(error), None, f"KilledWorker: {error}")

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """Lower the count of a function that begins to wait for its turn; set it back afterwards."""
        if isinstance(event, Placed):
            self._note_last_life(function, event.attempt)
        self._note_turn(function, old, new)
        if not isinstance(new, (Running, Prefetched)) and function.attempt is not None:
            was_last, task = self._last.pop(function.attempt, None), self._task_of(function.key)
            if was_last is not None and task is not None:
                task.suspicious += 1

    def _note_last_life(self, function: FunctionState, attempt: Attempt) -> None:
        task = self._task_of(function.key)
        if function.run.passes_failures and task is not None and task.suspicious >= self._allowed():
            task.suspicious -= 1
            self._last[attempt] = self._worker_at(attempt.address).clean(), task.suspicious

    def _note_turn(self, function: FunctionState, old: State, new: State) -> None:
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
