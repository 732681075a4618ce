"""Pipelines: what goes in comes out, in order, each item on its own."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from clusters import live, nothing_claimed
from distributed import get_worker

import handoff_dask as handoff
from handoff_dask import DAG, Argument, Collocated, Function


def stream_dag(*functions: Function, inputs: tuple[str, ...] = ("x",), name: str = "stream") -> DAG:
    dag = DAG(name)
    for i in inputs:
        dag.add_function(Function(i, [], None, type="input"))
    for function in functions:
        dag.add_function(function)
    return dag


def inc(x):
    return x + 1


def add(*values):
    return sum(values)


def total(values):
    return sum(values)


def fussy(x):
    if x % 3 == 0:
        raise ValueError("three", x)
    return x


def where(*values):
    return str(get_worker().name)


def running_total(state, x):
    return state + x, state + x


def zero():
    return 0


def sizes(batch):
    return [(*values, len(batch)) for values in batch]


def tell_way(value, source, target, *more):
    return (value, source, target, *more)


async def all_of(pipeline, values):
    return [value async for value in pipeline.map(values)]


@live(2, 2)
async def test_results_come_in_the_order_of_pushing(client, scheduler, *workers):
    """Items go through the stages, and out in order; the claim lasts as long as the pipeline."""
    dag = stream_dag(
        Function("a", ["x"], inc, cost={"cpu": 1}), Function("b", ["a"], inc, parallelism=2, cost={"cpu": 1})
    )
    pipeline = await handoff.stream(dag, client=client)
    numbers = [await pipeline.push(n) for n in range(3)]
    first = await anext(pipeline)

    assert (numbers, first) == ([0, 1, 2], 2)
    assert await all_of(pipeline, range(10)) == [3, 4, *(n + 2 for n in range(10))]
    assert pipeline.status == "running"
    assert sum(n["cpu"] for n in (await handoff.discover_nodes()).values()) == 4
    assert not await handoff.resources_available("0", {"cpu": 2}) or not await handoff.resources_available(
        "1", {"cpu": 2}
    )
    assert (set(pipeline.stages), pipeline.worker_count("b"), len(pipeline.workers("b"))) == (
        {"a", "b"},
        2,
        2,
    )
    await pipeline.close()
    assert [value async for value in pipeline] == []
    assert pipeline.status == "closed"
    await nothing_claimed(scheduler)
    await pipeline.stop()
    assert pipeline.status == "closed"


@live(2, 2)
async def test_an_error_is_its_items_alone(client, scheduler, *workers):
    """What fails comes out as its exception, in its place; branches beside it run, nothing behind does."""

    def beside(x):
        return -x

    dag = stream_dag(
        Function("a", ["x"], fussy),
        Function("b", ["a"], inc),
        Function("c", ["x"], beside),
        Function("d", ["b"], inc),
    )
    async with await handoff.stream(dag, client=client) as pipeline:
        results = await all_of(pipeline, range(5))

    assert [r if isinstance(r, dict) else (type(r), r.args) for r in results] == [
        (ValueError, ("three", 0)),
        {"c": -1, "d": 3},
        {"c": -2, "d": 4},
        (ValueError, ("three", 3)),
        {"c": -4, "d": 6},
    ]
    assert pipeline.status == "stopped"


@live(2, 2)
async def test_state_is_made_once_and_carried_on(client, scheduler, *workers):
    """``init`` runs once for each worker; an exception leaves the state as it was."""

    def picky(state, x, step, *, by):
        if x == 2:
            raise KeyError(x)
        return state, state + step * by

    dag = stream_dag(Function("a", ["x"], picky, init=(int, ("100",)), extra_args=[1], kwargs={"by": 10}))
    async with await handoff.stream(dag, client=client) as pipeline:
        results = await all_of(pipeline, range(5))
        assert results[:2] == [100, 110]
        assert isinstance(results[2], KeyError)
        assert results[3:] == [120, 130]


@live(2, 2)
async def test_a_state_sees_items_in_order_behind_parallel_workers(client, scheduler, *workers):
    """Items that overtake each other before a stage with a state are put in order there."""

    def slow(x):
        time.sleep(0.02 if x % 2 else 0)
        return x

    dag = stream_dag(
        Function("a", ["x"], slow, parallelism=2), Function("b", ["a"], running_total, init=zero)
    )
    async with await handoff.stream(dag, client=client) as pipeline:
        expected = [sum(range(n + 1)) for n in range(12)]
        assert await all_of(pipeline, range(12)) == expected


@live(2, 2)
async def test_batches(client, scheduler, *workers):
    """So many at once; a rest goes on close; a wrong count and an exception are each item's of the batch."""
    dag = stream_dag(Function("a", ["x"], sizes, batch_size=4))
    pipeline = await handoff.stream(dag, client=client)
    for n in range(10):
        await pipeline.push(n)
    await pipeline.close()
    assert [value async for value in pipeline] == [*((n, 4) for n in range(8)), (8, 2), (9, 2)]

    def wrong(state, batch):
        if batch[0][0] == 0:
            return [1], state + 1
        if batch[0][0] == 2:
            raise ValueError("bad batch")
        return [state] * len(batch), state + 1

    async with await handoff.stream(
        stream_dag(Function("a", ["x"], wrong, init=zero, batch_size=2)), client=client
    ) as pipeline:
        results = await all_of(pipeline, range(6))
    assert all("1 results came for a batch of 2 items" in str(r) for r in results[:2])
    assert [str(r) for r in results[2:4]] == ["bad batch"] * 2
    assert results[4:] == [0, 0]


