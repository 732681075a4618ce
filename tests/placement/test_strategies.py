"""Which node each strategy takes, and that it takes it however many nodes there are."""

from __future__ import annotations

import random

import pytest

from handoff_dask.placement.decisions import Place
from handoff_dask.placement.events import NodeLeft, TimePassed
from handoff_dask.placement.ledger import Ledger
from handoff_dask.placement.requests import ResourceRequest
from handoff_dask.placement.strategies import (
    BUILT_IN,
    ScoredStrategy,
    SelectStrategy,
    load_after,
)
from handoff_dask.placement.strategy_check import check_strategy
from handoff_dask.resources import Capabilities, Cost
from tests.placement.facts import changed, data, finished, joined, opened, placed, ready, waits


def test_first_available_takes_names_as_strings(make_engine):
    engine = make_engine(joined("n9", cpu=1), joined("n10", cpu=1))
    assert placed(engine.handle_all([ready(n, cpu=1) for n in range(2)], now=1)) == {0: "n10", 1: "n9"}


def test_load_balanced_looks_at_the_most_used_resource(make_engine):
    engine = make_engine(
        joined("a", cpu=4, memory=100), joined("b", cpu=8, memory=50), opened(strategy="load_balanced")
    )
    events = [ready("f", cpu=1), ready("g", cpu=1, memory=30), ready("h", cpu=1), ready("i", memory=10)]
    assert placed(engine.handle_all(events, now=1)) == {"f": "b", "g": "a", "h": "b", "i": "b"}


def test_load_balanced_counts_threads(make_engine):
    engine = make_engine(joined("a", threads=2), joined("b", threads=8), opened(strategy="load_balanced"))
    assert placed(engine.handle_all([ready(n) for n in range(5)], now=1)) == {
        0: "b", 1: "b", 2: "b", 3: "a", 4: "b"
    }  # fmt: skip


def test_cost_optimized_takes_the_cheapest_then_the_tightest(make_engine):
    engine = make_engine(
        joined("dear", cpu=1, price=2),
        joined("gpu", cpu=2, gpu=1),
        joined("large", cpu=8),
        joined("small", cpu=2),
        opened(strategy="cost_optimized"),
    )
    assert placed(engine.handle_all([ready(n, cpu=1) for n in range(13)], now=1)) == {
        **dict.fromkeys(range(2), "small"),
        **dict.fromkeys(range(2, 10), "large"),
        **dict.fromkeys(range(10, 12), "gpu"),
        12: "dear",
    }


def test_fastest_counts_the_transfer_then_the_load(make_engine):
    engine = make_engine(
        joined("a", cpu=2), joined("b", cpu=2), joined("c", cpu=2), opened(strategy="fastest")
    )
    events = [ready(name, cpu=1, arguments=[data(name, "c")]) for name in "fg"]
    # The transfer decides first, and then the load.
    events += [ready("h", cpu=1, arguments=[data("h", "a", "b")]), ready("i", cpu=1)]
    events += [ready("j", cpu=1, arguments=[data("j", "a", "b")])]
    where = placed(engine.handle_all(events, now=1))
    assert where == {"f": "c", "g": "c", "h": "a", "i": "b", "j": "a"}


def test_fastest_of_many_nodes(make_engine):
    engine = make_engine(*(joined(f"n{n:02}", cpu=1) for n in range(80)), opened(strategy="fastest"))
    near = [data("x", "n79"), data("y", "n79", "n05")]
    assert placed(engine.handle(ready("f", cpu=1, arguments=near), now=1)) == {"f": "n79"}
    assert placed(engine.handle(ready("g", cpu=1, arguments=near[1:]), now=2)) == {"g": "n05"}
    assert placed(engine.handle(ready("h", cpu=1), now=3)) == {"h": "n00"}


def plainly_best(strategy: ScoredStrategy, request: ResourceRequest, ledger: Ledger) -> str | None:
    fitting = [n for n in ledger.nodes.values() if n.name in request.eligible and request.fits(n)]
    best = min(fitting, key=lambda n: (strategy.score(n, request), n.name), default=None)
    return None if best is None else best.name


