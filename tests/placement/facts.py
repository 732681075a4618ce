"""Events in few words, and decisions in fewer: what the tests of the engine are written in."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from handoff_dask.placement.decisions import Decision, Place, Reject, Wait
from handoff_dask.placement.events import (
    DataArgument,
    Demand,
    FunctionFinished,
    FunctionReady,
    NodeChanged,
    NodeJoined,
    RunOpened,
)
from handoff_dask.placement.settings import EngineSettings
from handoff_dask.placement.strategies import BUILT_IN, Strategy
from handoff_dask.resources import Capabilities, Cost

#: Small numbers, so that few functions show what they do.
SETTINGS = EngineSettings(round_trip_s=0.02, prefetch_limit=64, timed_prefetches=4)


def joined(node: str, *, threads: int = 8, address: str | None = None, **capabilities: Any) -> NodeJoined:
    return NodeJoined(
        node=node, capabilities=Capabilities.parse(capabilities), threads=threads, address=address
    )


def changed(node: str, *, threads: int = 8, accepting: bool = True, **capabilities: Any) -> NodeChanged:
    return NodeChanged(
        node=node, capabilities=Capabilities.parse(capabilities), threads=threads, accepting=accepting
    )


def opened(run: Hashable = "run", strategy: str | Strategy = "first_available", **more: Any) -> RunOpened:
    chosen = BUILT_IN[strategy] if isinstance(strategy, str) else strategy
    return RunOpened(run=run, strategy=chosen, **more)


def demand(*, pin: str | None = None, group: Hashable = None, binds: Hashable = None, **cost: Any) -> Demand:
    return Demand(Cost.parse(cost), pin=pin, group=group, binds=binds)


def ready(
    function: Hashable,
    *,
    run: Hashable = "run",
    priority: float = 0,
    rank: float = 0.0,
    duration_s: float | None = None,
    certain: bool = False,
    preferred_node: str | None = None,
    arguments: Iterable[DataArgument] = (),
    frees: bool = False,
    begun: bool = False,
    **asked: Any,
) -> FunctionReady:
    return FunctionReady(
        function=function,
        run=run,
        demand=demand(**asked),
        priority=priority,
        rank=rank,
        duration_s=duration_s,
        certain=certain,
        preferred_node=preferred_node,
        arguments=tuple(arguments),
        frees=frees,
        begun=begun,
    )


def data(key: Hashable, *nodes: str, megabytes: float = 20) -> DataArgument:
    """A result that some nodes have; to move 20 MB takes 0.2 s and a little."""
    return DataArgument(key, int(megabytes * 1e6), nodes)


def finished(function: Hashable, took_s: float | None = None) -> FunctionFinished:
    return FunctionFinished(function=function, took_s=took_s)


def placed(decisions: Iterable[Decision]) -> dict[Hashable, str]:
    """``{function: node}``, in the order of placement."""
    return {d.function: d.node for d in decisions if isinstance(d, Place)}


def waits(decisions: Iterable[Decision]) -> dict[Hashable, str]:
    """``{function: cause}``."""
    return {d.function: d.cause for d in decisions if isinstance(d, Wait)}


def rejected(decisions: Iterable[Decision]) -> dict[Hashable, str]:
    """``{function: what a strategy did wrong, or why the nodes do not do}``."""
    return {
        d.function: d.problem or "; ".join(f"{n}: {why}" for n, why in d.obstacles.items())
        for d in decisions
        if isinstance(d, Reject)
    }
