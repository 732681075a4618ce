"""What earlier functions have taught about how long others take."""

from __future__ import annotations

from handoff_dask.placement.estimates import Estimates
from handoff_dask.resources import NOTHING


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
