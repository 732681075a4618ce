"""The source of the metrics: what the scheduler's plugin counts, and how it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from handoff_dask.placement.decisions import Decision, MoveData, Place, Reject, Wait
from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.record.status import FINISHED
from handoff_dask.resources import amount_of
from handoff_dask.scheduler.lifecycle import Ended, LifeEvent
from handoff_dask.scheduler.metrics import Durations, Used
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import FunctionState, Runs, RunState
from handoff_dask.scheduler.states import State

#: What each kind of decision is called.
DECISIONS: Mapping[type[Decision], str] = {Place: "place", Wait: "wait", Reject: "reject", MoveData: "move"}

#: So many codes have metrics of their own; what further ones use is counted together, under this name.
MOST_CODES, OTHERS = 200, "others"


class SchedulerMetrics(Observer):
    """The :class:`~handoff_dask.scheduler.metrics.MetricsSource` of a scheduler.

    Counting costs a little at each flush; everything else is worked out when somebody asks.

    Parameters
    ----------
    runs, nodes
        What is known of runs and workers.
    engine
        Gives the placement engine.
    pipelines
        Gives what the page shows of pipelines.
    """

    watches = (Ended,)

    def __init__(
        self,
        runs: Runs,
        nodes: Nodes,
        engine: Callable[[], PlacementEngine],
        pipelines: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self._runs = runs
        self._nodes = nodes
        self._engine = engine
        self._pipelines = pipelines
        self._decisions: Counter[type[Decision]] = Counter()
        self._times = Durations()
        self._ended: Counter[str] = Counter()
        self._used: dict[str, Used] = {}

    # ------------------------------------------------------------------ counting

    def decided(self, decisions: Sequence[Decision], seconds: float) -> None:
        """The engine was asked, and took so long."""
        self._times.observe(seconds)
        if decisions:
            self._decisions.update(map(type, decisions))

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """A function has ended well: count what it has used."""
        attempt, run = function.attempt, function.run
        if attempt is None or attempt.used is None:
            return
        name = run.manifest.names[function.position]
        used = self._used.get(name)
        if used is None:
            if len(self._used) >= MOST_CODES:
                name = OTHERS
            used = self._used.setdefault(name, Used())
        used.count(*attempt.used, attempt.cost.to_amounts())

    def run_ended(self, run: RunState) -> None:
        """A run is over."""
        if not run.is_of_tasks:
            self._ended[run.status] += 1

    # ------------------------------------------------------------------ telling

    def functions_by_state(self) -> Mapping[str, int]:
        """Functions of runs that are not over: ``{state: how many}``."""
        return Counter(f.status for run in self._runs.open() for f in run.functions.values())

    def waiting_by_cause(self) -> Mapping[str, int]:
        """Ready functions without a node: ``{what they wait for: how many}``."""
        return self._engine().waiting_by_cause()

    def shares(self) -> Mapping[str, float]:
        """What clients with open runs hold: ``{client: largest fraction of anything the cluster has}``."""
        return {str(holding.client): holding.client_share for holding in self._engine().holdings()}

    def sick(self) -> Mapping[str, bool]:
        """``{node: whether it is set aside since it only fails}``."""
        sick = self._nodes.sick()
        return {name: name in sick for name in self._nodes.by_name}

    def capabilities(self) -> Mapping[str, Mapping[str, Any]]:
        """``{node: capabilities}``."""
        return self._nodes.as_written()

    def claims(self) -> Mapping[str, Mapping[str, float]]:
        """``{node: {resource: amount that is claimed}}``, by whomever."""
        return {
            name: {resource: amount_of(units) for resource, units in node.used.items()}
            for name, node in self._engine().nodes().items()
        }

    def shared(self) -> Mapping[str, tuple[float, float]]:
        """What the whole cluster shares: ``{name: (amount, amount that is claimed)}``."""
        levels = self._engine().shared()
        return {name: (amount_of(total), amount_of(used)) for name, (total, used) in levels.items()}

    def decisions(self) -> Mapping[str, int]:
        """Decisions since the start, by kind."""
        return {name: self._decisions[kind] for kind, name in DECISIONS.items()}

    def decision_times(self) -> Durations:
        """How long the engine took, each time that it was asked."""
        return self._times

    def pipelines(self) -> list[dict[str, Any]]:
        """Pipelines that are open."""
        return self._pipelines()

    def used(self) -> Mapping[str, Used]:
        """What functions have used and claimed, by the name of their code."""
        return self._used

    def runs_by_status(self) -> Mapping[str, int]:
        """Runs that are open now and runs that have ended since the start."""
        open_ = Counter(run.status for run in self._runs.open() if not run.is_of_tasks)
        return {FINISHED: 0, **self._ended, **open_}
