"""Execution in this process, one function after the other: for small work, tests and debuggers."""

from __future__ import annotations

import asyncio
import contextvars
import difflib
import heapq
import inspect
import math
import os
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral, Real
from typing import Any, NoReturn, TypeAlias

from dask._task_spec import TaskRef
from dask.sizeof import sizeof
from toolz import countby

from handoff_dask import output, telemetry
from handoff_dask.bridges.opentelemetry import run_in_context
from handoff_dask.errors import FunctionFailedError, ValidationError
from handoff_dask.graph.arguments import rebuilt
from handoff_dask.graph.dag import DAG, as_dag, no_dag
from handoff_dask.graph.expansion import Body, Expansion, expand, given_inputs
from handoff_dask.graph.functions import Failed, Function, FunctionId
from handoff_dask.graph.items import Spawn
from handoff_dask.graph.retry import Retry, given_retry
from handoff_dask.progress import Counts, Row, show
from handoff_dask.record.current import Current, running
from handoff_dask.record.execution import ExecutionRecord, FunctionRecord, Timing
from handoff_dask.record.logs import LogBuffer, LogLine, Logs, kept
from handoff_dask.record.result import ExecutionResult
from handoff_dask.record.status import (
    LOCAL_NODE,
    REUSED,
    SKIPPED,
    ExecutionStatus,
    OnFailure,
    choice_on_failure,
)
from handoff_dask.reuse.cache import Cache
from handoff_dask.reuse.known import Known
from handoff_dask.reuse.reasons import as_cache
from handoff_dask.time_limit import cancellable, run_within
from handoff_dask.visualization.texts import dag_name

__all__ = ["OnEvent", "execute_local"]

#: Called with an event's name, measurements and metadata.
OnEvent: TypeAlias = Callable[[tuple[str, ...], dict[str, Any], dict[str, Any]], object]

_OPTIONS = (
    "allocation_strategy",
    "allocator",
    "cache",
    "client",
    "inputs",
    "max_concurrency",
    "max_retries",
    "on_failure",
    "outputs",
    "priority",
    "progress",
    "resources",
    "resume",
    "retry",
    "share",
    "timeout",
)


def execute_local(
    dag: DAG | Iterable[Function],
    *,
    inputs: Mapping[FunctionId, Any] | None = None,
    outputs: Iterable[FunctionId] | None = None,
    max_retries: int | None = None,
    retry: Retry | None = None,
    timeout: float | None = None,
    progress: bool = False,
    on_failure: OnFailure = "stop",
    cache: Cache | str | os.PathLike[str] | None = None,
    client: object = None,
    resume: object = None,
    allocation_strategy: object = None,
    allocator: object = None,
    resources: object = None,
    max_concurrency: object = None,
    priority: object = 0,
    share: object = 1.0,
    on_event: OnEvent = telemetry.execute,
    **unknown: NoReturn,
) -> ExecutionResult:
    """Run a DAG in this process; ``node`` and ``cost`` are ignored.

    Parameters
    ----------
    dag
        A DAG or a list of functions.
    inputs
        ``{input id: value}``.
    outputs
        Ids or references, or ``"sinks"``: what nothing else takes.  Only what these need runs, only
        they are in the results, and what nothing needs any more is dropped.  All functions if ``None``.
    max_retries
        How often a function is tried again after it raised, unless it says so itself; 3 if ``None``.
    retry
        How, as a :class:`Retry`; give one of the two.
    timeout
        Seconds; the DAG then runs in a thread of its own, so that a function that hangs can be
        left behind.
    progress
        Show a progress bar in a terminal or a notebook; elsewhere write lines to standard error.
    on_failure
        What becomes of the execution when a function has failed for good.  ``"stop"``: nothing further
        of it starts.  ``"continue"``: all that does not need the function still runs, then the failure is
        raised.  ``"return"``: the same, and the result is returned, with what has failed in ``failed``
        and what needed it in ``skipped``.
    cache
        Where results are kept and found: a directory, an fsspec URL or a :class:`Cache`.  A function whose
        result is there does not run.
    client, resume, allocation_strategy, allocator, resources, max_concurrency, priority, share
        Options about nodes and other runs, which are ignored: the same call can run in one process or
        on many.
    on_event
        Called with the name, measurements and metadata of each event.

    Returns
    -------
    ExecutionResult
        Its only node is ``"local"``.

    Raises
    ------
    ValidationError
        If the DAG or an option is wrong; nothing has run.
    FunctionFailedError
        If a function raised and has no retries left.
    TimeoutError
        After ``timeout``.  A function that is running then runs to its end; nothing follows it.

    Examples
    --------
    >>> result = execute_local([Function("a", [], int, extra_args=["20"]), Function("b", ["a"], str)])
    >>> result.results, result.allocations
    ({'a': 20, 'b': '20'}, {'a': 'local', 'b': 'local'})
    """
    _check_options(max_retries, timeout, progress, unknown)
    choice_on_failure(on_failure)
    dag = as_dag(dag)
    expansion = expand(dag, outputs)
    values = given_inputs(dag, expansion, inputs)
    values = {i: rebuilt(value, _result) for i, value in values.items()}
    known = None if cache is None else Known(dag, expansion, values, as_cache(cache))
    retries = given_retry(max_retries, retry, 3)
    run = _Run(expansion, values, retries, choice_on_failure(on_failure), on_event, known)
    if progress:
        run.row = show(dag_name(dag.id, next(reversed(dag.functions), None)))
    return run.execute() if timeout is None else _within(run, float(timeout))


