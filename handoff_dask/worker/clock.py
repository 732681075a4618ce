"""Times of a worker that can be compared with each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed.comm.addressing import get_address_host

if TYPE_CHECKING:
    from distributed import Worker

#: A worker's clock that differs by so many seconds more or less than before has been set.
STEP_S = 0.5
#: So many make it another machine, whatever its address says.
OTHER_S = 5.0


class Clock:
    """Keeps what a worker adds to its times, so that they are the scheduler's, the same.

    Dask measures it anew with every heartbeat, and is wrong each time by up to the time that the
    heartbeat takes: of two functions that run one after the other on a thread, the second would
    seem to start before the first has stopped.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        # The same machine has the same clock.
        near = get_address_host(worker.address) == get_address_host(worker.scheduler.address)
        self._steady = 0.0 if near else None
        self._step_s = OTHER_S if near else STEP_S
        self._heartbeat: Any = worker.periodic_callbacks["heartbeat"]
        self._beat: Any = self._heartbeat.callback
        self._heartbeat.callback = self._beat_and_keep

    async def _beat_and_keep(self) -> None:
        await self._beat()
        self.keep()

    def close(self) -> None:
        """Leave it to Dask again."""
        self._heartbeat.callback = self._beat

    def keep(self) -> None:
        """Undo what the last measurement has changed."""
        measured = self._worker.scheduler_delay
        if self._steady is None or abs(measured - self._steady) > self._step_s:
            self._steady = measured
        else:
            self._worker.scheduler_delay = self._steady
