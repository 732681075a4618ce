"""Dask's own tasks that name resources, placed by handoff: from any interface, with Dask's semantics."""

from __future__ import annotations

import dask
import dask.array as da
import pytest
from clusters import all_forgotten, live, nothing_claimed, settled
from dask.utils import key_split
from distributed import Client, Worker, wait
from distributed.utils_test import inc
from stage import until

import handoff_dask as handoff
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.testing import capture_telemetry


def submit(client, stage, name, **options):
    """Submit one task that ends when it is cued."""
    function = stage.function(name)
    return client.submit(function.code, key=name, **options)


@live(4, 4, worker_kwargs={"resources": {"gpu": 1}})
async def test_a_task_waits_until_a_worker_has_room(c, s, a, b, stage):
    """distributed#6467, #8177: stock Dask sends all six at once, and to one worker if it likes."""
    async with handoff.Handoff(c, dask_tasks="place"):
        futures = [submit(c, stage, n, resources={"gpu": 1}) for n in "abcdef"]
        await settled(s, room=4)
        assert [len(ws.processing) for ws in s.workers.values()] == [1, 1]
        await stage.counts(2)
        stage.close()
        assert await c.gather(futures) == list("abcdef")
        await nothing_claimed(s)
        del futures
        await all_forgotten(s)


@live(1, worker_kwargs={"resources": {"gpu": 1}})
async def test_a_worker_that_joins_late_takes_what_waits(c, s, a, stage):
    """distributed#1851."""
    async with handoff.Handoff(c, dask_tasks="place"):
        first = submit(c, stage, "first", resources={"gpu": 1})
        await stage.sees("first")
        second = submit(c, stage, "second", resources={"gpu": 1})
        await settled(s, room=1)
        async with Worker(s.address, name="late", nthreads=1, resources={"gpu": 1}):
            await stage.sees("second")
            assert stage.nodes()["second"] == "late"
            stage.close()
            await wait([first, second])


@live(4)
async def test_what_no_worker_can_hold_fails_with_the_reason(c, s, a):
    """distributed#7170: stock Dask waits for ever, and says nothing."""
    async with handoff.Handoff(c, dask_tasks="place"):
        future = c.submit(inc, 1, resources={"cpu": 5}, key="large")
        with pytest.raises(handoff.AllocationError, match="needs cpu 5, has 4") as failure:
            await future
        assert failure.value.function_id == "large"
        assert await c.submit(inc, 1, resources={"cpu": 4}) == 2


@live(4, 4, worker_kwargs={"resources": {"gpu": 1}})
async def test_by_default_nothing_changes(c, s, a, b, stage):
    async with handoff.Handoff(c):
        futures = [submit(c, stage, n, resources={"gpu": 1}) for n in "abc"]
        await until(lambda: sum(len(ws.processing) for ws in s.workers.values()) == 3, lambda: "not sent")
        assert all(s.tasks[n].resource_restrictions == {"gpu": 1} for n in "abc")
        assert not s.plugins["handoff"].runs.functions
        stage.close()
        await wait(futures)


@live(4, 4, worker_kwargs={"resources": {"gpu": 1}}, config={"handoff.dask-tasks": "place"})
async def test_the_configuration_of_the_scheduler_says_it_too(c, s, a, b, stage):
    async with handoff.Handoff(c):
        futures = [submit(c, stage, n, resources={"gpu": 1}) for n in "abc"]
        await settled(s, room=1)
        stage.close()
        await wait(futures)


@live(1)
async def test_unknown_modes_are_refused(c, s, a):
    with pytest.raises(handoff.ValidationError, match="give 'place' or 'count'"):
        handoff.Handoff(c, dask_tasks="yes")


@live(4)
async def test_tasks_that_are_parked_already_are_taken_over(c, s, a):
    future = c.submit(inc, 1, resources={"gpu": 1})
    after = c.submit(inc, future, resources={"gpu": 1})
    await until(lambda: s.tasks.get(future.key) in s.unrunnable, lambda: "not parked")
    async with handoff.Handoff(c, dask_tasks="place") as session:
        with pytest.raises(handoff.AllocationError):
            await future
        await session.register_node("0", {"gpu": 1})
        await after.retry()
        assert await after == 3


@live(1, 1, worker_kwargs={"resources": {"gpu": 1}})
async def test_users_words_about_workers_hold(c, s, a, b, stage):
    async with handoff.Handoff(c, dask_tasks="place"):
        tasks = {
            "address": {"workers": [b.address]},
            "name": {"workers": b.name},
            "loose": {"workers": [a.address], "allow_other_workers": True},
            "nowhere": {"workers": ["127.0.0.1:1"], "allow_other_workers": True},
        }
        stage.close()
        for name, options in tasks.items():
            await submit(c, stage, name, resources={"gpu": 1}, **options)
        where = stage.nodes()
        assert (where["address"], where["name"], where["loose"]) == ("1", "1", "0")
        assert "nowhere" in where
        with pytest.raises(handoff.AllocationError, match="not among the nodes"):
            await c.submit(inc, 1, workers=["127.0.0.1:1"], resources={"gpu": 1})


