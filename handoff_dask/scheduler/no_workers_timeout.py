"""Dask's ``no-workers-timeout`` must not fail functions that are only held.

Dask fails what has been in the state ``no-worker`` for longer than the timeout.  Functions that
wait for room are held in that state; how long those wait that fit nowhere is for the engine to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from distributed.metrics import monotonic
from tornado.ioloop import PeriodicCallback

from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import FunctionState, Runs, RunState

if TYPE_CHECKING:
    from distributed.scheduler import TaskState


class NoWorkersTimeout(Observer):
    """Makes held tasks look as if they had just begun to wait.

    Parameters
    ----------
    runs
        What is known of runs.
    since
        Dask's dict of when each task began to be in ``no-worker``, in monotonic seconds.
    timeout_s
        Dask's timeout; None where there is none.
    """

    def __init__(self, runs: Runs, since: dict[TaskState, float], timeout_s: float | None) -> None:
        self._runs = runs
        self._since = since
        self._timeout_s = timeout_s
        self._timer: PeriodicCallback | None = None

    def run_opened(self, run: RunState) -> None:
        """Begin with the first run."""
        if self._timeout_s and self._timer is None:
            self._timer = PeriodicCallback(self.refresh, self._timeout_s * 1000 / 3)
            self._timer.start()

    def run_forgotten(self, run: RunState) -> None:
        """End with the last run."""
        if self._timer is not None and not self._runs.by_token:
            self._timer.stop()
            self._timer = None

    def refresh(self) -> None:
        """Let the clocks of held tasks start anew."""
        functions: Mapping[str, FunctionState] = self._runs.functions
        now = monotonic()
        for task in [task for task in self._since if task.key in functions]:
            # Dask wants them ordered by the time.
            del self._since[task]
            self._since[task] = now
