"""A run that is over computes nothing again by itself, whatever node dies."""

from __future__ import annotations

import asyncio

import pytest
from clusters import live
from distributed.client import FutureCancelledError
from stage import until

import handoff_dask as handoff
from handoff_dask import Function

RUNS: list[str] = []


def step(name, *results):
    RUNS.append(name)
    return name


@pytest.fixture(autouse=True)
def no_runs():
    RUNS.clear()


@live(1, 1)
async def test_lost_results_of_a_finished_run_are_computed_when_they_are_asked_for(c, s, a, b):
    async with handoff.Handoff(c) as session:
        dag = [Function("f", [], step, extra_args=["f"]), Function("g", ["f"], str)]
        execution = await session.submit(dag, outputs=["g"])
        assert (await execution).results == {"g": "f"}
        holder = next(iter(s.tasks[execution.futures["g"].key].who_has)).address
        future = execution.futures["g"]
        await (a if a.address == holder else b).close()
        await until(lambda: future.status == "cancelled")
        await asyncio.sleep(0.1)
        assert RUNS == ["f"]
        with pytest.raises(FutureCancelledError, match="ask the execution"):
            await future
        assert await execution.get_result("g") == "f"
        assert RUNS == ["f", "f"]


@live(1, 1)
async def test_what_another_run_needs_is_computed_again(c, s, a, b):
    async with handoff.Handoff(c) as session:
        execution = await session.submit([Function("f", [], step, extra_args=["f"])])
        await execution
        holder = next(iter(s.tasks[execution.futures["f"].key].who_has)).address
        await (a if a.address == holder else b).close()
        await until(lambda: execution.futures["f"].status == "cancelled")
        assert RUNS == ["f"]
        assert (await execution).results == {"f": "f"}
        assert RUNS == ["f", "f"]
        dag = [Function("x", [], None, type="input"), Function("use", ["x"], str.upper)]
        used = await session.execute(dag, inputs={"x": execution.futures["f"]})
        assert used.results == {"use": "F"}
