"""How much is in the workers' memory at most, beside stock Dask (distributed#9164, distributed#6360)."""

from __future__ import annotations

import time

import dask
from clusters import live, settled
from distributed import SchedulerPlugin

import handoff_dask as handoff

COUNT = 40
#: Of one result, in bytes.
SIZE = 10_000_000
THREADS = 6
#: One result for each thread, and copies of those that are on their way to another worker.
LIMIT = THREADS + 3


class Block:
    """Says that it is large."""

    def __sizeof__(self):
        return SIZE


class Peak(SchedulerPlugin):
    """The most results that were on workers at once."""

    def __init__(self, scheduler):
        self.scheduler, self.most = scheduler, 0
        scheduler.add_plugin(self, name="peak")

    def transition(self, key, start, finish, *args, **kwargs):
        held = sum(ws.nbytes for ws in self.scheduler.workers.values())
        self.most = max(self.most, held // SIZE)


def produce(number):
    time.sleep(0.01)
    return Block()


def consume(*blocks):
    time.sleep(0.04)
    return len(blocks)


def pipeline(**resources):
    """Producers on any core, consumers on the one gpu."""
    found = []
    for number in range(COUNT):
        with dask.annotate(**({"resources": {"cpu": 1}} if resources else {})):
            block = dask.delayed(produce)(number, dask_key_name=f"produce-{number}")
        with dask.annotate(**({"resources": resources} if resources else {})):
            found.append(dask.delayed(consume)(block, dask_key_name=f"consume-{number}"))
    return dask.delayed(sum)(found)


def gated(**resources):
    """Roots that ask for something each worker has once; what takes them asks for nothing."""
    with dask.annotate(**({"resources": resources} if resources else {})):
        roots = [dask.delayed(produce)(number, dask_key_name=f"root-{number}") for number in range(COUNT)]
    taken = [dask.delayed(consume)(*roots[n : n + 2]) for n in range(0, COUNT, 2)]
    return dask.delayed(sum)(taken)


NODES = {"worker_kwargs": {"resources": {"cpu": 3, "root": 1}}}


@live(3, 3, **NODES)
async def test_producers_wait_for_the_consumers_of_one_gpu(c, s, a, b):
    await a.set_resources(gpu=1)
    peak = Peak(s)
    assert await c.compute(pipeline()) == COUNT
    as_dask_orders, peak.most = peak.most, 0
    async with handoff.Handoff(c, dask_tasks="count"):
        assert await c.compute(pipeline(gpu=1)) == COUNT
    stock, peak.most = peak.most, 0
    async with handoff.Handoff(c, dask_tasks="place"):
        assert await c.compute(pipeline(gpu=1)) == COUNT
    assert as_dask_orders <= LIMIT
    assert peak.most <= LIMIT
    assert stock > 2 * LIMIT


@live(3, 3, **NODES)
async def test_the_same_holds_of_a_dag(c, s, a, b):
    await a.set_resources(gpu=1)
    peak = Peak(s)
    dag = handoff.DAG()
    for number in range(COUNT):
        dag.add_function(("produce", number), code=produce, extra_args=(number,), cost={"cpu": 1})
        dag.add_function(("consume", number), [("produce", number)], consume, cost={"gpu": 1})
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, outputs=[("consume", n) for n in range(COUNT)])
    assert set(result.results.values()) == {1}
    assert peak.most <= LIMIT


@live(3, 3, **NODES)
async def test_roots_gated_by_a_resource_need_no_more_than_stock(c, s, a, b):
    """The experiment of distributed#6360."""
    peak = Peak(s)
    assert await c.compute(gated()) == COUNT
    as_dask_orders, peak.most = peak.most, 0
    async with handoff.Handoff(c, dask_tasks="place"):
        assert await c.compute(gated(root=1)) == COUNT
    assert peak.most <= 1.5 * as_dask_orders


@live(2, worker_kwargs={"resources": {"cpu": 2, "gpu": 1}})
async def test_what_is_held_back_says_so(c, s, a, stage):
    """Two threads: one consumer has the gpu, the next one waits for it."""
    dag = [
        stage.quick("block", value=Block(), cost={"cpu": 1}, priority=1),
        stage.quick("other block", value=Block(), cost={"cpu": 1}, priority=1),
        stage.function("has", ["block"], cost={"gpu": 1}),
        stage.function("waits", ["other block"], cost={"gpu": 1}),
        stage.function("adds", cost={"cpu": 2}),
    ]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag, outputs=["has", "waits", "adds"])
        await stage.sees("has")
        await settled(s, **{"held back": 1, "room": 1})
        why = await execution.explain("adds")
        assert (why.status, why.cause) == ("waiting", "held back")
        assert "2 threads" in str(why.nodes["0"])
        stage.close()
        await execution
