"""How much time was lost because a function that had room did not run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from handoff_dask.placement.amounts import THREAD, amounts_of
from handoff_dask.placement.demand import Demand
from handoff_dask.simulation.problem import SimulatedFunction, SimulatedNode, Span

_END, _LATE, _START = range(3)


def avoidable_idle(
    functions: Sequence[SimulatedFunction],
    nodes: Sequence[SimulatedNode],
    spans: Mapping[Hashable, Span],
    grace_s: float = 0.0,
) -> float:
    """Share of the makespan in which a function that was ready had room and did not run.

    A function counts as ready ``grace_s`` after its last argument is there.  Pins are heeded;
    that a group has another node is not.
    """
    free = {n.name: {THREAD: n.threads, **n.capabilities.amounts} for n in nodes}
    eligible = {f.demand: [n.name for n in nodes if _could_hold(n, f)] for f in functions}
    late: Counter[Demand] = Counter()
    lost = last = 0.0
    idle = False
    for when, kind, _, function in _moments(functions, spans, grace_s):
        lost += when - last if idle else 0.0
        last = when
        demand = function.demand
        if kind == _LATE:
            late[demand] += 1
        else:
            room = free[spans[function.id].node]
            for name, units in amounts_of(function.cost):
                room[name] += units if kind == _END else -units
            if kind == _START and late[demand] and _is_late(function, spans, grace_s):
                late[demand] -= 1
        idle = any(
            count and any(_fits(free[name], wanted) for name in eligible[wanted])
            for wanted, count in late.items()
        )
    return lost / last if last else 0.0


def _moments(
    functions: Sequence[SimulatedFunction], spans: Mapping[Hashable, Span], grace_s: float
) -> list[tuple[float, int, int, SimulatedFunction]]:
    """What happened when; at one moment ends come first, then the late, then starts."""
    moments = []
    for number, function in enumerate(functions):
        span = spans[function.id]
        moments += [(span.start_s, _START, number, function), (span.stop_s, _END, number, function)]
        if _is_late(function, spans, grace_s):
            moments.append((_ready_at(function, spans) + grace_s, _LATE, number, function))
    return sorted(moments, key=lambda moment: moment[:3])


def _ready_at(function: SimulatedFunction, spans: Mapping[Hashable, Span]) -> float:
    return max([function.release_s, *(spans[arg].stop_s for arg in function.args)])


def _is_late(function: SimulatedFunction, spans: Mapping[Hashable, Span], grace_s: float) -> bool:
    return _ready_at(function, spans) + grace_s < spans[function.id].start_s


def _could_hold(node: SimulatedNode, function: SimulatedFunction) -> bool:
    return function.pin in (None, node.name) and node.capabilities.could_hold(function.cost)


def _fits(free: Mapping[str, int], demand: Demand) -> bool:
    return all(free[name] >= units for name, units in amounts_of(demand.cost))
