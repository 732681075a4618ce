"""Sets nodes aside that only fail: nothing is placed there that another node could ever hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from distributed.metrics import monotonic

from handoff_dask.placement.events import NodeLeft
from handoff_dask.scheduler import lifecycle as life
from handoff_dask.scheduler.node_health import NodeHealth
from handoff_dask.scheduler.observer import NodeEvent, Observer
from handoff_dask.scheduler.runs import FunctionState
from handoff_dask.scheduler.states import State, Waiting


class SickNodes(Observer):
    """Tells node health how attempts end, and has waiting functions offered again.

    Parameters
    ----------
    health
        Decides.
    functions
        Every function that is known, by Dask key.
    offer_again
        Tells the engine anew what a waiting function asks for.
    call_later
        Calls a function after so many seconds.
    told
        Called with a node, whether it is sick by now, its failures in a row, and why.
    """

    watches: ClassVar[tuple[type, ...] | None] = (life.Ended, life.Dropped, life.FailedForGood)

    def __init__(
        self,
        health: NodeHealth,
        functions: Mapping[str, FunctionState],
        offer_again: Callable[[FunctionState], None],
        call_later: Callable[..., object],
        told: Callable[[str, bool, int, str], None],
    ) -> None:
        self._health = health
        self._functions = functions
        self._offer_again = offer_again
        self._call_later = call_later
        self._told = told

    def function_changed(
        self, function: FunctionState, old: State, new: State, event: life.LifeEvent
    ) -> None:
        """An attempt has ended."""
        attempt, now = function.attempt, monotonic()
        if attempt is None:
            return
        if isinstance(event, life.Ended):
            was_sick = attempt.node in self._health.sick()
            sick = self._health.ended_well(attempt.node, function.key, now)
            if was_sick and attempt.node not in self._health.sick():
                self._changed([attempt.node], is_sick=False, reason="a function has ended well there")
        elif attempt.raised is not None or (isinstance(event, life.FailedForGood) and event.failure):
            sick = self._health.failed(attempt.node, function.key, now)
        else:
            return
        if sick:
            self._changed(sick, is_sick=True, reason="its last attempts failed; one has ended well elsewhere")
            self._watch()

    def node_changed(self, event: NodeEvent) -> None:
        """A node that is gone is counted anew when it is back."""
        if isinstance(event, NodeLeft):
            self._health.left(event.node)

    def _watch(self) -> None:
        until = self._health.next_over()
        if until is not None:
            self._call_later(max(0.0, until - monotonic()), self._over)

    def _over(self) -> None:
        tried = self._health.over(monotonic())
        if tried:
            self._changed(tried, is_sick=False, reason="its time is over; it is tried again")
        self._watch()

    def _changed(self, nodes: list[str], *, is_sick: bool, reason: str) -> None:
        for node in nodes:
            self._told(node, is_sick, self._health.failures(node), reason)
        for function in list(self._functions.values()):
            if isinstance(function.state, Waiting):
                self._offer_again(function)
