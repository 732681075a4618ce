"""What is remembered of how long functions take is bounded."""

from __future__ import annotations

from handoff_dask.placement.estimates import Estimates
from handoff_dask.resources import Cost


def test_a_cost_for_each_function_leaves_little():
    estimates = Estimates()
    costs = [Cost.parse({"memory": n}) for n in range(1, 2_000)]
    for cost in costs:
        estimates.kind("code", cost).learn(1.0)
    assert sum(estimates.known("code", cost) is not None for cost in costs) == 256
    assert estimates.expected("code", costs[0], "f") == 1.0
