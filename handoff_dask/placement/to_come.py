"""What functions still to come ask for: nodes that have it are spared by those that do not ask for it.

A function is still to come until it is placed.  What every node has, or none, is no reason to spare a
node, so only names count in which nodes differ.  The work per event is that of the names in one cost, and
only where the last function that asks for something has gone, or the first has come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from handoff_dask.placement.demand import RunKey
from handoff_dask.placement.ledger import Ledger
from handoff_dask.resources import Cost


class Asking(Protocol):
    """A resource request, as far as it matters here."""

    #: Names of everything that is asked for; how many functions wait that ask for it.
    wanted: frozenset[str]
    waiting: int


class ToCome:
    """The names of what functions still to come ask for, as far as nodes differ in it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        #: What is asked for by functions to come, and not on every node; the version changes with it.
        self.names: frozenset[str] = frozenset()
        self.version = 0
        #: Names of what some nodes have and others have not, and for which shape of the ledger that is so.
        self._uneven: frozenset[str] = frozenset()
        self.found_for = -1
        #: ``{run: {cost: how many of its functions have yet to become ready}}``.
        self._left: dict[RunKey, dict[Cost, int]] = {}
        #: ``{name: by how many of these costs, and requests of which functions wait, it is asked for}``.
        self._counts: Counter[str] = Counter()

    def opened(self, run: RunKey, costs: Mapping[Cost, int]) -> None:
        """A run has begun with so many functions of each cost."""
        if costs:
            self._left[run] = dict(costs)
            for cost in costs:
                self._count(names_in(cost), 1)

    def closed(self, run: RunKey) -> None:
        """A run is over."""
        for cost in self._left.pop(run, ()):
            self._count(names_in(cost), -1)

    def waits(self, run: RunKey, request: Asking, cost: Cost) -> None:
        """A function waits for room."""
        request.waiting += 1
        if request.waiting == 1 and self._uneven:
            self._count(request.wanted, 1)
        if run in self._left and cost in (left := self._left[run]):
            left[cost] -= 1
            if not left[cost]:
                del left[cost]
                self._count(names_in(cost), -1)

    def waits_no_more(self, request: Asking) -> None:
        """A function has been placed, or is not wanted."""
        request.waiting -= 1
        if not request.waiting and self._uneven:
            self._count(request.wanted, -1)

    def review(self, requests: Iterable[Asking]) -> None:
        """Count anew: nodes have come, gone or changed."""
        self.found_for = self._ledger.shape
        has = [node.scarce for node in self._ledger.nodes.values()]
        uneven = frozenset[str]().union(*has).difference(frozenset.intersection(*has)) if has else frozenset()
        if uneven != self._uneven:
            self._uneven = uneven
            self._counts.clear()
            for request in requests:
                if request.waiting:
                    self._count(request.wanted, 1)
            for left in self._left.values():
                for cost in left:
                    self._count(names_in(cost), 1)
            self._renew()

    def _count(self, names: Collection[str], by: int) -> None:
        if not self._uneven or self._uneven.isdisjoint(names):
            return
        changed = False
        for name in self._uneven.intersection(names):
            self._counts[name] += by
            changed = changed or self._counts[name] == max(by, 0)
        if changed:
            self._renew()

    def _renew(self) -> None:
        self.names = frozenset(name for name, count in self._counts.items() if count)
        self.version += 1

    def remembers(self) -> int:
        """How many runs have functions that have yet to become ready; for tests."""
        return len(self._left)


def names_in(cost: Cost) -> frozenset[str]:
    """The names of everything that a cost asks for."""
    return frozenset([*(n for n, _ in cost.amounts), *(n for n, _ in cost.labels)])
