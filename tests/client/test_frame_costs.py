"""Costs of Dask DataFrames, whose expressions Dask optimises without a thought for annotations."""

from __future__ import annotations

import subprocess
import sys

import cloudpickle
import dask
import pandas as pd
import pytest
from dask._expr import FinalizeCompute
from dask.base import collections_to_expr
from dask.core import flatten
from dask.utils import key_split

import handoff_dask as handoff

dd = pytest.importorskip("dask.dataframe")
NUMBERS = pd.DataFrame({"x": range(8), "y": [0, 1] * 4})


def frame():
    return dd.from_pandas(NUMBERS, npartitions=2)


def double(part):
    return part * 2


def add(part):
    return part + 1


def resources(collection, *, name="resources"):
    """``{name of the code: what the scheduler is told of its tasks}``, as ``compute`` sends it."""
    expression = FinalizeCompute(collections_to_expr([collection.optimize()])).optimize()
    sent = cloudpickle.loads(cloudpickle.dumps(expression))
    graph, told = sent.__dask_graph__(), sent.__dask_annotations__().get(name, {})
    assert told == expression.__dask_annotations__().get(name, {})
    assert told.keys() <= graph.keys()
    assert list(flatten(sent.__dask_keys__())) == list(flatten(expression.__dask_keys__()))
    assert graph.keys() >= {d for task in graph.values() for d in task.dependencies}
    return {key_split(key): told[key] for key in told}


def test_partitions_mapped_on_gpu_between_two_of_the_cpu_keep_their_cost_to_themselves():
    before = frame() + 1
    with handoff.cost({"gpu": 1}):
        middle = before.map_partitions(double)
    after = (middle + 1).sum()
    assert resources(after) == {"double": {"gpu": 1}}
    assert after.compute(scheduler="sync").to_dict() == {"x": 80, "y": 32}


def test_a_frame_with_a_cost_is_computed_by_itself():
    with handoff.cost({"gpu": 1}):
        doubled = frame().map_partitions(double)
    assert resources(doubled) == {"frompandas": {"gpu": 1}, "double": {"gpu": 1}}
    assert doubled.compute(scheduler="sync").x.tolist() == list(range(0, 16, 2))


def test_what_is_annotated_alike_is_still_fused():
    before = frame().map_partitions(add)
    with handoff.cost({"gpu": 1}):
        chain = before.map_partitions(double).map_partitions(add).x
    graph = chain.optimize().__dask_graph__()
    assert {key_split(key) for key in graph} == {"frompandas", "add", "double-add-getitem"}


def test_frames_without_annotations_are_optimised_as_before():
    names = []
    for enter in (False, True):
        if enter:
            with handoff.cost({"gpu": 1}):
                pass
        plain = (frame() + 1).map_partitions(double).x.sum()
        names.append(plain.optimize().expr._name)
    assert names[0] == names[1]


def test_one_operation_with_two_costs_is_done_twice():
    before = frame()
    with handoff.cost({"gpu": 1}):
        one = before.map_partitions(double)
    with handoff.cost({"cpu": 2}):
        other = before.map_partitions(double)
    both = one.x + other.x
    told = collections_to_expr([both.optimize()]).optimize().__dask_annotations__()["resources"]
    assert sorted(str(cost) for cost in told.values()) == ["{'cpu': 2}"] * 2 + ["{'gpu': 1}"] * 2
    assert both.sum().compute(scheduler="sync") == 112


def test_inner_contexts_add_to_outer_ones():
    before = frame()
    with handoff.cost({"cpu": 1}):
        outer = before.map_partitions(add)
        with handoff.cost({"gpu": 1}, duration=2):
            inner = outer.map_partitions(double)
    assert resources(inner) == {"add": {"cpu": 1}, "double": {"cpu": 1, "gpu": 1}}
    assert resources(inner, name="handoff-cost")["double"]["duration"] == 2.0


def test_columns_are_still_chosen_when_a_file_is_read(tmp_path):
    pytest.importorskip("pyarrow")
    frame().to_parquet(tmp_path)
    with handoff.cost({"disk": 1}):
        read = dd.read_parquet(tmp_path)
    only = read[["x"]]
    assert "columns=['x']" in only.optimize().expr.tree_repr()
    assert set(map(str, resources(only.sum()).values())) == {"{'disk': 1}"}
    assert only.x.sum().compute(scheduler="sync") == 28


def test_a_column_made_at_a_cost_fits_the_frame_it_is_made_of():
    """Divisions are unknown: Dask knows of them as aligned only by how they were made."""
    unknown = frame().clear_divisions()
    with handoff.cost({"gpu": 1}):
        doubled = unknown.x.map_partitions(double)
    unknown["z"] = doubled
    assert unknown.compute(scheduler="sync").z.tolist() == list(range(0, 16, 2))
    assert [*resources(unknown).values()] == [{"gpu": 1}]


@pytest.mark.parametrize(
    "do",
    [
        lambda f: f.groupby("y").x.sum(),
        lambda f: f.merge(f, on="y", shuffle_method="tasks"),
        lambda f: f.set_index("x").y,
        lambda f: f.describe(),
        lambda f: f.repartition(npartitions=1),
        lambda f: f.partitions[1],
        lambda f: f.loc[2:5],
        lambda f: f.x.value_counts(),
        lambda f: f[f.x > 3].rename(columns={"x": "z"}),
        lambda f: f.head(2, compute=False),
        lambda f: f.x.rolling(2).sum(),
        lambda f: dd.concat([f, f]),
    ],
)
def test_results_are_those_of_frames_without_a_cost(do):
    def plain(f):
        return do(f.map_partitions(double, meta=NUMBERS)).compute(scheduler="sync")

    expected = plain(frame())
    before = frame()
    with handoff.cost({"gpu": 1}):
        middle = before.map_partitions(double, meta=NUMBERS)
        inside = do(middle)
    outside = do(middle)
    for made in (inside, outside):
        found = made.compute(scheduler="sync")
        if isinstance(expected, pd.DataFrame) and "x_x" in expected:
            found, want = (t.sort_values(list(t)).reset_index(drop=True) for t in (found, expected))
        else:
            want = expected
        (pd.testing.assert_frame_equal if isinstance(want, pd.DataFrame) else pd.testing.assert_series_equal)(
            found, want, check_index_type=False
        )
    assert resources(outside) == {"double": {"gpu": 1}}


def test_plain_annotations_of_dask_are_kept_once_handoff_is_used():
    with handoff.cost({}):
        pass
    with dask.annotate(resources={"GPU": 1}, retries=3):
        doubled = frame().map_partitions(double)
    assert resources(doubled, name="retries") == {"frompandas": 3, "double": 3}


def test_a_scheduler_needs_nothing_of_handoff():
    with handoff.cost({"gpu": 1}):
        lengths = frame().map_partitions(len)
    sent = cloudpickle.dumps(FinalizeCompute(collections_to_expr([lengths.optimize()])).optimize())
    assert b"handoff_dask" not in sent
    assert len(cloudpickle.loads(sent).__dask_annotations__()["resources"]) == 4


@pytest.mark.slow
def test_frames_are_not_imported_for_those_who_have_none():
    code = (
        "import sys, handoff_dask as h\nwith h.cost({'cpu': 1}): pass\n"
        "print('pandas' in sys.modules, 'dask.dataframe' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().split() == ["False", "False"]
