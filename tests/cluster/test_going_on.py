"""Executions that go on when functions have failed."""

from __future__ import annotations

import os
import pickle
import threading

import pytest
from clusters import all_forgotten, live, nothing_claimed
from distributed import Nanny
from stage import until

import handoff_dask as handoff
from handoff_dask import Argument, Failed, Function
from handoff_dask.errors import AllocationError


def load(n):
    if n in (2, 5):
        raise ValueError(f"file {n} is broken")
    return n


def total(*values):
    return sum(v for v in values if not isinstance(v, Failed))


def seen(*values):
    return [(v.function_id, repr(v.error)) if isinstance(v, Failed) else v for v in values]


def tagged(value, source, target):
    return ("tagged", value)


attempts: list[int] = []


def flaky():
    attempts.append(1)
    if len(attempts) < 3:
        raise OSError("not yet")
    return 7


def files(**more):
    """Eight files of which two are broken; what each comes to; and a sum of all."""
    dag = handoff.DAG("files")
    for n in range(8):
        dag.add_function(Function(("load", n), [], load, extra_args=[n], cost={"cpu": 1}, max_retries=0))
        dag.add_function(Function(("double", n), [("load", n)], lambda v: 2 * v, cost={"cpu": 1}))
    return dag.add_function(
        Function("total", [("double", n) for n in range(8)], total, cost={"cpu": 1}, **more)
    )


GOOD = [n for n in range(8) if n not in (2, 5)]


@live(1, 1)
async def test_all_that_does_not_need_what_failed_runs(c, s, a, b):
    async with handoff.Handoff(c) as session:
        execution = await session.submit(files(), on_failure="return")
        result = await execution
        assert execution.status == "failed"
        await nothing_claimed(s)
    assert result.results == {
        **{("load", n): n for n in GOOD},
        **{("double", n): 2 * n for n in GOOD},
    }
    assert {i: repr(e) for i, e in result.failed.items()} == {
        ("load", 2): "ValueError('file 2 is broken')",
        ("load", 5): "ValueError('file 5 is broken')",
    }
    first = next(iter(result.failed))
    assert result.skipped == {("double", 2): ("load", 2), ("double", 5): ("load", 5), "total": first}
    assert set(result.timings) == set(result.allocations) == set(result.results)
    states = {f.id: f.status for f in result.record.functions}
    assert (states["total"], states["double", 2], states["load", 2]) == ("skipped", "skipped", "failed")
    assert "file 5 is broken" in next(f.error for f in result.record.functions if f.id == ("load", 5))


@live(1, 1)
async def test_the_first_failure_is_raised_at_the_end(c, s, a, b):
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await session.execute(files(), on_failure="continue")
        error = caught.value
        assert error.function_id in [("load", 2), ("load", 5)]
        assert "(2 functions failed, 3 that need them were skipped)" in str(error)
        assert set(error.failed) == {("load", 2), ("load", 5)}
        assert set(error.skipped) == {("double", 2), ("double", 5), "total"}
        partial = await error.execution.partial()
        assert partial.results["double", 7] == 14
        assert set(partial.failed) == set(error.failed)
    again = pickle.loads(pickle.dumps(error))
    assert (again.failed.keys(), again.skipped, again.execution) == (error.failed.keys(), error.skipped, None)
    assert str(again) == str(error)


@pytest.mark.parametrize("accept", [False, True])
@live(1, 1)
async def test_with_outputs_all_the_rest_runs_too(c, s, a, b, accept):
    """What only fed a function that is skipped runs all the same: all failures are learned at once."""
    async with handoff.Handoff(c) as session:
        result = await session.execute(files(accept_failed=accept), on_failure="return", outputs=["total"])
        assert set(result.failed) == {("load", 2), ("load", 5)}
        assert set(result.timings) - {"total"} == {(w, n) for w in ("load", "double") for n in GOOD}
        assert result.results == ({"total": 2 * sum(GOOD)} if accept else {})
    await all_forgotten(s)


