"""Shared resources: what the whole cluster has of something, wherever functions run.

Licences, say, or connections to one server.  A function whose cost names one holds it beside what it
holds of its node.  Smaller functions may pass one that asks for more than is left.  So for one that has
waited too long the resource is *kept*: until it starts, others get only what it does not need.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeAlias

from handoff_dask.placement.amounts import Amounts

#: ``((resource, units), …)``: what a function takes of shared resources.
SharedAmounts: TypeAlias = "tuple[tuple[SharedResource, int], ...]"


class Waiting(Protocol):
    """A queue of functions, as far as it matters here."""

    @property
    def user_priority(self) -> float:
        """The user's priority of its head."""


class SharedResource:
    """One shared resource: how much there is, and how much is left."""

    __slots__ = ("free", "kept_for", "kept_priority", "kept_units", "name", "total")

    def __init__(self, name: str, total: int) -> None:
        self.name = name
        #: Units there are, and units nobody holds: below 0 if there are fewer than before.
        self.total = self.free = total
        #: The queue for which it is kept, how many units, and at which priority of the user's.
        self.kept_for: Waiting | None = None
        self.kept_units = 0
        self.kept_priority = 0.0

    def admits(self, queue: Waiting, units: int) -> bool:
        """Whether a function of a queue may take so much now."""
        left = self.free - units
        if left < 0:
            return False
        if self.kept_for is None or self.kept_for is queue or left >= self.kept_units:
            return True
        return queue.user_priority > self.kept_priority

    def keep(self, queue: Waiting, units: int) -> None:
        """Keep it for a queue whose head has waited too long."""
        self.kept_for, self.kept_units, self.kept_priority = queue, units, queue.user_priority


class SharedResources:
    """All shared resources, by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, SharedResource] = {}
        #: Of which more may be left than when this was last emptied.
        self.freed: dict[SharedResource, None] = {}

    def set(self, name: str, units: int) -> bool:
        """Say how much there is; whether the name is new."""
        known = self.by_name.get(name)
        if known is None:
            self.by_name[name] = known = SharedResource(name, units)
            self.freed[known] = None
            return True
        known.free += units - known.total
        known.total = units
        self.freed[known] = None
        return False

    def split(self, amounts: Amounts) -> tuple[Amounts, SharedAmounts]:
        """What is taken of a node, and what of shared resources."""
        if not self.by_name:
            return amounts, ()
        of_node = tuple((name, units) for name, units in amounts if name not in self.by_name)
        shared = tuple((self.by_name[name], units) for name, units in amounts if name in self.by_name)
        return of_node, shared

    def take(self, amounts: SharedAmounts) -> None:
        """Book; whether there is enough is the caller's concern."""
        for resource, units in amounts:
            resource.free -= units

    def give_back(self, amounts: SharedAmounts) -> None:
        """Return what was booked."""
        for resource, units in amounts:
            resource.free += units
            self.freed[resource] = None

    def let_go(self, queue: Waiting, amounts: SharedAmounts) -> None:
        """Keep nothing for a queue any longer."""
        for resource, _ in amounts:
            if resource.kept_for is queue:
                resource.kept_for = None
                self.freed[resource] = None

    def check(self, held: Iterable[SharedAmounts]) -> None:
        """Assert that what is left is what the claims leave."""
        left = {resource: resource.total for resource in self.by_name.values()}
        for amounts in held:
            for resource, units in amounts:
                left[resource] -= units
        assert left == {resource: resource.free for resource in self.by_name.values()}

    def levels(self) -> Mapping[str, tuple[int, int]]:
        """``{name: (units there are, units that are held)}``, by name."""
        return {name: (r.total, r.total - r.free) for name, r in sorted(self.by_name.items())}
