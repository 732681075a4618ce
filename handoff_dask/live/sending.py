"""Sending a graph to the scheduler in an order of our own.

``Client.get`` makes the scheduler run ``dask.order`` over the graph, at 5 to 20 microseconds a
task, only to have the engine decide in what order functions run.  The message that carries the
graph has a field for priorities, but no public method fills it.  This is the one place that
uses ``Client._graph_to_futures``; ``tests/live/test_sending.py`` tells when it has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dask._expr import HLGExpr
from dask.highlevelgraph import HighLevelGraph
from distributed import Client, Future
from distributed.spans import SpanMetadata


def send(
    client: Client, graph: HighLevelGraph, keys: Sequence[str], order: Sequence[str]
) -> list[Future[Any]]:
    """Submit a graph; the futures of ``keys``, in their order.

    Parameters
    ----------
    client
        Through which it goes.
    graph
        What is to be computed.
    keys
        What is wanted of it.
    order
        All keys of the graph, in the order in which a worker that has several of them should
        take them.
    """
    futures: dict[str, Future[Any]] = client._graph_to_futures(
        expr=HLGExpr(graph),
        keys=set(keys),
        span_metadata=SpanMetadata(collections=[{"type": "low-level-graph"}]),
        internal_priority={key: n for n, key in enumerate(order)},
    )
    return [futures[key] for key in keys]
