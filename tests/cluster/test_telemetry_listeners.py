"""Telemetry on a cluster: what is sent ahead, nodes, who listens when."""

from __future__ import annotations

import logging

import pytest
from clusters import live, nothing_claimed
from codes import Colour, boom, same
from distributed import Client, Worker
from stage import until
from telemetry_checks import ALLOCATION, CLAIM, DAG, FUNCTION, NODE, RELEASE, check_amounts

import handoff_dask as handoff
from handoff_dask import Function, telemetry
from handoff_dask.scheduler.mailboxes import Mailboxes
from handoff_dask.scheduler.telemetry import Telemetry
from handoff_dask.testing import capture_telemetry


@live(2, 2)
async def test_functions_sent_ahead(c, s, a, b):
    """Very short functions follow each other on a node without asking; the account is still exact."""
    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            dag = [Function(n, [], same, cost={"cpu": 1, "memory": 100}) for n in range(300)]
            dag.append(Function("sum", range(300), same, argument_inclusion="as_list"))
            result = await session.execute(dag)
            execution = await session.submit(dag)
            again = await execution
            explanations = [await execution.explain(n) for n in range(300)]
    assert any(explanation.sent_ahead for explanation in explanations)
    captured.balance()
    check_amounts(captured)
    assert len(captured.of((*FUNCTION, "start"))) == 602
    # On a busy machine some are taken back before they begin, and sent again.
    assert len(captured.of(ALLOCATION)) >= 602
    assert len(captured.of(CLAIM)) == 600
    assert {t.attempts for t in (*result.timings.values(), *again.timings.values())} == {1}


@live(2, 2)
async def test_functions_sent_ahead_are_cancelled_unheard(c, s, a, b, stage):
    """Those that had not begun when the DAG was cancelled were no attempts."""
    async with handoff.Handoff(c) as session:
        await session.execute([Function(n, [], same, cost={"cpu": 1}, duration=0.001) for n in range(50)])
        with capture_telemetry() as captured:
            blockers = [stage.function(f"b{n}", duration=0.001, cost={"cpu": 1}) for n in range(40)]
            execution = await session.submit(blockers)
            await stage.counts(4)
            await until(lambda: len(captured.of((*FUNCTION, "start"))) == 4)
            assert len(captured.of(ALLOCATION)) > 4
            await execution.cancel()
            stage.close()
            await nothing_claimed(s)
            await until(lambda: len(captured.of(RELEASE)) == 4)
    captured.balance()
    assert len(captured.of((*FUNCTION, "exception"))) == len(captured.of(CLAIM)) == 4


@live(3)
async def test_what_others_hold_is_not_available(c, s, a, stage):
    """Claims of clients and of plain Dask tasks count."""
    async with handoff.Handoff(c) as session:
        assert await session.resource_tracker.request("0", {"cpu": 1})
        with capture_telemetry(CLAIM, RELEASE) as captured:
            await session.execute([Function("f", [], same, cost={"cpu": 1.5})])
    assert [c.measurements["available"]["cpu"] for c in captured] == [0.5, 2]


@live(2)
async def test_a_function_without_a_cost_claims_nothing(c, s, a):
    with capture_telemetry(("handoff", "resources")) as captured:
        async with handoff.Handoff(c) as session:
            await session.execute([Function("f", [], same), Function("g", [], same, cost={"cpu": 0})])
    assert captured == []


@live(2)
async def test_nodes_come_change_and_go(c, s, a):
    with capture_telemetry(NODE) as captured:
        async with handoff.Handoff(c) as session:
            await session.update_node_resources("0", {"gpu": 1})
            await session.update_node_resources("0", {"gpu": 1})
            async with Worker(s.address, name="late", nthreads=3) as late:
                address = late.address
                await until(lambda: captured.of((*NODE, "up"), node="late"))
            await until(lambda: captured.of((*NODE, "down")))
    assert [(c.event[-1], c.metadata["node"]) for c in captured] == [
        ("up", "0"),
        ("update", "0"),
        ("up", "late"),
        ("down", "late"),
    ]
    offers = [c.measurements["capabilities"] for c in captured]
    assert offers[1] == {**offers[0], "gpu": 1}
    assert offers[2]["cpu"] == 3
    assert [c.metadata["address"] for c in captured] == [a.address] * 2 + [address] * 2


@live(4)
async def test_whoever_listens_late_hears_what_happens_from_then_on(c, s, a, stage):
    """What is held by then counts; the end of what runs by then comes with its start."""
    async with handoff.Handoff(c) as session:
        first = await session.submit([stage.function("early", cost={"cpu": 3})])
        lingering = await session.submit([stage.function("lingers", cost={"cpu": 0.5})])
        await stage.sees("early", "lingers")
        await lingering.cancel()
        with capture_telemetry() as captured:
            second = await session.submit([stage.quick("late", cost={"cpu": 0.25})])
            await second
            await until(lambda: captured.of((*FUNCTION, "start"), function_id="early"))
            stage.cue("early")
            result = await first
            stage.cue("lingers")
            await until(lambda: captured.of(RELEASE, function_id="lingers"))
    left = [
        (c.metadata["function_id"], c.measurements["available"]["cpu"])
        for c in captured.of(("handoff", "resources"))
    ]
    assert left == [("late", 0.25), ("late", 0.5), ("early", 3.5), ("lingers", 4)]
    early = captured.of(FUNCTION, function_id="early")
    assert [c.event[-1] for c in early] == ["start", "stop"]
    assert {c.measurements["system_time"] for c in early} == {result.timings["early"].start}
    assert not captured.of((*DAG, "start"), dag_id=first.dag_id)
    assert captured.of((*DAG, "stop"), dag_id=first.dag_id)


