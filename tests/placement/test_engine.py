"""What the engine decides, case by case."""

from __future__ import annotations

import sys

from handoff_dask.placement.events import (
    ClaimedElsewhere,
    DurationsLearned,
    FunctionWithdrawn,
    NodeLeft,
    ReturnedElsewhere,
    RunClosed,
    RunRanked,
    TimePassed,
)
from handoff_dask.resources import Capabilities, Cost
from tests.placement.facts import changed, demand, finished, joined, opened, placed, ready, rejected, waits


def test_function_waits_until_room_appears(engine):
    engine.handle(joined("a", memory=4), now=0)
    assert placed(engine.handle(ready("big", memory=4), now=1)) == {"big": "a"}

    assert waits(engine.handle(ready("next", memory=1), now=2)) == {"next": "room"}
    assert placed(engine.handle(finished("big"), now=3)) == {"next": "a"}


def test_every_function_takes_a_thread(engine):
    engine.handle(joined("a", threads=1), now=0)
    assert placed(engine.handle(ready("one"), now=1)) == {"one": "a"}
    assert waits(engine.handle(ready("two"), now=1)) == {"two": "thread"}


def test_first_in_order_goes_first_and_smaller_ones_fill_gaps(engine):
    engine.handle(joined("a", cpu=3), now=0)
    events = [
        ready("late", cpu=2),
        ready("wide", cpu=3, rank=2),
        ready("urgent", cpu=2, priority=1),
        ready("gap", cpu=1, rank=-1),
    ]
    assert placed(engine.handle_all(events, now=1)) == {"urgent": "a", "gap": "a"}
    assert placed(engine.handle_all([finished("urgent"), finished("gap")], now=2)) == {"wide": "a"}


def test_pin_by_name_holds_for_whatever_worker_bears_it(engine):
    engine.handle_all([joined("a", cpu=1, address="tcp://1"), joined("b", cpu=1)], now=0)
    assert placed(engine.handle(ready("f", cpu=1, pin="a"), now=1)) == {"f": "a"}
    assert waits(engine.handle(ready("g", cpu=1, pin="a"), now=1)) == {"g": "pin"}
    engine.handle(opened("other"), now=1)
    assert waits(engine.handle(ready("h", run="other", cpu=1, pin="tcp://1"), now=1)) == {"h": "pin"}
    assert engine.handle(NodeLeft(node="a", returning=True), now=2) == []

    decisions = engine.handle(joined("a", cpu=1, address="tcp://2"), now=3)

    # Nobody has the old address any more.
    assert placed(decisions) == {"g": "a"}
    assert rejected(decisions) == {
        "h": "a: is not 'tcp://1', to which it is pinned; b: is not 'tcp://1', to which it is pinned"
    }


def test_what_no_node_could_hold_is_rejected_at_once(engine):
    engine.handle_all([joined("a", cpu=2, memory=16000), joined("b", cpu=4)], now=0)
    decisions = engine.handle(ready("f", cpu=3, memory=20000), now=1)
    assert rejected(decisions) == {"f": "a: needs cpu 3, has 2; b: needs memory 20000 MB, has 0 MB"}


def test_what_no_node_could_hold_may_wait_for_one(make_engine):
    engine = make_engine(opened(allocation_timeout_s=10))
    assert waits(engine.handle_all([ready("f", cpu=1), ready("g", cpu=1)], now=5)) == {
        "f": "no nodes",
        "g": "no nodes",
    }
    assert engine.next_deadline() == 15
    assert placed(engine.handle(joined("a", cpu=1), now=9)) == {"f": "a"}
    assert engine.next_deadline() is None
    engine.handle(NodeLeft(node="a"), now=20)
    assert engine.next_deadline() == 30
    assert rejected(engine.handle(TimePassed(), now=30)) == {"g": ""}
    assert engine.waiting == 0


def test_members_of_a_group_follow_the_first(make_engine):
    engine = make_engine(opened(groups={"g": demand(cpu=3)}))
    engine.handle_all([joined("a", cpu=2), joined("b", cpu=3), joined("c", cpu=3)], now=0)
    first, second = engine.handle_all([ready("f", cpu=1, group="g"), ready("h", cpu=3, group="g")], now=1)
    assert (first.node, first.bound) == ("b", ("g", "b"))
    assert (second.function, second.cause) == ("h", "collocation")
    assert placed(engine.handle(finished("f"), now=2)) == {"h": "b"}


