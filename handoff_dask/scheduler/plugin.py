"""On the scheduler: Dask's hooks, each translated and nothing more.

A function of ours is *held* from the moment Dask knows it: it carries a worker restriction that
no worker matches, so that Dask parks it in ``no-worker`` when its arguments are there.  That is
the engine's ``FunctionReady``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.metrics import monotonic

from handoff_dask.protocol.names import ANNOTATION, NAME
from handoff_dask.scheduler.attempts import Attempts
from handoff_dask.scheduler.dask_tasks import Foreign
from handoff_dask.scheduler.engine_driver import Driver
from handoff_dask.scheduler.explain import Findings
from handoff_dask.scheduler.lane_resources import Admission
from handoff_dask.scheduler.metrics import publish
from handoff_dask.scheduler.metrics_source import Numbers
from handoff_dask.scheduler.no_workers_timeout import Patience
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.page import install_page
from handoff_dask.scheduler.ranks import Foresight
from handoff_dask.scheduler.recall import Overdue
from handoff_dask.scheduler.registry import Registry
from handoff_dask.scheduler.requests import Requests
from handoff_dask.scheduler.stored_values import Values
from handoff_dask.scheduler.suspicion import Blame
from handoff_dask.scheduler.telemetry import Announcer
from handoff_dask.scheduler.user_trackers import Tracking
from handoff_dask.scheduler.views import Views

if TYPE_CHECKING:
    from distributed import Scheduler

    from handoff_dask.placement.events import NodeChanged, NodeJoined, NodeLeft

    NodeEvent = NodeJoined | NodeChanged | NodeLeft

#: Seconds that a nanny has to bring back a worker that died.
RESTART_S = 20.0


class HandoffSchedulerPlugin(SchedulerPlugin):
    """Holds functions until the placement engine gives them a node.

    Parameters
    ----------
    worker_plugin
        The plugin that every worker is given, pickled.
    """

    name = NAME
    idempotent = True

    def __init__(self, worker_plugin: bytes) -> None:
        self._worker_plugin = worker_plugin

    async def start(self, scheduler: Scheduler) -> None:
        """Take over: install the worker plugin, which makes every worker report."""
        self.scheduler = scheduler
        self.nodes = Nodes(scheduler)
        self.driver = Driver(self)
        self.registry = Registry(self)
        self.attempts = Attempts(self)
        self.foresight = Foresight(self)
        self.blame = Blame()
        self.admission = Admission()
        self.overdue = Overdue(self)
        self.foreign = Foreign(self)
        self.patience = Patience(self)
        self.announcer = Announcer(self)
        self.requests = Requests(self)
        self.values = Values(self)
        self.requests.add(standing=self.foresight.standing, rank=self.foresight.rank)
        self.tracking = Tracking(self)
        self.views = Views(self)
        self.numbers = Numbers(self)
        Findings(self)
        self.attempts.install()
        self.requests.install()
        self.overdue.install()
        self.views.install()
        install_page(scheduler)
        self.withdraw_numbers = publish(self.numbers)
        await scheduler.register_worker_plugin(
            comm=None, plugin=self._worker_plugin, name=NAME, idempotent=False
        )

    async def close(self) -> None:
        """The scheduler ends; another one of this process may want the page."""
        self.withdraw_numbers()

    # ------------------------------------------------------------------ workers

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """A worker has connected; it counts as a node once it has reported."""
        self.node_events(self.nodes.added(worker))

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """A worker is gone."""
        self._node_left(worker, expected=True)

    def log_event(self, topic: str | Iterable[str], msg: Any) -> None:
        """Dask announces here, and only here, that a worker pauses, and why one is removed."""
        action = msg.get("action") if isinstance(msg, dict) else None
        if action == "worker-status-change":
            self.node_events(self.nodes.status(str(topic), msg["status"] == Status.running.name))
        elif action == "remove-worker" and topic != "all":
            self._node_left(str(topic), expected=msg["expected"])

    def _node_left(self, address: str, *, expected: bool) -> None:
        """Tell the engine, once, before it hears of the functions that ran there."""
        give_up = None if expected else monotonic() + RESTART_S
        left = self.nodes.removed(address, give_up=give_up)
        if left:
            self.driver.node_left(left[0].node, address)
            self.foreign.node_left(address)
            self.attempts.node_left(address)
            self.blame.node_left(address)
            self.admission.node_left(address)
            self.node_events(left)

    def node_events(self, events: Iterable[NodeEvent]) -> None:
        """Something is new about nodes: the engine must know, and who listens."""
        for event in events:
            self.driver.gather([event])
            self.announcer.node_event(event)
            self.tracking.node_event(event)

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
        """Hold our functions before Dask assigns any."""
        mine = annotations.get(ANNOTATION)
        if mine:
            self.registry.graph_arrived(mine, keys, client)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """What a client had is cancelled with it."""
        self.registry.client_left(client)
        self.tracking.client_left(client)
        self.requests.client_left(client)

    def restart(self, scheduler: Scheduler) -> None:
        """``Client.restart``: every task is gone."""
        self.registry.clear()
        self.tracking.clear()
        self.values.clear()

    def transition(
        self, key: Any, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Translate a task's change of state."""
        function = self.registry.functions.get(key)
        if function is not None:
            self.attempts.transition(function, start, finish, kwargs)
            if finish == "forgotten":
                self.registry.forgotten(function)
        elif self.registry.runs and "processing" in (start, finish):
            self.foreign.transition(key, finish)
