"""A function whose worker was ended for its memory is told so."""

from __future__ import annotations

import os
import pickle
import signal
import time

import pytest
from clusters import live, nothing_claimed
from distributed import KilledWorker, Nanny
from distributed.scheduler import WorkerState
from distributed.utils_test import gen_cluster

from handoff_dask import Function, FunctionFailedError, Handoff
from handoff_dask.protocol.killed import KilledForMemory, MemoryDeath


def hoards(megabytes=2000, then=None):
    """Take more and more memory, until somebody ends this process."""
    held = []
    while len(held) * 20 < megabytes:
        held.append(b"." * 20_000_000)
        time.sleep(0.03)
    time.sleep(1.5)  # until a heartbeat has told
    os.kill(os.getpid(), signal.SIGKILL)


def nannies(limit, **config):
    return gen_cluster(
        client=True,
        nthreads=[("127.0.0.1", 2)],
        Worker=Nanny,
        worker_kwargs={"memory_limit": limit},
        timeout=90,
        config={"handoff.allocation-timeout": "60s", **config},
    )


@pytest.mark.slow
@nannies("500 MB", **{"distributed.scheduler.allowed-failures": 1})
async def test_the_error_names_limit_and_claim(c, s, a):
    async with Handoff(c) as session:
        job = [Function("greedy", [], hoards, cost={"memory": 100})]
        with pytest.raises(FunctionFailedError, match="claims 100 MB of memory") as caught:
            await session.execute(job)
        killed = caught.value.__cause__
        assert isinstance(killed, KilledWorker)
        assert (killed.attempts, killed.claimed_mb) == (2, 100)
        assert [(death.limit_mb, death.is_certain) for death in killed.deaths] == [(500, True), (500, True)]
        assert all(death.held_mb > 475 for death in killed.deaths)
        assert "ended for its memory, in 2 of 2 attempts: node" in str(caught.value)
        await nothing_claimed(s)


@pytest.mark.slow
@nannies(
    "500 MB",
    **{
        "distributed.scheduler.allowed-failures": 0,
        "distributed.worker.memory.terminate": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.spill": False,
    },
)
async def test_where_nobody_says_so_its_last_heartbeat_does(c, s, a):
    """As where the system ends processes that hold too much."""
    async with Handoff(c) as session:
        with pytest.raises(FunctionFailedError, match=r"nearly full: node .* claims no memory") as caught:
            await session.execute([Function("greedy", [], hoards, extra_args=[350])])
        (death,) = caught.value.__cause__.deaths
        assert not death.is_certain
        assert death.held_mb > 400


@live(1, 1, config={"distributed.scheduler.allowed-failures": 1, "handoff.allocation-timeout": "30s"})
async def test_each_death_counts_and_may_be_told_late(c, s, a, b, stage):
    async with Handoff(c) as session:
        execution = await session.submit([stage.function("f", cost={"memory": "20 MB"}), stage.quick("calm")])
        for number, worker in enumerate((a, b), 1):
            await stage.sees(*["f"] * number)
            s.workers[worker.address].memory_limit = 10**9
            said = {"worker": worker.address, "pid": 1, "rss": 990_000_000}
            if worker is b:
                s.log_event("worker-restart-memory", said)
            await s.remove_worker(worker.address, stimulus_id="it has died", expected=False)
            if worker is a:
                s.log_event("worker-restart-memory", said)
        with pytest.raises(FunctionFailedError, match=r"in 2 of 2 attempts: .* 990 MB, .* 1000 MB. .* 20 MB"):
            await execution.result()
        stage.close()


def test_it_survives_pickling():
    last = WorkerState(
        address="tcp://127.0.0.1:1", status=None, pid=1, name="a", nthreads=1, memory_limit=1,
        local_directory="", nanny=None, server_id="a",
    )  # fmt: skip
    error = KilledForMemory("f-1", last, 3, (MemoryDeath("a", 480.2, 500),), 4, None)

    again = pickle.loads(pickle.dumps(error))

    assert str(again) == str(error)
    assert str(error).startswith(
        "its worker was ended for its memory, in 1 of 4 attempts: node 'a' held 480 MB, and its limit is "
        "500 MB. The function claims no memory."
    )
    assert (again.deaths, again.attempts, again.allowed_failures) == (error.deaths, 4, 3)
