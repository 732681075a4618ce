"""Resources that the whole cluster shares: registered, held, adjusted, shown."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from clusters import engine_of, live, nothing_claimed, settled
from distributed import Client, LocalCluster
from pages import clustered, document, fetch_json
from stage import Stage

import handoff_dask as handoff
from handoff_dask import Function, ValidationError
from handoff_dask.scheduler import page


def took(seconds):
    """When it began and ended."""
    began = time.time()
    time.sleep(seconds)
    return began, time.time()


def most_at_once(spans):
    """How many of these overlap, at most."""
    events = sorted([(began, 1) for began, _ in spans] + [(ended, -1) for _, ended in spans])
    count = most = 0
    for _, step in events:
        count += step
        most = max(most, count)
    return most


@live(4, 4)
async def test_functions_of_all_dags_draw_from_one_amount(client, scheduler, *workers):
    session = await handoff.start(client)
    await session.register_shared("licence", 3)
    assert await session.shared_resources() == {"licence": 3}
    dags = [
        [Function(i, [], took, extra_args=[0.05], cost={"licence": 1}) for i in range(6)] for _ in range(2)
    ]

    executions = [await session.submit(dag) for dag in dags]
    spans = [span for execution in executions for span in (await execution).results.values()]

    assert most_at_once(spans) == 3
    await nothing_claimed(scheduler)
    assert engine_of(scheduler).shared() == {"licence": (3_000_000, 0)}


@live(8)
async def test_an_amount_is_adjusted_while_functions_run(client, scheduler, worker):
    stage = Stage()
    session = await handoff.start(client)
    await session.register_shared("licence", 1)
    execution = await session.submit([stage.function(n, cost={"licence": 1}) for n in ("a", "b", "c", "d")])
    await stage.counts(1)
    await settled(scheduler, shared=3)
    assert (await execution.explain(next(n for n in "abcd" if n not in stage.started))).cause == "shared"

    await session.register_shared("licence", 3)
    await stage.counts(3)
    await session.register_shared("licence", 2)
    stage.cue(stage.started[0])
    await settled(scheduler, shared=1)
    assert len(stage.started) == 3
    stage.close()
    await execution
    await nothing_claimed(scheduler)


@live(2)
async def test_what_cannot_be_shared_is_refused(client, scheduler, worker):
    session = await handoff.start(client)
    await session.update_node_resources("0", {"fpga": 1})
    with pytest.raises(ValidationError, match=r"node '0' declares it"):
        await session.register_shared("fpga", 4)
    with pytest.raises(ValidationError, match="declares it"):
        await session.register_shared("cpu", 4)
    for name, amount in [("", 1), (7, 1), ("x", -1), ("x", float("nan")), ("x", "8"), ("price", 1)]:
        with pytest.raises(ValidationError):
            await session.register_shared(name, amount)
    await session.register_shared("licence", 8)
    with pytest.raises(ValidationError, match="shared by the whole cluster"):
        await session.register_node("0", {"cpu": 1, "licence": 2})
    confined = [{"node": "0", "capabilities": {"licence": 2}}]
    with pytest.raises(ValidationError, match="shared by the whole cluster"):
        await session.execute([Function("f", [], int, cost={"licence": 1})], resources=confined)
    assert await session.shared_resources() == {"licence": 8}


@live(2)
async def test_more_than_there_is_is_refused_before_anything_runs(client, scheduler, worker):
    session = await handoff.start(client)
    await session.register_shared("licence", 2)
    with pytest.raises(handoff.AllocationError, match="needs licence 3, has 2 "):
        await session.execute([Function("f", [], int, cost={"licence": 3})])
    with pytest.raises(handoff.AllocationError, match="did you mean 'licence'"):
        await session.execute([Function("f", [], int, cost={"license": 1})])
    with pytest.raises(handoff.AllocationError, match="needs cpu 9, has 2"):
        await session.execute([Function("f", [], int, cost={"licence": 1, "cpu": 9})])


@live(2)
async def test_what_a_worker_declares_of_it_is_no_matter(client, scheduler, worker):
    session = await handoff.start(client)
    await session.register_shared("licence", 1)
    await worker.set_resources(licence=5)

    assert "licence" not in (await session.discover_nodes())["0"]
    assert (await session.execute([Function("f", [], int, cost={"licence": 1})])).results == {"f": 0}


@live(2)
async def test_a_client_claims_of_it_too(client, scheduler, worker):
    session = await handoff.start(client)
    await session.register_shared("licence", 2)
    tracker = session.resource_tracker
    assert await tracker.request("0", {"licence": 2})
    assert not await tracker.request("0", {"licence": 1})
    execution = await session.submit([Function("f", [], int, cost={"licence": 1})])
    await settled(scheduler, shared=1)
    await tracker.release("0", {"licence": 1})
    assert (await execution).results == {"f": 0}
    async with Client(scheduler.address, asynchronous=True) as other, handoff.Handoff(other) as second:
        assert await second.resource_tracker.request("0", {"licence": 1})
        assert engine_of(scheduler).shared() == {"licence": (2_000_000, 2_000_000)}
    await settled(scheduler)
    assert engine_of(scheduler).shared() == {"licence": (2_000_000, 1_000_000)}


@live(2)
async def test_a_tracker_of_the_users_is_asked_of_nodes_alone(client, scheduler, worker):
    session = await handoff.start(client, resource_tracker=handoff.SimpleResourceTracker())
    await session.register_shared("licence", 1)

    result = await session.execute([Function("f", [], int, cost={"licence": 1, "cpu": 1})])

    assert result.results == {"f": 0}


@clustered()
async def test_page_and_json_show_it(c, s, a, b):
    async with handoff.Handoff(c) as session:
        assert "Shared" not in (await document(s)).text
        await session.register_shared("<licence>", 4)
        await session.resource_tracker.request(next(iter(await session.discover_nodes())), {"<licence>": 3})

        pages = next(app for app in s.http_application.applications if isinstance(app, page.Pages))
        pages.forget()
        data = await fetch_json(s, "/handoff/api/shared")
        assert data["shared"] == [{"name": "<licence>", "amount": 4, "used": 3}]
        assert "<licence> 3 of 4" in (await document(s)).text


def test_three_clients_on_four_nodes_never_hold_more_than_there_is():
    """64 licences' worth of functions, 8 at a time, by their own record."""
    with (
        LocalCluster(4, threads_per_worker=4, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as first,
        Client(cluster) as second,
        Client(cluster) as third,
    ):
        sessions = [handoff.Handoff(client) for client in (first, second, third)]
        sessions[0].register_shared("licence", 8)

        def run(number):
            amounts = [1, 2, 1, 4, 1, 2, 1, 2, 4, 3] if number else [1, 2, 4, 8, 4, 2, 1]
            dag = [
                Function(i, [], took, extra_args=[0.03], cost={"licence": n}) for i, n in enumerate(amounts)
            ]
            result = sessions[number].execute(dag)
            return [(result.results[i], n) for i, n in enumerate(amounts)]

        with ThreadPoolExecutor(3) as pool:
            spans = [span for part in pool.map(run, range(3)) for span in part]
        for session in sessions:
            session.__exit__(None, None, None)

    assert sum(n for _, n in spans) == 64
    assert most_at_once([span for span, n in spans for _ in range(n)]) <= 8
