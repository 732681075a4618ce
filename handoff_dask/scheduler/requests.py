"""What clients and workers ask of the scheduler's plugin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distributed.metrics import monotonic
from distributed.protocol import pickle

from handoff_dask.errors import HandoffError, NotFoundError
from handoff_dask.placement.user_strategies import StrategyFailed
from handoff_dask.protocol.capabilities import declared
from handoff_dask.protocol.manifest import Manifest
from handoff_dask.protocol.names import NAME, REPORT
from handoff_dask.record.status import CANCELLED
from handoff_dask.resources import Capabilities, Cost
from handoff_dask.scheduler.refusals import refusal_of
from handoff_dask.scheduler.registry import Announced
from handoff_dask.scheduler.runs import Run
from handoff_dask.scheduler.user_strategies import load

if TYPE_CHECKING:
    from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin

logger = logging.getLogger(__name__)

#: Dask's RPC, worker to scheduler: its resources have changed.
SET_RESOURCES = "set_resources"
#: Seconds that a request waits for workers which have connected to say what they offer.
REPORT_S = 10.0


@dataclass(slots=True)
class Channel:
    """What a session has not been told yet."""

    #: The Dask client of the session.
    client: str
    #: Those that the session has not said to have got: lists ``[kind, content]``, since within tuples
    #: Dask would leave exceptions packed, in one process.
    messages: list[list[Any]] = field(default_factory=list)
    filled: asyncio.Event = field(default_factory=asyncio.Event)
    #: Messages so far, got or not.
    total: int = 0

    def put(self, kind: str, content: Any) -> None:
        """Keep a message for the session's next look."""
        self.messages.append([kind, content])
        self.total += 1
        self.filled.set()


