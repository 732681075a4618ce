"""Costs of Dask's own collections, through Dask's optimisation."""

from __future__ import annotations

import dask
import dask.array as da
import dask.bag as db
import pytest
from dask.base import annotate, collections_to_expr

import handoff_dask as handoff


def resources(collection):
    """``{name of the code: what Dask is told of its tasks}``, as the collection would be computed."""
    expression = collections_to_expr([collection]).optimize()
    told = expression.__dask_annotations__().get("resources", {})
    graph = expression.__dask_graph__()
    assert told.keys() <= graph.keys()
    return {dask.utils.key_split(key): value for key, value in told.items()}


def double(block):
    return block * 2


def test_a_gpu_block_between_two_of_the_cpu_keeps_its_cost_to_itself():
    """dask#7036 loses it, dask#10325 lets it leak onto the neighbours."""
    before = da.ones((4, 4), chunks=2) + 1
    with handoff.cost({"gpu": 1}):
        middle = before.map_blocks(double)
    after = (middle + 1).sum()
    assert resources(after) == {"double": {"gpu": 1}}
    assert after.compute(scheduler="sync") == 80


def test_two_costs_side_by_side_are_two_layers():
    with handoff.cost({"gpu": 1}):
        first = da.ones(4, chunks=2).map_blocks(double, name="first")
    with handoff.cost({"cpu": 3}):
        second = first.map_blocks(double, name="second")
    assert resources(second) == {"first": {"gpu": 1}, "second": {"cpu": 3}}
    assert list(second.compute(scheduler="sync")) == [4.0] * 4


def test_what_is_annotated_alike_is_still_fused():
    with handoff.cost({"gpu": 1}):
        chain = da.ones(4, chunks=2).map_blocks(double).map_blocks(double).map_blocks(double)
    graph = collections_to_expr([chain]).optimize().__dask_graph__()
    # One task for each of two blocks, and the name by which it is asked for.
    assert len(graph) <= 4
    assert list(chain.compute(scheduler="sync")) == [8.0] * 4


def test_without_annotations_arrays_are_optimised_as_before():
    with handoff.cost({"gpu": 1}):
        pass
    plain = (da.ones(4, chunks=2) + 1).map_blocks(double)
    assert len(collections_to_expr([plain]).optimize().__dask_graph__()) == 2


def test_bags_keep_their_costs():
    numbers = db.from_sequence(range(8), npartitions=2).map(double)
    with handoff.cost({"cpu": 2}):
        doubled = numbers.map(double)
    large = doubled.filter(lambda v: v > 10)
    assert resources(large) == {"double": {"cpu": 2}}
    assert large.compute(scheduler="sync") == [12, 16, 20, 24, 28]


def test_delayed_objects_keep_their_costs():
    before = dask.delayed(double)(1)
    with handoff.cost({"cpu": 2, "memory": "4 GB"}):
        middle = dask.delayed(abs)(before)
    assert resources(dask.delayed(double)(middle)) == {"abs": {"cpu": 2, "memory": 4000}}


def test_plain_annotations_are_kept_too():
    with handoff.cost({}):
        pass
    with annotate(resources={"GPU": 1}):
        middle = da.ones(4, chunks=2).map_blocks(double)
    assert resources(middle + 1) == {"double": {"GPU": 1}}


def test_what_xarray_applies_to_blocks_keeps_its_cost():
    xarray = pytest.importorskip("xarray")
    before = xarray.DataArray(da.ones((4, 4), chunks=2), dims=("x", "y")) + 1
    with handoff.cost({"gpu": 1}):
        middle = xarray.apply_ufunc(double, before, dask="parallelized", output_dtypes=[float])
    after = (middle + 1).sum()
    # It puts the dimensions in order.
    assert resources(after.data) == {"transpose": {"gpu": 1}, "double": {"gpu": 1}}
    assert float(after.compute(scheduler="sync")) == 80


def test_inner_contexts_add_to_outer_ones_and_win_by_name():
    with handoff.cost({"cpu": 1, "gpu": 1, "zone": "eu"}, node="a"):  # noqa: SIM117
        with handoff.cost({"cpu": 2, "fast": True}, duration=3):
            inner = dask.delayed(abs)(1)
    (layer,) = inner.dask.layers.values()
    assert layer.annotations["resources"] == {"cpu": 2, "gpu": 1}
    assert layer.annotations["workers"] == ["a"]
    mark = layer.annotations["handoff-cost"]
    assert mark == {"labels": {"zone": "eu", "fast": True}, "node": "a", "duration": 3.0}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"cost": {"cpu": -1}}, "cpu"),
        ({"cost": {"memory": "4"}}, "memory"),
        ({"node": 3}, "node"),
        ({"duration": -1}, "duration"),
        ({"duration": float("nan")}, "duration"),
        ({"duration": True}, "duration"),
    ],
)
def test_what_cannot_be_read_is_refused(wrong, says):
    with pytest.raises(handoff.ValidationError, match=says), handoff.cost(**wrong):
        pass
