"""Hands events to the engine, and makes its decisions Dask's.

Hooks only gather events; one callback of the event loop hands them over, and carries out what
is decided: the restriction that holds a task is exchanged for the address of one worker, and the
task is moved to ``processing``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Iterable
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

from distributed.metrics import monotonic, time
from distributed.protocol import pickle

from handoff_dask.errors import AllocationError
from handoff_dask.placement.decisions import Decision, Place, Reject
from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import Event, FunctionFinished, FunctionReady, RunKey, TimePassed
from handoff_dask.placement.settings import EngineSettings
from handoff_dask.protocol.calls import TRANSFER
from handoff_dask.protocol.names import RELAYS, SHORT_LANES
from handoff_dask.record.status import FAILED, FINISHED, PENDING, RUNNING, WAITING
from handoff_dask.scheduler.refusals import Refusal, refusal_of
from handoff_dask.scheduler.registry import HELD
from handoff_dask.scheduler.runs import Function

if TYPE_CHECKING:
    from distributed.scheduler import TaskState

    from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin

logger = logging.getLogger(__name__)


class Driver:
    """The engine's hands."""

    def __init__(self, plugin: HandoffSchedulerPlugin) -> None:
        self._plugin = plugin
        self._scheduler = plugin.scheduler
        self.engine = PlacementEngine(EngineSettings(prefetch_queues=SHORT_LANES, timed_prefetches=RELAYS))
        self._events: list[Event] = []
        self._flushing = False
        self._timer: Any = None
        #: ``{address: the restriction to it}``, shared by all tasks that are sent there.
        self._only: dict[str, set[str]] = {}
        #: ``{collocation group: its node}``.
        self._bound: dict[Hashable, str] = {}
        #: Changed arguments that were made for a node that is gone.
        self._outdated: list[str] = []
        #: Functions behind a thread that goes on although nobody wants it.
        self._misplaced: list[str] = []

    def gather(self, events: Iterable[Event]) -> None:
        """Keep events for the next turn of the event loop."""
        self._events.extend(events)
        if self._events and not self._flushing:
            self._flushing = True
            # IOLoop.add_callback wakes the loop through a pipe, which is for other threads.
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Hand over what has happened; carry out what is decided."""
        self._flushing = False
        self._take_back()
        self._tell_again()
        self._plugin.foresight.review()
        events, self._events = self._events, []
        self._plugin.attempts.ask_for_ends()
        try:
            now = monotonic()
            decisions = self.engine.handle_all(self._as_submitted(events), now=now)
            self._plugin.numbers.decided(decisions, monotonic() - now)
            self.carry_out(decisions)
        except Exception as error:
            logger.exception("handoff could not place functions; this is a defect in handoff_dask")
            self._give_up(f"handoff itself failed ({error!r}), which is a defect in it; please report it")
            raise
        self._set_timer()

    def _give_up(self, problem: str) -> None:
        """What was to be placed is not; nobody must wait for it."""
        waiting = [f for f in self._plugin.registry.functions.values() if f.status == WAITING]
        for function in waiting:
            if not function.run.over and self._scheduler.tasks[function.key].state == "no-worker":
                self._fail(function, ({}, problem))

    def _as_submitted(self, events: list[Event]) -> list[Event]:
        """Put functions that became ready together into the order of their DAG: Dask's is the reverse."""
        if len(events) < 2:
            return events
        functions = cast("dict[Hashable, Function]", self._plugin.registry.functions)
        ordered: list[Event] = []
        for run, together in groupby(events, key=_run_of_ready):
            if run is None:
                ordered.extend(together)
            else:
                ready = [e for e in together if isinstance(e, FunctionReady) and e.function in functions]
                ready.sort(key=lambda e: functions[e.function].position)
                ordered.extend(ready)
        return ordered

    def carry_out(self, decisions: list[Decision]) -> None:
        """Make the engine's decisions Dask's."""
        moves: dict[Any, Any] = {}
        for decision in decisions:
            if isinstance(decision, Place):
                if self._place(decision):
                    moves[cast("str", decision.function)] = "processing"
            elif isinstance(decision, Reject):
                self._reject(decision)
        if not moves:
            return
        stimulus_id = f"handoff-place-{time()}"
        # Dask takes recommendations from the end.
        self._scheduler.transitions(dict(reversed(list(moves.items()))), stimulus_id)
        for key in moves:
            function = self._plugin.registry.functions.get(key)
            if function is not None and function.status == RUNNING:
                task = self._scheduler.tasks[key]
                if task.state == "no-worker":
                    self._not_taken(function, task)

    def _place(self, decision: Place) -> bool:
        key = cast("str", decision.function)
        function = self._plugin.registry.functions.get(key)
        task = self._scheduler.tasks.get(key)
        node = self._plugin.nodes.by_name.get(decision.node)
        if function is None or task is None or task.state != "no-worker" or node is None:
            self.gather([FunctionFinished(function=key)])
            self._plugin.tracking.placement_over(key)
            return False
        restriction = self._only.get(node.address)
        if restriction is None:
            restriction = self._only[node.address] = {node.address}
        task.worker_restrictions = restriction
        if decision.prefetch_queue is not None and decision.prefetch_queue[1] < node.threads:
            lane, slots = decision.prefetch_queue
            task.resource_restrictions = self._plugin.admission.restriction((node.address, lane), slots)
        function.node, function.address = node.name, node.address
        if decision.bound is not None:
            self._bound[decision.bound[0]] = decision.bound[1]
        group = function.run.demand(function.position).group
        if group is not None:
            self._bound[group] = node.name
        if function.run.manifest.transfers:
            self._tell_transfer(function, task)
        function.placed = time()
        function.start = function.stop = None
        function.told, function.claim = "", None
        function.ahead, function.behind = decision.prefetched, False
        function.short = decision.prefetch_queue is not None and decision.prefetch_queue[0] < SHORT_LANES
        if decision.prefetch_queue is not None:
            self._plugin.blame.placed(function, task, decision.prefetch_queue)
            if function.behind:
                self._plugin.overdue.watch()
        function.candidates = decision.candidates
        function.transfer_s = None
        function.seceded = False
        function.raised = None
        function.cause = decision.cause
        function.attempts += 1
        function.status = RUNNING
        if function.run.status == PENDING:
            function.run.status = RUNNING
            self._plugin.requests.status_changed(function.run)
        self._plugin.announcer.placed(function, decision)
        return True

    def _tell_transfer(self, function: Function, task: TaskState) -> None:
        """Tell a function that changes an argument from where to where the argument goes."""
        run = function.run
        transfer = run.manifest.transfers.get(function.position)
        if transfer is None:
            return
        role, producer, consumer = transfer
        source = target = function.node
        if producer is not None:
            if role == "serialize":
                target = self._bound.get(run.demand(consumer).group, target)
            else:
                source = run.functions[producer].node
        task.annotations = {**(task.annotations or {}), TRANSFER: [source, target]}

    def _not_taken(self, function: Function, task: TaskState) -> None:
        """Dask would not have it: the worker has just paused.  Ask again."""
        task.worker_restrictions = HELD
        task.resource_restrictions = {}
        function.attempts -= 1
        if function.lane is not None:
            self._plugin.blame.left(function, task, alive=True)
        self._plugin.announcer.not_taken(function)
        self.gather([FunctionFinished(function=function.key)])
        self._plugin.tracking.placement_over(function.key)
        self._plugin.attempts.became_ready(function)

    def _reject(self, decision: Reject) -> None:
        """Nothing can hold this function: it fails, with the reasons."""
        key = cast("str", decision.function)
        function = self._plugin.registry.functions.get(key)
        task = self._scheduler.tasks.get(key)
        if function is None or task is None or task.state != "no-worker":
            return
        manifest, demand = function.run.manifest, function.run.demand(function.position)
        group = manifest.groups.get(demand.group) if demand.group is not None else None
        offers = self._plugin.nodes.offers()
        self._fail(function, refusal_of(demand, group, decision.obstacles, offers, decision.problem))

    def _fail(self, function: Function, refusal: Refusal) -> None:
        """End a function that cannot be placed, and with it its run."""
        run, key, demand = function.run, function.key, function.run.demand(function.position)
        error = AllocationError(run.id_of(function.position), demand.cost.to_dict(), *refusal)
        function.status = FAILED
        if not run.over and run.failed is None:
            run.failed = function.position
            run.refusal = refusal
            if run.watched:
                self._plugin.registry.end(run, FAILED)
        stimulus_id = f"handoff-reject-{time()}"
        more = self._scheduler.transition(
            key, "erred", exception=pickle.dumps(error), cause=key, stimulus_id=stimulus_id
        )
        self._scheduler.transitions(more, stimulus_id)

    def _set_timer(self) -> None:
        """Wake up when something that waits for a moment is due."""
        deadlines = [*self._plugin.nodes.returning.values()]
        due = self.engine.next_deadline()
        if due is not None:
            deadlines.append(due)
        if self._timer is not None:
            self._scheduler.loop.remove_timeout(self._timer)
            self._timer = None
        if deadlines:
            delay = max(0.0, min(deadlines) - monotonic())
            self._timer = self._scheduler.loop.call_later(delay, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._plugin.node_events(self._plugin.nodes.not_back(monotonic()))
        self.gather([TimePassed()])

    # ------------------------------------------------------------------ groups and their nodes

    def node_left(self, node: str, address: str) -> None:
        """What was serialised for a node that is gone must be serialised again for the next."""
        self._only.pop(address, None)
        groups = {group for group, where in self._bound.items() if where == node}
        self.forget_groups(groups)
        for run in self._plugin.registry.runs.values() if groups else ():
            for position, (role, _, consumer) in run.manifest.transfers.items():
                function, user = run.functions.get(position), run.functions.get(consumer)
                if function is None or user is None or role != "serialize":
                    continue
                outdated = function.status == FINISHED and user.status != FINISHED
                if outdated and run.demand(consumer).group in groups:
                    self._outdated.append(function.key)

    def forget_groups(self, groups: Iterable[Hashable]) -> None:
        """These groups have no node any more."""
        for group in groups:
            self._bound.pop(group, None)

    def take_back(self, keys: Iterable[str]) -> None:
        """These were sent to a node and cannot begin there: have them placed again."""
        self._misplaced.extend(keys)
        self.gather([TimePassed()])

    def _take_back(self) -> None:
        tasks = self._scheduler.tasks
        keys = [k for k in self._misplaced if k in tasks and tasks[k].state == "processing"]
        self._misplaced.clear()
        if keys:
            self._scheduler.transitions(dict.fromkeys(keys, "released"), f"handoff-back-{time()}")

    def _tell_again(self) -> None:
        """Make Dask compute changed arguments anew."""
        if self._outdated:
            tasks = self._scheduler.tasks
            keys = [k for k in self._outdated if k in tasks and tasks[k].state == "memory"]
            self._outdated.clear()
            self._scheduler.transitions(dict.fromkeys(keys, "released"), f"handoff-again-{time()}")


def _run_of_ready(event: Event) -> RunKey | None:
    return event.run if isinstance(event, FunctionReady) else None
