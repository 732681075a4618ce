"""Executions of DAGs on a cluster: what they are told, and what they tell."""

from __future__ import annotations

import asyncio
import enum
import functools
import operator
import pickle
import threading
import time
from dataclasses import dataclass

import dask
import pytest
from clusters import all_forgotten, live, nothing_claimed, settled
from dask.utils import key_split
from distributed import Future, wait
from distributed.utils_test import slowinc
from stage import until

import handoff_dask as handoff
from handoff_dask import Function


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Point:
    x: int
    y: int


def same(value=None):
    return value


def everything(*args, **kwargs):
    return args, kwargs


def answer(value):
    return f"The final answer is: {value}"


class Adder:
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        return x + self.n

    def method(self, x):
        return x * self.n

    @classmethod
    def make(cls, n):
        return cls(n).n

    @staticmethod
    def twice(x):
        return 2 * x


def pipeline(**cost):
    return (
        handoff.DAG("first")
        .add_function(Function("source", [], int, extra_args=[42], cost=cost))
        .add_function(Function("transform", ["source"], operator.mul, extra_args=[2], cost=cost))
        .add_function(Function("sink", ["transform"], answer, cost=cost))
    )


# ---------------------------------------------------------------------- the whole of a result


@live()
async def test_a_result_says_what_came_where_and_when(c, s, a, b):
    before = time.time()
    async with handoff.Handoff(c) as session:
        result = await session.execute(pipeline(cpu=1))
    after = time.time()

    assert result.dag_id == "first"
    assert result.results == {"source": 42, "transform": 84, "sink": "The final answer is: 84"}
    assert result.allocations == {"source": "0", "transform": "0", "sink": "0"}
    assert {i: t.attempts for i, t in result.timings.items()} == {"source": 1, "transform": 1, "sink": 1}
    times = [
        t for i in ("source", "transform", "sink") for t in (result.timings[i].start, result.timings[i].stop)
    ]
    assert [before, *times, after] == sorted([before, *times, after])


@live()
async def test_nothing_is_kept_of_a_run_that_nobody_holds(c, s, a, b):
    async with handoff.Handoff(c) as session:
        for _ in range(3):
            await session.execute(pipeline(cpu=1))
        await session.forget("first")
    del session
    await all_forgotten(s)
    await until(lambda: not s.tasks)


@live()
async def test_an_impossible_cost_is_refused_before_anything_runs(c, s, a, b, stage):
    dag = [stage.quick("possible"), stage.quick("impossible", cost={"gpu": 1, "cpu": 1})]
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.AllocationError) as caught:
            await session.submit(dag)
    error = caught.value
    assert (error.function_id, error.cost) == ("impossible", {"gpu": 1, "cpu": 1})
    assert set(error.reasons) == {"0", "1"}
    assert all("gpu" in reason for reason in error.reasons.values())
    assert "gpu" in str(error)
    assert stage.story == []
    assert not s.tasks


@live()
async def test_statuses_and_futures(c, s, a, b, stage):
    dag = handoff.DAG(("any", "hashable"))
    dag.add_function(stage.function("a", value=1)).add_function(stage.function("b", ["a"], value=2))
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        assert execution.dag_id == ("any", "hashable")
        assert execution.status in ("pending", "running")
        assert set(execution.futures) == {"a", "b"}
        assert all(isinstance(f, Future) for f in execution.futures.values())
        await stage.sees("a")
        await until(lambda: execution.status == "running")
        stage.cue("a")
        assert await execution.futures["a"] == 1
        assert await execution.get_result("a") == 1
        with pytest.raises(TimeoutError):
            await execution.get_result("b", timeout=0.05)
        with pytest.raises(TimeoutError):
            await execution.result(timeout=0.05)
        assert execution.status == "running"
        stage.cue("b")
        result = await execution
        assert execution.status == "finished"
        assert result.results == {"a": 1, "b": 2}
        assert await execution.result() == result or (await execution.result()).results == result.results
        assert await session.await_completion(execution) == {"a": 1, "b": 2}
        assert await session.await_completion(result) == {"a": 1, "b": 2}
        assert await session.get_result(execution, "b") == 2
        assert await session.get_result(result, "b") == 2
        assert await session.get_result(dag.id, "b") == 2
        with pytest.raises(handoff.NotFoundError):
            await execution.get_result("c")