@live(2, 2)
async def test_a_batch_waits_for_its_time_or_until_nothing_else_goes_on(client, scheduler, *workers):
    """``batch_timeout`` counts from the first item; without it, a full pipeline lets a batch go."""
    dag = stream_dag(Function("a", ["x"], sizes, batch_size=100, batch_timeout=0.5))
    async with await handoff.stream(dag, client=client) as pipeline:
        for n in range(3):
            await pipeline.push(n)
        assert [await anext(pipeline) for _ in range(3)] == [(0, 3), (1, 3), (2, 3)]

    dag = stream_dag(Function("a", ["x"], sizes, batch_size=100))
    async with await handoff.stream(dag, client=client, max_in_flight=3) as pipeline:
        for n in range(3):
            await pipeline.push(n)
        with pytest.raises(TimeoutError, match="3 items are inside"):
            await pipeline.push(3, timeout=0)
        assert [await anext(pipeline) for _ in range(3)] == [(0, 3), (1, 3), (2, 3)]


@live(2, 2)
async def test_inputs_inlines_lists_and_constants(client, scheduler, *workers):
    """Several inputs, inline functions, ``as_list``, a function that runs once, several sinks."""

    def once():
        return 1000

    dag = stream_dag(
        Function("base", [], once),
        Function("more", ["base"], inc),
        Function("half", ["x"], lambda x: x / 2, type="inline"),
        Function("sum", ["half", "y", "more"], total, argument_inclusion="as_list"),
        Function("again", ["half", "sum"], add, extra_args=[0.5]),
        Function("side", ["y"], inc),
        inputs=("x", "y"),
    )
    async with await handoff.stream(dag, client=client) as pipeline:
        for problem, item in (
            ("no value for 'y'", {"x": 1}),
            ("'z' is no input", {"x": 1, "y": 2, "z": 3}),
            ("give", 4),
        ):
            with pytest.raises(handoff.ValidationError, match=problem):
                await pipeline.push(item)
        results = await all_of(pipeline, [{"x": 2 * n, "y": n} for n in range(4)])

    assert results == [{"again": n + (n + n + 1001) + 0.5, "side": n + 1} for n in range(4)]


@live(2, 2)
async def test_places_hold_for_every_worker(client, scheduler, *workers):
    """Pins, collocation and what is done to arguments on their way."""
    dag = stream_dag(
        Function("a", ["x"], where, node="1", parallelism=2),
        Function("b", ["x"], inc, node="0"),
        Function(
            "c", [Argument("b", (tell_way, "s"), (tell_way, "t")), "a"], lambda *v: v, node=Collocated("a")
        ),
        Function("d", [Argument("x", (tell_way,), None)], lambda v: v, node="0"),
    )
    async with await handoff.stream(dag, client=client) as pipeline:
        results = await all_of(pipeline, range(3))
        nodes = (pipeline.workers("a"), pipeline.stages)

    assert nodes == (["1", "1"], {"a": "1", "b": "0", "c": "1", "d": "0"})
    assert results == [
        {"c": (((n + 1, "0", "1", "s"), "0", "1", "t"), "1"), "d": (n, "0", "0")} for n in range(3)
    ]


@live(2, 2)
async def test_results_as_they_come(client, scheduler, *workers):
    """``ordered=False`` gives pairs, the quick ones first."""

    def wait_for_first(x):
        if x == 0:
            time.sleep(0.3)
        return x

    dag = stream_dag(Function("a", ["x"], wait_for_first, parallelism=2))
    async with await handoff.stream(dag, client=client, ordered=False) as pipeline:
        pairs = await all_of(pipeline, range(4))

    assert sorted(pairs) == [(n, n) for n in range(4)]
    assert pairs[0][0] != 0


