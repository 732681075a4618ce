"""Processes of a worker in which isolated functions run, each one at a time.

A process is kept for the next function that needs the same environment: as many threads, the same
devices.  It is ended when its function is cancelled, takes too long, or holds too much memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from typing import Any, NoReturn

import cloudpickle
from distributed.metrics import monotonic
from distributed.protocol import pickle as with_tracebacks

from handoff_dask.errors import FunctionTimeoutError, MemoryExceededError, ProcessEndedError
from handoff_dask.record.usage import Usage
from handoff_dask.worker.isolated_start import LOOK_S, CancelledInProcess, Process, Starter
from handoff_dask.worker.isolated_wire import layout_of, receive_buffers, send_buffers

#: A process that holds so many megabytes more than when it was new is not used again.
KEPT_MB = 200.0
#: Seconds after which an idle process is ended.
IDLE_S = 300.0
#: Variables by which libraries are told how many threads they may use.
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
)


class IsolatedProcesses:
    """The processes of one worker.

    Parameters
    ----------
    most_idle
        How many are kept.
    starter
        Starts them; one of its own if ``None``.
    is_of_stage
        Whether all calls are those of one stage: then what its state holds is a part of what it claims, and
        its process is used again whatever it holds.
    """

    def __init__(self, most_idle: int, starter: Starter | None = None, *, is_of_stage: bool = False) -> None:
        self._most_idle = most_idle
        self._is_of_stage = is_of_stage
        self._owns_starter = starter is None
        self._lock = threading.Lock()
        self._idle: dict[tuple[tuple[str, str], ...], list[Process]] = {}
        #: ``{key of a task: its process}``; none as yet while one is being started.
        self._running: dict[str, Process | None] = {}
        self._cancelled: set[str] = set()
        self._is_closed = False
        self._starter = starter or Starter()

    def run(
        self,
        key: str,
        call: Callable[..., Any],
        results: tuple[Any, ...],
        *,
        resources: Mapping[str, float],
        devices: Mapping[str, list[int]],
        carrier: Mapping[str, str],
        timeout_s: float | None,
        current: Callable[[], Any],
        limit: str,
        used: Callable[[Usage], object],
    ) -> Any:
        """Run a call in a process of its own; its value.

        Parameters
        ----------
        key
            Of its task.
        resources, devices
            What it claims, as users write it, and the devices it has.
        carrier
            The trace that it belongs to.
        timeout_s
            How long it may take.
        current
            Says which attempt it is, if it asks.
        limit
            Why it cannot claim more memory, if it cannot.
        used
            Told what it has used, whether it ended well or raised.

        Raises
        ------
        FunctionTimeoutError, MemoryExceededError, ProcessEndedError
            If its process had to be ended, or has ended itself.
        Exception
            What the call raises.
        """
        buffers: list[memoryview] = []
        packed = cloudpickle.dumps(
            (call, results), protocol=5, buffer_callback=lambda buffer: buffers.append(buffer.raw())
        )
        head = {
            "call": packed,
            "buffers": layout_of(buffers),
            "carrier": dict(carrier),
            "devices": dict(devices),
            "log_level": logging.getLogger().getEffectiveLevel(),
        }
        environment = environment_of(resources, devices)
        process = self._take(key, environment)
        limit_mb = resources.get("memory")
        failed: _Failed | None = None
        try:
            answer = _Run(process, timeout_s, limit_mb, current, lambda: key in self._cancelled, used)
            answer.counts_all = self._is_of_stage
            value = answer.of(pickle.dumps(head), buffers)
        except MemoryExceededError as error:
            self._forget(key, process)
            raise MemoryExceededError(error.claimed, error.peak, limit) from None
        except _Failed as raised:
            value, failed = None, raised
        except BaseException:
            self._forget(key, process)
            raise
        self._give_back(key, environment, process)
        if failed is not None:
            # Not while it is handled: it would go along as the context of the user's exception.
            raise failed.error.with_traceback(failed.trace)
        return value

    def cancel(self, key: str) -> None:
        """End the process of a task that nobody wants any longer."""
        with self._lock:
            if key not in self._running:
                return
            process = self._running[key]
            self._cancelled.add(key)
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End all."""
        with self._lock:
            self._is_closed = True
            idle = [p for processes in self._idle.values() for p in processes]
            running = [p for p in self._running.values() if p is not None]
            self._cancelled.update(self._running)
            self._idle.clear()
        for process in running:
            process.kill()
        for process in idle:
            process.end()
        if self._owns_starter:
            self._starter.close()

    def for_stage(self) -> IsolatedProcesses:
        """The processes of a stage: one at a time, which is kept for it."""
        return IsolatedProcesses(1, self._starter, is_of_stage=True)

    # ------------------------------------------------------------------ inside

    def _take(self, key: str, environment: tuple[tuple[str, str], ...]) -> Process:
        with self._lock:
            self._running[key] = None
            idle = self._idle.get(environment)
            process = idle.pop() if idle else None
        if process is None or process.has_ended():
            try:
                process = self._starter.start(dict(environment), lambda: key in self._cancelled)
            except BaseException:
                with self._lock:
                    self._running.pop(key, None)
                    self._cancelled.discard(key)
                raise
        with self._lock:
            self._running[key] = process
            if self._is_closed:
                self._cancelled.add(key)
        return process

    def _give_back(self, key: str, environment: tuple[tuple[str, str], ...], process: Process) -> None:
        now = monotonic()
        process.idle_since = now
        with self._lock:
            self._running.pop(key, None)
            was_cancelled = key in self._cancelled
            self._cancelled.discard(key)
            too_many = []
            grown = process.memory_mb() - process.fresh_mb > KEPT_MB
            if was_cancelled or self._is_closed or (grown and not self._is_of_stage):
                too_many.append(process)
            else:
                self._idle.setdefault(environment, []).append(process)
            too_many += self._superfluous(now)
        for one in too_many:
            one.end()

    def _superfluous(self, now: float) -> list[Process]:
        """Take out the processes that have been idle for long, or are too many; the oldest go first."""
        idle = sorted((p for ps in self._idle.values() for p in ps), key=lambda p: p.idle_since)
        old = sum(now - process.idle_since > IDLE_S for process in idle)
        out = idle[: max(old, len(idle) - self._most_idle)]
        for environment in list(self._idle):
            self._idle[environment] = [p for p in self._idle[environment] if p not in out]
            if not self._idle[environment]:
                del self._idle[environment]
        return out

    def _forget(self, key: str, process: Process) -> None:
        with self._lock:
            self._running.pop(key, None)
            self._cancelled.discard(key)
        process.end()


