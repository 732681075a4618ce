"""Makes the record and the failures of an execution from the scheduler's report."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from traceback import format_exception
from typing import Any

from distributed.core import clean_exception

from handoff_dask.client.compile import Compiled
from handoff_dask.client.tracebacks import users_part
from handoff_dask.errors import AllocationError, FunctionFailedError, HandoffError, original
from handoff_dask.graph.dag import DAG
from handoff_dask.protocol.outcome import Outcome
from handoff_dask.record.execution import ExecutionRecord, FunctionRecord
from handoff_dask.record.logs import LogLine, Logs
from handoff_dask.record.status import REUSED
from handoff_dask.record.usage import Usage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failures:
    """What has failed of an execution."""

    #: What the execution raises, of the function that failed first; ``None`` if none has.
    error: FunctionFailedError | AllocationError | None = None
    #: ``{function id: what it raised}``, the first to fail first.
    failed: Mapping[Hashable, BaseException] = field(default_factory=dict)
    #: ``{function id: id of the failed function that it needed}``.
    skipped: Mapping[Hashable, Hashable] = field(default_factory=dict)


def failures_of(compiled: Compiled, outcome: Outcome, exceptions: Sequence[Sequence[Any]]) -> Failures:
    """What has failed of an execution.

    Parameters
    ----------
    compiled
        What was sent to Dask.
    outcome
        How the run stands, or ended.
    exceptions
        Exception and traceback of each function that failed, as Dask serialises them.
    """
    if not outcome.failures:
        return Failures()
    ids = list(compiled.keys)
    with ThreadPoolExecutor(1) as threads:
        # The traceback of an unpickled exception holds the frames of whoever has unpickled it, and one
        # that was cut those of whoever has cut it.  Those of this thread hold the execution, and with it
        # the memory of workers.
        codes = [compiled.expansion.functions[ids[position]].code for position, _ in outcome.failures]
        raised = threads.submit(_all_raised, list(exceptions), codes).result()
    failed: dict[Hashable, BaseException] = {}
    for (position, refusal), error in zip(outcome.failures, raised, strict=True):
        function_id = ids[position]
        if refusal is not None:
            claimed = outcome.claimed.get(position)
            cost = claimed[-1] if claimed else compiled.expansion.functions[function_id].known_cost
            error = AllocationError(function_id, cost, *refusal)
        failed[function_id] = error
    skipped = {ids[n]: ids[by] for n, by in outcome.skipped.items()}
    if compiled.manifest.options.on_failure == "stop":
        skipped = _needing(compiled, failed)
    first = next(iter(failed))
    return Failures(failed_error(compiled, outcome, failed, skipped, first), failed, skipped)


def failed_error(
    compiled: Compiled,
    outcome: Outcome,
    failed: Mapping[Hashable, BaseException],
    skipped: Mapping[Hashable, Hashable],
    function_id: Hashable,
) -> FunctionFailedError | AllocationError:
    """What is raised for one of the functions that have failed."""
    cause, position = failed[function_id], list(compiled.keys).index(function_id)
    if isinstance(cause, AllocationError) and dict(outcome.failures).get(position) is not None:
        return cause
    node, attempts = outcome.nodes[position], outcome.attempts[position]
    memory = outcome.shortages.get(position)
    return FunctionFailedError(
        function_id, node, attempts, cause, failed=failed, skipped=skipped, memory=memory
    )


def _needing(compiled: Compiled, failed: Iterable[Hashable]) -> dict[Hashable, Hashable]:
    """``{function that needs a failed one: the failed one}``."""
    blamed: dict[Hashable, Hashable] = {i: i for i in failed}
    for i, body in compiled.expansion.bodies.items():
        by = next((blamed[a] for a in body.waits_for if a in blamed), None)
        if by is not None:
            blamed.setdefault(i, by)
    return {i: by for i, by in blamed.items() if i != by}


def _all_raised(exceptions: list[Sequence[Any]], codes: Sequence[Any]) -> list[BaseException]:
    return [_raised(code, *exceptions.pop(0)) for code in codes]


def _raised(code: Any, exception: Any, traceback: Any) -> BaseException:
    """What a function has raised, with the part of its traceback that its author wants to see."""
    cause: BaseException | None
    try:
        _, cause, trace = clean_exception(exception, traceback)
    except Exception:  # whatever unpickling the user's traceback raises here
        logger.warning("the traceback of a function cannot be read here", exc_info=True)
        _, cause, trace = clean_exception(exception)
    if cause is None:
        return HandoffError("what the function has raised has not come here")
    cause = cause if trace is None else cause.with_traceback(trace)
    cause = original(cause) or cause
    return cause.with_traceback(users_part(cause.__traceback__, code))


def record_of(
    dag: DAG, compiled: Compiled, outcome: Outcome, failed: Mapping[Hashable, BaseException] | None = None
) -> ExecutionRecord:
    """What the scheduler knows of a run, with what the DAG says of its functions."""
    ids = list(compiled.keys)
    raised = {i: e for i, e in (failed or {}).items() if not isinstance(e, AllocationError)}
    positions = {i: n for n, i in enumerate(compiled.keys)}
    functions = []
    for i, function in compiled.expansion.functions.items():
        facts: dict[str, Any] = {
            "id": i,
            "name": function.name,
            "args": function.dependencies,
            "type": function.type,
            "cost": function.known_cost,
            "duration_s": function.duration,
        }
        n = positions.get(i)
        if i in compiled.reused:
            facts.update(status=REUSED, duration_s=None)
        elif n is None:
            facts["status"] = "none"
        elif outcome.states:
            claimed = outcome.claimed.get(n, ())
            facts.update(
                claimed=tuple(claimed),
                cost=claimed[-1] if claimed else function.known_cost,
                status=_settled_status(outcome, outcome.states[n]),
                node=outcome.nodes[n],
                ready=outcome.ready[n],
                placed=outcome.placed[n],
                start=outcome.start[n],
                stop=outcome.stop[n],
                attempts=outcome.attempts[n],
                cause=outcome.causes[n],
                nbytes=outcome.nbytes[n],
                usage=Usage(*used) if outcome.used and (used := outcome.used[n]) is not None else None,
                transfer_s=outcome.transfers[n] if outcome.transfers else None,
            )
        if i in raised:
            facts["error"] = "".join(format_exception(raised[i]))
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
    """What had not ended when a run failed or was cancelled has no result, even if its thread goes on."""
    dropped = outcome.status in ("failed", "cancelled") and status in ("pending", "waiting", "running")
    return "cancelled" if dropped else status
