"""Users' own strategies: shipped to the scheduler, asked there, and fenced in.

A strategy runs in the scheduler's thread.  Whatever it raises or answers fails its own DAG; while
it takes its time the whole cluster waits, so whoever is slow is named in the scheduler's log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from distributed.metrics import monotonic
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

logger = logging.getLogger(__name__)

#: Seconds for one answer above which a strategy is called slow in the scheduler's log.
SLOW_S = 0.1


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
    try:
        own = pickle.loads(options.strategy)
    except BaseException as error:  # the user's code: not even sys.exit may end the scheduler
        raise StrategyFailed(
            f"strategy {options.strategy_name!r} cannot be used on the scheduler: {error!r}; "
            "what it needs must be importable there"
        ) from None
    return _Asked(own, manifest).strategy()


class _Asked:
    """A user's strategy, asked by the engine about the functions of one execution."""

    def __init__(self, own: Any, manifest: Manifest) -> None:
        self._own = own
        self._manifest = manifest
        self._functions, self._idle = _functions_of(manifest)
        #: Seconds above which the next answer is called slow.
        self._slow_s = SLOW_S

    def strategy(self) -> Strategy:
        """What the engine is given."""
        name = self._manifest.options.strategy_name
        if callable(getattr(self._own, "select", None)):
            return SelectStrategy(name=name, select=self._fenced(self._own.select), describe=self._describe)
        if callable(getattr(self._own, "allocate", None)):
            return AllocateStrategy(name=name, assign=self._assign, id_of=lambda key: self._describe(key).id)
        return SelectStrategy(name=name, select=self._fenced(self._own), describe=self._describe)

    def _describe(self, key: FunctionKey) -> Function:
        return self._functions[position_of(str(key))]

    def _fenced(self, ask: Callable[..., Any]) -> Callable[[Any, Sequence[NodeSnapshot]], Any]:
        return lambda function, nodes: self._ask(ask, function, nodes)

    def _assign(self, capabilities: Mapping[str, Mapping[str, Any]]) -> Mapping[FunctionKey, str]:
        answer = self._ask(self._own.allocate, list(self._functions), self._confined(capabilities))
        if not isinstance(answer, Mapping):
            raise StrategyFailed(f"{self._name} answered {answer!r}; give a mapping from id to node name")
        positions = {function.id: n for n, function in enumerate(self._functions)}
        given: dict[FunctionKey, str] = {}
        for function_id, node in answer.items():
            position = positions.get(function_id)
            if position is not None:
                given[self._manifest.key(position)] = node
            elif function_id not in self._idle:
                raise StrategyFailed(f"{self._name} gives a node to {function_id!r}, which is not in the DAG")
        return given

    def _confined(self, capabilities: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """What the execution may use."""
        limits = self._manifest.options.nodes
        if limits is None:
            return {name: dict(offer) for name, offer in capabilities.items()}
        offers = {name: Capabilities.parse(offer) for name, offer in capabilities.items() if name in limits}
        declared = undeclared(limits.values(), offers.values())
        return {name: offer.confined(limits[name], declared).to_dict() for name, offer in offers.items()}

    @property
    def _name(self) -> str:
        return f"strategy {self._manifest.options.strategy_name!r}"

    def _ask(self, ask: Callable[..., Any], *facts: Any) -> Any:
        begun = monotonic()
        try:
            return ask(*facts)
        except BaseException as error:  # the user's code: not even sys.exit may end the scheduler
            logger.info("%s raised", self._name, exc_info=True)
            problem = f"{self._name} raised {type(error).__name__}: {error} ({_where(error)})"
            raise StrategyFailed(problem) from None
        finally:
            took_s = monotonic() - begun
            if took_s > self._slow_s:
                # Not for every answer of one that is always slow.
                self._slow_s = 2 * took_s
                logger.warning("%s took %.2f s to answer; the scheduler stands still", self._name, took_s)


def _functions_of(manifest: Manifest) -> tuple[list[Function], list[FunctionId]]:
    """The functions as strategies see them; with keys for ids whose types are unknown here."""
    assert manifest.shown is not None
    try:
        functions, idle = pickle.loads(manifest.shown)
    except Exception as error:  # whatever the user's ids raise here
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


def _where(error: BaseException) -> str:
    """The line that raised."""
    trace = error.__traceback__
    if trace is None:
        return "nowhere"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}"
