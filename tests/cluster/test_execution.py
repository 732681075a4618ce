"""Executions of DAGs on a cluster: what they are told, and what they tell."""

from __future__ import annotations

import operator
import time

import pytest
from clusters import all_forgotten, live, nothing_claimed, settled
from codes import pipeline, same
from distributed import Future
from stage import until

import handoff_dask as handoff
from handoff_dask import Function

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
        {"prio": 3},
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
