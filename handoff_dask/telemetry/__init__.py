"""Events of running DAGs, delivered to handlers that the user attaches.

An event is a name (a tuple of strings), measurements (numbers and amounts) and metadata (what
they are about).  Handlers run in the process that attached them, one after the other, in the
order in which they were attached.
"""

from __future__ import annotations

from handoff_dask.telemetry.contexts import add_carrier, carrier, carries
from handoff_dask.telemetry.events import EVENTS, HANDLER_FAILURE, Event, EventDescription
from handoff_dask.telemetry.registry import (
    Handler,
    Registry,
    attach,
    attach_many,
    deliver,
    detach,
    execute,
    has_handlers,
    list_handlers,
    subscribe_changes,
    wanted,
)
from handoff_dask.telemetry.spans import Span, span

__all__ = [
    "EVENTS",
    "HANDLER_FAILURE",
    "Event",
    "EventDescription",
    "Handler",
    "Registry",
    "Span",
    "add_carrier",
    "attach",
    "attach_many",
    "carrier",
    "carries",
    "deliver",
    "detach",
    "execute",
    "has_handlers",
    "list_handlers",
    "span",
    "subscribe_changes",
    "wanted",
]
