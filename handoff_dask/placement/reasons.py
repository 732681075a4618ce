"""Finding out what stands between a function and a node."""

from __future__ import annotations

from collections.abc import Hashable

from handoff_dask.placement.amounts import THREAD
from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.devices import DEVICE
from handoff_dask.placement.explanation import Obstacle
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.queues import Queue, ScheduledFunction
from handoff_dask.placement.requests import Confinement
from handoff_dask.placement.shared import SharedResource, SharedResources
from handoff_dask.resources import Capabilities, Cost


def idle_obstacle(
    node: Node,
    cost: Cost,
    pin: str | None = None,
    hold: Cost | None = None,
    confinement: Confinement | None = None,
    shared: SharedResources | None = None,
) -> Obstacle | None:
    """Why a node could not even hold a function when idle; None if it could."""
    if pin is not None and pin not in (node.name, node.address):
        return Obstacle(cause="pin", detail=f"is not {pin!r}, to which it is pinned")
    offers = node.capabilities if confinement is None else confinement.capabilities(node)
    if offers is None:
        return Obstacle(cause="confined", detail="is not among the nodes that this execution may use")
    if node.total.get(THREAD, 0) < 1:
        return Obstacle(cause="amount", resource="threads", needed=1_000_000)
    known = SharedResources() if shared is None else shared
    found = _lacking(node, offers, cost, known)
    if found is None and hold is not None and (lacking := _lacking(node, offers, hold, known)) is not None:
        found = Obstacle(cause="collocation", resource=lacking.resource, detail=f"its group {lacking}")
    return found


def _lacking(node: Node, offers: Capabilities, cost: Cost, shared: SharedResources) -> Obstacle | None:
    for name, units in cost.amounts:
        resource = shared.by_name.get(name)
        if resource is not None:
            if resource.total < units:
                return Obstacle(
                    cause="amount",
                    resource=name,
                    needed=units,
                    capability=resource.total,
                    free=resource.free,
                    detail="of all that the cluster shares",
                )
            continue
        has = offers.amounts.get(name, 0)
        if has < units:
            confined = node.capabilities.amounts.get(name, 0) > has
            detail = "this execution is confined to that" if confined else ""
            return Obstacle(
                cause="amount", resource=name, needed=units, capability=has, free=has, detail=detail
            )
    for name, value in cost.labels:
        if offers.lacks_label(name, value):
            return Obstacle(cause="label", resource=name, detail=_label(offers, name, value))
    return None


def _label(offers: Capabilities, name: str, value: str | bool) -> str:
    if value is True:
        return f"lacks {name!r}"
    has = offers.labels.get(name)
    if isinstance(has, frozenset):
        return f"needs {name} {value!r}, has " + (" or ".join(map(repr, sorted(has))) or "none")
    return f"needs {name} {value!r}, has none"


def obstacle_now(backlog: Backlog, node: Node, queue: Queue, scheduled: ScheduledFunction) -> Obstacle | None:
    """Why a node does not take a waiting function now; None if it has room for it."""
    group, confinement = queue.group, queue.request.confinement
    shared = backlog.ledger.shared
    found = idle_obstacle(node, queue.request.cost, queue.pin, queue.request.hold, confinement, shared)
    if found is not None:
        return found
    if node.name in queue.request.avoid and node.name not in queue.request.eligible:
        return Obstacle(cause="failed there")
    if group is not None and group.node is not None and group.node is not node:
        return Obstacle(cause="collocation", detail=f"its group is on {group.node.name!r}")
    if not node.present:
        return Obstacle(cause="returning")
    if not node.accepting:
        return Obstacle(cause="not accepting")
    found = (
        _taken(backlog, node, queue) or _no_device(node, queue) or _forbidden(backlog, node, queue, scheduled)
    )
    return _better_elsewhere(queue) if found is None else found


def _better_elsewhere(queue: Queue) -> Obstacle | None:
    """Why a node with room is refused: another one that has the data will have room soon enough."""
    delay = queue.delay
    if delay is None:
        return None
    detail = f"{queue.home!r} has them, and is expected to start it"
    return Obstacle(cause="data", move_s=delay.move_s, wait_s=delay.wait_s, detail=detail)


def _taken(backlog: Backlog, node: Node, queue: Queue) -> Obstacle | None:
    # A node that holds too much of anything takes nothing, whether or not it is asked for that.
    overdrawn = [(name, 0) for name, units in node.free.items() if units < 0]
    for name, units in [*reversed(queue.request.amounts), *overdrawn]:
        free, total = node.free.get(name, 0), node.total.get(name, 0)
        if free < units:
            cause, shown = ("thread", "threads") if name == THREAD else ("room", name)
            holders = _holders(backlog, node, name)
            return Obstacle(
                cause=cause, resource=shown, needed=units, capability=total, free=free, holders=holders
            )
    return None


def _no_device(node: Node, queue: Queue) -> Obstacle | None:
    """Why a node with enough of its devices free cannot give any: the parts are of several devices."""
    needed = queue.request.devices
    if not needed or node.devices.fit(needed):
        return None
    return Obstacle(
        cause="room",
        resource=DEVICE,
        needed=needed,
        capability=node.total.get(DEVICE, 0),
        free=node.free.get(DEVICE, 0),
        detail="in parts of several devices",
    )


def _forbidden(backlog: Backlog, node: Node, queue: Queue, scheduled: ScheduledFunction) -> Obstacle | None:
    confinement, queue_group = queue.request.confinement, queue.queue_group
    if confinement is not None and not confinement.has_room(node, queue.request.confined):
        return Obstacle(cause="confined", detail="this execution holds as much there as it may")
    resource = queue.request.short_of(queue)
    if resource is not None:
        return _short(resource, dict(queue.request.shared)[resource])
    if queue_group.full:
        return Obstacle(
            cause="max_concurrency",
            detail=f"the execution runs {queue_group.claims} functions, as many as it may",
        )
    if queue.is_held_back:
        holding_back = queue.queue_group.holding_back
        detail = (
            f"{holding_back.count(queue)} functions of the execution are placed or wait to free data, "
            f"on {holding_back.limit} threads"
        )
        return Obstacle(cause="held back", detail=detail)
    reservation = backlog.reserved.get(node.name)
    if reservation is not None and not reservation.admits(scheduled):
        function = reservation.function()
        return Obstacle(cause="reservation", holders=(function,), detail=f"is reserved for {function!r}")
    if queue.to_bind is not None and not queue.to_bind.can_be_bound():
        return Obstacle(cause="collocation", detail="the group that needs its result could be on no node")
    return (
        Obstacle(cause=queue.cause)
        if queue_group.asks_user and queue.cause in ("strategy", "tracker")
        else None
    )


def _short(resource: SharedResource, needed: int) -> Obstacle:
    kept = resource.kept_for is not None and resource.free >= needed
    detail = "it is kept for a function that has waited longer" if kept else ""
    return Obstacle(
        cause="shared",
        resource=resource.name,
        needed=needed,
        capability=resource.total,
        free=resource.free,
        detail=detail,
    )


def _holders(backlog: Backlog, node: Node, name: str) -> tuple[Hashable, ...]:
    ours = (f for f in node.placed if backlog.placed[f].queue.request.asked.get(name))
    others = (claim for claim, amounts in node.elsewhere.items() if dict(amounts).get(name))
    return (*ours, *others)
