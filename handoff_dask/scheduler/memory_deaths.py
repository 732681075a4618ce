"""Deaths by memory: which workers have been ended because they held too much, and what ran there.

A nanny that ends its worker for that says so to the scheduler.  Where nobody says anything (the worker
has no nanny, or the system has ended it), its last heartbeat tells what it held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distributed import KilledWorker
from distributed.protocol import pickle

from handoff_dask.placement.events import NodeJoined
from handoff_dask.protocol.killed import KilledForMemory
from handoff_dask.resources import amount_of
from handoff_dask.scheduler.lifecycle import Dropped, Ended, FailedForGood, Failure, LifeEvent, Rejected
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import NodeEvent, Observer
from handoff_dask.scheduler.runs import FunctionState, RunState
from handoff_dask.scheduler.states import Running, State, Waiting, WorkerEnd

#: The topic under which a nanny says that it ends its worker for its memory.
TOPIC = "worker-restart-memory"
#: How many dead workers are remembered.
REMEMBERED = 500


class MemoryDeaths(Observer):
    """Knows of what a function's workers have died.

    Parameters
    ----------
    nodes
        What is known of workers.
    offer_again
        Tells the engine anew what a function asks for that waits.
    """

    watches = (Dropped, Ended, FailedForGood, Rejected)

    def __init__(self, nodes: Nodes, offer_again: Callable[[FunctionState], object]) -> None:
        self._nodes = nodes
        self._offer_again = offer_again
        #: The latest worker of each address that died, or is about to.
        self._ends: dict[str, WorkerEnd] = {}
        #: ``{function key: the function, and the ends of the workers that died under it}``.
        self._under: dict[str, tuple[FunctionState, list[WorkerEnd]]] = {}

    def said(self, message: Mapping[str, Any]) -> None:
        """A nanny says that it ends its worker for its memory; the worker may be gone already."""
        end = self._end_of(message["worker"])
        if end is None:
            return
        end.held, end.is_certain = message["rss"], True
        for function, ends in list(self._under.values()):
            # It waits already, with what it claimed before.
            if ends[-1] is end and isinstance(function.state, Waiting):
                self._offer_again(function)

    def dies(self, address: str) -> None:
        """A worker is gone that nobody has asked to go; called while its node is still known."""
        self._end_of(address)

    def end_of(self, address: str) -> WorkerEnd | None:
        """How the worker of this address has died; ``None`` if nothing is known of that."""
        return self._ends.get(address)

    def _end_of(self, address: str) -> WorkerEnd | None:
        end, node = self._ends.get(address), self._nodes.by_address.get(address)
        if end is None and node is not None and node.worker.memory_limit:
            held = node.worker.metrics.get("memory", 0)
            spilled = node.worker.metrics.get("spilled_bytes", {}).get("memory", 0)
            results = max(0, node.worker.nbytes - spilled)
            end = self._ends[address] = WorkerEnd(node.name, node.worker.memory_limit, held, results)
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
        before = self._under[function.key][1] if function.key in self._under else ()
        ends = [*before, *([] if last is None else [last])]
        deaths = tuple(death for end in ends if (death := end.death()) is not None)
        if not deaths:
            return failure
        memory = dict(attempt.cost.amounts).get("memory")
        claimed = None if memory is None else amount_of(memory)
        attempts = killed.allowed_failures + 1
        error = KilledForMemory(
            killed.task, killed.last_worker, killed.allowed_failures, deaths, attempts, claimed,
            function.run.limit_of(function.position),
        )  # fmt: skip
        return Failure(pickle.dumps(error), failure.traceback, f"{type(error).__name__}: {error}")

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """Note under whom a worker has died; forget it when the function has ended."""
        if not isinstance(event, Dropped):
            self._under.pop(function.key, None)
        elif isinstance(old, Running) and not event.node_is_there:
            end = self._ends.get(old.attempt.address)
            if end is not None:
                self._under.setdefault(function.key, (function, []))[1].append(end)

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
