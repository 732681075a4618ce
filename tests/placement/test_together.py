"""Whether stages that hold their costs at the same time fit together."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from handoff_dask.placement.together import Unit, units_of, without_room
from handoff_dask.resources import Capabilities, Cost


def nodes_of(*cpus: int) -> dict[str, tuple[str, Capabilities]]:
    return {str(n): (f"tcp://{n}", Capabilities.parse({"cpu": cpu})) for n, cpu in enumerate(cpus)}


def cost(cpu: int) -> Cost:
    return Cost.parse({"cpu": cpu})


def test_functions_that_share_a_node_are_one_unit():
    """Their costs are added; a group that has a node stays there."""
    functions = [("a", cost(1), None, None), ("b", cost(2), None, "g"), ("c", cost(1), None, "g")]
    units = units_of(functions, {"g": "1"})
    assert units == [Unit(cost(1), None, ("a",)), Unit(cost(3), "1", ("b", "c"))]
    assert without_room(units, nodes_of(4, 3)) is None
    assert without_room(units, nodes_of(4, 2)) == units[1]


def test_a_pin_is_a_name_or_an_address():
    assert without_room([Unit(cost(1), "tcp://1")], nodes_of(0, 1)) is None
    assert without_room([Unit(cost(1), "tcp://0")], nodes_of(0, 1)) == Unit(cost(1), "tcp://0")


@given(st.lists(st.integers(1, 4), max_size=5), st.lists(st.integers(0, 6), min_size=1, max_size=3))
def test_what_is_said_is_what_trying_everything_says(costs, cpus):
    fits = any(
        all(
            sum(c for c, n in zip(costs, place, strict=True) if n == node) <= cpu
            for node, cpu in enumerate(cpus)
        )
        for place in product(range(len(cpus)), repeat=len(costs))
    )
    assert (without_room([Unit(cost(c)) for c in costs], nodes_of(*cpus)) is None) == fits
