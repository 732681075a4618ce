"""What nobody keeps is released at once: no reference cycle holds an execution, and with it worker memory."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator

import dask
import pytest
from clusters import live
from distributed import Client, LocalCluster
from stage import until, until_sync

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask.errors import copy_of

NONE_RETAINED = {"handoff.retained-dags": 0}


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Without Python's cyclic collector, only what is in no cycle goes."""
    gc.collect()
    gc.disable()
    with dask.config.set(NONE_RETAINED):
        yield
    gc.enable()


def brief():
    time.sleep(0.01)
    return bytes(1000)


def bad():
    raise ValueError("bad")


def jobs(kind):
    # The hint is far off: the planner is still at work when the run ends.
    dag = [Function(i, [], brief, duration=0.5) for i in range(30)]
    return [*dag, Function("bad", [], bad, max_retries=0)] if kind == "failed" else dag


@pytest.mark.parametrize("kind", ["finished", "failed", "cancelled", "timed out", "step by step"])
@live(2, config=NONE_RETAINED)
async def test_an_execution_that_nobody_keeps(c, s, a, kind):
    async with handoff.Handoff(c) as session:
        execution = await session.submit(jobs(kind), timeout=0.05 if kind == "timed out" else None)
        kept = weakref.ref(execution)
        try:
            if kind == "cancelled":
                await execution.cancel()
            elif kind == "step by step":
                async for _ in execution.as_completed():
                    pass
            else:
                await execution
        except (handoff.FunctionFailedError, TimeoutError):
            pass
        del execution
        await until(lambda: kept() is None, lambda: gc.get_referrers(kept()))
        await until(lambda: not s.tasks, lambda: s.tasks)


@pytest.mark.parametrize("kind", ["finished", "failed", "step by step", "one"])
def test_an_execution_that_nobody_keeps_with_a_client_that_blocks(kind):
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
        handoff.Handoff(client) as session,
    ):
        execution = session.submit(jobs(kind))
        kept = weakref.ref(execution)
        try:
            if kind == "step by step":
                list(execution.as_completed())
            elif kind == "one":
                execution.get_result(7)
                execution.result()
            else:
                execution.result()
        except handoff.FunctionFailedError:
            pass
        del execution
        until_sync(lambda: kept() is None, lambda: gc.get_referrers(kept()))
        until_sync(lambda: not cluster.scheduler.tasks, lambda: cluster.scheduler.tasks)


def test_a_copy_of_an_error_is_equal_but_for_the_frames():
    with pytest.raises(handoff.FunctionFailedError) as caught:
        raise handoff.FunctionFailedError("f", "a", 2, ValueError("x"))
    copy = copy_of(caught.value)
    assert (type(copy), copy.args, str(copy)) == (type(caught.value), caught.value.args, str(caught.value))
    assert (copy.function_id, copy.__cause__) == ("f", caught.value.__cause__)
    assert copy.__traceback__ is None
