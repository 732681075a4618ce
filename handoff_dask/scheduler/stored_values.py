"""Stored values: which key holds each, and where data is said to be."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distributed.metrics import time

from handoff_dask.errors import NotFoundError
from handoff_dask.protocol.manifest import position_of
from handoff_dask.record.status import CANCELLED, FAILED
from handoff_dask.scheduler.lifecycle import (
    ArgumentFailed,
    Ended,
    FailedForGood,
    GivenUp,
    LifeEvent,
    Rejected,
)
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import Dependence, FunctionState, Runs, RunState
from handoff_dask.scheduler.states import Failed, Finished, Skipped, State
from handoff_dask.scheduler.tasks import Tasks

if TYPE_CHECKING:
    from distributed import Scheduler

#: The client in whose name stored values are kept, so that they outlive who stored them.
KEEPER = "handoff-values"


@dataclass(slots=True)
class StoredOfDAG:
    """What was stored of one DAG id; ids are tokens, since their types may be unknown here."""

    #: ``{id: Dask key}``.
    keys: dict[str, str] = field(default_factory=dict)
    #: ``{id: when it was stored, seconds since the epoch}``.
    since: dict[str, float] = field(default_factory=dict)
    #: ``{id: node name}``.
    locations: dict[str, str] = field(default_factory=dict)


class StoredValues(Observer):
    """Values and locations by DAG id, for every client.

    Parameters
    ----------
    runs, nodes, tasks
        What is known of runs and workers; Dask's tasks.
    scheduler
        Dask's, which keeps the values.
    """

    watches = (Ended, FailedForGood, GivenUp, Rejected, ArgumentFailed)

    def __init__(self, runs: Runs, nodes: Nodes, tasks: Tasks, scheduler: Scheduler) -> None:
        self._runs = runs
        self._nodes = nodes
        self._tasks = tasks
        self._scheduler = scheduler
        self._stored: dict[str, StoredOfDAG] = {}
        #: Runs that are not spoken of any more although Dask has not forgotten them yet.
        self._dropped: weakref.WeakSet[RunState] = weakref.WeakSet()
        #: What the results depend on of runs whose graph is on its way, by token.
        self._early: dict[str, Dependence] = {}
        #: For whoever waits for a run: ``{token: event}``.
        self._news: dict[str, asyncio.Event] = {}

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What clients may ask."""
        return {
            "keep": self.keep,
            "find": self.find,
            "functions_of": self.functions_of,
            "settled": self.settled,
            "note_fingerprints": self.note_fingerprints,
            "earlier": self.earlier,
            "earlier_records": self.earlier_records,
            "some_node": self.some_node,
            "where": self.where,
            "register_location": self.register_location,
            "forget": self.forget,
        }

    # ------------------------------------------------------------------ stored values

    def some_node(self, client: str, node: str) -> str:
        """A node for a value that may be anywhere: the one with the least in its memory."""
        workers = self._scheduler.workers
        nodes = [node for node in self._nodes.by_name.values() if node.accepting]
        if not nodes:
            raise NotFoundError("node", "any", "no worker is there; start one")
        return min(nodes, key=lambda node: (workers[node.address].nbytes, node.name)).name

    def keep(self, client: str, dag: str, value: str, key: str) -> None:
        """A client has put a value on a worker under this key: keep it there."""
        stored = self._stored.setdefault(dag, StoredOfDAG())
        before = stored.keys.get(value)
        stored.keys[value], stored.since[value] = key, time()
        self._scheduler.client_desires_keys(keys=[key], client=KEEPER)
        if before is not None and before != key:
            self._release([before])

    def register_location(self, client: str, dag: str, value: str, node: str) -> None:
        """A client says where data is."""
        name = self._nodes.find(node).name
        self._stored.setdefault(dag, StoredOfDAG()).locations[value] = name

    def forget(self, client: str, dag: str) -> None:
        """Drop what was stored of a DAG, and the client's runs of it that are over."""
        stored = self._stored.pop(dag, None)
        if stored is not None:
            self._release(list(stored.keys.values()))
        for run in self._runs.by_token.values():
            if run.manifest.dag_token == dag and run.client == client and run.over:
                self._dropped.add(run)

    def _release(self, keys: list[str]) -> None:
        if keys:
            self._scheduler.client_releases_keys(
                keys=keys, client=KEEPER, stimulus_id=f"handoff-forget-{time()}"
            )

    def cleared(self) -> None:
        """Every value of Dask's is gone at once."""
        self._stored.clear()

    # ------------------------------------------------------------------ finding

    def find(self, client: str, dag: str, value: str) -> dict[str, Any]:
        """What is known of a value: its key, where it is said to be, and the DAG's latest run.

        ``outdated`` says that the run came after the value was stored: what it makes itself counts.
        """
        stored = self._stored.get(dag, StoredOfDAG())
        announced = [t for t, a in self._runs.announced.items() if a.manifest.dag_token == dag]
        runs = [
            run
            for run in self._runs.by_token.values()
            if run.manifest.dag_token == dag and run not in self._dropped
        ]
        key, run = stored.keys.get(value), runs[-1] if runs else None
        later = bool(announced) or (run is not None and run.submitted > stored.since.get(value, 0.0))
        return {
            "key": key,
            "outdated": key is not None and later,
            "location": stored.locations.get(value),
            "run": announced[-1] if announced else None if run is None else run.token,
        }

    def functions_of(self, client: str, token: str) -> tuple[bytes, list[str], list[tuple[int, int, int]]]:
        """A run's ids, pickled, and keys; and which of the keys are items of maps, which have no id there."""
        if token in self._runs.announced:
            manifest = self._runs.announced[token].manifest
        elif token in self._runs.by_token:
            manifest = self._runs.by_token[token].manifest
        else:
            raise NotFoundError("execution", token, "it has been forgotten")
        return manifest.ids, manifest.keys(), manifest.spawned

    def where(self, client: str, key: str) -> dict[str, str]:
        """``{name: address}`` of the nodes that hold a key now; the one that made it comes first."""
        task = self._tasks.get(key)
        nodes = self._nodes.by_address
        held = [] if task is None else [nodes[ws.address] for ws in task.who_has or () if ws.address in nodes]
        function = self._runs.functions.get(key)
        maker = None if function is None else function.fact("node")
        held.sort(key=lambda node: (node.name != maker, node.name))
        return {node.name: node.address for node in held}

    # ------------------------------------------------------------------ results of earlier runs

    def note_fingerprints(
        self,
        client: str,
        token: str,
        fingerprints: list[str | None],
        records: bytes,
        earlier: dict[str, str],
    ) -> None:
        """A client says what the results of a run depend on, and what it reuses of an earlier one."""
        known, run = Dependence(fingerprints, records, earlier), self._runs.by_token.get(token)
        if run is not None:
            run.depends = known
        elif token in self._runs.announced:
            self._early[token] = known

    def earlier(self, client: str, token: str | None, dag: str | None) -> dict[str, str] | None:
        """``{fingerprint: key}`` of what the cluster still has of a run, or of the latest one of a DAG.

        None if there is none that can be resumed.
        """
        run = self._resumable(token, dag)
        if run is None or run.depends is None:
            return None
        found = {f: key for f, key in run.depends.earlier.items() if self._is_there(key)}
        for position, function in run.functions.items():
            # Items of maps have been added since.
            known = run.depends.fingerprints[position : position + 1]
            is_known = isinstance(function.state, Finished) and self._is_there(function.key)
            if known and known[0] is not None and is_known and position not in run.manifest.reading:
                found[known[0]] = function.key
        return found

    def earlier_records(self, client: str, token: str | None, dag: str | None) -> bytes | None:
        """What the results of a run were computed from, as its client has told."""
        run = self._resumable(token, dag)
        return None if run is None or run.depends is None else run.depends.records

    def _resumable(self, token: str | None, dag: str | None) -> RunState | None:
        runs = [
            run
            for run in self._runs.by_token.values()
            if run.token == token or (run.manifest.dag_token == dag and run not in self._dropped)
        ]
        return next((run for run in reversed(runs) if run.depends is not None), None)

    # ------------------------------------------------------------------ waiting

    async def settled(self, client: str, token: str, key: str, timeout: float | None) -> tuple[str, Any]:
        """Wait until a function has a result, or will have none.

        ``"memory"``, ``"failed"`` (with what is known of the function that failed),
        ``"cancelled"``, or ``"waiting"`` once the time is up.
        """
        try:
            run = await asyncio.wait_for(self._until_settled(token, key), timeout)
        except asyncio.TimeoutError:
            return "waiting", None
        if run is None:
            return "cancelled", None
        position = position_of(key)
        blamed = run.skipped.get(position, position)
        if blamed not in run.failures:
            if self._is_there(key) or run.status not in (FAILED, CANCELLED):
                return "memory", None
            if run.status == CANCELLED or run.failed is None:
                return "cancelled", None
            blamed = run.failed
        failed, why = run.functions[blamed], run.failures[blamed]
        return "failed", {
            "key": failed.key,
            "cost": run.cost(failed.position),
            "refusal": why.refusal,
            "node": failed.fact("node"),
            "attempts": failed.attempts,
            "exception": why.exception,
            "traceback": why.traceback,
        }

    async def _until_settled(self, token: str, key: str) -> RunState | None:
        """The run, as long as it is known, once the function will not change any more."""
        while True:
            run = self._runs.by_token.get(token)
            if self._is_there(key) or (run is None and token not in self._runs.announced):
                return run
            if run is not None and (run.over or _has_no_result(run, position_of(key))):
                return run
            await self._news.setdefault(token, asyncio.Event()).wait()

    def _is_there(self, key: str) -> bool:
        return self._tasks.is_in_memory(key)

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """A function has ended: whoever waits for one of its run looks again."""
        if self._news and isinstance(new, (Finished, Failed, Skipped)):
            self._has_news(function.run.token)

    def run_opened(self, run: RunState) -> None:
        """The graph of a run has arrived."""
        run.depends = self._early.pop(run.token, None)
        self._has_news(run.token)

    def run_ended(self, run: RunState) -> None:
        """A run is over."""
        self._has_news(run.token)

    def run_withdrawn(self, token: str) -> None:
        """The graph of a run will not come."""
        self._early.pop(token, None)
        self._has_news(token)

    def _has_news(self, token: str) -> None:
        news = self._news.pop(token, None)
        if news is not None:
            news.set()


def _has_no_result(run: RunState, position: int) -> bool:
    """Whether a function of a run has failed, or was skipped since another has."""
    return position in run.failures or position in run.skipped
