"""Costs of Dask's own collections, and optimisations of collections that keep them.

Dask loses annotations where it fuses tasks of arrays and bags one by one, and lets them leak onto
neighbours where it fuses blockwise operations.  Both are done here within what is annotated alike.
Of frames it ignores annotations altogether: see ``frame_costs.py``.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import dask.config
from dask._task_spec import Alias, convert_legacy_graph, fuse_linear_task_spec
from dask.base import annotate, get_annotations
from dask.blockwise import fuse_roots, optimize_blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.utils import ensure_dict

from handoff_dask.errors import ValidationError
from handoff_dask.protocol.names import COST_ANNOTATION
from handoff_dask.resources import Cost

#: A graph as Dask passes it to an optimisation, and takes it back.
Graph: TypeAlias = Any


@contextmanager
def cost(
    cost: Mapping[str, Any] | None = None, *, node: str | None = None, duration: float | None = None
) -> Iterator[None]:
    """Give Dask's own tasks a cost: those of the collections made inside, and of what is submitted.

    Inner contexts add to outer ones and win by name.  Arrays, bags, frames and Delayed objects keep their
    costs through Dask's optimisation.  ``Client.submit`` and ``Client.map`` are given the cost too.

    Where handoff places Dask's tasks (``handoff.start(client, dask_tasks="place")``) all of it holds.
    On any other cluster the amounts are what ``resources=`` is in Dask, and the node is ``workers=``.

    Parameters
    ----------
    cost
        ``{resource: amount or label}``, as the cost of a :class:`~handoff_dask.Function`.
    node
        Name or address of the only node that may run the tasks.
    duration
        Seconds that each of the tasks is expected to take.

    Raises
    ------
    ValidationError
        If the cost cannot be read, the node is no text, or the duration is no number of at least 0.

    Examples
    --------
    >>> import dask
    >>> import handoff_dask as handoff
    >>> with handoff.cost({"cpu": 2, "memory": "4 GB"}):
    ...     total = dask.delayed(sum)([1, 2])
    >>> next(iter(total.dask.layers.values())).annotations["resources"]
    {'cpu': 2, 'memory': 4000}
    """
    parsed = Cost.parse(cost)
    if node is not None and not isinstance(node, str):
        raise ValidationError(f"node: {node!r} is no text; give the name or the address of a node")
    if duration is not None and not _is_duration(duration):
        raise ValidationError(f"duration: {duration!r} is no number of seconds of at least 0")
    outer = get_annotations()
    mark = dict(outer.get(COST_ANNOTATION) or {})
    mark["labels"] = {**mark.get("labels", {}), **dict(parsed.labels)}
    annotations: dict[str, Any] = {
        "resources": {**(outer.get("resources") or {}), **parsed.to_amounts()},
        COST_ANNOTATION: mark,
    }
    if node is not None:
        mark["node"] = node
        # A worker of a LocalCluster is named by a number.
        annotations["workers"] = [node, int(node)] if node.isdecimal() else [node]
    if duration is not None:
        mark["duration"] = float(duration)
    keep_costs()
    with annotate(**annotations):
        yield


def _is_duration(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


# ---------------------------------------------------------------------- optimisation


def keep_costs() -> None:
    """Have arrays, bags and frames keep their annotations when they are optimised, from now on.

    Graphs without annotations are optimised as before.  An optimisation that the user has put in place
    of Dask's stays.  Whoever has no frames need not have what ``dask.dataframe`` needs.
    """
    for name, make in (("array_optimize", _for_arrays), ("bag_optimize", _for_bags)):
        if dask.config.get(name, None) is None:
            dask.config.set({name: make})
    if "dask.dataframe" in sys.modules:
        from handoff_dask.client.frame_costs import keep_annotations

        keep_annotations()


def _for_arrays(graph: Graph, keys: Any, **kwargs: Any) -> Graph:
    """In place of ``dask.array.optimization.optimize``."""
    from dask.array.optimization import _optimize_slices, optimize

    if not _is_annotated(graph):
        return optimize(graph, keys, **kwargs)
    wanted = list(flatten(keys if isinstance(keys, (list, set)) else [keys]))
    # Dask fuses operations of unlike annotations, and gives the whole what any of them has.
    with dask.config.set({"optimization.annotations.fuse": False}):
        graph = optimize_blockwise(graph, keys=wanted)
        graph = fuse_roots(graph, keys=wanted)
    graph = graph.cull(set(wanted))
    if dask.config.get("optimization.fuse.active") is False:
        return graph
    return _fused_apart(graph, wanted, _optimize_slices)


def _for_bags(graph: Graph, keys: Any, **kwargs: Any) -> Graph:
    """In place of ``dask.bag.core.optimize``."""
    from dask.bag.core import lazify, optimize

    if not _is_annotated(graph):
        return optimize(graph, keys, **kwargs)
    return _fused_apart(graph.cull(set(flatten(keys))), list(flatten(keys)), lazify)


def _is_annotated(graph: Graph) -> bool:
    return isinstance(graph, HighLevelGraph) and any(layer.annotations for layer in graph.layers.values())


def _fused_apart(graph: HighLevelGraph, wanted: list[Any], finish: Callable[[Any], Any]) -> Graph:
    """Fuse chains of tasks within what is annotated alike; each stays in the layer of its last task."""
    annotations: list[Mapping[str, Any]] = []
    layer_of: dict[Any, str] = {}
    group_of: dict[Any, int] = {}
    for name, layer in graph.layers.items():
        own = layer.annotations or {}
        if own not in annotations:
            annotations.append(own)
        number = annotations.index(own)
        for key in layer:
            layer_of[key], group_of[key] = name, number
    groups: dict[int, dict[Any, Any]] = defaultdict(dict)
    border: set[Any] = set(wanted)
    for key, task in convert_legacy_graph(ensure_dict(graph)).items():
        number = group_of[key]
        groups[number][key] = task
        border.update(d for d in task.dependencies if group_of.get(d) != number)
    tasks: dict[Any, Any] = {}
    for group in groups.values():
        tasks.update(finish(fuse_linear_task_spec(group, border & group.keys())))
    for key, task in tasks.items():
        if isinstance(task, Alias):  # Dask has renamed what it has fused
            layer_of.setdefault(task.target, layer_of[key])
    layers: dict[str, dict[Any, Any]] = {name: {} for name in graph.layers}
    dependencies: dict[str, set[str]] = {name: set() for name in graph.layers}
    for key, task in tasks.items():
        name = layer_of[key]
        layers[name][key] = task
        dependencies[name].update(layer_of[d] for d in task.dependencies if d in layer_of)
    return HighLevelGraph(
        {n: MaterializedLayer(t, annotations=graph.layers[n].annotations) for n, t in layers.items()},
        {name: found - {name} for name, found in dependencies.items()},
    )
