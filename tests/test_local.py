"""Execution in this process."""

from __future__ import annotations

import contextvars
import gc
import threading
import weakref

import pytest

from handoff_dask import telemetry
from handoff_dask.errors import FunctionFailedError, InvalidFunctionError, ValidationError
from handoff_dask.graph.dag import as_dag
from handoff_dask.graph.functions import Argument, Collocated, Function
from handoff_dask.local import execute_local


def f(key, *args, **fields):
    return Function(key, args, fields.pop("code"), **fields)


class Flaky:
    """Raises the first times it is called."""

    def __init__(self, failures):
        self.failures, self.calls = failures, 0

    def __call__(self, *args):
        self.calls += 1
        if self.calls <= self.failures:
            raise OSError(f"call {self.calls}")
        return self.calls


def test_results_allocations_timings_and_record():
    dag = as_dag(
        [
            Function("x", [], None, type="input"),
            f("twice", "x", code=lambda x: 2 * x, type="inline"),
            f("a", "twice", code="builtins:str", cost={"cpu": 10**9}, node="nowhere"),
            f("b", "a", "a", code=lambda *args: args, argument_inclusion="variadic", node=Collocated("a")),
            f("c", "a", "b", code=len, argument_inclusion="as_list", duration=3.0),
        ]
    )
    result = execute_local(dag, inputs={"x": 4})

    assert result.dag_id == dag.id
    assert result.results == {"a": "8", "b": ("8", "8"), "c": 2}
    assert result.allocations == {"a": "local", "b": "local", "c": "local"}
    assert list(result.timings) == ["a", "b", "c"]
    assert all(t.attempts == 1 and t.start <= t.stop for t in result.timings.values())
    record = result.record
    assert (record.status, [f.id for f in record.functions]) == ("finished", ["x", "twice", "a", "b", "c"])
    assert [f.status for f in record.functions] == ["none", "none", "finished", "finished", "finished"]
    assert record.submitted <= record.functions[2].start <= record.functions[2].stop <= record.ended
    last = record.functions[4]
    assert (last.name, last.args, last.node, last.duration_s) == ("len", ("a", "b"), "local", 3.0)
    assert list(record.nodes) == ["local"]


def test_arguments_are_changed_on_their_way():
    def told(value, source, target, *extra):
        return (value, source, target, *extra)

    dag = [f("p", code=int), f("c", Argument("p", (told, 1), (told, 2)), code=lambda v: v)]
    result = execute_local(dag)

    assert result.results == {
        "p": 0,
        ("serialize", 0, "p", "c"): (0, "local", "local", 1),
        ("deserialize", 0, "p", "c"): ((0, "local", "local", 1), "local", "local", 2),
        "c": ((0, "local", "local", 1), "local", "local", 2),
    }
    assert set(result.allocations) == set(result.timings) == set(result.results)


def test_a_function_is_tried_again_as_often_as_it_says():
    own, inherited = Flaky(2), Flaky(1)
    result = execute_local([f("own", code=own, max_retries=2), f("inherited", code=inherited)], max_retries=1)

    assert result.results == {"own": 3, "inherited": 2}
    assert [result.timings[key].attempts for key in ("own", "inherited")] == [3, 2]


@pytest.mark.parametrize(
    ("of_function", "of_run", "attempts"), [(None, 3, 4), (0, 3, 1), (2, 0, 3), (None, 0, 1)]
)
def test_a_function_that_fails_for_good_fails_the_run_at_once(of_function, of_run, attempts):
    code, never = Flaky(99), Flaky(0)
    dag = [f("bad", code=code, max_retries=of_function), f("next", code=never)]
    with pytest.raises(FunctionFailedError) as failure:
        execute_local(dag, max_retries=of_run)

    assert (failure.value.function_id, failure.value.node, failure.value.attempts) == (
        "bad",
        "local",
        attempts,
    )
    assert str(failure.value.__cause__) == f"call {attempts}"
    assert (code.calls, never.calls) == (attempts, 0)


