"""Recall of prefetched functions behind one that takes longer than was expected.

A prefetched function is bound to its node before there is room.  That is well for some
milliseconds.  Behind a function that does not end, it would wait while another node is idle; so it
is taken back and placed again.

What counts is for how long a function has run by its worker's account.  The scheduler hears of an
end late when it is busy.  So a worker is asked first, and only those behind a function that has
run for :data:`OVERDUE_S` are taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed.metrics import time

from handoff_dask.protocol.names import NAME, OVERDUE_S, RUNS_LONG
from handoff_dask.scheduler.lifecycle import LifeEvent, Placed
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.prefetch_queues import PrefetchQueues
from handoff_dask.scheduler.runs import FunctionState
from handoff_dask.scheduler.states import Prefetched, State

#: Dask's streams, there and back: a worker gives up a task unless it has begun.
REQUEST, RESPONSE = "steal-request", "steal-response"
#: The states in which it gives it up.
GIVEN = ("ready", "constrained", "waiting")


class Recall(Observer):
    """Watches the prefetch queues that somebody waits in.

    Parameters
    ----------
    queues
        The prefetch queues.
    send
        Sends a message to the worker of this address, if it is there.
    call_later
        Calls a function after so many seconds.
    takes_long
        Told of a function that has run for so many seconds and was expected to be short.
    recalled
        Told of each function that its worker has given back.
    """

    watches = (Placed,)

    def __init__(
        self,
        queues: PrefetchQueues,
        send: Callable[[str, dict[str, Any]], None],
        call_later: Callable[[float, Callable[[], None]], object],
        takes_long: Callable[[FunctionState, float], None],
        recalled: Callable[[str, str], None],
    ) -> None:
        self._queues = queues
        self._send = send
        self._call_later = call_later
        self._takes_long = takes_long
        self._recalled = recalled
        self._is_watching = False

    def install(self, streams: dict[str, Callable[..., Any]]) -> None:
        """Listen to what workers answer; what was not asked here is for Dask's work stealing."""
        dasks = streams.get(RESPONSE)  # None where work stealing is off

        def answered(key: str, state: str | None, stimulus_id: str, worker: str, **more: Any) -> Any:
            if stimulus_id.startswith(NAME):
                if state in GIVEN:
                    self._recalled(key, worker)
                return None
            if dasks is None:
                return None
            return dasks(key=key, state=state, stimulus_id=stimulus_id, worker=worker, **more)

        streams[RESPONSE] = answered

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """Look in a while, once somebody waits in a queue."""
        if isinstance(new, Prefetched) and not self._is_watching:
            self._watch()

    def _watch(self) -> None:
        self._is_watching = True
        self._call_later(OVERDUE_S, self._look)

    def _look(self) -> None:
        """Ask the workers of queues in which nothing seems to end whether that is so."""
        self._is_watching = False
        asked: dict[str, list[str]] = {}
        for running, _ in self._queues.overdue(time() - OVERDUE_S):
            for function in running:
                asked.setdefault(function.fact("address"), []).append(function.key)
        for address, keys in asked.items():
            self._send(address, {"op": RUNS_LONG, "keys": keys})
        if self._queues.is_anybody_behind():
            self._watch()

    def runs_long(self, function: FunctionState, elapsed_s: float) -> None:
        """A function has run for so long, by its worker's account: take back those behind it."""
        self._takes_long(function, elapsed_s)
        queue = function.fact("queue")
        for behind in () if queue is None else self._queues.behind(queue):
            message = {"op": REQUEST, "key": behind.key, "stimulus_id": f"{NAME}-back-{time()}"}
            self._send(behind.fact("address"), message)
