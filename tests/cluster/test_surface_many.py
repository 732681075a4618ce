"""Many threads, DAGs and clients on one cluster at once."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from distributed import Client
from distributed.utils_test import gen_cluster

import handoff_dask as handoff
from handoff_dask.testing import capture_telemetry

NODES = {"a": {"cpu": 3, "slot": 2}, "b": {"cpu": 2, "slot": 1}}


@pytest.fixture(scope="module")
def session():
    with handoff.Handoff(nodes=NODES) as session:
        yield session


def dag_of(number):
    """Three functions whose results nobody else's have."""
    dag = handoff.DAG(number)
    dag.add_function(handoff.Function("base", [], int, extra_args=[number], cost={"cpu": 1}))
    dag.add_function(handoff.Function("half", ["base"], lambda x: x / 2, cost={"slot": 1, "cpu": 0.5}))
    return dag.add_function(handoff.Function("both", ["base", "half"], lambda *x: x, cost={"cpu": 2}))


def all_is_free(session):
    return all(session.resources_available(node, capabilities) for node, capabilities in NODES.items())


@pytest.mark.slow
def test_twenty_threads_execute_two_hundred_dags(session):
    """No result is mixed up, nothing is left over, and no node ever holds too much."""
    with capture_telemetry(("handoff", "resources")) as captured, ThreadPoolExecutor(20) as threads:
        results = list(threads.map(lambda n: session.execute(dag_of(n)), range(200)))
    assert [r.dag_id for r in results] == list(range(200))
    assert [r.results for r in results] == [
        {"base": n, "half": n / 2, "both": (n, n / 2)} for n in range(200)
    ]
    assert all_is_free(session)
    told = captured.of(("handoff", "resources"))
    assert len(told) == 2 * 3 * 200
    assert min(amount for e in told for amount in e.measurements["available"].values()) >= 0


@pytest.mark.slow
def test_clients_with_overlapping_claims(session):
    """Two clients, their DAGs and what they claim by hand: together never more than there is."""
    address = session.scheduler_address
    with Client(address, set_as_default=False) as one, Client(address, set_as_default=False) as two:
        sessions = [handoff.Handoff(one), handoff.Handoff(two)]
        stop = threading.Event()

        def claim(own):
            granted = 0
            while not stop.is_set():
                if own.resource_tracker.request("a", {"slot": 1}):
                    granted += 1
                    own.resource_tracker.release("a", {"slot": 1})
            return granted

        with ThreadPoolExecutor(8) as threads:
            claiming = [threads.submit(claim, own) for own in sessions]
            running = [threads.submit(sessions[n % 2].execute, dag_of(n)) for n in range(40)]
            assert [r.result().results["both"] for r in running] == [(n, n / 2) for n in range(40)]
            stop.set()
            assert all(c.result() for c in claiming)
        assert all_is_free(session)
        assert sessions[0].resource_tracker.request("b", {"slot": 1})
        waiting = sessions[1].submit([handoff.Function("f", [], int, cost={"slot": 1}, node="b")])
        assert not sessions[1].resource_tracker.request("b", {"slot": 1})
        assert waiting.status == "pending"
        one.close()
        assert waiting.result(timeout=10).results == {"f": 0}
    assert all_is_free(session)


@pytest.mark.slow
@gen_cluster(client=True, nthreads=[("127.0.0.1", 2)] * 2)
async def test_thirty_executions_at_once_with_an_asynchronous_client(c, s, a, b):
    async with handoff.Handoff(c) as session:
        await session.update_node_resources("0", {"gpu": 1})
        await session.update_node_resources("1", {"slot": 1})
        many = await asyncio.gather(*(session.execute(dag_of(n)) for n in range(30)))
        assert [r.results["both"] for r in many] == [(n, n / 2) for n in range(30)]


@gen_cluster(client=True, nthreads=[("127.0.0.1", 2)] * 2)
async def test_whatever_blocks_is_awaited_with_an_asynchronous_client(c, s, a, b):
    session = await handoff.Handoff(c).start()
    assert session.asynchronous
    assert sorted(await session.discover_nodes()) == ["0", "1"]
    await session.register_node("0", {"cpu": 2})
    await session.update_node_resources("0", {"gpu": 1})
    assert await session.resources_available("0", {"gpu": 1})
    await session.update_node_resources("1", {"slot": 1})
    execution = await session.submit(dag_of(4))
    await execution.cancel()
    execution = await session.submit(dag_of(4))
    assert await execution.get_result("both") == (4, 2)
    assert (await execution).results == (await execution.result()).results
    assert await session.await_completion(execution) == (await execution).results
    assert dict([pair async for pair in execution.as_completed()])["half"] == 2
    assert (await execution.record()).status == "finished"
    assert await session.get_result(4, "half") == await session.get_value(4, "half") == 2
    await session.store_result("d", "v", 1)
    await session.register_data_location("d", "w", "0")
    assert await session.lookup_data_location("d", "w") == "0"
    await session.forget("d")
    tracker = session.resource_tracker
    assert await tracker.request("0", {"cpu": 1})
    await tracker.release("0", {"cpu": 1})
    assert (await tracker.get_capabilities("0"))["gpu"] == 1
    assert (await handoff.start(c)).client is c
    assert (await handoff.execute(dag_of(5))).results["base"] == 5
    assert await handoff.get_result(5, "base") == 5
    await handoff.stop()
    await session.stop()
