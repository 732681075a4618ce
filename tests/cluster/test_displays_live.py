"""What a session and its executions show of themselves, while they run and afterwards."""

from __future__ import annotations

import operator

import pytest
from clusters import live
from stage import until

import handoff_dask as handoff
from handoff_dask import Function


def no_file(*values):
    raise ValueError("no such <b>file</b>")


def test_a_blocking_session_and_its_executions():
    nodes = {"big": {"cpu": 4, "memory": 8000}, "small": {"cpu": 1, "zone": "<i>b</i>"}}
    with handoff.Handoff(nodes=nodes) as session:
        dag = handoff.DAG("one").add_function(
            Function("a", [], operator.neg, extra_args=[1], cost={"cpu": 1})
        )
        execution = session.submit(dag)
        assert str(execution).startswith("Execution of DAG one: ")
        result = execution.result()
        failing = session.submit(handoff.DAG("fails").add_function(Function("f", [], no_file, max_retries=0)))
        with pytest.raises(handoff.FunctionFailedError):
            failing.result()

        lines = str(session).splitlines()
        assert lines[0] == "Handoff session on embedded cluster: started"
        assert "  nodes       2: big, small" in lines
        assert "  executions  1 finished, 1 failed" in lines
        assert "  latest      fails: failed" in lines
        assert "<i>b</i>" not in session._repr_html_()
        assert "&lt;i&gt;b&lt;/i&gt;" in session._repr_html_()
        assert str(execution).startswith("Execution of DAG one: finished in ")
        assert str(result).startswith("Result of DAG one: finished in ")
        assert "error" in str(failing)
        assert "ValueError: no such <b>file</b>" in str(failing)
        assert "<b>" not in failing._repr_html_()
        for shown in (session, execution, result, failing):
            assert "\n" not in repr(shown)
            assert shown._repr_html_().startswith("<div")
    assert str(session) == "Handoff session on embedded cluster: stopped"


@live()
async def test_an_asynchronous_session_is_shown_without_asking(c, s, a, b, stage):
    await shown_without_asking(handoff.Handoff(c), stage)


@live()
async def test_a_session_of_coroutines_is_shown_without_asking(c, s, a, b, stage):
    await shown_without_asking(handoff.AsyncHandoff(c), stage)


async def shown_without_asking(session, stage):
    """Nothing can be awaited while something is printed; what the client knows is shown."""
    assert "not started yet" in str(session)
    async with session:
        execution = await session.submit([stage.function("f"), stage.quick("g", ["f"])])
        await stage.sees("f")
        await until(lambda: execution.status == "running")
        assert str(execution).splitlines()[1:] == ["  functions  2 pending"]
        assert "  nodes       2, with 3 threads; discover_nodes() tells what they have" in str(session)
        assert "  executions  1 running" in str(session)
        for shown in (session, execution):
            assert shown._repr_html_().startswith("<div")
        stage.close()
        await execution
        assert "functions    2 finished" in str(execution)
    assert ": stopped" in str(session)
