"""The time of an execution, split by cause.

Every function's time is cut at the moments that its record knows::

    submitted ── ready ── placed ── start ── stop
       arguments   waiting   starting  running

The parts of single functions overlap: while one waits, another runs.  So their sums say what
functions did, not why the execution took as long as it did.  That is said by the *path*: go back
from the function that stopped last to the argument that it waited for longest, and so on to the
start; along it the parts follow one another and add up to the makespan.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from toolz import merge_with

from handoff_dask.record.execution import ExecutionRecord, FunctionRecord

__all__ = ["TimeSplit", "time_split", "time_split_of"]

#: Its code ran.
RUNNING = "running"
#: Its arguments were brought to its node.
TRANSFER = "transfer"
#: It was bound to its node and had not begun: messages, and transfer where that is not known apart.
STARTING = "starting"
#: It was ready, nothing was in its way, and it was not placed yet.
SCHEDULER = "scheduler"
#: Some of its arguments were not there.
ARGUMENTS = "arguments"
#: After the last function of the path, until the execution ended.
ENDING = "ending"


def waiting_for(cause: str) -> str:
    """The part of the time in which a ready function waited for this cause to go away.

    Examples
    --------
    >>> waiting_for("room"), waiting_for("")
    ('waiting for room', 'scheduler')
    """
    return f"waiting for {cause}" if cause else SCHEDULER


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Seconds by part, for each function, for all together, and for the makespan."""

    #: ``{function id: {part: seconds}}``, for the functions that have started.
    functions: Mapping[Hashable, Mapping[str, float]]
    #: The same, summed over the functions.
    total: Mapping[str, float]
    #: Ids along the path that the makespan consists of, the first to start first.
    path: tuple[Hashable, ...]
    #: ``{part: seconds}`` along the path; they add up to ``makespan_s``.
    along_path: Mapping[str, float]
    #: Seconds from submission (or the first start) to the end (or the last stop); 0 if nothing ran.
    makespan_s: float


def time_split_of(function: FunctionRecord, *, submitted: float | None = None) -> dict[str, float]:
    """Seconds by part for one function; empty if it has not started, running only once it stopped.

    Parameters
    ----------
    function
        The function.
    submitted
        When its execution was submitted, seconds since the epoch.

    Examples
    --------
    >>> f = FunctionRecord(id="f", name="f", ready=1.0, placed=3.0, start=3.5, stop=7.5, cause="room")
    >>> time_split_of(f, submitted=0.0)
    {'arguments': 1.0, 'waiting for room': 2.0, 'starting': 0.5, 'running': 4.0}
    """
    if function.start is None:
        return {}
    placed = _first(function.placed, function.start)
    ready = _first(function.ready, placed)
    # Nodes' clocks differ from the scheduler's: what comes out negative is nothing.
    starting = max(0.0, function.start - placed)
    transfer = min(function.transfer_s or 0.0, starting)
    parts = {
        ARGUMENTS: ready - submitted if submitted is not None else 0.0,
        waiting_for(function.cause): placed - ready,
        TRANSFER: transfer,
        STARTING: starting - transfer,
        RUNNING: function.stop - function.start if function.stop is not None else 0.0,
    }
    return {part: seconds for part, seconds in parts.items() if seconds > 0}


def time_split(record: ExecutionRecord) -> TimeSplit:
    """Split the time of an execution by cause.

    Examples
    --------
    >>> load = FunctionRecord(id="load", name="load", ready=0.0, placed=0.0, start=0.5, stop=2.0)
    >>> fit = FunctionRecord(id="fit", name="fit", args=("load",), ready=2.0, placed=5.0, start=5.0,
    ...     stop=9.0, cause="room")
    >>> split = time_split(ExecutionRecord(dag_id="d", status="finished", functions=(load, fit),
    ...     submitted=0.0, ended=9.0))
    >>> split.path, split.along_path
    (('load', 'fit'), {'starting': 0.5, 'running': 5.5, 'waiting for room': 3.0})
    """
    functions = {f.id: parts for f in record.functions if (parts := _split(f, record))}
    begin, end = span_of(record)
    path = _path(record)
    return TimeSplit(
        functions=functions,
        total=_added(functions.values()),
        path=tuple(f.id for f in path),
        along_path=_along(path, begin, end),
        makespan_s=end - begin,
    )


def span_of(record: ExecutionRecord) -> tuple[float, float]:
    """When the execution began and ended, as far as known; seconds since the epoch."""
    moments = [
        moment for f in record.functions for moment in (f.ready, f.start, f.stop) if moment is not None
    ]
    begin = _first(record.submitted, min(moments, default=0.0))
    end = _first(record.ended, max(moments, default=begin))
    return begin, max(begin, end)


def _split(function: FunctionRecord, record: ExecutionRecord) -> dict[str, float]:
    return time_split_of(function, submitted=record.submitted)


def _first(moment: float | None, otherwise: float) -> float:
    return otherwise if moment is None else moment


def _added(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = merge_with(sum, *parts)
    return total


def _path(record: ExecutionRecord) -> list[FunctionRecord]:
    """From the function that stopped last back to the argument that stopped last, and so on."""
    known = {f.id: f for f in record.functions}
    path: list[FunctionRecord] = []
    latest = _latest(record.functions)
    while latest is not None:
        path.append(latest)
        latest = _latest(_producers(latest, known))
    return path[::-1]


def _latest(functions: Iterable[FunctionRecord]) -> FunctionRecord | None:
    stopped = [f for f in functions if f.start is not None and f.stop is not None]
    return max(stopped, key=lambda f: f.stop or 0.0, default=None)


def _producers(function: FunctionRecord, known: Mapping[Hashable, FunctionRecord]) -> list[FunctionRecord]:
    """What it waited for: its arguments, and behind inline ones theirs."""
    found: dict[Hashable, FunctionRecord] = {}
    ahead = list(function.args)
    while ahead:
        producer = known.get(ahead.pop())
        if producer is None or producer.id in found:
            continue
        found[producer.id] = producer
        if producer.type == "inline":
            ahead.extend(producer.args)
    return list(found.values())


def _along(path: list[FunctionRecord], begin: float, end: float) -> dict[str, float]:
    parts: dict[str, float] = {}
    cursor = begin

    def advance(part: str, moment: float | None) -> None:
        # Never backwards: clocks differ, and the sum must be the makespan.
        nonlocal cursor
        until = min(end, max(cursor, _first(moment, cursor)))
        if until > cursor:
            parts[part] = parts.get(part, 0.0) + until - cursor
        cursor = until

    for function in path:
        advance(SCHEDULER, _first(function.ready, cursor))
        advance(waiting_for(function.cause), _first(function.placed, cursor))
        if function.transfer_s:
            advance(TRANSFER, min(cursor + function.transfer_s, _first(function.start, cursor)))
        advance(STARTING, function.start)
        advance(RUNNING, function.stop)
    advance(ENDING, end)
    return parts
