"""What is free on a node as one integer, so that a test for room is one subtraction.

Each resource has a field of bits, with one bit more on top, the guard, that is always set.  A
cost is subtracted from what is free; where a field has too little, it borrows its guard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from handoff_dask.placement.amounts import THREAD, amounts_of
from handoff_dask.placement.ledger import Ledger, scarce_in
from handoff_dask.placement.requests import ResourceRequest
from handoff_dask.placement.strategies import Score, ScoredStrategy
from handoff_dask.placement.to_come import names_in
from handoff_dask.resources import Cost
from handoff_dask.simulation.problem import Problem, SimulatedFunction


class Rooms:
    """The nodes, in name order, and the kinds of functions that ask for room there."""

    def __init__(self, problem: Problem) -> None:
        self._nodes = sorted(problem.nodes, key=lambda node: node.name)
        kinds: dict[object, int] = {}
        firsts: list[SimulatedFunction] = []
        #: The kind of each function: those of one cost, pin and collocation group are alike.
        self.kind: list[int] = []
        for function in problem.functions:
            key = (function.cost, function.pin, function.group)
            known = kinds.setdefault(key, len(kinds))
            if known == len(firsts):
                firsts.append(function)
            self.kind.append(known)
        #: What each kind takes, each node has, and all guards.
        self.cost, self.total, self.guard = self._packed([f.cost for f in firsts])
        #: The nodes that could hold each kind when idle.
        self.able = [self._able(function, problem) for function in firsts]
        #: The collocation group of each kind.
        self.group = [function.group for function in firsts]
        strategy = problem.strategy
        #: ``[(the nodes that have something, the kinds that ask for it)]``, of what only some nodes have:
        #: these are spared by other kinds as long as functions are still to come that ask for it.
        self.spared = self._scarce([f.cost for f in firsts]) if strategy.spares_nodes else []
        self.is_by_name = strategy.is_by_name
        #: ``score(kind, node, what is free there)``; None if names alone decide.
        self.score = None if self.is_by_name else self._scoring(strategy, [f.cost for f in firsts])

    def bound_s(self, durations: Sequence[float]) -> float:
        """The seconds that the functions take at least if all nodes were one."""
        most = 0.0
        for name, step, at, mask in self._fields:
            has = sum(node.capabilities.amounts.get(name, 0) for node in self._nodes)
            if name == THREAD or not has:
                continue
            asked = [(cost >> at & mask) * step for cost in self.cost]
            most = max(most, sum(asked[k] * d for k, d in zip(self.kind, durations, strict=True)) / has)
        return most

    def lacking(self, kind: int, where: int, free: int) -> float:
        """How much of a node has yet to be freed for a kind, in shares of what it has."""
        missing, asked, total = 0.0, self.cost[kind], self.total[where]
        for _, _, at, mask in self._fields:
            short = (asked >> at & mask) - (free >> at & mask)
            if short > 0:
                missing += short / (total >> at & mask)
        return missing

    def _packed(self, costs: Sequence[Cost]) -> tuple[list[int], list[int], int]:
        """Costs and nodes as integers."""
        asked = [dict(amounts_of(cost)) for cost in costs]
        had = [{THREAD: node.threads, **node.capabilities.amounts} for node in self._nodes]
        #: ``[(resource, units in one step, where its field begins, a mask of its width)]``.
        self._fields: list[tuple[str, int, int, int]] = []
        guard = bit = 0
        for name in dict.fromkeys(name for amounts in asked for name in amounts):
            step = math.gcd(*(a[name] for a in asked if name in a)) or 1
            most = max(h.get(name, 0) for h in (*had, *asked)) // step
            width = most.bit_length()
            self._fields.append((name, step, bit, (1 << width) - 1))
            bit += width
            guard |= 1 << bit
            bit += 1

        def pack(amounts: dict[str, int]) -> int:
            return sum(amounts.get(name, 0) // step << at for name, step, at, _ in self._fields)

        return [pack(a) for a in asked], [pack(h) | guard for h in had], guard

    def _able(self, function: SimulatedFunction, problem: Problem) -> list[int]:
        costs = [function.cost]
        pins = [function.pin]
        if function.group is not None and function.group in problem.groups:
            costs.append(problem.groups[function.group].cost)
            pins.append(problem.groups[function.group].pin)
        return [
            n
            for n, node in enumerate(self._nodes)
            if node.threads > 0
            and all(pin in (None, node.name) for pin in pins)
            and all(node.capabilities.could_hold(cost) for cost in costs)
        ]

    def _scarce(self, costs: Sequence[Cost]) -> list[tuple[frozenset[int], frozenset[int]]]:
        has = [scarce_in(node.capabilities) for node in self._nodes]
        uneven = frozenset[str]().union(*has).difference(frozenset.intersection(*has)) if has else ()
        asked = [names_in(cost) for cost in costs]
        return [
            (
                frozenset(where for where, names in enumerate(has) if name in names),
                frozenset(kind for kind, names in enumerate(asked) if name in names),
            )
            for name in sorted(uneven)
        ]

    def _scoring(self, strategy: ScoredStrategy, costs: Sequence[Cost]) -> Callable[[int, int, int], Score]:
        """The strategy's scores, each worked out once for the same room."""
        ledger = Ledger()
        nodes = [ledger.join(n.name, None, n.capabilities, n.threads) for n in self._nodes]
        requests = [ResourceRequest(cost) for cost in costs]
        known: dict[tuple[int, int, int], Score] = {}
        total, fields = self.total, self._fields

        def score(kind: int, where: int, free: int) -> Score:
            found = known.get((kind, where, free))
            if found is None:
                node = nodes[where]
                for name, step, at, mask in fields:
                    taken = (total[where] >> at & mask) - (free >> at & mask)
                    node.free[name] = node.total.get(name, 0) - taken * step
                found = known[kind, where, free] = strategy.score(node, requests[kind])
            return found

        return score