@live()
async def test_a_dag_that_waits_for_room_is_pending_until_it_starts(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        first = await session.submit([stage.function("first", cost={"cpu": 2})])
        await stage.sees("first")
        second = await session.submit([stage.quick("second", cost={"cpu": 2})])
        await settled(s, room=1)
        assert second.status == "pending"
        stage.cue("first")
        await second
        await first
        assert (first.status, second.status) == ("finished", "finished")
        assert stage.started == ["first", "second"]


@live()
async def test_pairs_come_as_they_complete(c, s, a, b, stage):
    names = ["a", "b", "c"]
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function(n, value=n.upper()) for n in names])
        await stage.sees(*names)
        came = []
        stage.cue("b")
        async for pair in execution.as_completed():
            came.append(pair)
            stage.cue({"b": "c", "c": "a", "a": "a"}[pair[0]])
    assert came == [("b", "B"), ("c", "C"), ("a", "A")]


@live()
async def test_as_completed_raises_what_the_dag_fails_with(c, s, a, b, stage):
    dag = [stage.function("good"), stage.function("bad", value=ValueError("no"), max_retries=0)]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        came = []
        stage.cue("good")

        async def consume():
            async for pair in execution.as_completed():
                came.append(pair)
                stage.cue("bad")

        with pytest.raises(handoff.FunctionFailedError) as caught:
            await consume()
    assert came == [("good", "good")]
    assert caught.value.function_id == "bad"


@live()
async def test_executing_again_runs_again(c, s, a, b, stage):
    dag = handoff.DAG("again").add_function(stage.quick("a"))
    async with handoff.Handoff(c) as session:
        one = await session.submit(dag)
        two = await session.submit(dag)
        await one
        await two
        await session.execute(dag)
    assert stage.started == ["a", "a", "a"]


@live()
async def test_an_empty_dag_and_a_single_function(c, s, a, b):
    async with handoff.Handoff(c) as session:
        empty = await session.execute(handoff.DAG("empty"))
        assert (empty.dag_id, empty.results, empty.allocations, empty.timings) == ("empty", {}, {}, {})
        execution = await session.submit([])
        assert execution.status == "finished"
        assert [p async for p in execution.as_completed()] == []
        assert (await session.execute([Function(None, [], same, extra_args=[7])])).results == {None: 7}


def chain(first, length):
    dag = handoff.DAG("chain").add_function(first)
    for n in range(1, length):
        dag.add_function(Function(n, [n - 1], operator.add, extra_args=[1], cost={"cpu": 1}))
    return dag


@live()
async def test_a_long_chain_runs(c, s, a, b):
    dag = chain(Function(0, [], int, cost={"cpu": 1}), 500)
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, outputs=[499])
    assert result.results == {499: 499}
    assert len(result.timings) == 500


@live()
async def test_a_chain_of_two_thousand_is_given_up_at_once(c, s, a, b, stage):
    dag = chain(stage.function(0, value=ValueError("no"), max_retries=0), 2000)
    async with handoff.Handoff(c) as session:
        cancelled, failed, dropped = [await session.submit(dag) for _ in range(3)]
        await stage.sees(0)
        await cancelled.cancel()
        await session.forget("nothing")
        stage.cue(0)
        with pytest.raises(handoff.FunctionFailedError):
            await failed
        with pytest.raises(handoff.HandoffError):
            await dropped
        assert (cancelled.status, failed.status, dropped.status) == ("cancelled", "failed", "failed")
        await session.forget("chain")
        del cancelled, failed, dropped
    await nothing_claimed(s)


# ---------------------------------------------------------------------- ids and values


