"""Deaths by memory: which workers have been ended because they held too much, and what ran there.

A nanny that ends its worker for that says so to the scheduler.  Where nobody says anything (the worker
has no nanny, or the system has ended it), its last heartbeat tells what it held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distributed import KilledWorker
from distributed.protocol import pickle

from handoff_dask.placement.events import NodeJoined
from handoff_dask.protocol.killed import KilledForMemory, MemoryDeath
from handoff_dask.resources import MEGABYTE, amount_of
from handoff_dask.scheduler.lifecycle import Dropped, Ended, FailedForGood, Failure, LifeEvent, Rejected
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import NodeEvent, Observer
from handoff_dask.scheduler.runs import FunctionState, RunState
from handoff_dask.scheduler.states import Running, State

#: The topic under which a nanny says that it ends its worker for its memory.
TOPIC = "worker-restart-memory"
#: A worker that died without a word is likely to have died of that if it held so much of its limit.
FULL = 0.8
#: How many dead workers are remembered.
REMEMBERED = 500


@dataclass(slots=True)
class _End:
    """What is known of the end of a worker."""

    node: str
    limit: int
    held: int
    #: Whether its nanny has said that it ends it for its memory.
    is_certain: bool = False

    def death(self) -> MemoryDeath | None:
        """It as it is told; ``None`` if memory was not why."""
        if not self.is_certain and self.held < FULL * self.limit:
            return None
        return MemoryDeath(self.node, self.held / MEGABYTE, self.limit / MEGABYTE, self.is_certain)


class MemoryDeaths(Observer):
    """Knows of what a function's workers have died.

    Parameters
    ----------
    nodes
        What is known of workers.
    """

    watches = (Dropped, Ended, FailedForGood, Rejected)

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        #: The latest worker of each address that died, or is about to.
        self._ends: dict[str, _End] = {}
        #: ``{function key: ends of the workers that died under it}``.
        self._under: dict[str, list[_End]] = {}

    def said(self, message: Mapping[str, Any]) -> None:
        """A nanny says that it ends its worker for its memory; the worker may be gone already."""
        end = self._end_of(message["worker"])
        if end is not None:
            end.held, end.is_certain = message["rss"], True

    def dies(self, address: str) -> None:
        """A worker is gone that nobody has asked to go; called while its node is still known."""
        self._end_of(address)

    def _end_of(self, address: str) -> _End | None:
        end, node = self._ends.get(address), self._nodes.by_address.get(address)
        if end is None and node is not None and node.worker.memory_limit:
            held = node.worker.metrics.get("memory", 0)
            end = self._ends[address] = _End(node.name, node.worker.memory_limit, held)
            if len(self._ends) > REMEMBERED:
                del self._ends[next(iter(self._ends))]
        return end

    def explained(self, function: FunctionState, failure: Failure | None) -> Failure | None:
        """The failure of a function under which its workers died, with what is known of their memory."""
        attempt = function.attempt
        if failure is None or attempt is None:
            return failure
        killed = pickle.loads(failure.exception)
        if not isinstance(killed, KilledWorker):
            return failure
        self.dies(attempt.address)
        last = self._ends.get(attempt.address)
        ends = [*self._under.get(function.key, ()), *([] if last is None else [last])]
        deaths = tuple(death for end in ends if (death := end.death()) is not None)
        if not deaths:
            return failure
        memory = dict(function.run.demand(function.position).cost.amounts).get("memory")
        claimed = None if memory is None else amount_of(memory)
        attempts = killed.allowed_failures + 1
        error = KilledForMemory(
            killed.task, killed.last_worker, killed.allowed_failures, deaths, attempts, claimed
        )
        return Failure(pickle.dumps(error), failure.traceback, f"{type(error).__name__}: {error}")

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """Note under whom a worker has died; forget it when the function has ended."""
        if not isinstance(event, Dropped):
            self._under.pop(function.key, None)
        elif isinstance(old, Running) and not event.node_is_there:
            end = self._ends.get(old.attempt.address)
            if end is not None:
                self._under.setdefault(function.key, []).append(end)

    def node_changed(self, event: NodeEvent) -> None:
        """A new worker may have the address of one that died."""
        if isinstance(event, NodeJoined):
            self._ends.pop(str(event.address), None)

    def run_forgotten(self, run: RunState) -> None:
        """Its functions are gone."""
        for function in run.functions.values():
            self._under.pop(function.key, None)

    def cleared(self) -> None:
        """Every task is gone."""
        self._under.clear()
