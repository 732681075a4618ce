"""The record of one prefetch queue: short functions that follow each other on one node."""

from __future__ import annotations

from handoff_dask.placement.amounts import Amounts
from handoff_dask.placement.shared import SharedAmounts


class PrefetchQueue:
    """Functions of one queue that follow each other on one node, so many at a time."""

    __slots__ = ("amounts", "booked", "expected_s", "low", "node", "number", "outstanding", "shared", "slots")

    def __init__(
        self, node: str, amounts: Amounts, number: int, slots: int, shared: SharedAmounts = ()
    ) -> None:
        #: The node's name.
        self.node = node
        #: What each of its functions takes.
        self.amounts = amounts
        #: And of what the whole cluster shares.
        self.shared = shared
        #: Which of the node's prefetch queues it is.
        self.number = number
        #: How many of its functions run at once.
        self.slots = slots
        #: Functions in it.
        self.outstanding = 0
        #: How many of them the ledger has booked: no more than slots.
        self.booked = 0
        #: How long they take together, as far as expected.
        self.expected_s = 0.0
        #: With so many functions left it is filled up again.
        self.low = slots

    def add(self, duration_s: float | None) -> None:
        """Let a function follow."""
        self.outstanding += 1
        self.expected_s += duration_s or 0.0

    def fullness(self) -> float:
        """Functions per slot."""
        return self.outstanding / self.slots
