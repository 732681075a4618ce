"""Driving the placement engine under a virtual clock: what a run would take, without a cluster.

Examples
--------
>>> from handoff_dask.placement.strategies import FIRST_AVAILABLE
>>> from handoff_dask.resources import Capabilities, Cost
>>> two_cpus = Cost.parse({"cpu": 2})
>>> functions = [SimulatedFunction("a", 1.0, two_cpus), SimulatedFunction("b", 2.0, two_cpus)]
>>> nodes = [SimulatedNode("n", Capabilities.parse({"cpu": 3}))]
>>> simulate(functions, nodes, FIRST_AVAILABLE).makespan_s
3.0
"""

from handoff_dask.simulation.problem import Scenario, SimulatedFunction, SimulatedNode, Span, load_scenario
from handoff_dask.simulation.running import SimulatedRun, SimulationStuck, simulate
from handoff_dask.simulation.transfers import SimulatedNetwork

__all__ = [
    "Scenario",
    "SimulatedFunction",
    "SimulatedNetwork",
    "SimulatedNode",
    "SimulatedRun",
    "SimulationStuck",
    "Span",
    "load_scenario",
    "simulate",
]
