"""Nodes for functions all at once."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff_dask.allocators import Allocator, SimpleAllocator
from handoff_dask.errors import AllocationError, DuplicateFunctionError, MissingFunctionError, ValidationError
from handoff_dask.graph.dag import as_dag
from handoff_dask.graph.functions import Collocated, Function
from handoff_dask.resources import Capabilities

STRATEGIES = ["first_available", "load_balanced", "cost_optimized", "fastest"]


def f(key, *args, **fields):
    return Function(key, args, max, **fields)


def cpus(*amounts):
    return [f(i, cost={"cpu": amount}) for i, amount in enumerate(amounts)]


def nodes_of(strategy, functions, capabilities):
    return list(SimpleAllocator(strategy).allocate(functions, capabilities).values())


def test_it_is_an_allocator_that_travels():
    assert isinstance(SimpleAllocator(), Allocator)
    assert pickle.loads(pickle.dumps(SimpleAllocator("fastest"))) == SimpleAllocator("fastest")


@pytest.mark.parametrize("strategy", ["best", None, ["first_available"]])
def test_an_unknown_strategy_is_refused(strategy):
    with pytest.raises(ValidationError, match="the strategies are first_available, "):
        SimpleAllocator(strategy)


def test_the_first_in_name_order_that_has_room():
    """Names are compared as strings: 10 comes before 9."""
    nodes = {"9": {"cpu": 4}, "10": {"cpu": 4}}

    assert nodes_of("first_available", cpus(3, 3, 1, 1), nodes) == ["10", "9", "10", "9"]


def test_the_node_whose_most_used_resource_stays_lowest():
    nodes = {"a": {"cpu": 4, "memory": 100}, "b": {"cpu": 8, "memory": 50}}
    functions = [f("x", cost={"cpu": 2, "memory": 30}), f("y", cost={"cpu": 2}), f("z", cost={"memory": 20})]

    assert nodes_of("load_balanced", functions, nodes) == ["a", "b", "b"]


def test_functions_without_cost_are_balanced_too():
    assert nodes_of("load_balanced", [f(i) for i in range(4)], {"a": {"cpu": 1}, "b": {"cpu": 1}}) == [
        *"abab"
    ]


def test_the_cheapest_then_the_tightest():
    nodes = {"a": {"cpu": 4, "price": 2}, "b": {"cpu": 4, "gpu": 1}, "c": {"cpu": 8}, "d": {"cpu": 4}}

    assert nodes_of("cost_optimized", cpus(4, 4, 4, 4, 4), nodes) == ["d", "c", "c", "b", "a"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_when_nothing_has_room_the_first_that_could_hold_it_is_given(strategy):
    nodes = {"a": {"cpu": 2}, "b": {"cpu": 4}, "c": {"cpu": 4}}

    assert nodes_of(strategy, cpus(4, 4, 2, 3, 2, 2), nodes)[3:] == ["b", "a", "a"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_pins_are_heeded(strategy):
    functions = [
        f("x", cost={"cpu": 4}, node="b"),
        f("y", cost={"cpu": 4}, node="b"),
        f("z", cost={"cpu": 1}),
    ]

    assert nodes_of(strategy, functions, {"a": {"cpu": 4}, "b": {"cpu": 4}}) == ["b", "b", "a"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_functions_that_share_a_node_get_one_that_can_hold_each(strategy):
    functions = [
        f("x", cost={"cpu": 4}),
        f("y", cost={"gpu": 1}, node=Collocated("x")),
        f("z", node=("collocated", "y")),
        f("w", cost={"cpu": 1}),
    ]
    nodes = {"a": {"cpu": 4}, "b": {"gpu": 1, "cpu": 2}, "c": {"gpu": 1, "cpu": 4}}

    assert nodes_of(strategy, functions, nodes)[:3] == ["c", "c", "c"]
    assert nodes_of(strategy, functions[1::-1], nodes) == ["c", "c"]


def test_a_pinned_root_takes_all_along():
    functions = [f("x", node=Collocated("y")), f("y", node="b", cost={"cpu": 1})]

    assert SimpleAllocator().allocate(functions, {"a": {"cpu": 1}, "b": {"cpu": 1}}) == {"x": "b", "y": "b"}


def test_inputs_and_inline_functions_are_on_no_node():
    functions = [
        Function("in", [], None, type="input"),
        f("i", type="inline"),
        f("x", "in", "i", "elsewhere"),
    ]

    assert SimpleAllocator().allocate(functions, {"a": {}}) == {"x": "a"}
    assert SimpleAllocator().allocate(as_dag(functions[:2]), {}) == {}


def test_what_no_node_could_hold_is_refused_with_reasons():
    functions = [f("x", cost={"cpu": 4}), f("y", cost={"gpus": 1}, node="b")]
    with pytest.raises(AllocationError) as refusal:
        SimpleAllocator().allocate(functions, {"a": {"cpu": 4, "gpu": 1}, "b": {"cpu": 4}})

    assert (refusal.value.function_id, refusal.value.cost) == ("y", {"gpus": 1})
    assert refusal.value.reasons == {"a": "it is pinned to node 'b'; has no 'gpus'", "b": "has no 'gpus'"}
    assert "did you mean 'gpu'?" in str(refusal.value)


def test_what_must_share_a_node_and_cannot_is_refused():
    functions = [f("x", cost={"cpu": 4}), f("y", cost={"gpu": 1}, node=Collocated("x"))]
    with pytest.raises(AllocationError) as refusal:
        SimpleAllocator().allocate(functions, {"a": {"cpu": 4}, "b": {"gpu": 1, "cpu": 2}})

    assert refusal.value.cost == {"cpu": 4, "gpu": 1}
    assert refusal.value.reasons == {"a": "has no 'gpu'", "b": "needs cpu 4, has 2"}


def test_without_nodes_nothing_can_be_allocated():
    with pytest.raises(AllocationError, match="the cluster has no nodes"):
        SimpleAllocator().allocate([f("x")], {})
    assert SimpleAllocator().allocate([], {}) == {}


@pytest.mark.parametrize(
    ("functions", "capabilities", "error"),
    [
        ([f("x"), f("x")], {"a": {}}, DuplicateFunctionError),
        ([f("x", node=Collocated("y"))], {"a": {}}, MissingFunctionError),
        ([f("x")], {"a": {"cpu": -1}}, ValidationError),
        ([f("x")], ["a"], ValidationError),
        ("x", {"a": {}}, ValidationError),
    ],
)
def test_wrong_calls_are_refused(functions, capabilities, error):
    with pytest.raises(error):
        SimpleAllocator().allocate(functions, capabilities)


@given(
    st.sampled_from(STRATEGIES),
    st.lists(st.fixed_dictionaries({"cpu": st.integers(0, 4), "gpu": st.integers(0, 1)}), max_size=12),
)
def test_nodes_are_filled_before_any_is_overdrawn(strategy, costs):
    """Each function is on a node that could hold it, and on one with room if there was one."""
    nodes = {"a": {"cpu": 4}, "b": {"cpu": 4, "gpu": 2}, "c": {"cpu": 2, "gpu": 2}}
    functions = [f(i, cost=cost) for i, cost in enumerate(costs)]
    given_nodes = SimpleAllocator(strategy).allocate(functions, nodes)
    left = {name: {"cpu": offer["cpu"], "gpu": offer.get("gpu", 0)} for name, offer in nodes.items()}

    assert list(given_nodes) == list(range(len(costs)))
    for function in functions:
        name, cost = given_nodes[function.id], function.cost
        assert Capabilities.parse(nodes[name]).could_hold(function.needs)
        with_room = [n for n, room in left.items() if all(room[r] >= u for r, u in cost.items() if u)]
        assert not with_room or name in with_room
        for resource, amount in cost.items():
            left[name][resource] -= amount