@live()
async def test_ids_may_be_anything_hashable(c, s, a, b):
    ids = [
        "text",
        1,
        2.5,
        ("a", 1),
        frozenset({1, 2}),
        None,
        Colour.RED,
        Colour.BLUE,
        Point(1, 2),
        b"bytes",
        ("text",),
        True and "True",
        ("collocated", "x"),
        int,
    ]
    dag = handoff.DAG(Colour.RED)
    for n, i in enumerate(ids):
        dag.add_function(Function(i, ids[max(0, n - 1) : n], everything, extra_args=[n]))
    dag.add_function(Function("all", ids, everything))
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag)
        assert await session.get_result(Colour.RED, Point(1, 2)) == result.results[Point(1, 2)]
    assert result.dag_id is Colour.RED
    assert list(result.results) == [*ids, "all"]
    expected = {}
    for n, i in enumerate(ids):
        expected[i] = ((*([expected[ids[n - 1]]] if n else []), n), {})
    expected["all"] = (tuple(expected[i] for i in ids), {})
    assert result.results == expected
    assert set(result.allocations) == {*ids, "all"}


@live()
async def test_plain_values_stay_what_they_are(c, s, a, b):
    lazy = dask.delayed(operator.add)(1, 2)
    future = c.submit(same, 5)
    values = [
        (operator.add, 1, 2),
        "other",
        ("other",),
        ["other", {"other": "other"}],
        lazy,
        {"a": (same, "other")},
        None,
        object,
    ]
    dag = handoff.DAG()
    dag.add_function(Function("other", [], same, extra_args=["value of other"]))
    dag.add_function(
        Function("keep", ["other"], everything, extra_args=values, kwargs={"key": "other", "lazy": lazy})
    )
    compiled = handoff.compile(dag)
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag)
        args, kwargs = result.results["keep"]
        again = handoff.DAG().add_function(
            Function("key", [], everything, extra_args=[compiled.keys["other"], *compiled.keys.values()])
        )
        keys = (await session.execute(again)).results["key"]
    assert args[0] == "value of other"
    assert args[5].key == lazy.key
    assert type(args[5]) is type(lazy)
    assert [*args[1:5], *args[6:]] == [*values[:4], *values[5:]]
    assert kwargs["key"] == "other"
    assert kwargs["lazy"].key == lazy.key
    assert keys == ((compiled.keys["other"], *compiled.keys.values()), {})
    del future


@live()
async def test_a_future_among_the_values_stays_a_future(c, s, a, b):
    future = c.submit(same, 5)
    await wait(future)
    dag = [Function("use", [], lambda f: (type(f).__name__, f.key), extra_args=[future])]
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag)
    assert result.results["use"] == ("Future", future.key)


@live()
async def test_every_kind_of_code_runs(c, s, a, b):
    five = Adder(5)
    codes = {
        "importable": ("operator:neg", -3),
        "qualified": ("pathlib:PurePath.as_posix", None),
        "partial": (functools.partial(operator.sub, 10), 7),
        "lambda": (lambda x: x**2, 9),
        "object": (five, 8),
        "method": (five.method, 15),
        "classmethod": (Adder.make, 3),
        "staticmethod": (Adder.twice, 6),
        "builtin": (abs, 3),
        "type": (float, 3.0),
    }
    dag = handoff.DAG()
    for name, (code, value) in codes.items():
        if value is not None:
            dag.add_function(Function(name, ["x"], code))
    dag.add_function(Function("x", [], same, extra_args=[3]))
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag)
    assert result.results == {"x": 3, **{n: v for n, (_, v) in codes.items() if v is not None}}


async def later(x):
    await asyncio.sleep(0)
    return x + 1


@live()
async def test_a_coroutine_function_is_run_to_its_end(c, s, a, b):
    async with handoff.Handoff(c) as session:
        result = await session.execute([Function("f", [], later, extra_args=[1])])
    assert result.results == {"f": 2}


