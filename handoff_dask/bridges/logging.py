"""Telemetry as lines in a log."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from handoff_dask import telemetry
from handoff_dask.errors import ValidationError
from handoff_dask.telemetry import EVENTS, Event

__all__ = ["DEFAULT_EVENTS", "HANDLER_ID", "attach_logging", "detach_logging"]

#: The id under which :func:`attach_logging` attaches by default.
HANDLER_ID = "handoff_dask.bridges.logging"

#: All events of handoff but those of each claim and release, and of each item of a pipeline.
DEFAULT_EVENTS: tuple[Event, ...] = tuple(
    event for event in EVENTS if event[1] != "resources" and event[2] != "item"
)


class _Line(NamedTuple):
    #: Filled from measurements and metadata.
    template: str
    #: The level at least; NOTSET leaves the user's.
    at_least: int = logging.NOTSET


_DAG_EXCEPTION: Event = ("handoff", "execution", "dag", "exception")

_LINES: dict[Event, _Line] = {
    ("handoff", "execution", "dag", "start"): _Line(
        "DAG {dag_id} starts: {function_count} functions, {allocation_strategy}"
    ),
    ("handoff", "execution", "dag", "stop"): _Line("DAG {dag_id} has finished after {duration}"),
    _DAG_EXCEPTION: _Line("DAG {dag_id} has failed after {duration}: {exception}", logging.ERROR),
    ("handoff", "execution", "function", "start"): _Line(
        "{function_id} of {dag_id} starts on {node}: attempt {attempt}, cost {cost}, queued {queue_time}"
    ),
    ("handoff", "execution", "function", "stop"): _Line(
        "{function_id} of {dag_id} has finished on {node} after {duration}: {nbytes} bytes"
    ),
    ("handoff", "execution", "function", "exception"): _Line(
        "{function_id} of {dag_id} has failed on {node} after {duration}, attempt {attempt}: {exception}",
        logging.ERROR,
    ),
    ("handoff", "execution", "function", "retry"): _Line(
        "{function_id} of {dag_id} is tried again; attempt {attempt} failed on {node} after {duration}: "
        "{exception}",
        logging.WARNING,
    ),
    ("handoff", "allocation", "function"): _Line(
        "{function_id} of {dag_id} goes to {node} by {strategy}: {candidates} candidates, "
        "waited {wait_time} for {reason}"
    ),
    ("handoff", "resources", "claim"): _Line(
        "{function_id} of {dag_id} claims {amounts} on {node}; left {available}"
    ),
    ("handoff", "resources", "release"): _Line(
        "{function_id} of {dag_id} returns {amounts} on {node}; left {available}"
    ),
    ("handoff", "stream", "pipeline", "start"): _Line("pipeline of {dag_id} starts: {stage_count} stages"),
    ("handoff", "stream", "pipeline", "stop"): _Line("pipeline of {dag_id} is {status} after {duration}"),
    ("handoff", "stream", "pipeline", "exception"): _Line(
        "pipeline of {dag_id} has failed after {duration}: {exception}", logging.ERROR
    ),
    ("handoff", "stream", "item", "start"): _Line("item {item} of {dag_id} is pushed"),
    ("handoff", "stream", "item", "stop"): _Line("item {item} of {dag_id} is out after {duration}"),
    ("handoff", "stream", "item", "exception"): _Line(
        "item {item} of {dag_id} has failed after {duration}: {exception}", logging.WARNING
    ),
    ("handoff", "node", "up"): _Line("node {node} is up: {capabilities}"),
    ("handoff", "node", "down"): _Line("node {node} is down", logging.WARNING),
    ("handoff", "node", "update"): _Line("node {node} has changed: {capabilities}"),
    ("handoff", "node", "sick"): _Line("node {node} is set aside: {reason}", logging.WARNING),
    ("handoff", "node", "well"): _Line("node {node} is used again: {reason}"),
}

_CANCELLED = _Line("DAG {dag_id} was cancelled after {duration}", logging.WARNING)
# The user's own events are not known here.
_OTHER = _Line("{event}: {measurements}, {metadata}")

_SECONDS = {"duration", "queue_time", "wait_time"}


@dataclass(frozen=True, slots=True)
class _Writer:
    """The telemetry handler that writes."""

    logger: logging.Logger
    level: int

    def __call__(
        self, event: Event, measurements: dict[str, Any], metadata: dict[str, Any], config: Any
    ) -> None:
        line = _LINES.get(event, _OTHER)
        if event == _DAG_EXCEPTION and metadata.get("status") == "cancelled":
            line = _CANCELLED
        level = max(self.level, line.at_least)
        if not self.logger.isEnabledFor(level):
            return
        error = metadata.get("exception") if level >= logging.ERROR else None
        self.logger.log(
            level,
            "%s",
            _written(line, event, measurements, metadata),
            exc_info=error if isinstance(error, BaseException) else None,
            extra={
                "handoff_event": event,
                "handoff_measurements": measurements,
                "handoff_metadata": metadata,
            },
        )


class _Facts(dict[str, Any]):
    """What a line is filled from; what is missing is a question mark."""

    def __missing__(self, name: str) -> str:
        return "?"


def attach_logging(
    logger: str | logging.Logger = "handoff_dask",
    level: int | str = logging.INFO,
    *,
    events: Iterable[Event] | None = None,
    handler_id: Hashable = HANDLER_ID,
) -> None:
    """Write a line to a logger for each event.

    Each record also has the attributes ``handoff_event``, ``handoff_measurements`` and
    ``handoff_metadata``, for formatters that write structured logs.

    Parameters
    ----------
    logger
        A logger or its name.
    level
        Of ordinary events, as a number or a name.  Retries, cancelled DAGs and lost nodes are
        at least warnings, failures at least errors.
    events
        :data:`DEFAULT_EVENTS` if absent; the user's own events may be among them.
    handler_id
        To attach more than once.

    Raises
    ------
    ValidationError
        If that id is attached, or for a level or an event that is none.

    Examples
    --------
    >>> attach_logging(level="DEBUG")
    >>> detach_logging()
    """
    number = logging.getLevelName(level.upper()) if isinstance(level, str) else level
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValidationError(f"logging: {level!r} is not a level; write logging.INFO or 'INFO'")
    writer = _Writer(logging.getLogger(logger) if isinstance(logger, str) else logger, number)
    telemetry.attach_many(handler_id, DEFAULT_EVENTS if events is None else events, writer)


def detach_logging(handler_id: Hashable = HANDLER_ID) -> None:
    """Stop writing.

    Raises
    ------
    NotFoundError
        If nothing is attached under that id.
    """
    telemetry.detach(handler_id)


def _written(line: _Line, event: Event, measurements: dict[str, Any], metadata: dict[str, Any]) -> str:
    if line is _OTHER:
        return line.template.format(event=".".join(event), measurements=measurements, metadata=metadata)
    facts = {**measurements, **metadata}
    return line.template.format_map(_Facts({name: _shown(name, value) for name, value in facts.items()}))


def _shown(name: str, value: Any) -> str:
    if name in _SECONDS and isinstance(value, (int, float)):
        return f"{value:.3f} s"
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if name in ("dag_id", "function_id"):
        return repr(value)
    if name == "reason":
        return str(value) or "nothing"
    return str(value)
