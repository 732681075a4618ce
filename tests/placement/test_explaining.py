"""Every "no" can be asked for its reasons."""

from __future__ import annotations

import pytest

from handoff_dask.placement.events import ClaimedElsewhere, NodeLeft
from handoff_dask.placement.explanation import CAUSES, Explanation, NodeState, Obstacle
from handoff_dask.resources import Capabilities, Cost
from tests.placement.facts import changed, demand, finished, joined, opened, ready

UNIT = 1_000_000


@pytest.mark.parametrize("cause", list(CAUSES))
def test_every_cause_can_be_read(cause):
    assert str(Obstacle(cause=cause, resource="cpu", needed=2 * UNIT, capability=UNIT))


def test_waiting_function_is_explained_node_by_node(make_engine):
    engine = make_engine(
        joined("a", cpu=4, threads=2),
        joined("b", cpu=1),
        joined("c", cpu=4, zone=["eu", "us"]),
        joined("d", cpu=4, zone="eu", gpu=False),
        joined("e", cpu=4, zone="asia"),
        opened(groups={"g": demand(cpu=2, memory=1)}),
    )
    engine.handle_all([ready("f", cpu=3, pin="a"), ready("g", pin="a"), ready("h", cpu=3, zone="us")], now=1)
    engine.handle(ClaimedElsewhere(claim="x", node="c", cost=Cost.parse({"cpu": 1})), now=1)
    engine.handle(ready("y", cpu=2, pin="c"), now=2)
    engine.handle(ready("z", cpu=2, pin="c"), now=3)

    found = engine.explain("z", now=7)

    assert found.nodes["c"] == Obstacle(
        cause="room", resource="cpu", needed=2 * UNIT, capability=4 * UNIT, holders=("h", "x")
    )
    assert str(found) == "\n".join(
        [
            "'z' has waited 4 s (pin)",
            "  1 functions with the same demand go before it",
            "  a: is not 'c', to which it is pinned",
            "  b: is not 'c', to which it is pinned",
            "  c: needs cpu 2, 0 of 4 free",
            "  d: is not 'c', to which it is pinned",
            "  e: is not 'c', to which it is pinned",
        ]
    )
    assert str(engine.explain("f", now=7)) == "'f' is on node 'a'; it waited 0 s"
    assert str(engine.explain("?", now=7)) == "'?' is not known here: it has not been ready, or has ended"
    assert engine.waiting_by_cause() == {"pin": 2}
    assert (engine.waiting, engine.placed) == (2, 3)


def reasons(engine, **more):
    nodes = more.pop("nodes", None)
    return {node: str(why) for node, why in engine.obstacles(demand(**more), nodes).items()}


def test_what_no_node_could_hold_is_told_before_anything_runs(make_engine):
    engine = make_engine(
        joined("a", cpu=4, memory=16000, zone="eu", ssd=True),
        joined("b", cpu=8, memory=64000, gpu=1, zone=["us", "asia"], address="tcp://b"),
        joined("c", threads=0),
    )
    assert reasons(engine, memory=20000, cpu=1) == {
        "a": "needs memory 20000 MB, has 16000 MB",
        "c": "needs threads 1, has 0",
    }
    assert engine.could_hold(demand(memory=20000, cpu=1))
    assert reasons(engine, zone="eu", gpu=True) == {
        "a": "lacks 'gpu'",
        "b": "needs zone 'eu', has 'asia' or 'us'",
        "c": "needs threads 1, has 0",
    }
    assert not engine.could_hold(demand(zone="eu", gpu=True))
    assert reasons(engine, ssd="nvme", pin="tcp://b") == {
        "a": "is not 'tcp://b', to which it is pinned",
        "b": "needs ssd 'nvme', has none",
        "c": "is not 'tcp://b', to which it is pinned",
    }
    share = {"b": Capabilities.parse({"cpu": 2, "zone": "eu"})}
    assert reasons(engine, cpu=3, nodes=share) == {
        "a": "is not among the nodes that this execution may use",
        "b": "needs cpu 3, has 2 (this execution is confined to that)",
        "c": "is not among the nodes that this execution may use",
    }
    assert reasons(engine, zone="us", nodes=share)["b"] == "needs zone 'us', has none"
    assert not engine.could_hold(demand(cpu=3), share)


def test_without_nodes_nothing_could_be_held(engine):
    assert not engine.could_hold(demand())
    assert engine.obstacles(demand()) == {}


