"""Which of the pipelines' stages may go where, so that all of them find room.

A stage holds its cost as long as its pipeline lasts.  Functions and plain tasks end, so room that they
hold is only waited for; what pipelines hold is taken as gone.  A stage may go to a node if all other
stages, of its pipeline and of those that have begun to be placed, still fit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeAlias

from handoff_dask.placement.events import Event, FunctionKey, NodeLeft, PermissionsChanged
from handoff_dask.placement.together import Unit, units_of, without_room
from handoff_dask.protocol.manifest import Manifest
from handoff_dask.resources import Capabilities, Cost, amount_of
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import NodeEvent, Observer
from handoff_dask.scheduler.runs import FunctionState, Runs, RunState

_SAME_TIME = "the stages of a pipeline hold their costs at the same time"

#: Says whether a function may be placed on a node.
Permit: TypeAlias = Callable[[FunctionKey, str], bool]
PermitOf: TypeAlias = Callable[[RunState], "Permit | None"]
#: Why a pipeline is refused: the position of a function, and what to say.
Misfit = tuple[int, str]


class PipelineRoom(Observer):
    """Keeps account of what pipelines hold and still need.

    Parameters
    ----------
    runs, nodes
        What is known of runs and workers.
    gather
        Takes events for the engine.
    refuse
        Ends a run of which a function cannot be placed.
    later
        Calls a function in the next turn of the scheduler's event loop.
    shared
        ``{resource of the whole cluster: (how much there is, how much is held)}``.
    """

    def __init__(
        self,
        runs: Runs,
        nodes: Nodes,
        gather: Callable[[Iterable[Event]], None],
        refuse: Callable[[RunState, int, tuple[dict[str, str], str | None]], None],
        later: Callable[..., object],
        shared: Callable[[], Mapping[str, tuple[int, int]]],
    ) -> None:
        self._runs = runs
        self._nodes = nodes
        self._gather = gather
        self._refuse = refuse
        self._later = later
        self._shared = shared
        #: Pipelines that are open, in the order in which they came.
        self._open: dict[str, RunState] = {}
        #: Those of which a stage has been placed.
        self._begun: dict[str, None] = {}
        #: Nodes of stages, from the moment at which it is decided.
        self._held: dict[FunctionKey, str] = {}

    # ------------------------------------------------------------------ what happens

    def opened(self, run: RunState) -> None:
        """A pipeline is going to be placed."""
        self._open[run.token] = run

    def closed(self, run: RunState) -> None:
        """A pipeline is over: others may have its room."""
        self._open.pop(run.token, None)
        self._begun.pop(run.token, None)
        for function in run.functions.values():
            self._held.pop(function.key, None)
        self._gather([PermissionsChanged()])

    def took(self, function: FunctionState, node: str) -> None:
        """A stage's worker has been placed."""
        self._held[function.key] = node

    def left(self, function: FunctionState) -> None:
        """A stage's worker is on no node any more."""
        self._held.pop(function.key, None)

    def placement_void(self, key: str) -> None:
        """A stage's worker was to be placed, and is gone."""
        self._held.pop(key, None)

    def node_changed(self, event: NodeEvent) -> None:
        """There is more or less room; with a node, what a pipeline needs may be gone for good."""
        if not self._open:
            return
        self._gather([PermissionsChanged()])
        if isinstance(event, NodeLeft) and not event.returning:
            self._later(self._refuse_misfits)

    def _refuse_misfits(self) -> None:
        if self._nodes.returning:
            return  # they are given up one day
        for run in list(self._open.values()):
            if run.over or run.manifest.options.allocation_timeout_s > 0:
                continue
            misfit = without_room(self._waiting(run), self._room([run]))
            if misfit is not None:
                self._refuse(run, _position(misfit), ({}, self._problem(misfit)))

    # ------------------------------------------------------------------ who may go where

    def permit_of(self, run: RunState) -> Permit | None:
        """Who is asked before a stage of a run is placed; ``None`` if the run is no pipeline."""
        if run.manifest.stages is None:
            return None
        return lambda key, node: self._permits(run, key, node)

    def _permits(self, run: RunState, key: FunctionKey, node: str) -> bool:
        if run.token not in self._open or node not in self._nodes.by_name:
            return True
        self._held[key] = node
        ours = without_room(self._waiting(run), self._room([run]))
        if ours is None:
            begun = [self._open[token] for token in self._begun if token in self._open and token != run.token]
            units = [unit for other in [run, *begun] for unit in self._waiting(other)]
            ours = without_room(units, self._room(self._open.values()))
        if ours is not None:
            del self._held[key]
            return False
        self._begun[run.token] = None
        return True

    def misfit(self, manifest: Manifest) -> Misfit | None:
        """A stage of a pipeline that finds no room beside the others even when all nodes are idle."""
        functions = self._functions(manifest, range(len(manifest)))
        for name, (total, _) in self._shared().items():
            asked = [dict(manifest.demands[n].cost.amounts).get(name, 0) for n in manifest.demand_of]
            if sum(asked) > total:
                what = f"together they ask for {amount_of(sum(asked))} of {name!r}, which the cluster has "
                return asked.index(max(asked)), f"{_SAME_TIME}: {what}{amount_of(total)} of"
        unit = without_room(units_of(functions, {}), self._confined(manifest, {}))
        return None if unit is None else (_position(unit), self._problem(unit))

    def _waiting(self, run: RunState) -> list[Unit]:
        """What of a pipeline has no node."""
        manifest = run.manifest
        bound = {
            group: self._held[function.key]
            for position, function in run.functions.items()
            if function.key in self._held and (group := run.demand(position).group) is not None
        }
        waiting = [p for p, function in run.functions.items() if function.key not in self._held]
        return units_of(self._functions(manifest, waiting), bound)

    def _room(self, runs: Iterable[RunState]) -> dict[str, tuple[str, Capabilities]]:
        """What these pipelines leave of each node; of one alone, of what it may use."""
        taken: dict[str, Cost] = {}
        runs = list(runs)
        for run in runs:
            for position, function in run.functions.items():
                node = self._held.get(function.key)
                if node is not None:
                    taken[node] = taken.get(node, Cost()).plus(run.demand(position).cost)
        if len(runs) == 1:
            return self._confined(runs[0].manifest, taken)
        return {name: (node.address, self._left(name, taken)) for name, node in self._nodes.by_name.items()}

    def _confined(self, manifest: Manifest, taken: Mapping[str, Cost]) -> dict[str, tuple[str, Capabilities]]:
        confined = self._nodes.by_names(manifest.options.nodes)
        found = {}
        for name, node in self._nodes.by_name.items():
            if confined is None:
                found[name] = (node.address, self._left(name, taken))
            elif name in confined:
                found[name] = (node.address, self._left(name, taken, confined[name]))
        return found

    def _left(
        self, name: str, taken: Mapping[str, Cost], confined: Capabilities | None = None
    ) -> Capabilities:
        has = self._nodes.capabilities(self._nodes.by_name[name])
        if confined is not None:
            has = has.confined(confined)
        amounts = dict(has.amounts)
        for resource, units in taken.get(name, Cost()).amounts:
            amounts[resource] = max(0, amounts.get(resource, 0) - units)
        return Capabilities(amounts, has.labels)

    def _problem(self, unit: Unit) -> str:
        others = " (with those that share its node)" if len(unit.members) > 1 else ""
        return f"{_SAME_TIME}, and beside the others no node has room for {unit.cost.to_dict()}{others}"

    def _functions(
        self, manifest: Manifest, positions: Iterable[int]
    ) -> list[tuple[Hashable, Cost, str | None, Hashable]]:
        found: list[tuple[Hashable, Cost, str | None, Hashable]] = []
        for position in positions:
            demand = manifest.demands[manifest.demand_of[position]]
            group = None if demand.group is None else manifest.groups.get(demand.group)
            pin = demand.pin or (None if group is None else group.pin)
            found.append((position, self._of_nodes(demand.cost), pin, demand.group))
        return found

    def _of_nodes(self, cost: Cost) -> Cost:
        """What of a cost is held on a node, not of the whole cluster."""
        for name in self._shared():
            cost = cost.without(name)
        return cost


def both(first: PermitOf, second: PermitOf) -> PermitOf:
    """Ask two before a placement; the second only what the first permits, since it may take account of it."""

    def permit_of(run: RunState) -> Permit | None:
        one, other = first(run), second(run)
        if one is None or other is None:
            return one or other
        return lambda key, node: one(key, node) and other(key, node)

    return permit_of


def _position(unit: Unit) -> int:
    position = unit.members[0]
    assert isinstance(position, int)
    return position
