"""Who shares a queue: tables of resource requests, runs, collocation groups and their queues."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from handoff_dask.placement.collocation import Group
from handoff_dask.placement.demand import Demand
from handoff_dask.placement.events import RunOpened
from handoff_dask.placement.holding_back import HoldingBack
from handoff_dask.placement.ledger import Ledger, Node
from handoff_dask.placement.queues import Queue
from handoff_dask.placement.requests import Confinement, ResourceRequest
from handoff_dask.placement.runs import QueueGroup, Run, scored
from handoff_dask.placement.shared import SharedResource
from handoff_dask.placement.shares import RunParty
from handoff_dask.placement.strategies import SelectStrategy
from handoff_dask.placement.to_come import ToCome
from handoff_dask.resources import NOTHING, Cost

#: So many queues a run may have in which nothing waits before some are looked for that can be dropped.
_IDLE = 64
RequestKey: TypeAlias = tuple[Cost, Cost, Confinement | None, frozenset[str]]


@dataclass(slots=True)
class _Queues:
    """Queues of a run, by demand: the most, and those of functions that were given a node by user code."""

    common: dict[Demand, Queue] = field(default_factory=dict)
    #: The same for functions whose data is at some node.
    near: dict[tuple[Demand, str], Queue] = field(default_factory=dict)
    assigned: dict[Demand, Queue] = field(default_factory=dict)
    #: With so many queues, those that nothing needs are looked for.
    many: int = _IDLE

    def __len__(self) -> int:
        return len(self.common) + len(self.near) + len(self.assigned)

    def __iter__(self) -> Iterator[Queue]:
        yield from self.common.values()
        yield from self.near.values()
        yield from self.assigned.values()


@dataclass(slots=True)
class _Uses:
    """The queues and the collocation groups of one resource request."""

    queues: dict[Queue, None] = field(default_factory=dict)
    groups: dict[Group, None] = field(default_factory=dict)


class QueueTables:
    """Finds or makes the queue of a function, and drops queues with their runs."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.requests: dict[RequestKey, ResourceRequest] = {}
        #: The request of a function that costs nothing, which every node could hold.
        self.anything = ResourceRequest(NOTHING)
        #: What functions still to come ask for.
        self.to_come = ToCome(ledger)
        self.anything.eligible = ledger.nodes
        self._uses: dict[ResourceRequest, _Uses] = {}
        self._of_run: dict[Run, _Queues] = {}
        #: ``{node name: queues of functions whose data is there}``.
        self.near: dict[str, dict[Queue, None]] = {}
        self._members: dict[Group, dict[Queue, None]] = {}
        #: ``{node name: the collocation groups that are bound to it}``.
        self._bound: dict[str, dict[Group, None]] = {}

    # Runs

    def open(self, event: RunOpened, party: RunParty) -> Run:
        """Make a run, with its queue group and collocation groups."""
        strategy = event.strategy
        select = strategy if isinstance(strategy, SelectStrategy) else None
        confinement = None if event.nodes is None else Confinement(event.nodes, self._ledger)
        queue_group = QueueGroup(
            scored(strategy),
            HoldingBack(self._ledger),
            select,
            confinement,
            event.max_concurrency,
            permit=event.permit,
            outside=event.outside,
        )
        run = Run(event.run, strategy, queue_group, event.allocation_timeout_s, party)
        run.next_rank = event.next_rank
        run.goes_on = event.goes_on
        self.to_come.opened(event.run, event.costs)
        self._of_run[run] = _Queues()
        for key, demand in event.groups.items():
            request = self._request(demand.cost, demand.cost, queue_group.confinement)
            run.groups[key] = group = Group(key, demand, request)
            self._uses[request].groups[group] = None
            self._members[group] = {}
        return run

    def close(self, run: Run) -> list[Queue]:
        """Forget a run; its queues, to be taken off every list."""
        self.to_come.closed(run.key)
        queues = list(self._of_run.pop(run))
        for queue in queues:
            self._forget(queue)
        for group in run.groups.values():
            self.unbind(group)
            del self._uses[group.request].groups[group]
            del self._members[group]
            self._release(group.request)
        return queues

    # Queues

    def queue(self, run: Run, demand: Demand, assigned: str | None) -> Queue:
        """The queue of a run's functions of one demand; those that user code gave a node have their own."""
        own = self._of_run[run]
        if assigned is not None and demand.pin is None:
            demand = replace(demand, pin=assigned, avoid=frozenset())
        queue = (own.common if assigned is None else own.assigned).get(demand)
        if queue is None:
            if len(own) >= own.many:
                self._drop_idle(own)
            queue = self._new_queue(run, demand)
            (own.common if assigned is None else own.assigned)[demand] = queue
            queue.soft = assigned is not None
        return queue

    def queue_near(self, run: Run, demand: Demand, home: str) -> Queue:
        """The queue of functions of one demand whose data is at one node."""
        own = self._of_run[run]
        queue = own.near.get((demand, home))
        if queue is None:
            if len(own) >= own.many:
                self._drop_idle(own)
            queue = own.near[demand, home] = self._new_queue(run, demand)
            queue.home = home
            self.near.setdefault(home, {})[queue] = None
        return queue

    def request_of(self, run: Run, demand: Demand) -> ResourceRequest:
        """What functions of one demand ask for, that are in no collocation group."""
        return self._request(demand.cost, demand.cost, run.queue_group.confinement, demand.avoid)

    def _drop_idle(self, own: _Queues) -> None:
        """Drop queues that nothing needs, now and then: functions may all have costs of their own."""
        for queue in [queue for queue in own if queue.is_idle()]:
            self._forget(queue)
        own.common = {key: queue for key, queue in own.common.items() if not queue.is_idle()}
        own.near = {key: queue for key, queue in own.near.items() if not queue.is_idle()}
        own.assigned = {key: queue for key, queue in own.assigned.items() if not queue.is_idle()}
        own.many = 2 * len(own) + _IDLE

    def _forget(self, queue: Queue) -> None:
        if queue.home is not None:
            self._no_longer_near(queue, queue.home)
        if queue.group is not None:
            self._members[queue.group].pop(queue, None)
        del self._uses[queue.request].queues[queue]
        self._release(queue.request)

    def _no_longer_near(self, queue: Queue, home: str) -> None:
        near = self.near[home]
        del near[queue]
        if not near:
            del self.near[home]

    def queues(self) -> Iterator[Queue]:
        """Every queue there is."""
        for uses in self._uses.values():
            yield from uses.queues

    def queues_of(self, run: Run) -> list[Queue]:
        """Queues in which functions of a run may wait; none once it is closed."""
        return list(self._of_run.get(run, ()))

    def queues_sharing(self, resource: SharedResource) -> list[Queue]:
        """Queues whose functions ask for a shared resource."""
        sharing = [r for r in self.requests.values() if r.shared and any(s is resource for s, _ in r.shared)]
        return [queue for request in sharing for queue in self._uses[request].queues]

    def queues_asking(self, request: ResourceRequest) -> list[Queue]:
        """Queues of one request, then those of functions that bind a collocation group of that request."""
        uses = self._uses[request]
        binding = [queue for queue in self.queues() if queue.to_bind in uses.groups] if uses.groups else []
        return [*uses.queues, *binding]

    # Collocation groups

    def members(self, group: Group) -> dict[Queue, None]:
        """Queues of a collocation group's functions."""
        return self._members[group]

    def bind(self, group: Group, node: Node) -> None:
        """Give a collocation group its node."""
        group.node = node
        self._bound.setdefault(node.name, {})[group] = None

    def unbind(self, group: Group) -> None:
        """Take a collocation group's node away."""
        if group.node is not None:
            bound = self._bound[group.node.name]
            del bound[group]
            if not bound:
                del self._bound[group.node.name]
            group.node = None

    def bound_to(self, node: Node) -> list[Group]:
        """Collocation groups that are bound to a node."""
        return list(self._bound.get(node.name, ()))

    # Inside

    def _new_queue(self, run: Run, demand: Demand) -> Queue:
        group = None if demand.group is None else run.groups[demand.group]
        to_bind = None if demand.binds is None else run.groups[demand.binds]
        # By now a member may claim more than what was worked out for its group.
        hold = demand.cost if group is None else group.request.cost.union(demand.cost)
        request = self._request(demand.cost, hold, run.queue_group.confinement, demand.avoid)
        queue = Queue(run, demand, request, group, to_bind)
        self._uses[request].queues[queue] = None
        if group is not None:
            self._members[group][queue] = None
        return queue

    def _request(
        self,
        cost: Cost,
        hold: Cost,
        confinement: Confinement | None,
        avoid: frozenset[str] = frozenset(),
    ) -> ResourceRequest:
        key = (cost, hold, confinement, avoid)
        request = self.requests.get(key)
        if request is None:
            request = ResourceRequest(cost, hold, confinement, self._ledger.shared, self.to_come, avoid)
            self.requests[key] = request
            self._uses[request] = _Uses()
            for node in self._ledger.nodes.values():
                request.review(node)
        return request

    def _release(self, request: ResourceRequest) -> None:
        uses = self._uses.get(request)
        if uses is not None and not uses.queues and not uses.groups:
            del self.requests[request.cost, request.hold, request.confinement, request.avoid]
            del self._uses[request]
