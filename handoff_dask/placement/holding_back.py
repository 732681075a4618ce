"""Holding back: what adds data waits while what would free data waits for something scarce.

Where producers and consumers ask for the same, the order of functions keeps memory low.  Where consumers wait
for something that producers do not ask for (one GPU, say), producers would go on for as long as there is room
for them, and their results would fill the memory.  So of each run a function that frees no data is held back
while two things hold:

1. Functions wait that free data, and ask for something that it does not ask for.
2. These and the functions of the run that are placed are as many as there are threads: as many results as an
   order without anything scarce would have in memory.

What is scarce does not idle for it, since those that wait for it are there.  Nothing is held back for ever:
as long as something is, others of its run can go on without it.
"""

from __future__ import annotations

from collections.abc import Sized
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from handoff_dask.placement.amounts import THREAD
from handoff_dask.placement.ledger import Ledger

#: So many of a run's requests are looked at: it bounds the work for one function.
_LOOKS = 64


class Request(Protocol):
    """A resource request, as far as it matters here."""

    #: Names of everything that is asked for.
    wanted: frozenset[str]

    @property
    def eligible(self) -> Sized:
        """The nodes that could hold it."""


class Line(Protocol):
    """A queue, as far as it matters here."""

    @property
    def request(self) -> Request:
        """What its functions ask for."""

    def head(self) -> Any:
        """The place of the first in order, whose last part is the function."""


AnyLine = TypeVar("AnyLine", bound=Line)


class HoldingBack(Generic[AnyLine]):
    """What is held back of one run."""

    __slots__ = ("_ledger", "placed", "queues", "waiting")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        #: ``{request: how many functions wait that ask for it and free data}``.
        self.waiting: dict[Request, int] = {}
        #: How many functions of the run are placed.
        self.placed = 0
        #: Queues whose heads were held back when they were last looked at.
        self.queues: dict[AnyLine, None] = {}

    def waits(self, request: Request) -> None:
        """A function waits that frees data."""
        self.waiting[request] = self.waiting.get(request, 0) + 1

    def waits_no_more(self, request: Request) -> None:
        """A function that frees data has been placed, or is not wanted."""
        left = self.waiting[request] - 1
        if left:
            self.waiting[request] = left
        else:
            del self.waiting[request]

    def holds(self, queue: AnyLine) -> bool:
        """Whether the head of a queue is held back; it is to be looked at again then."""
        if not self.waiting:
            return False
        order_key = queue.head()
        if order_key is None or order_key[3].frees or self.count(queue) < self.limit:
            return False
        self.queues[queue] = None
        return True

    def count(self, queue: AnyLine) -> int:
        """The functions that wait for something scarce, and those that are placed; 0 if none waits so."""
        own = queue.request.wanted
        waiting = sum(
            number
            for request, number in islice(self.waiting.items(), _LOOKS)
            if request.eligible and not request.wanted <= own
        )
        return waiting + self.placed if waiting else 0

    @property
    def limit(self) -> int:
        """So many threads there are."""
        return self._ledger.totals().get(THREAD, 0)

    def released(self) -> list[AnyLine]:
        """Take out the queues whose heads are held back no longer."""
        found = []
        for queue in list(self.queues):
            del self.queues[queue]
            if not self.holds(queue):
                found.append(queue)
        return found
