"""The planner: searches for a better order while a run goes on, and sends it to the scheduler.

The search takes time that the scheduler does not have, so it runs in the client.  Each planning
cycle asks how the run stands, forecasts what will be left of it when the cycle ends, and tries orders
for the rest (:mod:`handoff_dask.simulation.planning`).  It sends the ranks of the best order, if this is
better than the present one, at the time for which it was made.  The first cycles are short, since a
function that has started in a poor order cannot be taken back.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Hashable

from distributed.metrics import monotonic, thread_time

from handoff_dask import config
from handoff_dask.client.compile import Compiled
from handoff_dask.client.scheduler_link import Ask
from handoff_dask.placement.strategies import BUILT_IN
from handoff_dask.protocol.outcome import LEAST_PLANNED_S, Standing
from handoff_dask.resources import Capabilities
from handoff_dask.simulation.forecast import Forecast
from handoff_dask.simulation.planning import Plan, improve
from handoff_dask.simulation.problem import Problem, SimulatedFunction, SimulatedNode
from handoff_dask.simulation.rest import rest_of
from handoff_dask.simulation.running import SimulationStuck

logger = logging.getLogger(__name__)

#: A run is planned if at least so many functions and so many seconds are left of it, and if it has
#: at most so many functions: simulating more takes too long.
LEAST, LEAST_S, MOST = 20, LEAST_PLANNED_S, 20_000
#: Seconds until the next try where a run cannot be planned yet, at first.
PAUSE_S = 0.5
#: Seconds until the scheduler is asked again where it knows nothing of the run.
SOON_S = 0.02
#: Planning takes at most this share of what the run still lasts.
SHARE = 0.05
#: Seconds that the first cycles take, and all that follow: at first a plan soon, then a good one.
CYCLES_S = (0.1, 0.2, 0.4)
#: A cycle of a large run lasts longer: so many times what one simulation takes, up to so many seconds.
TIMES, MOST_S = 12, 0.6
#: How long it takes until the scheduler has a plan.
AHEAD_S = 0.005
#: A function holds its room about so much longer than it runs.
HELD_S = 0.01
#: Share of the functions whose durations must be known.
KNOWN = 0.8


class PlanningCycle:
    """One planning cycle: a plan for what will be left when the cycle ends."""

    def __init__(self, problem: Problem, seed: int, limit_s: float) -> None:
        self._problem = problem
        self._seed = seed
        self._began = monotonic()
        self._used_s = 0.0
        self._is_over = False
        #: How long it takes at most.
        self.limit_s = limit_s
        #: Seconds that the run will last, from the beginning of this cycle.
        self.left_s = math.inf

    def work(self) -> Plan | None:
        """The best plan that was found; None if too little is left.  In a thread of its own.

        Raises
        ------
        SimulationStuck
            If some function could never run.
        """
        self._used_s = thread_time()
        forecast = Forecast(self._problem)
        self.left_s = forecast.makespan_s
        if self.left_s < LEAST_S:
            return None
        at_least_s = min(TIMES * (thread_time() - self._used_s), MOST_S)
        self.limit_s = min(max(self.limit_s, at_least_s), SHARE * self.left_s)
        rest = forecast.after(self.limit_s + AHEAD_S)
        if len(rest.functions) < LEAST:
            return None
        return improve(rest, seed=self._seed, go_on=self._go_on)

    def wait_s(self) -> float:
        """Seconds until the time for which the plan was made."""
        return max(0.0, self._began + self.limit_s - monotonic())

    def end(self) -> None:
        """Let the thread that works at it come to an end."""
        self._is_over = True

    def _go_on(self, tried: int) -> bool:
        # By the thread's own clock: a busy machine must not mean fewer candidates.  But what is
        # planned for a certain time must be there in time, or nearly so.
        used_s = thread_time() - self._used_s
        is_late = monotonic() - self._began > 2 * self.limit_s
        return used_s * (1 + 1 / tried) < self.limit_s and not is_late and not self._is_over


class Planner:
    """Plans one execution.

    Parameters
    ----------
    ask
        Asks the scheduler.
    compiled
        What was sent to Dask for the execution.
    """

    def __init__(self, ask: Ask, compiled: Compiled) -> None:
        self._ask = ask
        self._compiled = compiled
        self._cycles = 0
        self._functions: list[SimulatedFunction] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def is_worth_while(self) -> bool:
        """Whether this execution is of a kind that can be planned."""
        options = self._compiled.manifest.options
        return (
            config.switch("planning")
            and LEAST <= len(self._compiled.keys) <= MOST
            and isinstance(options.strategy, str)
            and options.nodes is None
            and options.max_concurrency is None
            and not self._compiled.manifest.items
        )

    def start(self) -> None:
        """Plan until the run is over, or too little is left of it."""
        self._task = asyncio.ensure_future(self._run())

    def end(self, outcome: object = None, status: str = "") -> None:
        """The execution is over."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        token = self._compiled.manifest.token
        try:
            manifest = self._compiled.manifest
            pause_s = PAUSE_S
            if len(manifest.durations) < KNOWN * len(manifest):
                await asyncio.sleep(pause_s)
            while True:
                standing: Standing | None = await self._ask("standing", token=token)
                if standing is None:
                    # The graph is on its way, or the message of the end is.
                    await asyncio.sleep(SOON_S)
                    continue
                problem = self._problem(standing)
                if problem is not None:
                    done = await self._plan(problem)
                    if done.left_s < LEAST_S:
                        break
                    pause_s = 0.0
                    if self._cycles >= len(CYCLES_S):
                        pause_s = PAUSE_S + min(done.limit_s / SHARE, done.left_s / 4)
                else:
                    pause_s = max(PAUSE_S, 1.5 * pause_s)
                await asyncio.sleep(pause_s)
        except Exception:  # the run goes on without a plan, whatever has gone wrong here
            logger.debug("planning has ended early", exc_info=True)

    async def _plan(self, problem: Problem) -> PlanningCycle:
        """Run one cycle, and send its plan to the scheduler."""
        token = self._compiled.manifest.token
        limit_s = CYCLES_S[min(self._cycles, len(CYCLES_S) - 1)]
        self._cycles += 1
        cycle = PlanningCycle(problem, self._cycles, limit_s)
        try:
            plan = await asyncio.to_thread(cycle.work)
            if plan is not None and plan.is_better:
                await asyncio.sleep(cycle.wait_s())
                await self._ask("rank", token=token, ranks=dict(plan.ranks))
        except SimulationStuck:  # a node has left: the next cycle plans without it
            logger.debug("planning: not all that is left could run now")
        finally:
            cycle.end()
        return cycle

    def _problem(self, standing: Standing) -> Problem | None:
        """What is left of the run; None while too little is known of its durations."""
        done = [state == "done" for state in standing.states]
        if len(done) - sum(done) < LEAST:
            return None
        held_s = [None if s is None else s + HELD_S for s in standing.expected_s]
        functions = rest_of(self._all(), held_s, done, standing.running, KNOWN)
        nodes = [SimulatedNode(name, Capabilities.parse(c), t) for name, (c, t) in standing.nodes.items()]
        threads = sum(node.threads for node in nodes)
        if functions is None or not threads:
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
