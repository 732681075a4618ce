"""Users' own resource trackers, and what clients claim for themselves."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from handoff_dask.errors import ValidationError
from handoff_dask.placement.events import (
    ClaimedElsewhere,
    FunctionKey,
    NodeJoined,
    NodeLeft,
    PermissionsChanged,
    ReturnedElsewhere,
)
from handoff_dask.placement.user_strategies import StrategyFailed
from handoff_dask.resources import Cost
from handoff_dask.scheduler.engine_driver import EngineDriver
from handoff_dask.scheduler.lifecycle import LifeEvent, Placed
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import NodeEvent, Observer
from handoff_dask.scheduler.runs import FunctionState, Runs, RunState
from handoff_dask.scheduler.states import Attempt, State
from handoff_dask.scheduler.user_code import UserCode
from handoff_dask.trackers import ResourceTracker

logger = logging.getLogger(__name__)

#: Seconds after which a tracker that has refused is asked again, if nothing else happens before.
ASK_AGAIN_S = 0.5


class Grant(NamedTuple):
    """What a tracker has granted and is to be told the end of."""

    tracker: _Tracker
    node: str
    cost: dict[str, Any]


class _Tracker:
    """A session's tracker, as the scheduler calls it."""

    def __init__(self, client: str) -> None:
        self._code = UserCode(f"resource_tracker of {client}")
        self._own: ResourceTracker

    def load(self, packed: bytes, offers: Mapping[str, Mapping[str, Any]]) -> None:
        """Unpickle it, and tell it every node."""

        def told(own: ResourceTracker) -> ResourceTracker:
            for name, offer in offers.items():
                own.register(name, dict(offer))
            return own

        self._own = self._code.load(packed, told)
        self._code.name = f"resource tracker {type(self._own).__name__!r}"

    def request(self, node: str, cost: dict[str, Any]) -> bool:
        """Whether it grants what a function is to hold."""
        granted: bool = self._code.ask(_request, self._own, node, cost)
        return granted

    def tell(self, method: str, node: str, what: dict[str, Any]) -> None:
        """Tell it what it cannot refuse; that it raises is logged and changes nothing."""
        try:
            self._code.ask(getattr(self._own, method), node, what)
        except StrategyFailed as error:
            logger.warning("%s raised in %s: %s", self._code.name, method, error)


def _request(tracker: ResourceTracker, node: str, cost: dict[str, Any]) -> bool:
    answer: Any = tracker.request(node, cost)
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError("it answers with a coroutine; it must not be async")
    return bool(answer)


