"""A worker's death is blamed on what ran there, not on what was sent ahead."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from distributed import KilledWorker, Nanny
from distributed.utils_test import gen_cluster
from stage import until

from handoff_dask import Function, Handoff
from handoff_dask.scheduler.states import Prefetched, Running

#: All of them wait for the other function, which goes first.
COUNT = 100


def tiny(i):
    return i


def hold(path):
    """Say that it runs, and go on until its worker dies."""
    Path(path).touch()
    threading.Event().wait(60)


@pytest.mark.slow
def test_functions_sent_ahead_are_not_blamed(tmp_path):
    """With no failure allowed, only the function that ran when its worker died fails."""
    path = tmp_path / "runs"

    @gen_cluster(
        client=True,
        nthreads=[("127.0.0.1", 1)],
        Worker=Nanny,
        config={"distributed.scheduler.allowed-failures": 0, "handoff.allocation-timeout": "30s"},
    )
    async def scene(c, s, a):
        async with Handoff(c) as session:
            # So that they are known to be short.
            await session.execute([Function(i, [], tiny, extra_args=[i], cost={"cpu": 1}) for i in range(30)])
            held = Function(
                "held", [], hold, extra_args=[str(path)], cost={"cpu": 1}, duration=0.0001, priority=1
            )
            calm = [Function(i, [], tiny, extra_args=[i], cost={"cpu": 1}) for i in range(COUNT)]
            # Of one execution: those of others take turns with it, and are not sent behind it.
            execution = await session.submit([held, *calm], on_failure="return")
            functions = s.plugins["handoff"].runs.functions
            key = execution.futures["held"].key
            # What ended before it has been reported; else Dask could not know who ran.
            await until(lambda: path.exists() and isinstance(functions[key].state, Running))
            assert any(isinstance(f.state, Prefetched) for f in functions.values())
            (worker,) = s.workers.values()
            os.kill(worker.pid, signal.SIGKILL)

            result = await execution.result()
            assert list(result.failed) == ["held"]
            assert isinstance(result.failed["held"], KilledWorker)
            assert result.results == {i: i for i in range(COUNT)}
            # Nobody is suspected of anything any more.
            assert {t.suspicious for t in s.tasks.values() if t.key.startswith("tiny")} == {0}

    scene()
