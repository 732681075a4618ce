"""Duration estimates and ranks: how long functions take, and the order that follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from distributed.metrics import monotonic, time

from handoff_dask.placement.estimates import SHORT_S, Estimates
from handoff_dask.placement.events import DurationsLearned, Event, RunRanked
from handoff_dask.placement.ranking import apart, starting_ranks
from handoff_dask.protocol.outcome import LEAST_PLANNED_S, Standing
from handoff_dask.record.status import PENDING, RUNNING, WAITING
from handoff_dask.scheduler.lifecycle import Ended, LifeEvent
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import FunctionState, RunKind, Runs, RunState
from handoff_dask.scheduler.states import Finished, State
from handoff_dask.scheduler.tasks import Tasks

#: A run is not planned if a larger share of its functions takes large data.
MOST_DATA = 0.1
#: A run is ordered anew when the mean of some kind has changed by this factor, and this many seconds.
CHANGE, CHANGE_S = 1.4, 0.003
UNFINISHED = (PENDING, WAITING, RUNNING)
#: With more different demands than this, moves that cannot be avoided are not looked for.
MOST_DEMANDS = 64
#: Ordering anew may take this share of the scheduler's time.
SHARE = 0.02


class Ranks(Observer):
    """Duration estimates and ranks of the functions of every run.

    Parameters
    ----------
    runs, nodes, tasks
        What is known of runs and workers; Dask's tasks.
    gather
        Takes events for the engine.
    """

    watches = (Ended,)

    def __init__(
        self, runs: Runs, nodes: Nodes, tasks: Tasks, gather: Callable[[Iterable[Event]], None]
    ) -> None:
        self._runs = runs
        self._nodes = nodes
        self._tasks = tasks
        self._gather = gather
        self.estimates = Estimates()
        #: Runs for which something new is known: ``{token: when they may be ordered again}``.
        self._stale: dict[str, float] = {}
        self._not_before: dict[str, float] = {}

    def order(self, run: RunState) -> None:
        """Work out expected durations, and rank each function by the path that remains after it."""
        began = monotonic()
        functions = [run.functions[p] for p in sorted(run.functions)]
        for function in functions:
            function.expected_s = self.expected(function)
        if run.ranks is not None:
            for function in functions:
                function.rank = run.ranks[function.position]
            return
        known = [f.expected_s for f in functions if f.expected_s is not None]
        usual = sum(known) / len(known) if known else 1.0
        durations = [usual if f.expected_s is None else f.expected_s for f in functions]
        if len(run.dependents[0]) != len(functions):
            run.dependents = ([f.position for f in functions], self._dependents(functions))
        nodes = self._nodes
        ranks = starting_ranks(
            range(len(functions)),
            run.dependents[1],
            durations,
            [run.manifest.demand_of[f.position] for f in functions],
            [demand.cost for demand in run.manifest.demands],
            [nodes.capabilities(node) for node in nodes.by_name.values()],
            self._moves(run, functions),
        )
        for function, rank in zip(functions, ranks, strict=True):
            function.rank = rank
        self._not_before[run.token] = began + (monotonic() - began) / SHARE

    def _moves(self, run: RunState, functions: list[FunctionState]) -> dict[tuple[int, int], float]:
        """Moves that cannot be avoided: no node could hold both who makes a result and who takes it."""
        demands, nodes = run.manifest.demands, self._nodes
        if len(demands) < 2 or len(demands) > MOST_DEMANDS:
            return {}
        offers = {node.name: nodes.capabilities(node) for node in nodes.by_name.values()}
        pairs = apart(
            [
                frozenset(
                    name
                    for name, has in offers.items()
                    if demand.pin in (None, name, nodes.by_name[name].address) and has.could_hold(demand.cost)
                )
                for demand in demands
            ]
        )
        moves: dict[tuple[int, int], float] = {}
        bandwidth = self._tasks.bandwidth()
        numbers = [run.manifest.demand_of[f.position] for f in functions] if pairs else []
        for i, number in enumerate(numbers):
            known = run.kind_of(functions[i].position).known
            if known is not None and known.nbytes:
                for j in run.dependents[1][i]:
                    if (number, numbers[j]) in pairs:
                        moves[i, j] = known.nbytes / bandwidth
        return moves

    def _dependents(self, functions: list[FunctionState]) -> list[list[int]]:
        place = {f.key: i for i, f in enumerate(functions)}
        return [[place[k] for k in self._tasks.dependents(f.key) if k in place] for f in functions]

    def expected(self, function: FunctionState) -> float | None:
        """How long a function is expected to take: the user's hint, else what was learned."""
        run, position = function.run, function.position
        if run.manifest.stages is not None:
            return None  # a stage runs as long as its pipeline is used
        hint = run.manifest.durations.get(position)
        if hint is not None:
            return hint
        kind = run.kind_of(position)
        if kind.known is None:
            kind.known = self.estimates.known(kind.name, kind.cost, kind.family)
        if kind.known is not None and kind.known.longest_s < SHORT_S:
            return kind.known.longest_s
        return self.estimates.expected(kind.name, kind.cost, run.id_of(position), kind.family)

    def is_certain(self, function: FunctionState) -> bool:
        """Whether it is known well how long a function takes: by a hint, from itself, or from its kind."""
        run, position = function.run, function.position
        if position in run.manifest.durations:
            return True
        kind = run.kind_of(position)
        if function.expected_s is None or (kind.known is not None and kind.known.longest_s < SHORT_S):
            return False
        if self.estimates.is_steady(kind.name, kind.cost, kind.family):
            return True
        return self.estimates.remembers(kind.name, run.id_of(position))

    def next_rank(self, key: Any) -> float | None:
        """The largest rank among those that become ready when a function ends."""
        functions: dict[Any, FunctionState] = self._runs.functions
        function = functions.get(key)
        if function is None:
            return None
        after = [functions.get(k) for k in self._tasks.next_ready(key)]
        ready = [f for f in after if f is not None]
        priorities = function.run.manifest.priorities
        if priorities:
            own = priorities.get(function.position, 0)
            if any(f.run.manifest.priorities.get(f.position, 0) > own for f in ready):
                return math.inf
        return max((f.rank for f in ready), default=0.0)

    # ------------------------------------------------------------------ learning

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """Remember how long a function took that has ended well."""
        if isinstance(new, Finished) and (took_s := new.attempt.took_s) is not None:
            self._learn(function, took_s, new.attempt.nbytes)

    def _learn(self, function: FunctionState, duration_s: float, nbytes: int | None) -> None:
        run, position = function.run, function.position
        kind = run.kind_of(position)
        known = kind.known
        if known is None:
            known = kind.known = self.estimates.kind(kind.name, kind.cost, kind.family)
        known.learn(duration_s, nbytes)
        if kind.family:
            self.estimates.kind(kind.name, kind.cost).learn(duration_s)
        if known.longest_s >= SHORT_S:
            # What is always short need not be remembered one by one.
            self.estimates.remember(kind.name, run.id_of(position), duration_s)
        if position in run.manifest.durations:
            return
        if kind.told_s is None or _differs(kind.told_s, known.mean_s):
            first = kind.told_s is None
            kind.told_s = known.mean_s
            if first:
                self._tell(run, kind)
            self._stale[run.token] = self._not_before.get(run.token, 0.0)

    def takes_long(self, function: FunctionState, elapsed_s: float) -> None:
        """A function that was thought to be short has been running that long: its like are not short."""
        run, position = function.run, function.position
        kind = run.kind_of(position)
        if kind.known is None:
            kind.known = self.estimates.kind(kind.name, kind.cost, kind.family)
        if kind.known.longest_s >= elapsed_s or position in run.manifest.durations:
            return
        kind.known.longest_s = elapsed_s
        self._tell(run, kind, again=True)

    def _tell(self, run: RunState, kind: RunKind, *, again: bool = False) -> None:
        """Tell the engine how long those of a kind will take that wait already.

        Without ``again`` only those of which nothing was known.
        """
        durations: dict[Any, float] = {}
        for function in run.functions.values():
            if function.status != WAITING or (function.expected_s is not None and not again):
                continue
            if kind.teaches(run.kind_of(function.position), all_families=not again):
                function.expected_s = self.expected(function)
                if function.expected_s is not None:
                    durations[function.key] = function.expected_s
        if durations:
            self._gather([DurationsLearned(run=run.engine_run, durations=durations)])

    def review(self) -> None:
        """Order anew the runs of which something new is known, if their turn has come."""
        if not self._stale:
            return
        now = monotonic()
        for token in [t for t, due in self._stale.items() if due <= now]:
            del self._stale[token]
            run = self._runs.by_token.get(token)
            if run is not None and not run.over:
                self.order_again(run, ranks=not run.planned)

    def order_again(self, run: RunState, *, ranks: bool = True) -> None:
        """Work durations out anew, and the ranks too unless the client's planner does that."""
        before = {} if ranks else {f: f.rank for f in run.functions.values()}
        self.order(run)
        for function, rank in before.items():
            function.rank = rank
        waiting = [f for f in run.functions.values() if f.status == WAITING]
        order: dict[Any, float] = {f.key: f.rank for f in waiting}
        durations: dict[Any, float] = {f.key: f.expected_s for f in waiting if f.expected_s is not None}
        self._gather(
            [
                RunRanked(run=run.engine_run, ranks=order),
                DurationsLearned(run=run.engine_run, durations=durations),
            ]
        )

    # ------------------------------------------------------------------ the client's planner

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What clients may ask."""
        return {"standing": self.standing, "rank": self.rank}

    def standing(self, client: str, token: str) -> Standing | None:
        """How a run stands; None if it is over, with no functions if it had better not be planned.

        That is so if too little is left, or if data is large: the planner knows no network, and its order
        would take functions away from their data. It knows no resources either that the whole cluster shares.
        """
        run = self._runs.by_token.get(token)
        if run is None or run.over:
            return None
        left = [f.expected_s or 0.0 for f in run.functions.values() if f.status in UNFINISHED]
        threads = sum(node.threads for node in self._nodes.by_name.values())
        is_short = sum(left) < LEAST_PLANNED_S * min(threads, len(left)) / 2
        if is_short or self._takes_shared(run) or run.with_data > MOST_DATA * run.offered:
            return Standing((), (), (), {}, {})
        now = time()
        count = len(run.manifest)
        states, ranks = ["done"] * count, [0.0] * count
        expected_s: list[float | None] = [None] * count
        running: dict[int, tuple[str, float]] = {}
        for position, function in run.functions.items():
            ranks[position] = function.rank
            expected_s[position] = function.expected_s
            if function.is_on_node and function.attempt is not None:
                states[position] = "running"
                running[position] = (function.attempt.node, now - function.attempt.placed)
            elif function.status in (WAITING, PENDING):
                states[position] = "left"
        nodes = self._nodes.by_name.values()
        capabilities = self._nodes.capabilities
        offers = {n.name: (capabilities(n).to_dict(), n.threads) for n in nodes if n.accepting}
        return Standing(states, expected_s, ranks, running, offers)

    def _takes_shared(self, run: RunState) -> bool:
        """Whether functions of a run ask for what the whole cluster shares."""
        shared = self._nodes.shared
        return bool(shared) and any(
            name in shared for demand in run.manifest.demands for name, _ in demand.cost.amounts
        )

    def rank(self, client: str, token: str, ranks: dict[int, float]) -> None:
        """The client's planner has found a better order."""
        run = self._runs.by_token.get(token)
        if run is None or run.over:
            return
        waiting: dict[Any, float] = {}
        for position, rank in ranks.items():
            function = run.functions.get(position)
            if function is not None:
                function.rank = rank
                if function.status == WAITING:
                    waiting[function.key] = rank
        # From now on the planner orders it, by what is learned too.
        run.planned = True
        self._gather([RunRanked(run=token, ranks=waiting)])

    def run_forgotten(self, run: RunState) -> None:
        """A run is gone."""
        self._stale.pop(run.token, None)
        self._not_before.pop(run.token, None)


def _differs(told_s: float, mean_s: float) -> bool:
    low, high = sorted((told_s, mean_s))
    return high - low > CHANGE_S and high > CHANGE * low
