"""On workers: data is where a function will run before this can start."""

from __future__ import annotations

from clusters import live
from stage import until

import handoff_dask as handoff

#: Takes 20 ms to move by Dask's own guess of the bandwidth, twice the transfer floor.
LARGE = b"x" * 2_000_000
GPU_ON_1 = [{"cpu": 4}, {"cpu": 4, "gpu": 1}]


def holders(scheduler, key):
    task = scheduler.tasks.get(key)
    return [] if task is None else sorted(ws.name for ws in task.who_has or ())


def with_gpu():
    return [{"node": str(n), "capabilities": offered} for n, offered in enumerate(GPU_ON_1)]


@live(4, 4)
async def test_data_waits_where_its_function_waits(c, s, w0, w1, stage):
    """The only node that will do is busy.  Of the two copies the new one is kept."""
    dag = handoff.DAG()
    dag.add_function(stage.function("busy", cost={"gpu": 1}))
    dag.add_function(stage.quick("make", value=LARGE, node="0"))
    dag.add_function(stage.quick("infer", ["make"], cost={"gpu": 1}, value="done"))
    async with handoff.AsyncHandoff(c) as session:
        execution = await session.submit(dag, resources=with_gpu(), outputs=["busy", "make", "infer"])
        key = execution.futures["make"].key
        await until(lambda: holders(s, key) == [1], lambda: f"the data is at {holders(s, key)}")
        await until(lambda: not w0.data, lambda: f"worker 0 keeps {list(w0.data)}")
        stage.cue("busy")
        assert await execution.get_result("infer", timeout=20) == "done"
        assert await execution.get_result("make", timeout=20) == LARGE


@live(4, 4)
async def test_arguments_of_a_pinned_join_move_as_they_end(c, s, w0, w1, stage):
    dag = handoff.DAG()
    dag.add_function(stage.quick("early", value=LARGE, node="0"))
    dag.add_function(stage.function("late", value=LARGE, node="0"))
    dag.add_function(stage.quick("join", ["early", "late"], node="1", value="joined"))
    async with handoff.AsyncHandoff(c) as session:
        execution = await session.submit(dag, outputs=["early", "join"])
        key = execution.futures["early"].key
        await until(lambda: holders(s, key) == [1], lambda: f"the data is at {holders(s, key)}")
        stage.cue("late")
        assert await execution.get_result("join", timeout=20) == "joined"


@live(4, 4)
async def test_data_that_others_take_as_well_stays(c, s, w0, w1, stage):
    dag = handoff.DAG()
    dag.add_function(stage.function("busy", cost={"gpu": 1}))
    dag.add_function(stage.function("late", node="0"))
    dag.add_function(stage.quick("make", value=LARGE, node="0"))
    dag.add_function(stage.quick("infer", ["make"], cost={"gpu": 1}, value="done"))
    dag.add_function(stage.quick("other", ["make", "late"], node="0"))
    async with handoff.AsyncHandoff(c) as session:
        execution = await session.submit(dag, resources=with_gpu(), outputs=["make", "infer", "other"])
        key = execution.futures["make"].key
        moves = s.plugins["handoff"].moves_ahead
        await until(lambda: holders(s, key) == [0, 1], lambda: f"the data is at {holders(s, key)}")
        await until(lambda: not moves._under_way, lambda: "the copy is still waited for")
        assert holders(s, key) == [0, 1]
        stage.cue("busy", "late")
        await execution.wait(timeout=20)


@live(4, 4)
async def test_a_run_that_is_cancelled_while_data_moves_leaves_nothing(c, s, w0, w1, stage):
    dag = handoff.DAG()
    dag.add_function(stage.function("busy", cost={"gpu": 1}))
    for n in range(4):
        dag.add_function(stage.quick(f"make-{n}", value=LARGE, node="0"))
        dag.add_function(stage.quick(f"infer-{n}", [f"make-{n}"], cost={"gpu": 1}))
    async with handoff.AsyncHandoff(c) as session:
        outputs = [f"infer-{n}" for n in range(4)]
        execution = await session.submit(dag, resources=with_gpu(), outputs=outputs)
        moves = s.plugins["handoff"].moves_ahead
        await until(lambda: moves._under_way, lambda: "nothing moves")
        await execution.cancel()
        stage.cue("busy")
        await until(lambda: not moves._under_way, lambda: "moves are still waited for")
        await until(lambda: not (w0.data or w1.data), lambda: f"left: {list(w0.data)} {list(w1.data)}")
