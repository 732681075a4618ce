"""Lower bounds on the makespan of an execution, from the durations that were measured."""

from __future__ import annotations

from collections.abc import Mapping

from handoff_dask.graph.bounds import Bound, longest_path, resource_bounds
from handoff_dask.graph.expansion import Expansion, expand
from handoff_dask.graph.functions import Function, FunctionId
from handoff_dask.record.execution import ExecutionRecord, FunctionRecord
from handoff_dask.resources import Capabilities, Cost

__all__ = ["lower_bounds"]

#: Every function takes one thread of its node: counted as a resource of this name.
THREADS = "threads"


def lower_bounds(record: ExecutionRecord) -> tuple[Bound, ...]:
    """Makespans that no placement on these nodes could beat, the tightest first.

    A function that has not ended counts with its expected duration, or with nothing.  A result counts on its
    way if no node could hold both who made it and who takes it, at the fastest rate that was seen.  Other
    transfers, latencies, pins and collocation are left out, so the true optimum may be larger.

    Examples
    --------
    >>> functions = tuple(FunctionRecord(id=i, name="f", cost={"cpu": 1}, start=0.0, stop=3.0)
    ...     for i in range(4))
    >>> bounds = lower_bounds(ExecutionRecord(dag_id="d", status="finished", functions=functions,
    ...     nodes={"a": {"cpu": 2, "threads": 8}}))
    >>> [(bound.seconds, bound.resource) for bound in bounds]
    [(6.0, 'cpu'), (3.0, None), (1.5, 'threads')]
    """
    nodes = {node: Capabilities.parse(capabilities) for node, capabilities in record.nodes.items()}
    threaded = bool(nodes) and all(THREADS in offer.amounts for offer in nodes.values())
    expansion = _expansion(record, threaded)
    able: dict[Cost, frozenset[str]] = {}
    hosts: dict[FunctionId, frozenset[str]] = {}
    for key, body in expansion.bodies.items():
        cost = body.function.needs
        if cost not in able:
            able[cost] = frozenset(node for node, offer in nodes.items() if offer.could_hold(cost))
        hosts[key] = able[cost]
    # What no node that is known could hold ran on one that has left: the nodes bound nothing there.
    path = longest_path(expansion, _moves(record, expansion, hosts))
    found = [path, *(resource_bounds(expansion, nodes, hosts) if nodes else [])]
    return tuple(sorted(found, key=lambda bound: (-round(bound.seconds, 9), len(bound.nodes))))


def _moves(
    record: ExecutionRecord, expansion: Expansion, hosts: Mapping[FunctionId, frozenset[str]]
) -> dict[tuple[FunctionId, FunctionId], float]:
    """The seconds of the moves that no placement could avoid."""
    functions = {function.id: function for function in record.functions}
    fastest = max((_rate(function, functions) for function in record.functions), default=0.0)
    if not fastest:
        return {}
    return {
        (producer, key): (functions[producer].nbytes or 0) / fastest
        for key, body in expansion.bodies.items()
        for producer in body.waits_for
        if producer in functions
        and hosts.get(key)
        and hosts.get(producer)
        and hosts[key].isdisjoint(hosts[producer])
    }


def _rate(function: FunctionRecord, functions: Mapping[FunctionId, FunctionRecord]) -> float:
    """Bytes per second at which a function's arguments came to its node at most; 0 if none did."""
    if not function.transfer_s:
        return 0.0
    args = [functions[arg] for arg in function.args if arg in functions]
    return sum(arg.nbytes or 0 for arg in args if arg.node != function.node) / function.transfer_s


def _expansion(record: ExecutionRecord, threaded: bool) -> Expansion:
    """The functions of the record with their measured durations, as the bounds want them."""
    known = {f.id for f in record.functions}
    return expand([_measured(f, known, threaded) for f in record.functions])


def _measured(function: FunctionRecord, known: set[FunctionId], threaded: bool) -> Function:
    args = [arg for arg in function.args if arg in known]
    if function.type == "input":
        return Function(function.id, [], None, type="input")
    if function.type == "inline":
        return Function(function.id, args, _nothing, type="inline")
    seconds = function.duration_s
    if function.start is not None and function.stop is not None:
        seconds = max(0.0, function.stop - function.start)
    cost = {**function.cost, THREADS: 1} if threaded else dict(function.cost)
    return Function(function.id, args, _nothing, cost=cost, duration=seconds)


def _nothing() -> None:
    """Stands for code, which does not matter here."""
