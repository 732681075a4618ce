"""Users' own strategies: shipped to the scheduler, asked there, and fenced in.

Whatever a strategy raises or answers fails its own DAG.  While it takes its time the whole cluster
waits, so whoever is slow is named in the scheduler's log, and who is too slow fails its DAG too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from distributed.protocol import pickle

from handoff_dask.graph.functions import Function, FunctionId
from handoff_dask.placement.events import FunctionKey
from handoff_dask.placement.strategies import (
    BUILT_IN,
    AllocateStrategy,
    NodeSnapshot,
    SelectStrategy,
    Strategy,
)
from handoff_dask.placement.user_strategies import StrategyFailed
from handoff_dask.protocol.manifest import Manifest, position_of
from handoff_dask.protocol.strategies import Elsewhere
from handoff_dask.resources import Capabilities, undeclared
from handoff_dask.scheduler.user_code import UserCode, shown

logger = logging.getLogger(__name__)


async def load_beside(manifest: Manifest) -> Strategy:
    """As :func:`load`; the scheduler goes on meanwhile."""
    if isinstance(manifest.options.strategy, str):
        return load(manifest)
    return await asyncio.to_thread(load, manifest)


def load(manifest: Manifest) -> Strategy:
    """The strategy of an execution, built in or the user's own.

    Raises
    ------
    StrategyFailed
        If the user's own cannot be unpickled here.
    """
    options = manifest.options
    if isinstance(options.strategy, str):
        return BUILT_IN[options.strategy]
    code = UserCode(f"strategy {options.strategy_name!r}")
    strategy: Strategy = code.load(options.strategy, lambda own: _Asked(own, manifest, code).strategy())
    return strategy


class _Asked:
    """A user's strategy, asked by the engine about the functions of one execution."""

    def __init__(self, own: Any, manifest: Manifest, code: UserCode) -> None:
        self._own = own
        self._manifest = manifest
        self._code = code
        self._functions, self._idle = _functions_of(manifest)

    def strategy(self) -> Strategy:
        """What the engine is given."""
        name = self._manifest.options.strategy_name
        if callable(getattr(self._own, "select", None)):
            return SelectStrategy(name=name, select=self._fenced(self._own.select), describe=self._describe)
        if callable(getattr(self._own, "allocate", None)):
            return AllocateStrategy(name=name, assign=self._assign, id_of=lambda key: self._describe(key).id)
        return SelectStrategy(name=name, select=self._fenced(self._own), describe=self._describe)

    def _describe(self, key: FunctionKey) -> Function:
        position = position_of(str(key))
        changed = self._manifest.changed.get(position)
        function = self._functions[position]
        return function if changed is None else replace(function, cost=changed.cost.to_dict())

    def _fenced(self, ask: Callable[..., Any]) -> Callable[[Any, Sequence[NodeSnapshot]], Any]:
        return lambda function, nodes: self._code.ask(lambda: _plain(ask(function, nodes)))

    def _assign(self, capabilities: Mapping[str, Mapping[str, Any]]) -> Mapping[FunctionKey, str]:
        given: Mapping[FunctionKey, str] = self._code.ask(self._assigned, self._confined(capabilities))
        return given

    def _assigned(self, capabilities: dict[str, dict[str, Any]]) -> Mapping[FunctionKey, str]:
        """Asked in the thread of the user's code: reading the answer may run it, too."""
        answer = self._own.allocate(list(self._functions), capabilities)
        if not isinstance(answer, Mapping):
            raise StrategyFailed(
                f"{self._code.name} answered {shown(answer)}; give a mapping from id to node name"
            )
        positions = {function.id: n for n, function in enumerate(self._functions)}
        given: dict[FunctionKey, str] = {}
        for function_id, node in answer.items():
            position = positions.get(function_id)
            if position is not None:
                given[self._manifest.key(position)] = _plain(node)
            elif function_id not in self._idle:
                raise StrategyFailed(
                    f"{self._code.name} gives a node to {shown(function_id)}, which is not in the DAG"
                )
        return given

    def _confined(self, capabilities: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """What the execution may use."""
        limits = self._manifest.options.nodes
        if limits is None:
            return {name: dict(offer) for name, offer in capabilities.items()}
        offers = {name: Capabilities.parse(offer) for name, offer in capabilities.items() if name in limits}
        declared = undeclared(limits.values(), offers.values())
        return {name: offer.confined(limits[name], declared).to_dict() for name, offer in offers.items()}


class _Shown:
    """Stands for an answer that is no name of a node, so that nothing of the user's runs in showing it."""

    def __init__(self, answer: Any) -> None:
        self._text = shown(answer)

    def __repr__(self) -> str:
        return self._text


def _plain(node: Any) -> Any:
    """What is taken for the name of a node."""
    if node is None or isinstance(node, str):
        return node and str.__str__(node)
    return _Shown(node)


def _functions_of(manifest: Manifest) -> tuple[list[Function], list[FunctionId]]:
    """The functions as strategies see them; with keys for ids whose types are unknown here."""
    assert manifest.shown is not None
    try:
        functions, idle = pickle.loads(manifest.shown)
    except BaseException as error:  # whatever the user's ids raise here
        logger.info("ids cannot be read on the scheduler (%r); keys stand for them", error)
    else:
        return functions, idle
    keys: list[Hashable] = list(manifest.keys())
    return [_from_manifest(manifest, n, key) for n, key in enumerate(keys)], []


def _from_manifest(manifest: Manifest, position: int, key: FunctionId) -> Function:
    demand = manifest.demands[manifest.demand_of[position]]
    return Function(
        key,
        [],
        Elsewhere(manifest.names[position]),
        cost=demand.cost.to_dict(),
        node=demand.pin,
        priority=manifest.priorities.get(position, 0),
        duration=manifest.durations.get(position),
    )
