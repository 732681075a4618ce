"""Tasks of Dask's own that handoff places: those that name resources, if it is asked to.

The tasks of one graph become a run that nobody watches: they are held, placed, explained and counted
by the same machinery as the functions of a DAG.  What a user has said of workers confines the run;
so the tasks of one graph with other such restrictions are another run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from dask.typing import Key
from dask.utils import key_split
from distributed.protocol import pickle
from distributed.shuffle._core import id_from_key

from handoff_dask import config
from handoff_dask.errors import HandoffError, ValidationError
from handoff_dask.placement.events import Demand
from handoff_dask.protocol.manifest import Manifest, Options
from handoff_dask.protocol.names import COST_ANNOTATION
from handoff_dask.resources import Capabilities, Cost
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.registry import Registry
from handoff_dask.scheduler.runs import TaskRun

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState

#: Dask's order of a task as one number: generations apart from each other, and all above zero.
_GENERATION = 2.0**32
_FIRST = 2.0**52

#: Names or addresses of the nodes that a task may use; None if it may use any.
Confinement = frozenset[str] | None


class PlacedTasks:
    """Holds and places tasks of Dask's own that name resources, while it is asked to.

    Parameters
    ----------
    scheduler
        Dask's.
    nodes, registry
        The workers; what opens runs.
    adopted
        Told of a task that was already parked when handoff took it over.
    """

    def __init__(
        self, scheduler: Scheduler, nodes: Nodes, registry: Registry, adopted: Callable[[Any], None]
    ) -> None:
        self._scheduler = scheduler
        self._nodes = nodes
        self._registry = registry
        self._adopted = adopted
        self._numbers = count()
        self.is_on = config.placing() == "place"

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What clients may ask."""
        return {"dask_tasks": self.switch}

    def switch(self, client: str, mode: config.Placing) -> None:
        """Place tasks from now on, those included that no worker has been given yet; or no longer."""
        was_on, self.is_on = self.is_on, mode == "place"
        if self.is_on and not was_on:
            self._adopt()

    def _adopt(self) -> None:
        """Take over the tasks that name resources and are on no worker."""
        waiting = [
            task
            for task in self._scheduler.tasks.values()
            if task.resource_restrictions and task.state in ("no-worker", "waiting", "released")
        ]
        parked = [task.key for task in waiting if task.state == "no-worker"]
        by_client: dict[str, list[Key]] = defaultdict(list)
        for task in waiting:
            owner = next(iter(task.who_wants or ()), None)
            by_client["" if owner is None else str(owner.client_key)].append(task.key)
        for client, keys in by_client.items():
            self.arrived(keys, client)
        for key in parked:
            self._adopted(key)

    def graph_arrived(self, annotations: Mapping[str, Mapping[Any, Any]], client: str) -> None:
        """Take over the tasks of a new graph that name resources.

        If that goes wrong they fail: Dask logs what a hook raises and goes on, and they would wait for ever.
        """
        named = {**annotations.get("resources", {}), **annotations.get(COST_ANNOTATION, {})}
        if not named:
            return
        try:
            self.arrived(named, client)
        except Exception as error:
            self._registry.refuse_tasks(named, HandoffError(f"handoff could not place this task: {error!r}"))
            raise

    def arrived(self, keys: Iterable[Key], client: str) -> None:
        """Hold tasks that are on no worker yet, as one run for each set of workers that they may use."""
        groups: dict[Confinement, list[tuple[TaskState, Demand, float | None]]] = defaultdict(list)
        for key in keys:
            task = self._scheduler.tasks.get(key)
            if task is None or key in self._registry.functions or task.actor or task.processing_on:
                continue
            if _is_shuffled(task):
                task.resource_restrictions = None
                continue
            asked = _demand(task)
            if asked is not None:
                groups[self._confinement(task)].append((task, *asked))
        for confinement, members in groups.items():
            self._registry.tasks_arrived(self._run(members, confinement, client))

    def _confinement(self, task: TaskState) -> Confinement:
        """The nodes that a user has confined a task to, by name: whoever bears the name may run it."""
        addresses, hosts = task.worker_restrictions or set(), task.host_restrictions or set()
        if (not addresses and not hosts) or _mark(task).get("node") is not None:
            return None
        if hosts:
            workers = self._scheduler.workers.values()
            addresses = addresses | {ws.address for ws in workers if ws.host in hosts}
        by_address = self._nodes.by_address
        if task.loose_restrictions and not any(address in by_address for address in addresses):
            return None
        return frozenset(by_address[a].name if a in by_address else a for a in addresses)

    def _run(
        self,
        members: list[tuple[TaskState, Demand, float | None]],
        confinement: Confinement,
        client: str,
    ) -> TaskRun:
        tasks = [task for task, _, _ in members]
        numbers: dict[Demand, int] = {}
        demand_of = [numbers.setdefault(demand, len(numbers)) for _, demand, _ in members]
        keys = [task.key for task in tasks]
        priorities = [cast("tuple[float, ...]", task.priority or (0, 0, 0)) for task in tasks]
        strategy = str(config.get("allocation-strategy"))
        manifest = Manifest(
            token=f"tasks-{next(self._numbers)}",
            dag_id=bytes(pickle.dumps(None)),
            dag_token="",
            ids=bytes(pickle.dumps(keys)),
            names=[key_split(key) for key in keys],
            demands=list(numbers),
            demand_of=demand_of,
            retries=[task.retries for task in tasks],
            priorities={i: -p[0] for i, p in enumerate(priorities) if p[0]},
            durations={i: told for i, (_, _, told) in enumerate(members) if told is not None},
            options=Options(
                strategy=strategy,
                strategy_name=strategy,
                nodes=None if confinement is None else dict.fromkeys(confinement, Capabilities()),
                allocation_timeout_s=config.seconds("allocation-timeout"),
                transfer_floor_s=config.seconds("transfer-floor"),
            ),
        )
        where = "" if confinement is None else f" on {', '.join(sorted(confinement))}"
        return TaskRun(manifest, keys, [_rank(p) for p in priorities], client, f"tasks of {client}{where}")


def _rank(priority: tuple[float, ...]) -> float:
    """A task's place in Dask's order of tasks of one user priority, larger for the earlier."""
    _, generation, order = priority
    return _FIRST - (generation * _GENERATION + order)


def _is_shuffled(task: TaskState) -> bool:
    """Whether a task ends an exchange of Dask's P2P shuffle, or takes what was exchanged.

    Dask itself says where these run, by worker restrictions, and knows nothing of resources there.
    """
    return id_from_key(task.key) is not None or any(id_from_key(d.key) is not None for d in task.dependencies)


def _mark(task: TaskState) -> Mapping[str, Any]:
    """What ``handoff.cost`` says of a task beside its amounts."""
    found: Mapping[str, Any] | None = (task.annotations or {}).get(COST_ANNOTATION)
    return found or {}


def _demand(task: TaskState) -> tuple[Demand, float | None] | None:
    """What a task asks of a node, and its expected seconds; None if it asks for nothing that we know."""
    mark = _mark(task)
    wanted = task.resource_restrictions or {}
    if not wanted and not mark:
        return None
    try:
        cost = Cost.parse({**mark.get("labels", {}), **wanted})
    except ValidationError:  # Dask takes amounts that we would not
        return None
    return Demand(cost=cost, pin=mark.get("node")), mark.get("duration")
