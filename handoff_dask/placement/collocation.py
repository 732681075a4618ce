"""Functions that must share a node: a group gets its node once, as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from handoff_dask.placement.events import Demand, GroupKey

if TYPE_CHECKING:
    from handoff_dask.placement.ledger import Node
    from handoff_dask.placement.queues import Queue
    from handoff_dask.placement.runs import Run
    from handoff_dask.placement.shapes import Shape


class Group:
    """Functions of one run that must share a node.

    The node is chosen when the first of them is placed, or a function that binds the group,
    among those that could hold any of the members when idle.  If that node goes, the group is
    free again.
    """

    __slots__ = ("key", "node", "pin", "queues", "run", "shape")

    def __init__(self, run: Run, key: GroupKey, demand: Demand, shape: Shape) -> None:
        self.run = run
        self.key = key
        #: Name or address of the only node that will do.
        self.pin = demand.pin
        #: What its node must be able to hold: each of the members.
        self.shape = shape
        #: The node it is bound to.
        self.node: Node | None = None
        #: Queues of its members.
        self.queues: dict[Queue, None] = {}

    def can_be_bound(self) -> bool:
        """Whether it has a node, or there is one to be had now: none that is being restarted."""
        return self.node is not None or any(node.present for node in self._able())

    def is_possible(self) -> bool:
        """Whether it has a node, or some node could hold it once that is back."""
        return self.node is not None or any(True for _ in self._able())

    def _able(self) -> Iterator[Node]:
        for node in self.shape.holders.values():
            if self.pin in (None, node.name, node.address):
                yield node

    def bind(self, node: Node) -> None:
        """Give the group its node."""
        self.node = node
        node.groups[self] = None

    def unbind(self) -> None:
        """Take its node away."""
        if self.node is not None:
            self.node.groups.pop(self, None)
            self.node = None
