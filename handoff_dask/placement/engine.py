"""The placement engine: facts in, decisions out.  It knows no clock, no network and no Dask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from handoff_dask.placement.backfill import Backfill
from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.choosing import Chooser
from handoff_dask.placement.deciding import Decider
from handoff_dask.placement.decisions import Decision, Place, Wait
from handoff_dask.placement.demand import FunctionKey
from handoff_dask.placement.events import (
    ArgumentReady,
    ClaimedElsewhere,
    DurationsLearned,
    Event,
    FunctionFinished,
    FunctionReady,
    FunctionWithdrawn,
    NetworkMeasured,
    NodeChanged,
    NodeJoined,
    NodeLeft,
    NodeMemory,
    OutsideWaits,
    PermissionsChanged,
    ReturnedElsewhere,
    RoundTripMeasured,
    RunClosed,
    RunOpened,
    RunRanked,
    SharedRegistered,
    TimePassed,
)
from handoff_dask.placement.ledger import Ledger, Node
from handoff_dask.placement.locality import Locality
from handoff_dask.placement.moving_ahead import MovingAhead
from handoff_dask.placement.prefetch import PrefetchQueues
from handoff_dask.placement.prefetch_timed import TimedPrefetches
from handoff_dask.placement.queues import ScheduledFunction
from handoff_dask.placement.requests import ResourceRequest
from handoff_dask.placement.runs import Run
from handoff_dask.placement.settings import DEFAULT_SETTINGS, EngineSettings
from handoff_dask.placement.strategies import AllocateStrategy
from handoff_dask.placement.unplaceable import Unplaceable, reject
from handoff_dask.placement.user_strategies import StrategyFailed, ask_allocate
from handoff_dask.placement.views import EngineView
from handoff_dask.resources import Capabilities


class PlacementEngine(EngineView):
    """Decides which function runs next, and where; never lets a node hold more than it has.

    Parameters
    ----------
    settings
        The numbers by which it decides.

    Examples
    --------
    >>> from handoff_dask.placement.strategies import FIRST_AVAILABLE
    >>> from handoff_dask.placement.demand import Demand
    >>> from handoff_dask.resources import Cost
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

    def __init__(self, settings: EngineSettings = DEFAULT_SETTINGS) -> None:
        backlog = Backlog(Ledger(), settings)
        super().__init__(backlog)
        self.settings = settings
        self._ledger = backlog.ledger
        self._placed = backlog.placed
        self._backfill = Backfill(backlog)
        self._chooser = Chooser(backlog, self._backfill)
        self._locality = Locality(backlog, self._chooser)
        self._ahead = MovingAhead(backlog, self._chooser.full_nodes)
        self._prefetch = PrefetchQueues(backlog, self._locality.is_near)
        self._timed = TimedPrefetches(backlog, self._chooser, self._locality, self._prefetch)
        self._decider = Decider(
            backlog, self._chooser, self._locality, self._backfill, self._prefetch, self._timed
        )
        self._unplaceable = Unplaceable(backlog)
        self._arrived: list[ScheduledFunction] = []
        #: Functions for which a user's strategy answered what cannot be, and what that was.
        self._rejected_answers: list[tuple[ScheduledFunction, str]] = []
        self._now = 0.0
        self._apply: dict[type, Callable[[Any], None]] = {
            NodeJoined: self._node_joined,
            NodeLeft: self._node_left,
            NodeChanged: self._node_changed,
            ClaimedElsewhere: self._claimed_elsewhere,
            ReturnedElsewhere: self._returned_elsewhere,
            RunOpened: self._run_opened,
            OutsideWaits: self._outside_waits,
            RunRanked: self._backlog.rerank,
            RunClosed: self._run_closed,
            DurationsLearned: self._durations_learned,
            ArgumentReady: self._ahead.argument_ready,
            FunctionReady: self._function_ready,
            FunctionFinished: self._function_finished,
            FunctionWithdrawn: self._function_withdrawn,
            NetworkMeasured: self._network_measured,
            NodeMemory: self._node_memory,
            RoundTripMeasured: lambda event: self._timed.measured(event.seconds),
            PermissionsChanged: self._permissions_changed,
            SharedRegistered: self._shared_registered,
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
        self._now = self._backlog.clock.now = now
        for event in events:
            self._apply[type(event)](event)
        decisions: list[Decision] = []
        if self._rejected_answers or self._unplaceable.queues:
            self._give_up(decisions)
        if self._backlog.shares.rivals:
            self._backlog.shares.review()
        tables = self._backlog.tables
        if tables.to_come.found_for != self._ledger.shape:
            tables.to_come.review(tables.requests.values())
            self._backlog.look_again_at_all_held()
        self._backfill.review(now)
        if tables.near:
            self._locality.review(now)
        self._decider.decide(decisions)
        for scheduled in self._arrived:
            if scheduled.waits:
                scheduled.told = True
                decisions.append(Wait(function=scheduled.function, cause=scheduled.queue.cause))
        self._arrived.clear()
        # After the functions that take their arguments now.
        if self._backlog.network.data:
            placed_on = {d.node: None for d in decisions if isinstance(d, Place)}
            decisions.extend(self._ahead.decide(placed_on))
        if not self._backlog.tables.requests:
            self._ledger.forget_changes()
            self._chooser.forget()
            self._locality.forget()
            self._backlog.longest_s = 0.0
        if self._backlog.outside:
            return list(filter(self._is_ours, decisions))
        return decisions

    def _is_ours(self, decision: Decision) -> bool:
        """Whether a driver has to do something."""
        function = decision.function
        scheduled = self._placed.get(function) or self._backlog.waiting.get(function)
        return scheduled is None or not scheduled.queue.queue_group.outside

    def next_deadline(self) -> float | None:
        """When a :class:`TimePassed` is due at the latest, if nothing else happens before."""
        deadlines = [part.deadline() for part in (self._unplaceable, self._timed, self._backfill)]
        if self._backlog.tables.near:
            deadlines.append(self._locality.deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _give_up(self, decisions: list[Decision]) -> None:
        """Reject what a strategy spoiled, and what no node has come for in time."""
        for scheduled, problem in self._rejected_answers:
            if scheduled.waits:
                decisions.append(reject(self._backlog, scheduled, problem))
        self._rejected_answers.clear()
        while (due := self._unplaceable.due(self._now)) is not None:
            decisions.append(reject(self._backlog, due))
        self._unplaceable.tidy()

    # Nodes

    def _node_joined(self, event: NodeJoined) -> None:
        known = self._ledger.nodes.get(event.node)
        if known is not None and known.present and known.address == event.address:
            self._offers(known, event.capabilities, event.threads, accepting=True)
            return
        if known is not None:
            self._lose(known, returning=False)
        node = self._ledger.join(event.node, event.address, event.capabilities, event.threads)
        for request in self._backlog.tables.requests.values():
            self._review(request, node)
        self._look_again_at_binding()
        self._look_again_at(event.node)
        if event.address is not None:
            self._look_again_at(event.address)
        self._unplaceable.review_all(self._now)

    def _node_left(self, event: NodeLeft) -> None:
        node = self._ledger.nodes.get(event.node)
        if node is not None:
            self._lose(node, event.returning)

    def _node_changed(self, event: NodeChanged) -> None:
        node = self._ledger.nodes.get(event.node)
        if node is not None:
            self._offers(node, event.capabilities, event.threads, event.accepting)

    def _offers(self, node: Node, capabilities: Capabilities, threads: int, accepting: bool) -> None:
        self._backfill.drop(node)
        self._ledger.change(node, capabilities, threads, accepting)
        self._review_requests(node, gone=False)
        self._look_again_at_binding()
        self._unplaceable.review_all(self._now)

    def _lose(self, node: Node, returning: bool) -> None:
        """Forget what ran on a node, and the node itself unless it comes back."""
        self._backfill.drop(node)
        for function in list(node.placed):
            scheduled = self._placed.pop(function)
            scheduled.queue.placed -= 1
            scheduled.queue.queue_group.holding_back.placed -= 1
            self._backlog.network.release(scheduled.data)
            if self._prefetch.end(scheduled):
                self._return(scheduled)
        for group in self._backlog.tables.bound_to(node):
            self._backlog.tables.unbind(group)
            for queue in self._backlog.tables.members(group):
                self._backlog.refresh(queue)
        self._backlog.network.node_left(node.name)
        self._ahead.node_left(node.name)
        self._chooser.full_nodes.pop(node.name, None)
        self._ledger.empty(node, returning)
        if not returning:
            self._backlog.free_assigned(node.name)
        self._look_again_at(node.name)
        self._review_requests(node, gone=not returning)

    def _review_requests(self, node: Node, gone: bool) -> None:
        for request in self._backlog.tables.requests.values():
            if self._review(request, node, gone):
                # Whoever could run only there starts to wait for another node.
                for queue in self._backlog.tables.queues_asking(request):
                    self._unplaceable.review(queue, self._now)

    def _review(self, request: ResourceRequest, node: Node, gone: bool = False) -> bool:
        """Look again at whether a node could hold a request; True if it no longer can but could."""
        before = request.eligible
        lost = request.review(node, gone)
        if request.avoid and request.eligible != before:
            # Nodes that it avoids may be the only ones by now, or not any longer.
            for queue in self._backlog.tables.queues_asking(request):
                self._backlog.refresh(queue)
        return lost

    def _look_again_at_binding(self) -> None:
        """Look again at functions that may have had room, but nowhere to send their results."""
        for queue in self._backlog.tables.queues():
            if queue.to_bind is not None and queue.to_bind.node is None:
                self._backlog.refresh(queue)

    def _look_again_at(self, name: str) -> None:
        for queue in list(self._backlog.at.get(name, ())):
            self._backlog.refresh(queue)

    def _claimed_elsewhere(self, event: ClaimedElsewhere) -> None:
        node = self._ledger.nodes.get(event.node)
        if node is not None and node.present:
            self._ledger.claim_elsewhere(event.claim, node, event.cost, event.threads, event.devices)
            self._backfill.drop(node)

    def _returned_elsewhere(self, event: ReturnedElsewhere) -> None:
        self._ledger.return_elsewhere(event.claim)

    # Runs

    def _run_opened(self, event: RunOpened) -> None:
        run = self._backlog.open(event)
        run.problem = event.problem
        if isinstance(event.strategy, AllocateStrategy):
            try:
                run.assigned = ask_allocate(event.strategy, self._ledger)
            except StrategyFailed as error:
                run.problem = str(error)

    def _outside_waits(self, event: OutsideWaits) -> None:
        run = self._backlog.runs.get(event.run)
        if run is not None:
            run.party.waits_outside = event.waits

    def _run_closed(self, event: RunClosed) -> None:
        self._ahead.close(event.run)
        self._backlog.close(event.run)

    def _durations_learned(self, event: DurationsLearned) -> None:
        for function, duration_s in event.durations.items():
            scheduled = self._backlog.waiting.get(function)
            if scheduled is not None and scheduled.run.key == event.run:
                self._backlog.expect(scheduled, duration_s)
                self._prefetch.touch(scheduled.queue)
                self._backfill.look_again(scheduled)

    # Functions

    def _function_ready(self, event: FunctionReady) -> None:
        run = self._backlog.runs.get(event.run)
        if run is None or run.failed:
            return
        self._forget(event.function)
        assigned = self._assigned(run, event) if run.assigned else None
        data = self._locality.data_of(event) if event.arguments else ()
        gathered = self._ahead.over(event.function) if event.function in self._ahead.open else None
        home = None
        if data and assigned is None and event.demand.pin is None and event.demand.group is None:
            home = gathered or self._locality.home_of(run, event, data)
            home = home or self._ahead.home_of(run, event.demand, data)
        scheduled = self._backlog.add(run, event, assigned, data, home)
        scheduled.has_moved = gathered is not None
        if event.begun and self._decider.takes_room(scheduled):
            return
        self._arrived.append(scheduled)
        if data:
            self._ahead.waits(scheduled)
        if run.problem is not None:
            self._rejected_answers.append((scheduled, run.problem))
        elif assigned is not None:
            self._vet(scheduled, assigned)
        self._unplaceable.add(scheduled, self._now)
        self._prefetch.touch(scheduled.queue)

    def _assigned(self, run: Run, event: FunctionReady) -> str | None:
        """The node that a user's strategy gave to a function, as long as it is there."""
        name = run.assigned.get(event.function)
        node = None if name is None or event.demand.pin is not None else self._ledger.find(name)
        if node is None:
            return None
        if event.demand.group is None:
            return node.name
        group = run.groups[event.demand.group]
        able = node.present and node.name in group.request.eligible
        if able and group.node is None and group.pin is None:
            self._backlog.tables.bind(group, node)
            for queue in self._backlog.tables.members(group):
                self._backlog.refresh(queue)
        return None

    def _vet(self, scheduled: ScheduledFunction, assigned: str) -> None:
        if assigned not in scheduled.queue.request.eligible:
            problem = f"the strategy gave it to {assigned!r}, which could never hold it"
            self._rejected_answers.append((scheduled, problem))

    def _function_finished(self, event: FunctionFinished) -> None:
        scheduled = self._placed.pop(event.function, None)
        if scheduled is None:
            waiting = self._backlog.waiting.get(event.function)
            if waiting is not None and waiting.queue.queue_group.outside:
                self._another_ran(waiting)
            return
        node = scheduled.node
        assert node is not None
        scheduled.queue.placed -= 1
        holding_back = scheduled.queue.queue_group.holding_back
        holding_back.placed -= 1
        if holding_back.queues:
            self._backlog.look_again_at_held(scheduled.queue)
        del node.placed[event.function]
        if scheduled.data:
            # It ran, so its arguments were there.
            arrived = None if event.took_s is None else node.name
            self._backlog.network.release(scheduled.data, arrived)
        if scheduled.prefetch_queue is None:
            self._backfill.learn(self._now - scheduled.placed_at)
            if scheduled.certain:
                self._timed.learn(scheduled, event.took_s, self._now)
            if node.name in self._backlog.reserved:
                self._backlog.reserved[node.name].ended(scheduled)
        elif not self._prefetch.end(scheduled):
            return
        self._return(scheduled)

    def _another_ran(self, ended: ScheduledFunction) -> None:
        """One has ended outside that was thought to wait: one of its like waits that was thought to run."""
        queue = ended.queue
        self._backlog.withdraw(ended)
        node = self._backlog.target(queue) if queue.placed else None
        if node is None:
            return
        other = next(w for f in node.placed if (w := self._placed[f]).queue is queue)
        self._function_finished(FunctionFinished(function=other.function))
        self._function_ready(
            FunctionReady(
                function=other.function, run=other.run.key, demand=queue.demand, priority=other.priority
            )
        )

    def _return(self, scheduled: ScheduledFunction) -> None:
        """Return one claim."""
        assert scheduled.node is not None
        queue, queue_group = scheduled.queue, scheduled.queue.queue_group
        was_full = queue_group.full
        queue_group.claims -= 1
        if scheduled.timed_prefetch is None:
            queue.request.give_back(self._ledger, scheduled.node)
            self._backlog.shares.give_back(queue.party, queue.request.claims)
        else:
            nothing = scheduled.holds_nothing()
            queue.request.give_back(self._ledger, scheduled.node, () if nothing else None)
            if not nothing:
                self._backlog.shares.give_back(queue.party, queue.request.claims)
            self._timed.end(scheduled, self._now)
        # What takes over its room has taken its devices already.
        scheduled.node.devices.give_back(scheduled.function)
        if was_full:
            for held in self._backlog.tables.queues_of(scheduled.run):
                self._backlog.refresh(held)

    def _function_withdrawn(self, event: FunctionWithdrawn) -> None:
        scheduled = self._backlog.waiting.get(event.function)
        if scheduled is not None:
            self._backlog.withdraw(scheduled)

    def _shared_registered(self, event: SharedRegistered) -> None:
        is_new = self._ledger.register_shared(event.name, event.total)
        tables = self._backlog.tables
        for request in tables.requests.values():
            if is_new:
                request.split(self._ledger.shared)
                request.orders.clear()
            for node in self._ledger.nodes.values():
                request.review(node)
        for queue in tables.queues():
            queue.amounts = queue.request.amounts
            self._backlog.refresh(queue)
        self._unplaceable.review_all(self._now)

    def _network_measured(self, event: NetworkMeasured) -> None:
        self._backlog.network.measured(event.bandwidth, event.latency_s, event.pairs)
        self._locality.look_again_at_all()

    def _node_memory(self, event: NodeMemory) -> None:
        full_nodes = self._chooser.full_nodes
        if event.node in self._ledger.nodes and event.used > self.settings.memory_target * event.limit:
            full_nodes[event.node] = None
        else:
            full_nodes.pop(event.node, None)

    def _permissions_changed(self, event: PermissionsChanged) -> None:
        for queue in list(self._backlog.to_ask):
            self._backlog.refresh(queue)

    def _forget(self, function: FunctionKey) -> None:
        """A function that is ready is nowhere else."""
        scheduled = self._backlog.waiting.get(function)
        if scheduled is not None:
            self._backlog.withdraw(scheduled)
        elif function in self._placed:
            self._function_finished(FunctionFinished(function=function))
