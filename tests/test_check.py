"""What is known of a DAG on some nodes before it runs."""

from __future__ import annotations

import pickle

import pytest

from handoff_dask.errors import AllocationError, MissingFunctionError, ValidationError
from handoff_dask.graph.check import CheckReport, check, explain_unplaceable, shortfalls
from handoff_dask.graph.dag import as_dag
from handoff_dask.graph.functions import Collocated, Function
from handoff_dask.resources import Capabilities, Cost

NODES = {
    "a": {"cpu": 8, "memory": 16_000},
    "b": {"cpu": 4, "memory": 8_000, "gpu": 2, "zone": ["eu", "us"]},
}


def f(key, *args, **fields):
    return Function(key, args, max, **fields)


def test_a_dag_that_fits():
    dag = as_dag([f("a", cost={"cpu": 8}, duration=3), f("b", "a", cost={"gpu": 1}, node="b")])
    report = dag.check(NODES)

    assert isinstance(report, CheckReport)
    assert report.ok
    assert (report.function_count, report.node_count, report.lower_bound_s) == (2, 2, 3.0)
    assert (report.unused, report.without_duration, report.unknown_names) == ((), ("b",), {})
    assert str(report).splitlines()[1:] == [
        "each function fits somewhere",
        "at best 3 s, set by the path 'a'",
        "no duration is known for 1 of 2: 'b'",
    ]


def test_nothing_is_said_of_time_without_durations():
    report = as_dag([f("a")]).check(NODES)

    assert (report.bounds, report.lower_bound_s) == ((), None)
    assert str(report).splitlines()[1:] == ["each function fits somewhere"]


def test_what_fits_nowhere_is_told_with_the_nearest_node():
    report = as_dag([f("big", cost={"cpu": 16, "memory": 9_000, "gpu": 1}), f("ok")]).check(NODES)
    (one,) = report.unplaceable

    assert not report.ok
    assert (one.function_id, one.nearest, one.together) == ("big", "b", ())
    assert one.cost == {"cpu": 16, "gpu": 1, "memory": 9_000}
    assert one.reasons == {
        "a": "needs cpu 16, has 8; has no 'gpu'",
        "b": "needs cpu 16, has 4; needs memory 9000 MB, has 8000 MB",
    }
    assert str(one) in str(report)


def test_the_nearest_node_lacks_fewest_things_then_least():
    for cost, nearest in [
        ({"cpu": 9}, "a"),
        ({"cpu": 9, "gpu": 3}, "b"),
        ({"zone": "asia"}, "a"),
        ({"gpu": 3}, "b"),
    ]:
        assert as_dag([f("x", cost=cost)]).check(NODES).unplaceable[0].nearest == nearest


def test_a_pin_counts():
    report = as_dag(
        [f("x", cost={"cpu": 8}, node="b"), f("y", node="c"), f("z", node="tcp://1.2.3.4:5")]
    ).check(NODES)

    assert [(one.function_id, one.reasons) for one in report.unplaceable] == [
        ("x", {"a": "it is pinned to node 'b'", "b": "needs cpu 8, has 4"}),
        (
            "y",
            {
                "a": "it is pinned to node 'c', which is not there",
                "b": "it is pinned to node 'c', which is not there",
            },
        ),
    ]
    assert report.unplaceable[0].nearest == "b"


def test_functions_that_share_a_node_must_fit_on_one():
    dag = as_dag(
        [f("x", cost={"cpu": 8}), f("y", cost={"gpu": 1}, node=Collocated("x")), f("z", node=Collocated("y"))]
    )
    (one,) = dag.check(NODES).unplaceable

    assert (one.function_id, one.together, one.cost) == ("x", ("x", "y", "z"), {"cpu": 8, "gpu": 1})
    assert "together with 'y', 'z'" in str(one)


def test_misspelt_names_are_told_with_what_is_like_them():
    dag = as_dag(
        [f("a", cost={"gpus": 1, "Memory": 1}), f("b", cost={"zones": "eu", "quux": True, "cpu": 1})]
    )
    report = dag.check(NODES)

    assert report.unknown_names == {"Memory": "memory", "gpus": "gpu", "quux": None, "zones": "zone"}
    assert "'gpus' is offered by no node; did you mean 'gpu'?" in str(report)
    assert "'quux' is offered by no node\n" in str(report) + "\n"


