"""Telemetry as lines in a log."""

from __future__ import annotations

import logging

import pytest
from telling import T0, dag, function, tell

from handoff_dask import telemetry
from handoff_dask.bridges.logging import attach_logging, detach_logging
from handoff_dask.errors import NotFoundError, ValidationError


class TestLogging:
    @pytest.fixture
    def lines(self, caplog):
        """What was logged since, as (level, line)."""
        caplog.set_level(logging.DEBUG, "handoff_dask")
        yield lambda: [(r.levelname, r.getMessage()) for r in caplog.records]
        for handler in {h.handler_id for h in telemetry.list_handlers()}:
            telemetry.detach(handler)

    def test_a_line_per_event(self, lines):
        attach_logging()
        dag("start", system_time=T0)
        tell(
            "allocation", "function", wait_time=0.25, candidates=3,
            dag_id="etl", function_id="load", node="a", strategy="fastest", reason="",
        )  # fmt: skip
        tell(
            "resources", "claim", amounts={"cpu": 2}, available={"cpu": 0},
            node="a", dag_id="etl", function_id="load",
        )  # fmt: skip
        function("start", system_time=T0, queue_time=0.5)
        function("retry", duration=1.0, exception=ValueError("first"))
        function("start", attempt=2, system_time=T0, queue_time=0.0)
        function("stop", attempt=2, duration=0.12345, nbytes=800)
        function("exception", ("b", 1), duration=2.0, exception=ValueError("second"))
        dag("exception", duration=4.0, status="failed", exception=RuntimeError("third"))
        dag("exception", duration=4.0, status="cancelled", exception=None)
        dag("stop", duration=4.0)
        tell("node", "up", capabilities={"cpu": 2}, node="a", address="tcp://127.0.0.1:1")
        tell("node", "update", capabilities={"cpu": 1}, node="a", address="tcp://127.0.0.1:1")
        tell("node", "down", capabilities={"cpu": 1}, node="a", address="tcp://127.0.0.1:1")

        assert lines() == [
            ("INFO", "DAG 'etl' starts: 2 functions, fastest"),
            ("INFO", "'load' of 'etl' goes to a by fastest: 3 candidates, waited 0.250 s for nothing"),
            ("INFO", "'load' of 'etl' starts on a: attempt 1, cost {'cpu': 2}, queued 0.500 s"),
            (
                "WARNING",
                "'load' of 'etl' is tried again; attempt 1 failed on a after 1.000 s: ValueError: first",
            ),
            ("INFO", "'load' of 'etl' starts on a: attempt 2, cost {'cpu': 2}, queued 0.000 s"),
            ("INFO", "'load' of 'etl' has finished on a after 0.123 s: 800 bytes"),
            ("ERROR", "('b', 1) of 'etl' has failed on a after 2.000 s, attempt 1: ValueError: second"),
            ("ERROR", "DAG 'etl' has failed after 4.000 s: RuntimeError: third"),
            ("WARNING", "DAG 'etl' was cancelled after 4.000 s"),
            ("INFO", "DAG 'etl' has finished after 4.000 s"),
            ("INFO", "node a is up: {'cpu': 2}"),
            ("INFO", "node a has changed: {'cpu': 1}"),
            ("WARNING", "node a is down"),
        ]

    def test_level_and_logger_are_the_users(self, lines, caplog):
        attach_logging("handoff_dask.mine", "debug")
        dag("start", system_time=T0)
        dag("exception", duration=4.0, status="failed", exception=(error := RuntimeError("x")))

        assert [(r.name, r.levelname) for r in caplog.records] == [
            ("handoff_dask.mine", "DEBUG"),
            ("handoff_dask.mine", "ERROR"),
        ]
        assert caplog.records[1].exc_info[1] is error

    def test_a_level_that_is_off_costs_no_formatting(self, lines):
        class Unprintable:
            def __repr__(self):
                raise AssertionError("formatted for nobody")

        logging.getLogger("handoff_dask.quiet").setLevel(logging.WARNING)
        attach_logging("handoff_dask.quiet")
        dag("start", Unprintable(), system_time=T0)

        assert lines() == []

    def test_records_carry_the_event_for_structured_logs(self, lines, caplog):
        attach_logging(logging.getLogger("handoff_dask.mine"))
        dag("stop", duration=4.0)

        [record] = caplog.records
        assert record.handoff_event == ("handoff", "execution", "dag", "stop")
        assert record.handoff_measurements == {"duration": 4.0}
        assert record.handoff_metadata["dag_id"] == "etl"

    def test_chosen_events_of_handoff_and_of_the_user(self, lines):
        attach_logging(
            events=[("app", "work"), ("handoff", "resources", "claim"), ("handoff", "resources", "release")],
            handler_id="mine",
        )
        telemetry.execute(("app", "work"), {"items": 2}, {"status": "cancelled"})
        for part in ("claim", "release"):
            tell(
                "resources",
                part,
                amounts={"cpu": 2},
                available={"cpu": 1},
                node="a",
                dag_id=1,
                function_id="f",
            )
        dag("start", system_time=T0)

        assert lines() == [
            ("INFO", "app.work: {'items': 2}, {'status': 'cancelled'}"),
            ("INFO", "'f' of 1 claims {'cpu': 2} on a; left {'cpu': 1}"),
            ("INFO", "'f' of 1 returns {'cpu': 2} on a; left {'cpu': 1}"),
        ]

    def test_what_was_not_told_is_a_question_mark(self, lines):
        attach_logging()
        telemetry.execute(("handoff", "node", "down"), {}, {})

        assert lines() == [("WARNING", "node ? is down")]

    @pytest.mark.parametrize("level", ["LOUD", None, 1.5, True])
    def test_bad_level(self, level):
        with pytest.raises(ValidationError, match="is not a level"):
            attach_logging(level=level)

    def test_detach(self, lines):
        attach_logging()
        with pytest.raises(ValidationError, match="attached already"):
            attach_logging()
        detach_logging()
        dag("start", system_time=T0)

        assert lines() == []
        with pytest.raises(NotFoundError):
            detach_logging()
