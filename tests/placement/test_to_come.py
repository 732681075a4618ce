"""Nodes that have something scarce are spared for functions still to come that ask for it."""

from __future__ import annotations

import pytest

from handoff_dask.allocators import SimpleAllocator
from handoff_dask.graph.functions import Function
from handoff_dask.placement.events import NodeLeft, RunClosed
from handoff_dask.placement.strategies import FIRST_AVAILABLE
from handoff_dask.resources import Capabilities, Cost
from handoff_dask.simulation import SimulatedFunction, SimulatedNode, simulate
from handoff_dask.simulation.compact import CompactProblem
from handoff_dask.simulation.problem import Problem, ranks_of
from tests.placement.facts import finished, joined, opened, placed, ready

GPU = Cost.parse({"cpu": 1, "gpu": 1})
CPU = Cost.parse({"cpu": 1})


def coming(run="run", **counts):
    """A run that will ask for a gpu, or a label, so many times."""
    costs = {"gpu": GPU, "label": Cost.parse({"ssd": True}), "cpu": CPU}
    return opened(run, costs={costs[name]: count for name, count in counts.items()})


def small(name, run="run"):
    return ready(name, run=run, cpu=1)


def test_a_node_with_a_gpu_is_taken_after_those_without(make_engine):
    engine = make_engine(joined("a", cpu=1, gpu=1), joined("b", cpu=1), coming(gpu=1, cpu=9))
    assert placed(engine.handle_all([small(1), small(2)], now=1)) == {1: "b", 2: "a"}


def test_names_decide_where_nobody_will_ask_for_it(make_engine):
    engine = make_engine(joined("a", cpu=1, gpu=1), joined("b", cpu=1), coming(cpu=9))
    assert placed(engine.handle(small(1), now=1)) == {1: "a"}


def test_a_label_is_spared_too(make_engine):
    engine = make_engine(joined("a", cpu=1, ssd=True), joined("b", cpu=1), coming(label=1))
    assert placed(engine.handle(small(1), now=1)) == {1: "b"}


def test_what_every_node_has_is_no_reason(make_engine):
    engine = make_engine(joined("a", cpu=1, gpu=1), joined("b", cpu=1, gpu=1), coming(gpu=3))
    assert placed(engine.handle(small(1), now=1)) == {1: "a"}


def test_functions_of_other_runs_count_until_the_last_is_placed(make_engine):
    engine = make_engine(joined("a", cpu=9, gpu=1), joined("b", cpu=9), opened(), coming("other", gpu=2))
    assert placed(engine.handle(small(1), now=1)) == {1: "b"}
    asked = [ready(("g", n), run="other", cpu=1, gpu=1) for n in range(2)]
    assert placed(engine.handle_all(asked, now=2)) == {("g", 0): "a"}
    # The second waits for the gpu: it is still to come.
    assert placed(engine.handle(small(2), now=3)) == {2: "b"}
    assert placed(engine.handle(finished(("g", 0)), now=4)) == {("g", 1): "a"}
    assert placed(engine.handle(small(3), now=5)) == {3: "a"}
    # One that is tried again is still to come.
    engine.handle(ready("more", run="other", cpu=1, gpu=1), now=6)
    assert placed(engine.handle(small(4), now=7)) == {4: "b"}


def test_a_run_that_is_closed_asks_for_nothing(make_engine):
    engine = make_engine(joined("a", cpu=9, gpu=1), joined("b", cpu=9), opened(), coming("other", gpu=2))
    assert placed(engine.handle(small(1), now=1)) == {1: "b"}
    engine.handle(RunClosed(run="other"), now=2)
    assert placed(engine.handle(small(2), now=3)) == {2: "a"}


def test_nodes_that_come_and_go_change_what_is_scarce(make_engine):
    engine = make_engine(joined("a", cpu=9, gpu=1), coming(gpu=2))
    assert placed(engine.handle(small(1), now=1)) == {1: "a"}
    engine.handle(joined("b", cpu=9), now=2)
    assert placed(engine.handle(small(2), now=3)) == {2: "b"}
    engine.handle(NodeLeft(node="b"), now=4)
    engine.handle(joined("c", cpu=9, gpu=1), now=4)
    assert placed(engine.handle(small(3), now=5)) == {3: "a"}


@pytest.mark.parametrize("strategy", ["load_balanced", "fastest"])
def test_other_strategies_do_as_before(make_engine, strategy):
    engine = make_engine(
        joined("a", cpu=2, gpu=1), joined("b", cpu=1), opened(strategy=strategy, costs={GPU: 1})
    )
    assert placed(engine.handle(small(1), now=1)) == {1: "a"}


def test_the_search_for_an_order_makes_the_same_schedule():
    nodes = [
        SimulatedNode(name, Capabilities.parse(has))
        for name, has in (("a", {"cpu": 2, "gpu": 1}), ("b", {"cpu": 2}), ("c", {"cpu": 1, "ssd": True}))
    ]
    costs = [CPU, CPU, GPU, Cost.parse({"cpu": 1, "ssd": True}), Cost.parse({"cpu": 2})]
    functions = [
        SimulatedFunction(n, 1.0 + n % 7 / 3, costs[n % 5], (n - 6,) if n > 8 else ()) for n in range(60)
    ]
    run = simulate(functions, nodes, FIRST_AVAILABLE, idleness=False)
    problem = CompactProblem(Problem(functions, nodes, FIRST_AVAILABLE, ranks_of(functions)))
    found = problem.schedule(list(ranks_of(functions).values()))
    assert found is not None
    assert [("abc"[w], s) for w, s in zip(found.node, found.start_s, strict=True)] == [
        (run.spans[f.id].node, run.spans[f.id].start_s) for f in functions
    ]


def test_a_node_is_spared_until_the_last_function_in_the_list_that_asks_for_it():
    asked = [{"cpu": 1}, {"cpu": 1, "gpu": 1}, {"cpu": 1}]
    functions = [Function(n, [], int, cost=cost) for n, cost in enumerate(asked)]
    assert SimpleAllocator().allocate(functions, {"a": {"cpu": 4, "gpu": 1}, "b": {"cpu": 4}}) == {
        0: "b", 1: "a", 2: "a"
    }  # fmt: skip
