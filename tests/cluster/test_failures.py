"""Functions that fail, DAGs that are given up, and what they held."""

from __future__ import annotations

import asyncio
import pickle
import threading
import traceback

import pytest
from clusters import all_forgotten, engine_of, live, nothing_claimed, settled
from distributed import Worker
from stage import until

import handoff_dask as handoff
from handoff_dask import Function

attempts: dict[str, int] = {}


def fails_until(name, success):
    attempts[name] = attempts.get(name, 0) + 1
    if attempts[name] < success:
        raise LookupError(f"attempt {attempts[name]}")
    return attempts[name]


def inner_cause():
    return {}["nothing"]


def outer_cause():
    try:
        inner_cause()
    except KeyError as error:
        raise ValueError("wrapped") from error


class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")

    def __reduce__(self):
        raise TypeError("never")


def raise_unpicklable():
    raise Unpicklable(1, 2)


@pytest.fixture(autouse=True)
def no_attempts():
    attempts.clear()


# ---------------------------------------------------------------------- retries


@pytest.mark.parametrize(
    ("own", "options", "expected"),
    [
        (None, {}, 4),
        (None, {"max_retries": 1}, 2),
        (None, {"max_retries": 0}, 1),
        (0, {"max_retries": 5}, 1),
        (2, {"max_retries": 0}, 3),
    ],
)
@live(1)
async def test_a_function_is_retried_so_often(c, s, a, own, options, expected):
    dag = handoff.DAG().add_function(
        Function("f", [], fails_until, extra_args=["f", 99], max_retries=own, cost={"cpu": 1})
    )
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await session.execute(dag, **options)
        await nothing_claimed(s)
    assert attempts == {"f": expected}
    assert caught.value.attempts == expected
    assert str(caught.value.__cause__) == f"'attempt {expected}'" or str(caught.value.__cause__) == (
        f"attempt {expected}"
    )


@live(1)
async def test_a_function_that_succeeds_at_last_counts_its_attempts(c, s, a):
    dag = [
        Function("f", [], fails_until, extra_args=["f", 3], cost={"cpu": 1}),
        Function("g", ["f"], str, cost={"cpu": 1}),
    ]
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag)
    assert result.results == {"f": 3, "g": "3"}
    assert {i: t.attempts for i, t in result.timings.items()} == {"f": 3, "g": 1}


@live(1)
async def test_a_retry_waits_for_room_like_anybody(c, s, a, stage):
    """What it held is free in between; the next attempt is placed like the first."""
    async with handoff.Handoff(c) as session:
        dag = [
            Function("fails", [], fails_until, extra_args=["fails", 2], cost={"cpu": 1}, priority=1),
            stage.function("other", cost={"cpu": 1}),
        ]
        execution = await session.submit(dag)
        stage.cue("other")
        result = await execution
    assert result.timings["fails"].attempts == 2
    assert attempts == {"fails": 2}


# ---------------------------------------------------------------------- what an error tells


@live(1)
async def test_an_error_tells_what_happened_where(c, s, a):
    dag = [Function("good", [], int), Function(("bad", 1), ["good"], lambda x: outer_cause(), node="0")]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag, max_retries=0)
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await execution
        with pytest.raises(handoff.FunctionFailedError):
            await execution.get_result(("bad", 1))
        assert await execution.get_result("good") == 0
        assert execution.status == "failed"
    error = caught.value
    assert (error.function_id, error.node, error.attempts) == (("bad", 1), "0", 1)
    assert isinstance(error.__cause__, ValueError)
    assert str(error.__cause__) == "wrapped"
    told = "".join(traceback.format_exception(error))
    assert "outer_cause" in told
    assert "FunctionFailedError" in told
    assert "('bad', 1)" in str(error)

    again = pickle.loads(pickle.dumps(error))
    assert (again.function_id, again.node, again.attempts) == (("bad", 1), "0", 1)
    assert isinstance(again.__cause__, ValueError)
    assert str(again) == str(error)


