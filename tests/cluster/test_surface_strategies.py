"""Users' own strategies on a cluster: asked on the scheduler, and fenced in."""

from __future__ import annotations

import itertools
import logging
import operator
import sys
import time

import dask
import pytest
from clusters import live
from codes import plus

import handoff_dask as handoff
from handoff_dask.testing import capture_telemetry

#: Two nodes, ``"0"`` and ``"1"``, of four cores each.
cluster = live(4, 4)


def dag_of(count=4, **fields):
    dag = handoff.DAG("fan")
    for i in range(count):
        dag.add_function(handoff.Function(i, [], operator.neg, extra_args=[i], **fields))
    return dag


def to_second(function, nodes):
    return "1"


class ToLast:
    """Takes the last node that has room."""

    def select(self, function, nodes):
        return nodes[-1].name


class MyCustomAllocator:
    """Even ids to node 0, odd ones to node 1; leaves out what is above 3."""

    def allocate(self, functions, capabilities):
        assert sorted(capabilities) == ["0", "1"]
        assert capabilities["0"]["cpu"] == 4
        return {f.id: str(f.id % 2) for f in functions if f.id <= 3}


@pytest.mark.parametrize("option", ["allocation_strategy", "allocator"])
@pytest.mark.parametrize("own", [to_second, ToLast, ToLast(), lambda function, nodes: nodes[-1].name])
def test_a_strategy_chooses_the_node(option, own):
    @cluster
    async def run(c, s, a, b):
        async with handoff.Handoff(c) as session:
            result = await session.execute(dag_of(), **{option: own})
        assert result.results == {i: -i for i in range(4)}
        assert result.allocations == dict.fromkeys(range(4), "1")

    run()


@pytest.mark.parametrize("own", [MyCustomAllocator, MyCustomAllocator()])
@cluster
async def test_an_allocator_is_asked_once_for_the_whole_dag(c, s, a, b, own):
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag_of(6, cost={"cpu": 2}), allocator=own)
    given = {i: node for i, node in result.allocations.items() if i <= 3}
    assert given == {0: "0", 1: "1", 2: "0", 3: "1"}
    assert result.record.strategy == "MyCustomAllocator"


@cluster
async def test_an_allocator_may_use_the_simple_one(c, s, a, b):
    class Spread:
        def allocate(self, functions, capabilities):
            return handoff.SimpleAllocator("load_balanced").allocate(functions, capabilities)

    dag = dag_of(4, cost={"cpu": 1})
    dag.add_function(handoff.Function("beside", [], int, node=handoff.Collocated(3)))
    dag.add_function(handoff.Function("sum", [0, 1, handoff.Argument(2, (plus, 1))], lambda *x: sum(x)))
    async with handoff.Handoff(c, allocator=handoff.SimpleAllocator("load_balanced")) as session:
        by_class = await session.execute(dag, allocator=Spread)
        by_default = await session.execute(dag)
        part = await session.execute(dag, allocator=Spread, outputs=["beside"])
    expected = {0: "0", 1: "1", 2: "0", 3: "1", "beside": "1"}
    assert {i: by_class.allocations[i] for i in expected} == expected
    assert {i: by_default.allocations[i] for i in expected} == expected
    assert by_class.results["sum"] == by_default.results["sum"] == -2
    assert part.results == {"beside": 0}


@cluster
async def test_what_a_strategy_is_shown(c, s, a, b):
    def describe(function, nodes):
        node = nodes[0]
        ToSay.said.append(
            (
                (
                    function.id,
                    function.name,
                    function.cost,
                    function.priority,
                    function.duration,
                    function.type,
                ),
                (function.args, function.node),
                (node.name, node.capabilities["price"], node.price, node.available["cpu"], node.running),
            )
        )
        return node.name

    dag = handoff.DAG().add_function(
        handoff.Function(("a", 1), [], int, cost={"cpu": 3}, priority=2, duration=30)
    )
    dag.add_function(handoff.Function("b", [("a", 1)], abs, node="0"))
    ToSay.said = []
    async with handoff.Handoff(c) as session:
        await session.register_node("0", {"price": 0.5})
        await session.execute(dag, allocation_strategy=describe)
    assert ToSay.said == [
        ((("a", 1), "int", {"cpu": 3}, 2, 30, "regular"), ((), None), ("0", 0.5, 0.5, 4, 0)),
        (("b", "abs", None, 0, None, "regular"), ((("a", 1),), "0"), ("0", 0.5, 0.5, 4, 0)),
    ]


class ToSay:
    said: list = []


def raises(function, nodes):
    raise KeyError("price list")


def leaves(function, nodes):
    sys.exit("enough")


def waits(function, nodes):
    time.sleep(1)


def too_few_parameters(function):
    return "0"


class Nonsense:
    def allocate(self, functions, capabilities):
        return ["0"]


class UnknownId:
    def allocate(self, functions, capabilities):
        return {"who": "0"}


class UnknownNode:
    def allocate(self, functions, capabilities):
        return {0: "nowhere"}


class Tiny:
    def allocate(self, functions, capabilities):
        return {f.id: "1" for f in functions}


class Unreadable:
    def __reduce__(self):
        return operator.truediv, (1, 0)

    def select(self, function, nodes):
        return None