class _Failed(Exception):
    """The call has raised; its process is as good as before."""

    def __init__(self, error: BaseException, trace: Any) -> None:
        super().__init__()
        self.error = error
        self.trace = trace


class _Run:
    """One call in a process, watched."""

    def __init__(
        self,
        process: Process,
        timeout_s: float | None,
        limit_mb: float | None,
        current: Callable[[], Any],
        is_cancelled: Callable[[], bool],
        used: Callable[[Usage], object],
    ) -> None:
        self._process = process
        self._timeout_s = timeout_s
        self._limit_mb = limit_mb
        self._current = current
        self._is_cancelled = is_cancelled
        self._used = used
        #: What the process held before the call, and the most that it was seen to hold beyond that.
        self._base_mb = 0.0
        self._peak_mb = 0.0
        self._give_up_s = float("inf")
        #: Whether what earlier calls have left in the process counts, too.
        self.counts_all = False

    def of(self, head: bytes, buffers: list[memoryview]) -> Any:
        """Send the call, and wait for its answer."""
        process = self._process
        try:
            while not process.is_ready:
                kind, content = self._next()
                if kind == "ready":
                    process.is_ready, process.fresh_mb = True, content[0]
                else:
                    self._serve(kind, content)
            self._base_mb = process.fresh_mb if self.counts_all else process.memory_mb()
            if self._timeout_s is not None:
                self._give_up_s = monotonic() + self._timeout_s
            process.connection.send_bytes(head)
            send_buffers(process.connection, buffers)
            while True:
                kind, content = self._next()
                if kind in ("value", "error", "exit"):
                    return self._answer(kind, *content)
                self._serve(kind, content)
        except (EOFError, ConnectionError, BrokenPipeError):
            self._ended_by_itself()

    def _serve(self, kind: str, content: tuple[Any, ...]) -> None:
        if kind == "log":
            record = logging.makeLogRecord(content[0])
            record.thread = threading.get_ident()  # by which it is known whose it is
            logging.getLogger(record.name).handle(record)
        elif kind == "current":
            self._process.connection.send_bytes(cloudpickle.dumps(self._current()))
        else:
            (sys.stdout if kind == "out" else sys.stderr).write(content[0])

    def _next(self) -> tuple[str, tuple[Any, ...]]:
        connection = self._process.connection
        while not wait([connection], timeout=LOOK_S):
            self._look()
        return pickle.loads(connection.recv_bytes())  # type: ignore[no-any-return]

    def _look(self) -> None:
        """End what nobody wants, takes too long, or holds too much."""
        if self._is_cancelled():
            raise CancelledInProcess
        if monotonic() > self._give_up_s:
            assert self._timeout_s is not None
            raise FunctionTimeoutError(self._timeout_s)
        if not self._process.is_ready:
            return
        self._peak_mb = max(self._peak_mb, self._process.memory_mb() - self._base_mb)
        if self._limit_mb is not None and self._peak_mb > self._limit_mb:
            raise MemoryExceededError(self._limit_mb, self._peak_mb)

    def _answer(self, kind: str, usage: tuple[float, float | None], layout: list[tuple[int, bool]]) -> Any:
        connection = self._process.connection
        data = connection.recv_bytes()
        buffers = receive_buffers(connection, layout)
        cpu_s, peak_mb = usage
        # The system knows the peak; what was seen at looks is less.
        known = self._peak_mb if peak_mb is None else max(0.0, peak_mb - self._base_mb)
        self._used(Usage(cpu_s=cpu_s, peak_memory_mb=round(known, 3), exact=True))
        if kind == "exit":
            raise ProcessEndedError(pickle.loads(data), None)
        if kind == "error":
            error, trace = with_tracebacks.loads(data)
            raise _Failed(error, trace)
        return pickle.loads(data, buffers=buffers)

    def _ended_by_itself(self) -> NoReturn:
        if self._is_cancelled():
            raise CancelledInProcess from None
        code = self._process.exit_code()
        name = None
        if code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
        raise ProcessEndedError(code, name) from None


def environment_of(
    resources: Mapping[str, float], devices: Mapping[str, list[int]]
) -> tuple[tuple[str, str], ...]:
    """What the environment of a function says of its threads and devices.

    Examples
    --------
    >>> dict(environment_of({"cpu": 4}, {"gpu": [1]}))["OMP_NUM_THREADS"]
    '4'
    """
    threads = str(max(1, int(resources.get("cpu", 1))))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else None
    indices = devices.get("gpu", [])
    shown = [names[i] if names is not None and i < len(names) else str(i) for i in indices]
    return (*((name, threads) for name in THREADS), ("CUDA_VISIBLE_DEVICES", ",".join(shown)))
