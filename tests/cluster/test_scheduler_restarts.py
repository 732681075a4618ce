"""A scheduler that is started again at its address: Dask's client connects again, and so does the session."""

from __future__ import annotations

import asyncio

import pytest
from distributed import Client, Scheduler, Worker
from distributed.utils_test import gen_test
from stage import until

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask.errors import SchedulerLostError
from handoff_dask.testing import capture_telemetry


def scheduler(port=0):
    return Scheduler(host="127.0.0.1", port=port, dashboard_address="127.0.0.1:0", validate=True)


@gen_test(timeout=60)
async def test_the_session_goes_on_with_the_new_one(stage):
    async with scheduler() as first:
        address, port = first.address, int(first.address.rsplit(":")[-1])
        client = await Client(address, asynchronous=True)
        session = await handoff.Handoff(client).start()
        async with Worker(address, nthreads=2, name="a"):
            assert (await session.execute([Function("f", [], int)])).results == {"f": 0}
            lost = await session.submit([stage.function("lost")])
            await stage.sees("lost")
            closing = asyncio.ensure_future(first.close())
            await until(lambda: client.status != "running")
            stage.cue("lost")
            await closing
    try:
        async with scheduler(port) as second, Worker(address, nthreads=2, name="b"):
            await until(lambda: second.workers and client.status == "running")
            with capture_telemetry() as captured:
                result = await session.execute([Function("f", [], int, cost={"cpu": 1})], timeout=20)
                assert (result.results, result.allocations) == ({"f": 0}, {"f": "b"})
            captured.balance()
            # What the other one ran is lost, and says so.
            with pytest.raises(SchedulerLostError):
                await lost.result(timeout=10)
            assert list(await session.discover_nodes()) == ["b"]
            await handoff.Handoff(client).start()
            await session.stop()
            await client.close()
    finally:
        await client.close()
