"""Tracebacks of failed functions, and names of DAGs that were given none."""

from __future__ import annotations

import traceback

import pytest
from clusters import live

import handoff_dask as handoff


@live(1)
async def test_a_traceback_begins_with_the_users_line(c, s, *workers):
    """In the user's file, with its source, although the code has travelled by value."""

    def divides(x: int) -> float:
        return 1 / x  # this line

    async with handoff.AsyncHandoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await session.execute([handoff.Function("f", [], divides, extra_args=[0])], max_retries=0)

    first, *rest = traceback.extract_tb(caught.value.__cause__.__traceback__)
    assert (first.filename, first.name, first.line) == (__file__, "divides", "return 1 / x  # this line")
    assert rest == []


def test_an_unnamed_dag_is_shown_by_its_last_function():
    """When it is printed, and its result too."""
    with handoff.DAG() as dag:
        handoff.task(int)()
        handoff.task(float, id="the last")()
    assert str(dag).startswith(f"DAG the last ({dag.id[:8]})")
    assert f"the last ({dag.id[:8]})" in str(handoff.execute_local(dag)).splitlines()[0]
    assert str(handoff.DAG("named").add_function("f", [], int)).startswith("DAG named")