def _result(inside: Any) -> Any:
    """What refers to a result, and has it, is a future of a cluster."""
    return inside.result() if isinstance(inside, TaskRef) and hasattr(inside, "result") else inside


def _check_options(max_retries: Any, timeout: Any, progress: Any, unknown: Mapping[str, Any]) -> None:
    is_count = isinstance(max_retries, Integral) and not isinstance(max_retries, bool)
    if max_retries is not None and not (is_count and max_retries >= 0):
        raise ValidationError(f"max_retries: {max_retries!r} is not an int of at least 0")
    if timeout is not None and not _is_span(timeout):
        raise ValidationError(
            f"timeout: {timeout!r} is not a number of seconds; give one, or None for no end"
        )
    if not isinstance(progress, bool):
        raise ValidationError(f"progress is {progress!r}; give True or False")
    for name in unknown:
        near = difflib.get_close_matches(name, _OPTIONS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(_OPTIONS)}"
        raise ValidationError(f"there is no option {name!r}; {hint}")


def _is_span(seconds: object) -> bool:
    if isinstance(seconds, bool) or not isinstance(seconds, Real):
        return False
    return 0 <= float(seconds) < math.inf


def _within(run: _Run, timeout_s: float) -> ExecutionResult:
    outcome: list[ExecutionResult | BaseException] = []

    def work() -> None:
        try:
            outcome.append(run.execute())
        except BaseException as error:
            outcome.append(error)

    context = contextvars.copy_context()
    # A daemon, so that a function that hangs does not keep the process alive.
    thread = threading.Thread(target=context.run, args=[work], name="handoff-local", daemon=True)
    thread.start()
    try:
        thread.join(timeout_s)
    except BaseException as interrupt:  # from the keyboard
        run.cancel(interrupt)
        raise
    if not outcome:
        late = TimeoutError(
            f"DAG {run.expansion.dag_id!r} did not end within {timeout_s:g} s; give it a longer timeout"
        )
        if run.cancel(late):
            raise late
        thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


class _Cancelled(BaseException):
    """Ends the thread of a run that has been left behind."""


@dataclass(slots=True)
class _Attempt:
    function: Function
    #: Which one, from 1.
    number: int
    start: float
    began: float = field(default_factory=time.monotonic)


