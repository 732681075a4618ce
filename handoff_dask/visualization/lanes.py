"""Which thread of its node each function ran on, as far as a picture must tell them apart."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Mapping

from toolz import groupby, merge

from handoff_dask.record.execution import ExecutionRecord, FunctionRecord
from handoff_dask.record.time_split import RUNNING, STARTING, span_of, waiting_for

__all__ = ["activity", "lanes_of"]


def lanes_of(record: ExecutionRecord) -> dict[str, dict[Hashable, int]]:
    """``{node: {function id: lane}}``: of a node's functions, no two overlap on one lane.

    A function takes the lowest lane that is free when it starts.  A node uses as many lanes as it
    ran functions at once.

    Examples
    --------
    >>> functions = [FunctionRecord(id=i, name="f", node="a", start=start, stop=stop)
    ...     for i, start, stop in [("x", 0.0, 2.0), ("y", 1.0, 3.0), ("z", 2.0, 4.0)]]
    >>> lanes_of(ExecutionRecord(dag_id="d", status="finished", functions=tuple(functions)))
    {'a': {'x': 0, 'y': 1, 'z': 0}}
    """
    _, end = span_of(record)
    started = (f for f in record.functions if f.node is not None and f.start is not None)
    none: dict[str, list[FunctionRecord]] = {node: [] for node in record.nodes}
    by_node: dict[str, list[FunctionRecord]] = merge(none, groupby(lambda f: f.node, started))
    return {node: _lanes(functions, end) for node, functions in by_node.items()}


def _lanes(functions: list[FunctionRecord], end: float) -> dict[Hashable, int]:
    lanes: dict[Hashable, int] = {}
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    for function in sorted(functions, key=lambda f: (f.start or 0.0, f.stop is None, f.stop or 0.0)):
        start = function.start or 0.0
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        lanes[function.id] = lane
        heapq.heappush(busy, (end if function.stop is None else function.stop, lane))
    return lanes


def activity(record: ExecutionRecord) -> tuple[list[float], Mapping[str, list[int]]]:
    """How many functions were doing what, over time.

    Returns
    -------
    tuple
        The moments at which something changed (seconds since the epoch), and ``{what: how many
        from that moment on}``: ``"running"``, ``"starting"``, ``"scheduler"``, ``"waiting for …"``.
    """
    _, end = span_of(record)
    changes: dict[str, dict[float, int]] = {RUNNING: {}, STARTING: {}}

    def add(what: str, begin: float | None, until: float | None) -> None:
        if begin is None or (until is not None and until <= begin):
            return
        steps = changes.setdefault(what, {})
        for moment, change in ((begin, 1), (end if until is None else until, -1)):
            steps[moment] = steps.get(moment, 0) + change

    for f in record.functions:
        if f.type == "regular":
            placed = f.start if f.placed is None else f.placed
            if f.status == "waiting" or placed is not None:
                add(waiting_for(f.cause), f.ready, placed)
            if f.start is not None or f.status == "running":
                add(STARTING, f.placed, f.start)
            add(
                RUNNING,
                f.start,
                f.stop if f.stop is not None else (None if f.status == "running" else f.start),
            )
    moments = sorted({moment for steps in changes.values() for moment in steps})
    return moments, {what: _counted(steps, moments) for what, steps in changes.items() if steps}


def _counted(steps: Mapping[float, int], moments: list[float]) -> list[int]:
    number, counts = 0, []
    for moment in moments:
        number += steps.get(moment, 0)
        counts.append(number)
    return counts
