"""How much of each resource was in use on each node, over time."""

from __future__ import annotations

from typing import Any, TypeAlias

from handoff_dask.record.time_split import span_of
from handoff_dask.resources import Cost, amount_of
from handoff_dask.visualization.graph import record_of

__all__ = ["Steps", "resource_utilization"]

#: ``[(seconds since the epoch, amount in use from then on), …]``.
Steps: TypeAlias = list[tuple[float, float]]


def resource_utilization(result: Any) -> dict[str, dict[str, Steps]]:
    """The steps in which the use of resources rose and fell.

    Counted from what functions cost and when they ran (their last attempt), not measured on the
    machine.  What runs still counts up to the last moment that is known.

    Parameters
    ----------
    result
        An ``ExecutionResult``, an ``Execution`` or an ``ExecutionRecord``.

    Returns
    -------
    dict
        ``{node: {resource: [(time, used), …]}}``, each list beginning and ending with nothing in
        use; amounts are as users write them and exact; every node that is known is there.

    Examples
    --------
    >>> from handoff_dask.record.execution import ExecutionRecord, FunctionRecord
    >>> fit = FunctionRecord(id="fit", name="fit", node="a", cost={"cpu": 2}, start=1.0, stop=3.0)
    >>> resource_utilization(ExecutionRecord(dag_id="d", status="finished", functions=(fit,), submitted=0.0))
    {'a': {'cpu': [(0.0, 0), (1.0, 2), (3.0, 0)]}}
    """
    record = record_of(result)
    begin, end = span_of(record)
    changes: dict[str, dict[str, dict[float, int]]] = {node: {} for node in record.nodes}
    for function in record.functions:
        if function.node is None or function.start is None:
            continue
        stop = max(function.start, end if function.stop is None else function.stop)
        resources = changes.setdefault(function.node, {})
        for name, units in Cost.parse(function.cost).amounts:
            steps = resources.setdefault(name, {})
            steps[function.start] = steps.get(function.start, 0) + units
            steps[stop] = steps.get(stop, 0) - units
    return {
        node: {name: _summed(steps, begin) for name, steps in sorted(resources.items())}
        for node, resources in changes.items()
    }


def _summed(changes: dict[float, int], begin: float) -> Steps:
    steps: Steps = [(min([begin, *changes]), 0)]
    used = 0
    for moment in sorted(changes):
        if changes[moment]:
            used += changes[moment]
            steps.append((moment, amount_of(used)))
    return steps