@live()
async def test_calls(c, s, a, b):
    dag = handoff.DAG()
    for n, name in enumerate("xyz"):
        dag.add_function(Function(name, [], same, extra_args=[n]))
    dag.add_function(Function("plain", ["x", "y"], everything, extra_args=[9], kwargs={"k": "x"}))
    dag.add_function(
        Function(
            "list", ["y", "z", "y"], everything, argument_inclusion="as_list", extra_args=[9], kwargs={"k": 1}
        )
    )
    dag.add_function(Function("empty", [], everything, argument_inclusion="as_list"))
    dag.add_function(Function("twice", ["z", "z"], everything))
    async with handoff.Handoff(c) as session:
        results = (await session.execute(dag)).results
    assert results == {
        "x": 0,
        "y": 1,
        "z": 2,
        "plain": ((0, 1, 9), {"k": "x"}),
        "list": (([1, 2, 1], 9), {"k": 1}),
        "empty": (([],), {}),
        "twice": ((2, 2), {}),
    }


@live()
async def test_what_cannot_be_pickled_is_refused_by_name(c, s, a, b, stage):
    dag = [stage.quick("good"), Function("bad", ["good"], same, extra_args=[threading.Lock()])]
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.InvalidFunctionError) as caught:
            await session.execute(dag)
        assert caught.value.function_id == "bad"
        assert "pickle" in str(caught.value)
        await all_forgotten(s)
        assert stage.story == []
        assert (await session.execute(dag[:1])).results == {"good": "good"}


class Bomb:
    def __reduce__(self):
        return explode, ()


def explode():
    raise ImportError("not installed here")


@live()
async def test_a_graph_that_the_scheduler_cannot_read_fails(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.quick("a"), Function("b", ["a"], same, extra_args=[Bomb()])])
        with pytest.raises(handoff.HandoffError, match="could not take the graph"):
            await execution
        assert execution.status == "failed"
        assert stage.story == []
        await all_forgotten(s)
        assert (await session.execute([stage.quick("a")])).results == {"a": "a"}


@live()
async def test_a_dag_that_is_cancelled_before_it_has_arrived_does_not_run(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.quick(str(n)) for n in range(500)])
        await execution.cancel()
        assert execution.status == "cancelled"
        at_once = await session.submit([stage.quick("a")], timeout=0)
        with pytest.raises(TimeoutError):
            await at_once
        await nothing_claimed(s)
        del execution, at_once
    await all_forgotten(s)
    await until(lambda: not s.tasks)


@live(1, 1)
async def test_futures_are_dasks(c, s, a, b, stage):
    """Plain tasks may take them, before they are there; a result can be pickled."""
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function("a", value=3)])
        plain = c.submit(operator.add, execution.futures["a"], 1)
        stage.cue("a")
        assert await plain == 4
        result = await execution
    again = pickle.loads(pickle.dumps(result))
    assert (again.results, again.allocations, again.timings) == (
        result.results,
        result.allocations,
        result.timings,
    )


# ---------------------------------------------------------------------- outputs, inputs, inline


@live()
async def test_only_what_the_outputs_need_runs(c, s, a, b, stage):
    dag = handoff.DAG("some")
    dag.add_function(stage.quick("a")).add_function(stage.quick("b", ["a"]))
    dag.add_function(stage.quick("c", ["b"])).add_function(stage.quick("d", ["a"], cost={"gpu": 1}))
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag, outputs=["c"])
        assert set(execution.futures) == {"c"}
        result = await execution
        # What nothing needs is freed.
        await until(
            lambda: [ts.key for ts in s.tasks.values() if ts.who_has] == [execution.compiled.keys["c"]]
        )
        with pytest.raises(handoff.NotFoundError):
            await execution.get_result("a")
        with pytest.raises(handoff.ValidationError, match="nothere"):
            await session.submit(dag, outputs=["nothere"])
    assert result.results == {"c": "c"}
    assert set(result.allocations) == set(result.timings) == {"a", "b", "c"}
    assert stage.started == ["a", "b", "c"]


@live()
async def test_results_are_freed_as_soon_as_nothing_needs_them(c, s, a, b, stage):
    dag = [stage.quick("a"), stage.quick("b", ["a"]), stage.function("c", ["b"])]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag, outputs=["c"])
        await stage.sees("c")
        held = {ts.key for ts in s.tasks.values() if ts.who_has}
        assert held == {execution.compiled.keys["b"]}
        stage.cue("c")
        await execution


