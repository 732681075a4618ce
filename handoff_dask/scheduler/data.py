"""Where the arguments of functions are, and what moving them costs, as Dask knows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from distributed.metrics import monotonic

from handoff_dask.placement.demand import DataArgument
from handoff_dask.placement.events import Event, NetworkMeasured, NodeMemory
from handoff_dask.scheduler.lifecycle import Ended, LifeEvent
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import FunctionState
from handoff_dask.scheduler.states import State

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState

#: The network and the memory of nodes are looked at so often, in seconds: Dask's own measures change
#: with the heartbeats of workers, every half second or more.
LOOK_S = 0.5
#: Bandwidths that differ by less than this factor are the same.
SAME = 1.25
#: What a move takes beside its bytes at least.
LEAST_LATENCY_S = 0.001
#: Of a function with more arguments, so many are looked at.  It bounds the work for one function.
MOST_ARGUMENTS = 1_000
#: So many arguments are looked at to find the node that has most of those that are small.
GLANCE = 16
#: Arguments of fewer bytes in all are not worth freeing: the engine is told nothing of it.
WORTH_FREEING = 1_000_000
#: Weight of the latest move in the running mean of what moves take beside their bytes.
WEIGHT = 0.1


class Data(Observer):
    """What the engine must know of data.

    Parameters
    ----------
    nodes
        The workers.
    scheduler
        Dask's, for where results are and how fast they move.
    gather
        Takes events for the engine.
    """

    watches = (Ended,)

    def __init__(self, nodes: Nodes, scheduler: Scheduler, gather: Callable[[Iterable[Event]], None]) -> None:
        self._nodes = nodes
        self._scheduler = scheduler
        self._tasks: Mapping[Any, TaskState] = scheduler.tasks
        self._gather = gather
        self._looked = float("-inf")
        #: What the engine was told last.
        self._bandwidth = 0.0
        self._told_latency_s = 0.0
        #: Seconds that a move takes beside its bytes: long where a scheduler or a worker is busy.
        self._latency_s = 0.0
        self._pairs: dict[tuple[str, str], float] = {}

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """Learn how long moves take from a function that has ended well."""
        attempt = function.attempt
        if isinstance(event, Ended) and attempt is not None and attempt.transfer_s is not None:
            latency_s = attempt.transfer_s - attempt.transfer_bytes / self._scheduler.bandwidth
            self._latency_s += WEIGHT * (max(0.0, latency_s) - self._latency_s)

    def of(
        self, key: str, floor_s: float, *, is_short: bool = False
    ) -> tuple[tuple[DataArgument, ...], bool, str | None]:
        """The arguments of a function that is ready.

        Parameters
        ----------
        key
            Of its task.
        floor_s
            Moves that take less than so many seconds do not matter.
        is_short
            The function itself takes less than a round trip: what moves take beside their bytes does
            not matter then, since many are on their way at once.

        Returns
        -------
        tuple
            The arguments, none if moving all of them takes less than the floor; whether one of them can
            be dropped once the function has ended, if they are large; and the node that has most of what
            it takes.
        """
        dependencies = self._tasks[key].dependencies
        if not dependencies:
            return (), False, None
        nbytes = sum(d.get_nbytes() for d in islice(dependencies, MOST_ARGUMENTS))
        latency_s = 0.0 if is_short else self._latency_s
        if latency_s + nbytes / self._scheduler.bandwidth <= floor_s:
            return (), self._frees(dependencies, nbytes), self._preferred(dependencies)
        self._look()
        arguments = []
        by_address = self._nodes.by_address
        for dependency in islice(dependencies, MOST_ARGUMENTS):
            nodes = [by_address[ws.address] for ws in dependency.who_has or () if ws.address in by_address]
            arguments.append(
                DataArgument(dependency.key, dependency.get_nbytes(), tuple(sorted(n.name for n in nodes)))
            )
        return tuple(arguments), self._frees(dependencies, nbytes), None

    def _frees(self, dependencies: Iterable[TaskState], nbytes: int) -> bool:
        """Whether a large argument can be dropped: nobody else waits for it or wants it."""
        return nbytes >= WORTH_FREEING and any(
            len(dependency.waiters or ()) <= 1 and not dependency.who_wants
            for dependency in islice(dependencies, MOST_ARGUMENTS)
        )

    def _preferred(self, dependencies: Iterable[TaskState]) -> str | None:
        """The node that has most of some small arguments, by what can be seen at a glance."""
        nbytes: dict[str, int] = {}
        for dependency in islice(dependencies, GLANCE):
            for ws in dependency.who_has or ():
                nbytes[ws.address] = nbytes.get(ws.address, 0) + dependency.get_nbytes()
        node = self._nodes.by_address.get(max(nbytes, key=nbytes.__getitem__)) if nbytes else None
        return None if node is None else node.name

    def _look(self) -> None:
        """Tell the engine what is new about the network and the memory of nodes, now and then."""
        now = monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        self._gather(self._measured())

    def _measured(self) -> Iterable[Event]:
        scheduler, by_address = self._scheduler, self._nodes.by_address
        pairs = {}
        for (receiver, sender), bandwidth in scheduler.bandwidth_workers.items():
            source, target = by_address.get(sender), by_address.get(receiver)
            if source is not None and target is not None and bandwidth > 0:
                pairs[source.name, target.name] = bandwidth
        is_same = _same(self._bandwidth, scheduler.bandwidth) and pairs.keys() == self._pairs.keys()
        # Differences of some milliseconds do not matter.
        is_same = is_same and _same(self._told_latency_s + 0.01, self._latency_s + 0.01)
        if not is_same or not all(_same(self._pairs[pair], pairs[pair]) for pair in pairs):
            self._bandwidth, self._pairs = scheduler.bandwidth, pairs
            self._told_latency_s = self._latency_s
            latency_s = max(self._latency_s, LEAST_LATENCY_S)
            yield NetworkMeasured(bandwidth=scheduler.bandwidth, latency_s=latency_s, pairs=pairs)
        for address, node in by_address.items():
            ws = scheduler.workers.get(address)
            if ws is not None and ws.memory_limit:
                yield NodeMemory(node=node.name, used=ws.nbytes, limit=ws.memory_limit)


def _same(one: float, other: float) -> bool:
    low, high = sorted((one, other))
    return high <= SAME * low
