"""Nodes that die, pause, retire, come back or come late."""

from __future__ import annotations

import asyncio

import dask
import pytest
from clusters import all_forgotten, engine_of, live, nothing_claimed, settled
from distributed import KilledWorker, Status, Worker
from stage import until

import handoff_dask as handoff
from handoff_dask import Collocated, Function
from handoff_dask.errors import SchedulerLostError


async def kill(scheduler, worker):
    """What the scheduler sees when a machine is switched off."""
    await scheduler.remove_worker(worker.address, stimulus_id="test-kill")


def one_more(value):
    return value + 1


# ---------------------------------------------------------------------- dying


@live(2, 2)
async def test_what_ran_on_a_dead_node_moves_and_uses_no_retry(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function("f", value=1, cost={"cpu": 1})], max_retries=0)
        await stage.sees("f")
        assert stage.nodes() == {"f": "0"}
        await kill(s, a)
        await stage.sees("f", "f")
        stage.cue("f")
        result = await execution
    assert result.results == {"f": 1}
    assert result.allocations == {"f": "1"}
    assert result.timings["f"].attempts == 2


@live(2, 2)
async def test_a_function_moves_only_when_there_is_room(c, s, a, b, stage):
    dag = [
        stage.function("mine", cost={"cpu": 2}, node="1"),
        stage.function("moves", cost={"cpu": 2}, priority=-1),
    ]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await stage.sees("mine", "moves")
        await kill(s, a)
        await settled(s, room=1)
        assert stage.started.count("moves") == 1
        stage.cue("mine")
        await stage.sees("moves", "moves")
        stage.cue("moves")
        result = await execution
    assert result.allocations == {"mine": "1", "moves": "1"}


@live(1, 1)
async def test_a_lost_result_is_computed_again_through_the_same_allocation(c, s, a, b, stage):
    dag = [
        stage.quick("producer", value=1, cost={"cpu": 1}),
        stage.function("busy", cost={"cpu": 1}, node="1"),
        stage.function("consumer", ["producer", "busy"], value=3, cost={"cpu": 1}),
    ]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag, outputs=["consumer"])
        await stage.sees("producer", "busy")
        await until(lambda: s.tasks[execution.compiled.keys["producer"]].who_has)
        assert stage.nodes() == {"producer": "0", "busy": "1"}
        await kill(s, a)
        # It waits for room like anybody.
        await settled(s, room=1)
        assert stage.started.count("producer") == 1
        stage.cue("busy")
        await stage.sees("producer", "producer", "consumer")
        stage.cue("consumer")
        result = await execution
    assert result.results == {"consumer": 3}
    assert result.allocations == {"producer": "1", "busy": "1", "consumer": "1"}
    assert result.timings["producer"].attempts == 2


@live(1, 1)
async def test_a_lost_result_that_is_wanted_is_computed_again(c, s, a, b, stage):
    dag = [stage.quick("first", value=1), stage.function("second")]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await stage.sees("first", "second")
        await until(lambda: s.tasks[execution.compiled.keys["first"]].who_has)
        lost = a if stage.nodes()["first"] == "0" else b
        await kill(s, lost)
        stage.cue("second")
        assert (await execution).results == {"first": 1, "second": "second"}


@live(2, 2, 2)
async def test_a_group_moves_as_one(c, s, w0, w1, w2, stage):
    dag = [
        stage.quick("first", cost={"cpu": 1}),
        stage.function("second", ["first"], cost={"cpu": 1}, node=Collocated("first")),
        stage.quick("third", ["second"], cost={"cpu": 2}, node=Collocated("second")),
    ]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await stage.sees("second")
        assert set(stage.nodes().values()) == {"0"}
        await kill(s, w0)
        await stage.sees("second", "second")
        stage.cue("second")
        result = await execution
    assert len(set(result.allocations.values())) == 1
    assert "0" not in result.allocations.values()


