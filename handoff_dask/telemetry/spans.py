"""Events around a block of code: start, then stop or exception."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from handoff_dask.errors import ValidationError
from handoff_dask.telemetry.events import Event, event_name
from handoff_dask.telemetry.registry import execute

__all__ = ["Span", "span"]


@dataclass(slots=True)
class Span:
    """What the block that runs may add to the event that will end it."""

    #: Added to ``duration``.
    measurements: dict[str, Any] = field(default_factory=dict)
    #: Added to the metadata of the start.
    metadata: dict[str, Any] = field(default_factory=dict)


def span(prefix: Event, metadata: Mapping[str, Any] | None = None) -> AbstractContextManager[Span]:
    """Tell that a block of code begins, and that it ends or raises.

    Three events, each with the metadata given here: ``(*prefix, "start")`` measures
    ``system_time`` (seconds since the epoch); then ``(*prefix, "stop")`` or, if the block
    raises, ``(*prefix, "exception")`` with the metadata ``exception``; both measure
    ``duration`` (seconds, by a clock that is never set back).  The exception goes on its way.

    Raises
    ------
    ValidationError
        For a prefix that is no tuple of strings, or metadata that is no mapping.

    Examples
    --------
    >>> from handoff_dask import telemetry
    >>> telemetry.attach("show", ("app", "load", "stop"), lambda event, measurements, metadata, _:
    ...                  print(event[-1], sorted(measurements), metadata))
    >>> with telemetry.span(("app", "load"), {"path": "a.csv"}) as span:
    ...     span.measurements["rows"] = 12
    stop ['duration', 'rows'] {'path': 'a.csv'}
    >>> telemetry.detach("show")
    """
    name = event_name(prefix, what="prefix")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ValidationError(f"telemetry: the metadata of span {name!r} are {metadata!r}, not a mapping")
    return _around(name, dict(metadata or {}))


@contextmanager
def _around(prefix: Event, metadata: dict[str, Any]) -> Iterator[Span]:
    added = Span()
    execute((*prefix, "start"), {"system_time": time.time()}, metadata)
    began = time.monotonic()
    try:
        yield added
    except BaseException as error:
        about = {**metadata, **added.metadata, "exception": error}
        execute((*prefix, "exception"), {"duration": time.monotonic() - began, **added.measurements}, about)
        raise
    execute(
        (*prefix, "stop"),
        {"duration": time.monotonic() - began, **added.measurements},
        {**metadata, **added.metadata},
    )
