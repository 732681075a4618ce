"""A DAG as what Dask knows: a graph, a collection."""

from __future__ import annotations

import itertools
import operator
import time

import dask
import pytest
from clusters import live, settled
from codes import Adder, pipeline, same
from dask import graph_manipulation
from dask.utils import key_split
from distributed import Future, wait
from distributed.utils_test import slowinc
from stage import until

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask.graph.dag import as_dag


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


def test_a_dag_takes_part_in_other_collections():
    results = {"source": 42, "transform": 84, "sink": "The final answer is: 84"}
    assert dask.delayed(same)(pipeline()).compute() == results
    assert dask.delayed(same)(pipeline().persist()).compute() == results
    assert dask.optimize(pipeline())[0].compute() == results
    assert graph_manipulation.checkpoint(pipeline()).compute() is None
    with pytest.raises(handoff.ValidationError, match="build another DAG"):
        graph_manipulation.clone(pipeline())


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
async def test_costs_do_not_hold_it_up_where_handoff_was_not_started(c, s, a, b):
    """No worker says that it has such resources, and nobody there reads what functions cost."""
    assert (await c.compute(pipeline(cpu=64, memory="1 TB")))["transform"] == 84


@live(2, 2)
async def test_a_persisted_dag_is_a_collection_of_what_is_there(c, s, a, b, stage):
    dag = handoff.DAG("kept").add_function(stage.quick("f", cost={"cpu": 1}, value=1))
    dag.add_function(Function("twice", ["f"], operator.mul, extra_args=[2], type="inline"))
    dag.add_function(Function("g", ["twice"], operator.neg, cost={"cpu": 1}))
    async with handoff.Handoff(c):
        kept = c.persist(dag)
        assert isinstance(kept, handoff.DAG)
        assert (kept.id, kept.functions) == ("kept", dag.functions)
        assert {i: (type(f), await f) for i, f in kept.futures.items()} == {
            "f": (Future, 1),
            "g": (Future, -2),
        }
        assert await c.compute(kept) == {"f": 1, "g": -2}
        assert await c.compute(c.persist(kept)) == {"f": 1, "g": -2}
        assert stage.started == ["f"]
        with pytest.raises(handoff.ValidationError, match="has been persisted"):
            kept.add_function(Function("h", ["g"], abs))
        await wait(list(kept.futures.values()))
        del kept
        await until(lambda: not s.tasks)


def test_a_dag_persists_on_threads_too():
    """Its results are data, however much they look like tasks or keys."""
    task = (len, "ab")
    kept = handoff.DAG().add_function(Function("f", [], same, extra_args=[task])).persist()
    assert (kept.compute(), kept.persist().compute(), kept.futures) == ({"f": task}, {"f": task}, {})
    with dask.config.set(scheduler="synchronous"):
        assert kept.compute() == {"f": task}


@live(2, 2)
async def test_an_impossible_collection_fails_and_does_not_hang(c, s, a, b):
    async with handoff.Handoff(c):
        with pytest.raises(handoff.AllocationError, match="gpu"):
            await c.compute(pipeline(gpu=1))


def seconds():
    begun = time.time()
    time.sleep(0.05)
    return begun, time.time()


def most_at_once(spans):
    changes = sorted([(begun, 1) for begun, _ in spans] + [(ended, -1) for _, ended in spans])
    return max(itertools.accumulate(change for _, change in changes))


def test_costs_hold_on_the_cluster_that_start_has_made():
    """Dask has no client then that it could ask by itself."""

    def four(**cost):
        return [Function(n, [], seconds, cost=cost) for n in range(4)]

    def dag(**cost):
        return as_dag(four(**cost))

    session = handoff.start(nodes={"one": {"cpu": 2}, "two": {"cpu": 1}})
    try:
        assert most_at_once(dask.compute(dag(cpu=2))[0].values()) == 1
        assert most_at_once(dag(cpu=2).compute().values()) == 1
        assert set(dag(cpu=2).persist().futures) == {0, 1, 2, 3}
        one, two = dask.compute(dag(), dag())
        assert one.keys() == two.keys() == {0, 1, 2, 3}
        with pytest.raises(handoff.AllocationError, match="needs cpu 9"):
            dag(cpu=9).compute()
        with pytest.raises(ValueError, match="differing default schedulers"):
            dask.compute(dag(cpu=2), dask.delayed(same)(1))
        assert dask.compute(dask.delayed(same)(1), dag(cpu=9), scheduler="threads")[0] == 1
        answered = dask.compute(dag(cpu=2), dask.delayed(same)(1), scheduler=session.client)
        assert (most_at_once(answered[0].values()), answered[1]) == (1, 1)
    finally:
        handoff.stop()
    assert set(dag(cpu=9).compute()) == {0, 1, 2, 3}


@live(2, 2)
async def test_settings_of_the_configuration_hold_for_collections(c, s, a, b):
    dag = pipeline(gpu=1)
    async with handoff.Handoff(c):
        with dask.config.set(
            {"handoff.allocation-timeout": 20, "handoff.allocation-strategy": "load_balanced"}
        ):
            computed = c.compute(dag)
        runs = s.plugins["handoff"].runs
        await until(lambda: runs.by_token)
        (run,) = runs.by_token.values()
        assert run.strategy_name == "load_balanced"
        await handoff.Handoff(c).update_node_resources("0", {"gpu": 1})
        assert await computed
        # Without it, the same DAG is refused at once.
        await handoff.Handoff(c).update_node_resources("0", {"gpu": 0})
        with pytest.raises(handoff.AllocationError, match="gpu"):
            await c.compute(dag)
