"""What earlier functions have taught about how long others take."""

from __future__ import annotations

from handoff_dask.placement.estimates import Estimates, family_of
from handoff_dask.resources import NOTHING, Cost


def test_durations_that_differ_by_noise_are_equal():
    """Of functions of one kind; what is really longer stays so."""
    estimates = Estimates()
    durations = {"a": 1.0, "b": 1.04, "c": 0.95, "d": 3.0}
    for _ in range(3):
        for function_id, duration_s in durations.items():
            if function_id != "d":
                estimates.kind("fit", NOTHING).learn(duration_s)
            estimates.remember("fit", function_id, duration_s)

    expected = {i: estimates.expected("fit", NOTHING, i) for i in durations}

    assert expected["a"] == expected["b"] == expected["c"]
    assert expected["d"] == 3.0


def test_short_functions_differ_by_milliseconds_of_noise():
    """Of 20 and 30 milliseconds none is the longer one."""
    estimates = Estimates()
    for function_id, duration_s in {"a": 0.02, "b": 0.03, "c": 0.2}.items():
        estimates.kind("fit", NOTHING).learn(0.025)
        estimates.remember("fit", function_id, duration_s)

    expected = [estimates.expected("fit", NOTHING, i) for i in "abc"]

    assert expected == [0.025, 0.025, 0.2]


def test_families_of_one_code_are_told_apart():
    """Where one code does everything, ids that differ in numbers only are alike."""
    estimates = Estimates()
    for duration_s, family in ((0.1, "map-#"), (0.005, "part-#-#")):
        for known in (family, ""):
            estimates.kind("call", NOTHING, known).learn(duration_s)

    assert estimates.expected("call", NOTHING, "map-9", family_of("map-9")) == 0.1
    assert estimates.expected("call", NOTHING, "part-9-2", family_of("part-9-2")) == 0.005
    # Of another family only what is known of the code counts.
    other = estimates.expected("call", NOTHING, "other", "other")
    assert other == estimates.expected("call", NOTHING, "other")


def test_those_of_a_new_family_are_steady_if_all_of_their_code_are():
    estimates = Estimates()
    for _ in range(9):
        estimates.kind("call", NOTHING).learn(1.0)
        estimates.kind("call", NOTHING, "a").learn(1.0)
    assert estimates.is_steady("call", NOTHING, "b")
    for n in range(9):
        estimates.kind("call", NOTHING, "b").learn(1.0 + n)
        estimates.kind("call", NOTHING).learn(1.0 + n)
    assert estimates.is_steady("call", NOTHING, "a")
    assert not estimates.is_steady("call", NOTHING, "b")
    assert not estimates.is_steady("call", NOTHING, "c")


def test_families_are_forgotten_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr("handoff_dask.placement.estimates._REMEMBERED_FAMILIES", 10)
    estimates = Estimates()
    for n in range(30):
        estimates.kind("call", NOTHING, f"f{n}").learn(float(n))
        estimates.kind("call", NOTHING).learn(1.0)

    assert len(estimates._kinds) <= 12
    assert estimates.known("call", NOTHING, "f29") is not None
    assert estimates.known("call", NOTHING, "f0") is None
    assert estimates.known("call", NOTHING) is not None


def test_family_of_ids():
    assert family_of("a1b2c3d4e5f6") == "#"
    assert family_of(("align", 3, "s-12")) == "align,#,s-#"
    assert family_of(2.5) == ""


def test_a_cost_for_each_function_leaves_little():
    estimates = Estimates()
    costs = [Cost.parse({"memory": n}) for n in range(1, 2_000)]
    for cost in costs:
        estimates.kind("code", cost).learn(1.0)
    assert sum(estimates.known("code", cost) is not None for cost in costs) == 256
    assert estimates.expected("code", costs[0], "f") == 1.0
