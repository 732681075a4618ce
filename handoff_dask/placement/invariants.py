"""What must always hold between two events; asserted by tests after each."""

from __future__ import annotations

from collections import Counter

from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.demand import DataKey
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.queues import Queue, ScheduledFunction
from handoff_dask.placement.reasons import obstacle_now


def check(backlog: Backlog) -> None:
    """Assert every invariant of the engine.

    Raises
    ------
    AssertionError
        If one does not hold.
    """
    booked = [claim for node in backlog.ledger.nodes.values() for claim in _claims(backlog, node)]
    backlog.ledger.check(
        lambda node: [() if c is None else c.queue.amounts for c in _claims(backlog, node)],
        [() if claim is None else claim.queue.request.shared for claim in booked],
        lambda node: {f for f in node.placed if _holds_devices(backlog.placed[f])},
    )
    _check_placed(backlog)
    _check_queues(backlog)
    _check_prefetch_queues(backlog)
    _check_timed_prefetches(backlog)
    _check_data(backlog)
    _check_shares(backlog)
    for name, reservation in backlog.reserved.items():
        assert reservation.queue.count
        assert reservation.node is backlog.ledger.nodes[name]


def _holds_devices(scheduled: ScheduledFunction) -> bool:
    return bool(scheduled.queue.request.devices) and not scheduled.holds_nothing()


def _claims(backlog: Backlog, node: Node) -> list[ScheduledFunction | None]:
    """The claims of what is placed: one each, but for prefetch queues, which claim their slots at most.

    None for a claim that holds nothing as yet.
    """
    claims: list[ScheduledFunction | None] = []
    admitted: Counter[int] = Counter()
    for function in node.placed:
        scheduled = backlog.placed[function]
        prefetch_queue = scheduled.prefetch_queue
        if prefetch_queue is not None:
            admitted[prefetch_queue.number] += 1
            if admitted[prefetch_queue.number] > prefetch_queue.slots:
                continue
        claims.append(None if scheduled.holds_nothing() else scheduled)
    return claims


def _check_placed(backlog: Backlog) -> None:
    placed = backlog.placed
    on_nodes = {f: node for node in backlog.ledger.nodes.values() for f in node.placed}
    assert on_nodes == {f: scheduled.node for f, scheduled in placed.items()}
    assert not set(placed) & set(backlog.waiting)
    assert not any(scheduled.waits for scheduled in placed.values())
    for run in backlog.runs.values():
        for group in run.groups.values():
            if group.node is not None:
                assert backlog.ledger.nodes[group.node.name] is group.node
                assert group in backlog.tables.bound_to(group.node)
                members = (w for w in placed.values() if w.queue.group is group)
                assert all(w.node is group.node for w in members)


def _check_queues(backlog: Backlog) -> None:
    assert not backlog.fresh
    queues = list(backlog.tables.queues())
    for queue in queues:
        functions = list(queue)
        assert len(functions) == queue.count
        assert all(w.waits and w.queue is queue and backlog.waiting[w.function] is w for w in functions)
        if queue in backlog.to_ask:
            assert queue.blocked_in is None
        elif queue.count:
            assert queue.blocked_in is not None
            assert queue in list(queue.blocked_in)
            assert queue.key is queue.head()
            assert bool(queue.cause)
            _check_blocked(backlog, queue)
        else:
            assert queue.blocked_in is None
    assert sum(queue.count for queue in queues) == len(backlog.waiting)
    waiting = Counter(w.run for w in backlog.waiting.values())
    assert all(run.party.waiting == waiting[run] for run in backlog.runs.values())
    for line in backlog.lines():
        for run in backlog.runs.values():
            keys = [queue.key for queue in line.of_run(run.party)]
            assert keys == sorted(keys, key=lambda key: key[:3] if key else ())
    assert all(backlog.at.values())
    for run in backlog.runs.values():
        holding_back = run.queue_group.holding_back
        freeing = Counter(w.queue.request for w in backlog.waiting.values() if w.run is run and w.frees)
        assert holding_back.waiting == freeing
        assert holding_back.placed == sum(w.run is run for w in backlog.placed.values())
    asked = Counter(w.queue.request for w in backlog.waiting.values())
    assert all(request.waiting == asked[request] for request in backlog.tables.requests.values())


