"""Preparing a pipeline in the caller's thread, before anything is sent."""

from __future__ import annotations

import numbers
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, get_args

from handoff_dask.allocators import Strategy
from handoff_dask.client import options as checks
from handoff_dask.client.submission import Submission, prepare
from handoff_dask.errors import ValidationError
from handoff_dask.graph.dag import DAG, as_dag
from handoff_dask.graph.functions import Function, name_of
from handoff_dask.graph.stages import Stage, StageGraph, stages_of, workers_of
from handoff_dask.protocol.stage_call import StageCall
from handoff_dask.protocol.stages import StageSetup, StageTask
from handoff_dask.resources import NOTHING, Cost
from handoff_dask.streaming import OnNodeLoss

#: Items inside at most, for each stage, where nothing is said.
IN_FLIGHT = 10


@dataclass(frozen=True)
class StreamSubmission:
    """A pipeline that is ready to be sent."""

    graph: StageGraph
    submission: Submission
    #: ``(position of the stage, number of the worker)`` of each function of the run.
    workers: list[tuple[int, int]]
    #: Names the pipeline among its nodes.
    name: str
    max_in_flight: int
    ordered: bool
    on_node_loss: OnNodeLoss


def prepare_stream(
    dag: DAG | Iterable[Function],
    unknown: Mapping[str, Any],
    *,
    allocation_strategy: Strategy | None,
    allocator: Strategy | None,
    resources: Iterable[Mapping[str, Any]] | None,
    max_in_flight: int | None,
    join_timeout: float | None,
    on_node_loss: OnNodeLoss,
    ordered: bool,
    default_allocator: Strategy | None,
) -> StreamSubmission:
    """Check a DAG and the options of its pipeline, and compile what runs its stages.

    Parameters
    ----------
    dag, allocation_strategy, allocator, resources, max_in_flight, join_timeout, on_node_loss, ordered
        As for :func:`~handoff_dask.stream`.
    unknown
        Options that do not exist.
    default_allocator
        The strategy of the session.

    Raises
    ------
    ValidationError
        If the DAG or an option is wrong.
    """
    for name in unknown:
        raise ValidationError(f"stream has no option {name!r}")
    if on_node_loss not in get_args(OnNodeLoss):
        raise ValidationError(f"on_node_loss is {on_node_loss!r}; give 'move' or 'fail'")
    join_timeout = checks.timeout_s(join_timeout, name="join_timeout")
    ordered = checks.switch("ordered", ordered)
    graph = stages_of(as_dag(dag))
    most = IN_FLIGHT * graph.count if max_in_flight is None else max_in_flight
    if isinstance(most, bool) or not isinstance(most, numbers.Integral) or most < 1:
        raise ValidationError(f"max_in_flight is {max_in_flight!r}; give a whole number of at least 1")
    name = uuid.uuid4().hex

    def code(stage: Stage, worker: int) -> StageTask:
        return StageTask.of(
            name, name_of(stage.function.code), _setup(graph, stage, worker, join_timeout, ordered)
        )

    workers = workers_of(graph, code)
    run = DAG(graph.dag_id)
    for function in workers.functions:
        run.add_function(function)
    submission = prepare(
        run,
        {},
        inputs=None,
        allocation_strategy=allocation_strategy,
        allocator=allocator,
        resources=resources,
        max_retries=0,
        retry=None,
        max_concurrency=None,
        priority=0,
        share=1.0,
        outputs=None,
        timeout=None,
        progress=False,
        on_failure="stop",
        cache=None,
        resume=None,
        default_allocator=default_allocator,
    )
    # The order of the run is topological, in which collocated functions may change places.
    places = {function.id: of for function, of in zip(workers.functions, workers.of, strict=True)}
    of = [places[i] for i in submission.compiled.keys]
    manifest = submission.compiled.manifest
    manifest.stages = of
    # Stages that share a node are there at the same time, not one after the other.
    for key, group in manifest.groups.items():
        members = [manifest.demands[n] for n in manifest.demand_of if manifest.demands[n].group == key]
        manifest.groups[key] = replace(
            group, cost=reduce(Cost.plus, [member.cost for member in members], NOTHING)
        )
    return StreamSubmission(graph, submission, of, name, int(most), ordered, on_node_loss)


def _setup(
    graph: StageGraph, stage: Stage, worker: int, join_timeout: float | None, ordered: bool
) -> StageSetup:
    function = stage.function
    sources = [
        graph.inputs[slot.source] if slot.is_input else graph.stages[slot.source].id for slot in stage.slots
    ]
    targets = tuple([(t, graph.stages[t.stage].slots[t.slot].serialize) for t in stage.targets])
    return StageSetup(
        name=str(stage.id) if isinstance(stage.id, str) else repr(stage.id),
        slot_names=tuple(map(repr, sources)),
        stage=stage.position,
        worker=worker,
        parallelism=function.parallelism,
        call=StageCall(stage.program, stage.inlined, stage.names),
        slots=stage.slots,
        targets=targets,
        sink=graph.sinks.index(stage.position) if stage.is_sink else None,
        is_constant=stage.is_constant,
        batch_size=function.batch_size,
        batch_timeout=function.batch_timeout,
        in_order=ordered,
        join_timeout=join_timeout,
    )
