"""What users' own tests are given."""

from __future__ import annotations

import os
import threading
from typing import Any

import psutil
import pytest

import handoff_dask
from handoff_dask import telemetry
from handoff_dask.errors import FunctionFailedError, ValidationError
from handoff_dask.graph.functions import Function
from handoff_dask.local import execute_local
from handoff_dask.placement.strategy_check import check_strategy
from handoff_dask.telemetry import EVENTS, HANDLER_FAILURE
from handoff_dask.testing import Captured, capture_telemetry, small_cluster

FUNCTION = ("handoff", "execution", "function")
DAG = ("handoff", "execution", "dag")


def function(part: str, attempt: int = 1, function_id: Any = "f", dag_id: Any = "d") -> None:
    telemetry.execute(
        (*FUNCTION, part), {}, {"dag_id": dag_id, "function_id": function_id, "attempt": attempt}
    )


def dag(part: str, dag_id: Any = "d") -> None:
    telemetry.execute((*DAG, part), {}, {"dag_id": dag_id})


def claim(part: str, node: str = "a", **amounts: float) -> None:
    telemetry.execute(
        ("handoff", "resources", part),
        {"amounts": amounts, "available": {}},
        {"dag_id": "d", "function_id": "f", "node": node},
    )


class TestCapture:
    def test_everything_of_handoff_and_only_in_the_block(self):
        with capture_telemetry() as captured:
            for event in EVENTS:
                telemetry.execute(event, {"n": 1}, {"x": 2})
            telemetry.execute(("app", "work"), {}, {})
        telemetry.execute(("handoff", "node", "up"), {}, {})

        assert captured == [Captured(event, {"n": 1}, {"x": 2}) for event in EVENTS]
        assert telemetry.list_handlers() == []

    def test_prefixes_and_own_events(self):
        with capture_telemetry(("handoff", "node"), HANDLER_FAILURE, ("app", "work")) as captured:
            telemetry.execute(("handoff", "node", "up"), {}, {})
            telemetry.execute(("handoff", "resources", "claim"), {}, {})
            telemetry.execute(("app", "work"), {}, {})
            with telemetry.span(("app", "work")):
                pass
            telemetry.attach("bad", ("app", "bad"), lambda *_: 1 / 0)
            telemetry.execute(("app", "bad"), {}, {})

        assert [c.event for c in captured] == [
            ("handoff", "node", "up"),
            ("app", "work"),
            ("app", "work", "start"),
            ("app", "work", "stop"),
            HANDLER_FAILURE,
        ]

    def test_blocks_may_be_nested(self):
        with capture_telemetry() as outer:
            dag("start")
            with capture_telemetry() as inner:
                dag("stop")

        assert [c.event[-1] for c in outer] == ["start", "stop"]
        assert [c.event[-1] for c in inner] == ["stop"]

    def test_ends_with_the_block_though_it_raises(self):
        with pytest.raises(KeyError), capture_telemetry():
            raise KeyError

        assert telemetry.list_handlers() == []

    def test_bad_names_are_refused(self):
        with pytest.raises(ValidationError, match="not a tuple of strings"), capture_telemetry("handoff"):
            pass
        with pytest.raises(ValidationError, match="the event is empty"), capture_telemetry(()):
            pass

    def test_of_selects_by_name_and_metadata(self):
        with capture_telemetry() as captured:
            function("start", 1)
            function("start", 2)
            function("stop", 2)
            dag("stop")

        assert captured.of((*FUNCTION, "start"), attempt=2) == [captured[1]]
        assert captured.of(FUNCTION, attempt=2) == captured[1:3]
        assert captured.of((), dag_id="d") == captured
        assert captured.of(DAG, attempt=2) == []

    def test_wait_for_what_another_thread_tells(self):
        with capture_telemetry() as captured:
            teller = threading.Timer(0.01, lambda: (dag("start"), dag("stop")))
            teller.start()

            assert captured.wait_for((*DAG, "stop"), dag_id="d") == [captured[1]]
            teller.join()

    def test_wait_for_what_never_comes(self):
        with capture_telemetry() as captured:
            dag("start")
            with pytest.raises(AssertionError, match=r"1 events .* in 0.01 s, not 2; captured were .*: 1"):
                captured.wait_for((*DAG, "start"), 2, timeout=0.01)

    def test_a_run_in_this_process_balances(self):
        """What `execute_local` tells, seen as a user's test would."""
        attempts = iter([ValueError("first"), None])

        def flaky(value):
            if error := next(attempts):
                raise error
            return value

        with capture_telemetry() as captured:
            execute_local([Function("a", [], int, extra_args=["20"]), Function(("b", 1), ["a"], flaky)])

        captured.balance()
        assert [c.event[-1] for c in captured.of(FUNCTION, function_id=("b", 1))] == [
            "start",
            "retry",
            "start",
            "stop",
        ]


