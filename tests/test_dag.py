"""DAGs: adding, validating, walking."""

from __future__ import annotations

import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff_dask.errors import (
    CyclicDependencyError,
    DuplicateFunctionError,
    InvalidFunctionError,
    MissingFunctionError,
    ValidationError,
)
from handoff_dask.graph.dag import DAG, as_dag, new
from handoff_dask.graph.functions import Argument, Collocated, Function


def f(key, *args, **fields):
    return Function(key, args, fields.pop("code", max), **fields)


def given_value(key):
    return Function(key, [], None, type="input")


def test_adding_chains_and_keeps_order():
    dag = DAG("d")

    assert dag.add_function(f("b", "a")).add_function(f("a")) is dag
    assert list(dag) == list(dag.functions) == ["b", "a"]
    assert (dag.id, len(dag), "a" in dag, "c" in dag, [] in dag) == ("d", 2, True, False, False)
    assert repr(dag) == "<DAG 'd': 2 functions>"


def test_ids_are_fresh_unless_given():
    assert len({DAG().id, new().id, DAG().id}) == 3
    assert len(new().id) == 32
    assert new(("run", 1)).id == ("run", 1)
    with pytest.raises(ValidationError, match="cannot be hashed"):
        DAG(["run"])


def test_functions_are_read_only():
    with pytest.raises(TypeError):
        DAG().functions["a"] = f("a")


def test_an_empty_dag_is_valid_and_true():
    assert DAG().validate() is None
    assert bool(DAG())
    assert DAG().order() == ()


def test_a_second_function_of_one_id_is_refused_at_once():
    dag = DAG().add_function(f("a"))

    with pytest.raises(DuplicateFunctionError, match="'a'"):
        dag.add_function(f("a", "b"))
    assert dag.functions["a"].args == ()


@pytest.mark.parametrize("other", [None, "a", {"id": "a"}])
def test_only_functions_are_added(other):
    with pytest.raises(InvalidFunctionError, match="no Function"):
        DAG().add_function(other)


def test_a_list_is_a_dag():
    dag = DAG()

    assert as_dag(dag) is dag
    assert list(as_dag([f("a"), f("b", "a")])) == ["a", "b"]
    assert list(as_dag(f(i) for i in range(3))) == [0, 1, 2]
    with pytest.raises(DuplicateFunctionError):
        as_dag([f("a"), f("a")])


@pytest.mark.parametrize("other", [None, "ab", {"a": f("a")}, f("a"), 3])
def test_what_is_no_dag_is_refused(other):
    with pytest.raises(ValidationError, match="no DAG"):
        as_dag(other)


def test_whatever_is_named_must_be_there():
    for broken in (f("a", "b"), f("a", Argument("b")), f("a", node=Collocated("b"))):
        with pytest.raises(MissingFunctionError) as refusal:
            as_dag([broken]).validate()
        assert (refusal.value.function_id, refusal.value.missing) == ("a", "b")


def test_a_cycle_is_told_along_the_edges():
    """Producer before consumer, starting with what was added first."""
    dag = as_dag([f("lead", "c"), f("a", "c"), f("b", "a"), f("c", "b")])

    with pytest.raises(CyclicDependencyError) as refusal:
        dag.validate()
    assert refusal.value.cycle == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["regular", "inline"])
def test_a_function_that_takes_itself_is_a_cycle(kind):
    with pytest.raises(CyclicDependencyError) as refusal:
        as_dag([f("a", "a", type=kind)]).validate()
    assert refusal.value.cycle == ["a"]


def test_inline_functions_may_not_be_a_cycle():
    with pytest.raises(CyclicDependencyError) as refusal:
        as_dag([f("a", "b", type="inline"), f("b", "a", type="inline")]).validate()
    assert refusal.value.cycle == ["a", "b"]


@pytest.mark.parametrize(("producer", "consumer"), [("inline", "regular"), ("regular", "inline")])
def test_an_argument_with_functions_has_no_inline_end(producer, consumer):
    dag = as_dag([f("a", type=producer), f("b", Argument("a", (round,)), type=consumer)])

    with pytest.raises(InvalidFunctionError, match="is inline and has no node"):
        dag.validate()


def test_an_argument_may_bring_an_input_or_travel_plainly_to_and_from_inline():
    dag = [
        given_value("x"),
        f("a", type="inline"),
        f("b", Argument("x", (max,)), Argument("a")),
        f("c", Argument("b"), type="inline"),
    ]

    assert as_dag(dag).validate() is None