@live()
async def test_inputs_are_given_at_execution(c, s, a, b):
    dag = handoff.DAG()
    dag.add_function(Function("x", [], None, type="input"))
    dag.add_function(Function("y", [], None, type="input"))
    dag.add_function(Function("sum", ["x", "y"], operator.add, cost={"cpu": 1}))
    dag.add_function(Function("both", ["x", "sum"], everything))
    big = b"x" * 50_000
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, inputs={"x": 1, "y": 2})
        large = await session.execute(dag, inputs={"x": big, "y": b"y"})
        with pytest.raises(handoff.ValidationError, match="'y'"):
            await session.execute(dag, inputs={"x": 1})
        with pytest.raises(handoff.ValidationError, match="sum"):
            await session.execute(dag, inputs={"x": 1, "y": 2, "sum": 3})
        with pytest.raises(handoff.ValidationError, match="zzz"):
            await session.execute(dag, inputs={"x": 1, "y": 2, "zzz": 3})
    assert result.results == {"sum": 3, "both": ((1, 3), {})}
    assert set(result.allocations) == set(result.timings) == {"sum", "both"}
    assert large.results == {"sum": big + b"y", "both": ((big, big + b"y"), {})}


@live()
async def test_inline_functions_run_inside_their_dependents(c, s, a, b, stage):
    dag = handoff.DAG()
    dag.add_function(Function("x", [], None, type="input"))
    dag.add_function(stage.quick("inner", ["x"], value=2, type="inline"))
    dag.add_function(stage.quick("outer", ["inner", "a"], value=3, type="inline"))
    dag.add_function(Function("a", ["inner"], same, cost={"cpu": 1}))
    dag.add_function(Function("b", ["outer", "inner", "outer"], everything, cost={"cpu": 1}))
    dag.add_function(Function("c", ["outer"], same))
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, inputs={"x": 1})
        assert result.results == {"a": 2, "b": ((3, 2, 3), {}), "c": 3}
        assert set(result.allocations) == set(result.timings) == {"a", "b", "c"}
        assert stage.started.count("inner") == 3
        assert stage.started.count("outer") == 2
        with pytest.raises(handoff.ValidationError, match="inner"):
            await session.execute(dag, inputs={"x": 1}, outputs=["inner"])


# ---------------------------------------------------------------------- order and confinement


@live(1)
async def test_priority_comes_first(c, s, a, stage):
    dag = [stage.function("gate", priority=9, cost={"cpu": 1})]
    dag += [stage.quick(n, priority=p, cost={"cpu": 1}) for n, p in (("low", -1), ("mid", 0), ("high", 2.5))]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await stage.sees("gate")
        await settled(s, room=3)
        stage.cue("gate")
        await execution
    assert stage.started == ["gate", "high", "mid", "low"]


@live(1)
async def test_the_longest_remaining_path_comes_first(c, s, a, stage):
    dag = [
        stage.function("gate", priority=9, cost={"cpu": 1}),
        stage.quick("short", cost={"cpu": 1}, duration=10),
        stage.quick("long 1", cost={"cpu": 1}, duration=10),
        stage.quick("long 2", ["long 1"], cost={"cpu": 1}, duration=11),
        stage.quick("longest", cost={"cpu": 1}, duration=60),
        stage.quick("shortest", cost={"cpu": 1}, duration=5),
    ]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await stage.sees("gate")
        await settled(s, room=4)
        stage.cue("gate")
        await execution
    assert stage.started == ["gate", "longest", "long 1", "long 2", "short", "shortest"]


@live(1)
async def test_equals_run_in_the_order_in_which_they_were_added(c, s, a, stage):
    names = [f"f{n}" for n in (3, 1, 11, 2, 0)]
    async with handoff.Handoff(c) as session:
        await session.execute([stage.quick(n, cost={"cpu": 1}) for n in names])
        assert stage.started == names
        dag = [stage.quick("first"), *[stage.quick(f"{n} again", ["first"], cost={"cpu": 1}) for n in names]]
        await session.execute(dag)
    assert stage.started == [*names, "first", *[f"{n} again" for n in names]]