@live(1)
async def test_an_exception_that_cannot_be_pickled_is_told_as_text(c, s, a):
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await session.execute([Function("f", [], raise_unpicklable)], max_retries=0)
    assert "1 and 2" in str(caught.value.__cause__)


@live(2)
async def test_a_result_that_cannot_be_pickled_fails_its_reader_and_nobody_hangs(c, s, a):
    dag = [Function("lock", [], threading.Lock), Function("use", ["lock"], lambda lock: lock.acquire())]
    async with handoff.Handoff(c) as session:
        # Within one node it need not be pickled.
        assert (await session.execute(dag, outputs=["use"])).results == {"use": True}
        with pytest.raises(Exception, match=r"(?i)pickle|serialize"):
            await session.execute(dag, timeout=20)
        assert (await session.execute([Function("f", [], int)])).results == {"f": 0}


@live(1)
async def test_an_inline_function_that_fails_is_named(c, s, a):
    dag = [
        Function(("part", 1), [], int, extra_args=["none"], type="inline"),
        Function("after", [("part", 1)], abs, type="inline"),
        Function("f", ["after"], abs),
    ]
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await session.execute(dag, max_retries=0)
        with pytest.raises(handoff.FunctionFailedError) as caught_outside:
            await session.execute(
                [Function("i", [], int, type="inline"), Function("f", ["i"], len)], max_retries=0
            )
    with pytest.raises(handoff.FunctionFailedError) as caught_here:
        handoff.execute_local(dag, max_retries=0)
    for error, node in ((caught.value, "0"), (caught_here.value, "local")):
        assert (error.function_id, error.inline, type(error.__cause__)) == ("f", "('part', 1)", ValueError)
        said = (
            f"function 'f' failed on node '{node}' after 1 attempt, in its inline function ('part', 1): Val"
        )
        for told in (error, pickle.loads(pickle.dumps(error))):
            assert str(told).startswith(said)
    assert caught_outside.value.inline is None


@live(1)
async def test_a_code_that_cannot_be_imported_fails_by_name(c, s, a):
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await session.execute([Function("f", [], "nowhere.to:be_found")], max_retries=0)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


# ---------------------------------------------------------------------- fail fast, cancel


@live(2, 2)
async def test_a_failure_waits_for_nobody_and_starts_nothing(c, s, a, b, stage):
    dag = [
        stage.function("bad", value=ValueError("no"), cost={"cpu": 1}, max_retries=0),
        stage.function("sibling", cost={"cpu": 1}),
        stage.function("next", ["sibling"], cost={"cpu": 1}),
        *[stage.function(f"queued {n}", cost={"cpu": 2}) for n in range(4)],
    ]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await stage.sees("bad", "sibling")
        started = list(stage.started)
        stage.cue("bad")
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await execution
        assert caught.value.function_id == "bad"
        # The sibling's thread goes on, and holds what it costs.
        node = stage.nodes()["sibling"]
        await settled(s)
        assert engine_of(s).nodes()[node].used["cpu"] >= 1_000_000
        assert not await session.resources_available(node, {"cpu": 2})
        stage.close()
        await nothing_claimed(s)
        assert await session.resources_available(node, {"cpu": 2})
        assert stage.started == started


@live(2)
async def test_after_cancel_a_claim_lasts_as_long_as_its_thread(c, s, a, stage):
    dag = [stage.function("runs", cost={"cpu": 2}), stage.function("next", ["runs"], cost={"cpu": 1})]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await stage.sees("runs")
        await execution.cancel()
        assert execution.status == "cancelled"
        with pytest.raises(handoff.ExecutionCancelledError):
            await execution
        other = await session.submit([stage.quick("other", cost={"cpu": 1})])
        await settled(s, room=1)
        assert not await session.resources_available("0", {"cpu": 1})
        stage.cue("runs")
        await other
        await nothing_claimed(s)
        assert stage.started == ["runs", "other"]
        await execution.cancel()