def test_a_string_that_names_nothing_fails_its_function():
    with pytest.raises(FunctionFailedError, match="no_such_module") as failure:
        execute_local([f("a", code="no_such_module:f")], max_retries=0)
    assert isinstance(failure.value.__cause__, ModuleNotFoundError)


def test_an_inline_function_fails_its_dependent():
    with pytest.raises(FunctionFailedError) as failure:
        execute_local([f("i", code=Flaky(9), type="inline"), f("a", "i", code=abs)], max_retries=1)
    assert failure.value.function_id == "a"


def test_inline_functions_are_recomputed_in_each_dependent():
    inline = Flaky(0)
    dag = [f("i", code=inline, type="inline"), f("a", "i", "i", code=min), f("b", "i", code=abs)]

    assert execute_local(dag).results == {"a": 1, "b": 2}


def test_larger_priority_runs_earlier():
    ran = []
    dag = [
        f("low", code=lambda: ran.append("low")),
        f("high", code=lambda: ran.append("high"), priority=2),
        f("after", "high", code=lambda _: ran.append("after"), priority=1),
    ]
    execute_local(dag)

    assert ran == ["high", "after", "low"]


class Big:
    """A value whose end can be seen."""


def test_outputs_limit_what_runs_and_what_is_kept():
    seen, never = [], Flaky(0)

    def make():
        value = Big()
        seen.append(weakref.ref(value))
        return value

    def look(_):
        return "looked"

    def end(_):
        gc.collect()
        return seen[-1]() is None

    dag = [f("big", code=make), f("look", "big", code=look), f("end", "look", code=end), f("z", code=never)]
    result = execute_local(dag, outputs=["end"])

    assert result.results == {"end": True}
    assert list(result.allocations) == ["big", "look", "end"]
    assert never.calls == 0
    assert execute_local(dag).results["end"] is False


def test_executing_again_runs_again():
    code = Flaky(0)
    dag = as_dag([f("a", code=code)])

    assert [execute_local(dag).results["a"] for _ in range(2)] == [1, 2]