@pytest.mark.parametrize("nodes", [5, 90])
@pytest.mark.parametrize("strategy", list(BUILT_IN))
def test_the_best_of_all_nodes_is_found(make_engine, strategy, nodes):
    """What is found by indexes is what a look at every node would find."""
    rng = random.Random(f"{strategy}/{nodes}")
    engine = make_engine(
        *(
            joined(f"n{rng.random():.6f}", threads=rng.choice([2, 8]), cpu=rng.choice([2, 4, 8]), memory=64,
                   **rng.choice([{}, {}, {"gpu": 1}, {"zone": "eu"}, {"price": 2}]))
            for _ in range(nodes)
        ),
        opened(strategy=strategy, allocation_timeout_s=1e9),
    )  # fmt: skip
    costs = [{"cpu": c, "memory": m} for c in (0.5, 1, 3) for m in (1, 16, 40)]
    costs += [{"gpu": 1}, {"zone": "eu"}, {}]
    ledger, running = engine._ledger, []
    for number in range(600):
        cost = rng.choice(costs)
        request = ResourceRequest(Cost.parse(cost))
        for node in ledger.nodes.values():
            request.review(node)
        expected = plainly_best(BUILT_IN[strategy], request, ledger)
        if expected is None and engine.waiting > 20:
            continue
        (decision,) = engine.handle(ready(number, **cost), now=number)
        if isinstance(decision, Place):
            assert decision.node == expected
            running.append(number)
        else:
            assert expected is None
        while running and (rng.random() < 0.4 or engine.waiting):
            ended = running.pop(rng.randrange(len(running)))
            running += placed(engine.handle(finished(ended), now=number))
        if number % 150 == 149:
            gone = rng.choice(list(ledger.nodes.values()))
            running = [f for f in running if f not in gone.placed]
            running += placed(engine.handle(NodeLeft(node=gone.name), now=number))
            running += placed(engine.handle(joined(gone.name, cpu=6, memory=32), now=number))
    engine.check()


def test_all_nodes_are_searched_if_the_least_used_ones_do_not_do(make_engine):
    engine = make_engine(
        *(joined(f"n{n:03}", cpu=4) for n in range(150)),
        *(joined(f"z{n:03}", cpu=4, zone="eu") for n in range(70)),
        opened(strategy="load_balanced"),
    )
    busy = [ready(f"busy{n}", cpu=2, pin=f"z{n:03}") for n in range(69)]
    engine.handle_all(busy, now=1)
    assert placed(engine.handle(ready("f", cpu=1, zone="eu"), now=2)) == {"f": "z069"}
    assert placed(engine.handle(ready("g", cpu=1), now=3)) == {"g": "n000"}


def test_load_of_a_node_without_resources_is_that_of_its_threads():
    node = Ledger().join("a", None, Capabilities(), threads=4)
    assert load_after(node, ResourceRequest(Cost())) == 0.25


@pytest.mark.parametrize("strategy", [*BUILT_IN, *BUILT_IN.values()])
def test_built_in_strategies_do_what_a_strategy_must(strategy):
    check_strategy(strategy)


# Strategies of users


class Last:
    def select(self, function, nodes):
        return nodes[-1].name


class InTurn:
    def allocate(self, functions, capabilities):
        able = {"f0": list(capabilities)[-1:], "f2": list(capabilities)[:1]}
        plain = all("cpu" in c for c in capabilities.values()) and "gpu" not in capabilities
        return {f.id: able[f.id][0] for f in functions if f.id in able and plain and f.node is None}


@pytest.mark.parametrize("strategy", [Last(), InTurn(), lambda function, nodes: nodes[0].name])
def test_users_strategies_can_be_tried_out(strategy):
    check_strategy(strategy)


class Fickle:
    def __init__(self):
        self.turn = 0

    def select(self, function, nodes):
        self.turn += 1
        return nodes[self.turn % len(nodes)].name


def test_trying_out_finds_a_strategy_that_changes_its_mind():
    with pytest.raises(AssertionError, match="more nodes than functions: asked the same twice"):
        check_strategy(Fickle())


def test_many_full_nodes_are_not_searched_in_vain(make_engine):
    engine = make_engine(
        *(joined(f"n{n:02}", threads=1) for n in range(70)), opened(strategy="load_balanced")
    )
    assert len(placed(engine.handle_all([ready(n) for n in range(70)], now=1))) == 70
    assert waits(engine.handle(ready("f"), now=2)) == {"f": "thread"}
    assert placed(engine.handle(finished(7), now=3)) == {"f": "n07"}


