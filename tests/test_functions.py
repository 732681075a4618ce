"""Functions: what is taken, what is refused, and that they travel."""

from __future__ import annotations

import dataclasses
import pickle
from enum import Enum
from functools import partial

import cloudpickle
import numpy as np
import pytest

from handoff_dask.errors import InvalidFunctionError
from handoff_dask.graph.functions import Argument, Collocated, Function, name_of, resolve_code
from handoff_dask.resources import NOTHING, Cost


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize("key", ["a", 1, ("part", 3), Colour.RED, None, frozenset({1})])
def test_any_hashable_is_an_id(key):
    assert Function(key, [], int).id == key


def test_what_is_given_is_kept_as_values_of_its_own():
    """Lists and dicts that the caller changes afterwards change nothing in the function."""
    args, extra, kwargs, cost = ["a"], [1], {"x": 1}, {"cpu": 1}
    function = Function("f", args, max, extra_args=extra, kwargs=kwargs, cost=cost)
    for given in (args, extra):
        given.append(9)
    for given in (kwargs, cost):
        given["y"] = 9

    assert (function.args, function.extra_args) == (("a",), (1,))
    assert (function.kwargs, function.cost) == ({"x": 1}, {"cpu": 1})


def test_functions_are_values():
    function = Function("f", ["a"], max, cost={"cpu": 1})

    assert function == Function("f", ("a",), max, cost={"cpu": 1})
    assert hash(function) == hash(Function("f", ["a"], max))
    assert function != dataclasses.replace(function, cost={"cpu": 2})
    with pytest.raises(dataclasses.FrozenInstanceError):
        function.cost = None


def test_fields_after_code_are_named():
    with pytest.raises(TypeError):
        Function("f", [], int, [1])


def test_functions_travel():
    """By pickle as far as the code allows, by cloudpickle always."""
    plain = Function(
        "f", [Argument("a", (round, 2))], max, kwargs={"k": 1}, node=Collocated("a"), cost={"cpu": 1}
    )
    closure = Function("f", [], lambda: 7)

    assert pickle.loads(pickle.dumps(plain)) == plain
    assert cloudpickle.loads(cloudpickle.dumps(closure)).code() == 7


def test_collocated_is_its_pair():
    pair = Function("f", [], int, node=("collocated", ("a", 1)))

    assert pair.node == Collocated(("a", 1)) == ("collocated", ("a", 1))
    assert hash(pair.node) == hash(("collocated", ("a", 1)))
    assert Collocated("a") != Collocated("b")
    assert Collocated("a") != "a"


def test_a_worker_numbered_by_dask_is_a_name():
    assert Function("f", [], int, node=0).node == "0"


def test_argument_ids_are_in_order_and_repeated():
    function = Function("f", ["a", Argument("b"), "a", ("c", 0)], max)

    assert function.argument_ids == ("a", "b", "a", ("c", 0))


def test_needs_are_exact():
    assert Function("f", [], int, cost={"cpu": 0.1, "cpu_intensive": True}).needs == Cost((("cpu", 100_000),))
    assert Function("f", [], int).needs == NOTHING


def test_numbers_of_numpy_are_numbers():
    function = Function("f", [], int, max_retries=np.int64(2), duration=np.float32(0.5), priority=np.int8(3))

    assert (function.max_retries, function.duration, function.priority) == (2, 0.5, 3)


def test_an_input_is_a_bare_placeholder():
    given = Function("x", [], None, type="input")

    assert (given.args, given.name) == ((), "input")


def test_an_inline_function_may_carry_an_empty_cost():
    assert Function("x", [], int, type="inline", cost={}).type == "inline"