@live(1, 1)
async def test_a_function_may_accept_failures(c, s, a, b):
    dag = files(accept_failed=True)
    dag.add_function(Function("seen", [("load", 2), ("double", 5), ("load", 1)], seen, accept_failed=True))
    dag.add_function(Function("after", ["total"], str))
    dag.add_function(Function("needs", ["seen", ("load", 2)], str))
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, on_failure="return")
        await nothing_claimed(s)
        execution = await session.submit(dag, on_failure="continue")
        with pytest.raises(handoff.FunctionFailedError):
            await execution
        with pytest.raises(handoff.FunctionFailedError, match="file 5"):
            await execution.get_result(("load", 5))
        with pytest.raises(handoff.FunctionFailedError, match="file 5"):
            await execution.get_result(("double", 5))
        assert await execution.get_result("after") == "42"
    assert result.results["after"] == str(2 * sum(GOOD))
    assert result.results["seen"] == [
        (("load", 2), "ValueError('file 2 is broken')"),
        (("load", 5), "ValueError('file 5 is broken')"),
        1,
    ]
    assert set(result.failed) == {("load", 2), ("load", 5)}
    assert result.skipped == {
        ("double", 2): ("load", 2),
        ("double", 5): ("load", 5),
        "needs": ("load", 2),
    }


@live(1, 1)
async def test_failures_pass_arguments_on_their_way_and_inline_functions(c, s, a, b):
    dag = [
        Function("bad", [], load, extra_args=[2], max_retries=0),
        Function("good", [], load, extra_args=[3]),
        Function("half", ["bad"], lambda v: v / 2, type="inline"),
        Function("seen", [Argument("bad", (tagged,)), Argument("good", (tagged,)), "half"], seen,
                 accept_failed=True),
    ]  # fmt: skip
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, on_failure="return")
    gone = ("bad", "ValueError('file 2 is broken')")
    assert result.results["seen"] == [gone, ("tagged", 3), gone]
    assert result.skipped == {("serialize", 0, "bad", "seen"): "bad"}
    local = handoff.execute_local(dag, on_failure="return", max_retries=0)
    assert (local.results["seen"], local.skipped) == (result.results["seen"], result.skipped)


@live(1)
async def test_failures_are_tried_again_first(c, s, a):
    attempts.clear()
    dag = [Function("flaky", [], flaky), Function("seen", ["flaky"], seen, accept_failed=True)]
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, on_failure="return")
    assert result.results == {"flaky": 7, "seen": [7]}
    assert (result.failed, result.skipped) == ({}, {})


@live(1)
async def test_after_a_failure_is_not_run_even_by_who_accepts_it(c, s, a):
    dag = [
        Function("bad", [], load, extra_args=[2], max_retries=0),
        Function("later", [], int, after=["bad"], accept_failed=True),
        Function("seen", ["bad"], seen, accept_failed=True),
        Function("last", ["seen"], len, after=["seen"]),
    ]
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, on_failure="return")
    local = handoff.execute_local(dag, on_failure="return", max_retries=0)
    for one in (result, local):
        assert (one.results["last"], one.skipped) == (1, {"later": "bad"})


@live(1)
async def test_unless_it_goes_on_nobody_accepts_failures(c, s, a):
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await session.execute(files(accept_failed=True))
    assert len(caught.value.failed) == 1
    assert "total" in caught.value.skipped


@live(1, 1)
async def test_results_come_before_the_failure(c, s, a, b):
    got = set()

    async def gather(execution):
        async for i, _ in execution.as_completed():
            got.add(i)

    async with handoff.Handoff(c) as session:
        execution = await session.submit(files(), on_failure="continue")
        with pytest.raises(handoff.FunctionFailedError):
            await gather(execution)
        execution = await session.submit(files(accept_failed=True), on_failure="return")
        returned = {i async for i, _ in execution.as_completed()}
    assert got == {(what, n) for what in ("load", "double") for n in GOOD}
    assert returned == {*got, "total"}


