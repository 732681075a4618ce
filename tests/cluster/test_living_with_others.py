"""Beside Dask's own work: transports, shuffles, stealing, memory managers, clusters that grow and shrink."""

from __future__ import annotations

import asyncio
import subprocess

import dask
import dask.array as da
import dask.dataframe as dd
import pandas as pd
import pytest
from clusters import live, nothing_claimed
from distributed import Client, LocalCluster
from distributed.security import Security
from distributed.utils_test import gen_cluster
from stage import until_sync

import handoff_dask as handoff
from handoff_dask import Function

pytestmark = pytest.mark.slow

CHECKED = {"distributed.scheduler.validate": True, "distributed.worker.validate": True}


def job(width=6, depth=4):
    """Functions in layers, and what they come to."""
    dag, values = handoff.DAG(), {}
    for level in range(depth):
        for n in range(width):
            args = [] if not level else [(level - 1, n), (level - 1, (n + 1) % width)]
            dag.add_function(Function((level, n), args, total, kwargs={"by": n}, cost={"cpu": 1}))
            values[level, n] = sum(values[a] for a in args) + n
    return dag, values


def total(*values, by):
    return sum(values) + by


async def executes_well(session, times=1):
    dag, values = job()
    for _ in range(times):
        assert (await session.execute(dag, timeout=40)).results == values


# ---------------------------------------------------------------------- transports


@gen_cluster(
    client=True,
    scheduler_kwargs={"protocol": "ws://"},
    worker_kwargs={"protocol": "ws://"},
    config=CHECKED,
    timeout=60,
)
async def test_websockets(c, s, a, b):
    assert s.address.startswith("ws://")
    async with handoff.Handoff(c) as session:
        await executes_well(session)
        await nothing_claimed(s)


@pytest.fixture(scope="module")
def security(tmp_path_factory):
    """A certificate of its own authority, for this machine."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    asked = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    asked += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {cert}"
    subprocess.run(asked.split(), check=True, capture_output=True)
    sides = {f"tls_{side}_{what}": path for side in ("client", "scheduler", "worker")
             for what, path in (("cert", cert), ("key", key))}  # fmt: skip
    return Security(require_encryption=True, tls_ca_file=cert, **sides)


def test_encrypted_connections(security):
    """A stream too: its nodes connect to each other."""

    @gen_cluster(
        client=True,
        security=security,
        scheduler_kwargs={"protocol": "tls://"},
        worker_kwargs={"protocol": "tls://"},
        config=CHECKED,
        timeout=60,
    )
    async def scene(c, s, a, b):
        assert s.address.startswith("tls://")
        async with handoff.Handoff(c) as session:
            await executes_well(session)
            stages = [
                Function("in", [], None, type="input"),
                Function("twice", ["in"], double, cost={"cpu": 1}),
            ]
            stages.append(Function("again", ["twice"], double, node=str(b.name)))
            async with await session.stream(stages) as pipeline:
                assert [value async for value in pipeline.map(range(20))] == [4 * n for n in range(20)]
            await nothing_claimed(s)

    scene()


def double(value):
    return 2 * value


# ---------------------------------------------------------------------- beside other work


def test_shuffles_arrays_and_dags_at_the_same_time():
    @live(2, 2)
    async def scene(client, scheduler, a, b):
        async with handoff.Handoff(client) as session:
            with dask.config.set({"dataframe.shuffle.method": "p2p"}):
                frame = dd.from_pandas(pd.DataFrame({"key": range(400), "value": range(400)}), npartitions=8)
                shuffled = client.compute(frame.shuffle("key").value.sum())
            numbers = da.random.default_rng(1).random((400, 400), chunks=(100, 100))
            product = client.compute((numbers @ numbers.T).sum() > 0)
            await asyncio.gather(executes_well(session, 3), executes_well(session, 3))
            assert await shuffled == sum(range(400))
            assert await product
            await nothing_claimed(scheduler)

    scene()


@pytest.mark.parametrize("saturation", [1.0, 1.1, float("inf")])
@pytest.mark.parametrize("stealing", [True, False])
def test_any_worker_saturation_with_stealing_or_without(saturation, stealing):
    config = {
        "distributed.scheduler.worker-saturation": saturation,
        "distributed.scheduler.work-stealing": stealing,
    }

    @live(1, 3, config=config)
    async def scene(client, scheduler, a, b):
        async with handoff.Handoff(client) as session:
            plain = client.map(double, range(60))
            await executes_well(session, 3)
            assert await client.gather(plain) == [2 * n for n in range(60)]
            await nothing_claimed(scheduler)

    scene()


def test_the_active_memory_manager_drops_copies_meanwhile():
    config = {
        "distributed.scheduler.active-memory-manager.start": True,
        "distributed.scheduler.active-memory-manager.interval": "50ms",
    }

    @live(2, 2, config=config)
    async def scene(client, scheduler, a, b):
        async with handoff.Handoff(client) as session:
            copies = await client.scatter(list(range(100)), broadcast=True)
            await executes_well(session, 6)
            assert await client.gather(copies) == list(range(100))
            await nothing_claimed(scheduler)

    scene()


# ---------------------------------------------------------------------- clusters that grow and shrink


def slow(n):
    import time

    time.sleep(0.1)
    return n


def test_an_adaptive_cluster_shrinks_and_loses_no_result():
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        handoff.Handoff(client) as session,
    ):
        cluster.adapt(minimum=1, maximum=3, interval="100ms", wait_count=2, target_duration="500ms")
        execution = session.submit(
            [Function(n, [], slow, extra_args=[n], cost={"cpu": 1}) for n in range(60)]
        )
        assert dict(execution.as_completed()) == {n: n for n in range(60)}
        until_sync(lambda: len(session.discover_nodes()) == 1, patience_s=40)
        assert execution.result(timeout=40).results == {n: n for n in range(60)}
        again = session.execute([Function("f", [], slow, extra_args=[7], cost={"cpu": 1})], timeout=40)
        assert again.results == {"f": 7}