@pytest.mark.parametrize("target", [f("t", type="inline"), given_value("t")])
def test_nothing_is_collocated_with_what_has_no_node(target):
    with pytest.raises(InvalidFunctionError, match=r"collocated with 't', which is (inline|input)"):
        as_dag([target, f("a", node=Collocated("t"))]).validate()


@pytest.mark.parametrize("length", [1, 2, 3])
def test_collocation_in_a_circle_is_refused(length):
    functions = [f(i, node=Collocated((i + 1) % length)) for i in range(length)]

    with pytest.raises(InvalidFunctionError, match="in a circle: 0 -> "):
        as_dag(functions).validate()


def test_collocated_functions_share_a_root():
    dag = as_dag(
        [
            f("c", node=Collocated("b")),
            f("b", node=Collocated("a")),
            f("a", node="n1"),
            f("d", node=("collocated", "b")),
            f("alone", node="n1"),
        ]
    )

    assert dag.collocation_roots() == {"a": "a", "b": "a", "c": "a", "d": "a"}
    assert dag.validate() is None


def test_adding_after_validating_is_noticed():
    dag = as_dag([f("a")])
    dag.validate()
    assert (dag.order(), dict(dag.dependents())) == (("a",), {"a": ()})
    dag.add_function(f("b", "a", "a"))

    assert (dag.order(), dict(dag.dependents())) == (("a", "b"), {"a": ("b",), "b": ()})
    dag.add_function(f("c", "nothing"))
    with pytest.raises(MissingFunctionError):
        dag.validate()
    with pytest.raises(MissingFunctionError):
        dag.dependents()


def test_what_outputs_need_comes_in_order():
    dag = as_dag([f("d", "b"), f("b", "a"), f("c", "a"), f("a"), f("e")])

    assert dag.needed_by(["b"]) == ("a", "b")
    assert dag.needed_by(["d", "c"]) == ("a", "b", "d", "c")
    assert dag.needed_by([]) == ()
    for unknown in ("z", ["a"]):
        with pytest.raises(ValidationError, match="not in the DAG"):
            dag.needed_by([unknown])


def test_dags_travel():
    dag = as_dag([f("a"), f("b", "a")])

    assert pickle.loads(pickle.dumps(dag)).functions == dag.functions


graphs = st.integers(0, 12).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, max(n - 1, 0)), max_size=3), min_size=n, max_size=n)
)


@given(graphs)
def test_order_or_cycle(graph):
    """Every graph has either an order that respects its edges, or a cycle made of its edges."""
    dag = as_dag(f(i, *args) for i, args in enumerate(graph))
    try:
        order = dag.order()
    except CyclicDependencyError as error:
        cycle = error.cycle
        assert len(set(cycle)) == len(cycle)
        for producer, consumer in zip(cycle, cycle[1:] + cycle[:1], strict=True):
            assert producer in graph[consumer]
    else:
        place = {key: i for i, key in enumerate(order)}
        assert sorted(order) == list(range(len(graph)))
        assert all(place[arg] < place[i] for i, args in enumerate(graph) for arg in args)


@given(st.permutations(range(8)))
def test_a_dag_added_in_order_keeps_it(keys):
    dag = as_dag(f(key, *keys[:i]) for i, key in enumerate(keys))

    assert dag.order() == tuple(keys)


@pytest.mark.parametrize("backwards", [False, True])
def test_long_chains_are_fast_and_need_no_deep_stack(backwards):
    """100,000 functions in a chain; the limit is ten times what it takes."""
    functions = [f(i, *([i - 1] if i else []), cost={"cpu": 1, "memory": 100}) for i in range(100_000)]
    start = time.process_time()
    dag = as_dag(reversed(functions) if backwards else functions)
    dag.validate()

    assert time.process_time() - start < 3
    assert dag.order() == tuple(range(100_000))


def test_long_cycles_and_long_collocations_need_no_deep_stack():
    ring = as_dag(f(i, (i + 1) % 20_000) for i in range(20_000))
    with pytest.raises(CyclicDependencyError) as refusal:
        ring.validate()
    assert len(refusal.value.cycle) == 20_000

    row = as_dag(f(i, node=Collocated(i + 1) if i < 20_000 else None) for i in range(20_001))
    assert set(row.collocation_roots().values()) == {20_000}
