"""The planner: it finds better orders, and knows when it has found none."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from handoff_dask.placement.strategies import FIRST_AVAILABLE
from handoff_dask.resources import Capabilities, Cost
from handoff_dask.simulation import (
    SimulatedFunction,
    SimulatedNode,
    SimulationStuck,
    load_scenario,
    simulate,
)
from handoff_dask.simulation.planning import first_ranks, improve, plans
from handoff_dask.simulation.problem import Problem

PROBLEMS = Path(__file__).parent / "problems"
NARROW, WIDE = Cost.parse({"cpu": 1}), Cost.parse({"cpu": 4})
NODE = SimulatedNode("n", Capabilities.parse({"cpu": 4}))


def problem_of(functions, ranks=None):
    return Problem(functions, [NODE], FIRST_AVAILABLE, ranks or {f.id: 1.0 for f in functions})


def test_finds_the_order_that_fills_the_node():
    """Short wide ones between long narrow ones: alternating them wastes the node."""
    narrow = [SimulatedFunction(f"n{i}", 1.0 + i / 10, NARROW) for i in range(8)]
    wide = [SimulatedFunction(f"w{i}", 0.6, WIDE) for i in range(4)]
    mixed = [f for pair in zip(narrow[::2], wide, narrow[1::2], strict=True) for f in pair]
    problem = problem_of(mixed, {f.id: float(-i) for i, f in enumerate(mixed)})

    plan = improve(problem, seed=1, go_on=lambda tried: tried < 30)

    assert plan.is_better
    run = simulate(problem.functions, problem.nodes, FIRST_AVAILABLE, ranks=plan.ranks)
    assert run.makespan_s == plan.makespan_s < plan.before_s


def test_keeps_an_order_that_cannot_be_better():
    """A chain takes as long in any order."""
    chain = [SimulatedFunction(i, 1.0, NARROW, (i - 1,) if i else ()) for i in range(5)]
    problem = problem_of(chain)
    plan = improve(problem, seed=1, go_on=lambda tried: tried < 10)
    assert not plan.is_better
    assert plan.ranks is problem.ranks
    assert (plan.makespan_s, plan.before_s) == (5.0, 5.0)


def test_same_seed_gives_the_same_plan():
    functions = [SimulatedFunction(i, 0.1 + i % 7 / 5, WIDE if i % 5 == 0 else NARROW) for i in range(60)]
    problem = problem_of(functions)
    plans = [improve(problem, seed=3, go_on=lambda tried: tried < 12) for _ in range(2)]
    assert plans[0] == plans[1]


def test_plans_come_as_they_are_found():
    """The first is the present order, each one after it better by the engine's own judgement."""
    scenario = load_scenario(PROBLEMS / "nf-airrflow.json")
    problem = Problem(scenario.functions, scenario.nodes, FIRST_AVAILABLE, scenario.ranks())

    found = list(plans(problem, seed=1, go_on=lambda tried: tried < 100))

    assert found[0].ranks is problem.ranks
    assert len(found) > 2
    for one, other in pairwise(found):
        assert other.tried > one.tried
        assert other.makespan_s < one.makespan_s
    for plan in found:
        run = simulate(problem.functions, problem.nodes, FIRST_AVAILABLE, ranks=plan.ranks, idleness=False)
        assert run.makespan_s == plan.makespan_s
    best = improve(problem, seed=1, go_on=lambda tried: tried < 100)
    assert (best.ranks, best.makespan_s) == (found[-1].ranks, found[-1].makespan_s)
    assert best.tried == 100


def test_patience_is_heeded_at_once():
    """Whoever plans can stop after any order that was tried."""
    scenario = load_scenario(PROBLEMS / "nf-airrflow.json")
    problem = Problem(scenario.functions, scenario.nodes, FIRST_AVAILABLE, scenario.ranks())
    asked = []

    improve(problem, seed=1, go_on=lambda tried: asked.append(tried) or tried < 12)

    assert asked[-1] == 12
    assert all(other - one in (0, 1) for one, other in pairwise(asked))


def test_ends_when_nothing_can_be_better():
    """A schedule as short as the longest path, or as the room allows, is not looked at any further."""
    functions = [SimulatedFunction(i, 1.0, NARROW) for i in range(40)]
    plan = improve(problem_of(functions), seed=1, go_on=lambda tried: True)
    assert (plan.makespan_s, plan.is_better) == (10.0, False)


def test_what_can_never_run_is_told():
    """Rather than that it ends without it."""
    functions = [SimulatedFunction(i, 1.0, WIDE) for i in range(3)]
    with pytest.raises(SimulationStuck, match="lower their costs or add nodes"):
        improve(
            problem_of([*functions, SimulatedFunction(3, 1.0, Cost.parse({"gpu": 1}))]),
            seed=1,
            go_on=lambda tried: tried < 10,
        )


def test_ranks_stay_above_zero():
    """Sending ahead takes 0 for the rank of what follows a function that nobody waits for."""
    functions = [SimulatedFunction(i, 0.1 + i % 7 / 5, WIDE if i % 5 == 0 else NARROW) for i in range(60)]
    for plan in plans(problem_of(functions), seed=3, go_on=lambda tried: tried < 200):
        assert min(plan.ranks.values()) > 0


def test_what_runs_already_starts_at_once():
    """Running functions are pinned and go first, whatever their ranks."""
    running = SimulatedFunction("running", 0.5, WIDE, pin="n", priority=float("inf"))
    waiting = SimulatedFunction("waiting", 1.0, WIDE)
    plan = improve(problem_of([waiting, running]), seed=1, go_on=lambda tried: tried < 3)
    assert plan.makespan_s == 1.5


def test_a_run_starts_with_what_is_hard_to_place_and_wide():
    """If it is large, and not all cost the same; else with the longest path."""
    functions = [SimulatedFunction(n, 1.0, NARROW if n % 2 else WIDE) for n in range(64)]
    ranks = first_ranks(problem_of(functions))
    # Of a node of 4: a quarter, and all of it; scarcity is in shares of the scarcest.
    assert {n: ranks[n] for n in (0, 1)} == {0: 1.25 * 1.25, 1: 0.5 * 0.5}
    assert len(set(ranks.values())) == 2
    assert set(first_ranks(problem_of(functions[:63])).values()) == {1.0}
    alike = [SimulatedFunction(n, 1.0, WIDE) for n in range(64)]
    assert set(first_ranks(problem_of(alike)).values()) == {1.0}


def test_very_large_problems_are_not_driven_through_the_engine(monkeypatch):
    """That would take too long; they are planned all the same."""
    monkeypatch.setattr("handoff_dask.simulation.planning.JUDGED", 5)
    monkeypatch.setattr("handoff_dask.simulation.planning.simulate", None)
    functions = [SimulatedFunction(n, 1.0, NARROW) for n in range(8)]
    functions += [SimulatedFunction(8, 3.0, NARROW)]
    plan = improve(
        problem_of(functions, {n: float(-n) for n in range(9)}), seed=1, go_on=lambda tried: tried < 9
    )
    assert (plan.before_s, plan.makespan_s) == (5.0, 3.0)
