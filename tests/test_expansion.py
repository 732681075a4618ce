"""What a DAG comes to before anything runs."""

from __future__ import annotations

import operator

import cloudpickle
import pytest
from dask.utils import funcname

from handoff_dask.errors import ValidationError
from handoff_dask.graph.dag import as_dag
from handoff_dask.graph.expansion import Transfer, call_function, expand, given_inputs
from handoff_dask.graph.functions import Argument, Collocated, Function
from handoff_dask.resources import Cost


def f(key, *args, **fields):
    return Function(key, args, fields.pop("code", max), **fields)


def add(value, source, target, *extra):
    return (value, source, target, *extra)


def test_extra_arguments_are_plain_values():
    """A tuple with a callable in it or a string equal to an id is not looked at."""
    function = f("f", "a", code=lambda *args, **kwargs: (args, kwargs), extra_args=[(len, "abc"), "a"])

    assert call_function(function, [1]) == ((1, (len, "abc"), "a"), {})


def test_arguments_may_come_as_a_list():
    function = f("f", "a", "b", code=lambda *a, **k: (a, k), argument_inclusion="as_list", kwargs={"k": 1})

    assert call_function(function, (1, 2)) == (([1, 2],), {"k": 1})
    assert call_function(f("g", code=list, argument_inclusion="as_list"), []) == []


def test_an_input_cannot_be_called():
    with pytest.raises(TypeError, match="give its value in inputs"):
        call_function(Function("x", [], None, type="input"), [])


def test_inline_functions_are_taken_into_each_body():
    plan = expand(
        [
            Function("x", [], None, type="input"),
            f("a"),
            f("i", "a", "x", code=operator.sub, type="inline"),
            f("j", "i", "i", code=operator.mul, type="inline"),
            f("b", "j", "a", code=operator.add),
            f("c", "i"),
        ]
    )

    assert list(plan.bodies) == ["a", "b", "c"]
    assert plan.inputs == ("x",)
    assert [f.id for f in plan.bodies["b"].inlined] == ["i", "j"]
    assert plan.bodies["b"].needs == ("a", "x")
    assert plan.bodies["b"](10, 7) == 3 * 3 + 10
    assert cloudpickle.loads(cloudpickle.dumps(plan.bodies["b"]))(10, 7) == 19


def test_an_inline_function_is_computed_once_in_a_body():
    """A ladder of inline functions would otherwise cost 2**40 calls."""
    steps = [f(0, code=lambda: 1, type="inline")]
    steps += [f(i, i - 1, i - 1, code=operator.add, type="inline") for i in range(1, 41)]

    assert expand([*steps, f("sum", 40)]).bodies["sum"].function.id == "sum"
    assert expand([*steps, f("sum", 40, code=abs)]).bodies["sum"]() == 2**40


def test_long_inline_chains_need_no_deep_stack():
    steps = [f(0, code=lambda: 0, type="inline")]
    steps += [f(i, i - 1, code=operator.add, extra_args=[1], type="inline") for i in range(1, 5001)]

    assert expand([*steps, f("end", 5000, code=abs)]).bodies["end"]() == 5000


def test_each_argument_on_its_way_becomes_functions():
    plan = expand(
        [
            f("p"),
            f("c", Argument("p", (add, 1), (add, 2)), Argument("p", None, (add,)), "p", priority=4),
            f("d", Argument("p", (add,))),
        ]
    )
    first, second = ("serialize", 0, "p", "c"), ("deserialize", 0, "p", "c")
    third, fourth = ("deserialize", 1, "p", "c"), ("serialize", 2, "p", "d")

    assert list(plan.bodies) == ["p", first, second, third, "c", fourth, "d"]
    assert {key: body.needs for key, body in plan.bodies.items()} == {
        "p": (),
        first: ("p",),
        second: (first,),
        third: ("p",),
        "c": (second, third, "p"),
        fourth: ("p",),
        "d": (fourth,),
    }
    assert plan.functions[first].node == Collocated("p")
    assert plan.functions[second].node == Collocated("c")
    assert plan.roots == {"p": "p", first: "p", second: "c", "c": "c", third: "c", fourth: "p"}
    assert (plan.functions[first].priority, plan.consumer_of(first)) == (4, "c")
    assert plan.bodies[first].is_transfer
    assert plan.bodies[first].transfer(0, "n1", "n2") == (0, "n1", "n2", 1)
    assert not plan.bodies["c"].is_transfer


def test_an_input_is_changed_where_it_is_used():
    plan = expand([Function("x", [], None, type="input"), f("c", Argument("x", (add,)))])

    assert plan.functions["serialize", 0, "x", "c"].node == Collocated("c")


def test_an_id_of_the_users_that_looks_like_a_transfer_is_left_alone():
    taken = ("serialize", 0, "p", "c")
    plan = expand([f("p"), f(taken), f("c", Argument("p", (add,)))])

    assert list(plan.bodies) == ["p", taken, ("serialize", 1, "p", "c"), "c"]


def test_a_transfer_is_named_after_its_code():
    assert funcname(Transfer(add, (), "serialize")) == "serialize_add"


def test_outputs_limit_what_is_there():
    functions = [
        Function("x", [], None, type="input"),
        f("a", "x"),
        f("b", Argument("a", (add,))),
        f("c", "a"),
        f("i", type="inline"),
    ]
    plan = expand(functions, ["c", "c"])

    assert (list(plan.bodies), plan.outputs, plan.inputs) == (["a", "c"], ("c",), ("x",))
    assert expand(functions, []).bodies == {}
    assert expand(functions).outputs == ("a", ("serialize", 0, "a", "b"), "b", "c")
    for wrong in (["z"], ["i"], ["x"], "a", 3, [["a"]]):
        with pytest.raises(ValidationError, match="outputs: "):
            expand(functions, wrong)


def test_groups_ask_for_what_holds_each_member():
    plan = expand(
        [
            f("a", cost={"cpu": 2, "zone": "eu"}, node="n1"),
            f("b", cost={"cpu": 1, "gpu": 1}, node=Collocated("a")),
            f("c", cost={"cpu": 9}),
        ]
    )

    assert plan.group_costs() == {"a": Cost.parse({"cpu": 2, "gpu": 1, "zone": "eu"})}
    assert [plan.pin_of(key) for key in "abc"] == ["n1", "n1", None]


def test_inputs_are_given_as_they_are_needed():
    dag = as_dag([Function(key, [], None, type="input") for key in "xyz"] + [f("a", "x"), f("b", "y")])

    assert given_inputs(dag, expand(dag, ["a"]), {"x": 1, "y": 2}) == {"x": 1}
    for wrong, why in [
        ({"x": 1}, "no value for 'y'"),
        ({"x": 1, "y": 2, "q": 3}, "'q' is not in the DAG"),
        ({"x": 1, "y": 2, "a": 3}, "'a' is no input"),
        ([1], "not a mapping"),
        (None, "no value for 'x', 'y'"),
    ]:
        with pytest.raises(ValidationError, match=why):
            given_inputs(dag, expand(dag, ["a", "b"]), wrong)
