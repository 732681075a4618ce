"""Trying a strategy out on small clusters, before a real one is trusted to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handoff_dask.graph.functions import Function
from handoff_dask.placement.decisions import Decision, Place, Reject
from handoff_dask.placement.demand import Demand
from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import (
    Event,
    FunctionFinished,
    FunctionReady,
    NodeJoined,
    RunClosed,
    RunOpened,
)
from handoff_dask.placement.strategies import BUILT_IN, AllocateStrategy, SelectStrategy, Strategy
from handoff_dask.resources import Capabilities

__all__ = ["check_strategy"]


@dataclass(frozen=True)
class _Case:
    """A cluster, and functions that are ready all at once."""

    name: str
    nodes: Mapping[str, Mapping[str, Any]]
    functions: Sequence[Function]

    def function(self, function_id: Hashable) -> Function:
        return next(f for f in self.functions if f.id == function_id)


def _functions(count: int, *costs: Mapping[str, Any], node: str | None = None) -> list[Function]:
    return [
        Function(id=f"f{n}", args=[], code="builtins:dict", cost=costs[n % len(costs)], node=node)
        for n in range(count)
    ]


_CASES = (
    _Case("one node", {"a": {"cpu": 1}}, _functions(3, {"cpu": 1})),
    _Case("more nodes than functions", {n: {"cpu": 4} for n in "abcdef"}, _functions(4, {"cpu": 1})),
    _Case("more functions than room", {n: {"cpu": 2} for n in "ab"}, _functions(9, {"cpu": 1}, {"cpu": 2})),
    _Case(
        "unlike nodes",
        {"gpu": {"cpu": 8, "gpu": 1, "price": 3}, "big": {"cpu": 16, "memory": 64}, "small": {"cpu": 1}},
        _functions(12, {"cpu": 1}, {"gpu": 1}, {"cpu": 2, "memory": 8}, {}),
    ),
    _Case(
        "labels", {"a": {"zone": "eu"}, "b": {"zone": "us"}}, _functions(4, {"zone": "eu"}, {"zone": "us"})
    ),
    _Case("a pinned function", {"a": {"cpu": 1}, "b": {"cpu": 1}}, _functions(3, {"cpu": 1}, node="b")),
)


def check_strategy(strategy: Any) -> None:
    """Run a strategy on several small clusters and assert that it does what a strategy must.

    Every function gets a node that can hold it; no node ever holds more than it has; pins hold;
    it decides the same when the same is asked again, and nothing is left behind.

    Parameters
    ----------
    strategy
        The name of a built-in one, or what you would give as ``allocation_strategy=``: a
        callable ``(function, nodes)``, or an object with ``select`` or ``allocate``.

    Raises
    ------
    AssertionError
        With what went wrong, and where.

    Examples
    --------
    >>> check_strategy("load_balanced")
    >>> check_strategy(lambda function, nodes: nodes[-1].name)
    >>> check_strategy(lambda function, nodes: "mars")
    Traceback (most recent call last):
    ...
    AssertionError: one node: 'f0' was rejected: the strategy chose 'mars', which could never ...
    """
    for case in _CASES:
        once = list(_decisions(case, _as_strategy(strategy, case)))
        again = list(_decisions(case, _as_strategy(strategy, case)))
        assert once == again, f"{case.name}: asked the same twice, it decided differently"


def _as_strategy(strategy: Any, case: _Case) -> Strategy:
    if isinstance(strategy, Strategy):
        return strategy
    if isinstance(strategy, str):
        return BUILT_IN[strategy]
    if hasattr(strategy, "allocate"):
        functions = list(case.functions)
        return AllocateStrategy(assign=lambda capabilities: strategy.allocate(functions, capabilities))
    select: Callable[..., str | None] = getattr(strategy, "select", strategy)
    return SelectStrategy(select=select, describe=case.function)


def _decisions(case: _Case, strategy: Strategy) -> Iterator[Decision]:
    """Let everything become ready, and end in the order in which it was placed."""
    engine = PlacementEngine()
    parsed = {name: Capabilities.parse(capabilities) for name, capabilities in case.nodes.items()}
    start: list[Event] = [NodeJoined(node=n, capabilities=c, threads=8) for n, c in parsed.items()]
    start.append(RunOpened(run=case.name, strategy=strategy))
    start += [FunctionReady(function=f.id, run=case.name, demand=_demand(f)) for f in case.functions]
    running: deque[Hashable] = deque()
    placed: dict[Hashable, str] = {}
    events, now = start, 0.0
    while events:
        for decision in engine.handle_all(events, now=now):
            yield decision
            if isinstance(decision, Place):
                placed[decision.function] = decision.node
                running.append(decision.function)
            elif isinstance(decision, Reject):
                why = decision.problem or "no node can hold it"
                raise AssertionError(f"{case.name}: {decision.function!r} was rejected: {why}")
        engine.check()
        now += 1
        events = [FunctionFinished(function=running.popleft())] if running else []
    missing = [f.id for f in case.functions if f.id not in placed]
    assert not missing, f"{case.name}: {missing!r} never got a node"
    for function in case.functions:
        node = placed[function.id]
        assert function.node in (None, node), (
            f"{case.name}: {function.id!r} is pinned, but was put on {node!r}"
        )
        assert parsed[node].could_hold(_demand(function).cost), (
            f"{case.name}: {node!r} cannot hold {function!r}"
        )
    engine.handle(RunClosed(run=case.name), now=now)
    assert engine.remembers() == {"nodes": len(case.nodes)}, (
        f"{case.name}: {engine.remembers()} were left behind"
    )


def _demand(function: Function) -> Demand:
    pin = function.node if isinstance(function.node, str) else None
    return Demand(function.needs, pin=pin)