@live(2)
async def test_with_no_handler_nothing_is_sent(c, s, a, stage, monkeypatch):
    told, started = [], []
    put = Mailboxes.tell_events
    monkeypatch.setattr(Mailboxes, "tell_events", lambda self, *args: (told.append(args), put(self, *args)))
    begun = Telemetry.attempt_began
    monkeypatch.setattr(
        Telemetry, "attempt_began", lambda self, f, at: (started.append(f), begun(self, f, at))
    )
    async with handoff.Handoff(c) as session:
        with capture_telemetry((*FUNCTION, "start")):
            execution = await session.submit([stage.function("heard")])
            await until(lambda: started)
            stage.cue("heard")
            await execution
        assert told
        plugin = a.plugins["handoff"]
        await until(lambda: not plugin._report_starts)
        told.clear()
        started.clear()
        execution = await session.submit([stage.function("unheard", cost={"cpu": 1}), stage.quick("other")])
        await until(execution.futures["other"].done)
        assert not plugin._begun
        stage.cue("unheard")
        await execution
        announcer = s.plugins["handoff"].telemetry
        assert (told, started, announcer._pending, announcer._held) == ([], [], [], {})


@live(2)
async def test_a_handler_that_raises_is_detached_and_the_run_goes_on(c, s, a, caplog):
    heard = []
    telemetry.attach("bad", (*FUNCTION, "start"), lambda *args: 1 / 0)
    telemetry.attach("good", (*FUNCTION, "start"), lambda *args: heard.append(args[2]["function_id"]))
    try:
        async with handoff.Handoff(c) as session:
            with caplog.at_level(logging.CRITICAL, "handoff_dask.telemetry"):
                result = await session.execute([Function("f", [], same), Function("g", ["f"], same)])
        assert set(result.results) == set(heard) == {"f", "g"}
        assert [h.handler_id for h in telemetry.list_handlers()] == ["good"]
    finally:
        telemetry.detach("good")


IDS = ["text", 7, ("part", 3), Colour.RED, (Colour.BLUE, frozenset([1])), frozenset(["x", Colour.RED])]


@live(2)
async def test_ids_arrive_as_they_were(c, s, a):
    """Also in a session that has not submitted them."""
    dag = handoff.DAG((Colour.RED, "dag"))
    for function_id in IDS:
        dag.add_function(Function(function_id, [], same))
    with capture_telemetry() as captured:
        async with (
            Client(s.address, asynchronous=True) as other,
            handoff.Handoff(other),
            handoff.Handoff(c) as session,
        ):
            await session.execute(dag)
            told = list(captured)
    captured.balance()
    assert {c.metadata["function_id"] for c in told if c.event == (*FUNCTION, "stop")} == set(IDS)
    assert {c.metadata["dag_id"] for c in told if "dag_id" in c.metadata} == {(Colour.RED, "dag")}
    assert len(told) == len(set(map(id, told))) == 1 + 2 + 3 * len(IDS)


@live(2)
async def test_when_the_session_that_listens_ends_another_one_does(c, s, a, stage):
    with capture_telemetry(FUNCTION) as captured:
        async with Client(s.address, asynchronous=True) as other:
            first = handoff.Handoff(other)
            await first.start()
            async with handoff.Handoff(c) as session:
                execution = await session.submit([stage.function("f")])
                await stage.sees("f")
                await first.stop()
                await until(lambda: session._telemetry.is_receiving)
                stage.cue("f")
                await execution
                assert captured.of((*FUNCTION, "stop"), function_id="f")


@live(2)
async def test_a_plain_collection_is_told_too(c, s, a):
    """A DAG computed by Dask has its events; the one that fails, how."""
    dag = handoff.DAG("plain").add_function(Function("f", [], same, cost={"cpu": 1}))
    bad = handoff.DAG("bad").add_function(Function("f", [], boom, max_retries=0))
    with capture_telemetry() as captured:
        async with handoff.Handoff(c):
            assert await c.compute(dag) == {"f": None}
            future = c.compute(bad)
            with pytest.raises(ValueError, match="boom"):
                await future
            future.release()
            await until(lambda: captured.of((*DAG, "exception")))
    captured.balance()
    [ended] = captured.of((*DAG, "exception"))
    assert (ended.metadata["status"], type(ended.metadata["exception"].__cause__)) == ("failed", ValueError)


@live(1)
async def test_a_dag_whose_function_fits_nowhere_any_more(c, s, a, stage):
    with capture_telemetry(DAG) as captured:
        async with handoff.Handoff(c) as session:
            execution = await session.submit(
                [stage.function("f"), stage.function("g", ["f"], cost={"cpu": 1})]
            )
            await stage.sees("f")
            await session.update_node_resources("0", {"cpu": 0.5})
            stage.cue("f")
            with pytest.raises(handoff.AllocationError):
                await execution
    why = captured[-1].metadata["exception"]
    assert (type(why), why.function_id, why.cost) == (handoff.AllocationError, "g", {"cpu": 1})
    assert list(why.reasons) == ["0"]