class _Run:
    """One execution: the values it has, and what has become of each function."""

    def __init__(
        self,
        expansion: Expansion,
        inputs: Mapping[FunctionId, Any],
        retry: Retry,
        on_failure: OnFailure,
        on_event: OnEvent,
        known: Known | None,
    ) -> None:
        self.known = known
        #: Functions that do not run, since their results are known.
        self.reused = frozenset[FunctionId]() if known is None else known.plan.reused
        if known is not None:
            expansion = known.remaining
        self.expansion = expansion
        #: Where its progress is shown.
        self.row: Row | None = None
        self.finished = 0
        #: The trace that spans made by the functions join.
        self.carried: dict[str, str] = {}
        self.retry = retry
        #: Set once the run is over: whoever waits before a further attempt goes on.
        self.stopped = threading.Event()
        self.on_failure = on_failure
        #: The error of the function that failed first.
        self.first: FunctionFailedError | None = None
        self.failed: dict[FunctionId, BaseException] = {}
        self.skipped: dict[FunctionId, FunctionId] = {}
        self.on_event = on_event
        self.values: dict[FunctionId, Any] = dict(inputs)
        self.records: dict[FunctionId, FunctionRecord] = {
            key: replace(_record_of(function), status=REUSED) if key in self.reused else _record_of(function)
            for key, function in expansion.functions.items()
        }
        if known is not None:
            self.values.update(known.values or {})
        #: How many bodies will still use a value.
        self.uses: dict[FunctionId, int] = dict.fromkeys(expansion.functions, 0)
        for body in expansion.bodies.values():
            for key in body.needs:
                # What makes the items of a map takes it for them too.
                self.uses[key] += 1 + body.is_spawn
        self.kept = frozenset(expansion.outputs)
        #: What functions printed and logged.
        self.logs = kept(())
        #: Items of maps whose results are wanted.
        self.items: list[FunctionId] = []
        self.about: dict[str, Any] = {
            "dag_id": expansion.dag_id,
            "function_count": len(expansion.bodies),
            "allocation_strategy": LOCAL_NODE,
        }
        # Held while the end of an attempt or of the run is reported, so that each is reported once.
        self.lock = threading.RLock()
        self.over = False
        self.attempt: _Attempt | None = None
        self.submitted = time.time()
        self.began = time.monotonic()

    def execute(self) -> ExecutionResult:
        """Run all; the run is over when this returns or raises."""
        self.carried = telemetry.carrier(self.expansion.dag_id)
        self.emit("dag", "start", {"system_time": self.submitted}, {**self.about, "status": "running"})
        try:
            for key in self.reused:
                about = {"dag_id": self.expansion.dag_id, "function_id": key}
                self.emit("function", "reused", {"system_time": self.submitted}, about)
            self.run_bodies()
        except FunctionFailedError as error:
            self.end("failed", error)
            raise
        except BaseException as error:
            self.cancel(error)
            raise
        status: ExecutionStatus = "failed" if self.failed else "finished"
        if not self.end(status, self.first):
            raise _Cancelled
        if self.first is not None and self.on_failure == "continue":
            raise self.first
        return self.result(status)

    def run_bodies(self) -> None:
        """Run each body after those it needs: of those that can run, by priority, then in order."""
        bodies = list(self.expansion.bodies.values())
        place = {body.function.id: i for i, body in enumerate(bodies)}
        users: list[list[int]] = [[] for _ in bodies]
        missing = [0] * len(bodies)
        for i, body in enumerate(bodies):
            for producer in body.waits_for:
                if producer in place:
                    users[place[producer]].append(i)
                    missing[i] += 1
        ready = [(-body.function.priority, i) for i, body in enumerate(bodies) if not missing[i]]
        heapq.heapify(ready)
        while ready:
            _, i = heapq.heappop(ready)
            self.try_body(bodies[i])
            if bodies[i].is_spawn and self.blamed(bodies[i].function.id) is None:
                (of,) = users[i]
                for item in self.spawn(bodies[i]):
                    heapq.heappush(ready, (-item.function.priority, len(bodies)))
                    bodies.append(item)
                    users.append([of])
                    missing.append(0)
                    missing[of] += 1
                bodies[of] = self.expansion.bodies[bodies[of].function.id]
            for user in users[i]:
                missing[user] -= 1
                if not missing[user]:
                    heapq.heappush(ready, (-bodies[user].function.priority, user))

    def spawn(self, body: Body) -> list[Body]:
        """Make the items of a map, once what has the rows has run."""
        spawn = body.function.code
        assert isinstance(spawn, Spawn)
        rows = self.values[body.function.id].rows
        self.values[body.function.id] = None
        ids = self.expansion.add_items(spawn.of, rows)
        items = [self.expansion.bodies[i] for i in ids]
        known, self.records = self.records, {}
        for key, function in self.expansion.functions.items():
            self.records[key] = known.get(key) or _record_of(function)
        self.records[spawn.of] = _record_of(self.expansion.functions[spawn.of])
        self.uses.update(dict.fromkeys(ids, 1))
        for item in items:
            for key in item.needs:
                self.uses[key] += 1
        self.let_go(body)
        if self.expansion.all_wanted:
            self.items += ids
            self.kept = self.kept.union(ids)
        return items

    def try_body(self, body: Body) -> None:
        """Run one function, or skip it where it needs what has failed."""
        function = body.function
        blamed = next((by for key in body.hinders if (by := self.blamed(key)) is not None), None)
        if blamed is not None:
            self.skipped[function.id] = blamed
            self.records[function.id] = replace(self.records[function.id], status=SKIPPED)
        else:
            try:
                self.run_body(body)
            except FunctionFailedError as error:
                self.failed[function.id] = error.__cause__ or error
                if self.first is None:
                    self.first = error
                error.failed, error.skipped = self.failed, self.skipped
                if self.on_failure == "stop":
                    self.skipped.update(self.needing(function.id))
                    raise
        self.let_go(body)

    def blamed(self, key: FunctionId) -> FunctionId | None:
        """The failed function because of which this one has no value, if there is one."""
        return key if key in self.failed else self.skipped.get(key)

    def needing(self, failed: FunctionId) -> dict[FunctionId, FunctionId]:
        """What needs a function that has failed."""
        found = {failed: failed}
        for key, body in self.expansion.bodies.items():
            if any(need in found for need in body.waits_for):
                found[key] = failed
        del found[failed]
        return found

    def value_of(self, key: FunctionId) -> Any:
        """A value; in the place of one that failed, what says so."""
        blamed = self.blamed(key)
        return self.values[key] if blamed is None else Failed(blamed, self.failed[blamed])

    def run_body(self, body: Body) -> None:
        """Run one function until it succeeds or has no retries left."""
        function = body.function
        retry = function.retries or self.retry
        ready = time.time()
        for number in range(1, retry.times + 2):
            attempt = self.start(function, number, ready)
            values = [self.value_of(key) for key in body.needs]
            try:
                with running(self.current(attempt)), self.heard(attempt):
                    value = run_in_context(self.carried, partial(_run_in_time, body, values))
            except Exception as error:
                last = number == retry.times + 1 or not retry.retries(error)
                self.finish_attempt(attempt, "exception" if last else "retry", error)
                if last:
                    raise FunctionFailedError(function.id, LOCAL_NODE, number, error) from error
                self.stopped.wait(retry.wait(number, random.random()))
                ready = time.time()
            else:
                self.finish_attempt(attempt, "stop", value=value)
                self.show("finished")
                break
        if self.known is not None and not any(isinstance(given, Failed) for given in values):
            self.known.keep(function.id, value)
        if self.uses[function.id] or function.id in self.kept:
            self.values[function.id] = value

    def let_go(self, body: Body) -> None:
        """Drop what a body was the last to use."""
        for key in body.needs:
            self.uses[key] -= 1
            if not self.uses[key] and key not in self.kept:
                self.values.pop(key, None)

    def start(self, function: Function, number: int, ready: float) -> _Attempt:
        """Begin an attempt."""
        with self.lock:
            if self.over:
                raise _Cancelled
            self.attempt = attempt = _Attempt(function, number, time.time())
            self.records[function.id] = replace(
                self.records[function.id],
                status="running",
                node=LOCAL_NODE,
                ready=ready,
                placed=ready,
                start=attempt.start,
                attempts=number,
            )
            self.emit("function", "start", self.began_at(attempt), self.about_attempt(attempt))
        self.show("running")
        return attempt

    def show(self, now: str) -> None:
        """Let the progress bar know that a function is running, or has finished."""
        if self.row is not None:
            self.finished += now == "finished"
            states = {"finished": self.finished, "running": int(now == "running"), "failed": len(self.failed)}
            self.row.update(Counts(len(self.expansion.bodies), states))

    def finish_attempt(
        self, attempt: _Attempt, how: str, error: BaseException | None = None, value: Any = None
    ) -> None:
        """Report how an attempt ended; refuse in a run that has been left behind."""
        with self.lock:
            if self.over:
                raise _Cancelled
            self.attempt = None
            measured: dict[str, Any] = {
                **self.began_at(attempt),
                "duration": time.monotonic() - attempt.began,
            }
            about = self.about_attempt(attempt)
            nbytes = None
            if error is None:
                nbytes = measured["nbytes"] = _size(value)
            else:
                about["exception"] = error
            self.records[attempt.function.id] = replace(
                self.records[attempt.function.id],
                status="finished" if error is None else "failed" if how == "exception" else "waiting",
                stop=max(attempt.start, time.time()),
                nbytes=nbytes,
                error=None if error is None else "".join(traceback.format_exception(error)),
            )
            self.emit("function", how, measured, about)

    def end(self, status: str, error: BaseException | None = None) -> bool:
        """Report how the run ended, unless that has been done."""
        with self.lock:
            if self.over:
                return False
            self.over = True
            self.stopped.set()
            about = {**self.about, "status": status}
            if error is not None:
                about["exception"] = error
            measured = {"system_time": self.submitted, "duration": time.monotonic() - self.began}
            self.emit("dag", "stop" if error is None else "exception", measured, about)
        if self.row is not None:
            states = countby(lambda key: self.records[key].status, self.expansion.bodies)
            self.row.end(status, Counts(len(self.expansion.bodies), states))
        return True

    def cancel(self, error: BaseException) -> bool:
        """Let nothing follow what is running; false if the run is over already."""
        with self.lock:
            if self.over:
                return False
            if self.attempt is not None:
                about = {**self.about_attempt(self.attempt), "exception": error}
                lasted = {"duration": time.monotonic() - self.attempt.began}
                self.emit("function", "exception", {**self.began_at(self.attempt), **lasted}, about)
            return self.end("cancelled", error)

    def emit(self, what: str, how: str, measurements: dict[str, Any], metadata: dict[str, Any]) -> None:
        self.on_event(("handoff", "execution", what, how), measurements, metadata)

    def began_at(self, attempt: _Attempt) -> dict[str, float]:
        """When an attempt began, and how long it had been ready by then."""
        ready = self.records[attempt.function.id].ready
        queued = attempt.start - (attempt.start if ready is None else ready)
        return {"system_time": attempt.start, "queue_time": queued}

    @contextmanager
    def heard(self, attempt: _Attempt) -> Iterator[None]:
        """Keep what the function prints and logs meanwhile."""
        buffer, here = LogBuffer(), threading.get_ident()

        def hear(thread: int, source: str, text: str) -> None:
            if thread == here:
                buffer.write(time.time(), source, text)

        output.listen(hear)
        try:
            yield
        finally:
            output.unlisten(hear)
            about = (attempt.function.id, attempt.number, LOCAL_NODE)
            self.logs.extend(LogLine(*about, *line) for line in buffer.take(rest=True))

    def current(self, attempt: _Attempt) -> Current:
        """What the function may ask of its attempt."""
        return Current(
            dag_id=self.expansion.dag_id,
            function_id=attempt.function.id,
            attempt=attempt.number,
            node=LOCAL_NODE,
            cost=attempt.function.needs.to_dict(),
        )

    def about_attempt(self, attempt: _Attempt) -> dict[str, Any]:
        return {
            "dag_id": self.expansion.dag_id,
            "function_id": attempt.function.id,
            "node": LOCAL_NODE,
            "attempt": attempt.number,
            "cost": attempt.function.needs.to_dict(),
        }

    def result(self, status: ExecutionStatus) -> ExecutionResult:
        """What the run came to."""
        finished = {
            key: record
            for key, body in self.expansion.bodies.items()
            if not body.is_spawn and (record := self.records[key]).status == "finished"
        }
        return ExecutionResult(
            dag_id=self.expansion.dag_id,
            results={
                key: self.values[key]
                for key in dict.fromkeys((*self.expansion.outputs, *self.items))
                if key in finished or key in self.reused
            },
            allocations=dict.fromkeys(finished, LOCAL_NODE),
            timings={
                key: Timing(record.start, record.stop, record.attempts)
                for key, record in finished.items()
                if record.start is not None and record.stop is not None
            },
            record=ExecutionRecord(
                dag_id=self.expansion.dag_id,
                status=status,
                functions=tuple(self.records.values()),
                nodes={LOCAL_NODE: {"threads": 1}},
                strategy=LOCAL_NODE,
                submitted=self.submitted,
                ended=time.time(),
                logs=Logs(self.logs),
            ),
            failed=self.failed,
            skipped=self.skipped,
            reused=self.reused,
        )


def _record_of(function: Function) -> FunctionRecord:
    return FunctionRecord(
        id=function.id,
        name=function.name,
        args=function.dependencies,
        type=function.type,
        cost=dict(function.known_cost),
        status="pending" if function.type == "regular" else "none",
        duration_s=function.duration,
    )


def _run_in_time(body: Body, values: list[Any]) -> Any:
    timeout = body.function.timeout
    return (
        _run_here(body, values) if timeout is None else run_within(timeout, lambda: _run_here(body, values))
    )


def _run_here(body: Body, values: list[Any]) -> Any:
    with no_dag():
        if body.is_transfer:
            return body.transfer(values[0], LOCAL_NODE, LOCAL_NODE)
        return body.run(values, _complete)


def _complete(value: Any) -> Any:
    """Run a coroutine to its end, as nodes do."""
    if not inspect.iscoroutine(value):
        return value
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(cancellable(value))
    # A loop runs in this thread (a notebook's, say): it cannot wait for another one.
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, value).result()


def _size(value: Any) -> int | None:
    """Bytes of a value, as Dask estimates them."""
    try:
        return int(sizeof(value))
    except Exception:  # the value's own code runs here, and its size is a detail
        return None
