"""Amounts and labels: read once, counted exactly."""

from __future__ import annotations

import pickle
from collections import UserDict
from decimal import Decimal
from enum import Enum
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff_dask.errors import ValidationError
from handoff_dask.resources import UNITS, Capabilities, Cost, amount_of, units_of


@pytest.mark.parametrize(
    ("value", "units"),
    [
        (0, 0),
        (2, 2 * UNITS),
        (0.1, 100_000),
        (Fraction(1, 3), 333_333),
        (1 / 3, 333_333),
        (2 / 3, 666_666),
        (Decimal("0.25"), 250_000),
        (1e-9, 1),
        (10**30, 10**36),
        (1e18, 10**24),
        (np.float64(0.5), 500_000),
        (np.float32(0.5), 500_000),
        (np.int8(3), 3 * UNITS),
    ],
)
def test_amounts_in_units(value, units):
    assert units_of("cpu", value) == units


@pytest.mark.parametrize("text", ["4 GB", "4GB", " 4000 MB ", "4e9 B", "4000000 kB"])
def test_memory_with_a_unit(text):
    assert units_of("memory", text) == 4000 * UNITS


@pytest.mark.parametrize("value", ["4", "4000", "4.", "", "GB of ram", "-1 GB", "lots"])
def test_memory_that_is_no_size_is_refused(value):
    with pytest.raises(ValidationError, match="memory"):
        units_of("memory", value)


@pytest.mark.parametrize("value", [-1, -0.1, float("nan"), float("inf"), True, "1", None, 1j, [1]])
def test_what_is_no_amount_is_refused(value):
    with pytest.raises(ValidationError, match="cpu"):
        units_of("cpu", value)


@given(st.integers(1, 10_000))
def test_n_parts_fit_into_the_whole(n):
    assert n * units_of("cpu", 1 / n) <= UNITS
    assert n * units_of("cpu", Fraction(1, n)) <= UNITS


@given(st.integers(0, 10**12))
def test_units_are_told_as_they_are_read(units):
    assert units_of("cpu", amount_of(units)) == units


@pytest.mark.parametrize(
    ("written", "amounts", "labels"),
    [
        (None, {}, {}),
        ({}, {}, {}),
        ({"cpu": 1, "gpu": 0}, {"cpu": 1}, {}),
        ({"cuda": True, "spot": False, "zone": "eu"}, {}, {"cuda": True, "zone": "eu"}),
        ({"cuda": np.True_}, {}, {"cuda": True}),
        ({"cpu": np.int64(2), "gpu": np.float32(0.5)}, {"cpu": 2, "gpu": 0.5}, {}),
        ({"cpu_intensive": True}, {"cpu": 1}, {}),
        ({"cpu_intensive": False}, {}, {}),
        ({"cpu_intensive": True, "cpu": 4}, {"cpu": 4}, {}),
        ({"cpu": 0, "cpu_intensive": True}, {}, {}),
        ({"memory": "2 GB"}, {"memory": 2000}, {}),
        (UserDict({"cpu": 1}), {"cpu": 1}, {}),
    ],
)
def test_costs_as_users_write_them(written, amounts, labels):
    cost = Cost.parse(written)

    assert (cost.to_amounts(), dict(cost.labels)) == (amounts, labels)
    assert cost.to_dict() == {**amounts, **labels}
    assert Cost.parse(cost.to_dict()) == cost


@pytest.mark.parametrize(
    "written",
    [
        [("cpu", 1)],
        {1: 1},
        {"": 1},
        {"cpu": None},
        {"zone": ["eu"]},
        {"cpu_intensive": 2},
        {"cpu": [1]},
        "cpu",
    ],
)
def test_wrong_costs_are_refused(written):
    with pytest.raises(ValidationError):
        Cost.parse(written)


def test_values_that_are_equal_and_mean_something_else_stay_apart():
    """Costs are read once each; 1, True and 1.0 are one key of a dict and three things here."""
    assert Cost.parse({"cpu": 1}) == Cost.parse({"cpu": 1.0}) == Cost((("cpu", UNITS),))
    assert Cost.parse({"cpu": True}) == Cost((), (("cpu", True),))
    assert Cost.parse({"cpu": 0}) == Cost.parse({"cpu": False}) == Cost()
    with pytest.raises(ValidationError):
        Cost.parse({"cpu_intensive": 1})


def test_costs_name_queues():
    one, other = Cost.parse({"cpu": 1, "gpu": 1}), Cost.parse({"gpu": 1.0, "cpu": 1})

    assert (one, hash(one)) == (other, hash(other))
    assert pickle.loads(pickle.dumps(one)) == one


