"""What stock Dask does badly with ``resources=``, done well: one test for each failing.

The numbers are those of issues in dask/distributed where there is one.
"""

from __future__ import annotations

import asyncio
import time

import dask
import pytest
from clusters import live, settled
from distributed import KilledWorker, Worker
from stage import until

import handoff_dask as handoff
from handoff_dask import Function


@live(4, 4, worker_kwargs={"resources": {"gpu": 1}})
async def test_free_resources_are_consulted(c, s, a, b, stage):
    """distributed#6467: a worker is sent no more than it has room for; the rest can go elsewhere."""
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function(n, cost={"gpu": 1}) for n in "abcdef"])
        await settled(s, room=4)
        assert [len(ws.processing) for ws in s.workers.values()] == [1, 1]
        await stage.counts(2)
        stage.close()
        await execution


@live(4, 4)
async def test_a_fan_out_spreads(c, s, a, b, stage):
    """distributed#8177: all of a fan-out that has room runs at once, not where its argument is."""
    leaves = [stage.function(f"leaf {n}", ["root"], cost={"cpu": 1}) for n in range(8)]
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.quick("root", cost={"cpu": 1}), *leaves])
        await stage.sees(*[leaf.id for leaf in leaves])
        where = [node for name, node in stage.nodes().items() if name != "root"]
        assert sorted(where) == [*"0000", *"1111"]
        stage.close()
        await execution


@live(1)
async def test_a_worker_that_joins_late_takes_all_that_waits(c, s, a, stage):
    """distributed#1851."""
    names = [f"f{n}" for n in range(8)]
    async with handoff.Handoff(c) as session:
        short = [stage.quick(n, cost={"cpu": 1}) for n in names]
        execution = await session.submit([stage.function("long", cost={"cpu": 1}, priority=1), *short])
        await stage.sees("long")
        await settled(s, room=8)
        async with Worker(s.address, name="late", nthreads=1):
            await stage.sees(*names)
            assert {stage.nodes()[n] for n in names} == {"late"}
            stage.cue("long")
            await execution


@live(4)
async def test_smaller_functions_fill_gaps(c, s, a, stage):
    """Only the head of a worker's queue is tested by Dask."""
    async with handoff.Handoff(c) as session:
        execution = await session.submit(
            [
                stage.function("running", cost={"cpu": 3}, priority=2, duration=60),
                stage.function("large", cost={"cpu": 4}, priority=1, duration=60),
                stage.function("small", cost={"cpu": 1}, duration=0.1),
            ]
        )
        await stage.sees("running", "small")
        await settled(s, room=1)
        assert stage.started == ["running", "small"]
        stage.close()
        await execution


def sleeps_as_long_as_many():
    time.sleep(0.06)


@live(4)
async def test_a_large_function_is_not_starved_by_small_ones(c, s, a, stage):
    """They fill gaps, but its turn does not move away for ever."""
    async with handoff.Handoff(c) as session:
        await session.update_node_resources("0", {"cpu": 2})
        small = [Function(n, [], sleeps_as_long_as_many, cost={"cpu": 1}, duration=0.06) for n in range(60)]
        first = await session.submit(small[:2])
        large = await session.submit([stage.quick("large", cost={"cpu": 2}, duration=0.06)])
        runs = await asyncio.gather(*(session.submit([f]) for f in small[2:]))
        await large
        assert len([run for run in runs if run.status == "pending"]) >= 5
        await asyncio.gather(first.result(), *(run.result() for run in runs))


@live(4)
async def test_what_waits_is_looked_at_again_when_a_worker_gets_more(c, s, a, stage):
    """distributed#6677: by our registration, and by Dask's own ``Worker.set_resources``."""
    dask_timeout = {"handoff.allocation-timeout": "30s"}
    async with handoff.Handoff(c) as session:
        with dask.config.set(dask_timeout):
            one = await session.submit([stage.function("one", cost={"licence": 1})])
            two = await session.submit([stage.function("two", cost={"licence": 1})])
        await until(lambda: s.plugins["handoff"].driver.engine.waiting == 2)
        await session.register_node("0", {"licence": 1})
        await stage.sees("one")
        await session.update_node_resources("0", {"licence": 2})
        await stage.sees("two")
        # Down below what runs, and up again.
        await session.update_node_resources("0", {"licence": 1})
        three = await session.submit([stage.quick("three", cost={"licence": 1})])
        stage.cue("one")
        await one
        await settled(s, room=1)
        stage.cue("two")
        await asyncio.gather(two.result(), three.result())
        assert stage.started == ["one", "two", "three"]


