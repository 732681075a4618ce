"""Dask's own words around a DAG: heard or refused by name, never at the price of the costs."""

from __future__ import annotations

import asyncio
import time

import dask
import pytest
from clusters import live
from distributed import get_worker

import handoff_dask as handoff
from handoff_dask import Function

SPANS: list[tuple[str, float, float]] = []


def use(seconds=0.03):
    from test_words import SPANS

    began, name = time.time(), str(get_worker().name)
    time.sleep(seconds)
    SPANS.append((name, began, time.time()))
    return name


MARKS: list[int] = []


def mark(number):
    MARKS.append(number)
    return len(MARKS)


def fail_twice():
    # A function of the module is called by name, so that the list is this process's.
    from test_words import mark

    if (count := mark(1)) < 3:
        raise OSError("not yet")
    return count


def dag(count=4):
    whole = handoff.DAG()
    for n in range(count):
        whole.add_function(Function(n, [], use, cost={"gpu": 1}))
    return whole


cluster = live(2, 2, worker_kwargs={"resources": {"gpu": 1}})


@cluster
async def test_costs_hold_whatever_is_allowed(c, s, a, b):
    SPANS.clear()
    async with handoff.Handoff(c) as session:
        with dask.annotate(allow_other_workers=True):
            await session.execute(dag())
            await c.compute(dag(), allow_other_workers=True, workers=[a.address])
    most = max(
        sum(name == one and began <= at < ended for name, began, ended in SPANS) for one, at, _ in SPANS
    )
    assert most == 1


@cluster
async def test_workers_confine(c, s, a, b):
    async with handoff.Handoff(c) as session:
        with dask.annotate(workers=[b.address]):
            assert set((await session.execute(dag())).results.values()) == {"1"}
        with dask.annotate(workers="1"):
            assert set((await session.execute(dag())).results.values()) == {"1"}
        assert set((await c.compute(dag(), workers=[a.address])).values()) == {"0"}


@cluster
async def test_resources_are_refused_by_name(c, s, a, b):
    async with handoff.Handoff(c) as session:
        with (
            dask.annotate(resources={"tpu": 1}),
            pytest.raises(handoff.ValidationError, match="resources= of"),
        ):
            await session.execute(dag())
        with dask.annotate(workers=[a.address]), pytest.raises(handoff.ValidationError, match="both given"):
            await session.execute(dag(), resources=[{"node": "0"}])
        with dask.annotate(priority=lambda key: 1), pytest.raises(handoff.ValidationError, match="callable"):
            await session.execute(dag())
        whole = dag()
        with pytest.raises(handoff.AllocationError, match="resources= of client"):
            await c.compute(whole, resources={"tpu": 1})
        # Also where the graph brings no function that is not known yet.
        first = c.compute(whole := dag())
        await first
        with pytest.raises(handoff.AllocationError, match="resources= of client"):
            await c.compute(whole, resources={"tpu": 1})


@pytest.mark.parametrize("where", ["annotate", "compute"])
@cluster
async def test_retries_are_heard(c, s, a, b, where):
    MARKS.clear()
    whole = handoff.DAG().add_function(Function("f", [], fail_twice))
    async with handoff.Handoff(c) as session:
        if where == "annotate":
            with dask.annotate(retries=2):
                assert (await session.execute(whole)).results == {"f": 3}
        else:
            assert await c.compute(whole, retries=2) == {"f": 3}


@live(1)
async def test_priority_is_of_the_whole_run(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        first = await session.submit([stage.function("runs")])
        await stage.sees("runs")
        plain = await session.submit([stage.quick("plain", priority=9)])
        with dask.annotate(priority=2):
            urgent = await session.submit([stage.quick("urgent")])
        computed = c.compute(handoff.DAG().add_function(stage.quick("computed")), priority=1)
        while s.plugins["handoff"].driver.engine.waiting < 3:
            await asyncio.sleep(0.01)
        stage.cue("runs")
        for run in (first, plain, urgent):
            await run.result()
        await computed
    assert stage.started == ["runs", "urgent", "computed", "plain"]
