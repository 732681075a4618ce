"""Clients and runs that share a cluster: whose turn it is, on real workers."""

from __future__ import annotations

import asyncio
import time

import pytest
from clusters import engine_of, live, settled
from distributed import Client

import handoff_dask as handoff
from handoff_dask import Function


def pause(seconds):
    time.sleep(seconds)


def pauses(count, seconds=0.06):
    return [Function(n, [], pause, extra_args=[seconds], cost={"cpu": 1}) for n in range(count)]


def seconds_until(result, end):
    """Seconds for which functions of a result ran, up to a moment."""
    return sum(max(0.0, min(t.stop, end) - t.start) for t in result.timings.values())


@pytest.mark.slow
@pytest.mark.parametrize(("share", "counts"), [(1.0, (60, 60)), (3.0, (90, 30))])
@live(2, 2)
async def test_two_clients_get_what_is_their_share(c, s, a, b, share, counts):
    async with (
        Client(s.address, asynchronous=True, set_as_default=False) as other,
        handoff.Handoff(c) as one,
        handoff.Handoff(other) as two,
    ):
        first = await one.submit(pauses(counts[0] + 40), share=share)
        second = await two.submit(pauses(counts[1] + 40))
        mine, others = await asyncio.gather(first.result(), second.result())
    end = min(max(t.stop for t in result.timings.values()) for result in (mine, others)) - 0.3
    assert seconds_until(mine, end) / seconds_until(others, end) == pytest.approx(share, rel=0.15)


@live(2)
async def test_a_short_run_does_not_wait_for_a_long_one(c, s, a, stage):
    async with (
        Client(s.address, asynchronous=True, set_as_default=False) as other,
        handoff.Handoff(c) as one,
        handoff.Handoff(other) as two,
    ):
        long = await one.submit([stage.function(f"long {n}", cost={"cpu": 1}) for n in range(6)])
        await stage.sees("long 0", "long 1")
        short = await two.submit([stage.quick("short", cost={"cpu": 1})])
        await settled(s, room=5)
        assert "its run holds 0% of the cluster, its client 0%; 1 other run waits" in str(
            await two.explain(short.dag_id, "short")
        )
        assert {run["share"] for run in s.plugins["handoff"].views.runs()} == {0.0, 1.0}
        assert sorted(s.plugins["handoff"].metrics.shares().values()) == [0.0, 1.0]
        stage.cue("long 0")
        await short
        assert stage.started[:3] == ["long 0", "long 1", "short"]
        assert max(h.client_share for h in engine_of(s).holdings()) > 0
        stage.close()
        for n in range(1, 6):
            stage.cue(f"long {n}")
        await long


@live(1)
async def test_priority_of_a_run_goes_before_priorities_of_functions(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        first = await session.submit([stage.function("runs", cost={"cpu": 1})])
        await stage.sees("runs")
        plain = await session.submit([stage.quick("plain", cost={"cpu": 1}, priority=1000)])
        urgent = await session.submit([stage.quick("urgent", cost={"cpu": 1})], priority=1)
        await settled(s, room=2)
        stage.cue("runs")
        await asyncio.gather(first.result(), plain.result(), urgent.result())
    assert stage.started == ["runs", "urgent", "plain"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0}, "share is 0; give a number above 0"),
        ({"share": -1.0}, "share is -1.0; give a number above 0"),
        ({"share": float("inf")}, "share is inf; give a number above 0"),
        ({"share": "much"}, "share is 'much'; give a number above 0"),
        ({"priority": float("nan")}, "priority is nan; give a number, larger for what goes earlier"),
        ({"priority": None}, "priority is None; give a number"),
    ],
)
@live(1)
async def test_what_is_no_share_or_priority_is_refused(c, s, a, options, message):
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.ValidationError, match=message):
            await session.submit(pauses(1), **options)