@live(4)
async def test_a_worker_may_change_its_resources(c, s, a, stage):
    """The same through Dask alone."""
    async with handoff.Handoff(c) as session:
        await a.set_resources(cpu=1, licence=1)
        nodes = await session.discover_nodes()
        assert (nodes["0"]["cpu"], nodes["0"]["licence"]) == (1, 1)
        execution = await session.submit([stage.function(n, cost={"licence": 1}) for n in "ab"])
        await stage.sees("a")
        await settled(s, room=1)
        await a.set_resources(licence=2)
        await stage.sees("b")
        await a.set_resources(licence=1)
        more = await session.submit([stage.quick("c", cost={"licence": 1})])
        stage.cue("a")
        await until(lambda: s.tasks[execution.compiled.keys["a"]].state == "memory")
        await settled(s, room=1)
        stage.cue("b")
        await asyncio.gather(execution.result(), more.result())
        assert stage.started == ["a", "b", "c"]


@live(2, config={"distributed.scheduler.allowed-failures": 0})
async def test_a_death_blames_only_what_ran_there(c, s, a, stage):
    """distributed#5234: of those that wait for a worker none is suspected."""
    async with handoff.Handoff(c) as session:
        killer = await session.submit([stage.function("killer", cost={"cpu": 2}, priority=1)])
        await stage.sees("killer")
        names = [f"innocent {n}" for n in range(5)]
        innocent = await session.submit([stage.quick(n, cost={"cpu": 2}) for n in names])
        await settled(s, room=5)
        async with Worker(s.address, name="spare", nthreads=1):
            await session.register_node("spare", {"cpu": 2})
            await stage.sees(*names)
            await s.remove_worker(a.address, stimulus_id="test")
            assert set((await innocent).results) == set(names)
            with pytest.raises(handoff.FunctionFailedError) as caught:
                await killer
            assert isinstance(caught.value.__cause__, KilledWorker)
            stage.cue("killer")


@live(1, config={"distributed.scheduler.allowed-failures": 0})
async def test_those_that_wait_survive_the_death_of_the_only_worker(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        with dask.config.set({"handoff.allocation-timeout": "30s"}):
            killer = await session.submit([stage.function("killer", cost={"cpu": 1}, priority=1)])
            await stage.sees("killer")
            innocent = await session.submit([stage.quick(str(n), cost={"cpu": 1}) for n in range(5)])
        await settled(s, room=5)
        await s.remove_worker(a.address, stimulus_id="test")
        with pytest.raises(handoff.FunctionFailedError):
            await killer
        stage.cue("killer")
        async with Worker(s.address, name="spare", nthreads=1):
            assert len((await innocent).results) == 5


@live(1)
async def test_a_pin_is_a_name_not_an_address(c, s, a, stage):
    """distributed#7346, #8600: it holds for a worker that has come back since."""
    async with handoff.Handoff(c) as session:
        with dask.config.set({"handoff.allocation-timeout": "30s"}):
            async with Worker(s.address, name="special", nthreads=1):
                execution = await session.submit(
                    [stage.function("first", node="0"), stage.quick("second", ["first"], node="special")]
                )
                await stage.sees("first")
        async with Worker(s.address, name="special", nthreads=1) as again:
            stage.cue("first")
            assert (await execution).allocations == {"first": "0", "second": "special"}
            assert again.name == "special"


@live(2)
async def test_costs_survive_what_dask_optimises(c, s, a, stage):
    """dask#7036, #10325: annotations are lost, or leak, when collections are optimised."""
    dag = handoff.DAG()
    for name in "abcd":
        dag.add_function(stage.function(name, cost={"cpu": 1}))
    dag.add_function(stage.quick("all", [*"abcd"], cost={"cpu": 2}))
    async with handoff.Handoff(c):
        future = c.compute(dag, optimize_graph=True)
        await settled(s, room=2)
        await stage.counts(2)
        stage.close()
        assert set(await future) == {*"abcd", "all"}


@live(2)
async def test_what_cannot_run_is_an_error_and_no_hang(c, s, a, stage):
    """distributed#7170."""
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.AllocationError, match="gpu"):
            await session.execute([stage.quick("f", cost={"gpu": 1})])
