"""Costs that are not the same for each attempt: those that grow, and those that are asked.

A callable is the user's: whatever it raises or answers, and however long it takes, fails its own function.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from distributed.protocol import pickle

from handoff_dask.errors import ValidationError
from handoff_dask.graph.growing import check_cost, growth_of
from handoff_dask.placement.user_strategies import StrategyFailed
from handoff_dask.protocol.manifest import AskedCost, AskedCosts
from handoff_dask.protocol.packing import Packed, Sent, opened_code
from handoff_dask.resources import Capabilities, Cost, quantity
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.runs import FunctionState, RunState
from handoff_dask.scheduler.user_code import UserCode

#: ``{resource: (factor, the most in units or None)}``.
Growth = Mapping[str, tuple[float, "int | None"]]


class CostRefused(Exception):
    """A callable has given no cost; the message says why."""


class Changed(NamedTuple):
    """What a function claims from now on."""

    cost: Cost
    #: Why it cannot claim more; ``""`` if it can.
    limit: str


class AttemptCosts:
    """Works out what the next attempt of a function claims.

    Parameters
    ----------
    nodes
        What is known of workers.
    nbytes_of
        The size of the result of a task.
    """

    def __init__(self, nodes: Nodes, nbytes_of: Callable[[Any], int]) -> None:
        self._nodes = nodes
        self._nbytes_of = nbytes_of

    def settle(self, function: FunctionState) -> Changed | None:
        """Find out what the next attempt of a function claims, before it is offered to the engine.

        Returns
        -------
        Changed or None
            What it claims from now on; ``None`` if that is what it was.

        Raises
        ------
        CostRefused
            If its callable has given no cost.
        """
        manifest, position = function.run.manifest, function.position
        asked = manifest.asked
        if asked is not None and position in asked.functions:
            return self._asked(function, asked, asked.functions[position])
        growth = manifest.growth.get(position)
        return None if growth is None else self._grown(function, growth)

    def _asked(self, function: FunctionState, asked: AskedCosts, cost: AskedCost) -> Changed | None:
        number = function.attempts + 1
        if function.settled_for == number:
            return None
        function.settled_for = number
        run = function.run
        names = _names_of(run, asked)
        inputs = {
            names[n]: sizes.nbytes + sum(map(self._nbytes_of, sizes.keys))
            for n, sizes in cost.arguments.items()
        }
        written = _answer(run, cost, number, inputs)
        found = Cost.parse(written)
        amounts, limits = dict(found.amounts), list[str]()
        if number > 1:
            if function.attempt is not None and function.attempt.wants_memory:
                limits += _raised(amounts, growth_of(written), function.attempt.cost)
            limits += self._limited(function, amounts)
        return self._claims(function, Cost(tuple(sorted(amounts.items())), found.labels), limits, number == 1)

    def _grown(self, function: FunctionState, growth: Growth) -> Changed | None:
        run, position, attempt = function.run, function.position, function.attempt
        if attempt is None or attempt.has_grown or not attempt.wants_memory:
            return None
        demand = run.demand(position)
        attempt.has_grown = True
        amounts = dict(demand.cost.amounts)
        limits = _raised(amounts, growth, demand.cost)
        limits += self._limited(function, amounts, growth, least=dict(demand.cost.amounts))
        return self._claims(function, Cost(tuple(sorted(amounts.items())), demand.cost.labels), limits)

    @staticmethod
    def _claims(
        function: FunctionState, cost: Cost, limits: Sequence[str], is_first: bool = False
    ) -> Changed:
        changed = Changed(cost, "; ".join(limits))
        function.run.claim(function.position, *changed, is_first=is_first)
        return changed

    def _limited(
        self,
        function: FunctionState,
        amounts: dict[str, int],
        names: Mapping[str, Any] | None = None,
        least: Mapping[str, int] | None = None,
    ) -> list[str]:
        """Lower amounts to the most that any node has which the function may use; which, in words."""
        run, attempt = function.run, function.attempt
        offers = self._nodes.offers(shared=True)
        confined = self._nodes.by_names(run.manifest.options.nodes)
        if confined is not None:
            offers = {
                node: offers[node].confined(limit) for node, limit in confined.items() if node in offers
            }
        if run.demand(function.position).group is not None and attempt is not None and attempt.node in offers:
            # Those that share its node are bound to that one.
            offers = {attempt.node: offers[attempt.node]}
        limits = []
        for name in amounts if names is None else names:
            most = max((_amount(offer, name) for offer in offers.values()), default=0)
            # What no node has at all is the engine's to refuse.
            if most and amounts[name] >= most:
                amounts[name] = max(most, (least or {}).get(name, 0))
                limits.append(f"no node has more {name} than {quantity(name, most)}")
        return limits


def _raised(amounts: dict[str, int], growth: Growth, before: Cost) -> list[str]:
    """Let amounts grow beyond what the attempt before has claimed; what keeps them from more, in words."""
    limits = []
    earlier = dict(before.amounts)
    for name, (factor, upto) in growth.items():
        wanted = max(amounts[name], int(earlier.get(name, 0) * factor))
        if upto is not None and wanted >= upto:
            wanted = upto
            limits.append(f"{name} grows up to {quantity(name, upto)} only")
        amounts[name] = wanted
    return limits


def _amount(offer: Capabilities, name: str) -> int:
    return offer.amounts.get(name, 0)


def _names_of(run: RunState, asked: AskedCosts) -> list[Hashable]:
    if run.argument_names is None:
        try:
            run.argument_names = list(pickle.loads(asked.names))
        except Exception as error:  # whatever the user's ids raise here
            raise CostRefused(
                f"its cost is asked on the scheduler, which cannot read the ids of the arguments: {error!r}; "
                "use ids of plain types"
            ) from None
    return run.argument_names


def _answer(run: RunState, cost: AskedCost, attempt: int, inputs: dict[Hashable, int]) -> Any:
    if run.cost_code is None:
        run.cost_code = UserCode("its cost(attempt, inputs)")
    try:
        code = run.cost_code.ask(_opened, cost.code)
        return run.cost_code.ask(_written, code, attempt, inputs)
    except StrategyFailed as failed:
        raise CostRefused(str(failed)) from None


def _written(code: Callable[..., Any], attempt: int, inputs: dict[Hashable, int]) -> Any:
    """What a cost answers, checked in the thread of the user's code: reading it may run that, too."""
    written = code(attempt, inputs)
    try:
        check_cost(written)
    except ValidationError as error:
        raise StrategyFailed(f"its cost, asked for attempt {attempt}, is wrong: {error}") from None
    return {} if written is None else dict(written)


def _opened(packed: Packed | Sent) -> Any:
    try:
        return opened_code(packed)
    except BaseException as error:  # the user's code: not even sys.exit may end the scheduler
        raise RuntimeError(f"{error!r}; what it needs must be importable on the scheduler") from None
