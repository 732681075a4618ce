"""Sending a graph to the scheduler in an order of our own.

``Client.get`` makes the scheduler run ``dask.order`` over the graph, at 5 to 20 microseconds a
task, only to have the engine decide in what order functions run.  The message that carries the
graph has a field for priorities, but no public method fills it.  This is the only place that
uses ``Client._graph_to_futures``; ``tests/cluster/test_sending.py`` fails when that method has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dask._expr import HLGExpr
from dask.highlevelgraph import HighLevelGraph
from distributed import Client, Future
from distributed.spans import SpanMetadata


def send(client: Client, graph: HighLevelGraph, keys: Sequence[str]) -> list[Future[Any]]:
    """Submit a graph; the futures of ``keys``, in their order.

    Parameters
    ----------
    client
        Through which it goes.
    graph
        What is to be computed; a worker that has several of its tasks takes them in the order
        in which they stand in their layer.
    keys
        What is wanted of it.
    """
    futures: dict[str, Future[Any]] = client._graph_to_futures(
        expr=HLGExpr(graph),
        keys=set(keys),
        span_metadata=SpanMetadata(collections=[{"type": "low-level-graph"}]),
        internal_priority={key: n for layer in graph.layers.values() for n, key in enumerate(layer)},
    )
    return [futures[key] for key in keys]
