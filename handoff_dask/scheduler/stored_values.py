"""On the scheduler: which key holds a stored value, and where data is said to be."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distributed.metrics import time

from handoff_dask.errors import NotFoundError
from handoff_dask.record.status import CANCELLED, FAILED
from handoff_dask.scheduler.runs import Run

if TYPE_CHECKING:
    from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin

#: The client in whose name stored values are kept, so that they outlive who stored them.
KEEPER = "handoff-values"


@dataclass(slots=True)
class Shelf:
    """What was stored of one DAG id; ids are tokens, since their types may be unknown here."""

    #: ``{id: Dask key}``.
    keys: dict[str, str] = field(default_factory=dict)
    #: ``{id: when it was stored, seconds since the epoch}``.
    since: dict[str, float] = field(default_factory=dict)
    #: ``{id: node name}``.
    locations: dict[str, str] = field(default_factory=dict)


class Values:
    """Values and locations by DAG id, for every client."""

    def __init__(self, plugin: HandoffSchedulerPlugin) -> None:
        self._plugin = plugin
        self._shelves: dict[str, Shelf] = {}
        #: Runs that are not spoken of any more although Dask has not forgotten them yet.
        self._dropped: weakref.WeakSet[Run] = weakref.WeakSet()
        #: For whoever waits for a run: ``{token: event}``.
        self._news: dict[str, asyncio.Event] = {}
        plugin.requests.add(
            keep=self.keep,
            find=self.find,
            functions_of=self.functions_of,
            settled=self.settled,
            some_node=self.some_node,
            where=self.where,
            register_location=self.register_location,
            forget=self.forget,
        )

    # ------------------------------------------------------------------ stored values

    def some_node(self, client: str, node: str) -> str:
        """A node for a value that may be anywhere: the one with the least in its memory."""
        workers = self._plugin.scheduler.workers
        nodes = [node for node in self._plugin.nodes.by_name.values() if node.accepting]
        if not nodes:
            raise NotFoundError("node", "any", "no worker is there; start one")
        return min(nodes, key=lambda node: (workers[node.address].nbytes, node.name)).name

    def keep(self, client: str, dag: str, value: str, key: str) -> None:
        """A client has put a value on a worker under this key: keep it there."""
        shelf = self._shelves.setdefault(dag, Shelf())
        before = shelf.keys.get(value)
        shelf.keys[value], shelf.since[value] = key, time()
        self._plugin.scheduler.client_desires_keys(keys=[key], client=KEEPER)
        if before is not None and before != key:
            self._release([before])

    def register_location(self, client: str, dag: str, value: str, node: str) -> None:
        """A client says where data is."""
        name = self._plugin.nodes.find(node).name
        self._shelves.setdefault(dag, Shelf()).locations[value] = name

    def forget(self, client: str, dag: str) -> None:
        """Drop what was stored of a DAG, and the client's runs of it that are over."""
        shelf = self._shelves.pop(dag, None)
        if shelf is not None:
            self._release(list(shelf.keys.values()))
        for run in self._plugin.registry.runs.values():
            if run.manifest.dag_token == dag and run.client == client and run.over:
                self._dropped.add(run)

    def _release(self, keys: list[str]) -> None:
        if keys:
            self._plugin.scheduler.client_releases_keys(
                keys=keys, client=KEEPER, stimulus_id=f"handoff-forget-{time()}"
            )

    def clear(self) -> None:
        """Every value of Dask's is gone at once."""
        self._shelves.clear()

    # ------------------------------------------------------------------ finding

    def find(self, client: str, dag: str, value: str) -> dict[str, Any]:
        """What is known of a value: its key, where it is said to be, and the DAG's latest run.

        ``outdated`` says that the run came after the value was stored: what it makes itself counts.
        """
        shelf = self._shelves.get(dag, Shelf())
        registry = self._plugin.registry
        announced = [t for t, a in registry.announced.items() if a.manifest.dag_token == dag]
        runs = [
            run
            for run in registry.runs.values()
            if run.manifest.dag_token == dag and run not in self._dropped
        ]
        key, run = shelf.keys.get(value), runs[-1] if runs else None
        later = bool(announced) or (run is not None and run.submitted > shelf.since.get(value, 0.0))
        return {
            "key": key,
            "outdated": key is not None and later,
            "location": shelf.locations.get(value),
            "run": announced[-1] if announced else None if run is None else run.token,
        }

    def functions_of(self, client: str, token: str) -> tuple[bytes, list[str]]:
        """A run's ids, pickled, and keys."""
        registry = self._plugin.registry
        if token in registry.announced:
            manifest = registry.announced[token].manifest
        elif token in registry.runs:
            manifest = registry.runs[token].manifest
        else:
            raise NotFoundError("execution", token, "it has been forgotten")
        return manifest.ids, manifest.keys()

    def where(self, client: str, key: str) -> dict[str, str]:
        """``{name: address}`` of the nodes that hold a key now; the one that made it comes first."""
        task = self._plugin.scheduler.tasks.get(key)
        nodes = self._plugin.nodes.by_address
        held = [] if task is None else [nodes[ws.address] for ws in task.who_has or () if ws.address in nodes]
        function = self._plugin.registry.functions.get(key)
        maker = None if function is None else function.node
        held.sort(key=lambda node: (node.name != maker, node.name))
        return {node.name: node.address for node in held}

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
        if self._is_there(key) or run.status not in (FAILED, CANCELLED):
            return "memory", None
        if run.status == CANCELLED or run.failed is None:
            return "cancelled", None
        failed = run.functions[run.failed]
        return "failed", {
            "key": failed.key,
            "cost": run.cost(failed.position),
            "refusal": run.refusal,
            "node": failed.node,
            "attempts": failed.attempts,
            "exception": run.exception,
            "traceback": run.traceback,
        }

    async def _until_settled(self, token: str, key: str) -> Run | None:
        """The run, as long as it is known, once the function will not change any more."""
        registry = self._plugin.registry
        while True:
            run = registry.runs.get(token)
            if self._is_there(key) or (run is None and token not in registry.announced):
                return run
            if run is not None and run.over:
                return run
            await self._news.setdefault(token, asyncio.Event()).wait()

    def _is_there(self, key: str) -> bool:
        task = self._plugin.scheduler.tasks.get(key)
        return task is not None and task.state == "memory"

    def has_news(self, token: str) -> None:
        """A run has begun or ended, or a function of it has ended."""
        news = self._news.pop(token, None)
        if news is not None:
            news.set()