def test_group_is_chosen_anew_when_its_node_leaves(make_engine):
    engine = make_engine(opened(groups={"g": demand(cpu=1)}))
    engine.handle_all([joined("a", cpu=1), joined("b", cpu=1)], now=0)
    engine.handle_all([ready("f", cpu=1, group="g"), ready("h", cpu=1, group="g")], now=1)
    (place,) = engine.handle(NodeLeft(node="a"), now=2)
    assert (place.function, place.node, place.bound) == ("h", "b", ("g", "b"))


def test_function_that_binds_a_group_gives_it_a_node(make_engine):
    engine = make_engine(opened(groups={"g": demand(cpu=2)}))
    engine.handle_all([joined("a", cpu=1), joined("b", cpu=2)], now=0)
    (place,) = engine.handle(ready("f", cpu=1, binds="g"), now=1)
    assert (place.node, place.bound) == ("a", ("g", "b"))
    (place,) = engine.handle(ready("h", cpu=2, group="g"), now=2)
    assert (place.node, place.bound) == ("b", None)


def test_withdrawn_functions_wait_no_longer_but_keep_what_they_hold(engine):
    engine.handle(joined("a", cpu=1), now=0)
    engine.handle_all([ready("f", cpu=1), ready("g", cpu=1), ready("h", cpu=1)], now=1)
    assert engine.handle_all([FunctionWithdrawn(function="f"), FunctionWithdrawn(function="g")], now=2) == []
    assert placed(engine.handle(finished("f"), now=3)) == {"h": "a"}


def test_closed_run_leaves_nothing_but_claims(engine):
    engine.handle(joined("a", cpu=1), now=0)
    engine.handle_all([ready("f", cpu=1), ready("g", cpu=1)], now=1)
    assert engine.handle(RunClosed(run="run"), now=2) == []
    assert engine.available("a") == {"cpu": 0}
    assert engine.handle(finished("f"), now=3) == []
    assert engine.available("a") == {"cpu": 1}


def test_node_that_shrinks_takes_nothing_until_there_is_room(engine):
    engine.handle(joined("a", cpu=4), now=0)
    engine.handle_all([ready("f", cpu=2), ready("g", cpu=2), ready("h", cpu=1)], now=1)
    engine.handle(changed("a", cpu=2), now=2)
    assert engine.handle(finished("f"), now=3) == []
    assert placed(engine.handle(finished("g"), now=4)) == {"h": "a"}


def test_what_is_unknown_is_passed_over(engine):
    events = [
        finished("nobody"),
        FunctionWithdrawn(function="nobody"),
        NodeLeft(node="nowhere"),
        changed("nowhere"),
        ClaimedElsewhere(claim=1, node="nowhere", threads=1),
        ReturnedElsewhere(claim=1),
        RunClosed(run="none"),
        RunRanked(run="none", ranks={}),
        DurationsLearned(run="none", durations={"nobody": 1.0}),
        ready("f", run="none"),
    ]
    assert engine.handle_all(events, now=1) == []
    assert engine.remembers() == {"runs": 1}


def test_node_that_joins_again_unannounced_is_another_one(engine):
    engine.handle(joined("a", cpu=1, address="tcp://1"), now=0)
    engine.handle_all([ready("f", cpu=1), ready("g", cpu=1)], now=1)
    assert placed(engine.handle(joined("a", cpu=1, address="tcp://2"), now=2)) == {"g": "a"}
    assert engine.nodes()["a"].placed == ("g",)


def test_node_that_says_again_what_it_has_keeps_what_it_holds(engine):
    engine.handle(joined("a", cpu=1), now=0)
    engine.handle_all([ready("f", cpu=1), ready("g", cpu=1)], now=1)
    assert placed(engine.handle(joined("a", cpu=2), now=2)) == {"g": "a"}
    assert engine.nodes()["a"].placed == ("f", "g")


def test_what_others_hold_is_not_given_away(engine):
    engine.handle(joined("a", cpu=2, threads=2), now=0)
    cpus = Cost.parse({"cpu": 3})
    engine.handle(ClaimedElsewhere(claim="x", node="a", cost=cpus, threads=1), now=0)
    # More is held than there is, so nothing starts, not even for free.
    assert waits(engine.handle(ready("f"), now=1)) == {"f": "room"}
    less = ClaimedElsewhere(claim="x", node="a", cost=Cost.parse({"cpu": 1}), threads=1)
    assert placed(engine.handle(less, now=2)) == {"f": "a"}
    assert waits(engine.handle(ready("g"), now=3)) == {"g": "thread"}
    assert placed(engine.handle(ReturnedElsewhere(claim="x"), now=4)) == {"g": "a"}


