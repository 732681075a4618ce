"""Explain, in the client: asks the scheduler why a function waits, or ran where it did."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from handoff_dask.client.explanations import FunctionExplanation, explained
from handoff_dask.client.scheduler_link import Ask
from handoff_dask.errors import NotFoundError
from handoff_dask.protocol.manifest import token_of
from handoff_dask.protocol.telemetry import KnownRun


async def explain_function(
    ask: Ask, token: str, dag_id: Hashable, ids: Sequence[Hashable], function_id: Hashable
) -> FunctionExplanation:
    """Explain a function of a run.

    Parameters
    ----------
    ask
        Asks the scheduler.
    token
        The name of the run on the scheduler.
    dag_id, ids
        The ids of the DAG and of its functions, by position.
    function_id
        One of ``ids``.

    Raises
    ------
    NotFoundError
        If the scheduler does not know the run any more.
    """
    position = ids.index(function_id)
    finding = await ask("find_out", token=token, position=position)
    return explained(finding, position, (dag_id, ids))


async def explain_task(ask: Ask, key: Hashable) -> FunctionExplanation | None:
    """Explain a task of Dask's own that handoff places; None if there is no such task."""
    found = await ask("find_task", key=key)
    if found is None:
        return None
    introduction, position = found
    run = KnownRun(introduction)
    return await explain_function(ask, introduction.token, None, run.ids, run.ids[position])


async def explain_latest(ask: Ask, dag_id: Hashable, function_id: Hashable) -> FunctionExplanation:
    """Explain a function of the latest run of a DAG, whichever client has submitted it.

    Raises
    ------
    NotFoundError
        If the scheduler knows no such run, or it has no such function that is scheduled.
    """
    introduction = await ask("latest_run", dag=token_of(dag_id))
    if introduction is None:
        raise NotFoundError("execution", dag_id, "no session of this cluster has executed this DAG lately")
    run = KnownRun(introduction)
    if function_id not in run.ids:
        raise NotFoundError("function", function_id, f"DAG {dag_id!r} has none of this id that runs")
    return await explain_function(ask, introduction.token, run.dag_id, run.ids, function_id)
