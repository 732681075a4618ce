"""Issues of Dask that stand open, each as a program on stock Dask and with its tasks placed."""

from __future__ import annotations

import contextlib

import dask
import dask.array as da
import pytest
from clusters import live, settled
from dask.array.optimization import optimize
from dask.base import collections_to_expr
from dask.utils import key_split
from distributed import Worker
from distributed.utils_test import inc
from stage import until

import handoff_dask as handoff

STOCK, PLACED = "stock", "placed"
both = pytest.mark.parametrize("dask_is", [STOCK, PLACED])


def placing(client, dask_is):
    """Tasks are placed inside, or left to stock Dask, without handoff on the cluster."""
    if dask_is == PLACED:
        return handoff.Handoff(client, dask_tasks="place")
    return contextlib.nullcontext()


def submit(client, stage, name, **options):
    return client.submit(stage.function(name).code, key=name, **options)


def on_workers(scheduler):
    """How many tasks each worker has been given, by its name."""
    return {ws.name: len(ws.processing) for ws in scheduler.workers.values()}


@both
@live(4, 4, worker_kwargs={"resources": {"gpu": 1}})
async def test_free_resources_are_asked_for(c, s, a, b, stage, dask_is):
    """distributed#6467, #9108, #8177: six tasks for two GPUs."""
    async with placing(c, dask_is):
        futures = [submit(c, stage, name, resources={"gpu": 1}) for name in "abcdef"]
        if dask_is == STOCK:
            await until(lambda: sum(on_workers(s).values()) == 6, lambda: "not all bound at once")
        else:
            await settled(s, room=4)
            assert on_workers(s) == {0: 1, 1: 1}
        stage.close()
        assert await c.gather(futures) == list("abcdef")


@both
@live(1, worker_kwargs={"resources": {"gpu": 1}})
async def test_a_new_worker_takes_what_waits(c, s, a, stage, dask_is):
    """distributed#1851."""
    async with placing(c, dask_is):
        futures = [submit(c, stage, name, resources={"gpu": 1}) for name in "abc"]
        await stage.counts(1)
        if dask_is == STOCK:
            await until(lambda: on_workers(s) == {0: 3}, lambda: f"{on_workers(s)}")
        async with Worker(s.address, name="late", nthreads=1, resources={"gpu": 1}) as late:
            if dask_is == STOCK:
                await c.submit(inc, 1, workers=[late.address])  # it works
                assert on_workers(s) == {0: 3, "late": 0}
            else:
                await stage.counts(2)
                assert on_workers(s) == {0: 1, "late": 1}
            stage.close()
            await c.gather(futures)


@both
@live(4, worker_kwargs={"resources": {"cpu": 2}})
async def test_a_small_task_fills_the_gap_before_a_large_one(c, s, a, stage, dask_is):
    """distributed#9116: the head of a worker's queue blocks what is behind it."""
    async with placing(c, dask_is):
        first = submit(c, stage, "first", resources={"cpu": 1})
        await stage.sees("first")
        large = submit(c, stage, "large", resources={"cpu": 2}, priority=1)
        if dask_is == STOCK:
            await until(lambda: "large" in a.state.tasks, lambda: "not bound")
        small = submit(c, stage, "small", resources={"cpu": 1})
        if dask_is == STOCK:
            await until(lambda: "small" in a.state.tasks, lambda: "not bound")
            assert a.state.available_resources == {"cpu": 1}
            assert a.state.tasks["small"].state == "constrained"
        else:
            await stage.sees("small")
        stage.close()
        await c.gather([first, large, small])


@both
@live(2)
async def test_what_no_worker_has_is_an_error(c, s, a, dask_is):
    """distributed#7170, dask#9587."""
    async with placing(c, dask_is):
        future = c.submit(inc, 1, key="impossible", resources={"gpus": 1})
        if dask_is == STOCK:
            await until(lambda: s.tasks.get("impossible") in s.unrunnable, lambda: "not parked")
            assert future.status == "pending"
        else:
            with pytest.raises(handoff.AllocationError, match="'gpus' is offered by no node"):
                await future


@pytest.mark.parametrize("fusing", [True, False])
def test_annotations_are_neither_lost_nor_spread(fusing):
    """dask#7036, dask#10325."""

    def told(make):
        before = da.ones((4, 4), chunks=2) + 1
        with make():
            middle = before.map_blocks(lambda block: block * 2, name="middle")
        expression = collections_to_expr([(middle + 1).sum()]).optimize()
        found = expression.__dask_annotations__().get("resources", {})
        return {key_split(key): len([k for k in found if key_split(k) == key_split(key)]) for key in found}

    with dask.config.set({"array_optimize": optimize, "optimization.fuse.active": fusing}):
        assert told(lambda: dask.annotate(resources={"gpu": 1})) != {"middle": 4}
    with dask.config.set({"optimization.fuse.active": fusing}):
        assert told(lambda: handoff.cost({"gpu": 1})) == {"middle": 4}
