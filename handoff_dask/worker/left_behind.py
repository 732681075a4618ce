"""Threads that go on although the time of their tasks is over, on a worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from distributed.metrics import time
from distributed.worker_state_machine import UnpauseEvent

from handoff_dask.protocol.names import LANES
from handoff_dask.time_limit import Leftover

if TYPE_CHECKING:
    from distributed import Worker


class _Thread(NamedTuple):
    """A thread that goes on."""

    worker: Worker
    leftover: Leftover
    #: What its task held of the lanes that admit prefetched functions.
    lanes: Mapping[str, float]
    #: How many of the worker's threads it takes: none if it has seceded.
    threads: int

    def give_back(self) -> None:
        """Let the worker use again what the thread took."""
        state = self.worker.state
        state.nthreads += self.threads
        for name, amount in self.lanes.items():
            state.total_resources[name] += amount
            state.available_resources[name] += amount
        if state.running:
            # What waits on the worker for a thread is looked at with some event only.
            self.worker.handle_stimulus(UnpauseEvent(stimulus_id=f"handoff-thread-over-{time()}"))


class LeftBehind:
    """Which tasks of a worker have threads that go on, until the scheduler asks when they are over."""

    def __init__(self) -> None:
        self._threads: dict[str, deque[_Thread]] = {}

    def add(self, worker: Worker, key: str, leftover: Leftover) -> None:
        """Note that a thread goes on; Dask does not know yet that its task has ended."""
        task = worker.state.tasks.get(key)
        asked = {} if task is None else task.resource_restrictions
        lanes = {name: amount for name, amount in (asked or {}).items() if name in LANES}
        threads = int(task in worker.state.executing)
        # Dask is about to give back what the task holds, but nothing may follow in its place before the
        # thread is over.  Until then it is as if the worker had so much less.
        worker.state.nthreads -= threads
        if task is not None and lanes:
            task.resource_restrictions = {
                n: a for n, a in task.resource_restrictions.items() if n not in lanes
            }
            for name, amount in lanes.items():
                worker.state.total_resources[name] -= amount
        self._threads.setdefault(key, deque()).append(_Thread(worker, leftover, lanes, threads))

    def has(self, key: str) -> bool:
        """Whether a thread of the task goes on of which the scheduler does not know."""
        return key in self._threads

    def watch(self, key: str, over: Callable[[], None]) -> bool:
        """Have something called, in the worker's loop, when the oldest thread of a task is over.

        False if there is none.
        """
        threads = self._threads.get(key)
        if not threads:
            return False
        thread = threads.popleft()
        if not threads:
            del self._threads[key]

        def end() -> None:
            thread.give_back()
            over()

        thread.leftover.when_over(lambda: thread.worker.loop.add_callback(end))
        return True
