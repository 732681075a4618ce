"""Functions the way Handout built them."""

from __future__ import annotations

import numpy as np
import pytest

from handoff_dask.errors import InvalidFunctionError
from handoff_dask.graph.functions import Argument, Function
from handoff_dask.graph.handout import function


def test_plain_ids_and_fields_go_through():
    built = function("c", max, args=["a", "b"], cost={"cpu": 1}, priority=3, kwargs={"key": abs})

    assert built == Function("c", ["a", "b"], max, cost={"cpu": 1}, priority=3, kwargs={"key": abs})
    assert function("a", int) == Function("a", [], int)


def test_pairs_say_the_position():
    built = function("c", max, args=[("a", 2), (("part", 1), 0), (Argument("b", (abs,)), 1)])

    assert built.args == (("part", 1), Argument("b", (abs,)), "a")


def test_positions_may_be_integers_of_numpy():
    built = function("c", pow, args=[("a", np.int64(1)), ("b", np.uint8(0))])

    assert built.args == ("b", "a")
    with pytest.raises(InvalidFunctionError, match=r"positions \[1, 1\]"):
        function("c", pow, args=[("a", np.int64(1)), ("b", 1)])


def test_a_tuple_id_is_named_by_an_argument():
    assert function("c", max, args=[Argument(("part", 0))]).argument_ids == (("part", 0),)
    assert function("c", max, args=[("part", "x")]).argument_ids == (("part", "x"),)
    assert function("c", max, args=[("part", True)]).argument_ids == (("part", True),)


@pytest.mark.parametrize(
    "args",
    [
        [("a", 0), "b"],
        [("a", 0), Argument("b")],
        [("a", 1)],
        [("a", 0), ("b", 0)],
        [("a", 0), ("b", 2)],
        [("a", -1), ("b", 0)],
    ],
)
def test_mixed_or_gapped_positions_are_refused(args):
    with pytest.raises(InvalidFunctionError) as refusal:
        function("c", max, args=args)
    assert refusal.value.function_id == "c"


def test_unknown_fields_are_refused():
    with pytest.raises(TypeError, match="colour"):
        function("c", max, colour="red")
