"""Makes the record and the error of an execution from the scheduler's report."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from traceback import format_exception
from typing import Any

from distributed.core import clean_exception

from handoff_dask.client.compile import Compiled
from handoff_dask.errors import AllocationError, FunctionFailedError, original
from handoff_dask.graph.dag import DAG
from handoff_dask.protocol.outcome import Outcome
from handoff_dask.record.execution import ExecutionRecord, FunctionRecord
from handoff_dask.record.logs import LogLine, Logs

logger = logging.getLogger(__name__)


def record_of(
    dag: DAG, compiled: Compiled, outcome: Outcome, error: BaseException | None = None
) -> ExecutionRecord:
    """What the scheduler knows of a run, with what the DAG says of its functions."""
    failed = outcome.failed if isinstance(error, FunctionFailedError) else None
    ids = list(compiled.keys)
    positions = {i: n for n, i in enumerate(compiled.keys)}
    functions = []
    for i, function in compiled.expansion.functions.items():
        facts: dict[str, Any] = {
            "id": i,
            "name": function.name,
            "args": function.dependencies,
            "type": function.type,
            "cost": function.cost or {},
            "duration_s": function.duration,
        }
        n = positions.get(i)
        if n is None:
            facts["status"] = "none"
        elif outcome.states:
            facts.update(
                status=_settled_status(outcome, outcome.states[n]),
                node=outcome.nodes[n],
                ready=outcome.ready[n],
                placed=outcome.placed[n],
                start=outcome.start[n],
                stop=outcome.stop[n],
                attempts=outcome.attempts[n],
                cause=outcome.causes[n],
                nbytes=outcome.nbytes[n],
                transfer_s=outcome.transfers[n] if outcome.transfers else None,
            )
        if error is not None and n is not None and n == failed:
            facts["error"] = "".join(format_exception(error.__cause__ or error))
        functions.append(FunctionRecord(**facts))
    return ExecutionRecord(
        dag_id=dag.id,
        status=outcome.status,
        functions=tuple(functions),
        nodes=outcome.capabilities,
        strategy=compiled.manifest.options.strategy_name,
        submitted=outcome.submitted or None,
        ended=outcome.ended,
        logs=Logs([LogLine(ids[line[0]], *line[1:]) for line in outcome.logs]),
    )


def _settled_status(outcome: Outcome, status: str) -> str:
    """What had not begun when a run failed or was cancelled never will."""
    dropped = outcome.status in ("failed", "cancelled") and status in ("pending", "waiting")
    return "cancelled" if dropped else status


def error_of(compiled: Compiled, outcome: Outcome, exception: Any, traceback: Any) -> BaseException:
    """What an execution that has failed raises.

    Parameters
    ----------
    compiled
        What was sent to Dask.
    outcome
        How the run ended.
    exception, traceback
        What the function raised, as Dask serialises it.
    """
    position = outcome.failed
    assert position is not None
    function_id = list(compiled.keys)[position]
    function = compiled.expansion.functions[function_id]
    if outcome.refusal is not None:
        return AllocationError(function_id, function.cost, *outcome.refusal)
    # In a thread of its own: the frames of a traceback hold those that loaded it, and they the execution.
    with ThreadPoolExecutor(1) as apart:
        cause = apart.submit(_load, exception, traceback, function_id).result()
    return FunctionFailedError(function_id, outcome.nodes[position], outcome.attempts[position], cause)


def _load(exception: Any, traceback: Any, function_id: Hashable) -> BaseException | None:
    """What a function raised, with the traceback from where it ran."""
    try:
        _, cause, trace = clean_exception(exception, traceback)
    except Exception:  # whatever unpickling the user's traceback raises here
        logger.warning("the traceback of %r cannot be read here", function_id, exc_info=True)
        _, cause, trace = clean_exception(exception)
    return original(cause if cause is None or trace is None else cause.with_traceback(trace))