@live(1, worker_kwargs={"resources": {"gpu": 1}})
async def test_priorities_and_the_order_of_graphs_hold(c, s, a, stage):
    """Larger priorities first, earlier graphs first, and Dask's own order within a graph."""
    async with handoff.Handoff(c, dask_tasks="place"):
        blocker = submit(c, stage, "blocker", resources={"gpu": 1})
        await stage.sees("blocker")
        low = submit(c, stage, "low", resources={"gpu": 1}, priority=-1)
        first = submit(c, stage, "first", resources={"gpu": 1})
        second = submit(c, stage, "second", resources={"gpu": 1})
        high = submit(c, stage, "high", resources={"gpu": 1}, priority=1)
        await settled(s, room=4)
        stage.close()
        await wait([blocker, low, first, second, high])
        assert stage.started == ["blocker", "high", "first", "second", "low"]


@live(1)
async def test_retries_hold(c, s, a):
    attempts = []

    def fails_twice(_attempts=attempts):
        from distributed import get_worker

        counts = get_worker().__dict__.setdefault("counts", [])
        counts.append(1)
        if len(counts) < 3:
            raise ValueError("not yet")
        return len(counts)

    async with handoff.Handoff(c, dask_tasks="place"):
        assert await c.submit(fails_twice, resources={"cpu": 1}, retries=2) == 3
        with pytest.raises(ZeroDivisionError):
            await c.submit(lambda: 1 / 0, resources={"cpu": 1})
        await nothing_claimed(s)


@live(1)
async def test_a_cancelled_task_never_starts(c, s, a, stage):
    async with handoff.Handoff(c, dask_tasks="place"):
        blocker = submit(c, stage, "blocker", resources={"cpu": 1})
        waits = submit(c, stage, "waits", resources={"cpu": 1})
        await stage.sees("blocker")
        await settled(s, room=1)
        await waits.cancel()
        # Dask's client does not wait until its scheduler has heard of it.
        await until(lambda: "waits" not in s.tasks, lambda: "not forgotten")
        stage.close()
        await blocker
        await nothing_claimed(s)
        assert stage.started == ["blocker"]


@live(1, worker_kwargs={"resources": {"gpu": 1}})
async def test_actors_and_tasks_without_resources_are_left_to_dask(c, s, a):
    class Counter:
        def get(self):
            return 3

    async with handoff.Handoff(c, dask_tasks="place"):
        actor = await c.submit(Counter, actor=True, resources={"gpu": 1}, key="actor")
        assert await actor.get() == 3
        assert await c.submit(inc, 1, key="plain") == 2
        assert not s.plugins["handoff"].runs.functions


@live()
async def test_persisted_tasks_outlive_the_client_that_made_them(c, s, a, b):
    async with handoff.Handoff(c, dask_tasks="place"):
        async with Client(s.address, asynchronous=True) as other:
            with handoff.cost({"cpu": 1}):
                ones = da.ones(4, chunks=2).map_blocks(lambda block: block + 1)
            await other.publish_dataset(other.persist(ones), name="ones")
        found = await c.get_dataset("ones")
        assert (await c.compute(found.sum())) == 8


@live()
async def test_lost_results_are_computed_again_in_place(c, s, a, b):
    async with handoff.Handoff(c, dask_tasks="place"):
        future = c.submit(inc, 1, resources={"cpu": 2}, key="two")
        assert await future == 2
        async with Worker(s.address, name="2", nthreads=2):
            await b.close()
            assert await future == 2
            await nothing_claimed(s)


@live(1)
async def test_a_task_that_waits_can_be_explained(c, s, a, stage):
    async with handoff.Handoff(c, dask_tasks="place") as session:
        blocker = submit(c, stage, "blocker", resources={"cpu": 1})
        waits = c.submit(stage.function("waits").code, key=("waits", 0), resources={"cpu": 1})
        await stage.sees("blocker")
        await settled(s, room=1)
        told = await session.explain(("waits", 0))
        assert told.status == "waiting"
        assert "blocker" in str(told)
        assert (await session.explain(waits)).function_id == ("waits", 0)
        with pytest.raises(handoff.NotFoundError):
            await session.explain("unheard of")
        stage.close()
        await wait([blocker, waits])
        assert (await session.explain(blocker)).status == "finished"


@live()
async def test_they_are_in_telemetry_without_a_dag(c, s, a, b):
    with capture_telemetry() as captured:
        async with handoff.Handoff(c, dask_tasks="place"):
            # A result of Dask's comes by another way than what is told of it, for which the end waits.
            await c.submit(inc, 1, resources={"cpu": 1}, key="counted")
    captured.balance()
    told = [e for e in captured if e.event[1] != "node"]
    assert {e.event[1:] for e in told} == {
        ("allocation", "function"),
        ("resources", "claim"),
        ("execution", "function", "start"),
        ("execution", "function", "stop"),
        ("resources", "release"),
    }
    assert all((e.metadata["dag_id"], e.metadata["function_id"]) == (None, "counted") for e in told)


