"""Executions that outlive their client."""

from __future__ import annotations

import pytest
from clusters import all_forgotten, live, nothing_claimed
from distributed import Client
from stage import until

import handoff_dask as handoff
from handoff_dask import Function


def broken(value):
    raise ValueError("no")


def job(stage, name="nightly", last=str):
    dag = handoff.DAG(name)
    dag.add_function(stage.function("slow", cost={"cpu": 1}))
    return dag.add_function(Function(("last", 1), ["slow"], last, cost={"cpu": 1}, max_retries=0))


@live(1, 1)
async def test_it_goes_on_when_its_client_has_gone(c, s, a, b, stage):
    async with Client(s.address, asynchronous=True) as gone:
        async with handoff.Handoff(gone) as session:
            await session.submit(job(stage), detach=True)
            await session.submit([stage.function("other")])
            await until(lambda: len(stage.story) == 2)
        name = gone.id
    async with handoff.Handoff(c) as session:
        listed = {one.dag_id: one for one in await session.executions()}
        assert (listed["nightly"].status, listed["nightly"].client) == ("running", name)
        assert listed["nightly"].counts == {"running": 1, "pending": 1}
        assert {one.status for i, one in listed.items() if i != "nightly"} == {"cancelled"}
        execution = await session.attach("nightly")
        assert execution.status == "running"
        stage.cue("slow")
        stage.cue("other")
        result = await execution
        assert result.results == {"slow": "slow", ("last", 1): "slow"}
        assert {f.id: f.args for f in result.record.functions} == {"slow": (), ("last", 1): ("slow",)}
        again = await session.attach("nightly")
        assert (again.status, (await again).results) == ("finished", result.results)
        assert await session.get_result("nightly", "slow") == "slow"
        await nothing_claimed(s)


@live(1, 1)
async def test_anybody_may_cancel_it_and_hears_of_failures(c, s, a, b, stage):
    async with Client(s.address, asynchronous=True) as gone, handoff.Handoff(gone) as session:
        await session.submit(job(stage, "one"), detach=True)
        await session.submit(job(stage, "two", broken), detach=True)
        await until(lambda: len(stage.story) == 2)
    async with handoff.Handoff(c) as session:
        one, two = await session.attach("one"), await session.attach("two")
        await one.cancel()
        with pytest.raises(handoff.ExecutionCancelledError):
            await one
        stage.cue("slow")
        with pytest.raises(handoff.FunctionFailedError, match=r"'last'.*ValueError: no"):
            await two
        assert (await (await session.attach("two")).partial()).results == {"slow": "slow"}
        with pytest.raises(handoff.NotFoundError):
            await session.attach("three")
        del one, two


@live(1, 1, config={"handoff.retained-detached": 2})
async def test_the_last_ones_stay(c, s, a, b):
    async with handoff.Handoff(c) as session:
        for n in range(4):
            await (await session.submit(handoff.DAG(n).add_function(Function("f", [], int)), detach=True))
    async with handoff.Handoff(c) as session:
        for n in (2, 3):
            assert (await (await session.attach(n))).results == {"f": 0}
        for n in (0, 1):
            with pytest.raises(handoff.NotFoundError):
                await session.attach(n)


@live(1)
async def test_others_are_attached_to_as_well(c, s, a, stage):
    async with handoff.Handoff(c) as session, handoff.Handoff(c) as other:
        execution = await session.submit(job(stage))
        attached = await other.attach("nightly")
        stage.cue("slow")
        assert (await attached).results == (await execution).results
        del attached, execution
    await all_forgotten(s)
