"""Sessions that are over say so; whatever ends an execution, it ends once."""

from __future__ import annotations

import asyncio
import operator
import pickle
from contextlib import suppress

import pytest
from clusters import live
from distributed import Client
from stage import until

import handoff_dask as handoff
from handoff_dask import Function, telemetry
from handoff_dask.errors import SchedulerLostError
from handoff_dask.protocol.outcome import Outcome


def one(name="one"):
    return handoff.DAG(name).add_function(Function("a", [], operator.neg, extra_args=[1]))


def uses(session, finished, running):
    """All that needs the cluster, by name."""
    tracker = session.resource_tracker
    return {
        "start": session.start,
        "submit": lambda: session.submit(one()),
        "execute": lambda: session.execute(one()),
        "get_result": lambda: session.get_result("one", "a"),
        "get_result of": lambda: session.get_result(finished, "a"),
        "get_value": lambda: session.get_value("one", "a"),
        "store_result": lambda: session.store_result("one", "b", 1),
        "register_data_location": lambda: session.register_data_location("one", "b", "0"),
        "lookup_data_location": lambda: session.lookup_data_location("one", "a"),
        "forget": lambda: session.forget("one"),
        "discover_nodes": session.discover_nodes,
        "register_node": lambda: session.register_node("0", {"cpu": 1}),
        "update_node_resources": lambda: session.update_node_resources("0", {"cpu": 1}),
        "resources_available": lambda: session.resources_available("0", {"cpu": 1}),
        "explain": lambda: session.explain("one", "a"),
        "explain of": lambda: running.explain("f"),
        "tracker.request": lambda: tracker.request("0", {"cpu": 1}),
        "tracker.capabilities": tracker.get_capabilities,
    }


async def refusals(session, finished, running):
    """``{use: what it is refused with}``."""
    said = {}
    for name, use in uses(session, finished, running).items():
        try:
            await asyncio.wait_for(use(), 20)
        except Exception as error:
            said[name] = (type(error), str(error))
    return said


async def begun(session, stage):
    """An execution that has finished and one that runs."""
    finished = await session.submit(one())
    await finished
    running = await session.submit([stage.function("f"), stage.quick("g", ["f"])])
    await stage.sees("f")
    return finished, running


@live()
async def test_a_stopped_session_refuses_all_use_and_keeps_what_it_has(c, s, a, b, stage):
    session = await handoff.Handoff(c).start()
    finished, running = await begun(session, stage)
    waiting = asyncio.ensure_future(running.result())
    await session.stop()
    await session.stop()

    why = (handoff.SessionEndedError, "this session has been stopped; start another one")
    assert await refusals(session, finished, running) == dict.fromkeys(uses(session, finished, running), why)
    assert (await finished).results == {"a": -1}
    assert await finished.get_result("a") == -1
    for use in (lambda: waiting, running.result, lambda: running.get_result("g")):
        with pytest.raises(handoff.ExecutionCancelledError):
            await use()
    await running.cancel()
    assert ((await running.record()).status, running.status) == ("cancelled", "cancelled")
    assert await c.submit(operator.add, 1, 2) == 3
    stage.cue("f")  # a worker that closes waits for its threads


@live()
async def test_a_session_without_its_client_refuses_all_use(c, s, a, b, stage):
    client = await Client(s.address, asynchronous=True)
    session = await handoff.Handoff(client).start()
    finished, running = await begun(session, stage)
    waiting = asyncio.ensure_future(running.result())
    await client.close()

    why = (
        handoff.SessionEndedError,
        "the client of this session is closed; start a session with another one",
    )
    assert await refusals(session, finished, running) == dict.fromkeys(uses(session, finished, running), why)
    for use in (finished.result, lambda: finished.get_result("a")):
        with pytest.raises(handoff.SessionEndedError, match="client of this session is closed"):
            await use()
    for use in (lambda: waiting, running.result, lambda: running.get_result("g")):
        with pytest.raises(handoff.HandoffError):
            await asyncio.wait_for(use(), 20)
    assert ((await finished.record()).status, finished.status) == ("finished", "finished")
    await session.stop()
    stage.cue("f")  # a worker that closes waits for its threads


@live()
async def test_what_is_submitted_while_its_session_stops_ends_too(c, s, a, b, stage, monkeypatch):
    """Stopped from another thread, a session may just be sending a graph."""
    session = await handoff.Handoff(c).start()
    ask = session.link.ask

    async def stop_first(method, **arguments):
        answer = await ask(method, **arguments)
        if method == "announce":
            await session.stop()
        return answer

    monkeypatch.setattr(session.link, "ask", stop_first)
    with pytest.raises(handoff.SessionEndedError, match="has been stopped"):
        await session.submit([stage.function("f")])
    plugin = s.plugins["handoff"]
    assert (plugin.runs.announced, plugin.runs.by_token, stage.started) == ({}, {}, [])


@live()
async def test_an_execution_ends_once_whatever_is_said_of_it_later(c, s, a, b):
    async with handoff.Handoff(c) as session:
        finished = await session.submit(one())
        await finished
        cancelled = await session.submit([Function("f", [], operator.neg, extra_args=[2])])
        await cancelled.cancel()
        lost = await session.submit(one("lost"))
        lost.is_lost(SchedulerLostError("test"))
        before = [e.status for e in (finished, cancelled, lost)]
        for execution in (finished, cancelled, lost):
            for status in ("cancelled", "finished", "failed"):
                execution.has_ended(Outcome(token=execution.token, status=status))
            execution.is_lost(SchedulerLostError("again"))
        assert (
            [e.status for e in (finished, cancelled, lost)] == before == ["finished", "cancelled", "failed"]
        )
        assert (await finished).results == {"a": -1}
        with pytest.raises(handoff.ExecutionCancelledError):
            await cancelled
        with pytest.raises(SchedulerLostError, match=r"\(test\)"):
            await lost


@live()
async def test_an_end_that_is_told_while_another_session_is_lost_is_an_end(c, s, a, b, monkeypatch):
    """The session that hears for this process may go while another one waits for it to catch up."""
    telemetry.attach("test", ("handoff", "node", "up"), lambda *args: None)
    client = await Client(s.address, asynchronous=True)
    try:
        async with handoff.Handoff(c) as hears, handoff.Handoff(client) as session:
            await hears.execute(one("first"))

            ask = session.link.ask

            async def lost(method, **arguments):
                if method == "count_of":
                    raise SchedulerLostError("test")
                return await ask(method, **arguments)

            monkeypatch.setattr(session.link, "ask", lost)
            execution = await session.submit(one("second"))
            assert (await execution.result(timeout=20)).results == {"a": -1}
            with suppress(SchedulerLostError):
                await until(lambda: not session.is_watching)
    finally:
        telemetry.detach("test")
        await client.close()


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(handoff.SessionEndedError("over")))
    assert (type(error), str(error), error.why) == (handoff.SessionEndedError, "over", "over")


@live()
async def test_nothing_runs_in_the_record_of_what_is_over(c, s, a, b, stage):
    """Its thread may go on; what it makes is dropped."""
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function("f")])
        await stage.sees("f")
        await execution.cancel()
        record = await execution.record()
        assert (record.status, [f.status for f in record.functions]) == ("cancelled", ["cancelled"])
        stage.cue("f")