def test_member_of_a_group_is_told_what_the_group_needs(make_engine):
    engine = make_engine(
        joined("a", cpu=2), joined("b", cpu=4), joined("c", cpu=4), opened(groups={"g": demand(cpu=3)})
    )
    engine.handle_all([ready("f", cpu=4, pin="b"), ready("g", cpu=4, pin="c")], now=1)
    engine.handle(ready("h", cpu=1, group="g"), now=1)
    assert {n: str(why) for n, why in engine.explain("h", now=2).nodes.items()} == {
        "a": "its group needs cpu 3, has 2",
        "b": "needs cpu 1, 0 of 4 free",
        "c": "needs cpu 1, 0 of 4 free",
    }
    engine.handle(finished("f"), now=3)
    engine.handle_all([ready("i", cpu=4, group="g"), ready("j", cpu=4, group="g")], now=4)
    assert str(engine.explain("j", now=5).nodes["c"]) == "its group is on 'b'"


def test_waiting_function_that_has_room_somewhere_says_so():
    found = Explanation(function="f", status="waiting", nodes={"a": None})
    assert str(found) == "'f' has waited 0 s (just now)\n  a: has room"


def test_limits_of_the_run_are_told(make_engine):
    engine = make_engine(joined("a", cpu=9), opened(max_concurrency=1), opened("other", nodes={
        "a": Capabilities.parse({"cpu": 1})
    }))  # fmt: skip
    events = [ready(("run", n), cpu=1) for n in range(2)] + [ready(n, run="other", cpu=1) for n in range(2)]
    engine.handle_all(events, now=1)
    assert str(engine.explain(("run", 1), now=2).nodes["a"]) == (
        "the execution runs 1 functions, as many as it may"
    )
    assert str(engine.explain(1, now=2).nodes["a"]) == "this execution holds as much there as it may"


def test_threads_that_are_taken_are_told(make_engine):
    engine = make_engine(joined("a", cpu=9, threads=1))
    engine.handle_all([ready("f"), ready("g")], now=1)
    assert engine.explain("g", now=1).nodes["a"] == Obstacle(
        cause="thread", resource="threads", needed=1, capability=1, holders=("f",)
    )
    assert str(engine.explain("g", now=1).nodes["a"]) == "all 1 threads are taken"


def test_state_of_nodes(make_engine):
    engine = make_engine(joined("a", cpu=4, gpu=1, price=2, address="tcp://a"), joined("b"))
    engine.handle_all([ready("f", cpu=1.5), changed("b", accepting=False)], now=1)
    engine.handle(ClaimedElsewhere(claim="x", node="a", cost=Cost.parse({"cpu": 3}), threads=1), now=2)
    engine.handle(NodeLeft(node="b", returning=True), now=3)
    states = engine.nodes()
    assert states["a"] == NodeState(
        name="a",
        address="tcp://a",
        capabilities=Capabilities.parse({"cpu": 4, "gpu": 1, "price": 2}),
        used={"cpu": 4_500_000, "gpu": 0, "price": 0},
        free={"cpu": -500_000, "gpu": UNIT, "price": 2 * UNIT},
        threads=8,
        threads_used=2,
        placed=("f",),
        accepting=True,
        returning=False,
        price=2.0,
    )
    assert states["a"].available() == engine.available("tcp://a") == {"cpu": 0, "gpu": 1, "price": 2}
    assert (states["b"].accepting, states["b"].returning) == (False, True)
    assert engine.available("nowhere") == {}


def test_room_now(make_engine):
    engine = make_engine(joined("a", cpu=4, zone="eu", address="tcp://a"))
    engine.handle(ready("f", cpu=3), now=1)
    asked = [Cost.parse(c) for c in ({"cpu": 1}, {"cpu": 2}, {"zone": "eu"}, {"zone": "us"})]
    assert [engine.has_room("a", cost) for cost in asked] == [True, False, True, False]
    assert engine.has_room("tcp://a", Cost(), threads=7)
    assert not engine.has_room("a", Cost(), threads=8)
    assert not engine.has_room("nowhere", Cost())


def test_cause_of_one_function_in_a_word(make_engine):
    engine = make_engine(joined("a", cpu=1))
    engine.handle_all([ready("f", cpu=1), ready("g", cpu=1)], now=1)
    assert [engine.waiting_cause(f) for f in ("f", "g", "nobody")] == ["", "room", ""]


def test_what_others_hold_is_told_by_name_or_address(make_engine):
    engine = make_engine(joined("a", cpu=4, address="tcp://a"))
    assert [engine.claimed_elsewhere(name) for name in ("a", "b")] == [{}, {}]
    cost = demand(cpu=1, memory=0).cost
    engine.handle(ClaimedElsewhere(claim="x", node="a", cost=cost, threads=1), now=1)
    assert engine.claimed_elsewhere("tcp://a") == {"x": {"cpu": 1_000_000}}
