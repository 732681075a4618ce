"""What Handoff's and Handout's own guides show, in Python, on nodes that are processes."""

from __future__ import annotations

import operator
from collections import Counter

import pytest

import handoff_dask as handoff
from handoff_dask.stores import MemoryResultStore

NODES = {
    "node1@example.com": {"cpu": 8, "memory": 16000, "gpu_memory": 0, "has_cuda": False},
    "node2@example.com": {"cpu": 4, "memory": 8192, "gpu": 1, "gpu_memory": 4000, "has_cuda": True},
}
NODE1, NODE2 = NODES


@pytest.fixture(scope="module")
def session():
    session = handoff.start(nodes=NODES)
    yield session
    handoff.stop()


@pytest.fixture(autouse=True)
def as_it_was(session):
    """Each guide finds the nodes as they were."""
    yield
    for node, capabilities in NODES.items():
        session.register_node(node, capabilities)


def format_output(value):
    return f"The final answer is: {value}"


def load_data(path):
    return f"Loaded: {path}"


def process_on_gpu(data):
    return f"Processed [{data}] on GPU"


def identity(value):
    return value


# ---------------------------------------------------------------------- Handoff's README


def test_basic_dag(session):
    dag = handoff.DAG()
    source = handoff.Function(id="source", args=[], code=identity, extra_args=[42])
    transform = handoff.Function(id="transform", args=["source"], code=operator.mul, extra_args=[2])
    sink = handoff.Function(id="sink", args=["transform"], code=format_output)
    dag = dag.add_function(source).add_function(transform).add_function(sink)
    assert dag.validate() is None

    handoff.register_local_node({"cpu": 2, "memory": 1024})
    result = handoff.execute(dag)
    assert result.dag_id == dag.id
    assert result.results == {"source": 42, "transform": 84, "sink": "The final answer is: 84"}
    assert set(result.allocations) == {"source", "transform", "sink"}
    assert set(result.allocations.values()) <= set(NODES)


def distributed_dag():
    dag = handoff.new("distributed_example_dag")
    load = handoff.Function(
        id="load_data",
        args=[],
        code=load_data,
        extra_args=["/path/to/shared/data.txt"],
        cost={"cpu": 1, "memory": 1000},
    )
    gpu = handoff.Function(
        id="gpu_process", args=["load_data"], code=process_on_gpu, cost={"cpu": 2, "memory": 2048, "gpu": 1}
    )
    last = handoff.Function(
        id="format_result", args=["gpu_process"], code=format_output, cost={"cpu": 1, "memory": 500}
    )
    return dag.add_function(load).add_function(gpu).add_function(last)


def test_distributed_execution(session):
    dag = distributed_dag()
    dag.validate()
    result = handoff.execute(dag)
    assert result.results["format_result"] == (
        "The final answer is: Processed [Loaded: /path/to/shared/data.txt] on GPU"
    )
    assert result.allocations["gpu_process"] == NODE2


def test_pinned_function(session):
    dag = handoff.new().add_function(handoff.Function("there", [], identity, extra_args=[1], node=NODE2))
    assert handoff.execute(dag).allocations == {"there": NODE2}


# ---------------------------------------------------------------------- Handout's README


def handout_functions():
    return [
        handoff.function("load_data", load_data, cost={"memory": 2000, "cpu_intensive": False}),
        handoff.function(
            "process_data",
            process_on_gpu,
            args=[("load_data", 0)],
            cost={"memory": 500, "gpu_memory": 1000, "cpu_intensive": True},
        ),
        handoff.function(
            "output_results",
            format_output,
            args=[("process_data", 0)],
            cost={"memory": 200, "cpu_intensive": False},
        ),
    ]


def with_path(functions):
    first = handoff.function("load_data", load_data, cost=functions[0].cost, extra_args=["x"])
    return [first, *functions[1:]]


FINAL = "The final answer is: Processed [Loaded: x] on GPU"


@pytest.mark.parametrize("run", [handoff.execute, handoff.submit])
def test_handout_basic_example(session, run):
    executor = run(with_path(handout_functions()))
    results = handoff.await_completion(executor)
    assert results["output_results"] == handoff.get_result(executor, "output_results") == FINAL