def test_claims_of_others_go_with_the_node(engine):
    engine.handle(joined("a", cpu=2), now=0)
    engine.handle(ClaimedElsewhere(claim="x", node="a", threads=8), now=0)
    engine.handle_all([NodeLeft(node="a"), joined("a", cpu=2)], now=1)
    assert placed(engine.handle_all([ReturnedElsewhere(claim="x"), ready("f")], now=2)) == {"f": "a"}


def test_function_that_gets_ready_again_is_nowhere_else(engine):
    engine.handle(joined("a", cpu=2), now=0)
    assert placed(engine.handle(ready("f", cpu=2), now=1)) == {"f": "a"}
    assert waits(engine.handle(ready("g", cpu=2), now=2)) == {"g": "room"}
    assert waits(engine.handle(ready("g", cpu=1), now=3)) == {"g": "room"}
    assert placed(engine.handle(ready("f", cpu=1), now=4)) == {"g": "a", "f": "a"}


def test_new_ranks_change_the_order(engine):
    engine.handle(joined("a", cpu=1), now=0)
    events = [
        ready("running", cpu=1, rank=10),
        *(ready(f, cpu=1, rank=r) for f, r in [("x", 3), ("y", 2), ("z", 1)]),
    ]
    engine.handle_all(events, now=1)
    ranks = {"z": 9, "x": 3, "y": 2, "later": 5, "gone": 1}
    engine.handle(RunRanked(run="run", ranks=ranks), now=2)
    engine.handle(ready("later", cpu=1), now=3)
    order = [placed(engine.handle(finished(f), now=4)) for f in ["running", "z", "later", "x"]]
    assert order == [{"z": "a"}, {"later": "a"}, {"x": "a"}, {"y": "a"}]


def test_no_more_of_a_run_than_max_concurrency_at_once(make_engine):
    engine = make_engine(joined("a", cpu=4), opened(max_concurrency=2))
    events = [ready("f", cpu=1), ready("g", cpu=2), ready("h", cpu=1), ready("i", cpu=3)]
    decisions = engine.handle_all(events, now=1)
    assert (placed(decisions), waits(decisions)) == (
        {"f": "a", "g": "a"},
        {"h": "max_concurrency", "i": "max_concurrency"},
    )
    assert placed(engine.handle(finished("g"), now=2)) == {"h": "a"}
    assert engine.handle(joined("b", cpu=4), now=3) == []
    assert placed(engine.handle(finished("f"), now=4)) == {"i": "a"}


def test_run_keeps_to_its_nodes_and_to_its_share_of_them(make_engine):
    share = {"a": Capabilities.parse({"cpu": 2}), "tcp://b": Capabilities.parse({"memory": 4})}
    engine = make_engine(
        joined("a", cpu=8),
        joined("b", cpu=1, memory=8, address="tcp://b"),
        joined("c", cpu=8),
        opened(nodes=share, allocation_timeout_s=9),
    )
    decisions = engine.handle_all([ready(f, cpu=1) for f in "fghi"], now=1)
    assert (placed(decisions), waits(decisions)) == ({"f": "a", "g": "a", "h": "b"}, {"i": "confined"})
    assert placed(engine.handle(finished("f"), now=2)) == {"i": "a"}
    assert engine.handle_all([finished("g"), finished("i")], now=3) == []
    assert waits(engine.handle(ready("j", memory=5), now=3)) == {"j": "no nodes"}
    assert {n: str(o) for n, o in engine.explain("j", now=4).nodes.items()} == {
        "a": "needs memory 5 MB, has 0 MB",
        "b": "needs memory 5 MB, has 4 MB (this execution is confined to that)",
        "c": "is not among the nodes that this execution may use",
    }


