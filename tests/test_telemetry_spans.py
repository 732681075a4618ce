"""Spans, and the trace that a DAG carries."""

from __future__ import annotations

from unittest import mock

import pytest
from heard import WORK, Heard

from handoff_dask import telemetry
from handoff_dask.errors import ValidationError


class TestSpan:
    @pytest.fixture
    def heard(self):
        heard = Heard()
        telemetry.attach_many("span", [(*WORK, part) for part in ("start", "stop", "exception")], heard)
        yield heard
        telemetry.detach("span")

    def test_start_then_stop(self, heard):
        with (
            mock.patch("time.time", side_effect=[1000.5]),
            mock.patch("time.monotonic", side_effect=[7.0, 9.5]),
            telemetry.span(WORK, {"by": "me"}),
        ):
            assert len(heard) == 1

        assert heard == [
            ((*WORK, "start"), {"system_time": 1000.5}, {"by": "me"}, None),
            ((*WORK, "stop"), {"duration": 2.5}, {"by": "me"}, None),
        ]

    def test_start_then_exception(self, heard):
        error = KeyError("x")
        with pytest.raises(KeyError) as caught, telemetry.span(WORK, {"by": "me"}):
            raise error

        assert caught.value is error
        [started, ended] = heard
        assert started[2] == {"by": "me"}
        assert (ended[0], ended[2]) == ((*WORK, "exception"), {"by": "me", "exception": error})
        assert list(ended[1]) == ["duration"]
        assert ended[1]["duration"] >= 0

    def test_stop_repeats_the_metadata_of_the_start(self, heard):
        metadata = {"by": "me"}
        with telemetry.span(WORK, metadata) as span:
            metadata["by"] = "you"
            span.measurements["items"] = 3
            span.metadata["found"] = True

        assert heard[0][2] == {"by": "me"}
        assert heard[1][2] == {"by": "me", "found": True}
        assert heard[1][1]["items"] == 3

    def test_metadata_may_be_left_out(self, heard):
        with telemetry.span(WORK):
            pass

        assert [(call[0][-1], call[2]) for call in heard] == [("start", {}), ("stop", {})]

    def test_bad_arguments_are_refused_before_the_block_runs(self, heard):
        with pytest.raises(ValidationError, match="prefix 'app' is not a tuple"):
            telemetry.span("app")
        with pytest.raises(ValidationError, match=r"metadata of span .* are 3"):
            telemetry.span(WORK, 3)
        assert heard == []


class TestCarrier:
    def test_dag_carries_what_all_sources_give(self):
        remove_first = telemetry.add_carrier(lambda dag_id: {"first": str(dag_id)})
        remove_second = telemetry.add_carrier(lambda dag_id: {"second": "2"})
        try:
            assert telemetry.carrier("d") == {"first": "d", "second": "2"}
        finally:
            remove_first()
            remove_second()
        assert telemetry.carrier("d") == {}

    def test_it_is_known_whether_anything_is_carried(self):
        before = telemetry.carries()
        remove = telemetry.add_carrier(lambda dag_id: {})
        try:
            during = telemetry.carries()
        finally:
            remove()
        assert (before, during, telemetry.carries()) == (False, True, False)

    def test_source_that_raises_is_logged(self, caplog):
        remove = telemetry.add_carrier(lambda dag_id: 1 / 0)
        try:
            assert telemetry.carrier("d") == {}
        finally:
            remove()
        assert "the DAG 'd' goes without the context of" in caplog.text