@live(1)
async def test_a_failure_is_told_while_the_rest_runs(c, s, a, stage):
    dag = [
        Function("bad", [], load, extra_args=[2], max_retries=0, priority=1),
        Function("needs", ["bad"], str),
        stage.function("slow"),
    ]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag, on_failure="continue")
        for name in ("bad", "needs"):
            with pytest.raises(handoff.FunctionFailedError, match="file 2"):
                await execution.get_result(name, timeout=10)
        partial = await execution.partial()
        assert ({*partial.failed}, partial.skipped, partial.results) == ({"bad"}, {"needs": "bad"}, {})
        assert "file 2 is broken" in str(await execution.explain("needs"))
        stage.cue("slow")
        with pytest.raises(handoff.FunctionFailedError):
            await execution


@live(1, 1)
async def test_other_clients_are_told_of_failures(c, s, a, b, stage):
    dag = handoff.DAG("told").add_function(Function("bad", [], load, extra_args=[2], max_retries=0))
    dag.add_function(Function("needs", ["bad"], str))
    dag.add_function(Function("seen", ["bad"], seen, accept_failed=True))
    dag.add_function(stage.function("slow"))
    async with handoff.Handoff(c) as session, handoff.Handoff(c) as other:
        execution = await session.submit(dag, on_failure="return")
        for name in ("bad", "needs"):
            with pytest.raises(handoff.FunctionFailedError, match="file 2"):
                await other.get_result("told", name, timeout=10)
        assert await other.get_result("told", "seen", timeout=10) == [
            ("bad", "ValueError('file 2 is broken')")
        ]
        stage.cue("slow")
        await execution


@live(1)
async def test_telemetry_tells_each_failure_once(c, s, a):
    from handoff_dask.testing import capture_telemetry

    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            await session.execute(files(accept_failed=True), on_failure="return")
    failed = captured.of(("handoff", "execution", "function", "exception"))
    assert {e.metadata["function_id"] for e in failed} == {("load", 2), ("load", 5)}
    assert len(failed) == 2
    ended = captured.of(("handoff", "execution", "function", "stop"))
    assert len(ended) == 2 * len(GOOD) + 1
    (end,) = captured.of(("handoff", "execution", "dag", "exception"))
    assert end.metadata["status"] == "failed"


@live(1, 1, Worker=Nanny)
async def test_what_kills_its_workers_is_a_failure_like_others(c, s, a, b):
    dag = [
        Function("dies", [], os._exit, extra_args=[1]),
        Function("needs", ["dies"], str),
        Function("other", [], load, extra_args=[1]),
    ]
    s.allowed_failures = 0
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, on_failure="return")
    assert [type(e).__name__ for e in result.failed.values()] == ["KilledWorker"]
    assert (result.skipped, result.results) == ({"needs": "dies"}, {"other": 1})


class Opened:
    """A value that no node can load."""

    def __reduce__(self):
        return (int, ("no number",))


