"""Clients and sessions that come and go, and functions that are clients themselves."""

from __future__ import annotations

import asyncio
import pickle

import pytest
from clusters import all_forgotten, live, nothing_claimed, settled
from distributed import Client, get_client, secede, worker_client

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import FunctionReady

# ---------------------------------------------------------------------- clients


@live(1)
async def test_an_asynchronous_session_says_how_it_is_entered(c, s, a):
    with pytest.raises(TypeError, match="async with"), handoff.Handoff(c):
        pass


@live(2)
async def test_a_client_that_disconnects_takes_its_dags_along(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        async with Client(s.address, asynchronous=True, set_as_default=False) as other:
            await handoff.Handoff(other).submit(
                [stage.function("runs", cost={"cpu": 2}), stage.function("next", ["runs"])]
            )
            await stage.sees("runs")
            mine = await session.submit([stage.quick("mine", cost={"cpu": 1})])
            await settled(s, room=1)
        stage.cue("runs")
        await mine
        await nothing_claimed(s)
    assert stage.started == ["runs", "mine"]


@live(2)
async def test_two_sessions_of_one_client_hear_of_their_own(c, s, a, stage):
    async with handoff.Handoff(c) as one, handoff.Handoff(c) as two:
        runs = [await session.submit([stage.function(f"{n}")]) for n in range(4) for session in (one, two)]
        stage.close()
        for name in range(4):
            stage.cue(f"{name}")
        await asyncio.gather(*(run.result() for run in runs))
        assert [run.status for run in runs] == ["finished"] * 8


@live(2)
async def test_a_session_that_is_stopped_leaves_another_of_its_client_alone(c, s, a, stage):
    one, two = handoff.Handoff(c), handoff.Handoff(c)
    first = await one.submit([stage.function("first")])
    second = await two.submit([stage.function("second")])
    await stage.sees("first", "second")
    await one.stop()
    assert first.status == "cancelled"
    stage.cue("first", "second")
    assert (await second).results == {"second": "second"}
    await two.stop()


@live(2)
async def test_a_broken_connection_is_not_a_lost_scheduler(c, s, a, stage):
    """Sessions listen on a connection that may be silent for hours."""
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function("f"), stage.function("g", ["f"])])
        await stage.sees("f")
        for name in "fg":
            for comms in [*c.scheduler.pool.occupied.values(), *c.scheduler.pool.available.values()]:
                for comm in list(comms):
                    comm.abort()
            stage.cue(name)
        assert (await execution.result(timeout=20)).results == {"f": "f", "g": "g"}
        assert execution.status == "finished"


@live(2, 2)
async def test_restart_cancels_and_forgets(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        execution = await session.submit(
            [stage.function("runs", cost={"cpu": 1}), stage.quick("next", ["runs"])]
        )
        await stage.sees("runs")
        restart = asyncio.ensure_future(c.restart(wait_for_workers=False))
        stage.cue("runs")
        await restart
        with pytest.raises(handoff.HandoffError):
            await execution.result(timeout=20)
        await all_forgotten(s)


@live(2, config={"distributed.scheduler.no-workers-timeout": "100ms"})
async def test_no_workers_timeout_spares_functions_that_wait_for_room(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        execution = await session.submit(
            [stage.function("runs", cost={"cpu": 2}), stage.quick("waits", cost={"cpu": 2})]
        )
        await stage.sees("runs")
        await settled(s, room=1)
        # A plain task that no worker can run does time out.
        with pytest.raises(Exception, match="timed out"):
            await c.submit(int, workers="nowhere", allow_other_workers=False)
        stage.cue("runs")
        assert set((await execution).results) == {"runs", "waits"}


@live(2)
async def test_a_function_that_somebody_else_gives_up_fails_its_dag(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        execution = await session.submit(
            [stage.function("runs", cost={"cpu": 2}), stage.quick("waits", cost={"cpu": 2})]
        )
        await stage.sees("runs")
        await settled(s, room=1)
        key = execution.compiled.keys["waits"]
        why = pickle.dumps(RuntimeError("enough"))
        s.transitions(s.transition(key, "erred", "test", exception=why, cause=key), "test")
        with pytest.raises(handoff.FunctionFailedError, match="enough"):
            await execution.result(timeout=10)
        stage.cue("runs")
        await nothing_claimed(s)


@live(2)
async def test_a_defect_of_ours_fails_dags_and_hangs_none(c, s, a, stage, monkeypatch, problems):
    async with handoff.Handoff(c) as session:
        await session.start()
        decide = PlacementEngine.handle_all

        def broken(engine, events, *, now):
            if any(isinstance(event, FunctionReady) for event in events):
                raise KeyError("a defect")
            return decide(engine, events, now=now)

        monkeypatch.setattr(PlacementEngine, "handle_all", broken)
        with pytest.raises(handoff.AllocationError, match="a defect"):
            await session.execute([stage.quick("f"), stage.quick("g")], timeout=20)
        with pytest.raises(handoff.AllocationError, match="a defect"):
            await asyncio.wait_for(c.compute(handoff.DAG().add_function(stage.quick("f"))), 20)
        monkeypatch.setattr(PlacementEngine, "handle_all", decide)
        assert (await session.execute([stage.quick("f")])).results == {"f": "f"}
    assert len(problems) >= 2
    problems.clear()


# ---------------------------------------------------------------------- functions that use the cluster


def nested(n):
    if n == 0:
        return 1
    dag = [handoff.Function("inner", [], nested, extra_args=[n - 1]), handoff.Function("more", [], int)]
    return 1 + handoff.execute(dag).results["inner"]


def nested_submit():
    execution = handoff.submit([handoff.Function("inner", [], nested, extra_args=[1])])
    return execution.result().results["inner"] + handoff.get_result(execution, "inner")


def with_client():
    return get_client().submit(pow, 2, 3).result()


def with_worker_client():
    with worker_client() as client:
        return client.submit(pow, 2, 4).result()


def seceding():
    secede()
    return handoff.execute([handoff.Function("x", [], int, extra_args=["7"])]).results["x"]


@live(1)
async def test_functions_may_execute_dags_on_one_thread(c, s, a):
    async with handoff.Handoff(c) as session:
        result = await session.execute([Function("outer", [], nested, extra_args=[3])], timeout=20)
        assert result.results == {"outer": 4}
        result = await session.execute([Function("outer", [], nested_submit)], timeout=20)
        assert result.results == {"outer": 4}
        await nothing_claimed(s)


@live(1)
async def test_functions_may_use_a_client_on_one_thread(c, s, a):
    dag = [
        Function("get_client", [], with_worker_client),
        Function("secede", [], seceding),
    ]
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, timeout=20)
        await nothing_claimed(s)
    assert result.results == {"get_client": 16, "secede": 7}


@live(2)
async def test_functions_may_use_the_workers_client(c, s, a):
    async with handoff.Handoff(c) as session:
        result = await session.execute([Function("f", [], with_client)], timeout=20)
    assert result.results == {"f": 8}
