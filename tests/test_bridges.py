"""Telemetry as OpenTelemetry's traces and as lines in a log."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from telling import T0, dag, function, tell

from handoff_dask import telemetry
from handoff_dask.bridges import opentelemetry as bridge
from handoff_dask.errors import FunctionFailedError, ValidationError
from handoff_dask.graph.functions import Function
from handoff_dask.testing import small_cluster


class Traces:
    """A tracer provider of this test alone, and what it has exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def spans(self) -> dict[str, ReadableSpan]:
        finished = self.exporter.get_finished_spans()
        assert len({span.name for span in finished}) == len(finished)
        return {span.name: span for span in finished}


@pytest.fixture
def traces():
    traces = Traces()
    bridge.instrument(traces.provider)
    yield traces
    bridge.uninstrument()


def times(span: ReadableSpan) -> tuple[float, float]:
    """When it began and ended, in seconds after T0, to the microsecond."""
    return round((span.start_time - T0 * 1e9) / 1e9, 6), round((span.end_time - T0 * 1e9) / 1e9, 6)


class TestOpenTelemetry:
    def test_a_trace_per_dag_and_a_span_per_attempt(self, traces):
        dag("start", system_time=T0)
        tell(
            "allocation", "function", wait_time=0.25, candidates=3,
            dag_id="etl", function_id="load", node="a", strategy="fastest", reason="room",
        )  # fmt: skip
        function("start", system_time=T0 + 1, queue_time=0.5, cost={"cpu": 2, "zone": "eu", "gpu": 0.5})
        function("stop", duration=2.0, nbytes=800)
        dag("stop", duration=4.5, status="finished")

        spans = traces.spans()
        assert set(spans) == {"dag etl", "load"}
        root, attempt = spans["dag etl"], spans["load"]
        assert root.parent is None
        assert attempt.parent == root.context
        assert (times(root), times(attempt)) == ((0, 4.5), (1, 3))
        assert (root.status.status_code, attempt.status.status_code) == (StatusCode.OK, StatusCode.OK)
        assert root.attributes == {
            "handoff.dag_id": "etl",
            "handoff.function_count": 2,
            "handoff.allocation_strategy": "fastest",
            "handoff.status": "finished",
        }
        assert attempt.attributes == {
            "handoff.dag_id": "etl",
            "handoff.function_id": "load",
            "handoff.node": "a",
            "handoff.attempt": 1,
            "handoff.queue_time": 0.5,
            "handoff.wait_time": 0.25,
            "handoff.wait_cause": "room",
            "handoff.candidates": 3,
            "handoff.cost.cpu": 2,
            "handoff.cost.zone": "eu",
            "handoff.cost.gpu": 0.5,
            "handoff.nbytes": 800,
        }

    def test_an_end_that_says_when_its_attempt_began_is_believed(self, traces):
        """A start is told as soon as it is known of, an end when the node has reported."""
        function("start", system_time=T0 + 1, queue_time=0.0)
        telemetry.execute(
            ("handoff", "execution", "function", "stop"),
            {"system_time": T0 + 1.25, "duration": 2.0},
            {"dag_id": "etl", "function_id": "load", "attempt": 1},
        )

        assert times(traces.spans()["load"]) == (1.25, 3.25)

    def test_ids_that_are_no_strings_appear_as_their_repr(self, traces):
        dag("start", 7, system_time=T0)
        function("start", ("part", 3), dag_id=7, system_time=T0, queue_time=0.0, cost=None)
        function("stop", ("part", 3), dag_id=7, duration=1.0, nbytes=1)
        dag("stop", 7, duration=1.0)

        spans = traces.spans()
        assert set(spans) == {"dag 7", "('part', 3)"}
        assert spans["('part', 3)"].attributes["handoff.function_id"] == "('part', 3)"

    def test_failed_attempts_carry_their_exceptions(self, traces):
        dag("start", system_time=T0)
        function("start", system_time=T0, queue_time=0.0)
        function("retry", duration=1.0, exception=ValueError("first"))
        function("start", attempt=2, system_time=T0 + 2, queue_time=0.0)
        function("exception", attempt=2, duration=3.0, exception="node a is gone")
        dag("exception", duration=5.0, status="failed", exception=RuntimeError("all is lost"))

        first, second, root = traces.exporter.get_finished_spans()
        assert [times(span) for span in (first, second, root)] == [(0, 1), (2, 5), (0, 5)]
        assert [(span.status.status_code, span.status.description) for span in (first, second, root)] == [
            (StatusCode.ERROR, "failed, and is tried again"),
            (StatusCode.ERROR, "failed"),
            (StatusCode.ERROR, "failed"),
        ]
        [recorded] = first.events
        assert recorded.name == "exception"
        assert recorded.attributes["exception.type"] == "ValueError"
        assert recorded.attributes["exception.message"] == "first"
        assert recorded.timestamp == first.end_time
        [told] = second.events
        assert (told.name, told.attributes) == ("exception", {"exception.message": "node a is gone"})

    def test_retry_without_exception_is_an_error_still(self, traces):
        function("start", system_time=T0, queue_time=0.0)
        function("retry", duration=1.0)

        assert traces.spans()["load"].status.status_code is StatusCode.ERROR

    def test_cancelled_dag(self, traces):
        dag("start", system_time=T0)
        dag("exception", duration=1.0, status="cancelled", exception=None)

        root = traces.spans()["dag etl"]
        assert (root.status.status_code, root.status.description) == (StatusCode.ERROR, "cancelled")
        assert root.attributes["handoff.status"] == "cancelled"

    def test_dags_side_by_side_do_not_mix(self, traces):
        for dag_id in ("one", "two"):
            dag("start", dag_id, system_time=T0)
        for dag_id in ("two", "one"):
            function("start", f"f-{dag_id}", dag_id=dag_id, system_time=T0, queue_time=0.0)
        for dag_id in ("one", "two"):
            function("stop", f"f-{dag_id}", dag_id=dag_id, duration=1.0, nbytes=1)
            dag("stop", dag_id, duration=1.0)

        spans = traces.spans()
        assert spans["f-one"].parent == spans["dag one"].context
        assert spans["f-two"].parent == spans["dag two"].context
        assert spans["dag one"].context.trace_id != spans["dag two"].context.trace_id

    def test_an_attempt_that_outlives_its_dag_still_ends(self, traces):
        """After a failure of a sibling, what cannot be stopped runs on."""
        dag("start", system_time=T0)
        function("start", system_time=T0, queue_time=0.0)
        dag("exception", duration=1.0, status="failed", exception=ValueError())
        function("exception", duration=2.0, exception=RuntimeError("cancelled"))

        spans = traces.spans()
        assert spans["load"].parent == spans["dag etl"].context
        assert times(spans["load"]) == (0, 2)

    def test_what_began_before_we_listened_is_left_out(self, traces):
        function("stop", duration=1.0, nbytes=1)
        dag("stop", duration=2.0)
        with traces.tracer.start_as_current_span("of the telling thread"):
            function("start", "late", system_time=T0, queue_time=0.0)
        function("stop", "late", duration=1.0, nbytes=1)

        spans = traces.spans()
        assert set(spans) == {"of the telling thread", "late"}
        assert spans["late"].parent is None

    def test_dag_is_a_child_of_the_span_that_submits_it(self, traces):
        with traces.tracer.start_as_current_span("request"):
            carried = telemetry.carrier("etl")
        dag("start", system_time=T0)
        dag("stop", duration=1.0)

        spans = traces.spans()
        assert spans["dag etl"].parent == spans["request"].context
        own = spans["dag etl"].context
        assert carried == {"traceparent": f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"}

    def test_refused_dag_ends_though_it_never_started(self, traces):
        telemetry.carrier("etl")
        dag("exception", duration=0.0, status="failed", exception=ValueError("no room"))

        assert traces.spans()["dag etl"].status.status_code is StatusCode.ERROR

    def test_spans_inside_a_function_join_the_trace(self, traces):
        """As on a node: another thread, with nothing but what was carried."""

        def work() -> str:
            with traces.tracer.start_as_current_span("inside"):
                return f"for {baggage.get_baggage('tenant')}"

        token = context.attach(baggage.set_baggage("tenant", "acme"))
        try:
            carried = telemetry.carrier("etl")
        finally:
            context.detach(token)
        results: list[str] = []
        node = threading.Thread(target=lambda: results.append(bridge.run_in_context(carried, work)))
        node.start()
        node.join()
        dag("start", system_time=T0)
        dag("stop", duration=1.0)

        spans = traces.spans()
        assert results == ["for acme"]
        assert spans["inside"].context.trace_id == spans["dag etl"].context.trace_id
        assert spans["inside"].parent.span_id == spans["dag etl"].context.span_id

    def test_context_ends_with_the_function(self, traces):
        def fail() -> None:
            assert trace.get_current_span().get_span_context().is_valid
            raise KeyError("x")

        with pytest.raises(KeyError):
            bridge.run_in_context(telemetry.carrier("etl"), fail)

        assert not trace.get_current_span().get_span_context().is_valid
        dag("stop", duration=1.0)

    def test_nothing_carried_is_a_plain_call(self):
        assert telemetry.carrier("etl") == {}
        assert bridge.run_in_context({}, lambda: 3) == 3

    def test_instrumenting_twice_is_refused(self, traces):
        with pytest.raises(ValidationError, match=r"instrumented already; call uninstrument\(\) first"):
            bridge.instrument(traces.provider)

    def test_uninstrument_ends_what_is_open_and_lets_go(self):
        traces = Traces()
        bridge.instrument(traces.provider)
        dag("start", system_time=T0)
        function("start", system_time=T0, queue_time=0.0)

        bridge.uninstrument()
        bridge.uninstrument()

        assert {name: span.status.description for name, span in traces.spans().items()} == {
            "dag etl": "tracing was ended",
            "load": "tracing was ended",
        }
        assert telemetry.list_handlers() == []
        assert telemetry.carrier("etl") == {}

    def test_uninstrument_after_telemetry_has_detached_it(self, caplog):
        traces = Traces()
        bridge.instrument(traces.provider)
        telemetry.execute(("handoff", "execution", "dag", "start"), {}, {})  # a malformed event

        bridge.uninstrument()

        assert "has been detached" in caplog.text

    @pytest.mark.live
    def test_a_run_on_a_cluster(self, traces, tmp_path):
        """Both attempts of a function, one after the other, with what they raised."""
        absent = tmp_path / "absent"
        with small_cluster({"only": {"cpu": 2}}) as session, pytest.raises(FunctionFailedError):
            session.execute([Function("load", [], open, extra_args=[absent], cost={"cpu": 1})], max_retries=1)

        first, second, root = sorted(
            traces.exporter.get_finished_spans(), key=lambda span: span.name != "load"
        )
        assert [first.name, second.name] == ["load", "load"]
        assert [first.parent, second.parent] == [root.context] * 2
        assert [span.attributes["handoff.attempt"] for span in (first, second)] == [1, 2]
        assert [span.attributes["handoff.node"] for span in (first, second)] == ["only", "only"]
        assert {e.attributes["exception.type"] for s in (first, second) for e in s.events} == {
            "FileNotFoundError"
        }
        assert first.start_time <= first.end_time <= second.start_time <= second.end_time

    def test_without_opentelemetry(self):
        """The package imports, functions run, and instrument says what to install."""
        script = (
            "import sys\n"
            "sys.modules['opentelemetry'] = None\n"
            "from handoff_dask.bridges import opentelemetry as bridge\n"
            "assert bridge.run_in_context({'traceparent': 'x'}, lambda: 3) == 3\n"
            "try:\n"
            "    bridge.instrument()\n"
            "except ImportError as error:\n"
            "    print(error)\n"
        )
        said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

        assert said.stdout == 'OpenTelemetry is not installed here; do pip install "handoff-dask[otel]"\n'
