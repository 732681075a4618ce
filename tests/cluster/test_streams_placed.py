"""Where the stages of pipelines go, so that all of them find room."""

from __future__ import annotations

import pytest
from clusters import live, nothing_claimed
from stage import until
from test_streams import all_of, inc, stream_dag

import handoff_dask as handoff
from handoff_dask import Collocated, Function


@live(2, 3)
async def test_no_stage_takes_the_only_room_of_another(client, scheduler, *workers):
    """The first node in order has room for the small one, which must leave it to the large one."""
    dag = stream_dag(
        Function("small", ["x"], inc, cost={"cpu": 1}),
        Function("large", ["small"], inc, cost={"cpu": 2}),
        Function("largest", ["large"], inc, cost={"cpu": 2}),
    )
    async with await handoff.stream(dag, client=client) as pipeline:
        assert await all_of(pipeline, range(3)) == [3, 4, 5]
        assert pipeline.stages["small"] == "1"


@live(2, 2)
async def test_what_does_not_fit_together_is_refused(client, scheduler, *workers):
    """Each alone would fit, all together do not: an error at once, as for one that fits nowhere."""
    dag = stream_dag(*(Function(n, ["x"], inc, cost={"cpu": 1}, parallelism=2) for n in ("a", "b", "c")))
    with pytest.raises(handoff.AllocationError, match="hold their costs at the same time"):
        await handoff.stream(dag, client=client)
    shared = stream_dag(
        Function("a", ["x"], inc, cost={"cpu": 2}),
        Function("b", ["x"], inc, cost={"cpu": 1}, node=Collocated("a")),
    )
    with pytest.raises(handoff.AllocationError):
        await handoff.stream(shared, client=client)
    await nothing_claimed(scheduler)


@live(2, 2)
async def test_pipelines_take_turns_for_room(client, scheduler, *workers):
    """One that finds no room beside another waits as a whole, and begins when that has ended."""
    dag = stream_dag(Function("a", ["x"], inc, cost={"cpu": 2}), Function("b", ["a"], inc, cost={"cpu": 1}))
    first = await handoff.stream(dag, client=client)
    second = await handoff.stream(dag, client=client)
    assert (first.stages, second.stages) == ({"a": "0", "b": "1"}, {"a": None, "b": None})
    await second.push(1)
    async with await handoff.stream(
        stream_dag(Function("c", ["x"], inc, cost={"cpu": 1})), client=client
    ) as small:
        assert await all_of(small, [1]) == [2]
    await first.stop()
    assert await anext(second) == 3
    await second.stop()
    await nothing_claimed(scheduler)


@live(2, 2)
async def test_a_loss_after_which_the_stages_do_not_fit(client, scheduler, *workers):
    """Each could run somewhere, but not both at the same time: the pipeline fails, and waits for nobody."""
    dag = stream_dag(Function("a", ["x"], inc, cost={"cpu": 2}), Function("b", ["a"], inc, cost={"cpu": 2}))
    pipeline = await handoff.stream(dag, client=client)
    await pipeline.push(1)
    assert await anext(pipeline) == 3
    await workers[1].close()
    await until(lambda: pipeline.status == "failed")
    with pytest.raises(handoff.AllocationError, match="hold their costs at the same time"):
        await anext(pipeline)
    await nothing_claimed(scheduler)