@live(2)
async def test_a_retry_does_not_start_after_the_dag_has_failed(c, s, a, stage):
    dag = handoff.DAG("bad")
    for function in (
        stage.function("slow to fail", value=ValueError("later"), max_retries=5),
        stage.function("fails", value=ValueError("now"), max_retries=0),
    ):
        dag.add_function(function)
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await stage.sees("slow to fail", "fails")
        stage.cue("fails")
        with pytest.raises(handoff.FunctionFailedError, match="now"):
            await execution
        stage.cue("slow to fail")
        await nothing_claimed(s)
        await session.forget("bad")
        del execution
        await until(lambda: not s.tasks)
    assert sorted(stage.started) == ["fails", "slow to fail"]


@live(1, 1)
async def test_of_two_dags_one_fails_alone(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        bad = await session.submit([stage.quick("bad", value=ValueError("no"), max_retries=0)])
        good = await session.submit([stage.function("good"), stage.quick("next", ["good"])])
        with pytest.raises(handoff.FunctionFailedError):
            await bad
        stage.cue("good")
        assert (await good).results == {"good": "good", "next": "next"}


@live(4)
async def test_released_executions_let_go_of_everything(c, s, a, stage):
    """An execution that nobody holds, whose session has forgotten it, is no longer wanted."""
    async with handoff.Handoff(c) as session:
        for n in range(12):
            await session.execute([stage.quick(f"f{n}", cost={"cpu": 1})])
        retained = [f"f{n}" for n in range(4, 12)]
        await until(lambda: len([t for t in s.tasks.values() if t.who_has]) == len(retained))
    del session
    await all_forgotten(s)


@live(1, 1)
async def test_a_future_that_is_cancelled_cancels_its_dag(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function("a"), stage.function("b")])
        await stage.sees("a", "b")
        await c.cancel([execution.futures["a"]])
        with pytest.raises(handoff.ExecutionCancelledError):
            await execution.result(timeout=10)
        stage.close()
        await nothing_claimed(s)


@live(1, 1)
async def test_what_is_asked_of_a_failed_dag_later_is_an_error_and_no_hang(c, s, a, b, stage):
    dag = [stage.quick("good"), stage.quick("bad", ["good"], value=ValueError("no"), max_retries=0)]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        with pytest.raises(handoff.FunctionFailedError):
            await execution
        assert await execution.get_result("good") == "good"
        # Tried again behind our back; lost.
        await c.retry([execution.futures["bad"]])
        with pytest.raises(handoff.HandoffError, match="has failed"):
            await asyncio.wait_for(execution.futures["bad"].result(), 10)
        for worker in (a, b):
            await s.remove_worker(worker.address, stimulus_id="test")
        async with Worker(s.address, nthreads=1):
            with pytest.raises(handoff.HandoffError):
                await execution.get_result("good", timeout=10)


@live(1, 1)
async def test_results_of_a_finished_dag_that_are_lost_are_computed_again(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.quick("good", value=3)])
        await execution
        await s.remove_worker(a.address, stimulus_id="test")
        assert (await execution.result(timeout=10)).results == {"good": 3}
        await s.remove_worker(b.address, stimulus_id="test")
        with pytest.raises(handoff.AllocationError):
            await asyncio.wait_for(execution.futures["good"].result(), 10)


@live(1)
async def test_a_graph_that_cannot_be_taken_over_fails_its_run(c, s, a, monkeypatch, problems):
    """Dask logs what a hook raises and goes on: nobody must wait for ever."""

    def broken(self, run, keys, wanted):
        raise KeyError("broken")

    async with handoff.Handoff(c) as session:
        await session.start()
        with monkeypatch.context() as patched:
            patched.setattr("handoff_dask.scheduler.registry.Registry._hold", broken)
            with pytest.raises(
                handoff.AllocationError, match=r"handoff itself failed.*broken.*please report"
            ):
                await session.execute([handoff.Function("f", [], int)], timeout=20)
        assert (await session.execute([handoff.Function("f", [], int)])).results == {"f": 0}
    assert problems
    problems.clear()
