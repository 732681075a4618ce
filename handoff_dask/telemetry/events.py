"""The events that running DAGs cause, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from handoff_dask.errors import ValidationError

__all__ = ["EVENTS", "HANDLER_FAILURE", "Event", "EventDescription", "event_name", "starts_with"]

#: The name of an event, from the general to the particular.
Event: TypeAlias = tuple[str, ...]

#: Emitted when a handler has raised and has therefore been detached.  It happens in the process of
#: the handler, so it is no part of :data:`EVENTS`, which come from the cluster.
HANDLER_FAILURE: Event = ("handoff", "telemetry", "handler", "failure")


@dataclass(frozen=True, slots=True)
class EventDescription:
    """One row of the table of events."""

    #: When it happens.
    when: str
    #: ``{measurement: what it is, with its unit}``.
    measurements: Mapping[str, str]
    #: ``{name: what it is}``.
    metadata: Mapping[str, str]


_DAG = {
    "dag_id": "id of the DAG",
    "function_count": "how many functions will run; inline functions and inputs are not counted",
    "allocation_strategy": "name of the strategy",
    "status": "of the execution at that moment: pending, running, finished, failed, cancelled",
}
_FUNCTION = {
    "dag_id": "id of the DAG",
    "function_id": "id of the function",
    "node": "name of the node",
    "attempt": "1 for the first start, 2 for the second, …",
    "cost": "what it holds and needs there: amounts as numbers, and labels",
}
_EXCEPTION = {"exception": "the exception that ended it; a text for an attempt that was lost or cancelled"}
_BEGAN = {
    "system_time": "when it began on the node, in seconds since the epoch",
    "queue_time": "seconds from ready (all its arguments there) to its start",
}
_LASTED = {"duration": "seconds from start to end"}
_REUSED = {"dag_id": "id of the DAG", "function_id": "id of the function"}
_USED = {
    "cpu_s": "seconds of processor time, where it was measured",
    "peak_memory_mb": "the most memory that it held, in megabytes, where it was measured",
    "exact": "whether both were measured of a process of its own",
}
_NODE = {"node": "name of the node", "address": "its address"}
_CLAIM = {"node": "name of the node", "dag_id": "id of the DAG", "function_id": "id of the function"}
_AMOUNTS = {
    "amounts": "{resource: amount} that is claimed or given back",
    "available": "{resource: amount} that the node has left then",
}
_ITEM = {"dag_id": "id of the DAG", "item": "number of the item"}
_PIPELINE = {
    "dag_id": "id of the DAG",
    "stage_count": "how many stages it has",
    "status": "of the pipeline at that moment: running, closed, stopped, failed",
}
_JUDGED = {"failures": "attempts that have failed there in a row"}
_WHY = {"node": "name of the node", "reason": "why it is thought to be so"}
_OFFERS = {"capabilities": "what the node offers, labels included"}


def _table() -> dict[Event, EventDescription]:
    row = EventDescription
    dag = ("handoff", "execution", "dag")
    function = ("handoff", "execution", "function")
    resources = ("handoff", "resources")
    node = ("handoff", "node")
    pipeline, item = ("handoff", "stream", "pipeline"), ("handoff", "stream", "item")
    made = {"system_time": "when it was made, in seconds since the epoch"}
    pushed = {"system_time": "when it was pushed, in seconds since the epoch"}
    submitted = {"system_time": "when it was submitted, in seconds since the epoch"}
    return {
        (*dag, "start"): row("an execution begins", submitted, _DAG),
        (*dag, "stop"): row("an execution has finished", {**submitted, **_LASTED}, _DAG),
        (*dag, "exception"): row(
            "an execution has failed or was cancelled", {**submitted, **_LASTED}, {**_DAG, **_EXCEPTION}
        ),
        (*function, "start"): row("an attempt begins on its node", _BEGAN, _FUNCTION),
        (*function, "stop"): row(
            "an attempt has succeeded",
            {**_BEGAN, **_LASTED, "nbytes": "size of the result in bytes", **_USED},
            _FUNCTION,
        ),
        (*function, "exception"): row(
            "an attempt has failed for good, or was lost or cancelled",
            {**_BEGAN, **_LASTED},
            {**_FUNCTION, **_EXCEPTION},
        ),
        (*function, "retry"): row(
            "an attempt has failed and another one follows",
            {**_BEGAN, **_LASTED},
            {**_FUNCTION, **_EXCEPTION},
        ),
        (*function, "reused"): row(
            "a function does not run, since its result is known; nothing else is told of it",
            {"system_time": "when its DAG was submitted, in seconds since the epoch"},
            _REUSED,
        ),
        ("handoff", "allocation", "function"): row(
            "a function is bound to a node",
            {"wait_time": "seconds that it waited for the node", "candidates": "how many nodes had room"},
            {
                "dag_id": "id of the DAG",
                "function_id": "id of the function",
                "node": "name of the node",
                "strategy": "name of the strategy",
                "reason": "why this node, and what was waited for: room, thread, pin, …; never empty",
            },
        ),
        (*resources, "claim"): row("a function takes its cost from a node", _AMOUNTS, _CLAIM),
        (*resources, "release"): row("a function gives its cost back", _AMOUNTS, _CLAIM),
        (*node, "up"): row("a node may be used from now on", _OFFERS, _NODE),
        (*node, "down"): row("a node is gone", _OFFERS, _NODE),
        (*node, "update"): row("a node offers more or less than before", _OFFERS, _NODE),
        (*node, "sick"): row("a node only fails, and is set aside", _JUDGED, _WHY),
        (*node, "well"): row("a node that was set aside is used again", _JUDGED, _WHY),
        (*pipeline, "start"): row("a pipeline is made", made, _PIPELINE),
        (*pipeline, "stop"): row("a pipeline is over", {**made, **_LASTED}, _PIPELINE),
        (*pipeline, "exception"): row(
            "a pipeline has failed", {**made, **_LASTED}, {**_PIPELINE, **_EXCEPTION}
        ),
        (*item, "start"): row("an item is pushed", pushed, _ITEM),
        (*item, "stop"): row("an item has come out of the last stage", {**pushed, **_LASTED}, _ITEM),
        (*item, "exception"): row(
            "an item has failed, and its exception has come out",
            {**pushed, **_LASTED},
            {**_ITEM, **_EXCEPTION},
        ),
    }


#: ``{event: its description}``: every event that running DAGs cause.
EVENTS: Mapping[Event, EventDescription] = MappingProxyType(_table())


def event_name(name: Any, *, what: str = "event", empty: bool = False) -> Event:
    """Check the name of an event (or the prefix of names); lists are taken for tuples.

    Raises
    ------
    ValidationError
        For what is no tuple (or list) of non-empty strings, and for an empty one unless
        ``empty`` allows it.

    Examples
    --------
    >>> event_name(["app", "work", "start"])
    ('app', 'work', 'start')
    """
    example = '("handoff", "execution", "dag", "start")'
    if not isinstance(name, (tuple, list)):
        raise ValidationError(f"telemetry: {what} {name!r} is not a tuple of strings; write {example}, say")
    for part in name:
        if not isinstance(part, str) or not part:
            raise ValidationError(
                f"telemetry: {what} {name!r} has the part {part!r}, which is not a non-empty string; "
                f"write {example}, say"
            )
    if not name and not empty:
        raise ValidationError(f"telemetry: the {what} is empty; write {example}, say")
    return tuple(name)


def starts_with(event: Event, prefix: Event) -> bool:
    """Whether the event's name begins with the prefix; the empty one begins them all."""
    return event[: len(prefix)] == prefix
