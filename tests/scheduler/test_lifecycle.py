"""The life of a function on the scheduler: what each event leads to, and what it demands."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from handoff_dask.graph.retry import Retry
from handoff_dask.record.status import CANCELLED, FAILED, FINISHED
from handoff_dask.resources import Cost
from handoff_dask.scheduler import lifecycle as life
from handoff_dask.scheduler.runs import FunctionState
from handoff_dask.scheduler.states import (
    Attempt,
    Cancelled,
    Failed,
    Finished,
    Pending,
    Running,
    Skipped,
    Waiting,
)


def function_of(run_status: str | None = None, *, passes_failures: bool = False) -> FunctionState:
    """A function of a run that goes on, or that has ended so."""
    manifest = SimpleNamespace(retry={})
    run = SimpleNamespace(
        over=run_status is not None,
        status=run_status or "running",
        manifest=manifest,
        passes_failures=passes_failures,
    )
    return FunctionState(run, "f-0123-0", 0)


def attempt(placed: float = 2.0, **facts: object) -> Attempt:
    return Attempt(node="a", address="tcp://a", ready=1.0, placed=placed, **facts)


def compute(start: float, stop: float) -> list[dict[str, object]]:
    return [{"action": "compute", "start": start, "stop": stop}]


def lived(function: FunctionState, *events: life.LifeEvent, now: float = 10.0) -> list[life.Action]:
    """Apply events; what the last one demands."""
    lifecycle, actions = life.Lifecycle(), []
    for event in events:
        actions = lifecycle.apply(function, event, now)
    return actions


def test_from_ready_to_finished():
    function, mine = function_of(), attempt()

    assert lived(function, life.ArgumentsReady()) == [life.Offer()]
    assert lived(function, life.Placed(mine)) == [life.Send(mine)]
    assert (function.state, function.attempts) == (Running(mine), 1)
    actions = lived(function, life.Ended(compute(3.0, 5.0), nbytes=7))

    assert actions == [life.Hold(), life.LeaveQueue(mine, goes_on=True), life.ReturnClaim(mine, 2.0)]
    assert (function.state, mine.start, mine.stop, mine.nbytes) == (Finished(mine), 3.0, 5.0, 7)


def test_a_further_attempt_waits():
    """Nothing is offered to the engine, and nothing held, until the wait is over."""
    function, mine = function_of(), attempt()
    function.run.manifest.retry[0] = Retry(delay=4.0, jitter=0.5)
    raised = [life.ArgumentsReady(), life.Placed(mine), life.Raised(ValueError()), life.Dropped(True, 1.0)]
    assert life.ReturnClaim(mine) in lived(function, *raised)

    assert lived(function, life.ArgumentsReady()) == [life.Postpone(6.0)]
    assert lived(function, life.WaitOver(), now=16.0) == [life.Offer()]
    assert function.state == Waiting(16.0)
    assert lived(function, life.WaitOver(), now=17.0) == []


def test_what_needs_a_failed_function_is_skipped():
    function = function_of()

    assert lived(function, life.ArgumentFailed(3)) == []
    assert lived(function, life.ArgumentsReady()) == [life.PassOn()]
    assert function.state == Skipped(3)


def test_an_attempt_counts_when_its_turn_comes():
    """A prefetched function that is lost before its turn was never started."""
    function = function_of()
    lived(function, life.ArgumentsReady(), life.Placed(attempt(), behind=True))
    assert function.attempts == 0
    lived(function, life.Dropped(node_is_there=False), life.ArgumentsReady())
    assert function.attempts == 0
    lived(function, life.Placed(attempt(), behind=True), life.TurnCame())
    assert function.attempts == 1


def test_a_prefetched_function_that_ends_had_begun():
    """The scheduler hears of its end before it hears of the end of the one before it."""
    function = function_of()
    lived(function, life.ArgumentsReady(), life.Placed(attempt(), behind=True), life.Ended(compute(3, 4)))

    assert (type(function.state), function.attempts) == (Finished, 1)


@pytest.mark.parametrize("behind", [False, True])
def test_what_its_worker_gives_back_is_no_attempt(behind):
    function, mine = function_of(), attempt()
    lived(function, life.ArgumentsReady(), life.Placed(mine, behind))

    assert lived(function, life.Recalled()) == [life.TakeBack()]
    actions = lived(function, life.Dropped(node_is_there=True))

    assert actions == [life.Hold(), life.LeaveQueue(mine, goes_on=True), life.ReturnClaim(mine)]
    assert (function.state, function.attempts) == (Pending(), 0)


def test_what_is_not_taken_waits_again():
    function, mine = function_of(), attempt()
    actions = lived(function, life.ArgumentsReady(), life.Placed(mine), life.NotTaken(), now=4.0)

    assert actions == [
        life.Hold(),
        life.LeaveQueue(mine, goes_on=True),
        life.ReturnClaim(mine),
        life.Offer(),
    ]
    assert (function.state, function.attempts) == (Waiting(4.0), 0)


def test_a_thread_that_may_go_on_keeps_the_claim():
    function, mine = function_of(), attempt()
    lived(function, life.ArgumentsReady(), life.Placed(mine))
    actions = lived(function, life.Dropped(node_is_there=True))

    assert actions == [
        life.Hold(),
        life.LeaveQueue(mine, goes_on=True, is_stuck=True),
        life.KeepClaim(mine),
    ]


@pytest.mark.parametrize("how", ["its node has died", "it has raised"])
def test_a_thread_that_is_over_returns_the_claim(how):
    function, mine = function_of(), attempt()
    lived(function, life.ArgumentsReady(), life.Placed(mine))
    if how == "it has raised":
        lived(function, life.Raised(ValueError(), compute(3.0, 3.5)))
    actions = lived(function, life.Dropped(node_is_there=how == "it has raised"))

    assert life.ReturnClaim(mine) in actions
    assert life.KeepClaim(mine) not in actions
    assert function.attempts == 1


def test_what_waits_for_its_turn_leaves_no_thread_stuck():
    function, mine = function_of(), attempt()
    lived(function, life.ArgumentsReady(), life.Placed(mine, behind=True))

    assert life.LeaveQueue(mine, goes_on=True, is_stuck=False) in lived(function, life.Dropped(True))


def test_the_thread_is_returned_once():
    function, mine = function_of(), attempt()
    lived(function, life.ArgumentsReady(), life.Placed(mine))

    assert lived(function, life.Seceded()) == [
        life.LeaveQueue(mine, goes_on=True, is_stuck=True),
        life.ChangeClaim(mine),
    ]
    assert lived(function, life.Seceded()) == []


def test_what_waits_for_an_execution_of_its_own_holds_no_cpu():
    cost = Cost.parse({"cpu": 2, "memory": 5})
    function, mine = function_of(), attempt(cost=cost)
    lived(function, life.ArgumentsReady(), life.Placed(mine))
    assert mine.holds() == (cost, 1)

    lived(function, life.Seceded())
    assert mine.holds() == (cost, 0)
    assert lived(function, life.Paused()) == [life.ChangeClaim(mine)]
    assert mine.holds() == (Cost.parse({"memory": 5}), 0)
    assert lived(function, life.Resuming(with_thread=True)) == [life.ChangeClaim(mine)]
    assert mine.holds() == (cost, 1)


def test_who_waits_for_an_execution_of_its_own_has_begun():
    function, mine = function_of(), attempt()
    lived(function, life.ArgumentsReady(), life.Placed(mine, behind=True), life.Paused())

    assert (function.state, function.attempts) == (Running(mine), 1)


def test_it_fails_for_good():
    function, mine = function_of(), attempt()
    lived(function, life.ArgumentsReady(), life.Placed(mine))
    actions = lived(function, life.FailedForGood(compute(3.0, 4.0), None, node_is_there=False))

    assert actions == [life.Hold(), life.LeaveQueue(mine, goes_on=False), life.ReturnClaim(mine)]
    assert function.state == Failed(mine)


def test_a_rejected_function_fails_with_its_error():
    function, error = function_of(), ValueError("no")
    actions = lived(function, life.ArgumentsReady(), life.Rejected(error, ({}, "no")))

    assert (actions, function.state) == ([life.FailTask(error)], Failed(None))


def test_a_rejected_function_is_given_its_failure_where_some_accept_failures():
    function, error = function_of(passes_failures=True), ValueError("no")
    actions = lived(function, life.ArgumentsReady(), life.Rejected(error, ({}, "no")))

    assert (actions, function.state) == ([life.GiveFailure(error)], Failed(None, is_given=True))


@pytest.mark.parametrize("event", [life.Withdrawn(), life.GivenUp()])
def test_what_waits_no_more_is_withdrawn_from_the_engine(event):
    function = function_of()

    assert lived(function, life.ArgumentsReady(), event) == [life.Withdraw()]
    assert type(function.state) is (Pending if isinstance(event, life.Withdrawn) else Failed)


@pytest.mark.parametrize(
    ("status", "demanded"), [(FAILED, life.Refuse), (CANCELLED, life.Refuse), (FINISHED, life.Offer)]
)
def test_what_is_asked_for_after_the_end_of_its_run(status, demanded):
    """Only a finished run computes a lost result again."""
    [action] = lived(function_of(status), life.ArgumentsReady())

    assert type(action) is demanded


def test_it_is_cancelled_with_its_run():
    function, mine = function_of(), attempt()
    lived(function, life.ArgumentsReady(), life.Placed(mine))
    function.run.over = True
    lived(function, life.Dropped(node_is_there=True))

    assert (function.state, function.status) == (Cancelled(mine), "cancelled")


def test_a_lost_result_is_computed_again_only_when_it_is_needed():
    function, mine = function_of(), attempt()
    lived(function, life.ArgumentsReady(), life.Placed(mine), life.Ended(compute(3, 4)), life.ResultLost())
    assert function.state == Finished(mine)
    lived(function, life.NeededAgain())
    assert (function.state, function.attempt) == (Pending(), mine)


def test_times_are_within_what_is_possible():
    """Clocks differ: nothing starts before it was placed, or ends after the scheduler hears of it."""
    function, mine = function_of(), attempt(placed=2.0)
    lived(function, life.ArgumentsReady(), life.Placed(mine), life.Ended(compute(1.0, 4.0)), now=10.0)
    assert (mine.start, mine.stop, mine.took_s) == (2.0, 5.0, 3.0)

    early, third = function_of(), attempt(placed=2.0)
    lived(early, life.ArgumentsReady(), life.Placed(third), life.Ended(compute(0.5, 1.5)), now=10.0)
    assert (third.start, third.stop, third.took_s) == (2.0, 3.0, 1.0)

    long, fourth = function_of(), attempt(placed=2.0)
    lived(long, life.ArgumentsReady(), life.Placed(fourth), life.Ended(compute(0.0, 30.0)), now=10.0)
    assert (fourth.start, fourth.stop, fourth.took_s) == (2.0, 10.0, 8.0)

    late, other = function_of(), attempt(placed=2.0)
    lived(late, life.ArgumentsReady(), life.Placed(other), life.Ended(compute(9.0, 12.0)), now=10.0)
    assert (other.start, other.stop, other.took_s) == (7.0, 10.0, 3.0)


def test_a_start_that_was_reported_stays_and_does_not_change_what_is_learned():
    function, mine = function_of(), attempt()
    lived(function, life.ArgumentsReady(), life.Placed(mine), life.Began(3.5), life.Began(3.7))
    lived(function, life.Ended(compute(3.0, 5.0)))

    assert (mine.start, mine.stop, mine.took_s) == (3.5, 5.0, 2.0)


def test_the_time_of_transfers():
    function, mine = function_of(), attempt()
    moves = [
        {"action": "transfer", "start": 2.0, "stop": 2.5},
        {"action": "transfer", "start": 2.2, "stop": 3.0},
    ]
    lived(function, life.ArgumentsReady(), life.Placed(mine), life.Ended([*moves, *compute(3.0, 4.0)]))

    assert mine.transfer_s == 1.0


def test_what_cannot_be_is_refused():
    """An event that cannot follow is a defect, and is not passed over."""
    with pytest.raises(life.LifecycleError, match=r"Ended cannot happen to 'f-0123-0', which is Pending"):
        lived(function_of(), life.Ended())


def test_the_table_in_words_is_the_table_in_code():
    """The docstring lists the states in which each event may happen, and the states that follow."""
    rows = re.findall(r"^(\S.{13}) ?(\S.{17}) ?(\S.{21})", life.__doc__.split("=\n", 2)[2], re.MULTILINE)
    assert rows
    text = life.__doc__
    for events in life.TRANSITIONS.values():
        for event, after in events.items():
            assert event.__name__ in text
            for state in after:
                assert state.__name__.lower() in text


#: How to make an event of each kind: of a choice, and of two moments in order.
EVENTS = {
    life.Placed: lambda choice, start, stop: life.Placed(attempt(), behind=choice),
    life.ArgumentFailed: lambda choice, start, stop: life.ArgumentFailed(start),
    life.Began: lambda choice, start, stop: life.Began(start),
    life.Raised: lambda choice, start, stop: life.Raised(ValueError()),
    life.Ended: lambda choice, start, stop: life.Ended(compute(start, stop)),
    life.FailedForGood: lambda choice, start, stop: life.FailedForGood((), None, choice),
    life.Dropped: lambda choice, start, stop: life.Dropped(choice),
    life.Resuming: lambda choice, start, stop: life.Resuming(choice),
    life.Rejected: lambda choice, start, stop: life.Rejected(ValueError(), ({}, None)),
}


class AnyLife(RuleBasedStateMachine):
    """Whatever happens: each claim is returned or kept exactly once, and the next state is in the table."""

    def __init__(self) -> None:
        super().__init__()
        self.function = function_of()
        self.lifecycle = life.Lifecycle()
        self.claims: list[Attempt] = []
        self.offered = False

    @rule(number=st.integers(0, 99), choice=st.booleans(), start=st.integers(0, 12), lasts=st.integers(0, 9))
    def something_happens(self, number, choice, start, lasts):
        before = type(self.function.state)
        possible = sorted(life.TRANSITIONS[before], key=lambda kind: kind.__name__)
        kind = possible[number % len(possible)]
        event = EVENTS[kind](choice, start, start + lasts) if kind in EVENTS else kind()
        actions = self.lifecycle.apply(self.function, event, 10.0)

        assert type(self.function.state) in life.TRANSITIONS[before][type(event)]
        for action in actions:
            if isinstance(action, life.Send):
                self.claims.append(action.attempt)
            elif isinstance(action, (life.ReturnClaim, life.KeepClaim)):
                self.claims.remove(action.attempt)
            elif isinstance(action, life.Offer):
                assert not self.offered
                self.offered = True
            elif isinstance(action, life.Withdraw):
                self.offered = False
        if isinstance(event, (life.Placed, life.Rejected)):
            self.offered = False

    @precondition(lambda self: not self.function.run.over)
    @rule(status=st.sampled_from([FINISHED, FAILED, CANCELLED]))
    def its_run_ends(self, status):
        self.function.run.over, self.function.run.status = True, status

    @invariant()
    def a_claim_is_held_exactly_while_it_is_on_a_node(self):
        held = [self.function.attempt] if self.function.is_on_node else []
        assert self.claims == held
        assert not self.offered or isinstance(self.function.state, Waiting)

    @invariant()
    def times_are_in_order(self):
        mine = self.function.attempt
        assert self.function.attempts >= 0
        if mine is not None and mine.stop is not None:
            assert mine.placed <= mine.start <= mine.stop <= 10.0


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=40, stateful_step_count=20)


def test_a_thread_that_is_left_behind_keeps_its_claim():
    """An attempt whose time is over has failed; what it holds is returned when its thread is over."""
    late = life.Raised("too late", left_behind=True)
    for ends in (life.FailedForGood(), life.Dropped(node_is_there=True)):
        function, mine = function_of(), attempt()
        actions = lived(function, life.ArgumentsReady(), life.Placed(mine), late, ends)

        assert actions == [
            life.Hold(),
            life.LeaveQueue(mine, goes_on=True, is_stuck=True),
            life.KeepClaim(mine),
        ]
