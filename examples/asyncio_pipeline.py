"""Handoff in an asyncio program: several DAGs at once, results as they come.

Run it with ``python examples/asyncio_pipeline.py``.  With an asynchronous client whatever waits is awaited;
nothing else differs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from distributed import Client, LocalCluster

import handoff_dask as handoff


def fetch(page: str) -> str:
    """Stand in for a request over the network."""
    return f"<p>{page}</p> <p>and more of {page}</p>"


def count(html: str) -> int:
    """Count the paragraphs."""
    return html.count("<p>")


def build(pages: Sequence[str]) -> handoff.DAG:
    """Fetch pages, no more than two at once on a node, and count what is in them."""
    dag = handoff.new()
    for page in pages:
        dag.add_function(
            handoff.Function(("fetch", page), [], fetch, extra_args=[page], cost={"connections": 1, "cpu": 0})
        )
        dag.add_function(handoff.Function(("count", page), [("fetch", page)], count, cost={"cpu": 1}))
    counts = [("count", page) for page in pages]
    return dag.add_function(handoff.Function("total", counts, sum, argument_inclusion="as_list"))


async def follow(session: handoff.Handoff, pages: Sequence[str]) -> int:
    """Execute one DAG, tell of each result as it comes, and give the total."""
    execution = await session.submit(build(pages))
    async for function_id, value in execution.as_completed():
        if function_id != "total":
            print(f"{function_id[0]} {function_id[1]}: {value}")
    total: int = await execution.get_result("total")
    return total


async def main() -> list[int]:
    """Two DAGs at once on a cluster of two nodes; the totals."""
    async with (
        LocalCluster(
            n_workers=2, threads_per_worker=4, processes=False, dashboard_address=None, asynchronous=True
        ) as cluster,
        Client(cluster, asynchronous=True) as client,
        handoff.Handoff(client) as session,
    ):
        for node in await session.discover_nodes():
            await session.update_node_resources(node, {"connections": 2})
        totals = await asyncio.gather(follow(session, ["a", "b", "c"]), follow(session, ["d"]))
    print(f"paragraphs: {totals}")
    return totals


if __name__ == "__main__":
    asyncio.run(main())