class MyCustomAllocator:
    """Whatever needs memory of a gpu goes to the nodes that have it, the rest to the others."""

    def allocate(self, functions, capabilities):
        plain = [n for n, has in capabilities.items() if not has.get("has_cuda")]
        cuda = [n for n, has in capabilities.items() if has.get("has_cuda")]
        return {f.id: (cuda if "gpu_memory" in (f.cost or {}) else plain)[0] for f in functions}


@pytest.mark.parametrize("allocator", [None, MyCustomAllocator, MyCustomAllocator()])
def test_handout_resource_aware_execution(session, allocator):
    resources = [
        {"node": NODE1, "capabilities": {"memory": 8000, "gpu_memory": 0, "has_cuda": False}},
        {"node": NODE2, "capabilities": {"memory": 4000, "gpu_memory": 4000, "has_cuda": True}},
    ]
    result = handoff.execute(with_path(handout_functions()), resources=resources, allocator=allocator)
    assert result.results["output_results"] == FINAL
    assert result.allocations == {"load_data": NODE1, "process_data": NODE2, "output_results": NODE1}


def test_has_cuda_is_a_label_and_resources_confine(session):
    needs = [handoff.function("f", identity, extra_args=[1], cost={"has_cuda": True, "gpu_memory": 4000})]
    assert handoff.execute(needs).allocations == {"f": NODE2}
    with pytest.raises(handoff.AllocationError) as caught:
        handoff.execute(needs, resources=[{"node": NODE2, "capabilities": {"gpu_memory": 2000}}])
    assert set(caught.value.reasons) == set(NODES)


# ---------------------------------------------------------------------- the guide to distributed execution


def test_discovery_and_updates(session):
    handoff.register_local_node({"cpu": 8, "memory": 16000, "gpu": 1})
    discovered = handoff.discover_nodes()
    assert {n: (c["cpu"], c["memory"], c["gpu"]) for n, c in discovered.items()} == {
        NODE1: (8, 16000, 1),
        NODE2: (4, 8192, 1),
    }
    handoff.update_node_resources(NODE1, {"cpu": 12, "memory": 24000})
    updated = handoff.discover_nodes()[NODE1]
    assert (updated["cpu"], updated["memory"], updated["gpu"]) == (12, 24000, 1)


def guide_dag():
    dag = handoff.new("guide")
    for function in (
        handoff.Function("input_data", [], identity, extra_args=[[3, 1, 2]]),
        handoff.Function("cpu_intensive", ["input_data"], sorted, cost={"cpu": 4, "memory": 2000}),
        handoff.Function("gpu_task", ["cpu_intensive"], sum, cost={"gpu": 1, "memory": 4000}),
        handoff.Function("aggregate", ["cpu_intensive", "gpu_task"], lambda a, b: (a, b)),
    ):
        dag.add_function(function)
    return dag


@pytest.mark.parametrize("strategy", ["first_available", "load_balanced", "cost_optimized"])
def test_strategies_and_telemetry(session, strategy):
    starts, stops = [], []
    handoff.telemetry.attach(
        "handoff-monitoring",
        ("handoff", "execution", "function", "start"),
        lambda event, measurements, metadata, config: config.append(
            (metadata["function_id"], metadata["node"], measurements["system_time"] > 0)
        ),
        starts,
    )
    handoff.telemetry.attach_many(
        "durations",
        [("handoff", "execution", "function", "stop")],
        lambda event, measurements, metadata, config: stops.append(metadata["function_id"]),
    )
    try:
        result = handoff.execute_distributed(guide_dag(), allocation_strategy=strategy, max_retries=3)
    finally:
        handoff.telemetry.detach("handoff-monitoring")
        handoff.telemetry.detach("durations")
    assert result.results["aggregate"] == ([1, 2, 3], 6)
    assert result.allocations["gpu_task"] == NODE2
    order = ["input_data", "cpu_intensive", "gpu_task", "aggregate"]
    assert starts == [(i, result.allocations[i], True) for i in order]
    assert stops == order

    graph = handoff.visualization.execution_graph(result)
    assert {node["id"]: node["node"] for node in graph.nodes} == result.allocations
    assert len(graph.edges) == 4


class CustomResourceTracker(handoff.SimpleResourceTracker):
    """Keeps node 1 out of it."""

    def request(self, node, req):
        return node == NODE2 and super().request(node, req)


class CustomResultStore(MemoryResultStore):
    """A store of one's own."""


