"""The round trip: how long a place on a node is idle between two functions.

It is what passes from the end of a function until the scheduler hears of it, and from the placement
of the next one until that begins.  On a quiet machine it takes some milliseconds.  Where the
scheduler or a worker is busy it takes much longer, and the engine sends the next function earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from distributed.metrics import time

from handoff_dask.placement.events import Event, RoundTripMeasured
from handoff_dask.scheduler.lifecycle import Ended, LifeEvent
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import FunctionState
from handoff_dask.scheduler.states import State

#: Weight of the latest function in the running means.
WEIGHT = 0.1
#: The engine is told when the round trip has changed by this factor.
CHANGE = 1.25


class RoundTrip(Observer):
    """Measures the round trip.

    Parameters
    ----------
    gather
        Takes events for the engine.
    is_disturbed
        Whether functions may wait on their nodes for something else to end.
    """

    watches = (Ended,)

    def __init__(
        self, gather: Callable[[Iterable[Event]], None], is_disturbed: Callable[[], bool] = lambda: False
    ) -> None:
        self._gather = gather
        self._is_disturbed = is_disturbed
        #: Seconds from the end of a function until it is known here, and from a placement to the start.
        self._back_s = 0.0
        self._there_s = 0.0
        self._told_s = 0.001

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """Learn from a function that has ended well."""
        if not isinstance(event, Ended):
            return
        attempt = function.attempt
        if attempt is None or attempt.stop is None or attempt.start is None or attempt.is_short:
            return
        if self._is_disturbed():
            return
        self._back_s += WEIGHT * (time() - attempt.stop - self._back_s)
        if not attempt.prefetched:
            there_s = attempt.start - attempt.placed - (attempt.transfer_s or 0.0)
            self._there_s += WEIGHT * (max(0.0, there_s) - self._there_s)
        seconds = self._back_s + self._there_s
        low, high = sorted((seconds, self._told_s))
        if high > CHANGE * low:
            self._told_s = max(seconds, 0.001)
            self._gather([RoundTripMeasured(seconds=self._told_s)])