class UserTrackers(Observer):
    """Asks and tells those outside the engine who keep account of nodes.

    Parameters
    ----------
    runs, nodes
        What is known of runs and workers.
    driver
        Of the engine.
    call_later
        Calls a function after so many seconds.
    """

    watches = (Placed,)

    def __init__(
        self,
        runs: Runs,
        nodes: Nodes,
        driver: EngineDriver,
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._runs = runs
        self._nodes = nodes
        self._driver = driver
        self._call_later = call_later
        #: ``{client: its session's tracker}``.
        self._trackers: dict[str, _Tracker] = {}
        #: Of functions that are about to be placed, by key; of those that were, by attempt.
        self._asked: dict[FunctionKey, Grant] = {}
        self._grants: dict[Attempt, Grant] = {}
        #: ``{(client, node): {resource: units}}``.
        self._claims: dict[tuple[str, str], dict[str, int]] = {}
        self._asks_again = False

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What clients may ask."""
        return {"use_tracker": self.use, "claim": self.claim, "give_back": self.give_back}

    # ------------------------------------------------------------------ sessions' trackers

    async def use(self, client: str, tracker: bytes | None) -> None:
        """A session has a tracker of its own, or has it no longer."""
        self._trackers.pop(client, None)
        if tracker is None:
            return
        await self._nodes.all_reported()
        offers = {n: self._nodes.capabilities(node).to_dict() for n, node in self._nodes.by_name.items()}
        own = _Tracker(client)
        try:
            await asyncio.to_thread(own.load, tracker, dict(sorted(offers.items())))
        except StrategyFailed as error:
            raise ValidationError(str(error)) from None
        self._trackers[client] = own

    def permit_of(self, run: RunState) -> Callable[[FunctionKey, str], bool] | None:
        """Who is asked before each placement of a run, if anybody."""
        tracker = self._trackers.get(run.client)
        if tracker is None:
            return None
        return lambda key, node: self._ask(tracker, run, str(key), node)

    def _ask(self, tracker: _Tracker, run: RunState, key: str, node: str) -> bool:
        function = self._runs.functions.get(key)
        if function is None:
            return True  # Dask has forgotten it: it is not going to be placed
        # A tracker keeps account of nodes, which have nothing of what the whole cluster shares.
        cost = {n: v for n, v in run.cost(function.position).items() if n not in self._nodes.shared}
        if tracker.request(node, cost):
            self._asked[key] = Grant(tracker, node, cost)
            return True
        if not self._asks_again:
            # Its reason may be no concern of the engine: nobody will tell when it has changed.
            self._asks_again = True
            self._call_later(ASK_AGAIN_S, self._ask_again)
        return False

    def _ask_again(self) -> None:
        self._asks_again = False
        self._driver.gather([PermissionsChanged()])

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """Note to which attempt a grant belongs."""
        if isinstance(event, Placed):
            grant = self._asked.pop(function.key, None)
            if grant is not None:
                self._grants[event.attempt] = grant

    def claim_returned(self, function: FunctionState, attempt: Attempt) -> None:
        """What a function held is free again: tell the tracker that granted it."""
        _release(self._grants.pop(attempt, None))

    def placement_void(self, key: str) -> None:
        """A function that was permitted is gone."""
        _release(self._asked.pop(key, None))

    # ------------------------------------------------------------------ clients' claims

    async def claim(self, client: str, node: str, cost: Cost) -> bool:
        """A client claims part of a node; whether there was room."""
        await self._nodes.all_reported()
        name = self._nodes.find(node).name
        driver = self._driver
        driver.flush()
        if not driver.engine.has_room(name, cost):
            return False
        held = self._claims.setdefault((client, name), {})
        for resource, units in cost.amounts:
            held[resource] = held.get(resource, 0) + units
        driver.gather([self._claimed(client, name)])
        driver.flush()
        return True

    def give_back(self, client: str, node: str, cost: Cost) -> None:
        """A client gives back what it has claimed; what it has not is not there to give."""
        key = (client, str(node))
        if key not in self._claims:
            key = (client, self._nodes.find(node).name)
        held = self._claims.get(key, {})
        for resource, units in cost.amounts:
            left = held.pop(resource, 0) - units
            if left > 0:
                held[resource] = left
        if held:
            self._driver.gather([self._claimed(*key)])
        else:
            self._return(key)
        self._driver.flush()

    def _claimed(self, client: str, node: str) -> ClaimedElsewhere:
        held = self._claims[client, node]
        return ClaimedElsewhere(
            claim=("client", client, node), node=node, cost=Cost(amounts=tuple(sorted(held.items())))
        )

    def _return(self, key: tuple[str, str]) -> None:
        if self._claims.pop(key, None) is not None:
            self._driver.gather([ReturnedElsewhere(claim=("client", *key))])

    # ------------------------------------------------------------------ what happens

    def node_changed(self, event: NodeEvent) -> None:
        """A node has joined, offers something else, or has left."""
        if isinstance(event, NodeLeft):
            return
        for tracker in self._trackers.values():
            tracker.tell("register", event.node, event.capabilities.to_dict())
        if isinstance(event, NodeJoined):
            # What a client has claimed is the name's, whoever bears it.
            mine = [key for key in self._claims if key[1] == event.node]
            self._driver.gather([self._claimed(*key) for key in mine])

    def client_left(self, client: str) -> None:
        """What it claimed is free, and its tracker has nothing more to say."""
        self._trackers.pop(client, None)
        for key in [key for key in self._claims if key[0] == client]:
            self._return(key)

    def cleared(self) -> None:
        """Every function is gone at once."""
        for grant in [*self._grants.values(), *self._asked.values()]:
            _release(grant)
        self._grants.clear()
        self._asked.clear()


def _release(grant: Grant | None) -> None:
    if grant is not None:
        grant.tracker.tell("release", grant.node, grant.cost)
