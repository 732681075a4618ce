"""Ids, plain values and codes of every kind, on a cluster."""

from __future__ import annotations

import asyncio
import functools
import operator
import pickle
import threading

import dask
import pytest
from clusters import all_forgotten, live, nothing_claimed
from codes import Adder, Colour, Point, everything, same
from distributed import wait
from distributed.utils_test import slowinc
from stage import until

import handoff_dask as handoff
from handoff_dask import Function


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


@pytest.mark.parametrize("fields", ["extra_args", "kwargs", "nested"])
@live()
async def test_a_future_among_the_values_gives_its_result_where_it_is_asked(c, s, a, b, fields):
    """Large data is scattered once, and need not travel with each function."""
    async with handoff.Handoff(c) as session:

        async def result_of(future):
            given = {
                "extra_args": {"code": fetched, "extra_args": [future]},
                "kwargs": {"code": fetched, "kwargs": {"future": future}},
                "nested": {"code": fetched_inside, "extra_args": [[1, {"in": (future,)}]]},
            }[fields]
            execution = await session.submit([Function("use", [], **given)])
            del given, future
            return (await execution).results["use"]

        assert await result_of(await c.scatter("data")) == "data"
        assert await result_of(c.submit(slowinc, 1, delay=0.05)) == 2
        future = c.submit(slowinc, 2, delay=0.05)
        assert await result_of(future) == 3
        del future


def fetched(future):
    return future.result()


def fetched_inside(values):
    return values[1]["in"][0].result()


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
    dag = [stage.quick("good"), Function("bad", ["good"], everything, extra_args=[threading.Lock()])]
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
async def test_a_value_that_cannot_be_loaded_fails_its_function_by_module_and_node(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        bomb = Function("b", ["a"], everything, extra_args=[Bomb()], max_retries=1)
        execution = await session.submit([stage.quick("a"), bomb])
        with pytest.raises(handoff.FunctionFailedError, match=r"not installed here on node '[01]'") as caught:
            await execution
        assert (caught.value.function_id, caught.value.attempts) == ("b", 2)
        assert isinstance(caught.value.__cause__, ImportError)
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
