"""Pipelines from threads, with a client that waits."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dask
import pytest
from distributed import Client, LocalCluster
from stage import until_sync
from test_streams import inc, stream_dag, zero

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask.client import stream_flow


@pytest.fixture(scope="module")
def client():
    config = {"distributed.scheduler.validate": True, "distributed.worker.validate": True}
    with (
        dask.config.set(config),
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def chain(**fields):
    return stream_dag(Function("a", ["x"], inc, **fields), Function("b", ["a"], inc))


#: For codes of workers in this process.
codes: dict[str, threading.Event] = {}


def blocked(x):
    codes["blocked"] = codes["gate"]
    codes["gate"].wait(20)
    return x


def current_place(x):
    current = handoff.current()
    return current.dag_id, current.function_id, current.node


def chain_of(code, **fields):
    return stream_dag(Function("a", ["x"], code, **fields))


def test_a_pipeline_is_an_iterator_and_a_context_manager(client):
    """The stages are known at once; what is inside when the block is left is dropped."""
    with handoff.stream(chain(parallelism=2), client=client) as pipeline:
        assert set(pipeline.stages) == {"a", "b"}
        assert None not in [*pipeline.stages.values(), *pipeline.workers("a")]
        assert [pipeline.push(n) for n in range(3)] == [0, 1, 2]
        assert (next(pipeline), next(pipeline)) == (2, 3)
        with pytest.raises(handoff.NotFoundError, match="no stage 'x'"):
            pipeline.worker_count("x")
        assert "2 stages, 1 of 20 items inside, 2 out" in repr(pipeline)
    assert (pipeline.status, list(pipeline)) == ("stopped", [])
    assert pipeline.stages.keys() == {"a", "b"}


def test_map_takes_what_it_needs(client):
    """It asks for values as there is room, yields results as they come, and can be called again."""
    asked = []

    def values():
        for n in range(500):
            asked.append(n)
            yield n

    with handoff.stream(chain(), client=client, max_in_flight=7) as pipeline:
        results = []
        for result in pipeline.map(values()):
            results.append(result)
            assert len(asked) - len(results) <= 7
        assert results == [n + 2 for n in range(500)]
        assert list(pipeline.map([])) == []


def test_push_waits_for_room(client):
    """``TimeoutError`` while ``max_in_flight`` items are inside; a result that is taken makes room."""
    with handoff.stream(chain(), client=client, max_in_flight=2) as pipeline:
        assert [pipeline.push(n) for n in range(2)] == [0, 1]
        with pytest.raises(TimeoutError, match="2 items are inside"):
            pipeline.push(2, timeout=0.05)
        waiting = ThreadPoolExecutor(1).submit(pipeline.push, 2)
        time.sleep(0.02)
        assert not waiting.done()
        assert next(pipeline) == 2
        assert waiting.result(10) == 2


def test_who_waits_for_itself_is_told(client, monkeypatch, caplog):
    """A push that waits for nothing but that somebody iterates says so, once."""
    monkeypatch.setattr(stream_flow, "HINT_S", 0.02)
    with handoff.stream(chain(), client=client, max_in_flight=2) as pipeline:
        waiting = ThreadPoolExecutor(1).submit(lambda: [pipeline.push(n) for n in range(3)])
        until_sync(lambda: "nobody takes the results of the 2 items inside" in caplog.text)
        assert next(pipeline) == 2
        assert waiting.result(10) == [0, 1, 2]
    assert caplog.text.count("nobody takes") == 1


def test_several_threads_push_and_one_takes(client):
    """Nothing is lost or doubled, and results come in the order of the numbers."""
    numbers: dict[int, int] = {}

    def push(first):
        for n in range(first, first + 50):
            numbers[pipeline.push(n)] = n

    with handoff.stream(chain(parallelism=2), client=client) as pipeline:
        threads = [threading.Thread(target=push, args=(100 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        results = [next(pipeline) for _ in range(200)]
        for thread in threads:
            thread.join()
    assert results == [numbers[n] + 2 for n in range(200)]


def test_whoever_waits_is_woken_by_stop(client):
    """A blocked push raises, a blocked iteration ends."""
    pipeline = handoff.stream(chain(), client=client, max_in_flight=1)
    pool = ThreadPoolExecutor(2)
    taking = pool.submit(list, pipeline)
    time.sleep(0.05)
    pipeline.stop()
    assert taking.result(10) == []

    pipeline = handoff.stream(chain(), client=client, max_in_flight=1)
    pipeline.push(0)
    pushing = pool.submit(pipeline.push, 1)
    time.sleep(0.05)
    pipeline.stop()
    with pytest.raises(handoff.PipelineEndedError):
        pushing.result(10)


def test_async_for_over_a_client_that_waits(client):
    """``async for`` works in a loop of the user's own."""

    async def collect(pipeline):
        return [result async for result in pipeline]

    with handoff.stream(chain(), client=client) as pipeline:
        for n in range(5):
            pipeline.push(n)
        pipeline.close()
        assert asyncio.run(collect(pipeline)) == [2, 3, 4, 5, 6]


def test_a_pipeline_inside_a_function(client):
    """A function may stream; it needs no more threads than it has."""

    def total():
        with handoff.stream(chain()) as pipeline:
            return sum(pipeline.map(range(10)))

    result = handoff.execute([Function("total", [], total)], client=client)
    assert result.results == {"total": sum(range(10)) + 20}


def test_a_stage_that_blocks_does_not_hold_up_stop(client):
    """``stop`` returns; what the stage holds is given back when its code has ended."""
    gate = threading.Event()
    codes["gate"] = gate
    pipeline = handoff.stream(chain_of(blocked, cost={"cpu": 2}, node="0"), client=client)
    pipeline.push(1)
    until_sync(lambda: "blocked" in codes)
    began = time.monotonic()
    pipeline.stop()
    assert time.monotonic() - began < 10
    assert not handoff.resources_available("0", {"cpu": 1})
    gate.set()
    until_sync(lambda: handoff.resources_available("0", {"cpu": 2}))


def test_a_pipeline_that_nobody_has_is_stopped(client):
    """So is one whose session ends; whoever iterates then is at the end."""
    pipeline = handoff.stream(chain(cost={"cpu": 2}, node="1"), client=client)
    assert not handoff.resources_available("1", {"cpu": 1})
    del pipeline
    until_sync(lambda: handoff.resources_available("1", {"cpu": 2}))

    with handoff.Handoff(client) as session:
        pipeline = session.stream(chain(cost={"cpu": 2}, node="1"))
        pipeline.push(1)
        pipeline.close()
    assert list(pipeline) in ([], [3])
    until_sync(lambda: handoff.resources_available("1", {"cpu": 2}))


def test_a_stage_knows_where_it_is(client):
    """``handoff.current()`` tells of the stage."""
    with handoff.stream(chain_of(current_place, node="1"), client=client) as pipeline:
        assert list(pipeline.map([0])) == [("stream", "a", "1")]


def test_execute_ignores_the_fields_of_streams(client):
    """The same DAG runs once, without batches and workers; what cannot be called so is refused before."""
    dag = stream_dag(Function("a", ["x"], inc, parallelism=3, batch_timeout=5.0))
    assert handoff.execute(dag, inputs={"x": 1}, client=client).results == {"a": 2}
    assert handoff.execute_local(dag, inputs={"x": 1}).results == {"a": 2}
    stateful = stream_dag(Function("a", ["x"], lambda state, x: (x, state), init=zero))
    assert stateful.validate() is None
    with pytest.raises(handoff.InvalidFunctionError, match="does not fit"):
        handoff.execute(stateful, inputs={"x": 1}, client=client)
