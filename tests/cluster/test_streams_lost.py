"""Pipelines that lose nodes, clients and connections."""

from __future__ import annotations

import asyncio
import time

import pytest
from clusters import live, nothing_claimed
from distributed import Client, Nanny
from stage import until
from test_streams import inc, stream_dag, where, zero

import handoff_dask as handoff
from handoff_dask import Collocated, Function


def counted(state, x):
    return (x, state), state + 1


def slowly(x):
    time.sleep(0.01)
    return x


async def pushed(pipeline, numbers):
    for n in numbers:
        await pipeline.push(n)


@live(2, 2, 2)
async def test_a_lost_node_loses_no_item(client, scheduler, *workers):
    """The stages move, what was inside is done again, order holds, and nothing is there twice."""
    dag = stream_dag(
        Function("a", ["x"], inc, parallelism=2),
        Function("b", ["a"], slowly),
        Function("c", ["b"], inc, node="2"),
    )
    async with await handoff.stream(dag, client=client) as pipeline:
        pushing = asyncio.ensure_future(pushed(pipeline, range(200)))
        results = [await anext(pipeline) for _ in range(40)]
        lost = next(w for w in workers if str(w.name) == pipeline.stages["b"])
        await lost.close()
        results += [await anext(pipeline) for _ in range(160)]
        await pushing
        nodes = pipeline.stages

    assert results == [n + 2 for n in range(200)]
    assert str(lost.name) not in nodes.values()
    assert handoff.StageLostError("b", "1").node == "1"
    await nothing_claimed(scheduler)


@live(2, 2)
async def test_what_was_not_lost_is_not_done_again(client, scheduler, *workers):
    """A stage with a state that is still there sees each item once; the one that moved makes a new state."""
    dag = stream_dag(Function("a", ["x"], counted, init=zero, node="0"), Function("b", ["a"], slowly_again))
    async with await handoff.stream(
        dag, client=client, max_in_flight=8, resources=only("0", "1")
    ) as pipeline:
        await pushed(pipeline, range(4))
        results = [await anext(pipeline) for _ in range(2)]
        pushing = asyncio.ensure_future(pushed(pipeline, range(4, 30)))
        await workers[1].close()
        results += [await anext(pipeline) for _ in range(28)]
        await pushing

    assert results == [(n, n) for n in range(30)]


def only(*names):
    return [{"node": name, "capabilities": {"cpu": 2}} for name in names]


def slowly_again(pair):
    time.sleep(0.01)
    return pair


@live(2, 2)
async def test_a_pipeline_may_fail_with_its_node(client, scheduler, *workers):
    """``on_node_loss="fail"``; and where nobody can hold the stage, it fails in any case."""
    dag = stream_dag(Function("a", ["x"], inc, node="1"), Function("b", ["a"], inc, node="0"))
    failing = await handoff.stream(dag, client=client, on_node_loss="fail")
    moving = await handoff.stream(dag, client=client)
    await pushed(failing, range(3))
    assert await anext(failing) == 2
    await workers[1].close()

    with pytest.raises(handoff.StageLostError, match="node '1' is gone, with the stage of function 'a'"):
        [value async for value in failing]
    with pytest.raises(handoff.AllocationError):
        [value async for value in moving]
    assert (failing.status, moving.status) == ("failed", "failed")
    await nothing_claimed(scheduler)


@live(2, 2)
async def test_a_retired_node(client, scheduler, *workers):
    """``retire_workers`` in mid-stream loses nothing."""
    dag = stream_dag(Function("a", ["x"], slowly), Function("b", ["a"], where, node=Collocated("a")))
    async with await handoff.stream(dag, client=client) as pipeline:
        pushing = asyncio.ensure_future(pushed(pipeline, range(60)))
        results = [await anext(pipeline) for _ in range(10)]
        node = pipeline.stages["a"]
        await client.retire_workers([w.address for w in workers if str(w.name) == node])
        results += [await anext(pipeline) for _ in range(50)]
        await pushing
        assert set(results) == {"0", "1"}
        assert set(pipeline.stages.values()) == {"0", "1"} - {node}


@live(2, 2)
async def test_a_client_that_goes_takes_its_pipelines_with_it(client, scheduler, *workers):
    """All claims return when the client disconnects, and threads end."""
    async with Client(scheduler.address, asynchronous=True) as other:
        pipeline = await handoff.stream(
            stream_dag(Function("a", ["x"], slowly, cost={"cpu": 1})), client=other
        )
        await pushed(pipeline, range(5))
    await nothing_claimed(scheduler)
    await until(lambda: not any(w.plugins["handoff"].streams._workers for w in workers))


@live(2, 2)
async def test_a_broken_connection_is_opened_again(client, scheduler, *workers):
    """Between two nodes that are still there, and to the client."""
    dag = stream_dag(Function("a", ["x"], slowly, node="0"), Function("b", ["a"], inc, node="1"))
    async with await handoff.stream(dag, client=client) as pipeline:
        pushing = asyncio.ensure_future(pushed(pipeline, range(60)))
        results = [await anext(pipeline) for _ in range(10)]
        (host,) = workers[0].plugins["handoff"].streams._hosts.values()
        host._peers[workers[1].address].comm.abort()
        results += [await anext(pipeline) for _ in range(20)]
        host._client.comm.abort()
        results += [await anext(pipeline) for _ in range(30)]
        await pushing

    assert results == [n + 1 for n in range(60)]


def deadly(x):
    import os

    if x == 3:
        os._exit(1)
    return x


@live(1, Worker=Nanny)
async def test_an_item_that_kills_its_node_ends_the_pipeline(client, scheduler, *nannies):
    """Dask's limit for what kills its workers holds; it does not go on for ever."""
    scheduler.allowed_failures = 1
    pipeline = await handoff.stream(stream_dag(Function("a", ["x"], deadly)), client=client)
    await pushed(pipeline, range(5))
    with pytest.raises(handoff.FunctionFailedError, match="KilledWorker"):
        [value async for value in pipeline]
    await pipeline.stop()
