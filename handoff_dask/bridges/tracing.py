"""Events to spans.  Without OpenTelemetry this module can be imported, but not used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from handoff_dask.telemetry import Event

try:
    from opentelemetry import context, trace
    from opentelemetry.baggage.propagation import W3CBaggagePropagator
    from opentelemetry.propagators.composite import CompositePropagator
    from opentelemetry.trace import Span, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True

__all__ = ["AVAILABLE", "HEARD", "Tracing", "within"]

_DAG = ("handoff", "execution", "dag")
_FUNCTION = ("handoff", "execution", "function")

#: The events that make spans.
HEARD: tuple[Event, ...] = (
    *((*_DAG, part) for part in ("start", "stop", "exception")),
    *((*_FUNCTION, part) for part in ("start", "stop", "exception", "retry")),
    ("handoff", "allocation", "function"),
)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Facts: TypeAlias = Mapping[str, Any]


class _Open(Generic[K, V]):
    """What is under way, by name; of two of one name, the earlier ends first."""

    def __init__(self) -> None:
        self._values: dict[K, list[V]] = {}

    def add(self, key: K, value: V) -> None:
        self._values.setdefault(key, []).append(value)

    def of(self, key: K) -> list[V]:
        return self._values.get(key, [])

    def end(self, key: K) -> V | None:
        values = self._values.get(key)
        if not values:
            return None
        value = values.pop(0)
        if not values:
            del self._values[key]
        return value

    def end_all(self) -> list[V]:
        values = [value for group in self._values.values() for value in group]
        self._values.clear()
        return values


@dataclass(slots=True)
class _Running:
    """A span that has not ended."""

    span: Span
    #: Seconds since the epoch; None until the start event has come.
    began: float | None = None

    def end(self, measurements: Facts, metadata: Facts, problem: str | None) -> None:
        """End the span as long after its start as was measured; ``problem`` if it went wrong."""
        at: int | None = None
        if self.began is not None and "duration" in measurements:
            at = _nanoseconds(self.began + measurements["duration"])
        error = metadata.get("exception")
        if isinstance(error, BaseException):
            self.span.record_exception(error, timestamp=at)
        elif error is not None:
            self.span.add_event("exception", {"exception.message": str(error)}, timestamp=at)
        if problem is None:
            self.span.set_status(StatusCode.OK)
        else:
            self.span.set_status(StatusCode.ERROR, problem)
        self.span.end(at)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An attempt that has not ended; its span is made at the end, when its times are certain."""

    name: str
    parent: context.Context
    began: float
    facts: dict[str, Any]

    def running(self, tracer: trace.Tracer, began: float) -> _Running:
        span = tracer.start_span(
            self.name, context=self.parent, start_time=_nanoseconds(began), attributes=self.facts
        )
        return _Running(span, began)


