"""Arguments that come to a worker from others: each is loaded by itself, beside the event loop.

This replaces ``Worker.gather_dep`` of one worker by itself with other connections.  What cannot be
loaded stays as it came, and fails who takes it: ``tests/cluster/test_broken_values.py`` shows that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dask._task_spec import GraphNode
from distributed.core import error_message
from distributed.worker_state_machine import GatherDepSuccessEvent

from handoff_dask.protocol.failed_values import guard_of
from handoff_dask.protocol.failures import loading, travelling
from handoff_dask.protocol.transfers import Arrived, load, opaque_pool

if TYPE_CHECKING:
    from distributed import Worker
    from distributed.core import ConnectionPool
    from distributed.worker_state_machine import StateMachineEvent, TaskState

logger = logging.getLogger(__name__)


class Arrivals:
    """Fetches the arguments of a worker's tasks.

    Parameters
    ----------
    worker
        Dask's.
    say_unreadable
        Tells the scheduler that tasks need what can be read nowhere, and with what error.
    """

    def __init__(
        self, worker: Worker, say_unreadable: Callable[[Iterable[TaskState], Mapping[str, Any]], None]
    ) -> None:
        self._worker = worker
        self._say_unreadable = say_unreadable
        self._pool = opaque_pool(worker.rpc, worker)
        self._with_pool = _with_pool(worker, self._pool)
        #: Keys of what has come and could not be loaded.
        self._unread: set[Any] = set()

    async def start(self) -> None:
        """Fetch from now on."""
        await self._pool.start()
        self._worker.gather_dep = self._gather_dep  # type: ignore[method-assign]

    async def close(self) -> None:
        """Let Dask fetch again, as before."""
        if self._worker.__dict__.get("gather_dep") == self._gather_dep:
            del self._worker.gather_dep
        await self._pool.close()

    async def _gather_dep(
        self, worker: str, to_gather: Collection[Any], total_nbytes: int, *, stimulus_id: str
    ) -> StateMachineEvent:
        dask_gather_dep: Any = type(self._worker).gather_dep
        event: StateMachineEvent = await dask_gather_dep(
            self._with_pool, worker, to_gather, total_nbytes, stimulus_id=stimulus_id
        )
        if isinstance(event, GatherDepSuccessEvent):
            # Not in the event loop: it would wait for whatever the values do when they are loaded.
            loaded = await asyncio.to_thread(_load_all, event.data)
            event.data.update(loaded)
            unread = {key: value for key, value in loaded.items() if isinstance(value, Arrived)}
            self._unread.update(unread)
            for key in [key for key, value in unread.items() if not value.was_sent]:
                self._say_unsent(key, unread[key])
        return event

    def _say_unsent(self, key: Any, value: Arrived) -> None:
        """Its sender could not pickle it: no other attempt can read it either."""
        task = self._worker.state.tasks.get(key)
        try:
            value.open()
        except Exception as error:
            if task is not None:
                self._say_unreadable(task.dependents, error_message(error))

    def begins(self, task: TaskState) -> None:
        """A task is about to run: what it takes and could not be loaded is to fail it, in its own thread."""
        if self._unread and not self._unread.isdisjoint(d.key for d in task.dependencies):
            task.run_spec = Opening(task.run_spec)  # type: ignore[assignment]

    def gone(self, key: Any) -> None:
        """A result is not here any more."""
        self._unread.discard(key)


def _load_all(data: dict[Any, Any]) -> dict[Any, Any]:
    return {key: _loaded(key, value) for key, value in data.items()}


def _loaded(key: Any, value: Any) -> Any:
    try:
        return load(value)
    except BaseException:  # whatever loading it raises, and whomever it would end
        logger.info("%r cannot be loaded here; it fails what takes it", key, exc_info=True)
        return Arrived(value.header, value.frames)


def _with_pool(worker: Worker, pool: ConnectionPool) -> Worker:
    """The same worker, and of its class, but with other connections."""
    kind = type(worker)
    same: Worker = object.__new__(type(kind.__name__, (kind,), {"rpc": property(lambda self: pool)}))
    same.__dict__ = worker.__dict__
    return same


class Opening:
    """A task that takes what could not be loaded: it is loaded again, and fails the task by what that raises.

    It stands in for a task's ``run_spec`` on its worker.
    """

    def __init__(self, task: Any) -> None:
        self.task: GraphNode = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def __repr__(self) -> str:
        return repr(self.task)

    def __call__(self, data: dict[Any, Any]) -> Any:
        """Load what is not, and run the task."""
        try:
            with loading():
                data = {k: v.open() if isinstance(v, Arrived) else v for k, v in data.items()}
        except BaseException as error:
            told = travelling(error)
            guard = guard_of(getattr(self.task, "func", None))
            value = guard.value_of(told) if guard is not None and isinstance(told, Exception) else None
            if value is not None:
                return value
            if told is error:
                raise
        else:
            return self.task(data)
        raise told
