"""The scheduler's record of nodes: what each offers by now, and who is expected back."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distributed.core import Status
from distributed.metrics import monotonic

from handoff_dask.errors import NotFoundError, ValidationError
from handoff_dask.placement.events import NodeChanged, NodeJoined, NodeLeft
from handoff_dask.resources import Capabilities
from handoff_dask.scheduler.node_notes import node_notes

if TYPE_CHECKING:
    from distributed.scheduler import WorkerState


logger = logging.getLogger(__name__)

#: Seconds that a worker which has connected has to say what it offers.
REPORT_S = 10.0
#: What is said of a worker that has not reported in time.
SILENT = "it does not report; is handoff_dask installed there?"


@dataclass(slots=True)
class WorkerInfo:
    """A worker that has reported what it offers."""

    name: str
    address: str
    threads: int
    #: A nanny will restart it when it dies.
    has_nanny: bool
    #: What the worker itself said.
    reported: Capabilities
    #: Dask's worker, also when it is gone.
    worker: WorkerState
    accepting: bool = True


@dataclass(slots=True)
class Nodes:
    """Workers by name, and what users have said of the names."""

    #: Dask's workers, by address.
    workers: Mapping[str, WorkerState]
    by_name: dict[str, WorkerInfo] = field(default_factory=dict)
    by_address: dict[str, WorkerInfo] = field(default_factory=dict)
    #: Reports that came before the worker itself: ``{address: capabilities}``.
    early: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    #: ``{name: what was registered}``: it belongs to the name, whoever bears it.
    registered: dict[str, Capabilities] = field(default_factory=dict)
    #: Names of nodes that somebody is restarting: ``{name: when to give up, monotonic seconds}``.
    returning: dict[str, float] = field(default_factory=dict)
    #: Workers that have not reported: ``{address: when they were seen first, monotonic seconds}``.
    silent: dict[str, float] = field(default_factory=dict)
    #: What the whole cluster shares: ``{name: units}``.  No node declares these names.
    shared: dict[str, int] = field(default_factory=dict)
    #: What workers have reported of themselves beside: ``{address: facts}``.
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    #: The names of nodes that are set aside.
    sick: Callable[[], frozenset[str]] = frozenset
    #: Workers that cannot be nodes: ``{address: why}``.
    outside: dict[str, str] = field(default_factory=dict)
    _reported: asyncio.Event = field(default_factory=asyncio.Event)

    def report(self, address: str, capabilities: Mapping[str, Any]) -> list[NodeJoined | NodeChanged]:
        """Take a worker's report; what it means to the engine."""
        ws = self.workers.get(address)
        if ws is None:
            self.early[address] = capabilities
            return []
        reported = Capabilities.parse(capabilities)
        known = self.by_address.get(address)
        if known is not None:
            known.reported = reported
            return [self.changed(known)]
        node = WorkerInfo(
            name=self.name_of(ws),
            address=address,
            threads=ws.nthreads,
            has_nanny=bool(ws.nanny),
            reported=reported,
            worker=ws,
            accepting=ws.status == Status.running,
        )
        self.by_name[node.name] = self.by_address[address] = node
        self.silent.pop(address, None)
        self.outside.pop(address, None)
        self._reported.set()
        self._reported.clear()
        self.returning.pop(node.name, None)
        joined = NodeJoined(
            node=node.name,
            capabilities=self.capabilities(node),
            threads=node.threads,
            address=address,
        )
        return [joined] if node.accepting else [joined, self.changed(node)]

    def is_outside(self, address: str, problem: str) -> None:
        """A worker says that it cannot be a node."""
        if self.outside.get(address) != problem:
            name = self.name_of(self.workers[address]) if address in self.workers else address
            logger.warning("worker %r (%s) is no node of handoff: %s", name, address, problem)
        self.outside[address] = problem
        self._reported.set()
        self._reported.clear()

    def outsiders(self) -> list[tuple[str, str, str]]:
        """Name, address and problem of each worker that is no node, by name."""
        return sorted(
            (self.name_of(ws), address, self.outside.get(address) or SILENT)
            for address, ws in self.workers.items()
            if address not in self.by_address and (address in self.outside or self._is_silent(address))
        )

    def _is_silent(self, address: str) -> bool:
        """Whether a worker has had its time to report."""
        return self.silent.get(address, math.inf) + REPORT_S <= monotonic()

    def declared(self, address: str, resources: Mapping[str, Any]) -> list[NodeChanged]:
        """A worker has other Dask resources than before (``Worker.set_resources``)."""
        node = self.by_address.get(address)
        if node is None:
            return []
        before = node.reported
        node.reported = before.updated(Capabilities.parse(resources))
        return [] if node.reported == before else [self.changed(node)]

    def added(self, address: str) -> list[NodeJoined | NodeChanged]:
        """A worker has connected; it may have reported before."""
        early = self.early.pop(address, None)
        return [] if early is None else self.report(address, early)

    def removed(self, address: str, *, give_up: float | None) -> list[NodeLeft]:
        """A worker is gone; with ``give_up`` (monotonic seconds) its nanny may bring it back."""
        self.early.pop(address, None)
        self.silent.pop(address, None)
        self.outside.pop(address, None)
        node = self.by_address.pop(address, None)
        if node is None:
            return []
        if self.by_name.get(node.name) is node:
            del self.by_name[node.name]
        returning = give_up is not None and node.has_nanny
        if returning and give_up is not None:
            self.returning[node.name] = give_up
        return [NodeLeft(node=node.name, returning=returning)]

    def next_not_back(self) -> float | None:
        """When the next node is given up that somebody is restarting, in monotonic seconds."""
        return min(self.returning.values(), default=None)

    def not_back(self, now: float) -> list[NodeLeft]:
        """Those that nobody has brought back in time."""
        late = [name for name, give_up in self.returning.items() if give_up <= now]
        for name in late:
            del self.returning[name]
        return [NodeLeft(node=name) for name in late]

    def status(self, address: str, accepting: bool) -> list[NodeChanged]:
        """A worker pauses or goes on."""
        node = self.by_address.get(address)
        if node is None or node.accepting == accepting:
            return []
        node.accepting = accepting
        return [self.changed(node)]

    def register(self, name: str, capabilities: Capabilities, *, merge: bool) -> list[NodeChanged]:
        """A user says what a node has.

        Raises
        ------
        NotFoundError
            If no worker bears the name or address.
        """
        node = self.find(name)
        self.refuse_shared(capabilities)
        if merge and node.name in self.registered:
            capabilities = self.registered[node.name].updated(capabilities)
        self.registered[node.name] = capabilities
        return [self.changed(node)]

    def unregister(self, name: str) -> list[NodeChanged]:
        """A user takes back what was said of a node, whether it is there or not.

        Raises
        ------
        NotFoundError
            If nothing was said of a node of this name or address.
        """
        if self.registered.pop(name, None) is not None:
            return [self.changed(self.by_name[name])] if name in self.by_name else []
        node = self.find(name)
        if self.registered.pop(node.name, None) is None:
            raise NotFoundError(
                "node", name, "nothing is registered for it; discover_nodes() lists the nodes"
            )
        return [self.changed(node)]

    def notes(self) -> dict[str, list[str]]:
        """``{node name: what a person should know of it}``."""
        return {
            name: node_notes(name, self.capabilities(node), node.threads, self.facts.get(node.address, {}))
            for name, node in sorted(self.by_name.items())
        }

    def refuse_shared(self, capabilities: Capabilities) -> None:
        """Refuse what names a resource that the whole cluster shares.

        Raises
        ------
        ValidationError
            If it does.
        """
        for name in self.shared:
            if name in capabilities.amounts or name in capabilities.labels:
                raise ValidationError(
                    f"{name!r} is shared by the whole cluster, so no node declares it; "
                    "say how much there is of it with register_shared"
                )

    def changed(self, node: WorkerInfo) -> NodeChanged:
        """What a node offers by now, as an event."""
        return NodeChanged(
            node=node.name,
            capabilities=self.capabilities(node),
            threads=node.threads,
            accepting=node.accepting,
        )

    def capabilities(self, node: WorkerInfo) -> Capabilities:
        """What the worker said with what was registered put over it."""
        registered = self.registered.get(node.name)
        offer = node.reported if registered is None else node.reported.updated(registered)
        return offer.without(self.shared) if self.shared else offer

    def offers(self, *, shared: bool = False) -> dict[str, Capabilities]:
        """What each node offers by now, by name; if wanted, with what the whole cluster shares."""
        offers = {name: self.capabilities(node) for name, node in self.by_name.items()}
        if not shared or not self.shared:
            return offers
        more = Capabilities(amounts=dict(self.shared))
        return {name: offer.updated(more) for name, offer in offers.items()}

    def as_written(self) -> dict[str, dict[str, Any]]:
        """``{node: capabilities}`` as users write them."""
        return {name: offer.to_dict() for name, offer in self.offers().items()}

    def as_recorded(self) -> dict[str, dict[str, Any]]:
        """The same with each node's threads, as records have it."""
        return {
            name: {**has, "threads": self.by_name[name].threads} for name, has in self.as_written().items()
        }

    def find(self, name: object) -> WorkerInfo:
        """The node of this name or address.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        wanted = str(name)
        node = self.by_name.get(wanted) or self.by_address.get(wanted)
        if node is None:
            known = ", ".join(repr(n) for n in sorted(self.by_name)[:8]) or "none"
            raise NotFoundError("node", name, f"known nodes: {known}")
        return node

    def by_names(self, confined: Mapping[str, Capabilities] | None) -> dict[str, Capabilities] | None:
        """A confinement with names in place of addresses."""
        if confined is None:
            return None
        return {n.name if (n := self.by_address.get(k)) else k: c for k, c in confined.items()}

    def awaited(self) -> bool:
        """Whether a worker has connected that has yet to say what it offers, and has time left for it."""
        now = monotonic()
        missing = (a for a in self.workers if a not in self.by_address and a not in self.outside)
        return any(self.silent.setdefault(a, now) + REPORT_S > now for a in missing)

    async def all_reported(self) -> None:
        """Wait for workers that have connected and not yet said what they offer.

        A worker has :data:`REPORT_S` seconds for it, once: whoever asks later does not wait again.
        """
        while True:
            now = monotonic()
            missing = [a for a in self.workers if a not in self.by_address and a not in self.outside]
            left = [self.silent.setdefault(a, now) + REPORT_S - now for a in missing]
            if not left or max(left) <= 0:
                return
            try:
                await asyncio.wait_for(self._reported.wait(), max(left))
            except asyncio.TimeoutError:
                logger.warning(
                    "workers %s do not report to handoff; is handoff_dask installed there?", missing
                )

    def name_of(self, ws: WorkerState) -> str:
        """A worker's name as text; its address where another one already bears the name."""
        name = str(ws.name)
        taken = self.by_name.get(name)
        return ws.address if taken is not None and taken.address != ws.address else name
