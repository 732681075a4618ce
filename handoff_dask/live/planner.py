"""In the client: looks for a better order while a run goes on, and tells the scheduler.

The scheduler has no time for this, the client has nothing else to do.  Each round asks how the
run stands, simulates what is left of it under several orders (:mod:`handoff_dask.simulation.
planning`), and sends the ranks of the best one, if it is better than the present one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distributed.metrics import monotonic, thread_time

from handoff_dask import config
from handoff_dask.live.protocol import Standing
from handoff_dask.placement.strategies import BUILT_IN
from handoff_dask.resources import Capabilities
from handoff_dask.simulation.planning import Plan, Problem, improve
from handoff_dask.simulation.problem import SimulatedFunction, SimulatedNode
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


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of planning came to."""

    plan: Plan
    #: Seconds it took.
    took_s: float


class Planner:
    """Plans one execution."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._compiled = execution.compiled
        self._seed = 0

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
                    done = await asyncio.to_thread(self._round, problem)
                    if done.plan.before_s < LEAST_S:
                        break
                    if done.plan.is_better:
                        await session.ask("rank", token=token, ranks=dict(done.plan.ranks))
                    pause_s = PAUSE_S + min(done.took_s / SHARE, done.plan.before_s / 4)
                else:
                    pause_s *= 1.5
                await asyncio.sleep(pause_s)
        except Exception:  # the run goes on without a plan, whatever has gone wrong here
            logger.debug("planning has ended early", exc_info=True)

    def _problem(self, standing: Standing) -> Problem | None:
        """What is left of the run; None while too little is known of its durations."""
        left = [n for n, state in enumerate(standing.states) if state != "done"]
        known = [d for n in left if (d := standing.expected_s[n]) is not None]
        if len(left) < LEAST or len(known) < KNOWN * len(left):
            return None
        usual_s = sum(known) / len(known)
        manifest = self._compiled.manifest
        present = set(left)
        functions = []
        for n in left:
            expected_s = standing.expected_s[n]
            duration_s = usual_s if expected_s is None else expected_s
            demand = manifest.demands[manifest.demand_of[n]]
            node = standing.running.get(n)
            if node is not None:
                name, elapsed_s = node
                functions.append(
                    SimulatedFunction(
                        n, max(0.0, duration_s - elapsed_s), demand.cost, pin=name, priority=float("inf")
                    )
                )
            else:
                args = tuple(a for a in self._args[n] if a in present)
                functions.append(
                    SimulatedFunction(
                        n,
                        duration_s,
                        demand.cost,
                        args,
                        pin=demand.pin,
                        group=demand.group,
                        priority=manifest.priorities.get(n, 0),
                    )
                )
        nodes = [SimulatedNode(name, Capabilities.parse(c), t) for name, (c, t) in standing.nodes.items()]
        threads = sum(node.threads for node in nodes)
        if sum(f.duration_s for f in functions) < LEAST_S * min(threads, len(functions)) / 2:
            return None
        ranks: dict[Hashable, float] = {n: standing.ranks[n] for n in left}
        assert isinstance(manifest.options.strategy, str)
        return Problem(functions, nodes, BUILT_IN[manifest.options.strategy], ranks, manifest.groups)

    @property
    def _args(self) -> list[tuple[int, ...]]:
        return self._compiled.args

    def _round(self, problem: Problem) -> Round:
        """One round, in a thread of its own."""
        began, used = monotonic(), thread_time()
        self._seed += 1

        def go_on(tried: int) -> bool:
            # By the thread's own clock: a busy machine must not mean fewer candidates.
            spent_s = thread_time() - used
            return spent_s * (1 + 1 / tried) < ROUND_S and not self._execution.is_over

        try:
            plan = improve(problem, seed=self._seed, go_on=go_on)
        except SimulationStuck:  # a node has gone: the next round sees what is there then
            plan = Plan(problem.ranks, float("inf"), float("inf"), 0)
        return Round(plan, monotonic() - began)