def test_long_chains_need_no_deep_stack():
    dag = [f(i, *([i - 1] if i else []), code=lambda x=0: x + 1) for i in range(5_000)]

    assert execute_local(dag, outputs=[4_999]).results == {4_999: 5_000}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": True}, "max_retries"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": "1s"}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"max_retrys": 1}, "did you mean 'max_retries'"),
        ({"colour": 1}, "the options are "),
        ({"inputs": {"a": 1}}, "no input"),
        ({"outputs": ["z"]}, "outputs"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(options, why):
    code = Flaky(0)
    with pytest.raises(ValidationError, match=why):
        execute_local([f("a", code=code)], **options)
    assert code.calls == 0


def test_a_wrong_dag_is_refused_before_anything_runs():
    code = Flaky(0)
    dag = [f("a", code=code), f("i", code=abs, type="inline"), f("b", Argument("i", (abs,)), code=abs)]
    with pytest.raises(InvalidFunctionError):
        execute_local(dag)
    assert code.calls == 0


def test_options_about_nodes_mean_nothing_here():
    result = execute_local(
        [f("a", code=int)],
        client=None,
        allocation_strategy="fastest",
        allocator=None,
        resources=[{"node": "n", "capabilities": {}}],
        max_concurrency=1,
    )
    assert result.results == {"a": 0}


def test_a_run_that_takes_too_long_is_left_behind():
    """The caller goes on at once; what follows the function that hangs never starts."""
    release, ended, never = threading.Event(), threading.Event(), Flaky(0)

    def hang():
        release.wait(30)
        ended.set()

    events = []
    with pytest.raises(TimeoutError, match=r"'d'|within 0\.05 s"):
        execute_local(
            [f("a", code=hang), f("b", "a", code=never)],
            timeout=0.05,
            on_event=lambda *event: events.append(event),
        )
    release.set()
    assert ended.wait(30)
    for thread in threading.enumerate():
        if thread.name == "handoff-local":
            thread.join(30)
    assert never.calls == 0
    assert [event[2:] for event, _, _ in events] == [
        ("dag", "start"),
        ("function", "start"),
        ("function", "exception"),
        ("dag", "exception"),
    ]
    assert [about.get("status") for _, _, about in events] == ["running", None, None, "cancelled"]
    assert isinstance(events[2][2]["exception"], TimeoutError)


def test_a_timeout_that_is_not_reached_changes_nothing():
    mark = contextvars.ContextVar("mark")
    mark.set("here")

    assert execute_local([f("a", code=mark.get)], timeout=60).results == {"a": "here"}
    with pytest.raises(FunctionFailedError, match="call 1") as failure:
        execute_local([f("a", code=Flaky(9))], timeout=60, max_retries=0)
    assert isinstance(failure.value.__cause__, OSError)


def test_an_interrupt_ends_the_run():
    def interrupt():
        raise KeyboardInterrupt

    events = []
    with pytest.raises(KeyboardInterrupt):
        execute_local([f("a", code=interrupt)], on_event=lambda event, *_: events.append(event[2:]))
    assert events == [
        ("dag", "start"),
        ("function", "start"),
        ("function", "exception"),
        ("dag", "exception"),
    ]


def test_every_attempt_is_told():
    events = []
    with pytest.raises(FunctionFailedError) as failure:
        execute_local(
            [f("a", code=Flaky(1)), f("b", "a", code=Flaky(9), max_retries=0, cost={"cpu": 1})],
            on_event=lambda *event: events.append(event),
        )
    names = [event[2:] for event, _, _ in events]
    assert names == [
        ("dag", "start"),
        ("function", "start"),
        ("function", "retry"),
        ("function", "start"),
        ("function", "stop"),
        ("function", "start"),
        ("function", "exception"),
        ("dag", "exception"),
    ]
    for event, measurements, metadata in events:
        description = telemetry.EVENTS[event]
        # What functions use is measured on nodes only.
        assert set(measurements) == set(description.measurements) - {"cpu_s", "peak_memory_mb", "exact"}
        assert set(metadata) == set(description.metadata)
    assert [about["attempt"] for _, _, about in events[1:-1]] == [1, 1, 2, 2, 1, 1]
    assert events[2][2]["exception"].args == ("call 1",)
    assert events[5][2]["cost"] == {"cpu": 1}
    assert events[-1][2]["exception"] is failure.value
    assert (events[0][2]["function_count"], events[-1][2]["status"]) == (2, "failed")


def test_handlers_hear_of_it():
    heard = []
    telemetry.attach(
        "test-local", ("handoff", "execution", "dag", "stop"), lambda *event: heard.append(event)
    )
    try:
        execute_local([f("a", code=int)])
    finally:
        telemetry.detach("test-local")

    assert [about["status"] for _, _, about, _ in heard] == ["finished"]


def test_a_value_that_cannot_be_measured_is_a_value():
    class Shy:
        def __sizeof__(self):
            raise RuntimeError

    result = execute_local([f("a", code=Shy)])

    assert isinstance(result.results["a"], Shy)
    assert result.record.functions[0].nbytes is None


def test_an_execution_may_go_on():
    dag = [
        Function("bad", [], int, extra_args=["x"]),
        Function("needs", ["bad"], str),
        Function("good", [], int, extra_args=["7"]),
        Function("seen", ["needs", "good"], lambda *values: values, accept_failed=True),
    ]
    result = execute_local(dag, on_failure="return", max_retries=0)

    failed, good = result.results["seen"]
    assert (failed.function_id, type(failed.error), good) == ("bad", ValueError, 7)
    assert (result.failed.keys(), result.skipped) == ({"bad"}, {"needs": "bad"})
    assert result.allocations == {"good": "local", "seen": "local"}
    assert (result.record.status, [f.status for f in result.record.functions]) == (
        "failed",
        ["failed", "skipped", "finished", "finished"],
    )
    with pytest.raises(FunctionFailedError, match="1 that needs it was skipped") as caught:
        execute_local(dag, on_failure="continue", max_retries=0)
    assert (caught.value.skipped, caught.value.execution) == ({"needs": "bad"}, None)
    with pytest.raises(FunctionFailedError) as caught:
        execute_local(dag, max_retries=0)
    assert caught.value.skipped == {"needs": "bad", "seen": "bad"}