def test_own_tracker_and_store(session):
    own = handoff.Handoff(
        session.client, resource_tracker=CustomResourceTracker, result_store=CustomResultStore
    )
    with own:
        result = own.execute(guide_dag())
        assert set(result.allocations.values()) == {NODE2}
        assert own.get_local_value("guide", "gpu_task") == 6


def test_a_failing_function_is_retried(session):
    def flaky(path=[]):  # noqa: B006
        import os
        import tempfile

        mark = os.path.join(tempfile.gettempdir(), f"handoff-flaky-{os.getppid()}")
        if not os.path.exists(mark):
            open(mark, "w").close()
            raise OSError("the first time")
        os.remove(mark)
        return "at last"

    result = handoff.execute_distributed([handoff.Function("f", [], flaky, node=NODE1)], max_retries=3)
    assert result.results == {"f": "at last"}
    assert result.timings["f"].attempts == 2


# ---------------------------------------------------------------------- the guide to resources


def test_custom_resources_and_availability(session):
    special = handoff.Function(
        "custom_task", [], identity, extra_args=[1], cost={"specialized_hardware": 1, "memory": 2000}
    )
    with pytest.raises(handoff.AllocationError, match="specialized_hardware"):
        handoff.execute([special])
    handoff.register_node(NODE1, {"cpu": 8, "memory": 16000, "gpu": 2, "specialized_hardware": 1})
    assert handoff.execute([special]).allocations == {"custom_task": NODE1}
    assert handoff.resources_available(NODE1, {"cpu": 4, "memory": 8000})
    assert not handoff.resources_available(NODE1, {"cpu": 9})
    assert not handoff.resources_available("node3@example.com", {"cpu": 1})


@pytest.mark.parametrize("which", ["simple", "cluster"])
def test_request_and_release(session, which):
    tracker = handoff.SimpleResourceTracker() if which == "simple" else session.resource_tracker
    tracker.register(NODE1, {"cpu": 4, "memory": 8000})
    need = {"cpu": 2, "memory": 2000}
    assert tracker.available(NODE1, need)
    assert [tracker.request(NODE1, need) for _ in range(3)] == [True, True, False]
    tracker.release(NODE1, need)
    assert tracker.available(NODE1, need)
    tracker.release(NODE1, need)
    tracker.release(NODE1, need)
    assert not tracker.available(NODE1, {"cpu": 5})
    assert tracker.get_capabilities(NODE1)["cpu"] == 4


# ---------------------------------------------------------------------- the module


def test_local_execution(session):
    result = handoff.execute_local(distributed_dag())
    assert set(result.allocations.values()) == {"local"}
    assert result.results == handoff.execute(distributed_dag()).results


def test_results_and_data(session):
    handoff.store_result("doc", "stored", [1, 2], NODE2)
    assert handoff.get_result("doc", "stored", timeout=5.0) == [1, 2]
    assert handoff.lookup_data_location("doc", "stored") == NODE2
    assert handoff.get_value("doc", "stored", NODE2) == [1, 2]
    handoff.store_value("doc", "mine", "here")
    assert handoff.get_local_value("doc", "mine") == handoff.get_value("doc", "mine") == "here"
    with pytest.raises(handoff.NotFoundError):
        handoff.get_local_value("doc", "stored")
    handoff.register_data_location("doc", "elsewhere", NODE1)
    assert handoff.lookup_data_location("doc", "elsewhere") == NODE1

    result = handoff.execute(distributed_dag())
    assert handoff.get_result(result.dag_id, "load_data") == "Loaded: /path/to/shared/data.txt"
    assert handoff.lookup_data_location(result.dag_id, "gpu_process") == NODE2
    handoff.forget("doc")
    with pytest.raises(handoff.NotFoundError):
        handoff.get_result("doc", "stored")


def test_a_function_raises_what_it_raises(session):
    with pytest.raises(handoff.FunctionFailedError) as caught:
        handoff.execute([handoff.Function("f", [], operator.truediv, extra_args=[1, 0])], max_retries=0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.node in NODES


def test_load_is_balanced(session):
    dag = handoff.new()
    for i in range(6):
        dag.add_function(handoff.Function(i, [], identity, extra_args=[i], cost={"cpu": 2}, duration=1))
    allocations = handoff.execute(dag, allocation_strategy="load_balanced").allocations
    assert Counter(allocations.values()).most_common() == [(NODE1, 4), (NODE2, 2)]
