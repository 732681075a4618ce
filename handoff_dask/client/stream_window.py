"""The window of a pipeline: which items are inside, and which comes out next.

Pure: no Dask, no clock, no threads.  Values are opaque.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any


class Window:
    """Numbers items, limits how many are inside, and puts results in order.

    An item is inside from its push until its result is taken.

    Parameters
    ----------
    constant_sinks
        For each value that leaves, whether it comes once and serves every item.
    max_in_flight
        Items inside at most.
    ordered
        Whether results are taken in the order of pushing, not as they come.
    """

    def __init__(self, constant_sinks: Sequence[bool], max_in_flight: int, ordered: bool) -> None:
        self._is_constant = tuple(constant_sinks)
        self._per_item = constant_sinks.count(False)
        self._constants: dict[int, Any] = {}
        self.max_in_flight = max_in_flight
        self._ordered = ordered
        #: The number that the next item gets.
        self.next = 0
        #: What was pushed and has not come out at the other end, by number.
        self.unfinished: dict[int, Any] = {}
        #: Values that have come of unfinished items, by sink.
        self._partial: dict[int, dict[int, Any]] = {}
        self._finished: dict[int, dict[int, Any]] = {}
        #: Items that wait for a value that serves every item.
        self._lacking: list[int] = []
        self._order: deque[int] = deque()
        self._next_out = 0
        self._low = 0
        #: Items that have come out, all in all.
        self.out = 0

    @property
    def inside(self) -> int:
        """Items that were pushed and whose results were not taken."""
        return len(self.unfinished) + len(self._finished)

    @property
    def has_room(self) -> bool:
        """Whether one more item may come in."""
        return self.inside < self.max_in_flight

    @property
    def watermark(self) -> int:
        """All items with smaller numbers have come out at the other end."""
        while self._low < self.next and self._low not in self.unfinished:
            self._low += 1
        return self._low

    def done_above(self) -> list[int]:
        """Items above the watermark that have come out all the same."""
        return [n for n in range(self.watermark, self.next) if n not in self.unfinished]

    def push(self, item: Any) -> int:
        """Take an item in; its number."""
        number, self.next = self.next, self.next + 1
        self.unfinished[number] = item
        self._partial[number] = {}
        if self._per_item == 0:
            self._complete(number)
        return number

    def arrive(self, number: int, sink: int, value: Any) -> bool:
        """A value has left the last stage; whether its item is complete by that, and was not before."""
        values = self._partial.get(number)
        if values is None or sink in values:
            return False
        values[sink] = value
        if len(values) < self._per_item:
            return False
        return self._complete(number)

    def constant(self, sink: int, value: Any) -> list[int]:
        """A value that serves every item has come; the items that it completes."""
        self._constants.setdefault(sink, value)
        if len(self._constants) + self._per_item < len(self._is_constant):
            return []
        lacking, self._lacking = self._lacking, []
        return [number for number in lacking if self._complete(number)]

    def _complete(self, number: int) -> bool:
        if len(self._constants) + self._per_item < len(self._is_constant):
            self._lacking.append(number)
            return False
        del self.unfinished[number]
        self._finished[number] = self._partial.pop(number)
        if not self._ordered:
            self._order.append(number)
        return True

    def values(self, number: int) -> list[Any]:
        """What has come of an item that is complete and was not taken."""
        return list(self._finished[number].values())

    def take(self) -> tuple[int, list[Any]] | None:
        """The next result, as the values of all sinks; ``None`` if it is not there."""
        if self._ordered:
            if self._next_out not in self._finished:
                return None
            number = self._next_out
        elif self._order:
            number = self._order.popleft()
        else:
            return None
        self._next_out += 1
        self.out += 1
        values = {**self._constants, **self._finished.pop(number)}
        return number, [values[sink] for sink in range(len(self._is_constant))]