def test_one_run_ends_and_another_goes_on(make_engine):
    engine = make_engine(joined("a", cpu=1), opened("one"), opened("two"))
    events = [ready((run, n), run=run, cpu=1, rank=n) for n in range(3) for run in ("one", "two")]
    assert placed(engine.handle_all(events, now=1)) == {("one", 2): "a"}
    engine.handle(RunClosed(run="two"), now=2)
    assert placed(engine.handle(finished(("one", 2)), now=3)) == {("one", 1): "a"}
    assert engine.waiting == 1


def test_group_with_a_pin_waits_for_its_node(make_engine):
    engine = make_engine(joined("a", cpu=2), joined("b", cpu=2), opened(groups={"g": demand(cpu=1, pin="b")}))
    engine.handle(ready("other", cpu=2, pin="b"), now=1)
    assert waits(engine.handle(ready("f", cpu=1, group="g"), now=1)) == {"f": "pin"}
    (place,) = engine.handle(ready("h", cpu=1, binds="g"), now=2)
    assert (place.node, place.bound) == ("a", ("g", "b"))
    assert waits(engine.handle(ready("i", cpu=1, group="g"), now=2)) == {"i": "pin"}
    assert placed(engine.handle(finished("other"), now=3)) == {"f": "b", "i": "b"}


def test_group_is_bound_to_a_full_node_if_it_must_be(make_engine):
    groups = {"g": demand(cpu=2), "h": demand(cpu=9)}
    engine = make_engine(joined("a", cpu=1), joined("b", cpu=2), opened(groups=groups))
    engine.handle(ready("full", cpu=2), now=1)
    (place,) = engine.handle(ready("f", cpu=1, binds="g"), now=2)
    assert (place.node, place.bound) == ("a", ("g", "b"))
    decisions = engine.handle(ready("x", binds="h"), now=3)
    assert rejected(decisions) == {"x": "a: needs cpu 9, has 1; b: needs cpu 9, has 2"}


def test_function_waits_until_its_group_can_be_bound(make_engine):
    engine = make_engine(joined("a", cpu=1), opened(groups={"g": demand(cpu=2)}, allocation_timeout_s=60))
    assert waits(engine.handle(ready("f", cpu=1, binds="g"), now=1)) == {"f": "no nodes"}
    (place,) = engine.handle(joined("b", cpu=2), now=2)
    assert (place.function, place.node, place.bound) == ("f", "a", ("g", "b"))
    engine.handle(ready("full", cpu=1), now=3)
    engine.handle(finished("f"), now=3)
    engine.handle_all([NodeLeft(node="b"), ready("h", binds="g")], now=4)
    assert engine.waiting_by_cause() == {"no nodes": 1}
    assert engine.next_deadline() == 64


def test_function_waits_until_the_node_for_its_group_is_back(make_engine):
    engine = make_engine(joined("a", cpu=1), joined("b", cpu=2), opened(groups={"g": demand(cpu=2)}))
    engine.handle(NodeLeft(node="b", returning=True), now=1)
    assert waits(engine.handle(ready("f", cpu=1, binds="g"), now=2)) == {"f": "collocation"}
    (place,) = engine.handle(joined("b", cpu=2), now=3)
    assert (place.function, place.node, place.bound) == ("f", "a", ("g", "b"))


def test_function_need_not_wait_for_a_node_if_another_grows(make_engine):
    engine = make_engine(joined("a", cpu=1), joined("b", cpu=2), opened(groups={"g": demand(cpu=2)}))
    engine.handle(NodeLeft(node="b", returning=True), now=1)
    engine.handle(joined("c", memory=1), now=1)
    assert waits(engine.handle(ready("f", memory=1, binds="g"), now=2)) == {"f": "collocation"}
    (place,) = engine.handle(changed("a", cpu=2), now=3)
    assert (place.function, place.node, place.bound) == ("f", "c", ("g", "a"))


def test_losing_the_last_node_that_could_bind_a_group_starts_the_clock(make_engine):
    engine = make_engine(
        joined("a", cpu=1, threads=1),
        joined("b", memory=2, threads=1),
        opened(groups={"g": demand(memory=2)}, allocation_timeout_s=60),
    )
    engine.handle_all([ready("full", cpu=1), ready("f", cpu=1, binds="g")], now=1)
    assert engine.next_deadline() is None
    engine.handle(NodeLeft(node="b"), now=5)
    assert engine.next_deadline() == 65