@live(4, 4)
async def test_max_concurrency_bounds_what_runs_at_once(c, s, a, b, stage):
    names = [f"f{n}" for n in range(6)]
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function(n) for n in names], max_concurrency=2)
        for done, waiting in enumerate((4, 3, 2, 1)):
            await settled(s, max_concurrency=waiting)
            await stage.counts(done + 2)
            stage.cue(stage.started[done])
        stage.cue(*names)
        await execution


@live(4, 4, 4)
async def test_resources_confine_an_execution(c, s, w0, w1, w2, stage):
    confined = [{"node": "1", "capabilities": {"cpu": 1}}, {"node": w2.address, "capabilities": {"cpu": 99}}]
    names = [f"f{n}" for n in range(8)]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(
            [stage.function(n, cost={"cpu": 1}) for n in names], resources=confined
        )
        await settled(s, confined=3)
        await stage.counts(5)
        assert sorted(stage.nodes().values()) == ["1", "2", "2", "2", "2"]
        stage.cue(*names)
        assert set((await execution).allocations.values()) == {"1", "2"}
        with pytest.raises(handoff.AllocationError):
            await session.execute([stage.quick("big", cost={"cpu": 2})], resources=confined[:1])
        with pytest.raises((handoff.AllocationError, handoff.NotFoundError)):
            await session.execute([stage.quick("big")], resources=[{"node": "nowhere", "capabilities": {}}])


@live(2, 2)
async def test_pins_by_name_and_by_address(c, s, a, b):
    dag = [
        Function("name", [], same, node="1"),
        Function("address", [], same, node=b.address),
        Function("number", [], same, node=1),
        Function("follows", [], same, node=handoff.Collocated("name")),
        Function("chain", [], same, node=("collocated", "follows")),
        Function("free", [], same),
    ]
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag)
        with pytest.raises(handoff.AllocationError) as caught:
            await session.execute([Function("lost", [], same, node="nowhere")])
    assert result.allocations == {
        "name": "1",
        "address": "1",
        "number": "1",
        "follows": "1",
        "chain": "1",
        "free": "0",
    }
    assert caught.value.function_id == "lost"
    assert "nowhere" in str(caught.value)


# ---------------------------------------------------------------------- timeouts and refusals


@live()
async def test_after_the_timeout_the_dag_is_cancelled(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        dag = handoff.DAG("slow").add_function(stage.function("a", cost={"cpu": 1}))
        dag.add_function(stage.function("b", ["a"], cost={"cpu": 1}))
        with pytest.raises(TimeoutError, match="slow"):
            await session.execute(dag, timeout=0.1)
        execution = await session.submit(dag, timeout=0.1)
        with pytest.raises(TimeoutError, match="slow"):
            await execution.result()
        assert execution.status == "cancelled"
        stage.cue("a")
        await nothing_claimed(s)
        assert set(stage.started) == {"a"}


@pytest.mark.parametrize(
    "options",
    [
        {"allocation_strategy": "best"},
        {"allocation_strategy": 3},
        {"allocation_strategy": "fastest", "allocator": "fastest"},
        {"max_retries": -1},
        {"max_retries": True},
        {"max_concurrency": 0},
        {"timeout": "soon"},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"resources": {"node": "0"}},
        {"resources": [{"node": "0", "capability": {}}]},
        {"resources": [{"node": "0", "capabilities": {"cpu": -1}}]},
        {"outputs": "a"},
        {"outputs": ["nothere"]},
        {"inputs": {"a": 1}},
        {"inputs": [1]},
        {"priority": 3},
    ],
)
@live(1)
async def test_bad_options_are_refused_before_anything_runs(c, s, a, stage, options):
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.ValidationError):
            session.submit([stage.quick("a")], **options)
        with pytest.raises(handoff.ValidationError):
            await session.execute([stage.quick("a")], **options)
    assert stage.story == []