def test_what_never_runs_is_unused():
    dag = as_dag(
        [
            Function("x", [], None, type="input"),
            Function("spare", [], None, type="input"),
            f("i", "x", type="inline"),
            f("j", "i", type="inline"),
            f("a", "x"),
            f("b", "a"),
        ]
    )

    assert dag.check(NODES).unused == ("spare", "i", "j")
    assert dag.check(NODES, outputs=["a"]).unused == ("spare", "i", "j", "b")
    assert "unused: 'spare', 'i', 'j'" in str(dag.check(NODES))


def test_nodes_come_from_whatever_can_discover_them():
    class Session:
        def discover_nodes(self):
            return {0: {"cpu": 1}}

    report = check([f("a", cost={"cpu": 2})], Session())

    assert report.unplaceable[0].reasons == {"0": "needs cpu 2, has 1"}


def test_without_nodes_nothing_fits():
    report = check([f("a")], {})

    assert (report.ok, report.unplaceable[0].nearest) == (False, None)
    assert "there are no nodes" in str(report)


def test_many_are_told_in_short():
    text = str(check([f(i, cost={"cpu": 99}, duration=None if i else 1) for i in range(30)], NODES))

    assert "  and 10 more" in text
    assert text.endswith("1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 19 more")


@pytest.mark.parametrize("nodes", [None, ["a"], {"a": {"cpu": -1}}, {"a": 3}])
def test_wrong_nodes_are_refused(nodes):
    with pytest.raises(ValidationError):
        check([f("a")], nodes)


def test_a_wrong_dag_is_refused():
    with pytest.raises(MissingFunctionError):
        as_dag([f("a", "b")]).check(NODES)


@pytest.mark.parametrize(
    ("cost", "offer", "missing"),
    [
        ({"cpu": 1}, {"cpu": 1}, []),
        ({"cpu": 2, "disk": 1}, {"cpu": 1}, ["needs cpu 2, has 1", "has no 'disk'"]),
        ({"gpu": 1}, {"gpu": "a100"}, ["has no 'gpu', which is a label there"]),
        ({"gpu": True}, {"gpu": 2}, []),
        ({"gpu": True}, {"gpu": 0}, ["has no 'gpu'"]),
        ({"gpu": True}, {"gpu": False}, ["has no 'gpu'"]),
        ({"zone": "eu"}, {"zone": ["us", "asia"]}, ["needs zone 'eu', has 'asia', 'us'"]),
        ({"zone": "eu"}, {"zone": []}, ["needs zone 'eu', has none"]),
        ({"zone": "eu"}, {"zone": True}, ["needs zone 'eu', has no such label"]),
        ({"zone": "eu"}, {"zone": 3}, ["needs zone 'eu', a label, but has an amount"]),
    ],
)
def test_shortfalls(cost, offer, missing):
    cost, offer = Cost.parse(cost), Capabilities.parse(offer)

    assert shortfalls(cost, offer) == missing
    assert offer.could_hold(cost) == (not missing)


def test_the_error_of_what_cannot_be_placed():
    error = explain_unplaceable("train", {"gpus": 1, "cpu": 1}, NODES)

    assert isinstance(error, AllocationError)
    assert (error.function_id, error.cost) == ("train", {"gpus": 1, "cpu": 1})
    assert error.reasons == {"a": "has no 'gpus'", "b": "has no 'gpus'"}
    assert error.problem == "'gpus' is offered by no node; did you mean 'gpu'?"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_error_of_a_pin_says_so():
    error = explain_unplaceable("train", None, {"node-1": {"cpu": 1}}, pin="node1")

    assert error.reasons == {
        "node-1": "it is pinned to node 'node1', which is not there (did you mean 'node-1'?)"
    }
    assert error.problem is None


def test_the_error_without_nodes():
    error = explain_unplaceable("train", Cost.parse({"cpu": 1}), {})

    assert (error.cost, error.reasons, error.problem) == ({"cpu": 1}, {}, None)
    assert "the cluster has no nodes" in str(error)
