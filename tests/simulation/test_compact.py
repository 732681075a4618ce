"""Lean simulation: the engine's schedules, without what the engine does for fairness."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import Demand
from handoff_dask.placement.settings import EngineSettings
from handoff_dask.placement.strategies import BUILT_IN, FIRST_AVAILABLE
from handoff_dask.resources import Capabilities, Cost
from handoff_dask.simulation import SimulatedFunction, SimulatedNode, load_scenario, simulate
from handoff_dask.simulation.compact import CompactProblem
from handoff_dask.simulation.problem import Problem, ranks_of

PROBLEMS = Path(__file__).parent / "problems"
CPU = Cost.parse({"cpu": 1})


def problem_of(functions, nodes, strategy=FIRST_AVAILABLE, groups=None):
    return Problem(functions, nodes, strategy, ranks_of(functions), groups or {})


def by_engine(problem):
    """When and where each function runs.

    One run alone, of which all is known: fairness has no say.
    """
    engine = PlacementEngine(EngineSettings(round_trip_s=0, timed_prefetch_lead_s=0))
    run = simulate(
        problem.functions,
        problem.nodes,
        problem.strategy,
        ranks=problem.ranks,
        groups=problem.groups,
        engine=engine,
        idleness=False,
    )
    return {f: (span.node, span.start_s, span.stop_s) for f, span in run.spans.items()}


def by_compact(problem):
    compact = CompactProblem(problem)
    schedule = compact.schedule([problem.ranks[key] for key in compact.ids])
    names = sorted(node.name for node in problem.nodes)
    times = zip(schedule.node, schedule.start_s, schedule.stop_s, strict=True)
    return {key: (names[node], *span) for key, (node, *span) in zip(compact.ids, times, strict=True)}


def drawn(seed, strategy):
    """A problem with labels, pins, collocation, fractions, few threads, user priorities and ties."""
    chance = random.Random(seed)
    nodes = [
        SimulatedNode("b", Capabilities.parse({"cpu": 4, "memory": 1000.5}), threads=3),
        SimulatedNode("a", Capabilities.parse({"cpu": 2, "memory": 3000, "zone": "x"})),
        SimulatedNode("c", Capabilities.parse({"cpu": 8, "memory": 2000, "gpu": 1, "price": 2}), threads=4),
    ]
    costs = [
        Cost.parse(cost)
        for cost in (
            {"cpu": 0.3},
            {"cpu": 1, "memory": 400},
            {"cpu": 2, "zone": "x"},
            {"cpu": 1, "gpu": 0.5},
            {"memory": 900.1},
            {},
        )
    ]
    functions = []
    for n in range(120):
        args = tuple(chance.sample(range(max(0, n - 15), n), min(n, chance.choice([0, 0, 1, 2, 3]))))
        group = chance.choice([None] * 12 + ["g", "h"])
        cost = costs[chance.choice([0, 1, 4, 5])] if group is not None else chance.choice(costs)
        pin = "c" if group is None and chance.random() < 0.1 and "zone" not in str(cost) else None
        duration_s = chance.choice([0.25, 0.5, 1.0, round(0.01 + chance.random(), 2)])
        priority = chance.choice([0, 0, 0, 1])
        functions.append(
            SimulatedFunction(n, duration_s, cost, args, pin=pin, group=group, priority=priority)
        )
    whole = Cost.parse({"cpu": 1, "memory": 900.1})
    return problem_of(functions, nodes, strategy, {"g": Demand(whole), "h": Demand(whole)})


@pytest.mark.parametrize("strategy", BUILT_IN.values(), ids=BUILT_IN)
@pytest.mark.parametrize("seed", range(8))
def test_makes_the_schedule_of_the_engine(seed, strategy):
    """Each function starts at the same time on the same node, whatever demands are made of."""
    problem = drawn(seed, strategy)
    assert by_compact(problem) == by_engine(problem)


@pytest.mark.parametrize("strategy", BUILT_IN.values(), ids=BUILT_IN)
@pytest.mark.parametrize("name", ["memory-packing", "nf-airrflow"])
def test_makes_the_schedule_of_the_engine_in_scenarios(name, strategy):
    """Hundreds of functions of workflows as they are."""
    scenario = load_scenario(PROBLEMS / f"{name}.json")
    problem = problem_of(scenario.functions, scenario.nodes, strategy)
    assert by_compact(problem) == by_engine(problem)


@pytest.mark.parametrize("name", ["memory-packing", "nf-airrflow", "srasearch"])
def test_gives_up_only_what_is_too_long(name):
    """With a limit there is the same schedule if it is below, and none if it is not."""
    scenario = load_scenario(PROBLEMS / f"{name}.json")
    compact = CompactProblem(problem_of(scenario.functions, scenario.nodes))
    chance = random.Random(5)
    for _ in range(10):
        ranks = [rank * chance.uniform(0.5, 1.5) for rank in compact.tails]
        free = compact.schedule(ranks)
        assert compact.schedule(ranks, free.makespan_s * 1.001) == free
        assert compact.schedule(ranks, free.makespan_s) is None
        assert compact.schedule(ranks, free.makespan_s * 0.9) is None


def test_what_never_runs_has_no_schedule():
    """A function that no node could hold."""
    functions = [SimulatedFunction("f", 1.0, CPU), SimulatedFunction("g", 1.0, Cost.parse({"gpu": 1}))]
    compact = CompactProblem(problem_of(functions, [SimulatedNode("n", Capabilities.parse({"cpu": 1}))]))
    assert compact.schedule([1.0, 1.0]) is None
    assert compact.schedule([1.0, 1.0], 0.5) is None


def test_mirrored_schedules_wait_for_dependents():
    """In mirrored time a function starts once all that take its result have ended."""
    chain = [SimulatedFunction(n, 1.0 + n, CPU, (n - 1,) if n else ()) for n in range(3)]
    compact = CompactProblem(problem_of(chain, [SimulatedNode("n", Capabilities.parse({"cpu": 1}))]))
    assert compact.mirrored([1.0, 1.0, 1.0]).start_s == [5.0, 3.0, 0.0]


def test_blocking_functions_lead_from_the_end_to_the_start():
    """Through arguments, and through those who held the room."""
    functions = [
        SimulatedFunction("holds", 2.0, CPU),
        SimulatedFunction("waits", 1.0, CPU),
        SimulatedFunction("takes", 3.0, CPU, ("waits",)),
        SimulatedFunction("free", 1.0, Cost.parse({})),
    ]
    compact = CompactProblem(problem_of(functions, [SimulatedNode("n", Capabilities.parse({"cpu": 1}))]))
    schedule = compact.schedule([4.0, 3.0, 2.0, 1.0])
    assert schedule.makespan_s == 6.0
    assert [compact.ids[n] for n in compact.blocking(schedule)] == ["takes", "waits", "holds"]


def test_no_schedule_is_shorter_than_the_bound():
    """Neither than the longest path, nor than the room that is used allows."""
    nodes = [
        SimulatedNode("n", Capabilities.parse({"cpu": 2})),
        SimulatedNode("m", Capabilities.parse({"cpu": 1})),
    ]
    wide = [SimulatedFunction(n, 1.0, CPU) for n in range(12)]
    assert CompactProblem(problem_of(wide, nodes)).bound_s() == 4.0
    chain = [SimulatedFunction(n, 1.0, CPU, (n - 1,) if n else ()) for n in range(5)]
    assert CompactProblem(problem_of(chain, nodes)).bound_s() == 5.0
