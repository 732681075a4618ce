"""When a node will have room, by what is known of the functions that run there."""

from __future__ import annotations

import math
from collections.abc import Iterator

from handoff_dask.placement.amounts import Amounts
from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.queues import ScheduledFunction
from handoff_dask.placement.requests import ResourceRequest
from handoff_dask.placement.reservation import Plan


def missing(node: Node, request: ResourceRequest) -> float:
    """How much of the node has yet to be freed, in shares of what it has."""
    return sum(max(0, units - node.free.get(name, 0)) / node.total[name] for name, units in request.amounts)


def plan_of(backlog: Backlog, node: Node, request: ResourceRequest) -> Plan | None:
    """When the node will have room, by what is known of those that run there."""
    free, now = dict(node.free), backlog.clock.now
    start_s = now
    for end_s, amounts in sorted(_ends(backlog, node, now)):
        if end_s > start_s and _covers(free, request.amounts):
            break
        start_s = end_s
        for name, units in amounts:
            free[name] += units
    if not _covers(free, request.amounts):
        return None
    return Plan(start_s, missing(node, request), node.name, node, free)


def room_at(backlog: Backlog, node: Node, request: ResourceRequest) -> float | None:
    """When a node is expected to have room, in seconds; None if nobody knows, infinity for never."""
    if not node.offer:
        return math.inf
    free, amounts = dict(node.free), request.amounts
    if _covers(free, amounts):
        return backlog.clock.now
    for end_s, given_back in sorted(_expected_ends(backlog, node)):
        for name, units in given_back:
            free[name] += units
        if _covers(free, amounts):
            return None if end_s == math.inf else end_s
    return math.inf


def _expected_ends(backlog: Backlog, node: Node) -> Iterator[tuple[float, Amounts]]:
    """When each claim is expected to be returned; what is in prefetch queues takes its time, too."""
    now = backlog.clock.now
    yield from _ends_of_functions(backlog, node, now)
    for prefetch_queue in node.prefetch_queues.values():
        for _ in range(prefetch_queue.booked):
            yield now + prefetch_queue.expected_s / prefetch_queue.slots, prefetch_queue.amounts


def _ends(backlog: Backlog, node: Node, now: float) -> Iterator[tuple[float, Amounts]]:
    """When each claim on a node is expected to be returned: infinity if nobody knows."""
    yield from _ends_of_functions(backlog, node, now)
    for prefetch_queue in node.prefetch_queues.values():
        for _ in range(prefetch_queue.booked):
            yield now, prefetch_queue.amounts


def _ends_of_functions(backlog: Backlog, node: Node, now: float) -> Iterator[tuple[float, Amounts]]:
    for function in node.placed:
        scheduled = backlog.placed[function]
        if scheduled.prefetch_queue is None and not scheduled.holds_nothing():
            end_s = max(now, scheduled.placed_at + scheduled.move_s + _duration_s(scheduled))
            if scheduled.timed_prefetch is not None and scheduled.timed_prefetch.next is not None:
                end_s += _duration_s(scheduled.timed_prefetch.next)
            yield end_s, scheduled.queue.amounts


def _duration_s(scheduled: ScheduledFunction) -> float:
    return math.inf if scheduled.duration_s is None else scheduled.duration_s


def _covers(free: dict[str, int], amounts: Amounts) -> bool:
    return all(free.get(name, 0) >= units for name, units in amounts)
