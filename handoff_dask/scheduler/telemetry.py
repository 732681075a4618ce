"""The scheduler's side of telemetry: tells clients that listen, and only them, what happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from distributed.metrics import time

from handoff_dask.placement.decisions import Place
from handoff_dask.placement.events import NodeChanged, NodeJoined, NodeLeft
from handoff_dask.protocol.names import REPORT_STARTS
from handoff_dask.protocol.telemetry import (
    ALLOCATION,
    CLAIM,
    DAG_EXCEPTION,
    DAG_START,
    DAG_STOP,
    ENDS,
    NODE_DOWN,
    NODE_UP,
    NODE_UPDATE,
    RELEASE,
    START,
    Allocated,
    Began,
    Booked,
    Ended,
    Failed,
    Introduction,
    NodeNoted,
    Note,
    Refused,
    RunNoted,
    pack,
    pack_exception,
)
from handoff_dask.record.status import FAILED, FINISHED, RUNNING
from handoff_dask.resources import Capabilities, amount_of
from handoff_dask.telemetry.events import Event

if TYPE_CHECKING:
    from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin
    from handoff_dask.scheduler.runs import Function, Run

#: Seconds that an event may wait for others to travel with.
BATCH_S = 0.05


class Known(NamedTuple):
    """A node as it was last told."""

    address: str | None
    capabilities: Capabilities


class Claim(NamedTuple):
    """What a function holds of a node, as it was told."""

    run: Run
    position: int
    node: str
    #: The node's account; the name may be borne by another worker when the claim ends.
    held: Counter[str]


class Announcer:
    """Gathers events for the sessions that have handlers for them."""

    def __init__(self, plugin: HandoffSchedulerPlugin) -> None:
        self._plugin = plugin
        self._listeners: dict[str, frozenset[Event]] = {}
        self._wanted: frozenset[Event] = frozenset()
        self._introduced: dict[str, set[str]] = {}
        self._pending: list[Note] = []
        self._timer: Any = None
        self._nodes: dict[str, Known] = {}
        #: ``{node: {resource: units that our functions hold, by what has been told}}``.
        self._held: dict[str, Counter[str]] = {}
        #: Of threads that go on without their function.
        self._lingering: dict[int, Claim] = {}
        #: Runs that are gone, of which something is still to be told.
        self._leaving: dict[str, Run] = {}
        #: ``{listener: runs of which it will hear nothing more}``.
        self._forgotten: dict[str, list[str]] = {}

    # ------------------------------------------------------------------ who listens

    def listen(self, listener: str, events: frozenset[Event], greet: bool = False) -> None:
        """A session has handlers for these events from now on; greeted, it hears of the nodes there are."""
        self.flush()
        before, counted = self.wants_starts, self._counts
        if events:
            self._listeners[listener] = events
        else:
            self._listeners.pop(listener, None)
            self._introduced.pop(listener, None)
            self._forgotten.pop(listener, None)
        self._wanted = frozenset().union(*self._listeners.values())
        if greet and NODE_UP in events:
            self._send(listener, [self._node_note(NODE_UP, name) for name in sorted(self._nodes)])
        if self._counts and not counted:
            self._take_stock()
        if self.wants_starts != before:
            for address in self._plugin.scheduler.workers:
                self._plugin.scheduler.worker_send(
                    address, {"op": REPORT_STARTS, "wanted": self.wants_starts}
                )

    @property
    def wants_starts(self) -> bool:
        """Whether workers are to say when each function starts."""
        return START in self._wanted or CLAIM in self._wanted

    @property
    def _counts(self) -> bool:
        return CLAIM in self._wanted or RELEASE in self._wanted

    def _take_stock(self) -> None:
        """What is held already when somebody begins to listen."""
        self._held.clear()
        for function in self._plugin.registry.functions.values():
            # What has begun in a lane of short ones is told by the workers in a moment.
            holds = function.status == RUNNING and not (function.short or function.behind)
            function.claim = self._book(function) if holds else None
        self._lingering.clear()
        for number, lingering in self._plugin.attempts.lingering.items():
            claim = self._book(lingering.function, lingering.node)
            if claim is not None:
                self._lingering[number] = claim

    # ------------------------------------------------------------------ runs

    def run_started(self, run: Run) -> None:
        """A DAG's functions are on the scheduler."""
        if DAG_START in self._wanted:
            self._note(RunNoted(DAG_START, run.token, run.status, len(run.functions), run.submitted))

    def run_ended(self, run: Run) -> None:
        """A DAG has finished, failed or been cancelled; its client hears of it after this."""
        if run.status != FINISHED and run.watched:
            self._all_cancelled(run)
        event = DAG_STOP if run.status == FINISHED else DAG_EXCEPTION
        if event in self._wanted:
            lasted = (run.ended or time()) - run.submitted
            why = self._failure(run) if run.status == FAILED else None
            count = len(run.functions)
            self._note(RunNoted(event, run.token, run.status, count, run.submitted, lasted, why))
        self.flush()

    def _all_cancelled(self, run: Run) -> None:
        """Nobody waits for what still runs: its attempts end before their DAG, as far as is told."""
        why = "another function has failed" if run.status == FAILED else "the execution was cancelled"
        for function in run.functions.values():
            if function.status == RUNNING:
                self.dropped(function, f"cancelled: {why}")

    def _failure(self, run: Run) -> Failed | Refused | None:
        position = run.failed
        if position is None:
            return None
        if run.refusal is not None:
            return Refused(position, *run.refusal)
        function = run.functions[position]
        return Failed(position, function.node, function.attempts, pack_exception(run.exception))

    # ------------------------------------------------------------------ functions

    def placed(self, function: Function, decision: Place) -> None:
        """A function has been given a node."""
        if not self._wanted:
            return
        if ALLOCATION in self._wanted:
            self._note(
                Allocated(
                    ALLOCATION,
                    function.run.token,
                    function.position,
                    decision.node,
                    decision.waited_s,
                    decision.candidates,
                    decision.cause,
                )
            )
        # Of those that are sent in a lane the node begins as many as there is room for, in an order
        # of its own.
        if decision.prefetch_queue is None:
            self._claimed(function)

    def not_taken(self, function: Function) -> None:
        """Dask would not have a function where it was placed."""
        self.released(function)

    def started(self, function: Function) -> None:
        """A worker says that an attempt has begun (or it is told with its end)."""
        function.behind = False
        if function.told or not self._wanted:
            return
        function.told = "start"
        self._claimed(function)
        if START in self._wanted:
            began, queued_s = _times(function)
            self._note(
                Began(
                    START,
                    function.run.token,
                    function.position,
                    function.node or "",
                    function.attempts,
                    began,
                    queued_s,
                )
            )

    def dropped(self, function: Function, why: str) -> None:
        """An attempt is lost or cancelled."""
        if function.behind and not function.told:
            # Sent ahead, and its turn has not come: no attempt after all.
            function.attempts -= 1
            function.told = "end"
        else:
            self.ended(function, "exception", why)

    def ended(self, function: Function, how: str, exception: Any = None) -> None:
        """An attempt is over: ``"stop"``, ``"exception"`` or ``"retry"``; told once."""
        if function.told == "end" or not self._wanted:
            return
        self.started(function)
        function.told = "end"
        event = ENDS[how]
        if event not in self._wanted:
            return
        began, queued_s = _times(function)
        self._note(
            Ended(
                event,
                function.run.token,
                function.position,
                function.node or "",
                function.attempts,
                began,
                queued_s,
                max(0.0, (function.stop or time()) - began),
                function.nbytes if how == "stop" else None,
                None if exception is None else pack_exception(exception),
            )
        )

    # ------------------------------------------------------------------ claims

    def _claimed(self, function: Function) -> None:
        if self._counts and function.claim is None:
            function.claim = claim = self._book(function)
            if claim is not None:
                self._ledger(CLAIM, claim)

    def released(self, function: Function) -> None:
        """What a function held is free again."""
        claim, function.claim = function.claim, None
        if claim is not None:
            self._return(claim)

    def lingers(self, function: Function, number: int) -> None:
        """A function's thread goes on without it, and holds what it held."""
        claim, function.claim = function.claim, None
        if claim is not None:
            self._lingering[number] = claim

    def lingering_over(self, number: int) -> None:
        """Such a thread is over, or its node is gone."""
        claim = self._lingering.pop(number, None)
        if claim is not None:
            self._return(claim)
            if claim.run.token not in self._plugin.registry.runs:
                self.forget(claim.run.token)

    def _book(self, function: Function, node: str | None = None) -> Claim | None:
        node = node or function.node
        amounts = function.run.demand(function.position).cost.amounts
        if not amounts or node is None:
            return None
        held = self._held.get(node)
        if held is None:
            held = self._held[node] = Counter()
        for name, units in amounts:
            held[name] += units
        return Claim(function.run, function.position, node, held)

    def _return(self, claim: Claim) -> None:
        for name, units in claim.run.demand(claim.position).cost.amounts:
            claim.held[name] -= units
        if self._counts:
            self._ledger(RELEASE, claim)

    def _ledger(self, event: Event, claim: Claim) -> None:
        if event in self._wanted:
            if claim.run.token not in self._plugin.registry.runs:
                self._leaving[claim.run.token] = claim.run
            available = self._available(claim)
            self._note(Booked(event, claim.run.token, claim.position, claim.node, available))

    def _available(self, claim: Claim) -> dict[str, int | float]:
        """What is left of a node at this point of the story."""
        node, held = claim.node, claim.held
        known = self._nodes.get(node)
        if known is None or self._held.get(node) is not held:
            return {}
        elsewhere = self._plugin.driver.engine.claimed_elsewhere(node)
        if elsewhere:
            held = held.copy()
            for claimed, amounts in elsewhere.items():
                # Threads of ours that linger, or have let go of their place, are in the story already.
                if not (isinstance(claimed, tuple) and claimed[0] in ("lingering", "seceded")):
                    held.update(amounts)
        return {name: amount_of(units - held[name]) for name, units in known.capabilities.amounts.items()}

    # ------------------------------------------------------------------ nodes

    def node_event(self, event: NodeJoined | NodeChanged | NodeLeft) -> None:
        """A node is there, is gone, or offers something else."""
        name, before = event.node, self._nodes.get(event.node)
        if isinstance(event, NodeLeft):
            # Of a node that does not come back we are told twice.
            if before is not None:
                self._node(NODE_DOWN, name)
                del self._nodes[name]
                self._held.pop(name, None)
            return
        if isinstance(event, NodeJoined):
            now = Known(event.address, event.capabilities)
        else:
            now = Known(None if before is None else before.address, event.capabilities)
        self._nodes[name] = now
        if isinstance(event, NodeJoined):
            self._node(NODE_UP, name)
        elif now != before:
            self._node(NODE_UPDATE, name)

    def _node(self, event: Event, name: str) -> None:
        if event in self._wanted:
            self._note(self._node_note(event, name))

    def _node_note(self, event: Event, name: str) -> NodeNoted:
        known = self._nodes[name]
        return NodeNoted(event, None, name, known.address, known.capabilities.to_dict())

    # ------------------------------------------------------------------ sending

    def _note(self, note: Note) -> None:
        self._pending.append(note)
        if self._timer is None:
            self._timer = self._plugin.scheduler.loop.call_later(BATCH_S, self.flush)

    def flush(self) -> None:
        """Send what has been gathered."""
        if self._timer is not None:
            self._plugin.scheduler.loop.remove_timeout(self._timer)
            self._timer = None
        if self._pending:
            pending, self._pending = self._pending, []
            for listener, events in self._listeners.items():
                # Most listen to all that anybody listens to.
                mine = pending if events == self._wanted else [n for n in pending if n.event in events]
                self._send(listener, mine)
            self._leaving.clear()

    def _send(self, listener: str, notes: list[Note]) -> None:
        if notes:
            new, old = self._introductions(listener, notes), self._forgotten.pop(listener, [])
            self._plugin.requests.tell_events(listener, pack(new, notes, old))

    def _introductions(self, listener: str, notes: Iterable[Note]) -> list[Introduction]:
        known = self._introduced.setdefault(listener, set())
        runs = {**self._leaving, **self._plugin.registry.runs}
        new = {n.run for n in notes if n.run is not None} - known
        known |= new
        return [runs[token].introduction() for token in sorted(new) if token in runs]

    def forget(self, token: str) -> None:
        """A run is gone: no more will be said of it, unless a thread of its own lingers."""
        self.flush()
        if any(claim.run.token == token for claim in self._lingering.values()):
            return
        for listener, known in self._introduced.items():
            if token in known:
                known.discard(token)
                self._forgotten.setdefault(listener, []).append(token)


def _times(function: Function) -> tuple[float, float]:
    """When an attempt began, and how long it had been ready by then."""
    began = function.start or function.placed or time()
    return began, max(0.0, began - (function.ready or began))
