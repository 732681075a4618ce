"""The source of telemetry: notes what happens for the sessions that listen, and only for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

from distributed.metrics import time
from tornado.ioloop import IOLoop

from handoff_dask.placement.events import NodeJoined, NodeLeft
from handoff_dask.protocol.telemetry import (
    ALLOCATION,
    CLAIM,
    DAG_EXCEPTION,
    DAG_START,
    DAG_STOP,
    ENDS,
    NODE_DOWN,
    NODE_SICK,
    NODE_UP,
    NODE_UPDATE,
    NODE_WELL,
    RELEASE,
    REUSED,
    START,
    Allocated,
    Began,
    Booked,
    Ended,
    Introduction,
    NodeJudged,
    NodeNoted,
    Note,
    ReusedNoted,
    RunNoted,
    pack,
    pack_exception,
)
from handoff_dask.protocol.telemetry import Failed as FailedNote
from handoff_dask.protocol.telemetry import Refused as RefusedNote
from handoff_dask.record.status import FAILED, FINISHED
from handoff_dask.resources import Capabilities, Cost, amount_of
from handoff_dask.scheduler.lifecycle import Dropped, FailedForGood, LifeEvent, Placed
from handoff_dask.scheduler.lifecycle import Ended as EndedWell
from handoff_dask.scheduler.lingering import LingeringThreads
from handoff_dask.scheduler.mailboxes import Mailboxes
from handoff_dask.scheduler.observer import NodeEvent, Observer
from handoff_dask.scheduler.runs import FunctionState, Runs, RunState
from handoff_dask.scheduler.states import Attempt, Failed, Finished, Prefetched, Running, State
from handoff_dask.telemetry.events import Event

#: Seconds that an event may wait for others to travel with.
BATCH_S = 0.05


class Known(NamedTuple):
    """A node as listeners were told last."""

    address: str | None
    capabilities: Capabilities


class Claim(NamedTuple):
    """What a function holds of a node, as listeners have been told."""

    run: RunState
    position: int
    node: str
    #: The node's account; the name may be borne by another worker when the claim ends.
    held: Counter[str]
    cost: Cost


class ToldStart(NamedTuple):
    """The start of an attempt, as listeners have been told."""

    number: int
    began: float
    queued_s: float


class Telemetry(Observer):
    """Tells the sessions that listen, and only them, what happens.

    What it is told changes nothing that is decided or recorded.

    Parameters
    ----------
    runs
        What is known of runs.
    mailboxes
        What is kept for each session until it asks.
    claimed_elsewhere
        What is held of a node by what is no function.
    threads
        Threads that go on without their function.
    report_starts
        Has the workers report each start, or stop to do so.
    call_later, remove_timeout
        Of the scheduler's event loop.
    """

    watches = (Placed, EndedWell, FailedForGood, Dropped)

    def __init__(
        self,
        runs: Runs,
        mailboxes: Mailboxes,
        claimed_elsewhere: Callable[[str], Mapping[Hashable, Mapping[str, int]]],
        threads: LingeringThreads,
        report_starts: Callable[[bool], None],
        loop: IOLoop,
    ) -> None:
        self._runs = runs
        self._mailboxes = mailboxes
        self._claimed_elsewhere = claimed_elsewhere
        self._threads = threads
        self._report_starts = report_starts
        self._loop = loop
        self._listeners: dict[str, frozenset[Event]] = {}
        self._wanted: frozenset[Event] = frozenset()
        self._introduced: dict[str, set[str]] = {}
        self._pending: list[Note] = []
        self._timer: Any = None
        self._nodes: dict[str, Known] = {}
        #: What was told of the start of attempts that go on.
        self._starts: dict[Attempt, ToldStart] = {}
        #: Attempts that go on although their end was told, with that of their run.
        self._over: set[Attempt] = set()
        #: What attempts hold, threads that go on without their function among them.
        self._claims: dict[Attempt, Claim] = {}
        #: ``{node: {resource: units that functions hold, by what has been told}}``.
        self._held: dict[str, Counter[str]] = {}
        #: Runs that are gone, of which something is still to be told.
        self._leaving: dict[str, RunState] = {}
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
        if not self._wanted:
            self._starts.clear()
            self._over.clear()
        if greet and NODE_UP in events:
            self._send(listener, [self._node_note(NODE_UP, name) for name in sorted(self._nodes)])
        if self._counts and not counted:
            self._take_stock()
        elif counted and not self._counts:
            self._claims.clear()
            self._held.clear()
        if self.wants_starts != before:
            self._report_starts(self.wants_starts)

    @property
    def wants_starts(self) -> bool:
        """Whether workers are to say when each function starts."""
        return START in self._wanted or CLAIM in self._wanted

    @property
    def _counts(self) -> bool:
        return CLAIM in self._wanted or RELEASE in self._wanted

    def _take_stock(self) -> None:
        """What is held already when somebody begins to listen."""
        for function in self._runs.functions.values():
            # What has begun in a prefetch queue is reported by the workers in a moment.
            state = function.state
            if isinstance(state, Running) and not state.attempt.is_short:
                self._book(function, state.attempt)
        for function, attempt in self._threads.threads.values():
            self._book(function, attempt)

    # ------------------------------------------------------------------ runs

    def run_opened(self, run: RunState) -> None:
        """A DAG's functions are on the scheduler."""
        if DAG_START in self._wanted and not run.is_of_tasks:
            self._note(RunNoted(DAG_START, run.token, run.status, len(run.functions), run.submitted))
        if REUSED in self._wanted and run.manifest.reused is not None:
            self._note(ReusedNoted(REUSED, run.token, run.manifest.reused, run.submitted))

    def run_ended(self, run: RunState) -> None:
        """A DAG has finished, failed or been cancelled; its client hears of it after this."""
        if run.status != FINISHED and run.watched:
            self._all_cancelled(run)
        event = DAG_STOP if run.status == FINISHED else DAG_EXCEPTION
        if event in self._wanted and not run.is_of_tasks:
            lasted = (run.ended or time()) - run.submitted
            why = self._failure(run) if run.status == FAILED else None
            count = len(run.functions)
            self._note(RunNoted(event, run.token, run.status, count, run.submitted, lasted, why))
        self.flush()

    def _all_cancelled(self, run: RunState) -> None:
        """Nobody waits for what still runs: its attempts end before their DAG, as far as is told."""
        if not self._wanted:
            return
        why = "another function has failed" if run.status == FAILED else "the execution was cancelled"
        for function in run.functions.values():
            if function.position in run.manifest.reading:
                continue
            if isinstance(function.state, (Running, Prefetched)):
                self._lost(function, function.state, f"cancelled: {why}")
                self._over.add(function.state.attempt)

    def _failure(self, run: RunState) -> FailedNote | RefusedNote | None:
        position = run.failed
        if position is None:
            return None
        failure, function = run.problem, run.functions[position]
        if failure.refusal is not None:
            cost = run.cost(position) if run.has_changed(position) else None
            return RefusedNote(position, *failure.refusal, cost)
        exception = pack_exception(failure.exception)
        return FailedNote(position, function.fact("node"), function.attempts, exception)

    def run_forgotten(self, run: RunState) -> None:
        """A run is gone: no more will be said of it, unless a thread of its own goes on."""
        self.flush()
        self._forget(run.token)

    def _forget(self, token: str) -> None:
        if any(claim.run.token == token for claim in self._claims.values()):
            return
        for listener, known in self._introduced.items():
            if token in known:
                known.discard(token)
                self._forgotten.setdefault(listener, []).append(token)

    # ------------------------------------------------------------------ functions

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """Tell what has become of a function."""
        if not self._wanted or function.position in function.run.manifest.reading:
            return
        if isinstance(event, Placed):
            self._placed(function, event)
        elif isinstance(new, Finished):
            self._attempt_ended(function, new.attempt, "stop")
        elif isinstance(event, FailedForGood) and isinstance(new, Failed) and new.attempt is not None:
            exception = event.failure.exception if event.failure is not None else None
            self._attempt_ended(function, new.attempt, "exception", exception)
        elif isinstance(event, Dropped) and isinstance(old, (Running, Prefetched)):
            self._dropped(function, old, event)

    def _placed(self, function: FunctionState, event: Placed) -> None:
        attempt = event.attempt
        if ALLOCATION in self._wanted:
            self._note(
                Allocated(
                    ALLOCATION,
                    function.run.token,
                    function.position,
                    attempt.node,
                    event.waited_s,
                    attempt.candidates,
                    attempt.cause,
                    attempt.transfer_bytes,
                )
            )
        # Of those in a prefetch queue the node begins as many as there is room for, in an order of
        # its own.
        if attempt.queue is None:
            self._claimed(function, attempt)

    def attempt_began(self, function: FunctionState, began: float) -> None:
        """A worker reports that the present attempt has begun."""
        attempt = function.attempt
        if function.position in function.run.manifest.reading:
            return
        if self._wanted and attempt is not None and attempt not in self._over:
            self._start(function, attempt, began)

    def _start(self, function: FunctionState, attempt: Attempt, began: float) -> ToldStart:
        """Tell of the start of an attempt, once; what was told."""
        told = self._starts.get(attempt)
        if told is not None:
            return told
        behind = isinstance(function.state, Prefetched) and function.state.attempt is attempt
        number = max(1, function.attempts + behind)
        told = self._starts[attempt] = ToldStart(number, began, max(0.0, began - attempt.ready))
        self._claimed(function, attempt)
        if START in self._wanted:
            self._note(
                Began(
                    START,
                    function.run.token,
                    function.position,
                    attempt.node,
                    number,
                    began,
                    told.queued_s,
                    _new_cost(function, attempt),
                )
            )
        return told

    def _dropped(self, function: FunctionState, old: Running | Prefetched, event: Dropped) -> None:
        attempt = old.attempt
        if attempt.raised is not None:
            self._attempt_ended(function, attempt, "retry", attempt.raised)
        elif function.run.over:
            self._lost(function, old, "cancelled: nobody wants it any more")
        elif not event.node_is_there:
            self._lost(function, old, f"lost: node {attempt.node!r} has died")
        else:
            self._lost(function, old, "lost: Dask has taken it back")

    def _lost(self, function: FunctionState, state: Running | Prefetched, why: str) -> None:
        """Tell that an attempt is lost or cancelled; one that has not begun is none."""
        attempt = state.attempt
        begun = isinstance(state, Running) and not attempt.recalled
        if begun or attempt in self._starts:
            self._attempt_ended(function, attempt, "exception", why)
        else:
            self._over.discard(attempt)

    def _attempt_ended(
        self, function: FunctionState, attempt: Attempt, how: str, exception: Any = None
    ) -> None:
        """Tell that an attempt is over: ``"stop"``, ``"exception"`` or ``"retry"``; once."""
        if attempt in self._over:
            self._over.discard(attempt)
            return
        told = self._start(function, attempt, attempt.start or attempt.placed)
        self._starts.pop(attempt, None)
        event = ENDS[how]
        if event not in self._wanted:
            return
        self._note(
            Ended(
                event,
                function.run.token,
                function.position,
                attempt.node,
                told.number,
                told.began,
                told.queued_s,
                max(0.0, (attempt.stop or time()) - told.began),
                attempt.nbytes if how == "stop" else None,
                None if exception is None else pack_exception(exception),
                attempt.used,
                _new_cost(function, attempt),
            )
        )

    # ------------------------------------------------------------------ claims

    def _claimed(self, function: FunctionState, attempt: Attempt) -> None:
        if self._counts and attempt not in self._claims:
            claim = self._book(function, attempt)
            if claim is not None:
                self._ledger(CLAIM, claim)

    def claim_returned(self, function: FunctionState, attempt: Attempt) -> None:
        """What an attempt held is free again."""
        claim = self._claims.pop(attempt, None)
        if claim is None:
            return
        for name, units in claim.cost.amounts:
            claim.held[name] -= units
        self._ledger(RELEASE, claim)
        if claim.run.token not in self._runs.by_token:
            self.flush()
            self._forget(claim.run.token)

    def _book(self, function: FunctionState, attempt: Attempt) -> Claim | None:
        amounts = attempt.cost.amounts
        if not amounts:
            return None
        held = self._held.get(attempt.node)
        if held is None:
            held = self._held[attempt.node] = Counter()
        for name, units in amounts:
            held[name] += units
        claim = Claim(function.run, function.position, attempt.node, held, attempt.cost)
        self._claims[attempt] = claim
        return claim

    def _ledger(self, event: Event, claim: Claim) -> None:
        if event in self._wanted:
            if claim.run.token not in self._runs.by_token:
                self._leaving[claim.run.token] = claim.run
            available = self._available(claim)
            amounts = claim.cost.to_amounts() if claim.run.has_changed(claim.position) else None
            self._note(Booked(event, claim.run.token, claim.position, claim.node, available, amounts))

    def _available(self, claim: Claim) -> dict[str, int | float]:
        """What is left of a node at this point of the story."""
        node, held = claim.node, claim.held
        known = self._nodes.get(node)
        if known is None or self._held.get(node) is not held:
            return {}
        elsewhere = self._claimed_elsewhere(node)
        if elsewhere:
            held = held.copy()
            for claimed, amounts in elsewhere.items():
                # Functions' threads that go on, or have seceded, are in the story already.
                if not (isinstance(claimed, tuple) and claimed[0] in ("lingering", "seceded")):
                    held.update(amounts)
        return {name: amount_of(units - held[name]) for name, units in known.capabilities.amounts.items()}

    # ------------------------------------------------------------------ nodes

    def node_changed(self, event: NodeEvent) -> None:
        """A node has joined, offers something else, or has left."""
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

    def node_judged(self, node: str, is_sick: bool, failures: int, reason: str) -> None:
        """A node is set aside since it only fails, or is used again."""
        event = NODE_SICK if is_sick else NODE_WELL
        if event in self._wanted:
            self._note(NodeJudged(event, None, node, failures, reason))

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
            self._timer = self._loop.call_later(BATCH_S, self.flush)

    def flush(self) -> None:
        """Send what has been gathered."""
        if self._timer is not None:
            self._loop.remove_timeout(self._timer)
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
            self._mailboxes.tell_events(listener, pack(new, notes, old))

    def run_grew(self, run: RunState) -> None:
        """Whoever has been introduced to a run does not know its items."""
        for known in self._introduced.values():
            known.discard(run.token)

    def _introductions(self, listener: str, notes: Iterable[Note]) -> list[Introduction]:
        known = self._introduced.setdefault(listener, set())
        runs = {**self._leaving, **self._runs.by_token}
        new = {n.run for n in notes if n.run is not None} - known
        known |= new
        return [runs[token].introduction() for token in sorted(new) if token in runs]


def _new_cost(function: FunctionState, attempt: Attempt) -> dict[str, Any] | None:
    """What an attempt costs, if that is not what the listener knows of its function."""
    return attempt.cost.to_dict() if function.run.has_changed(function.position) else None
