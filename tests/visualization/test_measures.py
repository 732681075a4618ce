"""Use of resources, lanes, time by cause and lower bounds: exact figures from records."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import NODES, SUBMITTED, function, record, sample

from handoff_dask.record.execution import ExecutionRecord, FunctionRecord
from handoff_dask.record.lower_bound import lower_bounds
from handoff_dask.record.time_split import time_split
from handoff_dask.visualization import resource_utilization, timeline
from handoff_dask.visualization.lanes import activity, lanes_of


def test_use_of_resources_is_exact():
    """Tenths add up exactly; what begins as another ends makes one step, or none."""
    use = resource_utilization(
        record(
            function("a", cost={"cpu": 0.1, "memory": "2 GB"}, start=1.0, stop=3.0),
            function("b", cost={"cpu": 0.2}, start=2.0, stop=4.0),
            function("c", cost={"cpu": 0.1}, start=3.0, stop=5.0),
            function("d", cost={"gpu": 1, "zone": "eu"}, node="b", start=1.0, stop=2.0),
            function("free", cost={}, start=0.5, stop=9.0),
            function("nowhere", cost={"cpu": 7}, node=None),
            function("never", cost={"cpu": 7}, start=None, stop=None),
            submitted=0.0,
            nodes={"a": {"cpu": 1}, "b": {}, "idle": {"cpu": 4}},
        )
    )
    assert use == {
        "a": {
            "cpu": [(0.0, 0), (1.0, 0.1), (2.0, 0.3), (4.0, 0.1), (5.0, 0)],
            "memory": [(0.0, 0), (1.0, 2000), (3.0, 0)],
        },
        "b": {"gpu": [(0.0, 0), (1.0, 1), (2.0, 0)]},
        "idle": {},
    }


def test_ten_tenths_are_one():
    """The sum of fractions is what users expect, and the end is nothing."""
    functions = [function(i, cost={"cpu": 0.1}, start=1.0 + i, stop=20.0 + i) for i in range(10)]
    steps = resource_utilization(record(*functions, submitted=0.0))["a"]["cpu"]
    assert [used for _, used in steps] == [
        0,
        *(n / 10 for n in range(1, 10)),
        1,
        *(n / 10 for n in range(9, 0, -1)),
        0,
    ]


def test_what_still_runs_counts_until_now():
    """A live execution's functions are in use up to the last moment that is known."""
    live = record(
        function("done", cost={"cpu": 1}, start=1.0, stop=4.0),
        function("runs", cost={"cpu": 1}, status="running", start=2.0, stop=None),
        status="running",
        submitted=0.0,
    )
    assert resource_utilization(live) == {"a": {"cpu": [(0.0, 0), (1.0, 1), (2.0, 2), (4.0, 0)]}}


def test_use_never_exceeds_capacity_in_a_run_that_did_not():
    """Of an execution that kept within its nodes, the picture shows the same."""
    for node, resources in resource_utilization(sample(200)).items():
        for name, steps in resources.items():
            moments = [moment for moment, _ in steps]
            assert moments == sorted(moments)
            assert steps[0][1] == steps[-1][1] == 0
            assert 0 < max(used for _, used in steps) <= NODES[node][name]


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 10)),
        max_size=40,
    )
)
def test_lanes_never_overlap_and_are_as_few_as_possible(spans):
    """On no lane do two functions overlap; there are as many lanes as ever ran at once."""
    functions = [function(i, start=start, stop=start + length) for i, (start, length) in enumerate(spans)]
    lanes = lanes_of(record(*functions)).get("a", {})
    by_lane: dict[int, list[tuple[float, float]]] = {}
    for f in functions:
        by_lane.setdefault(lanes[f.id], []).append((f.start, f.stop))
    for ran in by_lane.values():
        ran.sort()
        assert all(before[1] <= after[0] for before, after in pairwise(ran))
    together = max((sum(g.start <= f.start < g.stop for g in functions) for f in functions), default=0)
    assert together <= len(by_lane) <= max(together, 1) + sum(f.start == f.stop for f in functions)


def test_timeline_rows_are_exact():
    """A row per function that started, in the order of starts, with its thread and its waiting."""
    rows = timeline(
        record(
            function("late", ready=0.0, placed=2.0, start=2.5, stop=3.0, cause="room"),
            function(("early", 1), start=1.0, stop=2.6),
            function("never", start=None, stop=None),
        )
    ).rows
    assert [tuple(row.values()) for row in rows] == [
        ("('early', 1)", "a", 0, None, None, 1.0, 2.6, "", "finished"),
        ("late", "a", 1, 0.0, 2.0, 2.5, 3.0, "room", "finished"),
    ]


def test_activity_counts_what_functions_do():
    """At every moment, each function counts once, under what it does or waits for."""
    moments, counts = activity(
        record(
            function("a", ready=0.0, placed=0.0, start=1.0, stop=4.0),
            function("b", ready=0.0, placed=2.0, start=3.0, stop=5.0, cause="room"),
            function("c", status="waiting", ready=3.0, node=None, start=None, stop=None, cause="pin"),
            ended=6.0,
        )
    )
    assert moments == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert counts == {
        "running": [0, 1, 1, 2, 1, 0, 0],
        "starting": [1, 0, 1, 0, 0, 0, 0],
        "waiting for room": [1, 1, 0, 0, 0, 0, 0],
        "waiting for pin": [0, 0, 0, 1, 1, 1, 0],
    }


