"""Takes back what was sent behind a function that takes longer than was thought.

What is sent ahead is bound to its node before there is room.  That is well for some milliseconds;
but behind a function that does not end, others would wait for a room while another node idles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed.metrics import time

from handoff_dask.protocol.names import NAME
from handoff_dask.record.status import RUNNING

if TYPE_CHECKING:
    from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin
    from handoff_dask.scheduler.runs import Function

#: Seconds in which something of a lane must have ended.
PATIENCE_S = 0.2
#: Dask's streams, there and back: a worker gives up a task unless it has begun.
REQUEST, RESPONSE = "steal-request", "steal-response"
#: The states in which it gives it up.
GIVEN = ("ready", "constrained", "waiting")


class Overdue:
    """Watches the lanes that somebody waits in."""

    def __init__(self, plugin: HandoffSchedulerPlugin) -> None:
        self._plugin = plugin
        self._timer: Any = None
        #: Functions that their worker has given up: none of their threads goes on.
        self.given_up: set[str] = set()

    def install(self) -> None:
        """Listen to what workers answer; what is not asked by us is Dask's."""
        handlers = self._plugin.scheduler.stream_handlers
        dasks = handlers[RESPONSE]

        def answered(key: str, state: str | None, stimulus_id: str, worker: str, **more: Any) -> Any:
            if stimulus_id.startswith(NAME):
                return self._answered(key, state, worker)
            return dasks(key=key, state=state, stimulus_id=stimulus_id, worker=worker, **more)

        handlers[RESPONSE] = answered

    def watch(self) -> None:
        """Somebody waits in a lane."""
        if self._timer is None:
            self._timer = self._plugin.scheduler.loop.call_later(PATIENCE_S, self._look)

    def _look(self) -> None:
        self._timer = None
        now = time()
        for running, waiting in list(self._plugin.blame.stuck(now - PATIENCE_S)):
            for function in running:
                self._plugin.foresight.overdue(function, now - (function.start or function.placed or now))
            for function in waiting:
                self._ask(function, now)
        if self._plugin.blame.anybody_behind():
            self.watch()

    def _ask(self, function: Function, now: float) -> None:
        scheduler = self._plugin.scheduler
        if function.address in scheduler.workers:
            message = {"op": REQUEST, "key": function.key, "stimulus_id": f"{NAME}-back-{now}"}
            scheduler.worker_send(function.address, message)

    def _answered(self, key: str, state: str | None, worker: str) -> None:
        function = self._plugin.registry.functions.get(key)
        if state not in GIVEN or function is None or function.status != RUNNING or function.address != worker:
            return
        if not function.told:
            # Whatever its turn was, by our account: it had not begun.
            function.behind = True
        # Wherever it goes next, it goes when there is room.
        function.expected_s = max(function.expected_s or 0.0, PATIENCE_S)
        self.given_up.add(key)
        self._plugin.driver.take_back([key])
