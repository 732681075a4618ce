"""Looking at the engine's state without touching it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from handoff_dask.placement import invariants
from handoff_dask.placement.amounts import THREAD, Amounts, amounts_of
from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.deadlock import Deadlock, Parent, find_deadlocks
from handoff_dask.placement.demand import ClaimKey, Demand, FunctionKey
from handoff_dask.placement.devices import DEVICE
from handoff_dask.placement.explanation import Explanation, Holding, NodeState, Obstacle
from handoff_dask.placement.ledger import Ledger, Node
from handoff_dask.placement.queues import Queue
from handoff_dask.placement.reasons import idle_obstacle, obstacle_now
from handoff_dask.placement.requests import Confinement
from handoff_dask.resources import Capabilities, Cost, amount_of


def node_states(backlog: Backlog) -> dict[str, NodeState]:
    """Every node as it is now."""
    return {name: _state(node, backlog) for name, node in backlog.ledger.nodes.items()}


def _state(node: Node, backlog: Backlog) -> NodeState:
    reservation = backlog.reserved.get(node.name)
    used = node.used()
    threads_used = used.pop(THREAD)
    return NodeState(
        name=node.name,
        address=node.address,
        capabilities=node.capabilities,
        used=used,
        free={name: units for name, units in node.free.items() if name != THREAD},
        threads=node.total[THREAD],
        threads_used=threads_used,
        placed=tuple(f for f in node.placed if not _is_outside(backlog, f)),
        accepting=node.accepting and node.present,
        returning=not node.present,
        price=node.price,
        reserved_for=None if reservation is None else reservation.function(),
    )


def available(node: Node) -> dict[str, int | float]:
    """What is free on a node, as users write it; 0 where it is overdrawn."""
    return {name: amount_of(max(units, 0)) for name, units in node.free.items() if name != THREAD}


def elsewhere(backlog: Backlog, node: Node) -> dict[ClaimKey, dict[str, int]]:
    """What is held by claims from elsewhere and by outside runs, in units; threads are left out."""
    claims = dict(node.elsewhere)
    if backlog.outside:
        claims.update((f, backlog.placed[f].queue.amounts) for f in node.placed if _is_outside(backlog, f))
    return {
        claim: {name: units for name, units in amounts if name != THREAD} for claim, amounts in claims.items()
    }


def _is_outside(backlog: Backlog, function: FunctionKey) -> bool:
    return backlog.placed[function].queue.queue_group.outside


def waiting_by_cause(backlog: Backlog) -> dict[str, int]:
    """How many functions wait, by what keeps them."""
    counts: Counter[str] = Counter()
    for queue in backlog.tables.queues():
        if queue.count and not queue.queue_group.outside:
            counts[queue.cause] += queue.count
    return dict(counts)


def idle_obstacles(
    ledger: Ledger, demand: Demand, nodes: Mapping[str, Capabilities] | None
) -> dict[str, Obstacle]:
    """Why each node that could not hold a demand when idle could not."""
    confinement = None if nodes is None else Confinement(nodes, ledger)
    found = {}
    for node in sorted(ledger.nodes.values(), key=lambda n: n.name):
        why = idle_obstacle(node, demand.cost, demand.pin, None, confinement, ledger.shared)
        if why is not None:
            found[node.name] = why
    return found


def explain(backlog: Backlog, function: FunctionKey, now: float) -> Explanation:
    """Where a function stands."""
    here = backlog.placed.get(function)
    if here is not None:
        assert here.node is not None
        return Explanation(
            function=function, status="placed", node=here.node.name, waited_s=here.placed_at - here.since
        )
    scheduled = backlog.waiting.get(function)
    if scheduled is None:
        return Explanation(function=function, status="unknown")
    queue, order_key = scheduled.queue, scheduled.order_key()
    nodes = sorted(backlog.ledger.nodes.values(), key=lambda n: n.name)
    return Explanation(
        function=function,
        status="waiting",
        waited_s=now - scheduled.since,
        cause=queue.cause,
        ahead=sum(1 for other in queue if other.order_key()[:3] < order_key[:3]),
        nodes={node.name: obstacle_now(backlog, node, queue, scheduled) for node in nodes},
    )


def holdings(backlog: Backlog) -> list[Holding]:
    """What each open run holds."""
    shares, parties = backlog.shares, {key: run.party for key, run in backlog.runs.items()}
    return [
        Holding(
            run=key,
            client=party.client.key,
            share=shares.holds(party),
            client_share=shares.holds(party.client),
            weight=party.weight,
            priority=party.priority,
            waiting=party.waiting,
        )
        for key, party in parties.items()
    ]


def sizes(backlog: Backlog) -> dict[str, int]:
    """How many things are kept, by kind, kinds of which there are none left out."""
    ledger = backlog.ledger
    unplaceable = sum(queue.unplaceable for queue in backlog.tables.queues())
    kept = {
        "nodes": len(ledger.nodes),
        "claims": ledger.claims,
        "changes": len(ledger.changes) + len(ledger.gains),
        "runs": len(backlog.runs),
        "resource requests": len(backlog.tables.requests),
        "waiting": len(backlog.waiting),
        "placed": len(backlog.placed),
        "data": len(backlog.network.data),
        "queues": len(backlog.to_ask) + sum(map(bool, backlog.lines())) + unplaceable,
    }
    return {kind: size for kind, size in kept.items() if size}


class EngineView:
    """What can be asked of the engine; nothing of it changes anything."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog

    @property
    def waiting(self) -> int:
        """How many functions wait, those of outside runs left out."""
        return len(self._backlog.waiting) - sum(queue.count for queue in self._outside())

    @property
    def placed(self) -> int:
        """How many functions are placed, those of outside runs left out."""
        return len(self._backlog.placed) - sum(queue.placed for queue in self._outside())

    def _outside(self) -> list[Queue]:
        runs = [self._backlog.runs[run] for run in self._backlog.outside]
        return [queue for run in runs for queue in self._backlog.tables.queues_of(run)]

    def waiting_by_cause(self) -> dict[str, int]:
        """How many functions wait, by what keeps them."""
        return waiting_by_cause(self._backlog)

    def waiting_cause(self, function: FunctionKey) -> str:
        """What keeps one waiting function, in a word; "" if nothing does, or it does not wait."""
        scheduled = self._backlog.waiting.get(function)
        return "" if scheduled is None else scheduled.queue.cause

    def nodes(self) -> dict[str, NodeState]:
        """Every node as it is now, by name, those being restarted included."""
        return node_states(self._backlog)

    def available(self, node: str) -> dict[str, int | float]:
        """What is free on a node (name or address) now, as users write it; {} if it is unknown."""
        found = self._backlog.ledger.find(node)
        return {} if found is None else available(found)

    def claimed_elsewhere(self, node: str) -> Mapping[ClaimKey, Mapping[str, int]]:
        """What is held of a node (name or address) by what is none of our functions, in units."""
        found = self._backlog.ledger.find(node)
        return {} if found is None else elsewhere(self._backlog, found)

    def has_room(self, node: str, cost: Cost, threads: int = 0) -> bool:
        """Whether a node (name or address) is there and has that much free now."""
        found = self._backlog.ledger.find(node)
        if found is None or found.capabilities.has_labels(cost) is False:
            return False
        amounts, shared = self._backlog.ledger.shared.split(amounts_of(cost, threads))
        if any(
            resource.free - resource.kept_units * (resource.kept_for is not None) < units
            for resource, units in shared
        ):
            return False
        units = dict(amounts).get(DEVICE, 0)
        return bool(found.offer) and found.has_room(amounts) and (not units or found.devices.fit(units))

    def shared(self) -> Mapping[str, tuple[int, int]]:
        """``{shared resource: (units there are, units that are held)}``, by name."""
        return self._backlog.ledger.shared.levels()

    def may_go_on(self, node: str, booked: Amounts) -> bool:
        """Whether what has been booked on a node (name or address) without a look at the room has it by now.

        What nobody else holds is no obstacle, however little the node offers.
        """
        found = self._backlog.ledger.find(node)
        if found is None:
            return True
        free, used = found.free, found.used()
        return all(free.get(name, 0) >= 0 or used.get(name, 0) <= units for name, units in booked)

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
        return idle_obstacles(self._backlog.ledger, demand, nodes)

    def could_hold(self, demand: Demand, nodes: Mapping[str, Capabilities] | None = None) -> bool:
        """Whether some node (one being restarted counts) could hold a demand when idle."""
        return len(self.obstacles(demand, nodes)) < len(self._backlog.ledger.nodes)

    def deadlocks(self, parents: Sequence[Parent]) -> list[Deadlock]:
        """Functions that can never start because of those that wait for their execution."""
        return find_deadlocks(self._backlog, parents)

    def explain(self, function: FunctionKey, *, now: float) -> Explanation:
        """Where a function stands; if it waits, what stands in the way on each node."""
        return explain(self._backlog, function, now)

    def holdings(self) -> list[Holding]:
        """What each open run holds of the cluster, in the order in which they were opened."""
        return holdings(self._backlog)

    def remembers(self) -> dict[str, int]:
        """What is kept, by kind, kinds of which nothing is left out; {} once all has ended."""
        return sizes(self._backlog)

    def check(self) -> None:
        """Assert everything that must always hold; for tests."""
        invariants.check(self._backlog)