@pytest.mark.parametrize("allowed", [0, 1])
@live(2, 2, 2, 2)
async def test_what_kills_its_workers_may_be_accepted(c, s, *workers, allowed, stage):
    """Also when the node that then has the failure is lost: nothing runs again for that."""
    dag = [
        Function("one", [], load, extra_args=[1], cost={"cpu": 1}),
        stage.function(("dies", 1), ["one"], cost={"cpu": 1}),
        stage.function("slow", node="0", cost={"cpu": 1}, priority=9),
        Function("half", [("dies", 1)], lambda v: v, type="inline"),
        Function("needs", [("dies", 1)], str),
        Function("seen", ["half", ("dies", 1), "one", "needs"], seen, accept_failed=True, after=["slow"]),
    ]
    s.allowed_failures = allowed
    async with handoff.Handoff(c) as session:
        await session.register_node("0", {"cpu": 1})
        execution = await session.submit(dag, on_failure="return", outputs=["seen"])
        await stage.sees("slow", ("dies", 1))
        (dying,) = [t for t in s.tasks.values() if t.state == "processing" and t.processing_on.name != 0]
        for n in range(allowed + 1):
            await until(lambda n=n: stage.started.count(("dies", 1)) == n + 1)
            await s.remove_worker(dying.processing_on.address, stimulus_id="test-kill")
        await until(lambda: dying.state == "memory")
        (holder,) = dying.who_has
        if holder.name != 0:
            await s.remove_worker(holder.address, stimulus_id="test-kill")
            await until(lambda: dying.state == "memory")
        stage.cue("slow")
        result = await execution
        await nothing_claimed(s)
        del execution
    assert {i: type(e).__name__ for i, e in result.failed.items()} == {("dies", 1): "KilledWorker"}
    assert result.skipped == {"needs": ("dies", 1)}
    half, died, one, needs = result.results["seen"]
    assert one == 1
    for given in (half, died, needs):
        assert given[0] == ("dies", 1)
        assert given[1].startswith("KilledWorker")
    assert stage.started.count(("dies", 1)) == allowed + 1
    stage.cue(("dies", 1))
    await all_forgotten(s)


@live(1, 1)
async def test_what_fits_nowhere_any_more_may_be_accepted(c, s, a, b, stage):
    dag = [
        stage.function("slow", node="0"),
        Function("big", ["slow"], str, cost={"cpu": 5}),
        Function("needs", ["big"], str),
        Function("seen", ["big", "needs", "slow"], seen, accept_failed=True),
        Function("more", ["seen"], len),
    ]
    async with handoff.Handoff(c) as session:
        await session.register_node("1", {"cpu": 5})
        execution = await session.submit(dag, on_failure="return")
        await until(lambda: bool(stage.story))
        await session.register_node("1", {"cpu": 1})
        stage.cue("slow")
        result = await execution
    assert isinstance(result.failed["big"], AllocationError)
    assert (result.skipped, result.results["more"]) == ({"needs": "big"}, 3)
    big, needs, slow = result.results["seen"]
    assert (big[0], needs[0], slow) == ("big", "big", "slow")
    assert big[1].startswith("AllocationError")


@pytest.mark.parametrize("value", [Opened, threading.Lock])
@live(1, 1)
async def test_what_cannot_read_its_argument_may_be_accepted(c, s, a, b, value):
    dag = [
        Function("opaque", [], value, node="0"),
        Function("reads", ["opaque"], str, node="1", max_retries=0),
        Function("again", ["opaque"], str, node="1", max_retries=1),
        Function("seen", ["reads", "again"], seen, accept_failed=True),
    ]
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, on_failure="return", outputs=["seen"])
    assert {*result.failed} == {"reads", "again"}
    assert [given[0] for given in result.results["seen"]] == ["reads", "again"]


@live(1, 1)
async def test_what_fits_nowhere_any_more_is_a_failure_like_others(c, s, a, b, stage):
    dag = [
        stage.function("slow", node="0"),
        Function("pinned", ["slow"], str, cost={"cpu": 5}),
        Function("other", ["slow"], str),
    ]
    async with handoff.Handoff(c) as session:
        await session.register_node("1", {"cpu": 5})
        execution = await session.submit(dag, on_failure="return")
        await until(lambda: bool(stage.story))
        await session.register_node("1", {"cpu": 1})
        stage.cue("slow")
        result = await execution
    assert isinstance(result.failed["pinned"], AllocationError)
    assert result.results == {"slow": "slow", "other": "slow"}


@pytest.mark.parametrize("value", ["go", None, True])
def test_other_choices_are_refused(value):
    with pytest.raises(handoff.ValidationError, match="on_failure is"):
        handoff.execute_local([], on_failure=value)
