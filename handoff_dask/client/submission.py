"""Preparing a DAG in the caller's thread, before anything is sent."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dask.base import get_annotations
from distributed import Future

from handoff_dask import config, telemetry
from handoff_dask.allocators import Strategy
from handoff_dask.client import options as checks
from handoff_dask.client.compile import Compiled
from handoff_dask.client.compile import compile as compile_dag
from handoff_dask.client.reuse import CacheLike, Reuse
from handoff_dask.client.scheduler_link import this_function
from handoff_dask.errors import ValidationError
from handoff_dask.graph.dag import DAG, as_dag
from handoff_dask.graph.functions import Function, FunctionId
from handoff_dask.graph.retry import Retry
from handoff_dask.protocol.words import confinement_of, refusal_of
from handoff_dask.record.status import OnFailure
from handoff_dask.resources import Capabilities
from handoff_dask.reuse.fingerprint import Snapshot

logger = logging.getLogger(__name__)


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
    #: What need not run; None if nothing is kept.
    reuse: Reuse | None
    inputs: Mapping[FunctionId, Any]
    #: The earlier run of which results are to be reused.
    resume: Any
    #: Makes a submission of the same DAG for some outputs, which looks for no missed fingerprint, or with
    #: the results of an earlier run.
    again: Callable[..., Submission]
    #: Puts the caller's trace into what the functions carry; called once the DAG is sure to begin.
    carry_trace: Callable[[], None]
    #: What its results depend on, for an execution that resumes this one; None if nobody is to know.
    depends: Snapshot | None = None


def prepare(
    dag: DAG | Iterable[Function],
    unknown: Mapping[str, Any],
    *,
    inputs: Mapping[FunctionId, Any] | None,
    allocation_strategy: Strategy | None,
    allocator: Strategy | None,
    resources: Iterable[Mapping[str, Any]] | None,
    max_retries: int | None,
    retry: Retry | None,
    max_concurrency: int | None,
    priority: float,
    share: float,
    outputs: Collection[FunctionId] | None,
    timeout: float | None,
    progress: bool,
    on_failure: OnFailure,
    cache: CacheLike | None,
    resume: Any,
    default_allocator: Strategy | None,
    detach: bool = False,
    missed: set[str] | None = None,
    earlier: Mapping[str, Future[Any]] | None = None,
) -> Submission:
    """Check a DAG and the options of its execution, and compile it.

    Parameters
    ----------
    dag, inputs, allocation_strategy, allocator, resources, max_retries, retry, max_concurrency, \
priority, share, outputs, timeout, progress, on_failure, cache, resume, detach
        As for :func:`~handoff_dask.submit`.
    unknown
        Options that do not exist.
    default_allocator
        The strategy of the session.
    missed
        Fingerprints that are not looked for in the cache.
    earlier
        ``{fingerprint: future}`` of the earlier run, once they are known.

    Raises
    ------
    ValidationError
        If the DAG or an option is wrong.
    """
    checks.refuse_unknown(unknown)
    max_retries, priority, nodes = _annotated(max_retries, retry, priority, confined=resources is not None)
    if allocation_strategy is None and allocator is None:
        allocator = default_allocator
    dag = as_dag(dag)
    options = checks.parse(
        allocation_strategy=allocation_strategy,
        allocator=allocator,
        resources=resources,
        max_retries=max_retries,
        retry=retry,
        max_concurrency=max_concurrency,
        priority=priority,
        share=share,
        on_failure=on_failure,
        detach=detach,
    )
    if nodes is not None:
        options.nodes = nodes
    limit_s = checks.timeout_s(timeout)
    carried: dict[str, str] | None = {} if telemetry.carries() else None
    reuse = None if cache is None and earlier is None else Reuse(cache, missed, earlier)
    compiled = compile_dag(
        dag,
        inputs=inputs or {},
        outputs=outputs,
        options=options,
        announced=True,
        carrier=carried,
        reuse=reuse,
    )
    compiled.manifest.parent = this_function()
    context = contextvars.copy_context()

    def carry_trace() -> None:
        if carried is not None:
            carried.update(context.run(telemetry.carrier, dag.id))

    def again(
        wanted: Collection[FunctionId] | None = None,
        missed: set[str] | None = None,
        earlier: Mapping[str, Future[Any]] | None = earlier,
    ) -> Submission:
        return prepare(
            dag,
            {},
            inputs=inputs,
            allocation_strategy=allocation_strategy,
            allocator=allocator,
            resources=resources,
            max_retries=max_retries,
            retry=retry,
            max_concurrency=max_concurrency,
            priority=priority,
            share=share,
            outputs=outputs if wanted is None else wanted,
            timeout=timeout if wanted is None else None,
            progress=progress and wanted is None,
            on_failure=on_failure,
            cache=cache,
            resume=None,
            default_allocator=None,
            detach=detach and wanted is None,
            missed=missed,
            earlier=earlier,
        )

    shows = checks.switch("progress", progress)
    depends = None if reuse is not None or resume is not None else _snapshot(dag, inputs or {})
    return Submission(
        dag,
        compiled,
        limit_s,
        shows,
        outputs is None,
        reuse,
        inputs or {},
        resume,
        again,
        carry_trace,
        depends,
    )


def _snapshot(dag: DAG, inputs: Mapping[FunctionId, Any]) -> Snapshot | None:
    """What the results depend on, as it is now: the user may change code and values afterwards."""
    if not config.get("resumable"):
        return None
    try:
        return Snapshot(dag, inputs)
    except Exception:  # whatever the code of the user's values raises
        logger.info("the execution cannot be resumed", exc_info=True)
        return None


def _annotated(
    max_retries: int | None, retry: Retry | None, priority: float, *, confined: bool
) -> tuple[int | None, float, dict[str, Capabilities] | None]:
    """Retries, priority and nodes, where ``dask.annotate`` around the call says what the call does not.

    Raises
    ------
    ValidationError
        If something is said there that cannot be heard.
    """
    said = get_annotations()
    problem = refusal_of(said, "dask.annotate")
    if problem is not None:
        raise ValidationError(problem)
    nodes = confinement_of(said)
    if nodes is not None and confined:
        raise ValidationError("workers= of dask.annotate and resources= are both given; give one of them")
    return (
        said.get("retries") if max_retries is None and retry is None else max_retries,
        said.get("priority", 0) if priority == 0 else priority,
        nodes,
    )