@live(4, 4)
async def test_labels_pins_and_fractions_of_a_cost_hold(c, s, a, b, stage):
    async with handoff.Handoff(c, dask_tasks="place") as session:
        await session.register_node("1", {"zone": ["eu"], "cpu": 1})
        with handoff.cost({"zone": "eu", "cpu": 0.5}):
            inside = [submit(c, stage, n) for n in "ab"]
        with handoff.cost({"cpu": 1}, node="1", duration=1):
            pinned = submit(c, stage, "pinned")
        await stage.sees("a", "b")
        await settled(s, pin=1)
        stage.close()
        await wait([*inside, pinned])
        assert set(stage.nodes().values()) == {"1"}


@live(2)
async def test_dags_and_tasks_share_the_room(c, s, a, stage):
    async with handoff.Handoff(c, dask_tasks="place") as session:
        task = submit(c, stage, "task", resources={"cpu": 2})
        await stage.sees("task")
        execution = await session.submit([stage.function("function", cost={"cpu": 1})])
        await settled(s, room=1)
        stage.close()
        await wait([task])
        await execution


@live()
async def test_worker_clients_do_not_wait_for_themselves(c, s, a, b):
    def outer():
        from distributed import worker_client

        with worker_client() as client:
            return client.submit(inc, 1, resources={"cpu": 1}).result()

    async with handoff.Handoff(c, dask_tasks="place"):
        assert await c.submit(outer, resources={"cpu": 1}) == 2
        await nothing_claimed(s)


@live(2, 2)
async def test_every_interface_of_dask_is_placed(c, s, a, b):
    with capture_telemetry() as captured:
        async with handoff.Handoff(c, dask_tasks="place"):
            assert await c.gather(c.map(inc, range(3), resources={"cpu": 1}, key="mapped")) == [1, 2, 3]
            with dask.annotate(resources={"cpu": 1}):
                delayed = dask.delayed(inc)(1, dask_key_name="delayed")
                array = da.ones(4, chunks=2).map_blocks(lambda block: block + 1, name="blocks")
            assert await c.compute(delayed) == 2
            assert await c.compute(array.sum()) == 8
    placed = [e.metadata["function_id"] for e in captured if e.event[1:] == ("allocation", "function")]
    assert sorted(map(key_split, placed)) == ["blocks", "blocks", "delayed", "mapped", "mapped", "mapped"]


@live(1)
async def test_what_cannot_be_taken_over_fails_and_does_not_wait(c, s, a, monkeypatch, problems):
    """What a hook raises is logged by Dask, which goes on."""
    async with handoff.Handoff(c, dask_tasks="place"):
        ranks = s.plugins["handoff"].ranks
        with monkeypatch.context() as patched:
            patched.setattr(ranks, "order", lambda run: 1 / 0)
            future = c.submit(inc, 1, resources={"cpu": 1}, key="broken")
            with pytest.raises(handoff.HandoffError, match="could not place this task: ZeroDivisionError"):
                await future
        assert await c.submit(inc, 1, resources={"cpu": 1}, key="whole") == 2
        del future
        await all_forgotten(s)
    assert "ZeroDivisionError" in problems[0]
    problems.clear()


@live(1)
async def test_tasks_of_one_client_are_one_row_of_the_page(c, s, a, stage):
    async with handoff.Handoff(c, dask_tasks="place"):
        futures = [submit(c, stage, name, resources={"cpu": 1}) for name in "abc"]
        await stage.counts(1)
        await settled(s, room=2)
        views = s.plugins["handoff"].views
        (row,), (waiting,) = views.runs(), views.waiting()
        assert (row["dag_id"], row["status"], row["functions"]) == (f"tasks of {c.id}", "running", 3)
        assert row["states"] == {"running": 1, "waiting": 2}
        assert (waiting["count"], waiting["functions"]) == (2, ["b", "c"])
        stage.close()
        await wait(futures)


@live(1)
async def test_a_task_waits_for_the_report_of_a_worker_that_has_just_connected(c, s, a, monkeypatch):
    async with handoff.Handoff(c, dask_tasks="place"):
        plugin, held = s.plugins["handoff"], []
        report = Nodes.report
        monkeypatch.setattr(Nodes, "report", lambda nodes, *said: held.append(said) or [])
        async with Worker(s.address, name="late", nthreads=1, resources={"gpu": 1}):
            await until(lambda: held, lambda: "no report")
            future = c.submit(inc, 1, resources={"gpu": 1})
            other = c.submit(inc, 2, resources={"gpu": 9})
            await until(lambda: s.tasks.get(other.key) in s.unrunnable, lambda: "not parked")
            # It has been offered, and offered again.
            await until(lambda: sum(plugin.metrics.decisions().values()) > 4, lambda: "not offered again")
            assert future.status == "pending"
            monkeypatch.undo()
            plugin.nodes_changed(report(plugin.nodes, *held[0]))
            assert await future == 2
            with pytest.raises(handoff.AllocationError, match="needs gpu 9, has 1"):
                await other
