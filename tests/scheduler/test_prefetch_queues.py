"""Whose turn it is in the prefetch queues of nodes, and which Dask resource admits functions there."""

from __future__ import annotations

from types import SimpleNamespace

from handoff_dask.protocol.names import LANES, RELAYS, SHORT_LANES
from handoff_dask.scheduler.prefetch_queues import PrefetchQueues
from handoff_dask.scheduler.runs import FunctionState
from handoff_dask.scheduler.states import Attempt, Pending, Prefetched, Running

QUEUE = ("tcp://a", 0)


def sent(queues: PrefetchQueues, slots: int = 1, placed: float = 0.0) -> FunctionState:
    """A function that is sent in a queue."""
    function = FunctionState(SimpleNamespace(over=False), "f", 0)
    attempt = function.attempt = Attempt(node="a", address="tcp://a", ready=0.0, placed=placed, queue=QUEUE)
    behind = queues.enter(function, attempt, slots)
    function.state = Prefetched(attempt) if behind else Running(attempt)
    return function


def leave(queues: PrefetchQueues, function: FunctionState, now: float = 1.0) -> FunctionState | None:
    follower = queues.leave(function.attempt, now)
    function.state = Pending()
    if follower is not None:
        follower.state = Running(follower.attempt)
    return follower


def test_turns_come_in_the_order_of_sending():
    queues = PrefetchQueues()
    first, second, third = sent(queues), sent(queues), sent(queues)

    assert [type(f.state) for f in (first, second, third)] == [Running, Prefetched, Prefetched]
    assert queues.behind(QUEUE) == [second, third]
    assert leave(queues, first) is second
    assert leave(queues, second) is third
    assert leave(queues, third) is None
    assert not queues.is_anybody_behind()
    assert type(sent(queues).state) is Running


def test_as_many_begin_as_there_are_slots():
    queues = PrefetchQueues()

    assert [type(sent(queues, slots=2).state) for _ in range(3)] == [Running, Running, Prefetched]


def test_what_was_dropped_meanwhile_gets_no_turn():
    queues = PrefetchQueues()
    first, second, third = sent(queues), sent(queues), sent(queues)

    assert leave(queues, second) is None
    assert queues.behind(QUEUE) == [third]
    assert leave(queues, first) is third


def test_queues_in_which_nothing_has_ended_are_overdue():
    queues = PrefetchQueues()
    first, second = sent(queues, placed=5.0), sent(queues, placed=5.0)

    assert list(queues.overdue(since=4.0)) == []
    assert list(queues.overdue(since=6.0)) == [([first], [second])]
    leave(queues, first, now=7.0)
    sent(queues, placed=5.0)
    assert list(queues.overdue(since=6.0)) == []


def test_a_stuck_thread_gives_its_queue_another_lane():
    """The lane comes back with the end of the thread, and with it the queue's own name."""
    queues = PrefetchQueues()
    [own] = queues.admission(QUEUE, 2)
    first = sent(queues)
    queues.sticks(first.attempt, now=1.0)
    [other] = queues.admission(QUEUE, 2)

    assert own == LANES[0]
    assert other in LANES[SHORT_LANES + RELAYS :]
    queues.comes_free(first.attempt)
    assert list(queues.admission(QUEUE, 2)) == [own]
    queues.comes_free(first.attempt)  # told twice: nothing more happens


def test_two_stuck_threads_have_two_lanes():
    queues = PrefetchQueues()
    first, second = sent(queues, slots=2), sent(queues, slots=2)
    queues.sticks(first.attempt, now=1.0)
    one = queues.admission(QUEUE, 2)
    queues.sticks(second.attempt, now=1.0)

    assert queues.admission(QUEUE, 2) != one


def test_nothing_is_kept_of_a_node_that_has_left():
    queues = PrefetchQueues()
    first, _ = sent(queues), sent(queues)
    queues.sticks(first.attempt, now=1.0)
    queues.node_left("tcp://a")

    assert not queues.is_anybody_behind()
    assert list(queues.admission(QUEUE, 1)) == [LANES[0]]
    queues.comes_free(first.attempt)
    assert type(sent(queues).state) is Running
