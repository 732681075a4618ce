"""The placement engine: facts in, decisions out.  It knows no clock, no network and no Dask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from handoff_dask.placement import invariants, views
from handoff_dask.placement.asking import StrategyFailed, ask_allocate
from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.choosing import Chooser
from handoff_dask.placement.deciding import Decider
from handoff_dask.placement.decisions import Decision, Wait
from handoff_dask.placement.events import (
    ClaimedElsewhere,
    ClaimKey,
    Demand,
    DurationsLearned,
    Event,
    FunctionFinished,
    FunctionKey,
    FunctionReady,
    FunctionWithdrawn,
    NodeChanged,
    NodeJoined,
    NodeLeft,
    PermissionsChanged,
    ReturnedElsewhere,
    RunClosed,
    RunOpened,
    RunRanked,
    TimePassed,
)
from handoff_dask.placement.explanation import Explanation, NodeState, Obstacle
from handoff_dask.placement.lanes import Lanes
from handoff_dask.placement.ledger import Ledger, Node, amounts_of
from handoff_dask.placement.orphans import Orphans, reject
from handoff_dask.placement.queues import Waiting
from handoff_dask.placement.reservation import FLOOR_S, KEEP_FROM_S, Reservations
from handoff_dask.placement.runs import Run
from handoff_dask.placement.strategies import AllocateStrategy
from handoff_dask.placement.successors import LEAD_S, Successors
from handoff_dask.resources import Capabilities, Cost


class PlacementEngine:
    """Decides which function runs next, and where; never lets a node hold more than it has.

    Parameters
    ----------
    round_trip_s
        Time from the end of a function to the start of the next one that is placed because of
        it.  Functions that take less are sent ahead (see :mod:`handoff_dask.placement.lanes`).
    ahead_limit
        The most functions that are sent ahead, per slot.
    lanes_per_node
        The most lanes that a node has open.
    patience_floor_s
        Nobody is thought to have waited too long before this (see
        :mod:`handoff_dask.placement.reservation`).
    lead_s
        How long before the end of a function, where it is certain, the next one is sent that takes
        over its room (see :mod:`handoff_dask.placement.successors`); 0 for never.
    relays_per_node
        The most functions of a node that may be followed so.
    keep_from_s
        The first in order that has no room gets a node kept for it, if it takes so long.

    Examples
    --------
    >>> from handoff_dask.placement.strategies import FIRST_AVAILABLE
    >>> engine = PlacementEngine()
    >>> cpu = Demand(Cost.parse({"cpu": 2}))
    >>> _ = engine.handle(NodeJoined(node="a", capabilities=Capabilities.parse({"cpu": 3}), threads=4), now=0)
    >>> _ = engine.handle(RunOpened(run="r", strategy=FIRST_AVAILABLE), now=0)
    >>> [d.node for d in engine.handle(FunctionReady(function="f", run="r", demand=cpu), now=1)]
    ['a']
    >>> [d.cause for d in engine.handle(FunctionReady(function="g", run="r", demand=cpu), now=1)]
    ['room']
    >>> [d.function for d in engine.handle(FunctionFinished(function="f"), now=2)]
    ['g']
    """

    def __init__(
        self,
        *,
        round_trip_s: float = 0.02,
        ahead_limit: int = 64,
        lanes_per_node: int = 4,
        patience_floor_s: float = FLOOR_S,
        lead_s: float = LEAD_S,
        relays_per_node: int = 4,
        keep_from_s: float = KEEP_FROM_S,
    ) -> None:
        self._ledger = Ledger()
        self._backlog = Backlog(self._ledger)
        self._reservations = Reservations(self._backlog, patience_floor_s, keep_from_s)
        self._chooser = Chooser(self._backlog, self._reservations)
        self._lanes = Lanes(self._backlog, round_trip_s, ahead_limit, lanes_per_node)
        numbers = range(lanes_per_node, lanes_per_node + relays_per_node)
        self._successors = Successors(self._backlog, self._chooser, self._lanes, lead_s, numbers)
        self._decider = Decider(
            self._backlog, self._chooser, self._reservations, self._lanes, self._successors
        )
        self._orphans = Orphans(self._backlog)
        self._placed = self._decider.placed
        self._arrived: list[Waiting] = []
        #: Functions for which a user's strategy decided what cannot be, and what that was.
        self._spoiled: list[tuple[Waiting, str]] = []
        self._now = 0.0
        self._apply: dict[type, Callable[[Any], None]] = {
            NodeJoined: self._node_joined,
            NodeLeft: self._node_left,
            NodeChanged: self._node_changed,
            ClaimedElsewhere: self._claimed_elsewhere,
            ReturnedElsewhere: self._returned_elsewhere,
            RunOpened: self._run_opened,
            RunRanked: self._backlog.rerank,
            RunClosed: self._run_closed,
            DurationsLearned: self._durations_learned,
            FunctionReady: self._function_ready,
            FunctionFinished: self._function_finished,
            FunctionWithdrawn: self._function_withdrawn,
            PermissionsChanged: self._permissions_changed,
            TimePassed: lambda event: None,
        }

    # Driving it

    def handle(self, event: Event, *, now: float) -> list[Decision]:
        """Apply one event; return what must be done, in the order to do it.

        ``now`` is in seconds, of any clock that does not run backwards.
        """
        return self.handle_all((event,), now=now)

    def handle_all(self, events: Sequence[Event], *, now: float) -> list[Decision]:
        """Apply several facts, then decide once: cheaper than one by one, and sees more."""
        self._now = self._reservations.now = now
        for event in events:
            self._apply[type(event)](event)
        decisions: list[Decision] = []
        if self._spoiled or self._orphans.queues:
            self._give_up(decisions)
        self._reservations.review(now)
        self._decider.decide(now, decisions)
        for waiting in self._arrived:
            if waiting.waits:
                waiting.told = True
                decisions.append(Wait(function=waiting.function, cause=waiting.queue.cause))
        self._arrived.clear()
        if not self._backlog.shapes:
            self._ledger.forget_changes()
            self._chooser.forget()
            self._backlog.longest_s = 0.0
        return decisions

    def next_deadline(self) -> float | None:
        """When a :class:`TimePassed` is due at the latest, if nothing else happens before."""
        parts = (self._orphans, self._successors, self._reservations)
        deadlines = [part.deadline() for part in parts]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _give_up(self, decisions: list[Decision]) -> None:
        """Reject what a strategy spoiled, and what no node has come for in time."""
        for waiting, problem in self._spoiled:
            if waiting.waits:
                decisions.append(reject(self._backlog, waiting, problem))
        self._spoiled.clear()
        while (due := self._orphans.due(self._now)) is not None:
            decisions.append(reject(self._backlog, due))
        self._orphans.tidy()

    # Nodes

    def _node_joined(self, event: NodeJoined) -> None:
        known = self._ledger.nodes.get(event.node)
        if known is not None and known.present and known.address == event.address:
            self._offers(known, event.capabilities, event.threads, accepting=True)
            return
        if known is not None:
            self._lose(known, returning=False)
        node = self._ledger.join(event.node, event.address, event.capabilities, event.threads)
        for shape in self._backlog.shapes.values():
            shape.review(node)
        self._recall_those_who_bind()
        self._recall_those_at(event.node)
        if event.address is not None:
            self._recall_those_at(event.address)
        self._orphans.review_all(self._now)

    def _node_left(self, event: NodeLeft) -> None:
        node = self._ledger.nodes.get(event.node)
        if node is not None:
            self._lose(node, event.returning)

    def _node_changed(self, event: NodeChanged) -> None:
        node = self._ledger.nodes.get(event.node)
        if node is not None:
            self._offers(node, event.capabilities, event.threads, event.accepting)

    def _offers(self, node: Node, capabilities: Capabilities, threads: int, accepting: bool) -> None:
        self._reservations.drop(node)
        self._ledger.change(node, capabilities, threads, accepting)
        self._review_shapes(node, gone=False)
        self._recall_those_who_bind()
        self._orphans.review_all(self._now)

    def _lose(self, node: Node, returning: bool) -> None:
        """Forget what ran on a node, and the node itself unless it comes back."""
        self._reservations.drop(node)
        for waiting in list(node.placed.values()):
            del self._placed[waiting.function]
            if self._lanes.end(waiting):
                self._return(waiting)
        for group in list(node.groups):
            group.unbind()
            for queue in group.queues:
                self._backlog.refresh(queue)
        self._ledger.empty(node, returning)
        if not returning:
            self._backlog.free_assigned(node.name)
        self._recall_those_at(node.name)
        self._review_shapes(node, gone=not returning)

    def _review_shapes(self, node: Node, gone: bool) -> None:
        for shape in self._backlog.shapes.values():
            if shape.review(node, gone):
                # Whoever could run only there starts to wait for another node.
                for queue in list(shape.queues):
                    self._orphans.review(queue, self._now)
                for group in shape.groups:
                    for queue in self._backlog.queues_binding(group):
                        self._orphans.review(queue, self._now)

    def _recall_those_who_bind(self) -> None:
        """Look again at functions that may have had room, but nowhere to send their results."""
        for queue in self._backlog.queues():
            if queue.to_bind is not None and queue.to_bind.node is None:
                self._backlog.refresh(queue)

    def _recall_those_at(self, name: str) -> None:
        for queue in list(self._backlog.at.get(name, ())):
            self._backlog.refresh(queue)

    def _claimed_elsewhere(self, event: ClaimedElsewhere) -> None:
        node = self._ledger.nodes.get(event.node)
        if node is not None and node.present:
            self._ledger.claim_elsewhere(event.claim, node, event.cost, event.threads)
            self._reservations.drop(node)

    def _returned_elsewhere(self, event: ReturnedElsewhere) -> None:
        self._ledger.return_elsewhere(event.claim)

    # Runs

    def _run_opened(self, event: RunOpened) -> None:
        run = self._backlog.open(event)
        if isinstance(event.strategy, AllocateStrategy):
            try:
                run.assigned = ask_allocate(event.strategy, self._ledger)
            except StrategyFailed as error:
                run.problem = str(error)

    def _run_closed(self, event: RunClosed) -> None:
        self._backlog.close(event.run)

    def _durations_learned(self, event: DurationsLearned) -> None:
        for function, duration_s in event.durations.items():
            waiting = self._backlog.waiting.get(function)
            if waiting is not None and waiting.run.key == event.run:
                self._backlog.expect(waiting, duration_s)
                self._lanes.touch(waiting.queue)
                self._reservations.look_again(waiting)

    # Functions

    def _function_ready(self, event: FunctionReady) -> None:
        run = self._backlog.runs.get(event.run)
        if run is None or run.failed:
            return
        self._forget(event.function)
        assigned = self._assigned(run, event) if run.assigned else None
        waiting = self._backlog.add(run, event, self._now, assigned)
        self._arrived.append(waiting)
        if run.problem is not None:
            self._spoiled.append((waiting, run.problem))
        elif assigned is not None:
            self._vet(waiting, assigned)
        self._orphans.add(waiting, self._now)
        self._lanes.touch(waiting.queue)

    def _assigned(self, run: Run, event: FunctionReady) -> str | None:
        """The node that a user's strategy gave to a function, as long as it is there."""
        name = run.assigned.get(event.function)
        node = None if name is None or event.demand.pin is not None else self._ledger.find(name)
        if node is None:
            return None
        if event.demand.group is None:
            return node.name
        group = run.groups[event.demand.group]
        able = node.present and node.name in group.shape.holders
        if able and group.node is None and group.pin is None:
            group.bind(node)
            for queue in group.queues:
                self._backlog.refresh(queue)
        return None

    def _vet(self, waiting: Waiting, assigned: str) -> None:
        if assigned not in waiting.queue.shape.holders:
            problem = f"the strategy gave it to {assigned!r}, which could never hold it"
            self._spoiled.append((waiting, problem))

    def _function_finished(self, event: FunctionFinished) -> None:
        waiting = self._placed.pop(event.function, None)
        if waiting is None:
            return
        node = waiting.node
        assert node is not None
        del node.placed[event.function]
        if waiting.lane is None:
            self._reservations.learn(self._now - waiting.placed_at)
            if waiting.certain:
                self._successors.learn(waiting, event.took_s, self._now)
            if node.reservation is not None:
                node.reservation.ended(waiting)
        elif not self._lanes.end(waiting):
            return
        self._return(waiting)

    def _return(self, waiting: Waiting) -> None:
        """Return one claim."""
        assert waiting.node is not None
        queue, scope = waiting.queue, waiting.queue.scope
        was_full = scope.full
        scope.claims -= 1
        if waiting.relay is None:
            queue.shape.give_back(self._ledger, waiting.node)
        else:
            queue.shape.give_back(self._ledger, waiting.node, () if waiting.holds_nothing() else None)
            self._successors.end(waiting, self._now)
        if was_full:
            for held in [*scope.queues.values(), *scope.assigned.values()]:
                self._backlog.refresh(held)

    def _function_withdrawn(self, event: FunctionWithdrawn) -> None:
        waiting = self._backlog.waiting.get(event.function)
        if waiting is not None:
            self._backlog.withdraw(waiting)

    def _permissions_changed(self, event: PermissionsChanged) -> None:
        for queue in list(self._backlog.asking):
            self._backlog.refresh(queue)

    def _forget(self, function: FunctionKey) -> None:
        """A function that is ready is nowhere else."""
        waiting = self._backlog.waiting.get(function)
        if waiting is not None:
            self._backlog.withdraw(waiting)
        elif function in self._placed:
            self._function_finished(FunctionFinished(function=function))

    # Looking at it

    @property
    def waiting(self) -> int:
        """How many functions wait."""
        return len(self._backlog.waiting)

    @property
    def placed(self) -> int:
        """How many functions are placed."""
        return len(self._placed)

    def waiting_by_cause(self) -> dict[str, int]:
        """How many functions wait, by what keeps them."""
        return views.waiting_by_cause(self._backlog)

    def waiting_cause(self, function: FunctionKey) -> str:
        """What keeps one waiting function, in a word; "" if nothing does, or it does not wait."""
        waiting = self._backlog.waiting.get(function)
        return "" if waiting is None else waiting.queue.cause

    def nodes(self) -> dict[str, NodeState]:
        """Every node as it is now, by name, those being restarted included."""
        return views.node_states(self._ledger)

    def available(self, node: str) -> dict[str, int | float]:
        """What is free on a node (name or address) now, as users write it; {} if it is unknown."""
        found = self._ledger.find(node)
        return {} if found is None else views.available(found)

    def claimed_elsewhere(self, node: str) -> Mapping[ClaimKey, Mapping[str, int]]:
        """What is held of a node (name or address) by what is none of our functions, in units."""
        found = self._ledger.find(node)
        return {} if found is None or not found.elsewhere else views.elsewhere(found)

    def has_room(self, node: str, cost: Cost, threads: int = 0) -> bool:
        """Whether a node (name or address) is there and has that much free now."""
        found = self._ledger.find(node)
        if found is None or found.capabilities.has_labels(cost) is False:
            return False
        return bool(found.offer) and found.has_room(amounts_of(cost, threads))

    def obstacles(
        self, demand: Demand, nodes: Mapping[str, Capabilities] | None = None
    ) -> dict[str, Obstacle]:
        """Why each node that could not hold a demand could not, even when idle.

        Parameters
        ----------
        demand
            Of a function, or of a group; its own group and what it binds are not looked at.
        nodes
            The confinement of its run, as in :class:`RunOpened`.
        """
        return views.idle_obstacles(self._ledger, demand, nodes)

    def could_hold(self, demand: Demand, nodes: Mapping[str, Capabilities] | None = None) -> bool:
        """Whether some node (one being restarted counts) could hold a demand when idle."""
        return len(self.obstacles(demand, nodes)) < len(self._ledger.nodes)

    def explain(self, function: FunctionKey, *, now: float) -> Explanation:
        """Where a function stands; if it waits, what stands in the way on each node."""
        return views.explain(self._backlog, self._placed, function, now)

    def remembers(self) -> dict[str, int]:
        """What is kept, by kind, kinds of which nothing is left out; {} once all has ended."""
        return views.sizes(self._backlog, self._placed, len(self._orphans.queues))

    def check(self) -> None:
        """Assert everything that must always hold; for tests."""
        invariants.check(self._backlog, self._placed, self._reservations)