WRONG = {
    "id": {"id": ["a"]},
    "args-string": {"args": "abc"},
    "args-none": {"args": None},
    "args-set": {"args": {"a", "b"}},
    "args-mapping": {"args": {"a": 1}},
    "args-single": {"args": Argument("a")},
    "args-unhashable": {"args": [["a"]]},
    "args-function": {"args": [Function("a", [], int)]},
    "code-none": {"code": None},
    "code-number": {"code": 3},
    "code-no-colon": {"code": "os.path.join"},
    "code-two-colons": {"code": "os:path:join"},
    "code-no-module": {"code": ":join"},
    "code-no-name": {"code": "os.path:"},
    "code-spaces": {"code": "os.path: join"},
    "code-expression": {"code": "os:getcwd()"},
    "extra-string": {"extra_args": "abc"},
    "extra-number": {"extra_args": 1},
    "extra-none": {"extra_args": None},
    "kwargs-list": {"kwargs": [("a", 1)]},
    "kwargs-names": {"kwargs": {1: 2}},
    "cost-list": {"cost": [("cpu", 1)]},
    "cost-number": {"cost": 1},
    "cost-negative": {"cost": {"cpu": -1}},
    "cost-nan": {"cost": {"cpu": float("nan")}},
    "cost-infinite": {"cost": {"cpu": float("inf")}},
    "cost-none": {"cost": {"cpu": None}},
    "cost-list-of-labels": {"cost": {"zone": ["eu"]}},
    "cost-memory": {"cost": {"memory": "4"}},
    "cost-name": {"cost": {1: 1}},
    "node-number": {"node": 1.5},
    "node-bool": {"node": True},
    "node-empty": {"node": ""},
    "node-pair": {"node": ("together", "a")},
    "node-unhashable": {"node": ("collocated", ["a"])},
    "type": {"type": "stream"},
    "type-none": {"type": None},
    "type-unhashable": {"type": ["inline"]},
    "retries-negative": {"max_retries": -1},
    "retries-float": {"max_retries": 1.0},
    "retries-bool": {"max_retries": True},
    "inclusion": {"argument_inclusion": "list"},
    "duration-negative": {"duration": -1},
    "duration-nan": {"duration": float("nan")},
    "duration-infinite": {"duration": float("inf")},
    "duration-huge": {"duration": 10**400},
    "duration-string": {"duration": "1s"},
    "duration-bool": {"duration": True},
    "priority-string": {"priority": "high"},
    "priority-none": {"priority": None},
    "priority-nan": {"priority": float("nan")},
    "priority-bool": {"priority": False},
    "inline-cost": {"type": "inline", "cost": {"cpu": 1}},
    "inline-node": {"type": "inline", "node": "a"},
    "input-code": {"type": "input"},
    "input-args": {"type": "input", "code": None, "args": ["a"]},
    "input-cost": {"type": "input", "code": None, "cost": {"cpu": 1}},
    "input-node": {"type": "input", "code": None, "node": "a"},
    "input-kwargs": {"type": "input", "code": None, "kwargs": {"a": 1}},
}


@pytest.mark.parametrize("fields", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_field_is_refused_at_once(fields):
    with pytest.raises(InvalidFunctionError) as refusal:
        Function(**{"id": "f", "args": [], "code": int, **fields})

    assert refusal.value.function_id == fields.get("id", "f")
    assert repr(refusal.value.function_id) in str(refusal.value)


@pytest.mark.parametrize("side", [round, (), ("round",), [None], 3, "round"])
def test_an_argument_wants_callables_in_tuples(side):
    for field in ("serialization_fn", "deserialization_fn"):
        with pytest.raises(InvalidFunctionError, match=field):
            Argument("a", **{field: side})


def test_an_argument_names_a_function():
    with pytest.raises(InvalidFunctionError, match="cannot be hashed"):
        Argument(["a"])


def test_an_argument_without_functions_travels_as_is():
    assert Argument("a").travels_as_is
    assert not Argument("a", deserialization_fn=[round]).travels_as_is
    assert hash(Argument("a", (round, [1]))) == hash(Argument("a", (round, [1])))


def test_strings_resolve_where_they_are_needed():
    assert resolve_code("os.path:join")("a", "b") == "a/b"
    assert resolve_code("builtins:str.upper")("a") == "A"
    with pytest.raises(ModuleNotFoundError):
        resolve_code("no_such_module_anywhere:f")
    with pytest.raises(AttributeError):
        resolve_code("os.path:no_such_name")
    with pytest.raises(TypeError, match="cannot be called"):
        resolve_code("os.path:sep")


def test_code_has_a_short_name():
    names = [name_of(code) for code in (len, "os.path:join", "builtins:str.upper", partial(round, 1))]

    assert names == ["len", "join", "upper", "round"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"accept_failed": 1}, "its accept_failed is 1"),
        ({"type": "inline", "accept_failed": True}, "it runs inside its dependents"),
        ({"type": "input", "code": None, "accept_failed": True}, "its value comes later"),
    ],
)
def test_who_can_accept_failures(fields, why):
    with pytest.raises(InvalidFunctionError, match=why):
        Function(**{"id": "f", "args": [], "code": int, **fields})