def test_a_node_for_either_of_two():
    one = Cost.parse({"cpu": 2, "cuda": True, "zone": "eu", "gpu": True})
    other = Cost.parse({"cpu": 1, "memory": 5, "cuda": "12", "zone": "us", "gpu": 2})

    assert one.union(other) == other.union(one)
    assert one.union(other).to_dict() == {
        "cpu": 2,
        "gpu": 2,
        "memory": 5,
        "cuda": "12",
        "zone": ["eu", "us"],
    }
    assert one.union(Cost()) == one


costs = st.fixed_dictionaries(
    {},
    optional={
        "cpu": st.integers(0, 3),
        "gpu": st.one_of(st.integers(0, 2), st.just(True)),
        "zone": st.sampled_from(["eu", "us", True, False]),
    },
)
offers = st.fixed_dictionaries(
    {},
    optional={
        "cpu": st.integers(0, 3),
        "gpu": st.one_of(st.integers(0, 2), st.booleans()),
        "zone": st.one_of(st.booleans(), st.lists(st.sampled_from(["eu", "us"]), unique=True)),
    },
)


@given(costs, costs, offers)
def test_what_holds_the_union_holds_both_and_the_other_way_round(one, other, offer):
    one, other, offer = Cost.parse(one), Cost.parse(other), Capabilities.parse(offer)

    assert offer.could_hold(one.union(other)) == (offer.could_hold(one) and offer.could_hold(other))


@pytest.mark.parametrize(
    ("offer", "cost", "holds"),
    [
        ({"cpu": 4}, {"cpu": 4}, True),
        ({"cpu": 4}, {"cpu": 4.000001}, False),
        ({"cpu": 4}, {"gpu": 0}, True),
        ({"gpu": 1}, {"gpu": True}, True),
        ({"gpu": 0}, {"gpu": True}, False),
        ({"gpu": "a100"}, {"gpu": True}, True),
        ({"gpu": "a100"}, {"gpu": 1}, False),
        ({"zone": ["eu", "us"]}, {"zone": "us"}, True),
        ({"zone": "eu"}, {"zone": "us"}, False),
        ({"zone": True}, {"zone": "us"}, False),
        ({"zone": []}, {"zone": True}, False),
        ({"has_cuda": False}, {"has_cuda": False}, True),
        ({}, {"has_cuda": False}, True),
    ],
)
def test_what_a_node_could_hold(offer, cost, holds):
    assert Capabilities.parse(offer).could_hold(Cost.parse(cost)) is holds


@pytest.mark.parametrize("written", [{"zone": ["eu", 1]}, {"cpu": -1}, {"cpu": None}, ["cpu"], {1: 1}])
def test_wrong_capabilities_are_refused(written):
    with pytest.raises(ValidationError):
        Capabilities.parse(written)


def test_capabilities_are_told_as_written():
    written = {"cpu": 4, "price": 0.25, "zone": ["eu", "us"], "name": "x", "has_cuda": False}

    assert Capabilities.parse(written).to_dict() == written
    assert Capabilities.parse(written).price == 0.25
    assert Capabilities.parse(None) == Capabilities()


def test_strings_of_other_kinds_are_plain_labels():
    """What is sent to the scheduler must not need numpy, or the user's enum, to be read."""

    class Zone(str, Enum):
        EU = "eu"

    for zone in (np.str_("eu"), Zone.EU):
        [(_, label)] = Cost.parse({"zone": zone}).labels
        for offered in ({"zone": zone}, {"zone": [zone]}):
            [has] = Capabilities.parse(offered).labels["zone"]
            assert (type(label), label, type(has), has) == (str, "eu", str, "eu")
    assert Capabilities.parse({"cpu": np.int64(4), "cuda": np.True_}).to_dict() == {"cpu": 4, "cuda": True}


def test_later_capabilities_win_by_name():
    earlier = Capabilities.parse({"cpu": 4, "gpu": "a100", "memory": 100})
    later = Capabilities.parse({"cpu": 2, "gpu": 1, "memory": False})

    assert earlier.updated(later).to_dict() == {"cpu": 2, "gpu": 1, "memory": False}


def test_a_confined_node_is_the_smaller_of_two():
    node = Capabilities.parse({"cpu": 4, "memory": 100, "zone": ["eu", "us"], "gpu": 1})
    limit = Capabilities.parse({"cpu": 8, "memory": 50, "zone": ["us", "asia"], "gpu": False, "disk": 9})

    assert node.confined(limit).to_dict() == {"cpu": 4, "memory": 50, "zone": "us", "gpu": False}
