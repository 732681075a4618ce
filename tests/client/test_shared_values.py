"""A large plain value that several functions share travels once, wherever it stands in them."""

from __future__ import annotations

import functools
import pickle

import cloudpickle
import dask
import pytest
from distributed.utils_test import gen_cluster

import handoff_dask as handoff
from handoff_dask import Function

SIZE = 2_000_000


class Large:
    """Says that it is large, and counts how often it has been pickled."""

    def __init__(self, value=7):
        self.value = value
        self.pickled = 0

    def __sizeof__(self):
        return SIZE

    def __getstate__(self):
        self.pickled += 1
        return {"value": self.value, "pickled": 0}

    def plus(self, number):
        return self.value + number


class Holder:
    """An object whose attribute is large."""

    def __init__(self):
        self.large = Large()

    def plus(self, number):
        return self.large.value + number


def plus(large, number):
    return large.value + number


def result_first(result, large, number=0, *, more=None):
    return (result, large.value + number, None if more is None else more.value)


def sums(results, large):
    return sum(results) + large.value


def closure_of(large):
    def plus_inside(number):
        return large.value + number

    return plus_inside


def jobs():
    """``{how the value is shared: (the value, functions, their results)}``."""
    numbers = range(4)
    plain = Large()
    yield "extra_args", plain, [Function(n, [], plus, extra_args=(plain, n)) for n in numbers]
    keyword = Large()
    yield "kwargs", keyword, [Function(n, [], plus, kwargs={"large": keyword, "number": n}) for n in numbers]
    method = Large()
    yield "bound method", method, [Function(n, [], method.plus, extra_args=(n,)) for n in numbers]
    partial = Large()
    yield "partial", partial, [Function(n, [], functools.partial(plus, partial, n)) for n in numbers]
    named = Large()
    codes = [functools.partial(plus, large=named, number=n) for n in numbers]
    yield "partial's keyword", named, [Function(n, [], code) for n, code in enumerate(codes)]
    nested = Large()
    code = functools.partial(functools.partial(plus, nested))
    yield "partial of a partial", nested, [Function(n, [], code, extra_args=(n,)) for n in numbers]
    inside = Large()
    closure = closure_of(inside)
    yield "closure", inside, [Function(n, [], closure, extra_args=(n,)) for n in numbers]
    held = Holder()
    yield "attribute", held.large, [Function(n, [], held.plus, extra_args=(n,)) for n in numbers]


@pytest.mark.parametrize(("large", "functions"), [pytest.param(*job, id=name) for name, *job in jobs()])
def test_it_is_pickled_once_and_put_in_its_place(large, functions):
    dag = handoff.DAG()
    for function in functions:
        dag.add_function(function)
    large.pickled = 0
    graph = cloudpickle.dumps(dict(handoff.compile(dag).graph))

    assert large.pickled == 1
    assert pickle.loads(graph)
    assert dag.compute(scheduler="sync") == {n: 7 + n for n in range(4)}


def test_results_come_first_and_several_values_are_shared():
    one, other = Large(), Large(5)
    dag = handoff.DAG().add_function(Function("a", [], int, extra_args=["3"]))
    for n in range(3):
        dag.add_function(Function(n, ["a"], result_first, extra_args=(one, n), kwargs={"more": other}))
    dag.add_function(Function("sum", ["a", "a"], sums, extra_args=(one,), argument_inclusion="as_list"))

    results = dag.compute(scheduler="sync")

    assert results == {"a": 3, **{n: (3, 7 + n, 5) for n in range(3)}, "sum": 13}


def test_inline_functions_and_inputs_share_too():
    large = Large()
    dag = (
        handoff.DAG()
        .add_function(Function("in", [], None, type="input"))
        .add_function(Function("inline", ["in"], result_first, extra_args=(large,), type="inline"))
        .add_function(Function("a", ["inline", "in"], lambda *args: args))
        .add_function(Function("b", ["inline"], result_first, extra_args=(large, 1)))
    )
    compiled = handoff.compile(dag, inputs={"in": 2})
    large.pickled = 0
    cloudpickle.dumps(dict(compiled.graph))
    values = dask.get(dict(compiled.graph), list(compiled.keys.values()))

    assert large.pickled == 1
    assert dict(zip(compiled.keys, values, strict=True)) == {
        "a": ((2, 7, None), 2),
        "b": ((2, 7, None), 8, None),
    }


def test_what_is_small_or_used_once_stays_in_its_function():
    """A node of the graph of its own costs more than a copy of what is small."""
    small = {"a": 1}
    dag = handoff.DAG().add_function(Function("once", [], plus, extra_args=(Large(), 1)))
    for n in range(3):
        dag.add_function(Function(n, [], max, extra_args=(small, n), kwargs={"key": str}))

    assert len(handoff.compile(dag).graph) == 4


@gen_cluster(client=True, nthreads=[("127.0.0.1", 2)] * 2)
async def test_on_a_cluster(c, s, a, b):
    """A million bytes in forty functions: each worker gets them at most once."""
    data = bytes(1_000_000)
    async with handoff.Handoff(c) as session:
        dag = [Function(n, [], len, extra_args=(data,), cost={"cpu": 1}) for n in range(40)]
        result = await session.execute(dag)
    assert set(result.results.values()) == {1_000_000}
    assert a.transfer_outgoing_bytes_total + b.transfer_outgoing_bytes_total < 2_100_000