class TestBalance:
    def test_of_a_whole_run(self):
        with capture_telemetry() as captured:
            for _ in range(2):  # an execution counts its attempts anew
                dag("start")
                claim("claim", cpu=1)
                function("start", 1)
                function("retry", 1)
                function("start", 2)
                function("start", 1, "other")
                function("stop", 2)
                claim("release", cpu=1)
                function("exception", 1, "other")
                dag("exception")

        captured.balance()

    @pytest.mark.parametrize(
        ("told", "problem"),
        [
            ([("start", 1)], "'f' of 'd', attempt 1 has not ended"),
            ([("stop", 1)], "'f' of 'd', attempt 1 ends (stop) but was not running"),
            (
                [("start", 1), ("stop", 1), ("exception", 1)],
                "'f' of 'd', attempt 1 ends (exception) but was not running",
            ),
            (
                [("start", 1), ("start", 2), ("stop", 2)],
                "'f' of 'd', attempt 1 has not ended when attempt 2 starts",
            ),
            ([("start", 2), ("stop", 2)], "'f' of 'd', attempt 2 follows attempt 0"),
            (
                [("start", 1), ("retry", 1), ("start", 1), ("stop", 1)],
                "'f' of 'd', attempt 1 follows attempt 1",
            ),
        ],
    )
    def test_of_attempts(self, told, problem):
        with capture_telemetry() as captured:
            for part, attempt in told:
                function(part, attempt)

        with pytest.raises(AssertionError) as caught:
            captured.balance()
        assert str(caught.value) == f"telemetry does not balance:\n  {problem}"

    @pytest.mark.parametrize(
        ("told", "problem"),
        [
            ([("claim", "a", 1)], "'f' of 'd' has not returned {'cpu': 1} on a"),
            ([("release", "a", 1)], "'f' of 'd' returns {'cpu': 1} on a, which it has not claimed"),
            (
                [("claim", "a", 1), ("release", "b", 1)],
                "'f' of 'd' returns {'cpu': 1} on b, which it has not claimed\n"
                "  'f' of 'd' has not returned {'cpu': 1} on a",
            ),
        ],
    )
    def test_of_claims(self, told, problem):
        with capture_telemetry() as captured:
            for part, node, cpu in told:
                claim(part, node, cpu=cpu)

        with pytest.raises(AssertionError) as caught:
            captured.balance()
        assert str(caught.value) == f"telemetry does not balance:\n  {problem}"

    def test_of_dags(self):
        with capture_telemetry() as captured:
            dag("stop", "one")
            dag("start", "two")

        with pytest.raises(AssertionError) as caught:
            captured.balance()
        assert str(caught.value).splitlines()[1:] == [
            "  DAG 'one' ends (stop) but was not running",
            "  DAG 'two' has not ended",
        ]


class TestCheckStrategy:
    def test_accepts_what_gives_every_function_a_node(self):
        def largest(function, nodes):
            return max(nodes, key=lambda node: node.available.get("cpu", 0)).name

        check_strategy("first_available")
        check_strategy(largest)

    def test_refuses_what_names_a_node_that_is_not_there(self):
        with pytest.raises(AssertionError, match="nowhere"):
            check_strategy(lambda function, nodes: "nowhere")


def process_of(value: Any) -> tuple[int, Any]:
    return os.getpid(), value


@pytest.mark.live
class TestSmallCluster:
    def test_runs_functions_in_this_process_on_the_nodes_it_is_given(self):
        nodes = {"big": {"cpu": 8, "zone": "eu"}, "small": {"cpu": 1}}
        with small_cluster(nodes) as session:
            offered = session.discover_nodes()
            result = session.execute(
                [
                    Function("a", [], process_of, extra_args=[1], cost={"cpu": 3}),
                    Function("b", ["a"], process_of, node="small"),
                ]
            )

        assert {name: {k: has[k] for k in nodes[name]} for name, has in offered.items()} == nodes
        assert result.results == {"a": (os.getpid(), 1), "b": (os.getpid(), (os.getpid(), 1))}
        assert result.allocations == {"a": "big", "b": "small"}

    def test_what_it_tells_balances(self):
        def fail():
            raise ValueError("always")

        with small_cluster() as session, capture_telemetry() as captured:
            session.execute(
                [Function("a", [], int, cost={"cpu": 1}), Function("b", ["a"], str)], max_retries=0
            )
            with pytest.raises(FunctionFailedError):
                session.execute([Function("f", [], fail, cost={"cpu": 1})], max_retries=1)
            captured.wait_for(("handoff", "resources", "release"), 3)

        captured.balance()
        assert [c.event[-1] for c in captured.of(FUNCTION, function_id="f")] == [
            "start",
            "retry",
            "start",
            "exception",
        ]

    def test_code_under_test_finds_it(self):
        """What calls the module's functions runs on it, for the block."""
        with small_cluster({"only": {"cpu": 2}}):
            result = handoff_dask.execute([Function("f", [], int)])

        assert result.allocations == {"f": "only"}

    def test_bad_capabilities_are_refused_before_anything_starts(self):
        with pytest.raises(ValidationError, match="is not an amount"), small_cluster({"a": {"cpu": -1}}):
            pass

    def test_listens_nowhere_but_here(self):
        with small_cluster() as session:
            addresses = {
                server.laddr.ip
                for server in psutil.Process().net_connections("tcp")
                if server.status == psutil.CONN_LISTEN
            }
            assert len(session.discover_nodes()) == 2

        assert addresses == {"127.0.0.1"}
