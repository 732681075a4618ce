"""What will be left of a run in a moment: the engine, left alone, gets to the same end from there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.settings import EngineSettings
from handoff_dask.placement.strategies import FIRST_AVAILABLE
from handoff_dask.resources import Capabilities, Cost
from handoff_dask.simulation import SimulatedFunction, SimulatedNode, load_scenario, simulate
from handoff_dask.simulation.forecast import Forecast
from handoff_dask.simulation.problem import Problem

PROBLEMS = Path(__file__).parent / "problems"


def makespan_s(problem):
    # One that never loses its patience: it could not know who has waited already.
    engine = PlacementEngine(EngineSettings(round_trip_s=0, timed_prefetch_lead_s=0, aging_floor_s=1e9))
    run = simulate(
        problem.functions, problem.nodes, problem.strategy, ranks=problem.ranks, engine=engine, idleness=False
    )
    return run.makespan_s


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("name", ["memory-packing", "nf-airrflow"])
def test_the_end_comes_when_it_would_have(name, share):
    """Whatever the moment, the rest takes what was left then."""
    scenario = load_scenario(PROBLEMS / f"{name}.json")
    problem = Problem(scenario.functions, scenario.nodes, FIRST_AVAILABLE, scenario.ranks())

    forecast = Forecast(problem)
    rest = forecast.after(share * forecast.makespan_s)

    assert forecast.makespan_s == pytest.approx(makespan_s(problem))
    assert 0 < len(rest.functions) <= len(problem.functions)
    assert makespan_s(rest) == pytest.approx((1 - share) * forecast.makespan_s)


def test_nothing_changes_at_once():
    scenario = load_scenario(PROBLEMS / "srasearch.json")
    problem = Problem(scenario.functions, scenario.nodes, FIRST_AVAILABLE, scenario.ranks())
    assert list(Forecast(problem).after(0.0).functions) == list(problem.functions)


def test_in_the_end_nothing_is_left():
    scenario = load_scenario(PROBLEMS / "srasearch.json")
    forecast = Forecast(Problem(scenario.functions, scenario.nodes, FIRST_AVAILABLE, scenario.ranks()))
    assert forecast.after(forecast.makespan_s).functions == []


def test_what_never_runs_is_not_foreseen():
    functions = [SimulatedFunction(0, 1.0, Cost.parse({"gpu": 1}))]
    nodes = [SimulatedNode("n", Capabilities.parse({"cpu": 1}))]
    problem = Problem(functions, nodes, FIRST_AVAILABLE, {0: 1.0})
    forecast = Forecast(problem)
    assert forecast.makespan_s == math.inf
    assert forecast.after(0.5) is problem
