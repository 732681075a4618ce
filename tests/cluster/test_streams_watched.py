"""What is seen of pipelines: explanations, page, metrics, telemetry."""

from __future__ import annotations

import asyncio
import time

from clusters import live
from stage import until
from test_streams import all_of, fussy, inc, stream_dag

import handoff_dask as handoff
from handoff_dask import Function, telemetry


def slow(x):
    time.sleep(0.02)
    return x


@live(2, 2)
async def test_the_bottleneck_is_known(client, scheduler, *workers):
    """``explain``, the page and the metrics say which stage limits a pipeline, and why."""
    dag = stream_dag(Function("quick", ["x"], inc), Function("slow", ["quick"], slow, cost={"cpu": 1}))
    async with await handoff.stream(dag, client=client) as pipeline:
        views, metrics = scheduler.plugins["handoff"].views, scheduler.plugins["handoff"].metrics
        going = asyncio.ensure_future(all_of(pipeline, range(100_000)))
        await until(lambda: views.overview()["pipelines"][0]["bottleneck"] == "slow")
        (seen,) = views.overview()["pipelines"]
        ours, quick = await pipeline.explain("slow"), await pipeline.explain("quick")
        by_dag = await handoff.explain("stream", "slow")
        going.cancel()

    assert (seen["dag_id"], seen["max_in_flight"], len(seen["stages"])) == ("stream", 20, 2)
    assert seen["stages"][1]["busy"] > 0.5
    assert "runs" in str(ours)
    assert "it is the bottleneck of the pipeline: its code runs" in str(ours)
    assert "'slow' is the bottleneck of the pipeline" in str(quick)
    assert (by_dag.stage.bottleneck, by_dag.to_dict()["stage"]["workers"]) == ("slow", 1)
    assert views.overview()["pipelines"] == metrics.pipelines() == []


@live(2, 2)
async def test_telemetry_of_pipelines_and_items(client, scheduler, *workers):
    """Each item has a start, and a stop or an exception; so has the pipeline, and its claims are told."""
    told = []
    names = [
        *(("handoff", "stream", "item", what) for what in ("start", "stop", "exception")),
        *(("handoff", "stream", "pipeline", what) for what in ("start", "stop", "exception")),
        ("handoff", "resources", "claim"),
        ("handoff", "resources", "release"),
    ]
    telemetry.attach_many("watch", names, lambda event, m, about, config: told.append((event[1:], m, about)))
    try:
        dag = stream_dag(Function("a", ["x"], fussy, cost={"cpu": 1}))
        async with await handoff.stream(dag, client=client) as pipeline:
            await all_of(pipeline, [3, 4])
        await until(lambda: len(told) == 8, lambda: told)
    finally:
        telemetry.detach("watch")

    items = [(e[2], about["item"]) for e, _, about in told if e[1] == "item"]
    assert sorted(items) == [("exception", 0), ("start", 0), ("start", 1), ("stop", 1)]
    ends = {e[2]: (m, about) for e, m, about in told if e[1] == "item" and e[2] != "start"}
    assert ends["exception"][1]["exception"].args == ("three", 3)
    assert ends["stop"][0]["duration"] > 0
    pipelines = [(e[2], about["status"], about["stage_count"]) for e, _, about in told if e[1] == "pipeline"]
    assert pipelines == [("start", "running", 1), ("stop", "stopped", 1)]
    claims = [(e[1], about["function_id"], m["amounts"]) for e, m, about in told if e[0] == "resources"]
    assert claims == [("claim", "a", {"cpu": 1}), ("release", "a", {"cpu": 1})]
