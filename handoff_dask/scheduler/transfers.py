"""Collocation groups and transfers of arguments: which node each group has been given.

A serialiser is told to which node its value goes, a deserialiser from which node it comes.  What
was serialised for a node that has left must be serialised again for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING

from handoff_dask.protocol.calls import TRANSFER
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import FunctionState, RunState
from handoff_dask.scheduler.states import Finished

if TYPE_CHECKING:
    from distributed.scheduler import TaskState


class Transfers(Observer):
    """The nodes of groups, and the functions that change arguments on their way.

    Parameters
    ----------
    runs
        The runs that are known now.
    """

    def __init__(self, runs: Callable[[], Iterable[RunState]]) -> None:
        self._runs = runs
        #: ``{collocation group: its node}``.
        self._bound: dict[Hashable, str] = {}
        #: Keys of arguments that were changed for a node that is gone.
        self.outdated: list[str] = []

    def placed(self, function: FunctionState, node: str, bound: tuple[Hashable, str] | None) -> None:
        """Note which groups have a node now that a function has been placed."""
        if bound is not None:
            self._bound[bound[0]] = bound[1]
        group = function.run.demand(function.position).group
        if group is not None:
            self._bound[group] = node

    def tell(self, function: FunctionState, task: TaskState, node: str) -> None:
        """Tell a function that changes an argument between which nodes the argument travels."""
        run = function.run
        transfer = run.manifest.transfers.get(function.position)
        if transfer is None:
            return
        role, producer, consumer = transfer
        source = target = node
        if producer is not None:
            if role == "serialize":
                target = self._bound.get(run.demand(consumer).group, target)
            else:
                source = run.functions[producer].fact("node")
        task.annotations = {**(task.annotations or {}), TRANSFER: [source, target]}

    def node_left(self, node: str) -> None:
        """Forget the groups of a node, and note what was serialised for it in vain."""
        groups = {group for group, where in self._bound.items() if where == node}
        for group in groups:
            del self._bound[group]
        for run in self._runs() if groups else ():
            for position, (role, _, consumer) in run.manifest.transfers.items():
                function, user = run.functions.get(position), run.functions.get(consumer)
                if function is None or user is None or role != "serialize":
                    continue
                is_outdated = isinstance(function.state, Finished) and not isinstance(user.state, Finished)
                if is_outdated and run.demand(consumer).group in groups:
                    self.outdated.append(function.key)

    def run_forgotten(self, run: RunState) -> None:
        """Its groups are gone."""
        for group in run.manifest.groups:
            self._bound.pop(group, None)
