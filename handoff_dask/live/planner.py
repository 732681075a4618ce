"""In the client: looks for a better order while a run goes on, and tells the scheduler.

The scheduler has no time for this, the client has nothing else to do.  Each round asks how the
run stands, tries orders for what is left of it (:mod:`handoff_dask.simulation.planning`), and
sends the ranks of each that is better than what the scheduler has, as soon as it is found.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from distributed.metrics import monotonic, thread_time

from handoff_dask import config
from handoff_dask.live.protocol import Standing
from handoff_dask.placement.strategies import BUILT_IN
from handoff_dask.resources import Capabilities
from handoff_dask.simulation.planning import Plan, Problem, plans
from handoff_dask.simulation.problem import SimulatedFunction, SimulatedNode
from handoff_dask.simulation.rest import rest_of
from handoff_dask.simulation.running import SimulationStuck

if TYPE_CHECKING:
    from handoff_dask.live.execution import Execution

logger = logging.getLogger(__name__)

#: Fewer functions than this are not worth planning, nor is a run that ends within so many seconds;
#: more take too long to simulate.
LEAST, LEAST_S, MOST = 20, 1.0, 20_000
#: Seconds between two looks at a run that cannot be planned yet, at first.
PAUSE_S = 0.5
#: Planning takes at most this share of what the run still lasts, and so many seconds a round.
SHARE, ROUND_S = 0.05, 0.6
#: Share of the functions whose durations must be known.
KNOWN = 0.8


class Round:
    """One round of planning: plans one after the other, each better than the one before.

    It is worked at in threads, one step at a time.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        self._plans: Iterator[Plan] = plans(problem, seed=seed, go_on=self._go_on)
        self._limit_s = ROUND_S
        self._spent_s = self._began_s = 0.0
        self._is_over = False

    def next(self) -> Plan | None:
        """The next plan, the first being the present order; None at the end."""
        # By the thread's own clock: a busy machine must not mean fewer candidates.
        self._began_s = thread_time()
        plan = next(self._plans, None)
        self._spent_s += thread_time() - self._began_s
        if plan is not None:
            self._limit_s = min(ROUND_S, SHARE * plan.before_s)
        return plan

    def end(self) -> None:
        """Let whatever thread works at it come to an end."""
        self._is_over = True

    def _go_on(self, tried: int) -> bool:
        spent_s = self._spent_s + thread_time() - self._began_s
        return spent_s * (1 + 1 / tried) < self._limit_s and not self._is_over


class Planner:
    """Plans one execution."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._compiled = execution.compiled
        self._seed = 0
        self._functions: list[SimulatedFunction] = []

    @property
    def is_worth_while(self) -> bool:
        """Whether this execution is of a kind that can be planned."""
        options = self._compiled.manifest.options
        return (
            bool(config.get("planning"))
            and LEAST <= len(self._compiled.keys) <= MOST
            and isinstance(options.strategy, str)
            and options.nodes is None
            and options.max_concurrency is None
        )

    async def run(self) -> None:
        """Plan until the run is over, or too little is left of it."""
        session, token = self._execution.session, self._compiled.manifest.token
        try:
            manifest = self._compiled.manifest
            pause_s = PAUSE_S
            if len(manifest.durations) < KNOWN * len(manifest):
                await asyncio.sleep(pause_s)
            while not self._execution.is_over:
                standing: Standing | None = await session.ask("standing", token=token)
                if standing is None:
                    break
                problem = self._problem(standing)
                if problem is not None:
                    began = monotonic()
                    left_s = await self._plan(problem)
                    if left_s < LEAST_S:
                        break
                    pause_s = PAUSE_S + min((monotonic() - began) / SHARE, left_s / 4)
                else:
                    pause_s *= 1.5
                await asyncio.sleep(pause_s)
        except Exception:  # the run goes on without a plan, whatever has gone wrong here
            logger.debug("planning has ended early", exc_info=True)

    async def _plan(self, problem: Problem) -> float:
        """One round; the seconds that the run was going to last when it began."""
        session, token = self._execution.session, self._compiled.manifest.token
        self._seed += 1
        left_s = float("inf")
        a_round = Round(problem, self._seed)
        try:
            while (plan := await asyncio.to_thread(a_round.next)) is not None:
                left_s = plan.before_s
                if left_s < LEAST_S:
                    break
                if plan.is_better:
                    await session.ask("rank", token=token, ranks=dict(plan.ranks))
        except SimulationStuck:  # a node has gone: the next round sees what is there then
            logger.debug("planning: not all that is left could run now")
        finally:
            a_round.end()
        return left_s

    def _problem(self, standing: Standing) -> Problem | None:
        """What is left of the run; None while too little is known of its durations."""
        done = [state == "done" for state in standing.states]
        if len(done) - sum(done) < LEAST:
            return None
        functions = rest_of(self._all(), standing.expected_s, done, standing.running, KNOWN)
        nodes = [SimulatedNode(name, Capabilities.parse(c), t) for name, (c, t) in standing.nodes.items()]
        threads = sum(node.threads for node in nodes)
        if functions is None or not threads:
            return None
        if sum(f.duration_s for f in functions) < LEAST_S * min(threads, len(functions)) / 2:
            return None
        manifest = self._compiled.manifest
        ranks: dict[Hashable, float] = dict(enumerate(standing.ranks))
        assert isinstance(manifest.options.strategy, str)
        return Problem(functions, nodes, BUILT_IN[manifest.options.strategy], ranks, manifest.groups)

    def _all(self) -> list[SimulatedFunction]:
        """The functions of the run as they are simulated, but for their durations."""
        if not self._functions:
            manifest = self._compiled.manifest
            for n, args in enumerate(self._compiled.args):
                demand, priority = manifest.demands[manifest.demand_of[n]], manifest.priorities.get(n, 0)
                self._functions.append(
                    SimulatedFunction(
                        n, 0.0, demand.cost, args, pin=demand.pin, group=demand.group, priority=priority
                    )
                )
        return self._functions
