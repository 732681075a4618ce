"""Deadlocks of nested executions: functions that wait for what can never start because of them.

A function that waits for an execution of its own keeps what its cost names, but for ``cpu``.  Where
a function of that execution needs so much that no node has it left, both would wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from handoff_dask.placement.amounts import Amounts
from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.demand import FunctionKey
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.queues import ScheduledFunction


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A function that waits for executions of its own."""

    function: FunctionKey
    node: str
    #: What it holds there meanwhile.
    amounts: Amounts
    #: Functions of those executions that wait for a node.
    waiting: tuple[FunctionKey, ...] = ()
    #: Functions of those executions that themselves wait for executions of their own.
    parents: tuple[FunctionKey, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlock:
    """A function that can never start because of what others hold, which wait for it."""

    function: FunctionKey
    #: Those that hold what it needs: parents, none of which can end before another one has.
    holders: tuple[Parent, ...]


def find_deadlocks(backlog: Backlog, parents: Sequence[Parent]) -> list[Deadlock]:
    """Functions that can never start, however long one waits for all else to end.

    Parameters
    ----------
    parents
        All functions that wait for executions of their own.

    Notes
    -----
    As in the banker's algorithm: whoever could end, if all that runs ended, is taken to return what it
    holds; so on, until nobody more can end.
    """
    left = {parent.function: parent for parent in parents}
    while True:
        ended = [p for p in left.values() if not _stuck(backlog, p, left.values()) and not _waits(p, left)]
        if not ended:
            break
        for parent in ended:
            del left[parent.function]
    found: list[Deadlock] = []
    for parent in left.values():
        for function in _stuck(backlog, parent, left.values()):
            scheduled = backlog.waiting[function]
            holders = tuple(p for p in left.values() if _is_in_the_way(backlog, scheduled, p))
            found.append(Deadlock(function=function, holders=holders))
    return found


def _waits(parent: Parent, left: dict[FunctionKey, Parent]) -> bool:
    return any(function in left for function in parent.parents)


def _stuck(backlog: Backlog, parent: Parent, left: Iterable[Parent]) -> list[FunctionKey]:
    """Those waiting functions of a parent that would have room nowhere beside all that is left."""
    waiting = (backlog.waiting.get(function) for function in parent.waiting)
    return [s.function for s in waiting if s is not None and not _has_room(backlog, s, list(left))]


def _has_room(backlog: Backlog, scheduled: ScheduledFunction, left: list[Parent]) -> bool:
    nodes = _able(scheduled)
    # One that no node could hold at all is none of ours to judge.
    return not nodes or any(_fits(scheduled, node, left) for node in nodes)


def _able(scheduled: ScheduledFunction) -> list[Node]:
    """The nodes that could hold a function when idle."""
    queue = scheduled.queue
    group = queue.group
    return [
        node
        for node in queue.request.eligible.values()
        if queue.pin in (None, node.name, node.address)
        and (group is None or group.node is None or group.node is node)
    ]


def _fits(scheduled: ScheduledFunction, node: Node, left: list[Parent]) -> bool:
    request = scheduled.queue.request
    shared = {resource.name: (resource.total, units) for resource, units in request.shared}
    held: dict[str, int] = {}
    for parent in left:
        for name, units in parent.amounts:
            if parent.node == node.name or name in shared:
                held[name] = held.get(name, 0) + units
    asked = [
        *((n, node.total.get(n, 0), u) for n, u in request.amounts),
        *((n, *s) for n, s in shared.items()),
    ]
    return all(total - held.get(name, 0) >= units for name, total, units in asked)


def _is_in_the_way(backlog: Backlog, scheduled: ScheduledFunction, parent: Parent) -> bool:
    request = scheduled.queue.request
    shared = {resource.name for resource, _ in request.shared}
    able = any(node.name == parent.node for node in _able(scheduled))
    return any(name in shared or (able and name in request.asked) for name, _ in parent.amounts)