@live(2, 2)
async def test_what_cannot_travel_is_its_items_error(client, scheduler, *workers):
    """A result that cannot be pickled harms nobody else; a value that cannot is refused by ``push``."""

    def odd(x):
        return threading.Lock() if x == 1 else x

    dag = stream_dag(Function("a", ["x"], odd, node="0"), Function("b", ["a"], lambda x: x, node="1"))
    async with await handoff.stream(dag, client=client) as pipeline:
        with pytest.raises(TypeError):
            await pipeline.push(threading.Lock())
        results = await all_of(pipeline, range(3))
    assert (results[0], type(results[1]), results[2]) == (0, TypeError, 2)


def doubled(array):
    array *= 2
    return array


@live(2, 2)
async def test_arrays_travel_beside_their_items(client, scheduler, *workers):
    """They may be changed where they arrive, and by whoever has pushed them."""
    dag = stream_dag(Function("a", ["x"], doubled, node="0"), Function("b", ["a"], doubled, node="1"))
    array = np.arange(50_000.0)
    async with await handoff.stream(dag, client=client) as pipeline:
        await pipeline.push(array)
        array[:] = -1
        result = await anext(pipeline)
        result += 1
    assert np.array_equal(result, np.arange(50_000.0) * 4 + 1)


gates: dict[str, threading.Event] = {}


def held_up(x):
    if x == 1:
        gates["join"].wait(20)
    return x


@live(2, 2)
async def test_an_item_that_lacks_arguments_for_too_long_fails(client, scheduler, *workers):
    """``join_timeout``: it comes out as a ``TimeoutError``; what comes too late is dropped."""
    gates["join"] = threading.Event()
    dag = stream_dag(Function("a", ["x"], inc), Function("b", ["x"], held_up), Function("c", ["a", "b"], add))
    async with await handoff.stream(dag, client=client, join_timeout=1.0) as pipeline:
        await pipeline.push(1)
        late = await anext(pipeline)
        assert isinstance(late, TimeoutError)
        assert "'b'" in str(late)
        gates["join"].set()
        await pipeline.push(2)
        assert await anext(pipeline) == 5


@live(2, 2)
async def test_an_init_that_raises_fails_the_pipeline(client, scheduler, *workers):
    """The error is raised by whoever iterates or pushes; all claims return."""

    def broken():
        raise RuntimeError("no weights")

    dag = stream_dag(
        Function("a", ["x"], running_total, init=broken, cost={"cpu": 1}), Function("b", ["a"], inc)
    )
    pipeline = await handoff.stream(dag, client=client)
    with pytest.raises(handoff.FunctionFailedError, match="no weights"):
        await anext(pipeline)
    with pytest.raises(handoff.FunctionFailedError):
        await pipeline.push(1)
    assert pipeline.status == "failed"
    await pipeline.stop()
    await nothing_claimed(scheduler)


@live(2, 2)
async def test_stopping_drops_what_is_inside(client, scheduler, *workers):
    """``stop`` is idempotent, ends iteration, and whoever pushes then is refused."""
    dag = stream_dag(Function("a", ["x"], inc))
    pipeline = await handoff.stream(dag, client=client)
    await pipeline.push(1)
    await pipeline.stop()
    await pipeline.stop()
    assert [value async for value in pipeline] == []
    with pytest.raises(handoff.PipelineEndedError, match="is stopped"):
        await pipeline.push(2)
    await nothing_claimed(scheduler)


@live(2, 2)
async def test_the_asynchronous_session(client, scheduler, *workers):
    """``AsyncHandoff.stream`` has coroutines as methods; several pipelines run beside each other and DAGs."""
    async with handoff.AsyncHandoff(client) as session:
        dag = stream_dag(Function("a", ["x"], inc))
        async with await session.stream(dag) as one, await session.stream(dag) as two:
            assert (await one.push(1), await two.push(2)) == (0, 0)
            result = await session.execute(dag, inputs={"x": 3})
            assert (await anext(one), await anext(two), result.results) == (2, 3, {"a": 4})
            assert [v async for v in one.map([5, 6])] == [6, 7]


@live(2, 2)
async def test_what_is_wrong_is_refused_at_once(client, scheduler, *workers):
    """Options and DAGs that cannot be."""
    fine = stream_dag(Function("a", ["x"], inc))
    wrong = {"max_in_flight": 0, "join_timeout": -1, "on_node_loss": "stay", "ordered": 1, "outputs": ["a"]}
    for name, value in wrong.items():
        with pytest.raises(handoff.ValidationError, match=name):
            await handoff.stream(fine, client=client, **{name: value})
    with pytest.raises(handoff.ValidationError, match="no input"):
        await handoff.stream([Function("a", [], int)], client=client)
    with pytest.raises(handoff.AllocationError):
        await handoff.stream(stream_dag(Function("a", ["x"], inc, cost={"cpu": 99})), client=client)
