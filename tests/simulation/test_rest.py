"""What is left of a run that goes on."""

from __future__ import annotations

import math

from handoff_dask.resources import Cost
from handoff_dask.simulation.problem import SimulatedFunction
from handoff_dask.simulation.rest import rest_of

CPU = Cost.parse({"cpu": 1})
#: A chain of three and one beside it.
RUN = [
    SimulatedFunction(0, 0.0, CPU),
    SimulatedFunction(1, 0.0, CPU, (0,)),
    SimulatedFunction(2, 0.0, CPU, (0, 1), pin="m", priority=3),
    SimulatedFunction(3, 0.0, CPU, group="g"),
]


def test_what_has_ended_is_left_out():
    rest = rest_of(RUN, [1.0, 2.0, 3.0, 4.0], [True, False, False, False], {})
    assert rest == [
        SimulatedFunction(1, 2.0, CPU),
        SimulatedFunction(2, 3.0, CPU, (1,), pin="m", priority=3),
        SimulatedFunction(3, 4.0, CPU, group="g"),
    ]


def test_what_runs_takes_what_is_left_of_it():
    """Where it is, at once; nothing if it has taken longer than expected already."""
    rest = rest_of(RUN, [1.0, 2.0, 3.0, 4.0], [False] * 4, {0: ("n", 0.25), 3: ("m", 9.0)})
    assert rest[0] == SimulatedFunction(0, 0.75, CPU, pin="n", priority=math.inf)
    assert rest[1].args == (0,)
    assert rest[3] == SimulatedFunction(3, 0.0, CPU, pin="m", priority=math.inf)


def test_unknown_durations_are_the_mean_of_the_others():
    """As long as enough are known of those that are left."""
    expected_s = [1.0, None, 2.0, 4.0]
    assert [f.duration_s for f in rest_of(RUN, expected_s, [True, False, False, False], {})] == [
        3.0,
        2.0,
        4.0,
    ]
    assert rest_of(RUN, expected_s, [True, False, False, False], {}, known=0.8) is None
    assert rest_of(RUN, expected_s, [False] * 4, {}, known=0.75) is not None
    assert rest_of(RUN, [None] * 4, [False] * 4, {}) is None
    assert rest_of(RUN, expected_s, [True] * 4, {}) is None
