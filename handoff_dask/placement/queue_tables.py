"""Who shares a queue: tables of resource requests, queue groups, collocation groups and their queues."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from handoff_dask.placement.collocation import Group
from handoff_dask.placement.demand import Demand
from handoff_dask.placement.events import RunOpened
from handoff_dask.placement.ledger import Ledger, Node
from handoff_dask.placement.queues import Queue
from handoff_dask.placement.requests import Confinement, ResourceRequest
from handoff_dask.placement.runs import QueueGroup, Run, scored
from handoff_dask.placement.strategies import ScoredStrategy, SelectStrategy
from handoff_dask.resources import NOTHING, Cost


@dataclass(slots=True)
class _Shared:
    """Queues of a queue group, by demand: those of all its runs, and those given a node by user code."""

    common: dict[Demand, Queue] = field(default_factory=dict)
    #: The same for functions whose data is at some node.
    near: dict[tuple[Demand, str], Queue] = field(default_factory=dict)
    assigned: dict[Demand, Queue] = field(default_factory=dict)


@dataclass(slots=True)
class _Uses:
    """The queues and the collocation groups of one resource request."""

    queues: dict[Queue, None] = field(default_factory=dict)
    groups: dict[Group, None] = field(default_factory=dict)


class QueueTables:
    """Finds or makes the queue of a function, and drops queues with their runs."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.requests: dict[tuple[Cost, Cost, Confinement | None], ResourceRequest] = {}
        #: The request of a function that costs nothing, which every node could hold.
        self.anything = ResourceRequest(NOTHING)
        self.anything.eligible = ledger.nodes
        #: Queue groups that runs share, by strategy.
        self.queue_groups: dict[ScoredStrategy, QueueGroup] = {}
        self._uses: dict[ResourceRequest, _Uses] = {}
        self._shared: dict[QueueGroup, _Shared] = {}
        #: Queues of a run's collocation groups: what belongs to a group of a run is no other run's demand.
        self._private: dict[Run, dict[Demand, Queue]] = {}
        #: ``{node name: queues of functions whose data is there}``.
        self.near: dict[str, dict[Queue, None]] = {}
        self._members: dict[Group, dict[Queue, None]] = {}
        #: ``{node name: the collocation groups that are bound to it}``.
        self._bound: dict[str, dict[Group, None]] = {}

    # Runs

    def open(self, event: RunOpened) -> Run:
        """Make a run, with its queue group and collocation groups."""
        queue_group = self._queue_group(event)
        queue_group.users += 1
        self._shared.setdefault(queue_group, _Shared())
        run = Run(event.run, event.strategy, queue_group, event.allocation_timeout_s)
        run.next_rank = event.next_rank
        self._private[run] = {}
        for key, demand in event.groups.items():
            request = self._request(demand.cost, demand.cost, queue_group.confinement)
            run.groups[key] = group = Group(key, demand, request)
            self._uses[request].groups[group] = None
            self._members[group] = {}
        return run

    def _queue_group(self, event: RunOpened) -> QueueGroup:
        strategy = event.strategy
        select = strategy if isinstance(strategy, SelectStrategy) else None
        own = event.nodes is not None or event.max_concurrency is not None or select is not None
        if own or event.permit is not None or not isinstance(strategy, ScoredStrategy):
            confinement = None if event.nodes is None else Confinement(event.nodes)
            limit = event.max_concurrency
            return QueueGroup(scored(strategy), select, confinement, limit, permit=event.permit)
        return self.queue_groups.setdefault(strategy, QueueGroup(strategy, shared=True))

    def close(self, run: Run) -> list[Queue]:
        """Forget a run; its queues that nobody shares, to be taken off every list."""
        queue_group = run.queue_group
        queue_group.users -= 1
        queues = list(self._private.pop(run).values())
        if not queue_group.users:
            queues += self.queues_of(queue_group)
            del self._shared[queue_group]
            if queue_group.shared:
                del self.queue_groups[queue_group.strategy]
        for queue in queues:
            if queue.home is not None:
                self._no_longer_near(queue, queue.home)
            del self._uses[queue.request].queues[queue]
            self._release(queue.request)
        for group in run.groups.values():
            self.unbind(group)
            del self._uses[group.request].groups[group]
            del self._members[group]
            self._release(group.request)
        return queues

    # Queues

    def queue(self, run: Run, demand: Demand, assigned: str | None) -> Queue:
        """The queue of a run's functions of one demand; those that user code gave a node have their own."""
        queue_group = run.queue_group
        shared = self._shared[queue_group]
        if assigned is not None:
            queues = shared.assigned
            if demand.pin is None:
                demand = replace(demand, pin=assigned)
        elif (demand.group is None and demand.binds is None) or not queue_group.shared:
            queues = shared.common
        else:
            queues = self._private[run]
        queue = queues.get(demand)
        if queue is None:
            queue = queues[demand] = self._new_queue(run, demand)
            queue.soft = assigned is not None
        return queue

    def queue_near(self, run: Run, demand: Demand, home: str) -> Queue:
        """The queue of functions of one demand whose data is at one node."""
        queues = self._shared[run.queue_group].near
        queue = queues.get((demand, home))
        if queue is None:
            queue = queues[demand, home] = self._new_queue(run, demand)
            queue.home = home
            self.near.setdefault(home, {})[queue] = None
        return queue

    def request_of(self, run: Run, demand: Demand) -> ResourceRequest:
        """What functions of one demand ask for, that are in no collocation group."""
        return self._request(demand.cost, demand.cost, run.queue_group.confinement)

    def _no_longer_near(self, queue: Queue, home: str) -> None:
        near = self.near[home]
        del near[queue]
        if not near:
            del self.near[home]

    def queues(self) -> Iterator[Queue]:
        """Every queue there is."""
        for uses in self._uses.values():
            yield from uses.queues

    def queues_of(self, queue_group: QueueGroup) -> list[Queue]:
        """The queues that the runs of a queue group share."""
        shared = self._shared.get(queue_group)
        if shared is None:
            return []
        return [*shared.common.values(), *shared.near.values(), *shared.assigned.values()]

    def queues_of_run(self, run: Run) -> list[Queue]:
        """Queues in which functions of a run may wait."""
        return [*self._private[run].values(), *self.queues_of(run.queue_group)]

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
        hold = demand.cost if group is None else group.request.cost
        request = self._request(demand.cost, hold, run.queue_group.confinement)
        queue = Queue(run.queue_group, demand, request, group, to_bind)
        self._uses[request].queues[queue] = None
        if group is not None:
            self._members[group][queue] = None
        return queue

    def _request(self, cost: Cost, hold: Cost, confinement: Confinement | None) -> ResourceRequest:
        request = self.requests.get((cost, hold, confinement))
        if request is None:
            request = self.requests[cost, hold, confinement] = ResourceRequest(cost, hold, confinement)
            self._uses[request] = _Uses()
            for node in self._ledger.nodes.values():
                request.review(node)
        return request

    def _release(self, request: ResourceRequest) -> None:
        uses = self._uses.get(request)
        if uses is not None and not uses.queues and not uses.groups:
            del self.requests[request.cost, request.hold, request.confinement]
            del self._uses[request]
