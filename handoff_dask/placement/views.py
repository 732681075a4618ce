"""Looking at the engine's state without touching it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.events import ClaimKey, Demand, FunctionKey
from handoff_dask.placement.explanation import Explanation, NodeState, Obstacle
from handoff_dask.placement.ledger import THREAD, Ledger, Node
from handoff_dask.placement.queues import Waiting
from handoff_dask.placement.reasons import idle_obstacle, obstacle_now
from handoff_dask.placement.shapes import Confinement
from handoff_dask.resources import Capabilities, amount_of


def node_states(ledger: Ledger) -> dict[str, NodeState]:
    """Every node as it is now."""
    return {name: _state(node) for name, node in ledger.nodes.items()}


def _state(node: Node) -> NodeState:
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
        placed=tuple(node.placed),
        accepting=node.accepting and node.present,
        returning=not node.present,
        price=node.price,
        reserved_for=None if node.reservation is None else node.reservation.function(),
    )


def available(node: Node) -> dict[str, int | float]:
    """What is free on a node, as users write it; 0 where it is overdrawn."""
    return {name: amount_of(max(units, 0)) for name, units in node.free.items() if name != THREAD}


def elsewhere(node: Node) -> dict[ClaimKey, dict[str, int]]:
    """What is held by claims from elsewhere, in units; threads are left out."""
    return {
        claim: {name: units for name, units in amounts if name != THREAD}
        for claim, amounts in node.elsewhere.items()
    }


def waiting_by_cause(backlog: Backlog) -> dict[str, int]:
    """How many functions wait, by what keeps them."""
    counts: Counter[str] = Counter()
    for queue in backlog.queues():
        if queue.count:
            counts[queue.cause] += queue.count
    return dict(counts)


def idle_obstacles(
    ledger: Ledger, demand: Demand, nodes: Mapping[str, Capabilities] | None
) -> dict[str, Obstacle]:
    """Why each node that could not hold a demand when idle could not."""
    confinement = None if nodes is None else Confinement(nodes)
    found = {}
    for node in sorted(ledger.nodes.values(), key=lambda n: n.name):
        why = idle_obstacle(node, demand.cost, demand.pin, None, confinement)
        if why is not None:
            found[node.name] = why
    return found


def explain(
    backlog: Backlog, placed: Mapping[FunctionKey, Waiting], function: FunctionKey, now: float
) -> Explanation:
    """Where a function stands."""
    here = placed.get(function)
    if here is not None:
        assert here.node is not None
        return Explanation(
            function=function, status="placed", node=here.node.name, waited_s=here.placed_at - here.since
        )
    waiting = backlog.waiting.get(function)
    if waiting is None:
        return Explanation(function=function, status="unknown")
    queue, place = waiting.queue, waiting.place()
    nodes = sorted(backlog.ledger.nodes.values(), key=lambda n: n.name)
    return Explanation(
        function=function,
        status="waiting",
        waited_s=now - waiting.since,
        cause=queue.cause,
        ahead=sum(1 for other in queue if other.place()[:3] < place[:3]),
        nodes={node.name: obstacle_now(node, queue, waiting) for node in nodes},
    )


def sizes(backlog: Backlog, placed: Mapping[FunctionKey, Waiting], orphaned: int) -> dict[str, int]:
    """How many things are kept, by kind, kinds of which there are none left out."""
    ledger = backlog.ledger
    kept = {
        "nodes": len(ledger.nodes),
        "claims": ledger.claims,
        "changes": len(ledger.changes) + len(ledger.gains),
        "runs": len(backlog.runs),
        "scopes": len(backlog.scopes),
        "shapes": len(backlog.shapes),
        "waiting": len(backlog.waiting),
        "placed": len(placed),
        "queues": len(backlog.asking) + len(backlog.at) + bool(backlog.anywhere) + orphaned,
    }
    return {kind: size for kind, size in kept.items() if size}
