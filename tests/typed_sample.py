"""A user's program, read by type checkers only: see test_typing.py.

``assert_type`` says what a checker must infer.  A line that ends in ``type: ignore`` must be refused:
an ignore that nothing needs is an error.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Literal

from distributed import Client, Future
from typing_extensions import assert_type

import handoff_dask as handoff
from handoff_dask.client.explanations import FunctionExplanation
from handoff_dask.record.execution import ExecutionRecord

Status = Literal["pending", "running", "finished", "failed", "cancelled"]


def double(value: int) -> int:
    return 2 * value


def build() -> handoff.DAG:
    dag = handoff.DAG("numbers")
    assert_type(dag.add_function(handoff.Function("one", [], int, extra_args=["1"])), handoff.DAG)
    dag.add_function(handoff.Function("two", ["one"], double, cost={"cpu": 1, "memory": "1 GB"}))
    dag.add_function(handoff.function("three", double, args=[("two", 0)], type="inline"))
    dag.add_function(handoff.Function("four", ["three"], double, argument_inclusion="as_list"))
    return dag


class Tidy:
    """A strategy of the user's own."""

    def select(self, function: handoff.Function, nodes: list[Any]) -> str | None:
        return nodes[0].name if nodes else None


def choose(function: handoff.Function, nodes: list[Any]) -> str | None:
    return None


def blocking(dag: handoff.DAG, client: Client) -> None:
    result = handoff.execute(dag)
    assert_type(result, handoff.ExecutionResult)
    assert_type(result.results, Mapping[Hashable, Any])
    assert_type(result.allocations, Mapping[Hashable, str])
    assert_type(result.timings["one"], handoff.Timing)
    assert_type(result.timings["one"].start, float)
    assert_type(result.makespan_s, "float | None")
    assert_type(result.failed, Mapping[Hashable, BaseException])
    assert_type(result.skipped, Mapping[Hashable, Hashable])

    execution = handoff.submit(
        dag,
        client=client,
        inputs={"x": 1},
        allocation_strategy="fastest",
        resources=[{"node": "a", "capabilities": {"cpu": 1}}],
        max_concurrency=3,
        priority=1,
        share=2.5,
        outputs=["two"],
        timeout=60,
        progress=True,
        retry=handoff.Retry(5, delay=1.0, on=OSError),
        on_failure="continue",
    )
    assert_type(execution, handoff.Execution)
    assert_type(execution.status, Status)
    assert_type(execution.dag_id, Hashable)
    assert_type(execution.futures, dict[Hashable, Future[Any]])
    assert_type(execution.result(timeout=5), handoff.ExecutionResult)
    assert_type(execution.get_result("two"), Any)
    assert_type(execution.partial(), handoff.ExecutionResult)
    assert_type(execution.record(), ExecutionRecord)
    assert_type(execution.explain("two"), FunctionExplanation)
    for pair in execution.as_completed():
        assert_type(pair, tuple[Hashable, Any])
    execution.cancel()

    assert_type(handoff.execute_distributed([handoff.Function("f", [], int)]), handoff.ExecutionResult)
    assert_type(handoff.execute_local(dag, outputs=["two"]), handoff.ExecutionResult)
    assert_type(handoff.await_completion(execution), Mapping[Hashable, Any])
    assert_type(handoff.get_result("numbers", "two", timeout=1.0), Any)
    assert_type(handoff.explain("numbers", "two"), FunctionExplanation)
    assert_type(handoff.discover_nodes(), dict[str, dict[str, Any]])
    assert_type(handoff.resources_available("a", {"cpu": 1}), bool)
    assert_type(handoff.lookup_data_location("numbers", "two"), str)
    assert_type(handoff.start(client), handoff.Handoff)
    handoff.stop()


def own_strategies(dag: handoff.DAG) -> None:
    handoff.execute(dag, allocation_strategy=Tidy())
    handoff.execute(dag, allocation_strategy=choose)
    handoff.execute(dag, allocator=handoff.SimpleAllocator("load_balanced"))
    handoff.execute(dag, allocator=Tidy)
    handoff.start(allocator="cost_optimized", resource_tracker=handoff.SimpleResourceTracker())


def session(dag: handoff.DAG) -> None:
    with handoff.Handoff(nodes={"a": {"cpu": 2}}) as one:
        assert_type(one, handoff.Handoff)
        assert_type(one.execute(dag), handoff.ExecutionResult)
        assert_type(one.execute_distributed(dag), handoff.ExecutionResult)
        assert_type(one.execute_local(dag), handoff.ExecutionResult)
        assert_type(one.submit(dag), handoff.Execution)
        assert_type(one.await_completion(one.submit(dag)), Mapping[Hashable, Any])
        assert_type(one.resource_tracker.request("a", {"cpu": 1}), bool)
        one.register_node("a", {"cpu": 4})


