"""What must always hold between two events; asserted by tests after each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.events import FunctionKey
from handoff_dask.placement.queues import Queue, Waiting
from handoff_dask.placement.reasons import obstacle_now
from handoff_dask.placement.reservation import Reservations


def check(backlog: Backlog, placed: Mapping[FunctionKey, Waiting], reservations: Reservations) -> None:
    """Assert every invariant of the engine.

    Raises
    ------
    AssertionError
        If one does not hold.
    """
    backlog.ledger.check()
    _check_placed(backlog, placed)
    _check_queues(backlog)
    _check_lanes(backlog)
    _check_relays(backlog)
    assert all(r.queue.count and r.node.reservation is r for r in reservations.active.values())


def _check_placed(backlog: Backlog, placed: Mapping[FunctionKey, Waiting]) -> None:
    on_nodes = {f: w for node in backlog.ledger.nodes.values() for f, w in node.placed.items()}
    assert on_nodes == placed
    assert not set(placed) & set(backlog.waiting)
    assert not any(waiting.waits for waiting in placed.values())
    for run in backlog.runs.values():
        for group in run.groups.values():
            if group.node is not None:
                assert backlog.ledger.nodes[group.node.name] is group.node
                assert group in group.node.groups
                members = (w for w in placed.values() if w.queue.group is group)
                assert all(w.node is group.node for w in members)


def _check_queues(backlog: Backlog) -> None:
    assert not backlog.fresh
    queues = list(backlog.queues())
    for queue in queues:
        functions = list(queue)
        assert len(functions) == queue.count
        assert all(w.waits and w.queue is queue and backlog.waiting[w.function] is w for w in functions)
        if queue in backlog.asking:
            assert queue.agenda is None
        elif queue.count:
            assert queue.agenda is not None
            assert queue in list(queue.agenda)
            assert queue.key is queue.head()
            assert bool(queue.cause)
            _check_blocked(backlog, queue)
        else:
            assert queue.agenda is None
    assert sum(queue.count for queue in queues) == len(backlog.waiting)
    waiting = Counter(w.run for w in backlog.waiting.values())
    assert all(run.waiting == waiting[run] for run in backlog.runs.values())
    for agenda in [backlog.anywhere, *backlog.at.values()]:
        keys = [queue.key for queue in agenda]
        assert keys == sorted(keys, key=lambda key: key[:3] if key else ())
    assert all(backlog.at.values())


def _check_blocked(backlog: Backlog, queue: Queue) -> None:
    """No function waits while a node could run it."""
    standing = queue.head()
    assert standing is not None
    for node in backlog.ledger.nodes.values():
        assert obstacle_now(node, queue, standing[3]) is not None, (queue.demand, node.name)


def _check_lanes(backlog: Backlog) -> None:
    for node in backlog.ledger.nodes.values():
        for number, lane in node.lanes.items():
            functions = [w for w in node.placed.values() if w.lane is lane]
            assert lane.number == number
            assert lane in lane.queue.lanes[node.name]
            assert len(functions) == lane.outstanding > 0
            assert lane.booked == min(lane.outstanding, lane.slots)


def _check_relays(backlog: Backlog) -> None:
    for node in backlog.ledger.nodes.values():
        assert not set(node.relays) & set(node.lanes)
        assert node.held == sum(relay.next is not None for relay in node.relays.values())
        functions = [w for w in node.placed.values() if w.relay is not None]
        members = {id(w) for relay in node.relays.values() for w in (relay.runs, relay.next) if w is not None}
        assert {id(w) for w in functions} == members
        for number, relay in node.relays.items():
            assert relay.number == number
            assert relay.runs.relay is relay
            assert relay.next is None or relay.next.relay is relay
