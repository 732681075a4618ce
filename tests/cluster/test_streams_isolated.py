"""Isolated stages: each keeps a process of its own, with its state."""

from __future__ import annotations

import os
import time

import psutil
import pytest
from clusters import live, nothing_claimed
from stage import until

import handoff_dask as handoff
from handoff_dask import DAG, Function, MemoryExceededError, ProcessEndedError


def begins():
    return [os.getpid(), 0]


def counts(state, x):
    """How many items this state has seen; some end their process."""
    if x == "crash":
        os._exit(7)
    if x == "hoard":
        held = bytearray(400_000_000)
        time.sleep(5)
        return len(held), state
    if x == "raise":
        raise ValueError(x)
    if x == "wait":
        time.sleep(60)
    pid, seen = state
    return (pid, seen + 1), [pid, seen + 1]


def together(batch):
    return [(os.getpid(), len(batch), x) for (x,) in batch]


def dag_of(function):
    return DAG("isolated").add_function(Function("x", [], None, type="input")).add_function(function)


@pytest.mark.slow
@live(2)
async def test_a_stage_keeps_its_process_and_its_state(client, scheduler, worker):
    session = await handoff.start(client)
    cost = {"memory": 200}
    await session.update_node_resources("0", {"memory": 1000})
    stage = Function("s", ["x"], counts, init=begins, isolated=True, cost=cost)
    async with await session.stream(dag_of(stage)) as pipeline:
        items = ["a", "b", "raise", "c", "crash", "d", "hoard", "e"]
        for item in items:
            await pipeline.push(item)
        await pipeline.close()
        out = [value async for value in pipeline]

    a, b, raised, c, crashed, d, hoarded, e = out
    assert a[0] == b[0] == c[0] != os.getpid()
    assert [value[1] for value in (a, b, c)] == [1, 2, 3]
    assert isinstance(raised, ValueError)
    assert isinstance(crashed, ProcessEndedError)
    assert crashed.exit_code == 7
    assert d[1] == 1
    assert d[0] != c[0]
    assert isinstance(hoarded, MemoryExceededError)
    assert hoarded.claimed == 200
    assert e[1] == 1
    await nothing_claimed(scheduler)
    await until(lambda: not psutil.pid_exists(e[0]))


@pytest.mark.slow
@live(2)
async def test_batches_and_the_end_in_the_middle_of_an_item(client, scheduler, worker):
    session = await handoff.start(client)
    batched = Function("s", ["x"], together, batch_size=2, isolated=True)
    async with await session.stream(dag_of(batched)) as pipeline:
        for item in range(4):
            await pipeline.push(item)
        await pipeline.close()
        out = [value async for value in pipeline]
    assert [(size, x) for _, size, x in out] == [(2, 0), (2, 1), (2, 2), (2, 3)]
    assert len({pid for pid, _, _ in out} - {os.getpid()}) == 1

    pipeline = await session.stream(dag_of(Function("s", ["x"], counts, init=begins, isolated=True)))
    await pipeline.push("a")
    pid, _ = await pipeline.__anext__()
    await pipeline.push("wait")
    await until(lambda: psutil.pid_exists(pid))
    began = time.monotonic()
    await pipeline.stop()
    await until(lambda: not psutil.pid_exists(pid))
    assert time.monotonic() - began < 2
    await nothing_claimed(scheduler)
