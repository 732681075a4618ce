"""The scheduler plugin: Dask's hooks, each translated and nothing more.

A function is *held* from the moment Dask knows it: it carries a worker restriction that no worker
matches, so that Dask parks its task in ``no-worker`` when its arguments are there.  That is the
event :class:`~handoff_dask.scheduler.lifecycle.ArgumentsReady`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.metrics import monotonic

from handoff_dask import config
from handoff_dask.protocol.names import ANNOTATION, NAME
from handoff_dask.scheduler import lifecycle as life
from handoff_dask.scheduler.dask_tasks import DaskTasks
from handoff_dask.scheduler.data import Data
from handoff_dask.scheduler.detached import DetachedRuns
from handoff_dask.scheduler.dispatcher import Dispatcher
from handoff_dask.scheduler.engine_driver import EngineDriver
from handoff_dask.scheduler.event_log import open_log
from handoff_dask.scheduler.explain import ExplainSource
from handoff_dask.scheduler.installation import Installation
from handoff_dask.scheduler.lingering import LingeringThreads
from handoff_dask.scheduler.lost_results import LostResults
from handoff_dask.scheduler.mailboxes import Mailboxes, RunMessages
from handoff_dask.scheduler.measured_costs import MeasuredCosts
from handoff_dask.scheduler.memory_deaths import TOPIC, MemoryDeaths
from handoff_dask.scheduler.metrics import publish
from handoff_dask.scheduler.metrics_source import SchedulerMetrics
from handoff_dask.scheduler.moves_ahead import MovesAhead
from handoff_dask.scheduler.nested import NestedExecutions
from handoff_dask.scheduler.no_workers_timeout import NoWorkersTimeout
from handoff_dask.scheduler.node_health import NodeHealth
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import NodeEvent, Observers
from handoff_dask.scheduler.page import install_page, remove_page
from handoff_dask.scheduler.pauses import Pauses
from handoff_dask.scheduler.pipeline_room import PipelineRoom, both
from handoff_dask.scheduler.placed_tasks import PlacedTasks
from handoff_dask.scheduler.prefetch_queues import PrefetchQueues
from handoff_dask.scheduler.ranks import Ranks
from handoff_dask.scheduler.recall import Recall
from handoff_dask.scheduler.registry import Registry
from handoff_dask.scheduler.requests import Requests
from handoff_dask.scheduler.round_trip import RoundTrip
from handoff_dask.scheduler.runs import FunctionState, Runs, RunState
from handoff_dask.scheduler.shared_resources import SharedRegister
from handoff_dask.scheduler.sick_nodes import SickNodes
from handoff_dask.scheduler.spawning import Spawning
from handoff_dask.scheduler.states import Cancelled, Failed, Finished, Skipped, Waiting
from handoff_dask.scheduler.stored_values import StoredValues
from handoff_dask.scheduler.streams import Pipelines
from handoff_dask.scheduler.suspicion import Suspects, Suspicion
from handoff_dask.scheduler.tasks import Tasks
from handoff_dask.scheduler.telemetry import Telemetry
from handoff_dask.scheduler.transfers import Transfers
from handoff_dask.scheduler.user_trackers import UserTrackers
from handoff_dask.scheduler.views import Views
from handoff_dask.scheduler.words import words_around
from handoff_dask.scheduler.worker_messages import WorkerMessages

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

#: States of Dask's own tasks that matter here.
_OF_DASK_TASKS = frozenset(("processing", "queued"))

#: Seconds that a nanny has to bring back a worker that died.
RESTART_S = 20.0


class HandoffSchedulerPlugin(SchedulerPlugin):
    """Holds functions until the placement engine gives them a node.

    Parameters
    ----------
    worker_plugin
        The plugin that every worker is given, pickled: it installs handoff's own where that is possible.
    """

    name = NAME
    idempotent = True

    def __init__(self, worker_plugin: bytes) -> None:
        self._worker_plugin = worker_plugin

    async def start(self, scheduler: Scheduler) -> None:
        """Take over.

        Nothing is awaited here: Dask enters a plugin under its name only after this, and while
        it waited another client could start a second one.
        """
        self.scheduler = scheduler
        self._installation = Installation(scheduler)
        self._build(scheduler)
        self._listen(scheduler)
        self._installation.done()
        install_page(scheduler)
        self.withdraw_metrics = publish(self.metrics)
        self._installing = asyncio.ensure_future(self._install(scheduler))

    def _build(self, scheduler: Scheduler) -> None:
        """Make the parts; each is given what it needs."""
        later = asyncio.get_running_loop().call_soon
        loop: Any = scheduler.loop
        self.runs = Runs()
        self.nodes = Nodes(scheduler.workers)
        self.tasks = Tasks(scheduler)
        self.metrics = SchedulerMetrics(
            self.runs, self.nodes, lambda: self.driver.engine, self._open_pipelines
        )
        self.driver = EngineDriver(loop, self.runs.functions, self.metrics.decided)
        gather = self.driver.gather
        self.observers = Observers()
        self.ranks = Ranks(self.runs, self.nodes, self.tasks, gather)
        self.queues = PrefetchQueues()
        self.threads = LingeringThreads(self._send)
        self.transfers = Transfers(self.runs.by_token.values)
        self.trackers = UserTrackers(self.runs, self.nodes, self.driver, loop.call_later)
        self.pipeline_room = PipelineRoom(self.runs, self.nodes, gather, self._refuse, later, self._shared)
        self.registry = Registry(
            self.runs,
            self.nodes,
            self.tasks,
            gather,
            self.ranks,
            both(self.pipeline_room.permit_of, self.trackers.permit_of),
            self.observers,
            later,
        )
        self.data = Data(self.nodes, scheduler, gather)
        self.moves_ahead = MovesAhead(self.nodes, self.runs.functions, scheduler, gather, loop.call_later)
        self.dask_tasks = DaskTasks(self.runs, self.nodes, scheduler, gather)
        self.health = NodeHealth(config.count("sick-after"), config.seconds("sick-for"))
        self.nodes.sick = self.health.sick
        self.dispatcher = Dispatcher(
            self.registry, self.nodes, self.tasks, self.data, self.driver,
            self.ranks, self.queues, self.threads, self.transfers, self.observers, later,
            self.dask_tasks.admission,
            loop.call_later, self.health.sick, self.moves_ahead.move,
        )  # fmt: skip
        self.pauses = Pauses(self.runs, self.tasks, self.driver, self.threads, self.dispatcher.tell)
        self.dispatcher.after = self.pauses.review
        self.suspicion = Suspicion(
            self.tasks.get, lambda: scheduler.allowed_failures, lambda address: scheduler.workers[address]
        )
        least = max(1, min(2, scheduler.allowed_failures))
        self.suspects = Suspects(self.tasks.get, least, self.dispatcher.offer_in_turn)
        self.dispatcher.admits = self.suspects.admits
        self.nested = NestedExecutions(
            self.runs, self.tasks, self.pauses, self.driver, self.registry.end, self.dispatcher.fail,
            loop.call_later,
        )  # fmt: skip
        self.recall = Recall(
            self.queues, self._send, loop.call_later, self.ranks.takes_long, self.dispatcher.recalled
        )
        self.placed_tasks = PlacedTasks(scheduler, self.nodes, self.registry, self._adopted)
        self.memory_deaths = MemoryDeaths(self.nodes, self._offer_again)
        self.mailboxes = Mailboxes()
        self.telemetry = Telemetry(
            self.runs, self.mailboxes, self.driver.engine.claimed_elsewhere, self.threads,
            self._report_starts, loop,
        )  # fmt: skip
        self.pipelines = Pipelines(self.runs, self.tasks, self.mailboxes, self.pipeline_room)
        self.spawning = Spawning(self.runs, scheduler, self.ranks, self.observers, self.registry.refuse)
        self.values = StoredValues(self.runs, self.nodes, self.tasks, scheduler)
        self.shared = SharedRegister(self.runs, self.nodes, self.driver)
        self.views = Views(self.runs, self.nodes, self.tasks, self.driver, self.pipelines)
        self.detached = DetachedRuns(self.runs, self.nodes, self.tasks, self.views.ended, later)
        self.explain = ExplainSource(
            self.runs, self.tasks, self.driver, self.threads, self.views.ended, self.pipelines.figures
        )
        self.requests = Requests(
            self.runs, self.nodes, self.driver, self.registry, self.mailboxes, self.telemetry,
            self.nodes_changed, self._is_installed, self.nested.refuse_without_parent,
            self.pipeline_room.misfit,
        )  # fmt: skip
        self.worker_messages = WorkerMessages(
            self.runs, self.nodes, self.tasks, self.driver, self.dispatcher, self.dask_tasks, self.telemetry,
            self.recall, self.nodes_changed, scheduler.handle_task_erred,
        )  # fmt: skip

    def _shared(self) -> Mapping[str, tuple[int, int]]:
        return self.driver.engine.shared()

    def _open_pipelines(self) -> list[dict[str, Any]]:
        return self.pipelines.overview()

    def _offer_again(self, function: FunctionState) -> None:
        self.dispatcher.offer_again(function)

    def _refuse(self, run: RunState, position: int, refusal: tuple[dict[str, str], str | None]) -> None:
        self.registry.refuse(run, position, refusal)

    def _listen(self, scheduler: Scheduler) -> None:
        """Wire the parts together, and to the messages of clients and workers."""
        self.driver.connect(self.dispatcher)
        path = config.get("event-log")
        self.log = (
            None if path is None else open_log(str(path), config.nbytes("event-log-limit"), self.driver)
        )
        if self.log is not None:
            self.observers.add(self.log)
        watching = (
            self.telemetry, self.ranks, self.trackers, self.suspicion, self.suspects, self.recall,
            RunMessages(self.mailboxes, self.nodes.as_recorded), self.requests, self.values, self.views,
            self.metrics, self.pipelines, self.pipeline_room, self.transfers, self.dask_tasks, self.data,
            self.pauses, self.nested, self.memory_deaths, self.moves_ahead,
            RoundTrip(self.driver.gather, lambda: self.dask_tasks.are_there),
            NoWorkersTimeout(self.runs, scheduler.unrunnable, scheduler.no_workers_timeout),
        )  # fmt: skip
        for observer in (*watching, self.detached):
            self.observers.add(observer)
        self.observers.add(
            SickNodes(
                self.health,
                self.runs.functions,
                self.dispatcher.offer_again,
                asyncio.get_running_loop().call_later,
                self.telemetry.node_judged,
            )
        )
        self.pipelines.install(scheduler.stream_handlers)
        asked = (
            self.pipelines, self.trackers, self.values, self.views, self.explain, self.ranks, self.nested,
            self.shared, self.placed_tasks, self.spawning, MeasuredCosts(self.runs, self.views.ended),
        )  # fmt: skip
        self.lost_results = LostResults(
            self.runs.functions,
            scheduler.tasks,
            self._tell,
            scheduler.report,
            asyncio.get_running_loop().call_soon,
        )
        self.lost_results.install(scheduler.stream_handlers)
        for part in (*asked, self.lost_results):
            self.requests.add(**part.methods())
        self.requests.add(undo_start=self.undo_start)
        self.requests.add(repaired=self.dispatcher.repaired, **self.detached.methods())
        scheduler.handlers[NAME] = self.requests.handle
        self.worker_messages.install(scheduler.handlers, scheduler.stream_handlers)

    async def _install(self, scheduler: Scheduler) -> None:
        """Give every worker its plugin, which makes it report."""
        try:
            await scheduler.register_worker_plugin(
                comm=None, plugin=self._worker_plugin, name=NAME, idempotent=False
            )
        except Exception:
            # A worker that has just gone, say.  Whoever is there and does not report is no node.
            logger.warning("not every worker has answered to handoff's plugin", exc_info=True)

    async def _is_installed(self) -> None:
        await asyncio.shield(self._installing)

    async def undo_start(self, client: str) -> bool:
        """The start that brought this plugin has failed: take it off again, unless others use it already."""
        if self.requests.is_shared or self.runs.by_token or self.runs.announced:
            return False
        await self._is_installed()
        await self.scheduler.unregister_worker_plugin(comm=None, name=NAME)
        self._installation.undo()
        remove_page(self.scheduler)
        self.scheduler.remove_plugin(NAME)
        await self.close()
        return True

    async def close(self) -> None:
        """The scheduler ends; another one of this process may want the page."""
        self._installing.cancel()
        if self.log is not None:
            self.log.close()
        self.withdraw_metrics()

    def _send(self, address: str, message: dict[str, Any]) -> None:
        if address in self.scheduler.workers:
            self.scheduler.worker_send(address, message)

    def _report_starts(self, wanted: bool) -> None:
        for address in self.scheduler.workers:
            self.worker_messages.report_starts(self._send, address, wanted)

    # ------------------------------------------------------------------ workers

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """A worker has connected; it counts as a node once it has reported."""
        self.nodes_changed(self.nodes.added(worker))

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """A worker is gone."""
        self._node_left(worker, expected=True)

    def log_event(self, topic: str | Iterable[str], msg: Any) -> None:
        """Dask announces here, and only here, that a worker pauses, and why one is ended or removed."""
        if topic == TOPIC:
            self.memory_deaths.said(msg)
        action = msg.get("action") if isinstance(msg, dict) else None
        if action == "worker-status-change":
            self.nodes_changed(self.nodes.status(str(topic), msg["status"] == Status.running.name))
        elif action == "remove-worker" and topic != "all":
            node = self.nodes.by_address.get(str(topic))
            name = str(topic) if node is None else node.name
            self._node_left(str(topic), expected=msg["expected"])
            self.lost_results.lost(msg.get("lost-computed-tasks", ()))
            self.registry.data_lost(msg.get("lost-scattered-tasks", ()), name)

    def _node_left(self, address: str, *, expected: bool) -> None:
        """Tell the engine, once, before it hears of the functions that ran there."""
        give_up = None if expected else monotonic() + RESTART_S
        if not expected:
            self.memory_deaths.dies(address)
        left = self.nodes.removed(address, give_up=give_up)
        if left:
            self.dask_tasks.node_left(address)
            self.dispatcher.node_left(left[0].node, address)
            self.pauses.node_left(address)
            self.nodes_changed(left)

    def nodes_changed(self, events: Iterable[NodeEvent]) -> None:
        """Something is new about nodes: the engine must know, and who watches."""
        for event in events:
            self.driver.gather([event])
            self.observers.node_changed(event)

    # ------------------------------------------------------------------ graphs, clients, tasks

    def update_graph(
        self,
        scheduler: Scheduler,
        *,
        client: str,
        keys: set[Any],
        annotations: dict[str, dict[Any, Any]],
        **kwargs: Any,
    ) -> None:
        """Hold the functions of a graph before Dask assigns any."""
        marks = annotations.get(ANNOTATION)
        if marks:
            try:
                self.registry.graph_arrived(marks, keys, client, words_around(annotations, marks))
            except Exception as error:
                # Dask logs what a hook raises and goes on: the runs would wait for ever.
                self.registry.graph_broken(marks, _defect(error))
                raise
        else:
            self.registry.no_function_arrived(words_around(annotations, ()))
        if self.placed_tasks.is_on:
            self.placed_tasks.graph_arrived(annotations, client)
        self.lost_results.review()

    def _adopted(self, key: Any) -> None:
        """A task of Dask's own is taken over that was parked already."""
        function = self.runs.functions.get(key)
        if function is not None:
            self._tell(function, life.ArgumentsReady())

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """What a client had is cancelled with it."""
        self.registry.client_left(client)
        self.observers.client_left(client)

    def restart(self, scheduler: Scheduler) -> None:
        """``Client.restart``: every task is gone."""
        self.registry.clear()
        self.observers.cleared()

    def transition(
        self, key: Any, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Translate a task's change of state."""
        function = self.runs.functions.get(key)
        if function is None:
            self.registry.task_changed(key, finish)
            if not _OF_DASK_TASKS.isdisjoint((start, finish)):
                self.dask_tasks.transition(key, start, finish)
            return
        event = self._event(function, start, finish, kwargs)
        if event is not None and not self.lost_results.takes(function, start, finish):
            self._tell(function, event)
        if finish == "forgotten":
            self.lost_results.forgotten(key)
            self.registry.forgotten(function)

    def _tell(self, function: FunctionState, event: life.LifeEvent) -> None:
        """Whatever goes wrong in here must end the run with an error, not leave it waiting."""
        try:
            self.dispatcher.tell(function, event)
        except Exception as error:
            self.registry.refuse(function.run, function.position, ({}, _defect(error)))
            raise

    def _event(
        self, function: FunctionState, start: str, finish: str, facts: dict[str, Any]
    ) -> life.LifeEvent | None:
        if isinstance(function.state, Skipped):
            return life.ArgumentsReady() if finish == "no-worker" else None
        if isinstance(function.state, Failed) and function.state.is_given:
            return None
        if start == "processing":
            return self._end_of_attempt(function, finish, facts)
        if finish == "no-worker":
            return life.ArgumentsReady()
        if start == "no-worker" and finish != "processing":
            # What handoff itself has rejected has failed before its task does.
            if not isinstance(function.state, Waiting):
                return None
            return life.GivenUp(self.tasks.failure(function.key)) if finish == "erred" else life.Withdrawn()
        if start == "memory" and isinstance(function.state, Finished):
            return life.ResultLost()
        if finish == "waiting" and isinstance(function.state, (Finished, Failed, Cancelled)):
            return life.NeededAgain()
        return None

    def _end_of_attempt(self, function: FunctionState, finish: str, facts: dict[str, Any]) -> life.LifeEvent:
        if finish == "memory":
            failure = function.fact("failure")
            if failure is not None:
                return life.FailedForGood(facts.get("startstops"), failure, is_passed_on=True)
            return life.Ended(facts.get("startstops"), facts.get("nbytes"))
        is_there = function.fact("address") in self.scheduler.workers
        if finish == "erred":
            failure = self.tasks.failure(function.key)
            if not is_there:
                failure = self.memory_deaths.explained(function, failure)
            return life.FailedForGood(facts.get("startstops"), failure, is_there)
        failure = function.fact("failure")  # an argument that cannot be read
        if not is_there:
            failure = self.suspicion.last_death(function)
            failure = failure and self.memory_deaths.explained(function, failure)
        if failure is not None:
            passes_on = function.run.passes_failures
            return life.FailedForGood(None, failure, is_there, is_passed_on=passes_on, has_value=False)
        death = None if is_there else self.memory_deaths.end_of(function.fact("address"))
        return life.Dropped(is_there, random.random(), death)


def _defect(error: Exception) -> str:
    return f"handoff itself failed ({error!r}), which is a defect in it; please report it"