# ---------------------------------------------------------------------- compile and collections


def test_compile_gives_what_is_sent():
    dag = handoff.DAG()
    dag.add_function(
        Function("a", [], slowinc, extra_args=[1], cost={"cpu": 2, "memory": "1 GB", "zone": "eu"})
    )
    dag.add_function(Function(("b", 1), ["a"], lambda x: x))
    dag.add_function(Function("c", ["a"], Adder(1), cost={"cpu": 0.5}))
    compiled = handoff.compile(dag)

    assert set(compiled.keys) == {"a", ("b", 1), "c"}
    assert set(compiled.graph) == set(compiled.keys.values())
    assert set(compiled.annotations) == set(compiled.keys.values())
    assert compiled.annotations[compiled.keys["a"]]["resources"] == {"cpu": 2, "memory": 1000}
    assert compiled.annotations[compiled.keys["c"]]["resources"] == {"cpu": 0.5}
    assert key_split(compiled.keys["a"]) == "slowinc"
    assert key_split(compiled.keys["c"]) == "Adder"
    assert handoff.compile(dag).keys != compiled.keys


def test_what_is_sent_is_a_dask_graph():
    compiled = handoff.compile(pipeline(cpu=1))
    keys = [compiled.keys["sink"], compiled.keys["source"]]
    assert list(dask.get(compiled.graph, keys)) == ["The final answer is: 84", 42]


def test_a_dag_computes_on_threads():
    assert dask.compute(pipeline(cpu=64)) == (
        {"source": 42, "transform": 84, "sink": "The final answer is: 84"},
    )
    assert pipeline().compute()["transform"] == 84
    with dask.config.set(scheduler="synchronous"):
        assert pipeline().compute()["transform"] == 84


def test_results_of_mixed_collections_stay_in_their_order():
    lazy, other = dask.delayed(operator.add)(1, 2), dask.delayed(operator.mul)(3, 4)
    expected = pipeline().compute()
    assert dask.compute(pipeline(), lazy, pipeline()) == (expected, 3, expected)
    assert dask.compute(lazy, {"a": [pipeline(cpu=2)]}, other) == (3, {"a": [expected]}, 12)


def test_a_dag_is_drawn_by_dask(tmp_path):
    pipeline().visualize(filename=str(tmp_path / "dag.svg"))
    assert "<svg" in (tmp_path / "dag.svg").read_text()
    dask.visualize(pipeline(), filename=str(tmp_path / "again.svg"))
    assert "<svg" in (tmp_path / "again.svg").read_text()


def test_a_dag_with_inputs_says_how_to_give_them():
    dag = handoff.DAG().add_function(Function("x", [], None, type="input"))
    dag.add_function(Function("y", ["x"], same))
    with pytest.raises(handoff.ValidationError, match="inputs"):
        dag.compute()


@live(2, 2)
async def test_costs_hold_through_client_compute(c, s, a, b, stage):
    names = [f"f{n}" for n in range(4)]
    dag = handoff.DAG()
    for name in names:
        dag.add_function(stage.function(name, cost={"cpu": 2}))
    async with handoff.Handoff(c):
        future = c.compute(dag)
        await settled(s, room=2)
        await stage.counts(2)
        assert sorted(stage.nodes().values()) == ["0", "1"]
        stage.cue(*names)
        assert await future == {n: n for n in names}
        one, two = c.compute([dag, dask.delayed(same)(3)])
        assert (await one, await two) == ({n: n for n in names}, 3)


@live(2, 2)
async def test_a_dag_persists(c, s, a, b):
    async with handoff.Handoff(c):
        kept = c.persist(pipeline(cpu=1))
        results = await asyncio.gather(*c.compute(list(kept.values()))) if isinstance(kept, dict) else None
        assert results == [42, 84, "The final answer is: 84"]


@live(2, 2)
async def test_an_impossible_collection_fails_and_does_not_hang(c, s, a, b):
    async with handoff.Handoff(c):
        with pytest.raises(handoff.AllocationError, match="gpu"):
            await c.compute(pipeline(gpu=1))
