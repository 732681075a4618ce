"""Dask's ``no-workers-timeout`` must not fail functions that are only held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed.metrics import monotonic
from tornado.ioloop import PeriodicCallback

if TYPE_CHECKING:
    from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin


class Patience:
    """Makes held tasks look as if they had just begun to wait.

    Dask fails what has been in ``no-worker`` for longer than the timeout.  That is where functions
    are held that wait for room, and how long those wait that fit nowhere is ours to say.
    """

    def __init__(self, plugin: HandoffSchedulerPlugin) -> None:
        self._plugin = plugin
        self._timer: PeriodicCallback | None = None

    def begin(self) -> None:
        """The first run opens."""
        timeout_s = self._plugin.scheduler.no_workers_timeout
        if timeout_s:
            self._timer = PeriodicCallback(self.refresh, timeout_s * 1000 / 3)
            self._timer.start()

    def end(self) -> None:
        """The last run is gone."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def refresh(self) -> None:
        """Let the clocks of held tasks start anew."""
        since: dict[Any, float] = self._plugin.scheduler.unrunnable
        functions = self._plugin.registry.functions
        held = [task for task in since if task.key in functions]
        now = monotonic()
        for task in held:
            # Dask wants them ordered by the time.
            del since[task]
            since[task] = now
