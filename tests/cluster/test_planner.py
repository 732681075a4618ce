"""The planner in the client: it orders a run anew while that goes on."""

from __future__ import annotations

import random
import time
from types import SimpleNamespace

import dask
import pytest
from clusters import live
from stage import until

import handoff_dask as handoff
from handoff_dask.client.planner import AHEAD_S, LEAST_S, MOST_S, SHARE, Planner, PlanningCycle
from handoff_dask.placement.strategies import FIRST_AVAILABLE
from handoff_dask.resources import Capabilities, Cost
from handoff_dask.simulation import SimulatedFunction, SimulatedNode
from handoff_dask.simulation.problem import Problem

NARROW, WIDE = Cost.parse({"cpu": 1}), Cost.parse({"cpu": 4})
NODE = SimulatedNode("n", Capabilities.parse({"cpu": 4}))


def mixed(scale=1.0):
    """Functions that waste a node in the order in which they are ranked."""
    functions = []
    for n in range(0, 40, 2):
        functions.append(SimulatedFunction(n, scale * (1.0 + n / 10), NARROW))
        functions.append(SimulatedFunction(n + 1, scale * 0.6, WIDE))
    return Problem(functions, [NODE], FIRST_AVAILABLE, {f.id: float(-f.id) for f in functions})


def test_a_planning_cycle_plans_for_what_will_be_left():
    """By the time that it is over; not for what runs, or has run, by then."""
    problem = mixed()
    cycle = PlanningCycle(problem, 1, 0.2)

    plan = cycle.work()

    assert plan.is_better
    assert cycle.limit_s == 0.2
    assert cycle.left_s == pytest.approx(plan.before_s + 0.2 + AHEAD_S)
    assert 0 in plan.ranks


def test_a_planning_cycle_takes_a_small_share_of_what_is_left():
    """However long it may take."""
    began = time.thread_time()
    cycle = PlanningCycle(mixed(0.05), 1, 100.0)
    cycle.work()
    used_s = time.thread_time() - began
    assert cycle.limit_s == SHARE * cycle.left_s < MOST_S
    # A try more, at most, and what it takes to be judged.
    assert used_s < 2 * cycle.limit_s


def test_a_planning_cycle_does_not_plan_what_is_about_to_end():
    cycle = PlanningCycle(mixed(LEAST_S / 100), 1, 0.1)
    assert cycle.work() is None
    assert cycle.left_s < LEAST_S


def test_a_planning_cycle_that_is_over_ends():
    """The run has ended: nobody waits for its thread."""
    cycle = PlanningCycle(mixed(), 1, 100.0)
    cycle.end()
    began = time.thread_time()
    cycle.work()
    assert time.thread_time() - began < 1.0


@live(4)
async def test_a_run_is_ordered_anew(c, s, a):
    """While it goes on, if its durations are known; and it ends well."""
    chance = random.Random(2)
    durations_s = [round(chance.uniform(0.05, 0.2), 3) for _ in range(40)]
    dag = [
        handoff.Function(
            n, [], time.sleep, extra_args=[d], cost={"cpu": chance.choice([1, 2, 3])}, duration=d
        )
        for n, d in enumerate(durations_s)
    ]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag, outputs=list(range(40)))
        runs = s.plugins["handoff"].runs.by_token
        await until(lambda: execution.token in runs)
        run = runs[execution.token]
        by_rule = {position: function.rank for position, function in run.functions.items()}

        await until(lambda: run.planned or execution.is_over)

        assert not execution.is_over
        ranks = {position: function.rank for position, function in run.functions.items()}
        assert any(ranks[position] != by_rule[position] for position in ranks)
        assert len((await execution).results) == 40


@pytest.mark.parametrize(
    ("planning", "functions", "options", "expected"),
    [
        (True, 20, {}, True),
        (False, 20, {}, False),
        (True, 19, {}, False),
        (True, 20, {"strategy": object()}, False),
        (True, 20, {"nodes": ["a"]}, False),
        (True, 20, {"max_concurrency": 3}, False),
        (True, 20, {"items": {"m": object()}}, False),
    ],
)
def test_what_is_planned(planning, functions, options, expected):
    """Runs that are neither small nor special, unless it is turned off."""
    items = options.get("items", {})
    options = SimpleNamespace(**{"strategy": "fastest", "nodes": None, "max_concurrency": None, **options})
    compiled = SimpleNamespace(keys=range(functions), manifest=SimpleNamespace(options=options, items=items))
    with dask.config.set({"handoff.planning": planning}):
        assert Planner(None, compiled).is_worth_while is expected


@live(2)
async def test_nobody_is_told_how_a_run_stands_of_which_little_is_left(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        counts = {}
        for duration_s in (0.001, 5.0):
            names = [f"{duration_s} {n}" for n in range(50)]
            dag = [stage.function(name, duration=duration_s, cost={"cpu": 1}) for name in names]
            execution = await session.submit(dag)
            ranks = s.plugins["handoff"].ranks
            await until(lambda f=ranks, token=execution.token: f.standing(c.id, token))
            counts[duration_s] = len(ranks.standing(c.id, execution.token).states)
            await execution.cancel()
        stage.close()
    assert counts == {0.001: 0, 5.0: 50}


@live(2)
async def test_a_run_whose_functions_take_large_data_is_not_planned(c, s, a, stage):
    """The planner knows no network; its order would take functions away from their data."""
    async with handoff.Handoff(c) as session:
        dag = [stage.quick("make", value=b"x" * 2_000_000)]
        dag += [stage.function(str(n), ["make"], duration=5.0, cost={"cpu": 1}) for n in range(50)]
        execution = await session.submit(dag)
        standing = s.plugins["handoff"].ranks.standing
        await until(lambda: len(stage.started) > 1)
        assert not standing(c.id, execution.token).states
        await execution.cancel()
        stage.close()
