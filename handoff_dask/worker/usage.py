"""What the functions of a worker use, as far as it can be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil
from distributed.metrics import monotonic
from tornado.ioloop import PeriodicCallback

from handoff_dask.protocol.names import USED
from handoff_dask.record.usage import Usage

if TYPE_CHECKING:
    from distributed import Worker
    from distributed.worker_state_machine import TaskState

#: Seconds between two looks at the memory of the process while functions run.  A look takes some 20
#: microseconds, so that looking takes far less than a hundredth of a core.
LOOK_S = 0.1
#: Seconds for which a look is good enough.
FRESH_S = 0.02
MEGABYTE = 1_000_000


class UsageMeter:
    """Measures the functions that run in this process, and hands on what was measured of other processes.

    Parameters
    ----------
    worker
        Dask's.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._process = psutil.Process()
        self._looked: tuple[float, float] | None = None
        #: ``{key: [megabytes of the process when it began, the most since then]}``.
        self._memory: dict[Any, list[float]] = {}
        #: Seconds of its thread; and what was measured of a process of its own.
        self._cpu_s: dict[Any, float] = {}
        self._exact: dict[Any, Usage] = {}
        self._timer = PeriodicCallback(self._look, LOOK_S * 1000)

    def close(self) -> None:
        """Measure no more."""
        self._timer.stop()

    def begins(self, key: Any) -> None:
        """Note that a function begins."""
        now_mb = self._memory_mb()
        self._memory[key] = [now_mb, now_mb]
        if not self._timer.is_running():
            self._timer.start()

    def add_cpu(self, key: Any, seconds: float) -> None:
        """Note what the thread of a function took; from any thread."""
        self._cpu_s[key] = self._cpu_s.get(key, 0.0) + seconds

    def measured(self, key: Any, usage: Usage) -> None:
        """Note what the process of a function used; from any thread."""
        self._exact[key] = usage

    def ended(self, task: TaskState) -> None:
        """Let what Dask tells of the end of a task say what it used."""
        memory = self._memory.pop(task.key, None)
        cpu_s, exact = self._cpu_s.pop(task.key, None), self._exact.pop(task.key, None)
        if not self._memory:
            self._timer.stop()
        last: Any = task.startstops[-1] if task.startstops else None
        if last is None or last["action"] != "compute":
            return
        if exact is not None:
            last[USED] = [exact.cpu_s, exact.peak_memory_mb, True]
        elif cpu_s is not None and memory is not None:
            begun_mb, peak_mb = memory
            last[USED] = [cpu_s, round(max(peak_mb, self._memory_mb()) - begun_mb, 3), False]

    def _look(self) -> None:
        now_mb = self._memory_mb()
        for memory in self._memory.values():
            memory[1] = max(memory[1], now_mb)

    def _memory_mb(self) -> float:
        now = monotonic()
        if self._looked is None or now - self._looked[0] > FRESH_S:
            self._looked = (now, float(self._process.memory_info().rss) / MEGABYTE)
        return self._looked[1]
