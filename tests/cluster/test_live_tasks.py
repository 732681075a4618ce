"""Tasks, order without values and arguments among plain values, on a cluster."""

from __future__ import annotations

import warnings
from typing import Any

import dask
import numpy
import pytest
from clusters import live
from distributed import Client, get_worker

import handoff_dask as handoff
from handoff_dask import DAG, Argument


@handoff.task(cost={"cpu": 1})
def clean(path: str, encoding: str = "utf-8") -> str:
    return f"{path}:{encoding}"


@handoff.task
def gather(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def job() -> tuple[DAG, Any]:
    with DAG("job") as dag:
        parts = clean.map(["a", "b"], encoding="latin-1")
        total = gather(parts, 1, parts[0], {"deep": [parts[1]]}, last=parts[1])
    return dag, total


EXPECTED = (
    (["a:latin-1", "b:latin-1"], 1, "a:latin-1", {"deep": ["b:latin-1"]}),
    {"last": "b:latin-1"},
)


@live(2, 2)
async def test_a_job_of_tasks(c, s, *workers):
    """Executed, explained and asked for by references."""
    dag, total = job()
    async with handoff.AsyncHandoff(c) as session:
        execution = await session.submit(dag, outputs=[total])
        assert await execution.get_result(total, timeout=20) == EXPECTED
        assert (await session.explain(execution, total)).status == "finished"
        assert (await execution)[total] == EXPECTED
        assert await session.get_result("job", total) == EXPECTED


@live(2)
async def test_tasks_as_a_collection(c, s, *workers):
    """What Dask computes of them is the same, with the plugin and without."""
    dag, total = job()
    computed = await c.compute(dag)
    assert computed[total.id] == EXPECTED
    assert dask.compute(dag, scheduler="sync")[0][total.id] == EXPECTED


def where() -> str:
    return str(get_worker().name)


@live(1, 1)
async def test_order_without_a_value(c, s, a, b):
    """What runs after another waits for it, on any node, and its value stays where it is."""
    dag = DAG().add_function("large", [], numpy.zeros, extra_args=[1_000_000], node="0")
    dag.add_function("late", [], where, node="1", after=["large"], priority=9)
    dag.add_function("again", ["late"], gather.code, after=["large", "late"], kwargs={"x": Argument("late")})
    async with handoff.AsyncHandoff(c) as session:
        execution = await session.submit(dag)
        result = await execution
        assert result["late"] == "1"
        assert result["again"] == (("1",), {"x": "1"})
        assert result.timings["late"].start >= result.timings["large"].stop
        assert [key for key in b.data if "zeros" in str(key)] == []
        lines = {(edge["source"], edge["target"]) for edge in handoff.visualization.dag_graph(dag).edges}
        assert ("large", "late") in lines


@live(1, 1)
async def test_what_runs_after_a_failure_does_not_run(c: Client, s, a, b):
    """As if it took its result."""
    dag = DAG().add_function("fails", [], "operator:truediv", extra_args=[1, 0], max_retries=0)
    dag.add_function("late", [], where, after=["fails"])
    async with handoff.AsyncHandoff(c) as session:
        execution = await session.submit(dag)
        with pytest.raises(handoff.FunctionFailedError, match="'fails'"):
            await execution
        record = await execution.record()
    assert {f.id: f.status for f in record.functions} == {"fails": "failed", "late": "cancelled"}


@live(2)
async def test_results_by_id_and_shared_values(c, s, *workers):
    """A large value that is shared by calls with results inside them."""
    large = numpy.ones(1_000_000)
    dag = DAG().add_function("a", [], int)
    for n in range(2):
        dag.add_function(
            n, ["a"], lambda d, big, x: (d, big.sum(), x), argument_inclusion="as_dict",
            extra_args=[large], kwargs={"x": Argument("a")},
        )  # fmt: skip
    async with handoff.AsyncHandoff(c) as session:
        result = await session.execute(dag)
    assert result[[0, 1]] == [({"a": 0}, 1_000_000, 0)] * 2


@handoff.task(cost={"cpu": 1, "fast": True}, max_retries=2)
def second_time() -> Any:
    found = handoff.current()
    assert found is not None
    if found.attempt < 2:
        raise ValueError("once more")
    return found


@live(1)
async def test_a_function_knows_its_attempt(c, s, *workers):
    """Which run, function and attempt it is, where, and what it holds; others are told nothing."""
    with DAG(("my", "job")) as dag:
        found = second_time.options(id=("found", 0))()
    async with handoff.AsyncHandoff(c) as session:
        await session.update_node_resources("0", {"fast": True})
        current = (await session.execute(dag))[found]
        plain = await c.submit(handoff.current, pure=False)
        collected = await c.compute(dag)
    assert current == handoff.Current(
        dag_id=("my", "job"), function_id=("found", 0), attempt=2, node="0", cost={"cpu": 1, "fast": True}
    )
    assert collected[("found", 0)].function_id == ("found", 0)
    assert plain is None
    assert handoff.current() is None


@live(1, config={"handoff.fetch-warning": "1 MB"})
async def test_large_results_that_nobody_asked_for_are_warned_of(c, s, *workers):
    """Those that other functions take; not what was asked for, nor what the DAG comes to."""
    make, size = handoff.task(numpy.zeros), handoff.task(numpy.size)
    with DAG("etl") as dag:
        large = make.options(id="large")(1_000_000)
        count = size(large)
        make.options(id="sink")(1_000_000)
    async with handoff.AsyncHandoff(c) as session:
        with pytest.warns(UserWarning, match=r"'large' has 7\.63 MiB.*outputs=\"sinks\""):
            await session.execute(dag)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert list((await session.execute(dag, outputs="sinks")).results) == ["size", "sink"]
            await session.execute(dag, outputs=[large, count])
