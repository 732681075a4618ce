"""An innocent function beside one that kills its workers does not fail with it."""

from __future__ import annotations

import os
import time

import pytest
from clusters import nothing_claimed
from distributed import KilledWorker, Nanny
from distributed.utils_test import gen_cluster

from handoff_dask import Function, FunctionFailedError, Handoff


def crash():
    time.sleep(0.2)
    os._exit(1)


def last(seconds):
    time.sleep(seconds)
    return seconds


@pytest.mark.slow
@gen_cluster(
    client=True,
    nthreads=[("127.0.0.1", 2)],
    Worker=Nanny,
    timeout=100,
    config={"distributed.scheduler.allowed-failures": 3, "handoff.allocation-timeout": "60s"},
)
async def test_an_innocent_on_the_same_node_ends_well(c, s, a):
    async with Handoff(c) as session:
        calm = await session.submit([Function("calm", [], last, extra_args=[0.6])])
        wild = await session.submit([Function("wild", [], crash)])
        with pytest.raises(FunctionFailedError) as caught:
            await wild.result(timeout=90)
        assert isinstance(caught.value.__cause__, KilledWorker)
        assert (await calm.result(timeout=60)).results == {"calm": 0.6}
        await nothing_claimed(s)
