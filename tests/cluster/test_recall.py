"""What was sent ahead, behind a function that does not end, does not wait there for ever."""

from __future__ import annotations

from clusters import live, nothing_claimed, settled
from telemetry_checks import FUNCTION

import handoff_dask as handoff
from handoff_dask.scheduler.lifecycle import TurnCame
from handoff_dask.scheduler.states import Prefetched
from handoff_dask.testing import capture_telemetry


async def learn(session, stage):
    """Let it be known that functions of a stage are short: without a hint they are sent ahead from now on."""
    await session.execute([stage.quick(f"learn {n}", duration=None, cost={"cpu": 1}) for n in range(60)])
    stage.story.clear()


@live(1, 1)
async def test_others_do_not_wait_behind_one_that_takes_long_after_all(c, s, a, b, stage):
    names = [f"f{n}" for n in range(40)]
    async with handoff.Handoff(c) as session:
        await learn(session, stage)
        dag = [stage.function("long", duration=None, cost={"cpu": 1})]
        dag += [stage.quick(n, duration=None, cost={"cpu": 1}) for n in names]
        execution = await session.submit(dag)
        await stage.sees("long", *names)
        stage.cue("long")
        result = await execution
        await nothing_claimed(s)
    assert sorted(stage.started) == sorted(["long", *names])
    assert {t.attempts for t in result.timings.values()} == {1}


@live(1)
async def test_with_no_other_node_they_wait_for_room(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        await learn(session, stage)
        dag = [stage.function("long", duration=None, cost={"cpu": 1})]
        dag += [stage.quick(str(n), duration=None, cost={"cpu": 1}) for n in range(9)]
        execution = await session.submit(dag)
        await stage.sees("long")
        # They are given back, and wait as if they had never been sent.
        await settled(s, room=9)
        assert stage.started == ["long"]
        stage.cue("long")
        result = await execution
        await nothing_claimed(s)
    assert len(stage.started) == 10
    assert {t.attempts for t in result.timings.values()} == {1}


@live(1)
async def test_those_whose_turn_had_come_by_our_account_have_not_begun_either(c, s, a, stage):
    """The one before may end between the question and the worker's answer."""
    async with handoff.Handoff(c) as session:
        await learn(session, stage)
        plugin = s.plugins["handoff"]
        recalled = plugin.recall._recalled

        def meanwhile(key, address):
            # The one before it ends, and the worker's answer comes only then.
            function = plugin.runs.functions[key]
            if isinstance(function.state, Prefetched):
                plugin.dispatcher.tell(function, TurnCame())
            recalled(key, address)

        plugin.recall._recalled = meanwhile
        dag = [stage.function("long", duration=None, cost={"cpu": 1})]
        dag += [stage.quick(str(n), duration=None, cost={"cpu": 1}) for n in range(9)]
        with capture_telemetry() as captured:
            execution = await session.submit(dag)
            await stage.sees("long")
            await settled(s, room=9)
            stage.cue("long")
            result = await execution
    captured.balance()
    assert len(captured.of((*FUNCTION, "start"))) == 10
    assert {t.attempts for t in result.timings.values()} == {1}


@live(1, 1)
async def test_cancelled_while_they_wait_behind(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        await learn(session, stage)
        dag = [stage.function(f"long {n}", duration=None, cost={"cpu": 1}, priority=1) for n in range(2)]
        dag += [stage.quick(str(n), duration=None, cost={"cpu": 1}) for n in range(20)]
        execution = await session.submit(dag)
        await stage.sees("long 0", "long 1")
        await execution.cancel()
        other = await session.submit([stage.quick("other", cost={"cpu": 1})])
        stage.cue("long 0")
        assert (await other).results == {"other": "other"}
        stage.cue("long 1")
        await nothing_claimed(s)
    assert sorted(stage.started) == ["long 0", "long 1", "other"]