def _check_blocked(backlog: Backlog, queue: Queue) -> None:
    """No function waits while a node could run it."""
    order_key = queue.head()
    assert order_key is not None
    for node in backlog.ledger.nodes.values():
        assert obstacle_now(backlog, node, queue, order_key[3]) is not None, (queue.demand, node.name)


def _check_prefetch_queues(backlog: Backlog) -> None:
    by_queue = [q for queue in backlog.tables.queues() for qs in queue.prefetch_queues.values() for q in qs]
    for node in backlog.ledger.nodes.values():
        for number, prefetch_queue in node.prefetch_queues.items():
            functions = [f for f in node.placed if backlog.placed[f].prefetch_queue is prefetch_queue]
            assert prefetch_queue.number == number
            assert prefetch_queue.node == node.name
            assert len(functions) == prefetch_queue.outstanding > 0
            assert prefetch_queue.booked == min(prefetch_queue.outstanding, prefetch_queue.slots)
            queues = {id(backlog.placed[f].queue) for f in functions}
            assert len(queues) == 1
    assert all(backlog.ledger.nodes[q.node].prefetch_queues[q.number] is q for q in by_queue)


def _check_timed_prefetches(backlog: Backlog) -> None:
    for node in backlog.ledger.nodes.values():
        assert not set(node.followed) & set(node.prefetch_queues)
        functions = [w for f in node.placed if (w := backlog.placed[f]).timed_prefetch is not None]
        timed = {id(t): t for w in functions if (t := w.timed_prefetch) is not None}
        assert {t.number for t in timed.values()} == set(node.followed)
        assert len(timed) == len(node.followed)
        assert node.waiting_here == sum(t.next is not None for t in timed.values())
        members = {id(w) for t in timed.values() for w in (t.runs, t.next) if w is not None}
        assert {id(w) for w in functions} == members
        assert not any(t.is_over for t in timed.values())


def _check_shares(backlog: Backlog) -> None:
    """Runs and clients hold what is booked for them; those that wait stand in the order of their turns."""
    booked: dict[object, Counter[str]] = {run.party: Counter() for run in backlog.runs.values()}
    for node in backlog.ledger.nodes.values():
        for claim in _claims(backlog, node):
            if claim is not None:
                for holder in (claim.queue.party, claim.queue.party.client):
                    booked.setdefault(holder, Counter()).update(dict(claim.queue.request.claims))
    parties = {run.party for run in backlog.runs.values()}
    clients = {party.client for party in parties}
    for holder in parties | clients:
        assert holder.held == dict(+booked.get(holder, Counter())), (holder.held, booked.get(holder))
    backlog.shares.check({party for party in parties if party.waiting})


def _check_data(backlog: Backlog) -> None:
    """Data is known as long as a function refers to it; no function is delayed for longer than allowed."""
    users: Counter[DataKey] = Counter()
    for scheduled in [*backlog.waiting.values(), *backlog.placed.values()]:
        users.update(datum.key for datum in scheduled.data)
    for data in backlog.incomplete.values():
        users.update(datum.key for datum in data)
    assert users == {key: datum.users for key, datum in backlog.network.data.items()}
    near = {queue: home for home, queues in backlog.tables.near.items() for queue in queues}
    assert near == {queue: queue.home for queue in backlog.tables.queues() if queue.home is not None}
    assert all(queue.home is not None for queue in backlog.with_data)
    for queue in near:
        assert all(scheduled.data for scheduled in queue)
        assert queue.delay is None or queue.delay.until_s > backlog.clock.now
        assert queue.delay is None or queue.delay.wait_s is None or queue.delay.wait_s < queue.delay.move_s
