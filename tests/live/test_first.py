"""The spine: a DAG through a cluster."""

import operator

import pytest
from distributed.utils_test import gen_cluster

import handoff_dask as handoff


def answer(value):
    return f"The final answer is: {value}"


def pipeline(**cost):
    return (
        handoff.DAG("first")
        .add_function(handoff.Function("source", [], int, extra_args=[42], cost=cost))
        .add_function(handoff.Function("transform", ["source"], operator.mul, extra_args=[2], cost=cost))
        .add_function(handoff.Function("sink", ["transform"], answer, cost=cost))
    )


@gen_cluster(client=True, config={"distributed.scheduler.validate": True})
async def test_first_example(c, s, a, b):
    async with handoff.Handoff(c) as session:
        result = await session.execute(pipeline(cpu=1))
    assert result.results == {"source": 42, "transform": 84, "sink": "The final answer is: 84"}
    assert set(result.allocations) == {"source", "transform", "sink"}
    assert result.timings["sink"].attempts == 1


@gen_cluster(client=True, config={"distributed.scheduler.validate": True})
async def test_impossible_cost_is_refused(c, s, a, b):
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.AllocationError, match="gpu"):
            await session.execute(pipeline(gpu=1))
