"""What clients ask of the scheduler's plugin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from distributed.protocol import pickle

from handoff_dask.errors import HandoffError, NotFoundError
from handoff_dask.placement.user_strategies import StrategyFailed
from handoff_dask.protocol.manifest import Manifest
from handoff_dask.record.status import CANCELLED
from handoff_dask.resources import Capabilities, Cost
from handoff_dask.scheduler.engine_driver import EngineDriver
from handoff_dask.scheduler.mailboxes import Mailboxes
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import NodeEvent, Observer
from handoff_dask.scheduler.refusals import refusal_of
from handoff_dask.scheduler.registry import Registry
from handoff_dask.scheduler.runs import Announced, Runs
from handoff_dask.scheduler.telemetry import Telemetry
from handoff_dask.scheduler.user_strategies import load_beside
from handoff_dask.version import VERSION

#: Requests whose answers may carry exceptions that only the client can unpickle.
CARRY_EXCEPTIONS = ("settled", "so_far", "attach")
#: Why a run is refused: the position of the function, and the reasons.
Refused = tuple[int, dict[str, str], "str | None"]


class Requests(Observer):
    """The plugin's RPC for clients: one handler, one method for each question.

    Parameters
    ----------
    runs, nodes, driver, registry
        What is known of runs and workers; of the engine; what opens and ends runs.
    mailboxes, telemetry
        What sessions are told.
    nodes_changed
        Tells everybody who must know of nodes.
    ready
        Awaited by ``ping``: until the plugin is installed on the workers.
    check
        Raises if a run is not wanted.
    misfit
        Finds a stage of a pipeline that has no room beside the others.
    """

    def __init__(
        self,
        runs: Runs,
        nodes: Nodes,
        driver: EngineDriver,
        registry: Registry,
        mailboxes: Mailboxes,
        telemetry: Telemetry,
        nodes_changed: Callable[[list[Any]], None],
        ready: Callable[[], Any],
        check: Callable[[Manifest], None],
        misfit: Callable[[Manifest], tuple[int, str] | None],
    ) -> None:
        self._runs = runs
        self._nodes = nodes
        self._driver = driver
        self._registry = registry
        self._mailboxes = mailboxes
        self._telemetry = telemetry
        self._nodes_changed: Callable[[list[NodeEvent]], None] = nodes_changed
        self._ready = ready
        self._check = check
        self._misfit = misfit
        self._first_client = ""
        #: Whether more than one client has asked anything.
        self.is_shared = False
        self._methods: dict[str, Callable[..., Any]] = {
            "ping": self.ping,
            "announce": self.announce,
            "cancel": self.cancel,
            "outcome": self.outcome,
            "so_far": self.so_far,
            "withdraw": self.withdraw,
            "discover": self.discover,
            "register": self.register,
            "unregister": self.unregister,
            "node_notes": self.node_notes,
            "available": self.available,
            "name_of": self.name_of,
            "address_of": self.address_of,
            "listen": self.listen,
            "leave": self.leave,
            "count_of": self.count_of,
        }

    def add(self, **methods: Callable[..., Any]) -> None:
        """Let another part of the plugin answer requests too."""
        self._methods.update(methods)

    async def handle(self, method: str, client: str, arguments: bytes) -> dict[str, Any]:
        """Answer a client: ``{"value": …}``, or ``{"error": …}`` for what it should raise."""
        self._first_client = self._first_client or client
        self.is_shared = self.is_shared or client != self._first_client
        if method == "watch":  # it may carry exceptions that only the client can unpickle
            return {"messages": await self._mailboxes.watch(client, **pickle.loads(arguments))}
        try:
            answer = self._methods[method](client, **pickle.loads(arguments))
            if asyncio.iscoroutine(answer):
                answer = await answer
        except HandoffError as error:
            return {"error": pickle.dumps(error)}
        if method in CARRY_EXCEPTIONS:
            return {"as_is": answer}
        return {"value": pickle.dumps(answer)}

    # ------------------------------------------------------------------ runs

    async def ping(self, client: str) -> tuple[str, list[tuple[str, str, str]]]:
        """Once the plugin is on the workers: its version, and the workers that are no nodes."""
        await self._ready()
        return VERSION, self._nodes.outsiders()

    async def announce(self, client: str, manifest: Manifest) -> Refused | None:
        """Prepare for a run whose graph comes next; what cannot be placed, if anything."""
        self._runs.announcing[manifest.token] = client
        options = manifest.options
        try:
            await self._nodes.all_reported()
            self._check(manifest)
            for offer in (options.nodes or {}).values():
                self._nodes.refuse_shared(offer)
            strategy = await load_beside(manifest)
        except StrategyFailed as error:
            return 0, {}, str(error)
        finally:
            is_wanted = self._runs.announcing.pop(manifest.token, None) is not None
        if not is_wanted:
            raise HandoffError("this DAG was withdrawn, or its client has left, before it was sent")
        if options.allocation_timeout_s <= 0:
            refused = self._unplaceable(manifest)
            if refused is not None:
                return refused
        self._runs.announced[manifest.token] = Announced(client, manifest, strategy)
        return None

    def _unplaceable(self, manifest: Manifest) -> Refused | None:
        engine = self._driver.engine
        confined = self._nodes.by_names(manifest.options.nodes)
        first: dict[int, int] = {}
        for position, number in enumerate(manifest.demand_of):
            first.setdefault(number, position)
        for items in manifest.items.values():
            first.setdefault(items.demand, items.of)
        for number, position in first.items():
            demand = manifest.demands[number]
            envelope = manifest.groups.get(demand.group) if demand.group is not None else None
            asked = envelope or demand
            if not engine.could_hold(asked, confined):
                obstacles = engine.obstacles(asked, confined)
                offers = self._nodes.offers(shared=True)
                return position, *refusal_of(demand, envelope, obstacles, offers, confined=confined)
        misfit = None if manifest.stages is None else self._misfit(manifest)
        return None if misfit is None else (misfit[0], {}, misfit[1])

    def cancel(self, client: str, token: str) -> bool:
        """Cancel a run; whether there was anything to cancel."""
        announced = self._runs.announced.get(token)
        if announced is not None:
            # Dask takes a graph apart in a thread: it comes yet, and must end then.
            self._runs.announced[token] = announced._replace(cancelled=True)
            return True
        run = self._runs.by_token.get(token)
        if run is None or run.over:
            return False
        self._registry.end(run, CANCELLED)
        return True

    def withdraw(self, client: str, token: str) -> bool:
        """The graph of a run will not come; whether it was still expected."""
        return self._registry.withdrawn(token)

    def outcome(self, client: str, token: str) -> Any:
        """How a run stands."""
        run = self._runs.by_token.get(token)
        if run is None:
            raise NotFoundError("execution", token, "it has been forgotten")
        return run.outcome(self._nodes.as_recorded())

    def so_far(self, client: str, token: str) -> list[Any]:
        """How a run stands: its outcome so far, pickled, and what its functions have raised."""
        run = self._runs.by_token.get(token)
        if run is None:
            raise NotFoundError("execution", token, "it has been forgotten")
        return [pickle.dumps(run.outcome(self._nodes.as_recorded())), run.exceptions()]

    # ------------------------------------------------------------------ messages to clients

    def listen(
        self, client: str, listener: str, events: frozenset[tuple[str, ...]], greet: bool = False
    ) -> None:
        """A session has handlers for these events from now on."""
        self._mailboxes.of(client, listener)
        self._telemetry.listen(listener, events, greet)

    def count_of(self, client: str, listener: str) -> int:
        """How many messages there have been for a session, told or not."""
        self._telemetry.flush()
        return self._mailboxes.count(listener)

    def leave(self, client: str, listener: str) -> None:
        """A session looks no more."""
        self._telemetry.listen(listener, frozenset())
        self._mailboxes.close(listener)
        for run in self._runs.by_token.values():
            if run.is_detached or run.client != client:
                run.listeners.pop(listener, None)

    def client_left(self, client: str) -> None:
        """Nobody looks any more."""
        for listener in self._mailboxes.listeners_of(client):
            self.leave(client, listener)
        for run in self._runs.by_token.values():
            if run.is_detached or run.client != client:
                run.listeners = {name: of for name, of in run.listeners.items() if of != client}

    # ------------------------------------------------------------------ nodes

    async def discover(self, client: str) -> dict[str, dict[str, Any]]:
        """Every node of the cluster."""
        await self._nodes.all_reported()
        return dict(sorted(self._nodes.as_written().items()))

    async def register(self, client: str, node: str, capabilities: Capabilities, merge: bool) -> None:
        """A user says what a node has."""
        await self._nodes.all_reported()
        self._nodes_changed([*self._nodes.register(node, capabilities, merge=merge)])
        self._driver.flush()

    async def node_notes(self, client: str) -> dict[str, list[str]]:
        """What a person should know of each node."""
        await self._nodes.all_reported()
        return self._nodes.notes()

    async def unregister(self, client: str, node: str) -> None:
        """A user takes back what was said of a node."""
        await self._nodes.all_reported()
        self._nodes_changed([*self._nodes.unregister(node)])
        self._driver.flush()

    async def available(self, client: str, node: str, cost: Cost) -> bool:
        """Whether a node has room for a cost right now."""
        await self._nodes.all_reported()
        try:
            known = self._nodes.find(node)
        except NotFoundError:
            return False
        self._driver.flush()
        return self._driver.engine.has_room(known.name, cost)

    def name_of(self, client: str, node: str) -> str:
        """The name of a node that was given by name or address."""
        return self._nodes.find(node).name

    def address_of(self, client: str, node: str) -> str:
        """The address of a node that was given by name or address."""
        return self._nodes.find(node).address
