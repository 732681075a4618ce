"""The scheduler's side of telemetry: tells clients that listen, and only them, what happens.

Ids of DAGs and functions go as the run's token and the function's position.  A client that hears
of a run for the first time gets the pickled ids along with it, and puts them in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from distributed.metrics import time

from handoff_dask.live.protocol import REPORT_STARTS
from handoff_dask.placement.decisions import Place
from handoff_dask.placement.events import NodeChanged, NodeJoined, NodeLeft
from handoff_dask.resources import amount_of
from handoff_dask.telemetry.events import Event

if TYPE_CHECKING:
    from handoff_dask.live.runs import Function, Run
    from handoff_dask.live.scheduler_plugin import HandoffSchedulerPlugin

DAG = ("handoff", "execution", "dag")
FUNCTION = ("handoff", "execution", "function")
ALLOCATION = ("handoff", "allocation", "function")
CLAIM = ("handoff", "resources", "claim")
RELEASE = ("handoff", "resources", "release")
NODE = ("handoff", "node")
#: Seconds that an event may wait for others to travel with.
BATCH_S = 0.05


class Announcer:
    """Gathers events for the clients that have handlers for them."""

    def __init__(self, plugin: HandoffSchedulerPlugin) -> None:
        self._plugin = plugin
        self._listeners: dict[str, frozenset[Event]] = {}
        self._wanted: frozenset[Event] = frozenset()
        self._introduced: dict[str, set[str]] = {}
        self._pending: list[tuple[Event, dict[str, Any], dict[str, Any], Run | None]] = []
        self._timer: Any = None
        #: ``{node: {resource: what our functions hold, by what has been announced}}``.
        self._held: dict[str, Counter[str]] = {}

    # ------------------------------------------------------------------ who listens

    def listen(self, listener: str, events: frozenset[Event]) -> None:
        """A session has handlers for these events from now on."""
        self.flush()
        if events:
            self._listeners[listener] = events
        else:
            self._listeners.pop(listener, None)
            self._introduced.pop(listener, None)
        before, counted = self.wants_starts, self._wants_ledger
        self._wanted = frozenset().union(*self._listeners.values())
        if self._wants_ledger and not counted:
            self._take_stock()
        if self.wants_starts != before:
            for address in self._plugin.scheduler.workers:
                self._plugin.scheduler.worker_send(
                    address, {"op": REPORT_STARTS, "wanted": self.wants_starts}
                )

    @property
    def wants_starts(self) -> bool:
        """Whether workers are to say when each function starts."""
        return (*FUNCTION, "start") in self._wanted or CLAIM in self._wanted

    @property
    def _wants_ledger(self) -> bool:
        return CLAIM in self._wanted or RELEASE in self._wanted

    def _take_stock(self) -> None:
        """What is held already when somebody begins to listen."""
        self._held.clear()
        for function in self._plugin.registry.functions.values():
            function.claimed = function.status == "running"
            if function.claimed and function.node is not None:
                self._hold(function.node, function.run.demand(function.position).cost.amounts, 1)

    def _hold(self, node: str, amounts: Iterable[tuple[str, int]], sign: int) -> None:
        held = self._held.setdefault(node, Counter())
        for name, units in amounts:
            held[name] += sign * units

    # ------------------------------------------------------------------ what happens

    def run_started(self, run: Run) -> None:
        """A DAG's functions are on the scheduler."""
        self._emit((*DAG, "start"), {"system_time": run.submitted}, self._about_run(run), run)

    def run_ended(self, run: Run) -> None:
        """A DAG has finished, failed or been cancelled; its client hears of it after this."""
        what = "stop" if run.status == "finished" else "exception"
        ended = run.ended or time()
        metadata = self._about_run(run)
        if run.exception is not None:
            metadata["exception"] = run.exception
        elif run.refusal is not None:
            metadata["exception"] = "AllocationError"
        elif what == "exception":
            metadata["exception"] = run.status
        self._emit(
            (*DAG, what), {"system_time": run.submitted, "duration": ended - run.submitted}, metadata, run
        )
        self.flush()

    def placed(self, function: Function, decision: Place) -> None:
        """A function has been given a node."""
        if not self._wanted:
            return
        run = function.run
        self._emit(
            ALLOCATION,
            {"wait_time": decision.waited_s, "candidates": decision.candidates},
            {
                "dag_id": run.token,
                "function_id": function.position,
                "node": function.node,
                "strategy": run.strategy_name,
                "reason": decision.cause,
            },
            run,
        )
        if decision.lane is None:
            self._claimed(function)

    def started(self, function: Function) -> None:
        """A worker says that an attempt has begun (or it is told with its end)."""
        if function.started:
            return
        function.started = True
        if not self._wanted:
            return
        began = function.start or function.placed or time()
        queue_time = max(0.0, began - (function.ready or began))
        self._claimed(function)
        self._emit(
            (*FUNCTION, "start"),
            {"system_time": began, "queue_time": queue_time},
            self._about(function),
            function.run,
        )

    def ended(self, function: Function, what: str, exception: Any = None) -> None:
        """An attempt is over: ``"stop"``, ``"exception"`` or ``"retry"``."""
        if not self._wanted:
            return
        self.started(function)
        began = function.start or function.placed or time()
        stopped = function.stop or time()
        measurements = {
            "system_time": began,
            "queue_time": max(0.0, began - (function.ready or began)),
            "duration": max(0.0, stopped - began),
        }
        if what == "stop" and function.nbytes is not None:
            measurements["nbytes"] = function.nbytes
        metadata = self._about(function)
        if exception is not None:
            metadata["exception"] = exception
        self._emit((*FUNCTION, what), measurements, metadata, function.run)

    def _claimed(self, function: Function) -> None:
        if not function.claimed:
            function.claimed = True
            self._ledger(CLAIM, function)

    def released(self, function: Function) -> None:
        """What a function held is free again."""
        if function.claimed:
            function.claimed = False
            self._ledger(RELEASE, function)

    def _ledger(self, event: Event, function: Function) -> None:
        run, node = function.run, function.node
        amounts = run.demand(function.position).cost.amounts
        if not amounts or node is None or not self._wants_ledger:
            return
        self._hold(node, amounts, 1 if event is CLAIM else -1)
        self._emit(
            event,
            {"amounts": run.amounts(function.position), "available": self._available(node)},
            {"node": node, "dag_id": run.token, "function_id": function.position},
            run,
        )

    def _available(self, node: str) -> dict[str, int | float]:
        """What is left of a node at this point of the story."""
        known = self._plugin.nodes.by_name.get(node)
        if known is None:
            return {}
        held = self._held.get(node, Counter())
        offered = self._plugin.nodes.capabilities(known).amounts
        return {name: amount_of(units - held[name]) for name, units in offered.items()}

    def node_event(self, event: NodeJoined | NodeChanged | NodeLeft) -> None:
        """A node is there, is gone, or offers something else."""
        if isinstance(event, NodeLeft):
            self._held.pop(event.node, None)
            what, capabilities = "down", {}
        else:
            what = "up" if isinstance(event, NodeJoined) else "update"
            capabilities = event.capabilities.to_dict()
        known = self._plugin.nodes.by_name.get(event.node)
        address = None if known is None else known.address
        measurements = {"capabilities": capabilities}
        self._emit((*NODE, what), measurements, {"node": event.node, "address": address}, None)

    # ------------------------------------------------------------------ sending

    def _about_run(self, run: Run) -> dict[str, Any]:
        return {
            "dag_id": run.token,
            "function_count": len(run.functions),
            "allocation_strategy": run.strategy_name,
            "status": run.status,
        }

    def _about(self, function: Function) -> dict[str, Any]:
        run = function.run
        return {
            "dag_id": run.token,
            "function_id": function.position,
            "node": function.node,
            "attempt": function.attempts,
            "cost": run.cost(function.position),
        }

    def _emit(
        self, event: Event, measurements: dict[str, Any], metadata: dict[str, Any], run: Run | None
    ) -> None:
        if event not in self._wanted:
            return
        self._pending.append((event, measurements, metadata, run))
        if self._timer is None:
            self._timer = self._plugin.scheduler.loop.call_later(BATCH_S, self.flush)

    def flush(self) -> None:
        """Send what has been gathered."""
        if self._timer is not None:
            self._plugin.scheduler.loop.remove_timeout(self._timer)
            self._timer = None
        pending, self._pending = self._pending, []
        if not pending:
            return
        for listener, events in self._listeners.items():
            mine = [[e, m, d] for e, m, d, _ in pending if e in events]
            known = self._introduced.setdefault(listener, set())
            introductions = {}
            for event, _, _, run in pending:
                if run is not None and event in events and run.token not in known:
                    known.add(run.token)
                    introductions[run.token] = (run.manifest.dag_id, run.manifest.ids)
            if mine:
                self._plugin.requests.tell_events(listener, [introductions, mine])

    def forget(self, token: str) -> None:
        """A run is gone: nothing more will be said of it."""
        for known in self._introduced.values():
            known.discard(token)