def test_time_split_follows_the_path():
    """Each function's time by cause, their sum, and the path whose parts add up to the makespan."""
    split = time_split(
        record(
            function("x", type="input", status="none", start=None, stop=None),
            function("short", ready=0.0, placed=0.0, start=0.5, stop=1.0),
            function("long", ready=0.0, placed=1.0, start=1.25, stop=5.0, cause="thread", transfer_s=0.2),
            function("inside", type="inline", args=("long", "x"), status="none", start=None, stop=None),
            function(
                "end", args=("inside", "short"), ready=5.5, placed=7.0, start=7.0, stop=9.0, cause="room"
            ),
            submitted=0.0,
            ended=9.25,
        )
    )
    assert split.functions == {
        "short": {"starting": 0.5, "running": 0.5},
        "long": {
            "waiting for thread": 1.0,
            "transfer": 0.2,
            "starting": pytest.approx(0.05),
            "running": 3.75,
        },
        "end": {"arguments": 5.5, "waiting for room": 1.5, "running": 2.0},
    }
    assert split.total == {
        "starting": pytest.approx(0.55),
        "running": 6.25,
        "waiting for thread": 1.0,
        "transfer": 0.2,
        "arguments": 5.5,
        "waiting for room": 1.5,
    }
    assert split.path == ("long", "end")
    assert split.along_path == {
        "waiting for thread": 1.0,
        "transfer": pytest.approx(0.2),
        "starting": pytest.approx(0.05),
        "running": 5.75,
        "scheduler": 0.5,
        "waiting for room": 1.5,
        "ending": 0.25,
    }
    assert split.makespan_s == 9.25


def test_time_split_adds_up_whatever_the_clocks_say():
    """Clocks of nodes that go wrong make no negative time, and the path's parts still add up."""
    known = sample(100)
    skewed = replace(
        known,
        functions=tuple(
            replace(f, start=f.start - 0.3 * (f.node == "g0"), stop=f.stop - 0.3 * (f.node == "g0"))
            if f.start is not None
            else f
            for f in known.functions
        ),
    )
    for execution in (known, skewed):
        split = time_split(execution)
        assert sum(split.along_path.values()) == pytest.approx(split.makespan_s)
        assert min(split.along_path.values()) > 0
        assert split.path[-1] == "report"
    assert time_split(record()).makespan_s == 0


def test_lower_bounds_of_a_run():
    """The tightest bound comes first: here the GPUs, whose nodes alone can hold these functions."""
    bounds = lower_bounds(
        record(
            *(function(i, cost={"gpu": 1}, start=0.0, stop=4.0) for i in range(3)),
            function("after", args=(0,), cost={"cpu": 2}, start=4.0, stop=6.0),
            function("inline", args=("after",), type="inline", start=None, stop=None),
            function("hinted", args=("inline",), status="pending", duration_s=0.5, start=None, stop=None),
            nodes={"c": {"cpu": 4, "threads": 4}, "g": {"cpu": 4, "gpu": 1, "threads": 4}},
        )
    )
    assert [(bound.seconds, bound.resource, bound.nodes) for bound in bounds] == [
        (12.0, "gpu", ("g",)),
        (6.5, None, ()),
        (3.0, "threads", ("g",)),
        (pytest.approx(14.5 / 8), "threads", ("c", "g")),
        (0.5, "cpu", ("c", "g")),
    ]
    assert bounds[1].path == (0, "after", "hinted")


def test_no_run_beats_its_lower_bound():
    """What ran took at least as long as it had to."""
    known = sample(300)
    assert 0 < lower_bounds(known)[0].seconds <= known.ended - SUBMITTED
    assert [bound.seconds for bound in lower_bounds(record())] == [0.0]


def test_a_move_that_no_placement_avoids_lengthens_the_lower_bound():
    """From a node without a gpu to one with, at the fastest rate that was seen."""
    load = FunctionRecord(
        id="load", name="f", cost={"disk": 1}, node="a", start=0.0, stop=2.0, nbytes=60_000_000
    )
    train = FunctionRecord(
        id="train", name="f", args=("load",), cost={"gpu": 1}, node="b", start=9.0, stop=10.0, transfer_s=6.0
    )
    look = replace(train, id="look", stop=9.5, transfer_s=3.0)

    def bound_s(**has):
        nodes = {"a": {"disk": 1, "threads": 8, **has}, "b": {"gpu": 2, "threads": 8}}
        functions = (load, train, look)
        found = ExecutionRecord(dag_id="d", status="finished", functions=functions, nodes=nodes)
        return lower_bounds(found)[0].seconds

    assert bound_s() == pytest.approx(2 + 60 / 20 + 1)
    assert bound_s(gpu=1) == pytest.approx(2 + 1)
