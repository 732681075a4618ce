"""The private corner of distributed that graphs are sent through."""

from __future__ import annotations

import dask.order
from distributed.utils_test import gen_cluster

from handoff_dask import Function, Handoff


@gen_cluster(client=True)
async def test_graphs_bring_their_own_order(c, s, a, b):
    """The scheduler takes our priorities: it does not work out others."""

    def refuse(*args, **kwargs):
        raise AssertionError("the scheduler orders the graph")

    order, dask.order.order = dask.order.order, refuse
    try:
        async with Handoff(c) as session:
            result = await session.execute([Function(i, [], int, extra_args=[i]) for i in range(8)])
    finally:
        dask.order.order = order
    assert result.results == {i: i for i in range(8)}
