"""A worker's death is blamed on what ran there, not on what was sent ahead."""

from __future__ import annotations

import os
import threading

import pytest
from distributed import KilledWorker, Nanny
from distributed.utils_test import gen_cluster

from handoff_dask import Function, FunctionFailedError, Handoff


def tiny(i):
    return i


def die():
    # Time for the worker to report what ended before: Dask cannot know it otherwise.
    threading.Event().wait(0.3)
    os._exit(1)


@gen_cluster(
    client=True,
    nthreads=[("127.0.0.1", 1)],
    Worker=Nanny,
    config={"distributed.scheduler.allowed-failures": 0, "handoff.allocation-timeout": "30s"},
)
async def test_functions_sent_ahead_are_not_blamed(c, s, a):
    """With no failure allowed, only the function that killed its worker fails."""
    async with Handoff(c) as session:
        # So that they are known to be short.
        await session.execute([Function(i, [], tiny, extra_args=[i], cost={"cpu": 1}) for i in range(30)])
        innocents = [Function(i, [], tiny, extra_args=[i], cost={"cpu": 1}) for i in range(200)]
        killer = Function("killer", [], die, cost={"cpu": 1}, duration=0.0001, priority=1)
        calm = await session.submit(innocents)
        wild = await session.submit([killer])
        with pytest.raises(FunctionFailedError) as caught:
            await wild.result()
        assert isinstance(caught.value.__cause__, KilledWorker)
        assert (await calm.result()).results == {i: i for i in range(200)}
        # Nobody is suspected of anything any more.
        assert {t.suspicious for t in s.tasks.values() if t.key.startswith("tiny")} == {0}