@live(2, 2)
async def test_a_node_that_is_needed_and_gone_is_an_error(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        await session.register_node("0", {"ssd": True})
        execution = await session.submit(
            [stage.function("f", cost={"ssd": True}), stage.quick("next", ["f"])]
        )
        await stage.sees("f")
        await kill(s, a)
        with pytest.raises(handoff.AllocationError) as caught:
            await execution.result(timeout=10)
        assert caught.value.function_id == "f"
        assert set(caught.value.reasons) == {"1"}
        assert execution.status == "failed"
        stage.cue("f")
        await nothing_claimed(s)
        # Later functions of other DAGs are refused at once.
        with pytest.raises(handoff.AllocationError):
            await session.submit([stage.quick("pinned", node="0")])


@live(1, 1)
async def test_the_last_node_goes(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function("f")])
        await stage.sees("f")
        await kill(s, a)
        await kill(s, b)
        with pytest.raises(handoff.AllocationError, match="no nodes"):
            await execution.result(timeout=10)
        stage.cue("f")
        with pytest.raises(handoff.AllocationError, match="no nodes"):
            await session.execute([stage.quick("g")])


@live(1, config={"distributed.scheduler.allowed-failures": 0})
async def test_a_function_that_kills_its_workers_is_ended_by_dask(c, s, a, stage):
    async with handoff.Handoff(c) as session, Worker(s.address, name="spare", nthreads=1):
        execution = await session.submit([stage.function("killer", cost={"cpu": 1})])
        await stage.sees("killer")
        await kill(s, a)
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await execution.result(timeout=10)
        stage.cue("killer")
        assert isinstance(caught.value.__cause__, KilledWorker)
        assert (caught.value.function_id, caught.value.node, caught.value.attempts) == ("killer", "0", 1)
        await nothing_claimed(s)


@live(1, 1, config={"distributed.scheduler.allowed-failures": 1})
async def test_dasks_limit_counts_deaths(c, s, a, b, stage):
    async with handoff.Handoff(c) as session, Worker(s.address, name="spare", nthreads=1):
        execution = await session.submit([stage.function("killer", cost={"cpu": 1})], max_retries=9)
        await stage.sees("killer")
        await kill(s, a)
        await stage.sees("killer", "killer")
        await kill(s, b)
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await execution.result(timeout=10)
        stage.cue("killer")
        assert isinstance(caught.value.__cause__, KilledWorker)
        assert (caught.value.node, caught.value.attempts) == ("1", 2)


# ---------------------------------------------------------------------- pausing, retiring

#: Else a worker's memory monitor, at its next look, lets it go on.
STAYS_PAUSED = {"distributed.worker.memory.pause": False}


