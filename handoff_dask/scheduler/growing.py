"""Costs that grow: a function that ran out of memory claims more the next time."""

from __future__ import annotations

import re
from typing import Any

from handoff_dask.resources import Capabilities, Cost, amount_of
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.runs import FunctionState, RunState

#: What exceptions are called, as text, that tell of a want of memory.
_MEMORY = re.compile(r"[\w.]*(MemoryError|MemoryExceededError)\b")


class GrowingCosts:
    """Works out what the next attempt of a function claims.

    Parameters
    ----------
    nodes
        What is known of workers.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def grown(self, function: FunctionState) -> tuple[dict[str, Any], str] | None:
        """Let the cost of a function grow if its last attempt ran out of memory.

        Returns
        -------
        tuple or None
            What it claims from now on, and why that cannot be more (``""`` if it can).
        """
        run, position, attempt = function.run, function.position, function.attempt
        growth = run.manifest.growth.get(position)
        if growth is None or attempt is None or attempt.has_grown or not _MEMORY.match(attempt.raised_text):
            return None
        demand = run.demand(position)
        if demand.group is not None:
            # What its node must be able to hold has been worked out for the whole group.
            return None
        attempt.has_grown = True
        amounts, limits = dict(demand.cost.amounts), []
        for name, (factor, upto) in growth.items():
            wanted, most = int(amounts[name] * factor), self._most(run, name)
            if upto is not None and wanted >= upto:
                wanted = upto
                limits.append(f"{name} grows up to {amount_of(upto)} only")
            if wanted >= most:
                wanted = max(most, amounts[name])
                limits.append(f"no node has more {name} than {amount_of(most)}")
            amounts[name] = wanted
        cost = Cost(tuple(sorted(amounts.items())), demand.cost.labels)
        run.grow(position, cost)
        return cost.to_amounts(), "; ".join(limits)

    def _most(self, run: RunState, name: str) -> int:
        """The most that any node has, of those that the run may use."""
        offers = self._nodes.offers(shared=True)
        confined = self._nodes.by_names(run.manifest.options.nodes)
        if confined is not None:
            offers = {
                node: offers[node].confined(limit) for node, limit in confined.items() if node in offers
            }
        return max((_amount(offer, name) for offer in offers.values()), default=0)


def _amount(offer: Capabilities, name: str) -> int:
    return offer.amounts.get(name, 0)
