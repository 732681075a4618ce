"""Results that are lost after their run is over: who asks for one is answered in time."""

from __future__ import annotations

import time

import pytest
from clusters import live, nothing_claimed
from distributed import CancelledError
from stage import until

import handoff_dask as handoff
from handoff_dask import Function


def number(*args):
    return len(args)


def chain(*nodes):
    """Functions one after the other, each on its node."""
    return [
        Function(i, list(range(i))[-1:], number, node=node, cost={"cpu": 1}) for i, node in enumerate(nodes)
    ]


@live(1, 1, 1, 1)
async def test_what_cannot_be_computed_again_says_so_in_time(c, s, *workers):
    async with handoff.Handoff(c) as session:
        execution = await session.submit(chain("0", "1", "2"), outputs=[2])
        await execution.result()
        for worker in (workers[0], workers[1], workers[2]):
            await worker.close()
        began = time.monotonic()
        with pytest.raises(handoff.NotFoundError) as caught:
            await session.get_result(execution, 2, timeout=5)
        assert time.monotonic() - began < 5.5
        assert "no result 2" in str(caught.value)
        assert "cannot be computed again" in str(caught.value)
        # Again: the answer stays.
        with pytest.raises(handoff.NotFoundError):
            await session.get_result(execution.dag_id, 2, timeout=5)


@live(1, 1)
async def test_a_result_that_takes_too_long_to_come_again_is_a_timeout(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        # Anywhere: it runs again, and is not told to end.
        stage.cue("f")
        execution = await session.submit([stage.function("f")])
        await execution
        stage.cue_of("f").clear()
        holder = a if "0" in (await execution).allocations.values() else b
        await holder.close()
        for asked in (execution, execution.dag_id):
            began = time.monotonic()
            with pytest.raises(TimeoutError, match="'f'"):
                await session.get_result(asked, "f", timeout=0.3)
            assert time.monotonic() - began < 2
        stage.cue("f")
        assert await session.get_result(execution, "f", timeout=20) == "f"
        await nothing_claimed(s)


@live(1, 1, 1, 1)
async def test_results_of_a_failed_run_may_be_lost(c, s, *workers, stage):
    """A lost result, of a failed run, that others in memory were made of: Dask's state stays consistent."""
    async with handoff.Handoff(c) as session:
        dag = [
            *chain("0", "1", "2"),
            stage.function("bad", value=ValueError("bad"), node="3", max_retries=0),
        ]
        execution = await session.submit(dag)
        await until(lambda: execution.futures[2].status == "finished")
        stage.cue("bad")
        with pytest.raises(handoff.FunctionFailedError):
            await execution
        await workers[0].close()
        await workers[1].close()
        assert {s.tasks[execution.futures[i].key].state for i in (1, 2)} == {"memory"}
        # What needs the first one is lost only after that one has been given up.
        await until(
            lambda: s.tasks.get(key := execution.futures[0].key) is None or s.tasks[key].state != "memory"
        )
        await workers[2].close()
        # Others go on.
        assert (await session.execute([Function(i, [], number) for i in range(5)], timeout=20)).results
        for task in s.tasks.values():
            s.validate_key(task.key)
        with pytest.raises(handoff.FunctionFailedError):
            await execution.get_result(0, timeout=5)
        with pytest.raises(CancelledError, match="is not computed again"):
            await execution.futures[0]
        await nothing_claimed(s)


@live(1, 1)
async def test_scattered_data_that_is_lost_fails_who_takes_it_by_its_reason(c, s, a, b, stage):
    """Dask forgets all that waits for it, as if it had been cancelled."""
    async with handoff.Handoff(c) as session:
        data = await c.scatter({"data": 7}, workers=[a.address])
        for given in (data["data"], [data["data"]]):
            dag = [
                Function("x", [], None, type="input"),
                stage.function("first", node="1"),
                Function("takes", ["x"], number, after=["first"]),
                Function("then", ["takes"], number),
            ]
            execution = await session.submit(dag, inputs={"x": given})
            await until(lambda: "first" in stage.started)
            if given is data["data"]:
                stage.cue("first")
                assert (await execution).results["takes"] == 1
                stage.story.clear()
        await a.close()
        with pytest.raises(
            handoff.FunctionFailedError, match=r"'takes' could not run.*'data'.*scattered"
        ) as caught:
            await execution
        assert "is lost with node '0'" in str(caught.value.__cause__)
        assert execution.status == "failed"
        assert caught.value.skipped == {"then": "takes"}
        stage.cue("first")
        await nothing_claimed(s)