def test_trying_out_finds_a_strategy_that_fails():
    with pytest.raises(
        AssertionError, match="one node: 'f0' was rejected: the strategy raised KeyError: 'a'"
    ):
        check_strategy(lambda function, nodes: {}[nodes[0].name])


def test_users_strategies_see_what_changes(make_engine):
    prices = []

    def select(function, nodes):
        prices.append([n.price for n in nodes])
        return nodes[0].name

    engine = make_engine(joined("a", price=1), opened(strategy=SelectStrategy(select=select)))
    engine.handle(ready("f"), now=1)
    engine.handle(changed("a", price=0.5), now=2)
    engine.handle(ready("g"), now=3)
    assert prices == [[1], [0.5]]


def test_a_scored_strategy_has_a_score():
    with pytest.raises(TypeError, match="abstract"):
        ScoredStrategy("mine")


def test_function_that_no_node_is_wanted_for_waits_once_however_long(make_engine):
    wanted = []
    engine = make_engine(
        joined("a", cpu=2),
        joined("b", cpu=2),
        opened(strategy=SelectStrategy(select=lambda function, nodes: wanted[-1] if wanted else None)),
        opened("other"),
    )
    engine.handle_all([ready("x", run="other", cpu=1), ready("f", cpu=1)], now=0)
    # After so long it goes before all others.
    engine.handle(TimePassed(), now=60)
    engine.check()
    wanted.append("b")
    assert placed(engine.handle(finished("x"), now=61)) == {"f": "b"}


@pytest.mark.parametrize(
    ("strategy", "node"),
    [("first_available", "a"), ("load_balanced", "c"), ("cost_optimized", "c"), ("fastest", "c")],
)
def test_of_equal_nodes_the_one_with_the_arguments_is_taken(make_engine, strategy, node):
    engine = make_engine(
        joined("a", cpu=2), joined("b", cpu=2), joined("c", cpu=2), opened(strategy=strategy)
    )
    assert placed(engine.handle(ready("f", cpu=1, preferred_node="c"), now=1)) == {"f": node}
    # Also where several have been freed at once.
    engine.handle_all([finished("f"), *(ready(n, cpu=2, pin=n) for n in "abc")], now=2)
    engine.handle(ready("g", cpu=1, preferred_node="c"), now=2)
    assert placed(engine.handle_all([finished(n) for n in "abc"], now=3)) == {"g": node}


def test_home_that_is_not_as_good_as_another_is_not_taken(make_engine):
    engine = make_engine(
        joined("a", cpu=2), joined("b", cpu=2), joined("c", cpu=1, memory=1), opened(strategy="fastest")
    )
    events = [
        ready("not as empty", cpu=1, preferred_node="c"),
        ready("not as near", cpu=1, preferred_node="a", arguments=[data("x", "b")]),
        ready("full", memory=1, preferred_node="b"),
        ready("unknown", cpu=0.1, preferred_node="d"),
        ready("now", cpu=1, preferred_node="b"),
    ]
    assert placed(engine.handle_all(events, now=1)) == {
        "not as empty": "a",
        "not as near": "b",
        "full": "c",
        "unknown": "a",
        "now": "b",
    }


def test_home_that_is_kept_for_another_is_not_taken(make_engine):
    engine = make_engine(joined("a", cpu=2), joined("b", cpu=2), opened(strategy="load_balanced"))
    engine.handle_all([ready("x", cpu=1, pin="b"), ready("y", cpu=1, pin="a")], now=0)
    engine.handle(ready("wide", cpu=2, pin="b"), now=0)
    engine.handle(TimePassed(), now=9)
    assert engine.nodes()["b"].reserved_for == "wide"
    assert placed(engine.handle(ready("f", cpu=1, preferred_node="b"), now=9)) == {"f": "a"}


def test_share_of_a_confined_run_is_heeded_among_nodes_that_have_changed(make_engine):
    nodes = {"a": Capabilities.parse({"cpu": 1}), "b": Capabilities.parse({"cpu": 1})}
    engine = make_engine(
        joined("a", cpu=4), joined("b", cpu=8), opened(strategy="cost_optimized", nodes=nodes)
    )
    where = [placed(engine.handle(ready(n, cpu=1), now=1)) for n in range(3)]
    assert where == [{0: "a"}, {1: "b"}, {}]