class Tracing:
    """Makes spans of events, in the order in which they come; any thread may pass them in."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._lock = threading.RLock()
        self._dags: _Open[Hashable, _Running] = _Open()
        self._attempts: _Open[tuple[Hashable, Hashable, int], _Attempt] = _Open()
        # Why a function went where it did comes before it starts there.
        self._reasons: dict[tuple[Hashable, Hashable], dict[str, Any]] = {}
        self._makers: dict[Event, Callable[[Facts, Facts], None]] = {
            (*_DAG, "start"): self._dag_started,
            (*_DAG, "stop"): self._dag_ended,
            (*_DAG, "exception"): self._dag_ended,
            (*_FUNCTION, "start"): self._attempt_started,
            (*_FUNCTION, "stop"): self._attempt_ended,
            (*_FUNCTION, "exception"): self._attempt_ended,
            (*_FUNCTION, "retry"): self._attempt_retried,
            ("handoff", "allocation", "function"): self._allocated,
        }

    def handle(self, event: Event, measurements: Facts, metadata: Facts, config: Any) -> None:
        """The telemetry handler."""
        with self._lock:
            self._makers[event](measurements, metadata)

    def carrier(self, dag_id: Hashable) -> dict[str, str]:
        """Begin the span of a DAG that is being submitted; what its functions carry.

        A stop or an exception of the DAG must follow, even if it is refused after all.
        """
        carried: dict[str, str] = {}
        with self._lock:
            running = self._begin_dag(dag_id, None)
        _propagator().inject(carried, trace.set_span_in_context(running.span))
        return carried

    def close(self) -> None:
        """End all spans that are open."""
        with self._lock:
            attempts = [a.running(self._tracer, a.began) for a in self._attempts.end_all()]
            for running in [*attempts, *self._dags.end_all()]:
                running.end({}, {}, "tracing was ended")
            self._reasons.clear()

    def _begin_dag(self, dag_id: Hashable, began: float | None) -> _Running:
        span = self._tracer.start_span(
            f"dag {_text(dag_id)}",
            start_time=None if began is None else _nanoseconds(began),
            attributes={"handoff.dag_id": _text(dag_id)},
        )
        running = _Running(span, began)
        self._dags.add(dag_id, running)
        return running

    def _dag_started(self, measurements: Facts, metadata: Facts) -> None:
        dag_id, began = metadata["dag_id"], measurements["system_time"]
        submitted = [running for running in self._dags.of(dag_id) if running.began is None]
        running = submitted[0] if submitted else self._begin_dag(dag_id, began)
        running.began = began
        for name in ("function_count", "allocation_strategy"):
            if name in metadata:
                running.span.set_attribute(f"handoff.{name}", _attribute(metadata[name]))

    def _dag_ended(self, measurements: Facts, metadata: Facts) -> None:
        dag_id = metadata["dag_id"]
        running = self._dags.end(dag_id)
        if not self._dags.of(dag_id):
            self._reasons = {key: why for key, why in self._reasons.items() if key[0] != dag_id}
        if running is None:
            return  # it was submitted before we listened
        failed = "exception" in metadata
        status = str(metadata.get("status") or ("failed" if failed else "finished"))
        running.span.set_attribute("handoff.status", status)
        running.end(measurements, metadata, status if failed else None)

    def _allocated(self, measurements: Facts, metadata: Facts) -> None:
        self._reasons[metadata["dag_id"], metadata["function_id"]] = {
            "handoff.wait_time": measurements.get("wait_time"),
            "handoff.wait_cause": metadata.get("reason"),
            "handoff.candidates": measurements.get("candidates"),
        }

    def _attempt_started(self, measurements: Facts, metadata: Facts) -> None:
        dag_id, function_id, attempt = key = _attempt(metadata)
        dags = self._dags.of(dag_id)
        facts = {
            "handoff.dag_id": _text(dag_id),
            "handoff.function_id": _text(function_id),
            "handoff.attempt": attempt,
            "handoff.node": metadata.get("node"),
            "handoff.queue_time": measurements.get("queue_time"),
            **{f"handoff.cost.{name}": value for name, value in (metadata.get("cost") or {}).items()},
            **self._reasons.pop((dag_id, function_id), {}),
        }
        # Without its DAG (submitted before we listened) an attempt is a trace of its own, rather
        # than part of whatever the telling thread does.
        parent = trace.set_span_in_context(dags[-1].span if dags else trace.INVALID_SPAN)
        attributes = {name: _attribute(value) for name, value in facts.items() if value is not None}
        self._attempts.add(key, _Attempt(_text(function_id), parent, measurements["system_time"], attributes))

    def _attempt_ended(self, measurements: Facts, metadata: Facts, outcome: str = "failed") -> None:
        attempt = self._attempts.end(_attempt(metadata))
        if attempt is None:
            return  # it began before we listened
        # Told at once, a start may be early: the end knows when the node really began.
        running = attempt.running(self._tracer, measurements.get("system_time", attempt.began))
        if "nbytes" in measurements:
            running.span.set_attribute("handoff.nbytes", measurements["nbytes"])
        running.end(measurements, metadata, outcome if "exception" in metadata else None)

    def _attempt_retried(self, measurements: Facts, metadata: Facts) -> None:
        self._attempt_ended(measurements, {"exception": None, **metadata}, "failed, and is tried again")


def _propagator() -> CompositePropagator:
    # Not the global one: the nodes' may be set otherwise than the client's.
    return CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])


@contextmanager
def within(carrier: Mapping[str, str]) -> Iterator[None]:
    """Make what is carried the current context of the block."""
    token = context.attach(_propagator().extract(dict(carrier)))
    try:
        yield
    finally:
        context.detach(token)


def _attempt(metadata: Facts) -> tuple[Hashable, Hashable, int]:
    return metadata["dag_id"], metadata["function_id"], metadata["attempt"]


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _text(name: Hashable) -> str:
    return name if isinstance(name, str) else repr(name)


def _attribute(value: Any) -> str | bool | int | float:
    return value if isinstance(value, (str, bool, int, float)) else repr(value)
