"""A trace per DAG, a span per attempt, and spans inside functions that join them.

Needs the packages ``opentelemetry-api`` and, to export anything, ``opentelemetry-sdk``
(``pip install "handoff-dask[otel]"``) in the client's process; on the nodes only for spans made
inside functions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from handoff_dask import telemetry
from handoff_dask.bridges.tracing import AVAILABLE, HEARD, Tracing, within
from handoff_dask.errors import NotFoundError, ValidationError

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["HANDLER_ID", "instrument", "run_in_context", "uninstrument"]

#: The id under which :func:`instrument` attaches.
HANDLER_ID = "handoff_dask.bridges.opentelemetry"

T = TypeVar("T")


class _Instrumentation:
    """The tracing of this process, if there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tracing: Tracing | None = None
        self._end_carrying: Callable[[], None] = lambda: None

    def instrument(self, tracer_provider: TracerProvider | None = None) -> None:
        """Make a trace of every DAG whose events this process receives, from now on.

        The span of a DAG is a child of the span that is current where the DAG is submitted.  Its
        children are the attempts, with the times they began and ended at on their nodes.

        Parameters
        ----------
        tracer_provider
            Where spans go; OpenTelemetry's global provider if absent.

        Raises
        ------
        ValidationError
            If this process is instrumented already.
        ImportError
            If OpenTelemetry is not installed.

        Examples
        --------
        >>> from opentelemetry.sdk.trace import TracerProvider
        >>> instrument(TracerProvider())
        >>> uninstrument()
        """
        if not AVAILABLE:
            raise ImportError('OpenTelemetry is not installed here; do pip install "handoff-dask[otel]"')
        from opentelemetry import trace

        tracing = Tracing(trace.get_tracer("handoff_dask", tracer_provider=tracer_provider))
        with self._lock:
            if self._tracing is not None:
                raise ValidationError("OpenTelemetry is instrumented already; call uninstrument() first")
            telemetry.attach_many(HANDLER_ID, list(HEARD), tracing.handle)
            self._end_carrying = telemetry.add_carrier(tracing.carrier)
            self._tracing = tracing

    def uninstrument(self) -> None:
        """Stop tracing, and end the spans that are open.  Without instrumentation: nothing."""
        with self._lock:
            tracing, self._tracing = self._tracing, None
            if tracing is None:
                return
            self._end_carrying()
            # If an exporter raised, telemetry has detached us already.
            with suppress(NotFoundError):
                telemetry.detach(HANDLER_ID)
            tracing.close()


_instrumentation = _Instrumentation()

instrument = _instrumentation.instrument
uninstrument = _instrumentation.uninstrument


def run_in_context(carrier: Mapping[str, str], call: Callable[[], T]) -> T:
    """Call a function within the trace that a DAG carries; used on the nodes.

    Spans that the function makes become children of the DAG's span.  Where OpenTelemetry is not
    installed, or nothing is carried, the function is simply called.

    Parameters
    ----------
    carrier
        What :func:`handoff_dask.telemetry.carrier` gave for the DAG: W3C ``traceparent`` and
        what belongs to it.
    call
        Takes nothing; its result or exception is passed on.
    """
    if not carrier or not AVAILABLE:
        return call()
    with within(carrier):
        return call()
