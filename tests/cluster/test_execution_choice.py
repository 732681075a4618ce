"""What of a DAG runs, in what order, and where: outputs, inputs, inline functions, priorities, pins."""

from __future__ import annotations

import gc
import operator

import pytest
from clusters import live, settled
from codes import everything, same
from distributed import Client
from distributed.utils_test import slowinc
from stage import until

import handoff_dask as handoff
from handoff_dask import Function

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


def dag_with_input():
    return [
        Function("x", [], None, type="input"),
        Function("half", ["x"], operator.floordiv, extra_args=[2], type="inline"),
        Function("f", ["x"], same),
        Function("g", ["half", "x", "f"], everything),
    ]


@live()
async def test_an_input_may_be_a_future(c, s, a, b):
    """Its result is data on the cluster: it does not pass through the client."""
    expected = {"f": 10, "g": ((5, 10, 10), {})}
    future = await c.scatter(10)
    async with handoff.Handoff(c) as session:
        assert (await session.execute(dag_with_input(), inputs={"x": future})).results == expected
        execution = await session.submit(dag_with_input(), inputs={"x": c.submit(slowinc, 9, delay=0.1)})
        assert (await execution).results == expected
        del execution
        async with Client(s.address, asynchronous=True) as other:
            lent = other.submit(slowinc, 9, delay=0.1)
            assert (await session.execute(dag_with_input(), inputs={"x": lent})).results == expected
            del lent
        await session.forget(session)
    await until(lambda: set(s.tasks) == {future.key})


def total(value):
    if isinstance(value, dict):
        return sum(map(total, value.values()))
    return sum(map(total, value)) if isinstance(value, (list, tuple)) else value


@live()
async def test_futures_inside_an_input_are_resolved(c, s, a, b):
    """As in Dask: in lists, tuples and values of dicts."""
    one, two = await c.scatter([1, 2])
    dag = [
        Function("x", [], None, type="input"),
        Function("sum", ["x"], total),
        Function("x as it is", ["x"], same),
    ]
    async with handoff.Handoff(c) as session:
        for given, expected in (
            ([one, (two, [one]), 3], [1, (2, [1]), 3]),
            ({"a": one, "b": [two, {"c": c.submit(slowinc, 6, delay=0.1)}]}, {"a": 1, "b": [2, {"c": 7}]}),
        ):
            found = (await session.execute(dag, inputs={"x": given})).results
            assert found == {"sum": total(expected), "x as it is": expected}
        failing = c.submit(operator.truediv, 1, 0)
        with pytest.raises(handoff.HandoffError, match="future given as input 'x'"):
            await session.execute(dag, inputs={"x": [one, failing]}, timeout=20)
        gone = c.submit(slowinc, 1, delay=0.1)
        await gone.cancel()
        with pytest.raises(handoff.ValidationError, match="future given as input 'x' has been cancelled"):
            await session.execute(dag, inputs={"x": {"of": gone}}, timeout=20)


def test_an_input_may_be_a_future_here_too():
    with Client(processes=False, dashboard_address=":0", n_workers=1, set_as_default=False) as client:
        ten = client.submit(operator.add, 4, 6)
        assert handoff.execute_local(dag_with_input(), inputs={"x": ten}).results["g"] == ((5, 10, 10), {})
        dag = [Function("x", [], None, type="input"), Function("same", ["x"], same)]
        assert handoff.execute_local(dag, inputs={"x": [ten, {"a": ten}]}).results == {
            "same": [10, {"a": 10}]
        }


@live()
async def test_an_input_that_comes_to_nothing_fails_the_dag(c, s, a, b):
    async with handoff.Handoff(c) as session:
        failing = c.submit(operator.truediv, 1, 0)
        with pytest.raises(handoff.HandoffError, match="future given as input 'x'") as raised:
            await session.execute(dag_with_input(), inputs={"x": failing}, timeout=20)
        assert isinstance(raised.value.__cause__, ZeroDivisionError)
        assert "division by zero" in str(raised.value)
        gone = c.submit(slowinc, 1, delay=0.1)
        await gone.cancel()
        with pytest.raises(handoff.ValidationError, match="future given as input 'x' has been cancelled"):
            await session.execute(dag_with_input(), inputs={"x": gone}, timeout=20)
    # The frames of what was raised hold an execution.
    del raised
    gc.collect()
    await until(lambda: not s.plugins["handoff"].runs.by_token)


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
