"""What the functions on a worker print and log, told to the scheduler by attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed.metrics import time

from handoff_dask import output
from handoff_dask.protocol.manifest import run_of
from handoff_dask.protocol.names import ATTEMPT, LOGGED
from handoff_dask.record.logs import LogBuffer

if TYPE_CHECKING:
    from distributed import Worker

#: Seconds that lines wait to be told, while their attempt goes on.
WAIT_S = 0.5


class AttemptLogs:
    """Hears what this worker's threads print and log.

    Parameters
    ----------
    worker
        Dask's.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._buffers: dict[str, LogBuffer] = {}
        self._is_due = False
        output.listen(self._heard)

    def close(self) -> None:
        """Hear no more."""
        output.unlisten(self._heard)

    def _heard(self, thread: int, source: str, text: str) -> None:
        """Called in whatever thread has printed something."""
        key = self._worker.active_threads.get(thread)
        if key is None or run_of(key)[0] is None:
            return
        name = str(key)
        self._buffers.setdefault(name, LogBuffer()).write(time(), source, text)
        if not self._is_due:
            self._is_due = True
            self._worker.loop.add_callback(self._worker.loop.call_later, WAIT_S, self._tell)

    def _tell(self) -> None:
        self._is_due = False
        for key in list(self._buffers):
            self._send(key, self._buffers[key].take())

    def ended(self, key: Any) -> None:
        """An attempt is over: tell the rest of it, ahead of its end."""
        buffer = self._buffers.pop(key, None)
        if buffer is not None:
            self._send(key, buffer.take(rest=True))

    def _send(self, key: str, lines: list[tuple[float, str, str]]) -> None:
        if lines:
            task = self._worker.state.tasks.get(key)
            annotations = {} if task is None else task.annotations or {}
            self._worker.batched_send(
                {
                    "op": LOGGED,
                    "key": key,
                    "attempt": annotations.get(ATTEMPT, 1),
                    "lines": [list(line) for line in lines],
                }
            )
