"""Costs that grow after a worker was ended by its memory limit."""

from __future__ import annotations

import time

import pytest
from clusters import live, nothing_claimed, settled
from distributed import Nanny
from stage import Stage

import handoff_dask as handoff
from handoff_dask import Function, growing
from handoff_dask.resources import Cost
from handoff_dask.scheduler.states import WorkerEnd


def hoards_at_first(megabytes):
    """Takes so much that its worker is ended, unless it may have much."""
    claimed = handoff.current().cost["memory"]
    held = b"" if claimed > 350 else b"x" * (megabytes * 1_000_000)
    time.sleep(0 if not held else 20)
    return claimed


@pytest.mark.slow
@live(2, Worker=Nanny, worker_kwargs={"memory_limit": 600_000_000})
async def test_a_claim_grows_after_the_memory_limit_has_ended_the_worker(client, scheduler, worker):
    session = await handoff.start(client)
    dag = [Function("f", [], hoards_at_first, extra_args=[900], cost={"memory": growing(200)})]

    result = await session.execute(dag, max_retries=0)

    record = result.record.functions[0]
    assert (result["f"], record.cost, record.attempts) == (400, {"memory": 400}, 2)
    assert record.claimed == ({"memory": 200}, {"memory": 400})
    await nothing_claimed(scheduler)


@pytest.mark.parametrize("is_late", [False, True])
def test_it_grows_whenever_the_nanny_is_heard(is_late):
    @live(1, 1, config={"handoff.allocation-timeout": "30s"})
    async def check(client, scheduler, dying, other):
        async with handoff.Handoff(client) as session:
            for name in "01":
                await session.update_node_resources(name, {"memory": 1000})
            stage = Stage()
            grows = stage.function("f", cost={"memory": growing(100)}, priority=1)
            calm = stage.function("calm", cost={"memory": growing(950)}, node="1")
            execution = await session.submit([grows, calm])
            await stage.sees("f", "calm")
            scheduler.workers[dying.address].memory_limit = 10**9
            said = {"worker": dying.address, "pid": 1, "rss": 990_000_000}
            if not is_late:
                scheduler.log_event("worker-restart-memory", said)
            await scheduler.remove_worker(dying.address, stimulus_id="it has died", expected=False)
            if is_late:
                await settled(scheduler, room=1)
                scheduler.log_event("worker-restart-memory", said)
            stage.cue("calm")
            await stage.sees("f", "f")
            stage.close()
            result = await execution
            assert {f.id: f.cost["memory"] for f in result.record.functions} == {"f": 200, "calm": 950}
            await nothing_claimed(scheduler)

    check()


def test_results_of_others_are_no_fault_of_a_function():
    cost, limit = Cost.parse({"memory": 500}), 1_000_000_000

    assert WorkerEnd("a", limit, 900_000_000).is_by(cost)
    assert not WorkerEnd("a", limit, 900_000_000, 450_000_000).is_by(cost)
    assert not WorkerEnd("a", limit, 700_000_000).is_by(cost)
    assert WorkerEnd("a", limit, 700_000_000, is_certain=True).is_by(cost)
