"""Bounds that no placement can beat."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from handoff_dask.graph.bounds import Bound, longest_path, resource_bounds
from handoff_dask.graph.check import check
from handoff_dask.graph.dag import as_dag
from handoff_dask.graph.expansion import expand
from handoff_dask.graph.functions import Argument, Function
from handoff_dask.resources import Capabilities


def f(key, *args, **fields):
    return Function(key, args, max, **fields)


def offers(**nodes):
    return {name: Capabilities.parse(offer) for name, offer in nodes.items()}


def test_the_longest_path_goes_through_inline_functions_and_transfers():
    plan = expand(
        [
            Function("x", [], None, type="input"),
            f("a", "x", duration=2),
            f("b", Argument("a", (max,)), duration=1),
            f("i", "b", type="inline"),
            f("c", "i", duration=4),
            f("short", "a", duration=4.5),
            f("unknown", "c"),
        ]
    )
    bound = longest_path(plan)

    assert bound.seconds == 7
    assert bound.path == ("a", ("serialize", 0, "a", "b"), "b", "c")
    assert longest_path(expand([])) == Bound(0.0)


def test_work_that_only_some_nodes_can_do_bounds_by_these():
    plan = expand([f(f"g{i}", cost={"gpu": 1, "cpu": 1}, duration=3) for i in range(4)])
    nodes = offers(a={"cpu": 8}, b={"cpu": 8, "gpu": 2})
    hosts = {key: frozenset({"b"}) for key in plan.bodies}

    assert sorted(map(str, resource_bounds(plan, nodes, hosts))) == [
        "cpu on 'a', 'b'",
        "cpu on 'b'",
        "gpu on 'b'",
    ]
    assert {str(b): b.seconds for b in resource_bounds(plan, nodes, hosts)} == {
        "cpu on 'a', 'b'": 0.75,
        "cpu on 'b'": 1.5,
        "gpu on 'b'": 6.0,
    }


def test_joins_of_two_sets_bound_too():
    """Work for b and work for c alone leave each half idle; neither b nor c alone is the tightest."""
    functions = [f(i, cost={"cpu": 1}, duration=1) for i in range(30)]
    plan = expand(functions)
    nodes = offers(a={"cpu": 90}, b={"cpu": 1}, c={"cpu": 1}, d={"cpu": 1})
    hosts = {i: frozenset("bc" if i < 15 else "cd") for i in range(30)}

    tightest = max(resource_bounds(plan, nodes, hosts), key=lambda bound: bound.seconds)
    assert (tightest.seconds, tightest.nodes) == (10.0, ("b", "c", "d"))


def test_long_bounds_are_told_in_short():
    path = Bound(1.0, path=tuple(range(9)))
    resource = Bound(1.0, resource="cpu", nodes=tuple("abcdefg"))

    assert str(path) == "the path 0 -> 1 -> 2 -> (4 more) -> 7 -> 8"
    assert str(resource) == "cpu on 'a', 'b', 'c', 4 more"


def makespan(dag, nodes):
    """A greedy schedule: each function, in order, on the node where it can start first."""
    ends, running = {}, {name: [] for name in nodes}
    clock = 0.0
    for key in dag.order():
        function = dag.functions[key]
        earliest = max([ends[arg] for arg in function.argument_ids], default=0.0)
        best = None
        for name, offer in nodes.items():
            if offer.could_hold(function.needs):
                at = start_on(offer, running[name], function.needs, max(earliest, clock))
                best = min(best or (at, name), (at, name))
        clock, name = best
        ends[key] = clock + function.duration
        running[name].append((ends[key], function.needs))
    return max(ends.values(), default=0.0)


def start_on(offer, running, needs, earliest):
    for at in sorted({earliest, *[end for end, _ in running if end > earliest]}):
        held = {}
        for end, cost in running:
            if end > at:
                for name, units in cost.amounts:
                    held[name] = held.get(name, 0) + units
        if all(held.get(name, 0) + units <= offer.amounts.get(name, 0) for name, units in needs.amounts):
            return at
    raise AssertionError("an idle node holds what it could hold")


functions = st.lists(
    st.tuples(
        st.lists(st.integers(0, 20), max_size=2),
        st.integers(0, 4),
        st.integers(0, 2),
        st.integers(1, 5),
    ),
    max_size=12,
)


@given(functions)
def test_no_schedule_beats_the_bound(rows):
    nodes = offers(a={"cpu": 4}, b={"cpu": 4, "gpu": 2}, c={"cpu": 2, "gpu": 2})
    dag = as_dag(
        f(i, *[arg % i for arg in args if i], cost={"cpu": cpu, "gpu": gpu}, duration=duration)
        for i, (args, cpu, gpu, duration) in enumerate(rows)
    )
    report = check(dag, nodes)

    assert report.ok
    assert (report.lower_bound_s or 0.0) <= makespan(dag, nodes) + 1e-9
