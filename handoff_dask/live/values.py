"""On the scheduler: which key holds a stored value, and where data is said to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distributed.metrics import time

from handoff_dask.live.runs import Run

if TYPE_CHECKING:
    from handoff_dask.live.scheduler_plugin import HandoffSchedulerPlugin

#: The client in whose name stored values are kept, so that they outlive who stored them.
KEEPER = "handoff-values"


@dataclass(slots=True)
class Shelf:
    """What was stored of one DAG id; ids are tokens, since their types may be unknown here."""

    #: ``{id: Dask key}``.
    keys: dict[str, str] = field(default_factory=dict)
    #: ``{id: node name}``.
    locations: dict[str, str] = field(default_factory=dict)


class Values:
    """Values and locations by DAG id, for every client."""

    def __init__(self, plugin: HandoffSchedulerPlugin) -> None:
        self._plugin = plugin
        self._shelves: dict[str, Shelf] = {}
        plugin.requests.add(
            keep=self.keep,
            find=self.find,
            where=self.where,
            register_location=self.register_location,
            forget=self.forget,
        )

    def keep(self, client: str, dag: str, value: str, key: str) -> None:
        """A client has put a value on a worker under this key: keep it there."""
        shelf = self._shelves.setdefault(dag, Shelf())
        before = shelf.keys.get(value)
        shelf.keys[value] = key
        self._plugin.scheduler.client_desires_keys(keys=[key], client=KEEPER)
        if before is not None and before != key:
            self._release([before])

    def find(self, client: str, dag: str, value: str) -> dict[str, Any]:
        """What is known of a value: its key, where it is said to be, and the DAG's latest run."""
        shelf = self._shelves.get(dag, Shelf())
        run = self.run_of(dag)
        return {
            "key": shelf.keys.get(value),
            "location": shelf.locations.get(value),
            "run": None if run is None else (run.manifest.ids, run.manifest.keys(), sorted(run.functions)),
        }

    def run_of(self, dag: str) -> Run | None:
        """The latest run of a DAG id."""
        found = [r for r in self._plugin.registry.runs.values() if r.manifest.dag_token == dag]
        return found[-1] if found else None

    def where(self, client: str, key: str) -> list[str]:
        """Names of the nodes that hold a key now."""
        task = self._plugin.scheduler.tasks.get(key)
        if task is None:
            return []
        nodes = self._plugin.nodes.by_address
        return [nodes[ws.address].name for ws in task.who_has or () if ws.address in nodes]

    def register_location(self, client: str, dag: str, value: str, node: str) -> None:
        """A client says where data is."""
        name = self._plugin.nodes.find(node).name
        self._shelves.setdefault(dag, Shelf()).locations[value] = name

    def forget(self, client: str, dag: str) -> None:
        """Drop what was stored of a DAG."""
        shelf = self._shelves.pop(dag, None)
        if shelf is not None:
            self._release(list(shelf.keys.values()))

    def _release(self, keys: list[str]) -> None:
        self._plugin.scheduler.client_releases_keys(
            keys=keys, client=KEEPER, stimulus_id=f"handoff-forget-{time()}"
        )

    def clear(self) -> None:
        """Every value of Dask's is gone at once."""
        self._shelves.clear()