def test_function_that_could_only_run_on_a_node_in_restart_waits_for_it(engine):
    engine.handle(joined("a", cpu=1), now=0)
    engine.handle(NodeLeft(node="a", returning=True), now=1)
    assert waits(engine.handle(ready("f", cpu=1), now=2)) == {"f": "room"}
    assert str(engine.explain("f", now=2).nodes["a"]) == "the node is being restarted"
    assert rejected(engine.handle(NodeLeft(node="a"), now=3)) == {"f": ""}


def test_node_that_does_not_accept_takes_nothing_new(engine):
    engine.handle(joined("a", cpu=2), now=0)
    engine.handle(ready("f", cpu=1), now=1)
    engine.handle(changed("a", cpu=2, accepting=False), now=2)
    assert waits(engine.handle(ready("g", cpu=1), now=3)) == {"g": "room"}
    assert str(engine.explain("g", now=3).nodes["a"]) == "the node takes nothing new"
    assert placed(engine.handle(changed("a", cpu=2), now=4)) == {"g": "a"}


def test_many_nodes_freed_at_once_are_filled_in_order(engine):
    engine.handle_all([joined(f"n{n:02}", cpu=1, threads=1) for n in range(30)], now=0)
    engine.handle_all([ready(n, cpu=1) for n in range(30)], now=1)
    engine.handle_all([ready(100 + n, cpu=1, rank=n) for n in range(40)], now=1)
    decisions = engine.handle_all([finished(n) for n in range(30)], now=2)
    assert placed(decisions) == {139 - n: f"n{n:02}" for n in range(30)}


def test_a_few_nodes_freed_at_once_are_chosen_from_by_the_strategy(make_engine):
    engine = make_engine(
        joined("a", cpu=4), joined("b", cpu=8), joined("c", cpu=4), opened(strategy="load_balanced")
    )
    engine.handle_all(
        [ready("f", cpu=4, pin="a"), ready("g", cpu=8, pin="b"), ready("h", cpu=4, pin="c")], now=1
    )
    engine.handle_all([ready("i", cpu=2), ready("j", cpu=2), ready("k", cpu=1, pin="a")], now=2)
    assert placed(engine.handle_all([finished("f"), finished("g")], now=3)) == {"i": "b", "j": "a", "k": "a"}


def test_hundreds_of_costs_wait_in_order(engine):
    engine.handle(joined("a", cpu=1000), now=0)
    engine.handle(ready("all", cpu=1000), now=1)
    engine.handle_all([ready(n, cpu=n, rank=n) for n in range(1, 401)], now=2)
    engine.handle_all([FunctionWithdrawn(function=n) for n in range(1, 401) if n % 100], now=3)
    assert placed(engine.handle(finished("all"), now=4)) == {400: "a", 300: "a", 200: "a", 100: "a"}


def test_withdrawing_most_of_a_queue_leaves_the_rest_in_order(engine):
    engine.handle(joined("a", cpu=1), now=0)
    engine.handle_all([ready(n, cpu=1, rank=-n) for n in range(301)], now=1)
    engine.handle_all([FunctionWithdrawn(function=n) for n in range(299, 1, -1)], now=2)
    assert placed(engine.handle(finished(0), now=3)) == {1: "a"}
    assert placed(engine.handle(finished(1), now=3)) == {300: "a"}


def test_new_head_of_a_waiting_queue_takes_its_place_in_the_order(engine):
    engine.handle(joined("a", cpu=2), now=0)
    engine.handle_all([ready("f", cpu=2, rank=9), ready("low", cpu=2), ready("mid", cpu=1, rank=1)], now=1)
    engine.handle(ready("high", cpu=2, rank=2), now=2)
    engine.handle(RunRanked(run="run", ranks={"low": -5, "high": 2.5}), now=2)
    assert placed(engine.handle(finished("f"), now=3)) == {"high": "a"}


def test_first_member_of_a_group_that_had_to_wait_binds_it(make_engine):
    engine = make_engine(joined("a", cpu=2), joined("b", cpu=2), opened(groups={"g": demand(cpu=2)}))
    engine.handle_all([ready("f", cpu=2), ready("full", cpu=2)], now=1)
    members = [ready("m", cpu=1, group="g"), ready("n", cpu=1, group="g"), ready("o", cpu=2, group="g")]
    assert waits(engine.handle_all(members, now=2)) == {"m": "room", "n": "room", "o": "room"}
    assert placed(engine.handle(finished("full"), now=3)) == {"m": "b", "n": "b"}
    assert engine.handle(finished("f"), now=4) == []
    assert placed(engine.handle_all([finished("m"), finished("n")], now=5)) == {"o": "b"}


