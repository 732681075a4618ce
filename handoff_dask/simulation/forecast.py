"""What will be left of a run in a moment.

To look for a better order takes time, in which the run goes on by its present one.  An order that
is found for what is left now may be a bad one for what is left then.
"""

from __future__ import annotations

import math
from dataclasses import replace

from handoff_dask.simulation.compact import CompactProblem
from handoff_dask.simulation.problem import Problem


class Forecast:
    """How a problem goes on in its present order.

    Examples
    --------
    >>> from handoff_dask.placement.strategies import FIRST_AVAILABLE
    >>> from handoff_dask.resources import Capabilities, Cost
    >>> from handoff_dask.simulation.problem import SimulatedFunction, SimulatedNode
    >>> cpu = Cost.parse({"cpu": 1})
    >>> chain = [SimulatedFunction(n, 2.0, cpu, (n - 1,) if n else ()) for n in range(3)]
    >>> nodes = [SimulatedNode("n", Capabilities.parse({"cpu": 1}))]
    >>> forecast = Forecast(Problem(chain, nodes, FIRST_AVAILABLE, {0: 3.0, 1: 2.0, 2: 1.0}))
    >>> forecast.makespan_s
    6.0
    >>> [(f.id, f.duration_s, f.args, f.pin) for f in forecast.after(2.5).functions]
    [(1, 1.5, (), 'n'), (2, 2.0, (1,), None)]
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        compact = CompactProblem(problem)
        self._schedule = compact.schedule([problem.ranks[key] for key in compact.ids])
        self._names = sorted(node.name for node in problem.nodes)
        #: Seconds until the end; infinity if some function never runs.
        self.makespan_s = math.inf if self._schedule is None else self._schedule.makespan_s

    def after(self, seconds: float) -> Problem:
        """What is left then; the same as now if nobody knows how it goes on."""
        schedule, problem = self._schedule, self._problem
        if schedule is None:
            return problem
        stops = zip(problem.functions, schedule.stop_s, strict=True)
        present = {function.id for function, stop_s in stops if stop_s > seconds}
        left = []
        for n, function in enumerate(problem.functions):
            if function.id not in present:
                continue
            if schedule.start_s[n] < seconds:
                node = self._names[schedule.node[n]]
                left.append(function.running(node, schedule.stop_s[n] - seconds))
            else:
                args = tuple(arg for arg in function.args if arg in present)
                left.append(replace(function, args=args))
        return replace(problem, functions=left)
