"""Observers: what watches the functions, the runs and the nodes, and decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, TypeAlias

from handoff_dask.placement.events import NodeChanged, NodeJoined, NodeLeft
from handoff_dask.scheduler.lifecycle import LifeEvent
from handoff_dask.scheduler.runs import FunctionState, RunState
from handoff_dask.scheduler.states import Attempt, State

#: What the engine is told of a node.
NodeEvent: TypeAlias = NodeJoined | NodeChanged | NodeLeft


class Observer:
    """Watches.  Each method is called after the fact; a subclass overrides those that it needs."""

    #: The events of which :meth:`function_changed` is told; of all if None.
    watches: ClassVar[tuple[type, ...] | None] = None

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """A function has changed its state because of an event."""

    def attempt_began(self, function: FunctionState, began: float) -> None:
        """A worker has reported that the present attempt began, in seconds since the epoch."""

    def claim_returned(self, function: FunctionState, attempt: Attempt) -> None:
        """What an attempt held of its node is free: it has ended, or its thread is over at last."""

    def run_opened(self, run: RunState) -> None:
        """The functions of a run are on the scheduler."""

    def run_grew(self, run: RunState) -> None:
        """A run is about to get more functions: the items of a map."""

    def run_began(self, run: RunState) -> None:
        """The first function of a run has been placed."""

    def run_ended(self, run: RunState) -> None:
        """A run has finished, failed or been cancelled."""

    def run_forgotten(self, run: RunState) -> None:
        """Dask has forgotten every function of a run."""

    def node_changed(self, event: NodeEvent) -> None:
        """A node has joined, offers something else, or has left."""

    def run_withdrawn(self, token: str) -> None:
        """The graph of a run that was announced will not come."""

    def placement_void(self, key: str) -> None:
        """The engine has placed a function that is gone by now."""

    def client_left(self, client: str) -> None:
        """A client has disconnected."""

    def cleared(self) -> None:
        """``Client.restart``: every task is gone."""


class Observers(Observer):
    """Several observers as one; each call reaches those that override the method, in order."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._of: dict[str, list[Observer]] = {name: [] for name in _METHODS}
        #: Those that watch functions, by event: this is called several times for each function.
        self._watching: dict[type, list[Observer]] = {}
        for observer in observers:
            self.add(observer)

    def add(self, observer: Observer) -> None:
        """Let one more watch, after the others."""
        for name, listeners in self._of.items():
            if getattr(type(observer), name) is not getattr(Observer, name):
                listeners.append(observer)
        self._watching.clear()

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """See :class:`Observer`, as for all that follow."""
        watching = self._watching.get(type(event))
        if watching is None:
            listeners = self._of["function_changed"]
            watching = [o for o in listeners if o.watches is None or type(event) in o.watches]
            self._watching[type(event)] = watching
        for observer in watching:
            observer.function_changed(function, old, new, event)

    def attempt_began(self, function: FunctionState, began: float) -> None:
        """Pass it on."""
        for observer in self._of["attempt_began"]:
            observer.attempt_began(function, began)

    def claim_returned(self, function: FunctionState, attempt: Attempt) -> None:
        """Pass it on."""
        for observer in self._of["claim_returned"]:
            observer.claim_returned(function, attempt)

    def run_opened(self, run: RunState) -> None:
        """Pass it on."""
        for observer in self._of["run_opened"]:
            observer.run_opened(run)

    def run_grew(self, run: RunState) -> None:
        """Pass it on."""
        for observer in self._of["run_grew"]:
            observer.run_grew(run)

    def run_began(self, run: RunState) -> None:
        """Pass it on."""
        for observer in self._of["run_began"]:
            observer.run_began(run)

    def run_ended(self, run: RunState) -> None:
        """Pass it on."""
        for observer in self._of["run_ended"]:
            observer.run_ended(run)

    def run_forgotten(self, run: RunState) -> None:
        """Pass it on."""
        for observer in self._of["run_forgotten"]:
            observer.run_forgotten(run)

    def node_changed(self, event: NodeEvent) -> None:
        """Pass it on."""
        for observer in self._of["node_changed"]:
            observer.node_changed(event)

    def run_withdrawn(self, token: str) -> None:
        """Pass it on."""
        for observer in self._of["run_withdrawn"]:
            observer.run_withdrawn(token)

    def placement_void(self, key: str) -> None:
        """Pass it on."""
        for observer in self._of["placement_void"]:
            observer.placement_void(key)

    def client_left(self, client: str) -> None:
        """Pass it on."""
        for observer in self._of["client_left"]:
            observer.client_left(client)

    def cleared(self) -> None:
        """Pass it on."""
        for observer in self._of["cleared"]:
            observer.cleared()


_METHODS = tuple(name for name in vars(Observer) if not name.startswith("_"))
