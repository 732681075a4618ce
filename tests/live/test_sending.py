"""The private corner of distributed that graphs are sent through."""

from __future__ import annotations

from distributed.utils_test import gen_cluster

from handoff_dask import Function, Handoff


@gen_cluster(client=True)
async def test_graphs_bring_their_own_order(c, s, a, b):
    """The scheduler takes our priorities and does not work out others."""
    functions = [Function(i, [], int, extra_args=[i]) for i in range(8)]
    async with Handoff(c) as session:
        execution = await session.submit(functions)
        await execution
        priorities = [s.tasks[f.key].priority[-1] for f in execution.futures.values()]
    assert priorities == list(range(8))
