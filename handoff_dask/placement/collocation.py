"""Functions that must share a node: a group gets its node once, as a whole."""

from __future__ import annotations

from collections.abc import Iterator

from handoff_dask.placement.demand import Demand, GroupKey
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.requests import ResourceRequest


class Group:
    """Functions of one run that must share a node.

    The node is chosen when the first of them is placed, or a function that binds the group,
    among those that could hold any of the members when idle.  If that node goes, the group is
    free again.
    """

    __slots__ = ("key", "node", "pin", "request")

    def __init__(self, key: GroupKey, demand: Demand, request: ResourceRequest) -> None:
        self.key = key
        #: Name or address of the only node that will do.
        self.pin = demand.pin
        #: What its node must be able to hold: each of the members.
        self.request = request
        #: The node it is bound to.
        self.node: Node | None = None

    def can_be_bound(self) -> bool:
        """Whether it has a node, or there is one to be had now: none that is being restarted."""
        return self.node is not None or any(node.present for node in self._able())

    def is_possible(self) -> bool:
        """Whether it has a node, or some node could hold it once that is back."""
        return self.node is not None or any(True for _ in self._able())

    def _able(self) -> Iterator[Node]:
        for node in self.request.eligible.values():
            if self.pin in (None, node.name, node.address):
                yield node