class Requests:
    """The plugin's RPC: one handler for clients, one for workers."""

    def __init__(self, plugin: HandoffSchedulerPlugin) -> None:
        self._plugin = plugin
        self._channels: dict[str, Channel] = {}
        self._reported = asyncio.Event()
        self._methods: dict[str, Callable[..., Any]] = {
            "ping": self.ping,
            "announce": self.announce,
            "cancel": self.cancel,
            "outcome": self.outcome,
            "withdraw": self.withdraw,
            "discover": self.discover,
            "register": self.register,
            "available": self.available,
            "name_of": self.name_of,
            "address_of": self.address_of,
            "listen": self.listen,
            "leave": self.leave,
            "count_of": self.count_of,
        }

    def install(self) -> None:
        """Listen."""
        handlers = self._plugin.scheduler.handlers
        handlers[NAME] = self.handle
        handlers[REPORT] = self.report
        set_resources = handlers[SET_RESOURCES]

        def declare(worker: str, resources: dict[str, Any] | None = None) -> Any:
            answer = set_resources(worker=worker, resources=resources)
            self._plugin.node_events(self._plugin.nodes.declared(worker, declared(resources or {})))
            return answer

        # No hook tells of it.
        handlers[SET_RESOURCES] = declare

    def add(self, **methods: Callable[..., Any]) -> None:
        """Let another part of the plugin answer requests too."""
        self._methods.update(methods)

    async def handle(self, method: str, client: str, arguments: bytes) -> dict[str, Any]:
        """Answer a client: ``{"value": …}``, or ``{"error": …}`` for what it should raise."""
        if method == "watch":  # it and settled may carry exceptions that only the client can unpickle
            return {"messages": await self.watch(client, **pickle.loads(arguments))}
        try:
            answer = self._methods[method](client, **pickle.loads(arguments))
            if asyncio.iscoroutine(answer):
                answer = await answer
        except HandoffError as error:
            return {"error": pickle.dumps(error)}
        if method == "settled":
            return {"as_is": answer}
        return {"value": pickle.dumps(answer)}

    async def report(self, worker: str, capabilities: Mapping[str, Any]) -> bool:
        """A worker says what it offers; the answer: whether to report starts."""
        self._plugin.node_events(self._plugin.nodes.report(worker, capabilities))
        self._plugin.driver.flush()
        self._reported.set()
        self._reported.clear()
        return self._plugin.announcer.wants_starts

    async def all_reported(self) -> None:
        """Wait for workers that have connected but not yet said what they offer."""
        give_up = monotonic() + REPORT_S
        while (missing := self._plugin.nodes.unreported()) and monotonic() < give_up:
            try:
                await asyncio.wait_for(self._reported.wait(), give_up - monotonic())
            except asyncio.TimeoutError:
                logger.warning(
                    "workers %s do not report to handoff; is handoff_dask installed there?", missing
                )

    # ------------------------------------------------------------------ runs

    def ping(self, client: str) -> bool:
        """Whether the plugin is there."""
        return True

    async def announce(
        self, client: str, manifest: Manifest
    ) -> tuple[int, dict[str, str], str | None] | None:
        """Prepare for a run whose graph comes next; what cannot be placed, if anything."""
        await self.all_reported()
        plugin = self._plugin
        options = manifest.options
        try:
            strategy = load(manifest)
        except StrategyFailed as error:
            return 0, {}, str(error)
        if options.allocation_timeout_s <= 0:
            refused = self._unplaceable(manifest)
            if refused is not None:
                return refused
        plugin.registry.announced[manifest.token] = Announced(client, manifest, strategy)
        return None

    def _unplaceable(self, manifest: Manifest) -> tuple[int, dict[str, str], str | None] | None:
        engine = self._plugin.driver.engine
        confined = self._plugin.nodes.by_names(manifest.options.nodes)
        first: dict[int, int] = {}
        for position, number in enumerate(manifest.demand_of):
            first.setdefault(number, position)
        for number, position in first.items():
            demand = manifest.demands[number]
            envelope = manifest.groups.get(demand.group) if demand.group is not None else None
            asked = envelope or demand
            if not engine.could_hold(asked, confined):
                obstacles = engine.obstacles(asked, confined)
                offers = self._plugin.nodes.offers()
                return position, *refusal_of(demand, envelope, obstacles, offers, confined=confined)
        return None

    def cancel(self, client: str, token: str) -> bool:
        """Cancel a run; whether there was anything to cancel."""
        registry = self._plugin.registry
        if token in registry.announced:
            # Dask takes a graph apart in a thread: it comes yet, and must end then.
            registry.announced[token] = registry.announced[token]._replace(cancelled=True)
            return True
        run = registry.runs.get(token)
        if run is None or run.over:
            return False
        self._plugin.registry.end(run, CANCELLED)
        return True

    def withdraw(self, client: str, token: str) -> bool:
        """The graph of a run will not come; whether it was still expected."""
        expected = self._plugin.registry.announced.pop(token, None) is not None
        self._plugin.values.has_news(token)
        return expected

    def outcome(self, client: str, token: str) -> Any:
        """How a run stands."""
        run = self._plugin.registry.runs.get(token)
        if run is None:
            raise NotFoundError("execution", token, "it has been forgotten")
        return run.outcome(self._offers())

    def status_changed(self, run: Run) -> None:
        """Tell its client that a run has begun."""
        if run.watched:
            self.tell(run.client, run.manifest.listener, "status", [run.token, run.status])

    def run_ended(self, run: Run) -> None:
        """Tell its client how a run ended."""
        if run.watched:
            outcome = pickle.dumps(run.outcome(self._offers()))
            content = [outcome, run.exception, run.traceback]
            self.tell(run.client, run.manifest.listener, "ended", content)

    # ------------------------------------------------------------------ messages to clients

    def listen(
        self, client: str, listener: str, events: frozenset[tuple[str, ...]], greet: bool = False
    ) -> None:
        """A session has handlers for these events from now on."""
        self._channel(client, listener)
        self._plugin.announcer.listen(listener, events, greet)

    def count_of(self, client: str, listener: str) -> int:
        """How many messages there have been for a session, told or not."""
        self._plugin.announcer.flush()
        channel = self._channels.get(listener)
        return 0 if channel is None else channel.total

    def tell(self, client: str, listener: str, kind: str, content: Any) -> None:
        """Keep a message for a session's next look."""
        self._channel(client, listener).put(kind, content)

    def tell_events(self, listener: str, content: Any) -> None:
        """Keep telemetry for the next look of a session that listens."""
        if listener in self._channels:
            self._channels[listener].put("events", content)

    def _channel(self, client: str, listener: str) -> Channel:
        """Each session has its own: those of one client must not take each other's messages."""
        channel = self._channels.get(listener)
        if channel is None:
            channel = self._channels[listener] = Channel(client)
        return channel

    async def watch(self, client: str, listener: str, got: int) -> list[list[Any]] | None:
        """Wait until there is more to tell a session than it has got; then tell it.

        None if it has been told things that are not known here: its client was thought to be gone.
        """
        if got and listener not in self._channels:
            return None
        channel = self._channel(client, listener)
        del channel.messages[: len(channel.messages) - (channel.total - got)]
        while not channel.messages and self._channels.get(listener) is channel:
            channel.filled.clear()
            await channel.filled.wait()
        return list(channel.messages)

    def leave(self, client: str, listener: str) -> None:
        """A session looks no more."""
        self._plugin.announcer.listen(listener, frozenset())
        channel = self._channels.pop(listener, None)
        if channel is not None:
            channel.filled.set()

    def client_left(self, client: str) -> None:
        """Nobody looks any more."""
        for listener in [x for x, channel in self._channels.items() if channel.client == client]:
            self.leave(client, listener)

    # ------------------------------------------------------------------ nodes

    def capabilities(self) -> dict[str, dict[str, Any]]:
        """``{node: capabilities}`` as users write them."""
        nodes = self._plugin.nodes
        return {name: nodes.capabilities(node).to_dict() for name, node in nodes.by_name.items()}

    def _offers(self) -> dict[str, dict[str, Any]]:
        """The same with each node's threads, as records have it."""
        threads = {name: node.threads for name, node in self._plugin.nodes.by_name.items()}
        return {name: {**has, "threads": threads[name]} for name, has in self.capabilities().items()}

    async def discover(self, client: str) -> dict[str, dict[str, Any]]:
        """Every node of the cluster."""
        await self.all_reported()
        return dict(sorted(self.capabilities().items()))

    async def register(self, client: str, node: str, capabilities: Capabilities, merge: bool) -> None:
        """A user says what a node has."""
        await self.all_reported()
        self._plugin.node_events(self._plugin.nodes.register(node, capabilities, merge=merge))
        self._plugin.driver.flush()

    async def available(self, client: str, node: str, cost: Cost) -> bool:
        """Whether a node has room for a cost right now."""
        await self.all_reported()
        try:
            known = self._plugin.nodes.find(node)
        except NotFoundError:
            return False
        self._plugin.driver.flush()
        return self._plugin.driver.engine.has_room(known.name, cost)

    def name_of(self, client: str, node: str) -> str:
        """The name of a node that was given by name or address."""
        return self._plugin.nodes.find(node).name

    def address_of(self, client: str, node: str) -> str:
        """The address of a node that was given by name or address."""
        return self._plugin.nodes.find(node).address
