"""The costs that functions would have needed, by what was measured of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from handoff_dask.record.execution import ExecutionRecord, FunctionRecord
from handoff_dask.record.result import ExecutionResult

__all__ = ["CostSuggestion", "CostSuggestions", "suggest_costs"]

#: Runs that took less, in seconds, say nothing of how many cores they used.
LEAST_S = 0.05


@dataclass(frozen=True, slots=True)
class CostSuggestion:
    """What the functions of one code would have needed."""

    #: The code's name.
    name: str
    #: How many runs were measured.
    runs: int
    #: What they would have needed: ``cpu`` (left out where all runs were too short to tell), ``memory`` in
    #: megabytes; no more than was measured, without anything to spare.
    cost: Mapping[str, int | float]
    #: What they claimed, the largest amount of each.
    asked: Mapping[str, Any] = field(default_factory=dict)
    #: Whether all runs were measured in processes of their own.
    exact: bool = True

    def __str__(self) -> str:
        needed = ", ".join(f"{name} {amount:g}" for name, amount in self.cost.items()) or "nothing"
        asked = ", ".join(f"{name} {self.asked[name]:g}" for name in self.cost if name in self.asked)
        runs = "1 run" if self.runs == 1 else f"{self.runs} runs"
        how = "" if self.exact else "; an estimate, measured in shared processes"
        return f"{self.name}: {needed} (asked: {asked or 'nothing'}; {runs}{how})"


@dataclass(frozen=True, slots=True)
class CostSuggestions(Mapping[str, CostSuggestion]):
    """Suggestions by name of code; ``str()`` says them in words, a line each."""

    by_name: Mapping[str, CostSuggestion]

    def __getitem__(self, name: str) -> CostSuggestion:
        return self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    def __str__(self) -> str:
        return "\n".join(map(str, self.by_name.values())) or "nothing was measured"


def suggest_costs(*results: ExecutionResult | ExecutionRecord) -> CostSuggestions:
    """The cost that each code's measured runs would have needed.

    Parameters
    ----------
    results
        Of executions, or their records; all their functions with a ``usage`` count.

    Returns
    -------
    CostSuggestions
        ``{name of the code: suggestion}``.
    """
    records = [one if isinstance(one, ExecutionRecord) else one.record for one in results]
    return suggestions_of(function for record in records for function in record.functions)


def suggestions_of(functions: Iterable[FunctionRecord]) -> CostSuggestions:
    """The same of functions; those without a ``usage`` do not count."""
    by_name: dict[str, list[FunctionRecord]] = {}
    for function in functions:
        if function.usage is not None:
            by_name.setdefault(function.name, []).append(function)
    return CostSuggestions({name: _suggestion(name, runs) for name, runs in sorted(by_name.items())})


def _suggestion(name: str, runs: list[FunctionRecord]) -> CostSuggestion:
    cost: dict[str, int | float] = {}
    cores = [
        run.usage.cpu_s / (run.stop - run.start)
        for run in runs
        if run.usage is not None
        and run.start is not None
        and run.stop is not None
        and run.stop - run.start >= LEAST_S
    ]
    if cores:
        cost["cpu"] = max(0.1, math.ceil(10 * max(cores) - 0.5) / 10)
    cost["memory"] = max(1, math.ceil(max(run.usage.peak_memory_mb for run in runs if run.usage is not None)))
    asked: dict[str, Any] = {}
    for run in runs:
        for resource, amount in run.cost.items():
            if isinstance(amount, (int, float)) and not isinstance(amount, bool):
                asked[resource] = max(asked.get(resource, 0), amount)
    exact = all(run.usage is not None and run.usage.exact for run in runs)
    return CostSuggestion(name=name, runs=len(runs), cost=cost, asked=asked, exact=exact)
