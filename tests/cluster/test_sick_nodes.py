"""A node that only fails is set aside."""

from __future__ import annotations

import asyncio
import time

from clusters import live
from distributed import get_worker

import handoff_dask as handoff
from handoff_dask import Function


def work(number):
    if get_worker().name == 0:
        raise OSError(28, "no space left on device")
    time.sleep(0.1)
    return number


@live(2, 2, config={"handoff.sick-after": 3, "handoff.sick-for": "60s"})
async def test_a_node_that_only_fails_is_set_aside(c, s, a, b):
    told = []
    events = [("handoff", "node", "sick"), ("handoff", "node", "well")]
    handoff.telemetry.attach_many("health", events, lambda *seen: told.append(seen[:3]))
    try:
        async with handoff.Handoff(c) as session:
            # With a hint none is sent before there is room: the node that fails draws the next ones.
            fields = {"cost": {"cpu": 1}, "duration": 1.0}
            dag = [Function(n, [], work, extra_args=(n,), **fields) for n in range(12)]
            result = await session.execute(dag)
            assert set(result.allocations.values()) == {"1"}
            statuses = {n["name"]: n["status"] for n in (await session.ask("overview"))["nodes"]}
            assert statuses == {"0": "sick", "1": "ready"}
            assert s.plugins["handoff"].metrics.sick() == {"0": True, "1": False}
            # Nothing is tried there meanwhile, unless no other node could hold it.
            again = await session.execute(dag)
            assert {timing.attempts for timing in again.timings.values()} == {1}
            pinned = await session.execute([Function("p", [], abs, extra_args=[1], node="0")])
            assert pinned.allocations == {"p": "0"}
            for _ in range(100):
                if len(told) > 1:
                    break
                await asyncio.sleep(0.02)
            assert [event[2] for event, _, _ in told[:2]] == ["sick", "well"]
            assert told[0][1]["failures"] >= 3
            assert told[0][2]["node"] == "0"
    finally:
        handoff.telemetry.detach("health")
