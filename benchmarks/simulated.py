"""The engine without a cluster: what it decides on a scenario, and how good the best order is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from benchmarks.scenarios import Scenario
from handoff_dask.placement.strategies import BUILT_IN, FIRST_AVAILABLE
from handoff_dask.simulation import simulate
from handoff_dask.simulation.planning import first_ranks, improve
from handoff_dask.simulation.problem import Problem, ranks_of


@dataclass(frozen=True)
class Outcome:
    """Makespans of one scenario, over its lower bound."""

    #: In order of the longest remaining path; in the order that a run starts with; after planning.
    paths: float
    first: float
    planned: float


def problem(scenario: Scenario, strategy: str = "first_available") -> Problem:
    """A scenario as the planner sees it before anything has run."""
    functions, nodes = scenario.simulated()
    start = Problem(functions, nodes, BUILT_IN[strategy], ranks_of(functions))
    return replace(start, ranks=first_ranks(start))


def outcome(scenario: Scenario, tries: int, overhead_s: float = 0.0) -> Outcome:
    """Simulate a scenario; the planner may try so many orders."""
    functions, nodes = scenario.simulated()
    paths = simulate(functions, nodes, FIRST_AVAILABLE, overhead_s=overhead_s, idleness=False)
    plan = improve(problem(scenario), seed=1, go_on=lambda tried: tried < tries)
    bound_s = scenario.bound_s
    return Outcome(paths.makespan_s / bound_s, plan.before_s / bound_s, plan.makespan_s / bound_s)


def best_known(scenario: Scenario, tries: int) -> float:
    """The shortest makespan that turns up under several strategies and many orders."""
    found = [scenario.best_s] if scenario.best_s else []
    for strategy in ("first_available", "cost_optimized", "load_balanced"):
        plan = improve(problem(scenario, strategy), seed=7, go_on=lambda tried: tried < tries)
        found.append(plan.makespan_s)
    return min(found)


def table(scenarios: Iterable[Scenario], tries: int) -> str:
    """Markdown."""
    from benchmarks.tables import geometric_mean

    lines = [
        "| scenario | functions | paths | first order | planned | best known |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    outcomes = []
    for scenario in scenarios:
        o = outcome(scenario, tries)
        best = scenario.best_s / scenario.bound_s
        outcomes.append((o.paths, o.first, o.planned, best))
        cells = " | ".join(f"{value:.3f}" for value in outcomes[-1])
        lines.append(f"| {scenario.name} | {len(scenario.tasks)} | {cells} |")
    means = [geometric_mean(column) for column in zip(*outcomes, strict=True)]
    lines.append(f"| **geometric mean** | | {' | '.join(f'**{mean:.3f}**' for mean in means)} |")
    return "\n".join(lines) + "\n"
