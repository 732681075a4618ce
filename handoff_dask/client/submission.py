"""Preparing a DAG in the caller's thread, before anything is sent."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from handoff_dask import telemetry
from handoff_dask.allocators import Strategy
from handoff_dask.client import options as checks
from handoff_dask.client.compile import Compiled
from handoff_dask.client.compile import compile as compile_dag
from handoff_dask.client.scheduler_link import this_function
from handoff_dask.graph.dag import DAG, as_dag
from handoff_dask.graph.functions import Function, FunctionId


@dataclass(frozen=True)
class Submission:
    """A DAG that is ready to be sent."""

    dag: DAG
    compiled: Compiled
    #: Seconds, after which the execution is cancelled.
    timeout_s: float | None
    progress: bool
    #: Whether nobody has said which results are wanted.
    asks_for_all: bool
    #: Puts the caller's trace into what the functions carry; called once the DAG is sure to begin.
    carry_trace: Callable[[], None]


def prepare(
    dag: DAG | Iterable[Function],
    unknown: Mapping[str, Any],
    *,
    inputs: Mapping[FunctionId, Any] | None,
    allocation_strategy: Strategy | None,
    allocator: Strategy | None,
    resources: Iterable[Mapping[str, Any]] | None,
    max_retries: int | None,
    max_concurrency: int | None,
    priority: float,
    share: float,
    outputs: Collection[FunctionId] | None,
    timeout: float | None,
    progress: bool,
    default_allocator: Strategy | None,
) -> Submission:
    """Check a DAG and the options of its execution, and compile it.

    Parameters
    ----------
    dag, inputs, allocation_strategy, allocator, resources, max_retries, max_concurrency, priority, \
share, outputs, timeout, progress
        As for :func:`~handoff_dask.submit`.
    unknown
        Options that do not exist.
    default_allocator
        The strategy of the session.

    Raises
    ------
    ValidationError
        If the DAG or an option is wrong.
    """
    checks.refuse_unknown(unknown)
    if allocation_strategy is None and allocator is None:
        allocator = default_allocator
    dag = as_dag(dag)
    options = checks.parse(
        allocation_strategy=allocation_strategy,
        allocator=allocator,
        resources=resources,
        max_retries=max_retries,
        max_concurrency=max_concurrency,
        priority=priority,
        share=share,
    )
    limit_s = checks.timeout_s(timeout)
    carried: dict[str, str] | None = {} if telemetry.carries() else None
    compiled = compile_dag(
        dag, inputs=inputs or {}, outputs=outputs, options=options, announced=True, carrier=carried
    )
    compiled.manifest.parent = this_function()
    context = contextvars.copy_context()

    def carry_trace() -> None:
        if carried is not None:
            carried.update(context.run(telemetry.carrier, dag.id))

    return Submission(
        dag, compiled, limit_s, checks.switch("progress", progress), outputs is None, carry_trace
    )
