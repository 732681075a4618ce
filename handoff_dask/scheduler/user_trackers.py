"""On the scheduler: users' resource trackers, and what clients claim for themselves."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from distributed.protocol import pickle

from handoff_dask.errors import ValidationError
from handoff_dask.placement.events import (
    ClaimedElsewhere,
    FunctionKey,
    NodeChanged,
    NodeJoined,
    NodeLeft,
    PermissionsChanged,
    ReturnedElsewhere,
)
from handoff_dask.placement.user_strategies import StrategyFailed
from handoff_dask.resources import Cost
from handoff_dask.scheduler.runs import Run

if TYPE_CHECKING:
    from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin
    from handoff_dask.trackers import ResourceTracker

logger = logging.getLogger(__name__)

#: Seconds after which a tracker that has refused is asked again, if nothing else happens before.
ASK_AGAIN_S = 0.5


class Grant(NamedTuple):
    """What a tracker has granted and is to be told the end of."""

    tracker: ResourceTracker
    node: str
    cost: dict[str, Any]


class Tracking:
    """Those outside the engine who keep account of nodes."""

    def __init__(self, plugin: HandoffSchedulerPlugin) -> None:
        self._plugin = plugin
        #: ``{client: its session's tracker}``.
        self._trackers: dict[str, ResourceTracker] = {}
        #: By function, or by the claim of a thread that lingers.
        self._grants: dict[FunctionKey | int, Grant] = {}
        #: ``{(client, node): {resource: units}}``.
        self._claims: dict[tuple[str, str], dict[str, int]] = {}
        self._timer: Any = None
        plugin.requests.add(use_tracker=self.use, claim=self.claim, give_back=self.give_back)

    # ------------------------------------------------------------------ sessions' trackers

    async def use(self, client: str, tracker: bytes | None) -> None:
        """A session has a tracker of its own, or has it no longer."""
        self._trackers.pop(client, None)
        if tracker is None:
            return
        await self._plugin.requests.all_reported()
        try:
            own: ResourceTracker = pickle.loads(tracker)
            for name, node in sorted(self._plugin.nodes.by_name.items()):
                own.register(name, self._plugin.nodes.capabilities(node).to_dict())
        except BaseException as error:  # the user's code: not even sys.exit may end the scheduler
            raise ValidationError(
                f"resource_tracker cannot be used on the scheduler: {error!r}; "
                "what it needs must be importable there"
            ) from None
        self._trackers[client] = own

    def permit_of(self, run: Run) -> Callable[[FunctionKey, str], bool] | None:
        """Who is asked before each placement of a run, if anybody."""
        tracker = self._trackers.get(run.client)
        if tracker is None:
            return None
        return lambda key, node: self._ask(tracker, run, str(key), node)

    def _ask(self, tracker: ResourceTracker, run: Run, key: str, node: str) -> bool:
        function = self._plugin.registry.functions.get(key)
        if function is None:
            return True  # Dask has forgotten it: it is not going to be placed
        cost = dict(run.cost(function.position))
        name = type(tracker).__name__
        try:
            answer: Any = tracker.request(node, cost)
        except BaseException as error:  # the user's code: not even sys.exit may end the scheduler
            logger.warning("resource tracker %s raised", name, exc_info=True)
            raise StrategyFailed(
                f"resource tracker {name!r} raised {type(error).__name__}: {error}"
            ) from None
        if inspect.iscoroutine(answer):
            answer.close()
            raise StrategyFailed(f"resource tracker {name!r} answers with a coroutine; it must not be async")
        if answer:
            self._grants[key] = Grant(tracker, node, cost)
            return True
        if self._timer is None:
            # Whatever it minds may be no concern of the engine: nobody will tell when it has changed.
            self._timer = self._plugin.scheduler.loop.call_later(ASK_AGAIN_S, self._ask_again)
        return False

    def _ask_again(self) -> None:
        self._timer = None
        self._plugin.driver.gather([PermissionsChanged()])

    def placement_over(self, key: FunctionKey) -> None:
        """What a function held is free again: tell the tracker that granted it."""
        self._end(key)

    def lingers(self, key: FunctionKey, claim: int) -> None:
        """A function's thread goes on without it."""
        grant = self._grants.pop(key, None)
        if grant is not None:
            self._grants[claim] = grant

    def lingering_over(self, claim: int) -> None:
        """Such a thread is over, or its node is gone."""
        self._end(claim)

    def _end(self, key: FunctionKey | int) -> None:
        grant = self._grants.pop(key, None)
        if grant is not None:
            _tell(grant.tracker, "release", grant.node, grant.cost)

    # ------------------------------------------------------------------ clients' claims

    async def claim(self, client: str, node: str, cost: Cost) -> bool:
        """A client claims part of a node; whether there was room."""
        await self._plugin.requests.all_reported()
        name = self._plugin.nodes.find(node).name
        driver = self._plugin.driver
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
            key = (client, self._plugin.nodes.find(node).name)
        held = self._claims.get(key, {})
        for resource, units in cost.amounts:
            left = held.pop(resource, 0) - units
            if left > 0:
                held[resource] = left
        if held:
            self._plugin.driver.gather([self._claimed(*key)])
        else:
            self._return(key)
        self._plugin.driver.flush()

    def _claimed(self, client: str, node: str) -> ClaimedElsewhere:
        held = self._claims[client, node]
        return ClaimedElsewhere(
            claim=("client", client, node), node=node, cost=Cost(amounts=tuple(sorted(held.items())))
        )

    def _return(self, key: tuple[str, str]) -> None:
        if self._claims.pop(key, None) is not None:
            self._plugin.driver.gather([ReturnedElsewhere(claim=("client", *key))])

    # ------------------------------------------------------------------ what happens

    def node_event(self, event: NodeJoined | NodeChanged | NodeLeft) -> None:
        """A node is there, is gone, or offers something else."""
        if isinstance(event, NodeLeft):
            return
        for tracker in self._trackers.values():
            _tell(tracker, "register", event.node, event.capabilities.to_dict())
        if isinstance(event, NodeJoined):
            # What a client has claimed is the name's, whoever bears it.
            mine = [key for key in self._claims if key[1] == event.node]
            self._plugin.driver.gather([self._claimed(*key) for key in mine])

    def client_left(self, client: str) -> None:
        """What it claimed is free, and its tracker has nothing more to say."""
        self._trackers.pop(client, None)
        for key in [key for key in self._claims if key[0] == client]:
            self._return(key)

    def clear(self) -> None:
        """Every function is gone at once."""
        for key in list(self._grants):
            self._end(key)


def _tell(tracker: ResourceTracker, method: str, node: str, what: dict[str, Any]) -> None:
    """Tell a tracker what it cannot refuse; that it raises is logged and changes nothing."""
    try:
        getattr(tracker, method)(node, what)
    except BaseException:  # the user's code: not even sys.exit may end the scheduler
        logger.warning("resource tracker %s raised in %s", type(tracker).__name__, method, exc_info=True)