async def asynchronous(dag: handoff.DAG, client: Client) -> None:
    async with handoff.AsyncHandoff(client) as one:
        assert_type(one, handoff.AsyncHandoff)
        assert_type(await one.execute(dag, timeout=60), handoff.ExecutionResult)
        assert_type(await one.execute_local(dag), handoff.ExecutionResult)
        execution = await one.submit(dag, allocation_strategy="fastest")
        assert_type(execution, handoff.AsyncExecution)
        assert_type(execution.status, Status)
        assert_type(await execution, handoff.ExecutionResult)
        assert_type(await execution.result(), handoff.ExecutionResult)
        assert_type(await execution.get_result("two"), Any)
        async for pair in execution.as_completed():
            assert_type(pair, tuple[Hashable, Any])
        await execution.cancel()
        assert_type(await one.await_completion(execution), Mapping[Hashable, Any])
        assert_type(await one.explain(execution, "two"), FunctionExplanation)
        assert_type(await one.discover_nodes(), dict[str, dict[str, Any]])
        assert_type(await one.resource_tracker.request("a", {"cpu": 1}), bool)
        print(one.execute(dag).results)  # type: ignore[attr-defined]  # not awaited


def streamed(dag: handoff.DAG, one: handoff.Handoff) -> None:
    stage = handoff.Function(
        "f", ["x"], double, init=(dict, ()), parallelism=2, batch_size=8, batch_timeout=0.1
    )
    dag.add_function(stage)
    with handoff.stream(
        dag, max_in_flight=4, join_timeout=1.5, on_node_loss="fail", ordered=False
    ) as pipeline:
        assert_type(pipeline, handoff.Pipeline)
        assert_type(pipeline.push(1, timeout=2.0), int)
        assert_type(pipeline.stages, "dict[Hashable, str | None]")
        assert_type(pipeline.status, Literal["running", "closed", "stopped", "failed"])
        for result in pipeline.map([1, 2]):
            print(result)
    assert_type(one.stream(dag), handoff.Pipeline)
    one.stream(dag, on_node_loss="stay")  # type: ignore[arg-type]
    handoff.stream(dag, inputs={"x": 1})  # type: ignore[arg-type]


async def streamed_async(dag: handoff.DAG, one: handoff.AsyncHandoff) -> None:
    async with await one.stream(dag) as pipeline:
        assert_type(pipeline, handoff.AsyncPipeline)
        assert_type(await pipeline.push(1), int)
        async for result in pipeline.map([1]):
            print(result)


async def misspelt_async(dag: handoff.DAG, one: handoff.AsyncHandoff) -> None:
    await one.execute(dag, max_retry=1)  # type: ignore[arg-type]
    await one.submit(dag, strategy="fastest")  # type: ignore[arg-type]


def misspelt(dag: handoff.DAG, one: handoff.Handoff) -> None:
    handoff.execute(dag, max_retry=1)  # type: ignore[arg-type]
    handoff.submit(dag, strategy="fastest")  # type: ignore[arg-type]
    handoff.execute_local(dag, out=["two"])  # type: ignore[arg-type]
    one.execute(dag, max_retry=1)  # type: ignore[arg-type]
    one.submit(dag, time_out=1.0)  # type: ignore[arg-type]
    one.execute_local(dag, out=["two"])  # type: ignore[arg-type]
    handoff.start(node={"a": {"cpu": 1}})  # type: ignore[call-arg]


def wrong(dag: handoff.DAG) -> None:
    handoff.execute(dag, allocation_strategy="fasttest")  # type: ignore[arg-type]
    handoff.execute(dag, max_retries="3")  # type: ignore[arg-type]
    handoff.execute(dag, timeout="1 min")  # type: ignore[arg-type]
    handoff.execute("numbers")  # type: ignore[arg-type]
    handoff.Function("f", [], int, type="inlined")  # type: ignore[arg-type]
    handoff.Function("f", [], int, argument_inclusion="list")  # type: ignore[arg-type]
    handoff.SimpleAllocator("first")  # type: ignore[arg-type]
    print(handoff.execute(dag).result)  # type: ignore[attr-defined]
    if handoff.submit(dag).status == "done":  # type: ignore[comparison-overlap]
        pass
