"""The least time in which a set of nodes could have run a set of functions.

Two facts bound every schedule from below, whoever makes it: the longest path through the DAG, and
for each resource the amount-seconds asked of a set of nodes over what these nodes have.  The second
is taken for all nodes, and for every set of nodes that alone can hold some of the functions (the
nodes with a GPU, say), and unions of two such sets.  Transfers, latencies and collocation are left
out, so the true optimum may be larger.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from handoff_dask.records import ExecutionRecord, FunctionRecord
from handoff_dask.resources import Capabilities, Cost

__all__ = ["LowerBound", "lower_bound"]

#: The name under which threads are counted, beside the user's resources.
THREADS = "threads"


@dataclass(frozen=True, slots=True)
class LowerBound:
    """A makespan that no schedule can beat, and why."""

    #: Seconds.
    seconds: float
    #: What binds: ``"longest path"`` or ``"cpu on all nodes"``, ``"gpu on g0, g1"``, …
    reason: str
    #: ``{reason: seconds}``, each a bound by itself.
    parts: Mapping[str, float]


def lower_bound(record: ExecutionRecord) -> LowerBound:
    """The lower bound of an execution's makespan, with the durations that were measured.

    A function that has not ended counts with its expected duration, or with nothing.

    Examples
    --------
    >>> functions = tuple(FunctionRecord(id=i, name="f", cost={"cpu": 1}, start=0.0, stop=3.0)
    ...     for i in range(4))
    >>> bound = lower_bound(ExecutionRecord(dag_id="d", status="finished", functions=functions,
    ...     nodes={"a": {"cpu": 2, "threads": 8}}))
    >>> bound.seconds, bound.reason
    (6.0, 'cpu on all nodes')
    >>> bound.parts
    {'longest path': 3.0, 'cpu on all nodes': 6.0, 'threads on all nodes': 1.5}
    """
    parts = {"longest path": _longest_path(record.functions), **_areas(record)}
    reason = max(parts, key=lambda name: parts[name])
    return LowerBound(parts[reason], reason, parts)


def _seconds(function: FunctionRecord) -> float:
    if function.start is not None and function.stop is not None:
        return max(0.0, function.stop - function.start)
    return function.duration_s or 0.0


def _longest_path(functions: tuple[FunctionRecord, ...]) -> float:
    until: dict[Hashable, float] = {}
    for function in functions:
        begin = max((until.get(arg, 0.0) for arg in function.args), default=0.0)
        until[function.id] = begin + _seconds(function)
    return max(until.values(), default=0.0)


def _areas(record: ExecutionRecord) -> dict[str, float]:
    capacities = {node: _capacity(caps) for node, caps in record.nodes.items()}
    areas = _areas_by_hosts(record, {node: caps for node, (caps, _) in capacities.items()})
    everywhere = frozenset(capacities)
    parts: dict[str, float] = {}
    sets = {*areas, everywhere, *(a | b for a, b in itertools.combinations(areas, 2))}
    for hosts in sorted(sets, key=lambda nodes: (-len(nodes), sorted(nodes))):
        inside: dict[str, float] = {}
        for holders, area in areas.items():
            if holders <= hosts:
                for name, amount in area.items():
                    inside[name] = inside.get(name, 0.0) + amount
        where = "all nodes" if hosts == everywhere else ", ".join(sorted(hosts))
        for name, amount in inside.items():
            total = sum(
                threads if name == THREADS else caps.amounts.get(name, 0)
                for caps, threads in (capacities[node] for node in hosts)
            )
            if total > 0:
                parts[f"{name} on {where}"] = amount / total
    return parts


def _capacity(capabilities: Mapping[str, object]) -> tuple[Capabilities, float]:
    threads = capabilities.get(THREADS, 0)
    rest = {name: value for name, value in capabilities.items() if name != THREADS}
    return Capabilities.parse(rest), float(threads) if isinstance(threads, (int, float)) else 0.0


def _areas_by_hosts(
    record: ExecutionRecord, nodes: Mapping[str, Capabilities]
) -> dict[frozenset[str], dict[str, float]]:
    """``{nodes that can hold a cost: {resource: units x seconds asked by such costs}}``."""
    hosts_of: dict[Cost, frozenset[str]] = {}
    areas: dict[frozenset[str], dict[str, float]] = {}
    for function in record.functions:
        seconds = _seconds(function)
        if function.type != "regular" or not seconds:
            continue
        cost = Cost.parse(function.cost)
        if cost not in hosts_of:
            hosts_of[cost] = frozenset(node for node, caps in nodes.items() if caps.could_hold(cost))
        if not hosts_of[cost]:
            continue  # its node has left: the nodes that are known say nothing about it
        area = areas.setdefault(hosts_of[cost], {})
        for name, units in (*cost.amounts, (THREADS, 1)):
            area[name] = area.get(name, 0.0) + units * seconds
    return areas
