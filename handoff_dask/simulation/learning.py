"""What is expected of functions of which nothing is known beforehand: what those before them have taught.

It is what the scheduler does on a cluster, in the simplest form: functions of one cost and family are one
kind, and the order is worked out anew whenever the mean of a kind has changed by much.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from handoff_dask.placement.estimates import Estimates, family_of
from handoff_dask.placement.events import DurationsLearned, Event, RunKey, RunRanked
from handoff_dask.placement.ranking import starting_ranks
from handoff_dask.resources import Cost
from handoff_dask.simulation.problem import SimulatedFunction, SimulatedNode

#: All functions are of one code.
_CODE = "code"
#: The order is worked out anew when the mean of a kind has changed by this factor.
_CHANGE = 1.4


class Learned:
    """Expected durations and ranks of a run, from the functions of it that have ended.

    Parameters
    ----------
    run
        Its key, for the events.
    functions
        In topological order.
    nodes
        What there is to run them.
    """

    def __init__(
        self, run: RunKey, functions: Sequence[SimulatedFunction], nodes: Sequence[SimulatedNode]
    ) -> None:
        self._run = run
        self._functions = {function.id: function for function in functions}
        self._nodes = [node.capabilities for node in nodes]
        self._estimates = Estimates()
        self._told_s: dict[tuple[Cost, str], float] = {}
        number = {function.id: n for n, function in enumerate(functions)}
        self._dependents: list[list[int]] = [[] for _ in functions]
        for n, function in enumerate(functions):
            for arg in dict.fromkeys(function.args):
                self._dependents[number[arg]].append(n)
        kinds = {cost: n for n, cost in enumerate(dict.fromkeys(f.cost for f in functions))}
        self._costs, self._kinds = list(kinds), [kinds[function.cost] for function in functions]
        self.ranks: Mapping[Hashable, float] = self._order()

    def expected_s(self, function: SimulatedFunction) -> float | None:
        """How long a function is expected to take; None if nothing has ended yet."""
        return self._estimates.expected(_CODE, function.cost, function.id, family_of(function.id))

    def is_certain(self, function: SimulatedFunction) -> bool:
        """Whether its kind has shown that it takes about the same time always."""
        return self._estimates.is_steady(_CODE, function.cost, family_of(function.id))

    def learn(self, function: SimulatedFunction) -> list[Event]:
        """Take into account how long a function took that has ended; what there is to tell the engine."""
        family = family_of(function.id)
        kind = self._estimates.kind(_CODE, function.cost, family)
        kind.learn(function.duration_s)
        self._estimates.kind(_CODE, function.cost).learn(function.duration_s)
        told_s = self._told_s.get((function.cost, family))
        if told_s is not None and told_s / _CHANGE <= kind.mean_s <= told_s * _CHANGE:
            return []
        self._told_s[function.cost, family] = kind.mean_s
        self.ranks = self._order()
        expected = {f.id: self.expected_s(f) for f in self._functions.values()}
        known = {key: seconds for key, seconds in expected.items() if seconds is not None}
        return [RunRanked(run=self._run, ranks=self.ranks), DurationsLearned(run=self._run, durations=known)]

    def _order(self) -> dict[Hashable, float]:
        functions = list(self._functions.values())
        expected = [self.expected_s(function) for function in functions]
        known = [seconds for seconds in expected if seconds is not None]
        usual_s = sum(known) / len(known) if known else 1.0
        durations = [usual_s if seconds is None else seconds for seconds in expected]
        order = range(len(functions))
        ranks = starting_ranks(order, self._dependents, durations, self._kinds, self._costs, self._nodes)
        return dict(zip(self._functions, ranks, strict=True))
