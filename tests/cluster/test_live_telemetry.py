"""What a cluster tells: every event, once, in order, and nothing to those who do not listen."""

from __future__ import annotations

import pytest
from clusters import live, nothing_claimed
from codes import boom, same
from stage import until
from telemetry_checks import (
    DAG,
    FUNCTION,
    RELEASE,
    Sometimes,
    check_amounts,
    check_starts,
    names,
    reschedule_me,
)

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask.testing import capture_telemetry


@live(4)
async def test_the_story_of_a_dag(c, s, a):
    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            result = await session.execute(
                handoff.DAG("d")
                .add_function(Function("f", [], same, extra_args=[[1] * 10], cost={"cpu": 1.5}))
                .add_function(Function("g", ["f"], len)),
                allocation_strategy="load_balanced",
            )
            story = list(captured)
    captured.balance()
    check_starts(captured, result)
    assert names(story) == [
        ("node", "up"),
        ("dag", "start", None),
        ("allocation", "function"),
        ("resources", "claim"),
        ("function", "start", "f"),
        ("function", "stop", "f"),
        ("resources", "release"),
        ("allocation", "function"),
        ("function", "start", "g"),
        ("function", "stop", "g"),
        ("dag", "stop", None),
    ]
    up, begun, allocated, claimed, started, stopped, released, *_, ended = story
    check_amounts(captured)
    offer = up.measurements["capabilities"]
    assert (up.metadata, offer["cpu"]) == ({"node": "0", "address": a.address}, 4)
    about = {"dag_id": "d", "function_count": 2, "allocation_strategy": "load_balanced"}
    assert begun.metadata == {**about, "status": "pending"}
    assert ended.metadata == {**about, "status": "finished"}
    assert begun.measurements == {"system_time": result.record.submitted}
    assert ended.measurements["duration"] == pytest.approx(result.makespan_s, abs=1e-6)
    mine = {"dag_id": "d", "function_id": "f", "node": "0"}
    reason = "the only node with room; did not wait"
    assert allocated.metadata == {**mine, "strategy": "load_balanced", "reason": reason}
    assert allocated.measurements["candidates"] == 1
    assert claimed.metadata == released.metadata == mine
    assert claimed.measurements == {"amounts": {"cpu": 1.5}, "available": {**offer, "cpu": 2.5}}
    assert released.measurements == {"amounts": {"cpu": 1.5}, "available": offer}
    assert started.metadata == {**mine, "attempt": 1, "cost": {"cpu": 1.5}}
    assert stopped.measurements["nbytes"] == result.record.functions[0].nbytes > 0


@live(4)
async def test_a_long_function_is_told_while_it_runs(c, s, a, stage):
    """Its start is told once, soon, and the end says the same."""
    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            execution = await session.submit([stage.function("f")])
            await until(lambda: captured.of((*FUNCTION, "start")))
            stage.cue("f")
            result = await execution
    check_starts(captured, result)
    assert result.record.functions[0].start == result.timings["f"].start


@live(4)
async def test_retries(c, s, a, tmp_path):
    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            code = Sometimes(tmp_path / "tried", boom)
            result = await session.execute([Function("f", [], code, cost={"cpu": 1})])
    captured.balance()
    check_amounts(captured)
    check_starts(captured, result)
    first, failed, second, _ = captured.of(FUNCTION)
    assert [c.event[-1] for c in captured.of(FUNCTION)] == ["start", "retry", "start", "stop"]
    error = failed.metadata.pop("exception")
    assert (type(error), error.args) == (ValueError, ("boom", 3))
    assert failed.metadata == first.metadata
    assert failed.measurements["system_time"] == first.measurements["system_time"]
    assert (first.metadata["attempt"], second.metadata["attempt"]) == (1, 2)


@live(4)
async def test_a_failure_ends_all_before_it_is_raised(c, s, a, stage):
    """What fails and what is cancelled for it has been told when ``execute`` raises."""
    bad = stage.quick("bad", ["sibling first"], value=KeyError("x"), max_retries=0)
    dag = [stage.quick("sibling first"), bad, stage.function("sibling", cost={"cpu": 1})]
    dag.append(stage.function("after", ["bad"]))
    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            await session.submit([stage.function("other", cost={"cpu": 2})])
            await stage.sees("other")
            with pytest.raises(handoff.FunctionFailedError) as raised:
                await session.execute(dag)
            story = list(captured)
            stage.close()
            await nothing_claimed(s)
            await until(lambda: len(captured.of(RELEASE)) == 2)
    captured.balance()
    ends = [c for c in story if c.event[-1] == "exception"]
    assert [c.metadata.get("function_id") for c in ends] == ["bad", "sibling", None]
    assert isinstance(ends[0].metadata["exception"], KeyError)
    assert ends[1].metadata["exception"] == "cancelled: another function has failed"
    assert ends[2].metadata["status"] == "failed"
    why = ends[2].metadata["exception"]
    assert str(raised.value).startswith(str(why))
    assert type(why) is handoff.FunctionFailedError
    assert isinstance(why.__cause__, KeyError)


@live(2)
async def test_cancelled(c, s, a, stage):
    """The attempt ends at once; what it holds comes back when its thread is over."""
    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            execution = await session.submit(
                [stage.function("f", cost={"cpu": 2}, priority=1), stage.function("g", cost={"cpu": 2})]
            )
            await stage.sees("f")
            await execution.cancel()
            with pytest.raises(handoff.ExecutionCancelledError):
                await execution
            story = names(captured)
            assert story[-3:] == [
                ("function", "start", "f"),
                ("function", "exception", "f"),
                ("dag", "exception", None),
            ]
            assert not captured.of(RELEASE)
            stage.cue("f")
            await until(lambda: captured.of(RELEASE))
    captured.balance()
    check_amounts(captured)
    [attempt] = captured.of((*FUNCTION, "exception"))
    assert attempt.metadata["exception"] == "cancelled: the execution was cancelled"
    [ended] = captured.of((*DAG, "exception"))
    assert ended.metadata["status"] == "cancelled"
    assert isinstance(ended.metadata["exception"], handoff.ExecutionCancelledError)


@live(4)
async def test_dask_takes_a_function_back(c, s, a, tmp_path):
    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            code = Sometimes(tmp_path / "tried", reschedule_me)
            result = await session.execute([Function("f", [], code, cost={"cpu": 1})])
    captured.balance()
    check_amounts(captured)
    check_starts(captured, result)
    [lost] = captured.of((*FUNCTION, "exception"))
    assert lost.metadata["exception"] == "lost: Dask has taken it back"