def test_node_without_threads_holds_nothing(engine):
    assert rejected(engine.handle_all([joined("a", threads=0), ready("f")], now=1)) == {
        "f": "a: needs threads 1, has 0"
    }


def test_it_goes_on_for_long(engine):
    """What is kept of the past is bounded, and nothing is missed for that."""
    engine.handle_all([joined("a", cpu=1), joined("b", cpu=1)], now=0)
    engine.handle_all([ready("f", cpu=1, pin="b"), ready("rare", cpu=1, memory=0, pin="b")], now=0)
    for number in range(5_000):
        assert placed(engine.handle(ready(number, cpu=1), now=number)) == {number: "a"}
        engine.handle(finished(number), now=number)
    assert placed(engine.handle(finished("f"), now=6_000)) == {"rare": "b"}
    assert engine.remembers()["changes"] < 20_000


def test_work_per_event_does_not_grow_with_the_functions_that_wait(make_engine):
    """Counted in calls, which is what takes the time."""

    def calls(waiting):
        engine = make_engine(*(joined(f"n{n}", cpu=4) for n in range(8)))
        functions = [ready(n, cpu=1 + n % 4, rank=(n * 37) % 101) for n in range(waiting)]
        running = list(placed(engine.handle_all(functions, now=1)))
        count = 0

        def called(frame, event, argument):
            nonlocal count
            count += event == "call"

        sys.setprofile(called)
        try:
            for number in range(100):
                engine.handle(ready(("more", number), cpu=1 + number % 4), now=1)
                running += placed(engine.handle(finished(running.pop(0)), now=1))
        finally:
            sys.setprofile(None)
        return count

    few, many = calls(100), calls(5_000)
    assert many < 1.2 * few
    assert few < 100 * 100


def test_a_cost_for_each_function_slows_nothing_and_leaves_nothing(make_engine):
    """Counted in looks at queues: each function has a queue of its own."""

    def looks(waiting):
        engine = make_engine(*(joined(f"n{n}", cpu=4, memory=4000) for n in range(2)))
        costs = [{"cpu": 1, "memory": 100 + n * 0.001} for n in range(waiting)]
        running = list(placed(engine.handle_all([ready(n, **cost) for n, cost in enumerate(costs)], now=1)))
        count = 0

        def looked(frame, event, argument):
            nonlocal count
            count += event == "call" and frame.f_code.co_name == "has_room"

        sys.setprofile(looked)
        try:
            for _ in range(100):
                running += placed(engine.handle(finished(running.pop(0)), now=1))
        finally:
            sys.setprofile(None)
        while running:
            running += placed(engine.handle(finished(running.pop(0)), now=1))
        engine.handle(RunClosed(run="run"), now=1)
        return count, engine.remembers()

    (few, _), (many, left) = looks(200), looks(3_000)
    assert many < 1.2 * few + 10
    assert left == {"nodes": 2}


def test_what_an_execution_alone_says_of_its_nodes(make_engine):
    """The nodes say nothing of it themselves: the run alone counts it, on each node as far as it said."""
    nodes = {
        "a": Capabilities.parse({"gpu_memory": 0, "has_cuda": False}),
        "b": Capabilities.parse({"gpu_memory": 4000, "has_cuda": True, "cpu": 1}),
    }
    engine = make_engine(joined("a", cpu=2), joined("b", cpu=2), joined("c", cpu=2), opened(nodes=nodes))
    trains = {"gpu_memory": 3000, "has_cuda": True}

    assert placed(engine.handle_all([ready("f", **trains), ready("g", **trains)], now=1)) == {"f": "b"}
    assert engine.available("b") == {"cpu": 2}
    # What the node does say something of is as small as the two make it.
    assert placed(engine.handle_all([ready("h", cpu=1), ready("i", cpu=2)], now=1)) == {"h": "a"}
    assert placed(engine.handle(finished("f"), now=2)) == {"g": "b"}
    assert engine.could_hold(demand(**trains), nodes)
    assert not engine.could_hold(demand(gpu_memory=5000), nodes)
    # To others it does not exist.
    engine.handle(opened("other"), now=3)
    assert rejected(engine.handle(ready("j", run="other", gpu_memory=1), now=3)).keys() == {"j"}
