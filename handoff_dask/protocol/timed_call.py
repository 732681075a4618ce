"""A call of a function that has a timeout, on its worker.

Dask's thread waits for a thread that runs the function.  When the time is over it raises, so that to
Dask the attempt has failed like any other.  The worker's plugin is told of the thread that goes on:
the scheduler keeps its claim until it is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Worker, get_worker, threadpoolexecutor, utils

from handoff_dask.graph.functions import name_of
from handoff_dask.protocol.names import NAME
from handoff_dask.time_limit import Leftover, run_within


class Timed:
    """A call that raises when it takes longer than it may."""

    __slots__ = ("call", "timeout_s")

    def __init__(self, call: Callable[..., Any], timeout_s: float) -> None:
        self.call = call
        self.timeout_s = timeout_s

    @property
    def __name__(self) -> str:
        return name_of(self.call)

    def __reduce__(self) -> tuple[Any, ...]:
        return Timed, (self.call, self.timeout_s)

    def __call__(self, *results: Any) -> Any:
        """Call it in a thread that is left behind when the time is over."""
        try:
            worker = get_worker()
        except ValueError:  # Dask runs the DAG in this process
            return run_within(self.timeout_s, lambda: self.call(*results))
        key = worker.get_current_task()
        stand_in = _StandIn(worker)

        def left_behind(leftover: Leftover) -> None:
            plugin: Any = worker.plugins.get(NAME)
            if plugin is not None:
                plugin.left_behind(key, leftover)

        try:
            return run_within(
                self.timeout_s,
                lambda: self.call(*results),
                within=stand_in.in_place,
                left_behind=left_behind,
            )
        finally:
            stand_in.close()


class _StandIn:
    """Another thread in the place of Dask's: to the function it is the one that Dask gave it.

    ``get_worker``, ``secede``, ``rejoin`` and ``worker_client`` do in it what they do elsewhere.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._thread = threading.current_thread()
        self._state = dict(vars(utils.thread_state))  # type: ignore[attr-defined]
        self._pool: Any = getattr(threadpoolexecutor.thread_state, "executor", None)
        self._proceed: bool | None = None

    def __getattr__(self, name: str) -> Any:
        # All else that ``secede`` and ``rejoin`` do to the executor is the executor's.
        return getattr(self._pool, name)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """In the other thread: be the one of Dask."""
        vars(utils.thread_state).update(self._state)  # type: ignore[attr-defined]
        pool_state = threadpoolexecutor.thread_state
        pool_state.executor, pool_state.proceed = self, True
        with self._worker.active_threads_lock:
            self._worker.active_threads[threading.get_ident()] = self._state["key"]
        try:
            yield
        finally:
            self._proceed = pool_state.proceed
            with self._worker.active_threads_lock:
                del self._worker.active_threads[threading.get_ident()]

    def close(self) -> None:
        """In Dask's thread: take over whether it has left its pool."""
        if self._proceed is not None and self._pool is not None:
            threadpoolexecutor.thread_state.proceed = self._proceed

    # What ``secede`` and ``rejoin`` do with the executor of their thread.

    @property
    def _threads(self) -> _StandIn:
        return self

    def remove(self, thread: threading.Thread) -> None:
        """Let Dask's thread leave the pool in place of the other one."""
        self._pool._threads.remove(self._thread)

    @property
    def _rejoin_list(self) -> _StandIn:
        return self

    def append(self, wish: tuple[threading.Thread, threading.Event]) -> None:
        """Let Dask's thread come back to the pool in place of the other one."""
        self._pool._rejoin_list.append((self._thread, wish[1]))
