"""In the client: asking why a function waits or ran where it did, of whoever still knows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from handoff_dask.client.execution import Execution
from handoff_dask.client.explanations import FunctionExplanation, explained, from_record
from handoff_dask.errors import NotFoundError, SchedulerLostError
from handoff_dask.protocol.manifest import token_of
from handoff_dask.protocol.telemetry import KnownRun
from handoff_dask.record.result import ExecutionResult

if TYPE_CHECKING:
    from handoff_dask.client.session import Handoff


async def explain(session: Handoff, of: Any, function_id: Hashable) -> FunctionExplanation:
    """Explain a function of an execution, of its result, or of the latest execution of a DAG id.

    Raises
    ------
    NotFoundError
        If nothing is known of the execution, or it has no such function that runs on its own.
    """
    if isinstance(of, ExecutionResult):
        return from_record(of.record, function_id)
    execution = of if isinstance(of, Execution) else session.execution_of(of)
    if execution is None:
        return await _of_another(session, of, function_id)
    keys = list(execution.compiled.keys)
    if function_id not in keys:
        return from_record(await execution._record(), function_id)
    known = execution.dag_id, keys
    try:
        return await _ask(session, execution.compiled.manifest.token, known, function_id)
    except (NotFoundError, SchedulerLostError):
        if not execution.is_over:
            raise
        return from_record(await execution._record(), function_id)


async def _of_another(session: Handoff, dag_id: Hashable, function_id: Hashable) -> FunctionExplanation:
    introduction = await session.ask("latest_run", dag=token_of(dag_id))
    if introduction is None:
        raise NotFoundError("execution", dag_id, "no session of this cluster has executed this DAG lately")
    run = KnownRun(introduction)
    if function_id not in run.ids:
        raise NotFoundError("function", function_id, f"DAG {dag_id!r} has none of this id that runs")
    return await _ask(session, introduction.token, (run.dag_id, run.ids), function_id)


async def _ask(
    session: Handoff, token: str, known: tuple[Hashable, Sequence[Hashable]], function_id: Hashable
) -> FunctionExplanation:
    position = known[1].index(function_id)
    finding = await session.ask("find_out", token=token, position=position)
    return explained(finding, position, known)
