"""The session whose methods are coroutines, with every kind of client."""

from __future__ import annotations

import asyncio
import operator

import pytest
from clusters import live, nothing_claimed

import handoff_dask as handoff
from handoff_dask import Function


def chain():
    dag = handoff.DAG("chain").add_function(Function("a", [], operator.neg, extra_args=[1], cost={"cpu": 1}))
    return dag.add_function(Function("b", ["a"], operator.neg))


async def uses(session):
    """All that a session of coroutines does, whatever its client."""
    result = await session.execute(chain())
    assert (result.results, set(result.allocations)) == ({"a": -1, "b": 1}, {"a", "b"})
    execution = await session.submit(chain(), outputs=["b"])
    assert isinstance(execution, handoff.AsyncExecution)
    assert (await execution).results == (await execution.result()).results == {"b": 1}
    assert [pair async for pair in execution.as_completed()] == [("b", 1)]
    assert (await execution.record()).status == execution.status == "finished"
    assert (await execution.explain("b")).status == "finished"
    assert await session.await_completion(execution) == {"b": 1}
    assert await session.get_result("chain", "b") == await session.get_result(execution, "b") == 1
    assert (await session.explain("chain", "a")).function_id == "a"
    assert (await session.execute_local(chain())).allocations == {"a": "local", "b": "local"}

    nodes = sorted(await session.discover_nodes())
    await session.update_node_resources(nodes[0], {"licence": 1})
    assert await session.resources_available(nodes[0], {"licence": 1})
    tracker = session.resource_tracker
    assert await tracker.request(nodes[0], {"licence": 1})
    assert not await tracker.request(nodes[0], {"licence": 1})
    await tracker.release(nodes[0], {"licence": 1})
    assert (await tracker.get_capabilities(nodes[0]))["licence"] == 1

    await session.store_result("chain", "kept", 5, nodes[0])
    assert await session.get_value("chain", "kept") == 5
    assert await session.lookup_data_location("chain", "kept") == nodes[0]
    session.store_value("chain", "mine", 6)
    assert session.get_local_value("chain", "mine") == 6
    await session.register_data_location("chain", "file", nodes[0])
    assert await session.lookup_data_location("chain", "file") == nodes[0]
    await session.forget("chain")
    with pytest.raises(handoff.NotFoundError):
        await session.get_value("chain", "kept")
    with pytest.raises(handoff.ValidationError, match="no option 'max_retry'"):
        await session.execute(chain(), max_retry=1)


@live()
async def test_with_an_asynchronous_client(c, s, a, b):
    async with handoff.AsyncHandoff(c) as session:
        await uses(session)
    with pytest.raises(handoff.SessionEndedError):
        await session.execute(chain())


def test_with_a_cluster_of_its_own():
    """Its client blocks, and has a loop of its own: the caller's loop goes on meanwhile."""

    async def program():
        async with handoff.AsyncHandoff(nodes={"a": {"cpu": 2}, "b": {"cpu": 1}}) as session:
            assert not session.asynchronous
            await uses(session)
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0)

            ticking = asyncio.ensure_future(tick())
            await session.execute(chain())
            ticking.cancel()
            assert ticks > 1
        with pytest.raises(handoff.SessionEndedError):
            await session.execute(chain())

    asyncio.run(program())


@live()
async def test_whoever_stops_waiting_for_execute_cancels_it(c, s, a, b, stage):
    async with handoff.AsyncHandoff(c) as session:
        waiting = asyncio.ensure_future(session.execute([stage.function("f", cost={"cpu": 1})]))
        await stage.sees("f")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        stage.close()
        await nothing_claimed(s)


@live()
async def test_an_execution_of_coroutines_can_be_cancelled(c, s, a, b, stage):
    async with handoff.AsyncHandoff(c) as session:
        execution = await session.submit([stage.function("f")])
        await stage.sees("f")
        with pytest.raises(TimeoutError):
            await execution.result(timeout=0.01)
        await execution.cancel()
        assert execution.status == "cancelled"
        with pytest.raises(handoff.ExecutionCancelledError):
            await execution
        stage.close()  # a worker that closes waits for its threads