@live(2, 2, config=STAYS_PAUSED)
async def test_a_paused_node_gets_nothing_new(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        await session.start()
        a.status = Status.paused
        await until(lambda: s.workers[a.address].status == Status.paused)
        execution = await session.submit([stage.function(n, cost={"cpu": 1}) for n in ("f", "g", "h")])
        await settled(s, room=1)
        await stage.counts(2)
        assert stage.nodes() == {"f": "1", "g": "1"}
        assert not await session.resources_available("0", {"cpu": 1})
        a.status = Status.running
        await stage.sees("h")
        assert stage.nodes()["h"] == "0"
        stage.close()
        await execution


@live(2, 2, config=STAYS_PAUSED)
async def test_a_function_that_fits_only_a_paused_node_waits(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        await session.start()
        a.status = Status.paused
        await until(lambda: s.workers[a.address].status == Status.paused)
        execution = await session.submit([stage.quick("f", node="0", cost={"cpu": 1})])
        await until(lambda: engine_of(s).waiting == 1)
        assert stage.story == []
        a.status = Status.running
        assert (await execution).allocations == {"f": "0"}


@live(2, 2)
async def test_a_node_that_retires_hands_over_its_results(c, s, a, b, stage):
    dag = [
        stage.quick("on 0", node="0", value=1),
        stage.function("running", cost={"cpu": 2}),
        Function("sum", ["on 0"], one_more, cost={"cpu": 1}),
    ]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await stage.sees("on 0", "running")
        # A result that the scheduler has not heard of cannot be handed over.
        await execution.get_result("on 0")
        retiring = asyncio.ensure_future(c.retire_workers([a.address]))
        await until(lambda: a.address not in s.workers or s.workers[a.address].status != Status.running)
        stage.cue("running")
        await retiring
        assert (await execution).results == {"on 0": 1, "running": "running", "sum": 2}
        assert set(await session.discover_nodes()) == {"1"}
        await nothing_claimed(s)


# ---------------------------------------------------------------------- coming late, coming back


@live(1)
async def test_a_node_that_comes_late_gets_work_and_needs_no_start(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function(n, cost={"cpu": 1}) for n in ("f", "g")])
        await stage.sees("f")
        await settled(s, room=1)
        async with Worker(s.address, name="late", nthreads=3):
            await stage.sees("g")
            assert stage.nodes() == {"f": "0", "g": "late"}
            stage.close()
            result = await execution
            assert result.allocations == {"f": "0", "g": "late"}
            assert set(await session.discover_nodes()) == {"0", "late"}


@live(1)
async def test_a_function_may_wait_for_a_node_that_could_hold_it(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        with dask.config.set({"handoff.allocation-timeout": "30s"}):
            execution = await session.submit(
                [stage.quick("small"), stage.quick("large", ["small"], cost={"cpu": 3})]
            )
        assert await execution.get_result("small", timeout=10) == "small"
        await until(lambda: engine_of(s).waiting == 1)
        assert execution.status == "running"
        async with Worker(s.address, name="late", nthreads=3):
            result = await execution
            assert result.allocations == {"small": "0", "large": "late"}


@live(1)
async def test_it_does_not_wait_for_ever(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        with dask.config.set({"handoff.allocation-timeout": 0.1}):
            execution = await session.submit(
                [stage.function("small", cost={"cpu": 1}), stage.quick("large", ["small"], cost={"cpu": 3})]
            )
        await stage.sees("small")
        # The time runs only from when the function is ready.
        await asyncio.sleep(0.2)
        assert execution.status == "running"
        stage.cue("small")
        with pytest.raises(handoff.AllocationError) as caught:
            await execution.result(timeout=10)
        assert caught.value.function_id == "large"
        assert "cpu" in caught.value.reasons["0"]
        assert execution.status == "failed"


@live(1)
async def test_a_pin_by_name_follows_whoever_bears_the_name(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        async with Worker(s.address, name="special", nthreads=1) as first:
            with dask.config.set({"handoff.allocation-timeout": "30s"}):
                execution = await session.submit(
                    [stage.function("f", node="special"), stage.quick("g", ["f"], node="special")]
                )
            await stage.sees("f")
            await kill(s, first)
            stage.cue("f")
        await until(lambda: engine_of(s).waiting == 1)
        async with Worker(s.address, name="special", nthreads=1) as second:
            result = await execution
            assert second.address != first.address
        assert result.allocations == {"f": "special", "g": "special"}
        assert result.timings["f"].attempts == 2


# ---------------------------------------------------------------------- the scheduler


@live(1)
async def test_a_lost_scheduler_is_an_error_and_no_hang(c, s, a, stage):
    session = await handoff.Handoff(c).start()
    execution = await session.submit([stage.function("f")])
    await stage.sees("f")
    closing = asyncio.ensure_future(s.close())
    with pytest.raises(handoff.HandoffError, match="scheduler"):
        await execution.result(timeout=20)
    assert execution.status == "failed"
    stage.cue("f")
    await closing
    with pytest.raises((handoff.HandoffError, OSError)):
        await session.submit([stage.quick("g")])
    await session.stop()


@live(1)
async def test_connections_that_dask_has_closed_are_a_lost_scheduler(c, s, a):
    """Dask's client closes them when it has lost the scheduler, and says a RuntimeError."""
    session = await handoff.Handoff(c).start()
    await c.rpc.close()
    with pytest.raises(SchedulerLostError, match="ConnectionPool is closed"):
        await session.link.ask("ping")
    await session.stop()


@live(1, 1)
async def test_workers_that_do_not_report_are_no_nodes(c, s, a, b, stage, monkeypatch):
    """One where handoff_dask is not installed, say."""
    monkeypatch.setattr("handoff_dask.scheduler.nodes.REPORT_S", 0.2)
    async with handoff.Handoff(c) as session:
        await session.start()
        setup = "handoff_dask.worker.plugin.HandoffWorkerPlugin.setup"

        async def not_installed(self, worker):
            raise ModuleNotFoundError("handoff_dask")

        monkeypatch.setattr(setup, not_installed)
        async with Worker(s.address, name="bare", nthreads=4):
            await until(lambda: len(s.workers) == 3)
            result = await session.execute([stage.quick(f"{n}", cost={"cpu": 1}) for n in range(6)])
            assert set(result.allocations.values()) <= {"0", "1"}
            assert set(await session.discover_nodes()) == {"0", "1"}
            with pytest.raises(handoff.AllocationError):
                await session.execute([stage.quick("f", node="bare")])
    await all_forgotten(s)