WRONG = {
    "raises": (raises, r"strategy 'raises' raised KeyError: 'price list' \(raises, line \d+\)"),
    "leaves": (leaves, "strategy 'leaves' raised SystemExit: enough"),
    "waits": (waits, "strategy 'waits' did not answer within 0.2 s"),
    "parameters": (too_few_parameters, "raised TypeError"),
    "no name": (lambda function, nodes: nodes[0], "give the name of a node, or None"),
    "unknown node": (lambda function, nodes: "nowhere", "chose 'nowhere', which could never hold it"),
    "never": (lambda function, nodes: None, "wants no node for it, and nothing runs"),
    "small node": (to_second, "chose '1', which could never hold it"),
    "no mapping": (Nonsense, "give a mapping from id to node name"),
    "unknown id": (UnknownId, "gives a node to 'who', which is not in the DAG"),
    "allocates unknown": (UnknownNode, "puts [01] on 'nowhere', which is not a node"),
    "allocates small": (Tiny, "gave it to '1', which could never hold it"),
    "unreadable": (Unreadable(), "cannot be used on the scheduler: ZeroDivisionError"),
}


@pytest.mark.parametrize("wrong", WRONG)
@cluster
async def test_a_wrong_strategy_fails_its_own_dag_alone(c, s, a, b, wrong):
    own, message = WRONG[wrong]
    with dask.config.set({"handoff.answer-timeout": 0.2 if wrong == "waits" else 5}):
        async with handoff.Handoff(c) as session:
            await session.register_node("1", {"cpu": 1})
            beside = await session.submit(dag_of(8, cost={"cpu": 1}))
            if wrong == "never":
                await beside
            with pytest.raises(handoff.AllocationError, match=message) as caught:
                await session.execute(dag_of(2, cost={"cpu": 2}), allocation_strategy=own)
            assert caught.value.function_id in (0, 1)
            assert caught.value.cost == {"cpu": 2}
            assert (await beside).results == {i: -i for i in range(8)}
            assert (await session.execute(dag_of(2), allocation_strategy="fastest")).results == {0: 0, 1: -1}
    engine = s.plugins["handoff"].driver.engine
    engine.check()
    assert engine.placed == engine.waiting == 0


@cluster
async def test_who_wants_no_node_is_asked_again_when_something_ends(c, s, a, b):
    """One at a time: the strategy wants a node only while nothing runs there."""

    def one_at_a_time(function, nodes):
        return "0" if any(n.name == "0" and not n.running for n in nodes) else None

    async with handoff.Handoff(c) as session:
        result = await session.execute(dag_of(5), allocation_strategy=one_at_a_time)
    assert result.allocations == dict.fromkeys(range(5), "0")
    times = sorted(result.timings.values(), key=lambda t: t.start)
    assert all(one.stop <= other.start for one, other in itertools.pairwise(times))


@cluster
async def test_a_full_node_that_a_strategy_names_is_waited_for(c, s, a, b):
    async with handoff.Handoff(c) as session:
        one = await session.execute(dag_of(4, cost={"cpu": 4}), allocation_strategy=to_second)
        other = await session.execute(dag_of(4, cost={"cpu": 4}), allocator=Tiny)
    assert one.allocations == other.allocations == dict.fromkeys(range(4), "1")


@cluster
async def test_an_allocator_sees_what_the_execution_may_use(c, s, a, b):
    class Look:
        def allocate(self, functions, capabilities):
            ToSay.said = capabilities
            return {}

    async with handoff.Handoff(c) as session:
        resources = [{"node": "1", "capabilities": {"cpu": 2}}]
        await session.execute(dag_of(2), allocator=Look(), resources=resources)
    assert {name: offer["cpu"] for name, offer in ToSay.said.items()} == {"1": 2}


@cluster
async def test_a_slow_strategy_is_named_in_the_log(c, s, a, b, caplog):
    def slow(function, nodes):
        time.sleep(0.12)
        return nodes[0].name

    with caplog.at_level(logging.WARNING, "handoff_dask.scheduler.user_code"):
        async with handoff.Handoff(c) as session:
            await session.execute(dag_of(3), allocation_strategy=slow)
    said = [r.getMessage() for r in caplog.records if "took" in r.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("strategy 'slow' took 0.1")


@cluster
async def test_telemetry_names_the_strategy(c, s, a, b):
    with capture_telemetry(("handoff",)) as captured:
        async with handoff.Handoff(c) as session:
            await session.execute(dag_of(1), allocation_strategy=ToLast())
            await session.execute(dag_of(1), allocation_strategy=to_second)
    names = [e.metadata["strategy"] for e in captured.of(("handoff", "allocation", "function"))]
    assert names == ["ToLast", "to_second"]


@cluster
async def test_what_is_no_strategy_is_refused(c, s, a, b):
    class NeedsMore:
        def __init__(self, more):
            self.more = more

        def select(self, function, nodes):
            return None

    class Locked:
        def __init__(self):
            self.lock = sys.stdout.fileno and (i for i in ())

        def select(self, function, nodes):
            return None

    async with handoff.Handoff(c) as session:
        for wrong in ("best", 3, NeedsMore, Locked()):
            with pytest.raises(handoff.ValidationError, match="strategy"):
                session.submit(dag_of(1), allocation_strategy=wrong)
        with pytest.raises(handoff.ValidationError, match="both"):
            session.submit(dag_of(1), allocation_strategy="fastest", allocator=ToLast)
    with pytest.raises(handoff.ValidationError, match="best"):
        handoff.Handoff(c, allocator="best")
